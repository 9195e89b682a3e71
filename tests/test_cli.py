"""The command line: what it prints, how it ends; and that agents run in a notebook as in a program."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
import tomllib
from asyncio.subprocess import Process
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from commands import called, command, end, environment, line
from networks import Cluster, answered, soon

from agentnet import (
    AgentMessage,
    AgentNetworkManager,
    ConfigError,
    Event,
    NetworkConfig,
    NetworkError,
    __version__,
    run,
)
from agentnet.app import load_app, log_event
from agentnet.cli import main

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
WORKERS = """
import asyncio
import time

from agentnet import AgentNetworkManager, NetworkConfig


def setup(net):
    @net.agent("shouter", ["shout"])
    async def shout(text: str) -> str:
        return text.upper()


async def registering(net):
    async def echo(message):
        return message.payload

    await net.register_agent("echo", handler=echo)


async def failing(net):
    raise RuntimeError("no database")


def working(net):
    started, finish = asyncio.Event(), asyncio.Event()

    @net.agent("worker")
    async def work(message):
        started.set()
        await finish.wait()
        return b"done"

    @net.agent("foreman")
    async def wait_until_started(message):
        await started.wait()
        asyncio.get_running_loop().call_later(0.3, finish.set) if message.payload else None


def stubborn(net):
    @net.agent("thread")
    def in_a_thread(message):
        print("begun", flush=True)
        time.sleep(3600)

    @net.agent("task")
    async def keeps_its_cancellation(message):
        print("begun", flush=True)
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                pass

    @net.agent("loop")
    async def blocks_the_loop(message):
        print("begun", flush=True)
        time.sleep(3600)


made = AgentNetworkManager("made", NetworkConfig(listen=[]))


@made.agent("inner")
async def inner(message):
    return b""


class Thing:
    number = 3
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a module of agents."""
    (tmp_path / "crew.py").write_text(WORKERS)
    return tmp_path


async def ready(process: Process) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(await line(process))
    return told


class TestCalling:
    """Called in this process: what is refused, and how."""

    @pytest.fixture(autouse=True)
    def _standing_there(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.chdir(place)
        monkeypatch.setattr(sys, "path", list(sys.path))
        (place / "broken.py").write_text("import missing_thing")
        (place / "unfinished.py").write_text("x = (")
        (place / "wrong.py").write_text("def f():\n    return 1 / 0\n\n\nf()\n")
        (place / "typo.toml").write_text("[agentnet]\nlisten_to = []")
        (place / "empty").mkdir()
        before = set(sys.modules)
        yield
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in ("broken", "crew", "pack", "unfinished", "wrong"):
                del sys.modules[name]

    @staticmethod
    def call(*arguments: str) -> Result:
        return CliRunner().invoke(main, arguments, prog_name="agentnet")

    def test_version(self) -> None:
        assert self.call("--version").output == f"agentnet, version {__version__}\n"

    @pytest.mark.parametrize(
        ("arguments", "code", "told"),
        [
            ("run crew", 2, "expected MODULE:NAME, for example 'workers:setup'"),
            ("run crew.py:setup", 2, "write crew:setup"),
            ("run nobody:setup", 2, "there is no module 'nobody'"),
            ("run crew:sertup", 2, "did you mean 'setup'"),
            ("run crew:Thing", 2, "of type type: expected an AgentNetworkManager, or a function"),
            ("run crew:Thing.number", 2, "of type int: expected an AgentNetworkManager, or a function"),
            ("run broken:setup", 2, r"No module named 'missing_thing' \(at .*broken.py:1\)"),
            ("run unfinished:setup", 2, r"SyntaxError: .* \(unfinished.py, line 1\)"),
            ("run wrong:f", 2, r"ZeroDivisionError: division by zero \(at .*wrong.py:2\)"),
            ("run crew:setup --config nowhere.toml", 2, "nowhere.toml' does not exist"),
            ("run crew:setup --config typo.toml", 2, "unknown setting; the nearest that exists is listen"),
            ("run crew:setup --listen here", 2, "listen 'here': expected SCHEME://HOST:PORT"),
            ("run crew:setup --listen tcp://192.0.2.1:1", 2, "plaintext beyond loopback"),
            ("run crew:setup --node-id a/b", 2, "node 'a/b': expected 1 to 64 of"),
            ("run crew:setup --join tcp://127.0.0.1:1", 1, "`agentnet run` without it starts a network"),
            ("demo nowhere.txt", 2, "'nowhere.txt' does not exist"),
            ("demo empty", 2, "there are no files in empty"),
            ("certs issue a", 2, "make one with `agentnet certs init`"),
            ("agents", 2, "Missing option '--join'"),
        ],
    )
    def test_what_is_wrong_is_told_in_a_line(
        self, arguments: str, code: int, told: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AGENTNET_JOIN_MS_MAX", "200")
        result = self.call(*arguments.split())
        assert result.exit_code == code
        last = result.stderr.strip().splitlines()[-1]
        assert last.startswith("Error: ")
        assert re.search(told, last), last
        assert "Traceback" not in result.output

    def test_certificates(self, place: Path) -> None:
        assert self.call("certs", "init", "--network", "prod").exit_code == 0
        again = self.call("certs", "init", "--network", "prod")
        assert (again.exit_code, "is never overwritten" in again.stderr) == (2, True)
        issued = self.call("certs", "issue", "a", "--network", "prod", "--host", "127.0.0.1")
        (place / "node.toml").write_text(issued.stdout)
        config = NetworkConfig.load(place / "node.toml", {})
        assert config.network == "prod"
        assert config.certificate == str(place / "certs" / "a.pem")
        told = json.loads(self.call("certs", "issue", "b", "--network", "prod", "--json").stdout)
        assert told == {
            "ca": "certs/ca.pem",
            "certificate": "certs/b.pem",
            "private_key": "certs/b-key.pem",
        }

    def test_settings_that_are_printed_are_toml(self, place: Path) -> None:
        assert self.call("certs", "init", "--directory", 'a "b\\c').exit_code == 0
        issued = self.call("certs", "issue", "n", "--directory", 'a "b\\c').stdout
        assert tomllib.loads(issued)["agentnet"]["ca"] == 'a "b\\c/ca.pem'

    def test_an_app_may_lie_deeper(self, place: Path) -> None:
        (place / "pack").mkdir()
        (place / "pack" / "deep.py").write_text("class A:\n    def setup(net): ...")
        assert callable(load_app("pack.deep:A.setup"))


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, agentnet.cli; print([m for m in ('rich', 'cryptography', 'numpy') if m in sys.modules])"
    )

    async def ask() -> bytes:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
        )
        return (await soon(process.communicate()))[0]

    assert run(ask()) == b"[]\n"


@pytest.mark.timeout(120)
class TestRunning:
    async def test_nodes_of_three_kinds_of_app(self, place: Path, cluster: Cluster) -> None:
        async with command("run", "crew:setup", "--node-id", "one", "--json", cwd=place) as one:
            told = await ready(one)
            assert told["node"] == "one"
            assert told["agents"] == ["shouter"]
            assert told["pid"] == one.pid
            join = told["addresses"][0]
            net = cluster.make("here")
            await net.join_network([join])
            assert await soon(net.request("shouter", "hello", reply=str)) == "HELLO"

            async with (
                command("run", "crew:registering", "--join", join, "--json", cwd=place) as two,
                command("run", "crew:made", "--join", join, cwd=place) as three,
            ):
                assert (await ready(two))["agents"] == ["echo"]
                assert await line(three) == (
                    "node made of network default at no address, as it does not listen; agents: inner\n"
                )
                assert await soon(net.request("echo", b"x")) == b"x"
                nodes = [member.node_id for member in net.members()]
                assert {"here", "made", "one"} < set(nodes)
                for process, signum in ((two, signal.SIGTERM), (three, signal.SIGINT)):
                    process.send_signal(signum)
                    done = await end(process)
                    assert (done.code, done.out) == (0, ""), done.err
                    assert "Traceback" not in done.err

            for what, column in (("agents", "shouter"), ("members", "one")):
                seen = await called(what, "--join", join, cwd=place)
                assert (seen.code, seen.err) == (0, "")
                assert column in seen.out
            listed = (await called("agents", "--join", join, "--capability", "shout", "--json")).document
            assert [(agent["name"], agent["node_id"]) for agent in listed] == [("shouter", "one")]

    async def test_options_go_before_what_a_manager_was_made_with(self, place: Path) -> None:
        (place / "node.toml").write_text('network = "other"\n')
        options = ("--config", "node.toml", "--node-id", "x", "--listen", "tcp://127.0.0.1:0")
        async with command("run", "crew:made", *options, "--json", cwd=place) as process:
            told = await ready(process)
            assert (told["node"], told["network"], len(told["addresses"])) == ("x", "other", 1)

    @pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
    async def test_it_leaves_when_its_work_is_done(self, place: Path, cluster: Cluster, loop: str) -> None:
        (place / "without").mkdir()
        (place / "without" / "uvloop.py").write_text("raise ImportError('not here')")
        path = [place / "without"] if loop == "asyncio" else []
        async with command("run", "crew:working", "--json", cwd=place, path=path) as process:
            net = cluster.make("here")
            await net.join_network((await ready(process))["addresses"])
            answer = net.request("worker", b"")
            await soon(net.request("foreman", b"let it end"))
            process.send_signal(signal.SIGTERM)
            assert await soon(answer) == b"done"
            assert (await end(process)).code == 0

    async def test_it_does_not_wait_for_ever(self, place: Path, cluster: Cluster) -> None:
        settings = {"AGENTNET_LEAVE_MS_MAX": "300"}
        async with command("run", "crew:working", "--json", cwd=place, **settings) as process:
            net = cluster.make("here")
            await net.join_network((await ready(process))["addresses"])
            answer = net.request("worker", b"")
            await soon(net.request("foreman", b""))
            process.send_signal(signal.SIGINT)
            with pytest.raises(NetworkError):
                await soon(answer)
            done = await end(process)
            assert done.code == 0
            assert "has left: messages stopped 1 of worker" in done.err

    async def test_a_second_signal_ends_it_at_once(self, place: Path, cluster: Cluster) -> None:
        settings = {"AGENTNET_LEAVE_MS_MAX": "100000"}
        async with command("run", "crew:working", "--json", cwd=place, **settings) as process:
            net = cluster.make("here")
            await net.join_network((await ready(process))["addresses"])
            answer = net.request("worker", b"")
            await soon(net.request("foreman", b""))
            process.send_signal(signal.SIGTERM)
            # It leaves: its agents take no more work, while one is still at it.
            while await refused(net, "foreman") is None:
                await asyncio.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            assert (await end(process)).code == -signal.SIGTERM
            with pytest.raises(NetworkError):
                await soon(answer)

    @pytest.mark.parametrize("agent", ["thread", "task", "loop"])
    async def test_a_handler_that_will_not_stop_does_not_keep_it(
        self, place: Path, cluster: Cluster, agent: str
    ) -> None:
        settings = {"AGENTNET_LEAVE_MS_MAX": "200"}
        async with command("run", "crew:stubborn", "--json", cwd=place, **settings) as process:
            net = cluster.make("here")
            await net.join_network((await ready(process))["addresses"])
            await net.send_message(AgentMessage(b"", to_agent=agent))
            assert await line(process) == "begun\n"
            process.send_signal(signal.SIGTERM)
            done = await end(process)
            assert done.code == 3, done.err
            assert f"was ended by force, as agents {agent} would not stop" in done.err

    async def test_a_setup_that_fails_shows_where(self, place: Path) -> None:
        done = await called("run", "crew:failing", cwd=place)
        assert done.code == 1
        assert "RuntimeError: no database" in done.err

    async def test_tls_names_the_node(self, place: Path) -> None:
        await called("certs", "init", cwd=place)
        issued = await called("certs", "issue", "alpha", cwd=place)
        (place / "node.toml").write_text(issued.out + 'listen = ["tls://127.0.0.1:0"]\n')
        async with command("run", "crew:setup", "--config", "node.toml", "--json", cwd=place) as process:
            told = await ready(process)
            assert told["node"] == "alpha"
            assert told["addresses"][0].startswith("tls://")


@pytest.mark.checkout
@pytest.mark.timeout(120)
async def test_the_examples_work_together() -> None:
    async with command("run", "workers:setup", "--json", cwd=EXAMPLES) as process:
        address = (await ready(process))["addresses"][0]
        arguments = (EXAMPLES / "ask.py", address, r"^class \w+:", EXAMPLES / "workers.py")
        asked = await asyncio.create_subprocess_exec(
            *(sys.executable, *map(str, arguments)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment(),
        )
        done = await end(asked)
    assert not done.err, done.err
    assert [hit.split(": ")[-1] for hit in done.out.splitlines()] == ["class Search:", "class Hit:"]


async def refused(net: AgentNetworkManager, agent: str) -> NetworkError | None:
    """Why a request to it fails, None if it does not."""
    try:
        await net.request(agent, b"", timeout=1.0)
    except NetworkError as error:
        return error
    return None


def test_what_the_log_says(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "agentnet.app")
    log_event(Event(Event.JOINED, "a"))
    log_event(Event(Event.AGENT_REGISTERED, "a", 7))
    log_event(Event(Event.LOST, "a"))
    log_event(Event(Event.UNDELIVERABLE, "a", 7, detail="agent 7 is gone"))
    assert [record.getMessage() for record in caplog.records] == [
        "node a joined",
        "lost: a",
        "undeliverable: agent 7 is gone",
    ]


class TestNotebook:
    """Cells run one after the other on one loop that stands still between them."""

    def test_cells_that_are_run_again(self) -> None:
        with asyncio.Runner() as kernel:
            net = AgentNetworkManager("notebook")

            async def define(answer: bytes) -> None:
                async def oracle(message: AgentMessage) -> bytes:
                    return answer

                await net.register_agent("oracle", handler=oracle)

            async def decorate(answer: bytes) -> None:
                @net.agent("seer")
                async def seer(message: AgentMessage) -> bytes:
                    return answer

            kernel.run(net.join_network())
            for answer in (b"first", b"second"):
                kernel.run(define(answer))
                assert kernel.run(answered(net, "oracle")) == answer
                kernel.run(decorate(answer))
                assert kernel.run(answered(net, "seer")) == answer
            assert [agent.name for agent in net.agents()].count("oracle") == 1
            kernel.run(net.leave_network())

    def test_run_says_what_to_write_in_a_cell(self) -> None:
        async def cell() -> None:
            run(asyncio.sleep(0))

        with asyncio.Runner() as kernel, pytest.raises(ConfigError, match=r"write `await main\(\)` instead"):
            kernel.run(cell())
