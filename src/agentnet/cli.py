"""The command ``agentnet``.

Every command prints what a person reads, or with ``--json`` what a program does, on stdout; progress and
errors go to stderr. Exit codes: 0 done, 1 failed, 2 called wrongly, 3 ended by force, since
something would not stop in time, 128 + N ended by signal N.
What a command needs is imported when it runs, so that ``--help`` is quick.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import click

from agentnet import (
    AgentNetworkManager,
    ConfigError,
    DeadLetter,
    JoinFailed,
    Member,
    NetworkConfig,
    NetworkError,
    NodeStatus,
    __version__,
)
from agentnet.app import App, Stopped, load_app, load_object, run_until_stopped, serve
from agentnet.tables import make_table, print_all, printable
from agentnet_core.config import check_name

FORCED_EXIT_CODE = 3
ROUND_TRIP_LOOKS_MAX = 100
"""Who lists a network waits for the first answer of each node: one second, a hundredth at a time."""
GRACE_S = 2.0
"""What ending may take beyond ``leave_ms_max``."""
JOIN_HINT = "--join takes the address of a node that runs, and `agentnet run` without it starts a network"

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for a program to read.")
config_option = click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Settings of the node (TOML, table [agentnet]); AGENTNET_* variables go before it.",
)
network_option = click.option("--network", default="default", show_default=True, help="Name of the network.")
directory_option = click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("certs"),
    show_default=True,
    help="Where the authority and the certificates are kept.",
)


class BadSetting(click.ClickException):
    """As a wrong option: exit code 2."""

    exit_code = 2


class Commands(click.Group):
    """Turns our errors into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Stopped as stopped:
            click.echo(f"agentnet: {stopped}", err=True)
            ctx.exit(128 + stopped.signum)
        except NetworkError as error:
            hint = f"; {JOIN_HINT}" if isinstance(error, JoinFailed) else ""
            kind = BadSetting if isinstance(error, ConfigError) else click.ClickException
            raise kind(f"{error}{hint}") from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="agentnet")
def main() -> None:
    """Agents that find each other and talk, on as many machines as there are."""
    for stream in (sys.stdout, sys.stderr):
        # A word or a path may hold what the terminal's encoding has no letter for.
        getattr(stream, "reconfigure", lambda **_: None)(errors="replace")


def print_json(value: Any) -> None:
    click.echo(json.dumps(value))


# -- demo


@main.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--nodes", type=click.IntRange(1, 64), default=4, show_default=True, help="Worker processes.")
@click.option("--agents", type=click.IntRange(1, 64), default=2, show_default=True, help="Agents of each.")
@click.option("--top", type=click.IntRange(0), default=10, show_default=True, help="Most common words shown.")
@click.option(
    "--letters", type=click.IntRange(1), default=4, show_default=True, help="Letters that they have."
)
@json_option
def demo(files: tuple[Path, ...], nodes: int, agents: int, top: int, letters: int, as_json: bool) -> None:
    """Count the words of FILES with agents on several processes.

    FILES may be directories; without any, it is this project's own text. Worker processes start on this
    machine, each a node with a few agents that can "index". Pieces of the files go to them as requests, and
    a table tells what each agent did. What is no UTF-8 text is named, and not counted. Kill a worker while
    it runs, and the others do its work.

    Exit code 1 if a file could not be read, or if nobody was left to work.
    """
    from agentnet.demo import run_demo
    from agentnet.demo.show import document, progress, show

    with progress() as watch:
        summary = run_until_stopped(run_demo(files, nodes, agents, watch))
    if as_json:
        print_json(document(summary, top, letters))
    else:
        show(summary, top, letters)
    click.get_current_context().exit(1 if summary.failed else 0)


# -- run


@main.command("run")
@click.argument("app", metavar="MODULE:APP")
@config_option
@click.option("--join", multiple=True, metavar="ADDR", help="A node of the network to join; may be repeated.")
@click.option("--listen", multiple=True, metavar="ADDR", help="Where to listen; may be repeated.")
@click.option(
    "--node-id", metavar="ID", help="Name of this node; else its certificate's, or the host's name."
)
@json_option
def run_app(
    app: str,
    config: Path | None,
    join: tuple[str, ...],
    listen: tuple[str, ...],
    node_id: str | None,
    as_json: bool,
) -> None:
    """Run your agents as a node, in the foreground.

    APP is a function that takes the manager, or a manager that has not joined yet. A plain function is called
    before the node joins and declares agents with @net.agent; an async one is awaited after it joined. In
    workers.py:

    \b
        def setup(net):
            @net.agent("shouter", capabilities=["shout"])
            async def shout(text: str) -> str:
                return text.upper()

    \b
        agentnet run workers:setup --listen tcp://127.0.0.1:7400
        agentnet run workers:setup --join tcp://127.0.0.1:7400

    A manager keeps the settings that it was made with, but for what the options say. Without --join the node
    starts a network. One line on stdout tells when it is ready and where others reach it; logs go to stderr.
    SIGINT (Ctrl-C) or SIGTERM lets it leave, within leave_ms_max; a second one ends it at once. If a handler
    would not stop, such as a function in a thread, the process ends all the same, a little later, with exit
    code 3, and stderr tells which agents it was.
    """
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    loaded = load_app(app)
    net = _manager(loaded, config, listen, node_id)
    on_ready = _print_ready_json if as_json else _print_ready
    with _end_in_time(net) as on_stop, contextlib.suppress(Stopped):  # it was asked to leave, and it left
        run_until_stopped(serve(loaded, net, join, on_ready), on_stop)


@contextlib.contextmanager
def _end_in_time(net: AgentNetworkManager) -> Iterator[Callable[[], object]]:
    """Gives what to call when the node is asked to stop; the process has ended soon after its deadline.

    Its event loop may be blocked, or wait for a task that is not to be cancelled; and the interpreter
    would wait for every thread.
    """
    orders: SimpleQueue[float | None] = SimpleQueue()  # the one whose `put` may be called in a signal handler

    def watch() -> None:
        seconds = orders.get()
        if seconds is not None:
            try:
                orders.get(timeout=seconds)
            except Empty:
                _give_up(net)

    before = set(threading.enumerate())
    threading.Thread(target=watch, name="watchdog", daemon=True).start()
    try:
        yield lambda: orders.put(net.config.leave_ms_max / 1000 + GRACE_S)
    finally:
        orders.put(None)
    deadline = time.monotonic() + GRACE_S
    for thread in set(threading.enumerate()) - before:
        if not thread.daemon:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                _give_up(net)


def _give_up(net: AgentNetworkManager) -> None:
    """End the process, whatever runs in it still."""
    import logging

    agents = net.unfinished()
    what = f"agents {', '.join(agents)}" if agents else "something other than its agents"
    text = f"agentnet: node {net.node_id} was ended by force, as {what} would not stop"

    def tell() -> None:
        print(text, file=sys.stderr, flush=True)
        logging.shutdown()
        sys.stdout.flush()

    # In a thread: whatever holds up the program may hold a stream's lock.
    telling = threading.Thread(target=tell, daemon=True)
    telling.start()
    telling.join(GRACE_S)
    os._exit(FORCED_EXIT_CODE)


def _manager(
    app: App, config_file: Path | None, listen: tuple[str, ...], node_id: str | None
) -> AgentNetworkManager:
    """The manager that ``app`` is, or that it is given, with what the options say."""
    if isinstance(app, AgentNetworkManager):
        net = app
        if config_file is not None:
            net.config = NetworkConfig.load(config_file)
        if node_id is not None:
            net.node_id = check_name("node", node_id)
    else:
        config = NetworkConfig.load(config_file)
        net = AgentNetworkManager(node_id or _default_node_id(config), config)
    if listen:
        net.config = dataclasses.replace(net.config, listen=listen)
    return net


def _default_node_id(config: NetworkConfig) -> str:
    """The certificate's; else the host's name, with the process id if nothing of the node is kept."""
    if config.certificate is not None:
        from agentnet.certs import read_identity

        return read_identity(config.certificate)[1]
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:40] or "node"
    return host if config.data_dir is not None else f"{host}-{os.getpid()}"


def _print_ready(net: AgentNetworkManager) -> None:
    where = ", ".join(net.addresses) or "no address, as it does not listen"
    agents = ", ".join(_own_agents(net)) or "none"
    click.echo(f"node {net.node_id} of network {net.config.network} at {where}; agents: {agents}")


def _print_ready_json(net: AgentNetworkManager) -> None:
    print_json(
        {
            "node": net.node_id,
            "network": net.config.network,
            "addresses": net.addresses,
            "agents": _own_agents(net),
            "pid": os.getpid(),
        }
    )


def _own_agents(net: AgentNetworkManager) -> list[str]:
    return [agent.name or str(agent.agent_id) for agent in net.agents() if agent.node_id == net.node_id]


# -- agents, members


@main.command()
@click.option("--join", multiple=True, required=True, metavar="ADDR", help="A node of the network.")
@click.option("--capability", metavar="NAME", help="Only agents that have it.")
@config_option
@json_option
def agents(join: tuple[str, ...], capability: str | None, config: Path | None, as_json: bool) -> None:
    """List the agents of a network."""
    rows = _observe(join, config, lambda net: [dataclasses.asdict(agent) for agent in net.agents(capability)])
    for row in rows:
        row["name"] = row["name"] or ""
    _print_rows(rows, ("name", "agent_id", "node_id", "status", "health", "capabilities"), as_json)


@main.command()
@click.option("--join", multiple=True, required=True, metavar="ADDR", help="A node of the network.")
@config_option
@json_option
def members(join: tuple[str, ...], config: Path | None, as_json: bool) -> None:
    """List the nodes of a network."""
    rows = _observe(join, config, lambda net: [dataclasses.asdict(m) for m in _others(net)])
    columns = ["node_id", "status", "rtt_ms", "load", "liveness", "addresses", "plaintext"]
    if any(row["lag_ms"] for row in rows):
        columns.insert(2, "lag_ms")
    if any(row["relay"] for row in rows):
        columns.insert(2, "relay")
    _print_rows(rows, columns, as_json)


def _others(net: AgentNetworkManager) -> list[Member]:
    return [member for member in net.members() if member.node_id != net.node_id]


def _observe(
    join: Sequence[str], config_file: Path | None, look: Callable[[AgentNetworkManager], list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Join as a node that does not listen, look once every link has made a round trip, and leave."""
    config = dataclasses.replace(NetworkConfig.load(config_file), listen=(), advertise=(), data_dir=None)

    async def observe() -> list[dict[str, Any]]:
        async with AgentNetworkManager(_default_node_id(config), config) as net:
            await net.join_network(join)
            for _ in range(ROUND_TRIP_LOOKS_MAX):
                if all(m.proven or m.status is NodeStatus.DISCONNECTED for m in _others(net)):
                    break
                await asyncio.sleep(0.01)
            return look(net)

    return run_until_stopped(observe())


def _print_rows(rows: list[dict[str, Any]], columns: Sequence[str], as_json: bool) -> None:
    if as_json:
        print_json([{**row, "status": row["status"].value} for row in rows])
        return
    table = make_table("", *(f"-{column}" for column in columns))
    for row in rows:
        table.add_row(*(_cell(row[column]) for column in columns))
    print_all([table])


def _cell(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return printable(", ".join(map(str, value)))
    if isinstance(value, float):
        return f"{value:.2f}"
    return printable("" if value is None else str(value.value if isinstance(value, Enum) else value))


# -- dead letters


@main.command("dead-letters")
@click.argument("data_dir", type=click.Path(exists=True, file_okay=False))
@click.argument("numbers", nargs=-1, type=click.IntRange(1))
@click.option("--replay", "what", flag_value="replay", help="Send them again when the node is started.")
@click.option("--purge", "what", flag_value="purge", help="Forget them.")
@json_option
def dead_letters(data_dir: str, numbers: tuple[int, ...], what: str | None, as_json: bool) -> None:
    """List, replay or purge the dead letters of a node that does not run.

    DATA_DIR is where the node keeps what it must not forget. NUMBERS are of the dead letters that are meant;
    without any, it is all of them. Of a node that runs, use net.dead_letters().
    """
    from agentnet.dead import ClosedMail, list_dead, pick

    async def work() -> list[DeadLetter]:
        async with ClosedMail(data_dir) as mail:
            picked = pick(mail.engine, numbers or None)
            letters = [letter for letter in list_dead(mail.engine) if letter.number in set(picked)]
            if what == "replay":
                mail.engine.replay_dead(picked)
            elif what == "purge":
                mail.engine.purge_dead(picked)
            return letters

    letters = asyncio.run(work())
    if as_json:
        print_json([dataclasses.asdict(letter) | {"payload": letter.payload.hex()} for letter in letters])
        return
    table = make_table("", "number", "from", "to", "bytes", "-reason")
    for letter in letters:
        ends = str(letter.from_agent), str(letter.to_agent)
        table.add_row(str(letter.number), *ends, str(len(letter.payload)), printable(letter.reason))
    done = {"replay": "replayed", "purge": "purged", None: "found"}[what]
    print_all([table, f"{len(letters)} {done}"])


# -- sim


@main.command()
@click.argument("scenario", default="storm")
@click.option("--seed", default=0, show_default=True, help="The first seed.")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="How many.")
@click.option("--nodes", type=click.IntRange(2), help="How many nodes there are, else as the scenario says.")
@click.option("--way", help='How the nodes of "starved" starve: "stops" (the default) or "slices".')
@json_option
def sim(scenario: str, seed: int, seeds: int, nodes: int | None, way: str | None, as_json: bool) -> None:
    """Play a SCENARIO in the simulator, once for each seed.

    SCENARIO is "calm", "storm", "partitions" (of every kind, which heal), "starved" (nodes that hardly get to
    run; --way slices: with and without local health), "letters" (what is delivered with a promise), "forest"
    (broadcasts of very many nodes, such as --nodes 10000), or MODULE:FUNCTION, a function of an
    agentnet.sim.World that asserts what must hold. A seed is one history: what failed once fails again. Exit
    code 1 if a seed failed.
    """
    from agentnet.sim.play import play
    from agentnet.sim.scenarios import SCENARIOS

    chosen: object = SCENARIOS.get(scenario)
    if chosen is None:
        if ":" not in scenario:
            raise BadSetting(f"{scenario!r}: expected {', '.join(SCENARIOS)} or MODULE:FUNCTION")
        chosen = load_object(scenario)
    if not callable(chosen):
        raise BadSetting(f"{scenario} is of type {type(chosen).__name__}: expected a function of a World")
    logging.getLogger("agentnet.storage").setLevel(logging.ERROR)  # there, power fails all the time
    failed = 0
    if way is not None and scenario != "starved":
        raise BadSetting(f"--way {way}: expected with starved only")
    options: dict[str, Any] = {} if nodes is None else {"nodes": nodes}
    if way is not None:
        options["way"] = way
    for played in play(chosen, range(seed, seed + seeds), **options):
        failed += played.failure is not None
        if as_json:
            print_json(dataclasses.asdict(played))
            continue
        click.echo(
            f"seed {played.seed}: {'failed' if played.failure else 'ok'}, {played.virtual_s:.1f} virtual s "
            f"in {played.wall_s:.1f} s, {played.steps} steps, trace {played.trace}"
        )
        if played.rows:
            _print_measures(played.rows)
        if played.failure is not None:
            again = "".join(f" --{name} {value}" for name, value in options.items())
            click.echo(
                f"{played.failure}again: agentnet sim {scenario} --seed {played.seed}{again}", err=True
            )
    if failed:
        raise click.ClickException(f"{failed} of {seeds} seeds failed")


def _print_measures(rows: list[dict[str, Any]]) -> None:
    columns = list(rows[0])
    table = make_table("", f"-{columns[0]}", *columns[1:])
    table.box, table.padding = None, (0, 1, 0, 0)  # so that it fits 80 columns
    for row in rows:
        table.add_row(*(_cell("" if row[column] is None else row[column]) for column in columns))
    print_all([table])


# -- certs


@main.group()
def certs() -> None:
    """Make the certificates that nodes need for tls:// addresses."""


@certs.command("init")
@directory_option
@network_option
@click.option("--days", default=3650, show_default=True, help="How long it is valid.")
@json_option
def certs_init(directory: Path, network: str, days: int, as_json: bool) -> None:
    """Make the authority of a network: ca.pem and ca-key.pem."""
    from agentnet.certs import init_authority

    files = init_authority(directory, network, days)
    if as_json:
        print_json({"ca": str(files.ca), "private_key": str(files.private_key)})
        return
    click.echo(f"{files.ca}  every node needs it")
    click.echo(f"{files.private_key}  keep it away from the nodes: whoever has it can be any node")
    click.echo(f"next: agentnet certs issue NODE_ID --directory {directory} --network {network}")


@certs.command("issue")
@click.argument("node_id")
@directory_option
@network_option
@click.option(
    "--host", multiple=True, help="An IP address or host name for other TLS tools; may be repeated."
)
@click.option("--days", default=365, show_default=True, help="How long it is valid.")
@json_option
def certs_issue(
    node_id: str, directory: Path, network: str, host: tuple[str, ...], days: int, as_json: bool
) -> None:
    """Make the certificate and the key of node NODE_ID, signed by the authority of the network."""
    from agentnet.certs import issue_certificate

    issued = issue_certificate(directory, network, node_id, host, days)
    files = {name: str(path) for name, path in issued._asdict().items()}
    if as_json:
        print_json(files)
        return
    click.echo("# for the node's settings file, as in `agentnet run MODULE:APP --config FILE.toml`")
    click.echo("[agentnet]")
    click.echo(f'network = "{network}"')
    for name, path in files.items():
        click.echo(f"{name} = {json.dumps(path)}")  # a string of JSON is one of TOML
