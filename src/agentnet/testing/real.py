"""A network on real time: nodes on loopback sockets, in this process or in ones of their own, behind relays.

Whatever waits here waits for something to be so, with a deadline.  All that was started is ended by the
network itself: processes by their ids, ports, relays.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from agentnet.app import loop_factory
from agentnet.config import PREFIX, NetworkConfig
from agentnet.manager import AgentNetworkManager
from agentnet.sim.network import Weather
from agentnet.testing.base import Clock, Made, Network, NodeProcess, end_at_once
from agentnet.testing.relay import Connection, Relay, Ways, reserve_port
from agentnet_core.errors import ConfigError

T = TypeVar("T")

START_S_MAX = 60.0
"""What a process may take to be ready, on a busy machine."""
LEAVE_S_MAX = 2.0
"""What nodes may take to leave when the test is over; then they are ended."""
NEVER_BY_TCP = ("lose", "swap", "repeat", "flip")
TAIL_CHARS = 2_000
"""Of what a process wrote, in the report of a test that failed."""


class RealClock(Clock):
    """That of this machine."""

    def __init__(self) -> None:
        self._began_ns = time.monotonic_ns()

    @property
    def now_ns(self) -> int:
        return time.monotonic_ns() - self._began_ns


class _Child:
    """A process that runs `agentnet run`; what it writes goes to files, which cannot hold it up."""

    def __init__(self, name: str, command: Sequence[str], environ: dict[str, str], folder: Path) -> None:
        self.name = name
        self.out, self.err = folder / f"{name}.out", folder / f"{name}.err"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.popen = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environ, start_new_session=True
            )

    def ready(self) -> dict[str, Any] | None:
        """What it says when it has joined; AssertionError if it has ended."""
        for line in self.out.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
            if line.startswith('{"node"') and line.endswith("\n"):
                said: dict[str, Any] = json.loads(line)
                return said
        if self.popen.poll() is not None:
            code = self.popen.returncode
            raise AssertionError(
                f"node {self.name} ended with exit code {code} before it was ready{self.tail()}"
            )
        return None

    def tail(self) -> str:
        """The end of what it wrote to stderr."""
        text = self.err.read_text(encoding="utf-8", errors="replace")[-TAIL_CHARS:].strip()
        return f"; the end of its stderr:\n{text}" if text else "; its stderr is empty"

    def signal(self, number: int) -> None:
        if self.popen.poll() is None:
            os.kill(self.popen.pid, number)

    def kill(self) -> None:
        """By its process id, and wait until it is gone: SIGKILL takes no time."""
        self.signal(signal.SIGKILL)
        self.popen.wait()


class RealNetwork(Network):
    """``seed`` decides what the relays draw, and not when anything happens."""

    def __init__(self, seed: int = 0, weather: Weather | None = None) -> None:
        super().__init__()
        self.seed = seed
        self.rng = random.Random(seed)
        self.clock = RealClock()
        self._runner = asyncio.Runner(loop_factory=loop_factory())
        self._ways = Ways(random.Random(seed), _checked(weather or Weather(delay_ns=(0, 0))))
        self._relays: dict[str, Relay] = {}
        self._ports: dict[str, Any] = {}
        self._children: dict[str, _Child] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="agentnet-")

    # -- nodes

    async def _config(self, name: str, settings: dict[str, Any]) -> NetworkConfig:
        for setting in ("listen", "advertise"):
            if setting in settings:
                raise ConfigError(
                    f"node {name}: {setting} is for the network to choose: a relay stands there"
                )
        port, give_back = reserve_port()
        self._ports[name] = give_back
        relay = self._relays[name] = Relay(self._ways, name)
        await relay.open()
        listen = f"tcp://127.0.0.1:{port}"
        relay.aim(listen)
        # Liveness ports would go round the relay, and so round every fault.
        ports = settings.pop("liveness_ports", False)
        return NetworkConfig(**settings, liveness_ports=ports, listen=[listen], advertise=[relay.address])

    def _manager(self, name: str, config: NetworkConfig) -> AgentNetworkManager:
        self._open_way(name)
        return AgentNetworkManager(name, config)

    def _open_way(self, name: str) -> None:
        self._relays[name].refusing = self._relays[name].silent = False

    async def process(
        self,
        name: str,
        target: str,
        *,
        path: Iterable[str] = (),
        join: Sequence[str] | None = None,
        **settings: Any,
    ) -> NodeProcess:
        made = await self._made_by_process(name, target, settings)
        self._open_way(name)
        command = [sys.executable, "-P", "-m", "agentnet", "run", target, "--node-id", name, "--json"]
        for address in self._addresses(join):
            command += ["--join", address]
        child = _Child(name, command, _environ(made.config, path), Path(self._folder.name))
        self._children[name] = child
        made.alive = True
        said = await self.until(child.ready, START_S_MAX)
        assert said is not None
        return NodeProcess(name, tuple(said["addresses"]), child.popen.pid)

    def _has_left(self, made: Made) -> bool:
        if made.target is None:
            return super()._has_left(made)
        [child] = [child for name, child in self._children.items() if self._made[name] is made]
        return child.popen.poll() is not None

    async def crash(self, name: str, *, silently: bool = False) -> None:
        made, relay = self._running(name), self._relays[name]
        relay.silent, relay.refusing = silently, True
        child = self._children.get(name)
        # First the network: whatever an ending system would still say must not get out.
        for connection in self._connections(name):
            if silently:
                connection.lose(name, told=False)
            elif child is None:
                connection.cut()
        if child is not None:
            child.kill()
        elif made.net is not None:
            await end_at_once(made.net)
        made.alive = False

    def pause(self, name: str) -> None:
        self._child(name).signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        self._child(name).signal(signal.SIGCONT)

    def _child(self, name: str) -> _Child:
        self._running(name)
        if name not in self._children:
            raise ConfigError(f"node {name} runs in the test's own process: only one of process() can pause")
        return self._children[name]

    # -- faults

    def partition(self, *groups: Iterable[str]) -> None:
        self._ways.partition(*[[self._check(name) for name in group] for group in groups])

    def block(self, source: str, target: str) -> None:
        self._ways.block(self._check(source), self._check(target))

    def heal(self) -> None:
        self._ways.heal()

    def cut(self, one: str, other: str) -> None:
        for connection in self._between(one, other):
            connection.cut()

    def half_open(self, holder: str, gone: str) -> None:
        for connection in self._between(holder, gone):
            connection.lose(gone, told=True)

    def set_weather(self, weather: Weather, source: str | None = None, target: str | None = None) -> None:
        _checked(weather)
        if source is None and target is None:
            self._ways.weather = weather
            self._ways.weathers.clear()
        elif source is None or target is None:
            raise ConfigError("set_weather: give source and target, or neither")
        else:
            self._ways.weathers[self._check(source), self._check(target)] = weather

    def _connections(self, name: str) -> list[Connection]:
        """Those of this node, whoever dialled."""
        all_of_them = [found for relay in self._relays.values() for found in relay.connections]
        return [found for found in all_of_them if name in (found.source, found.target)]

    def _between(self, one: str, other: str) -> list[Connection]:
        self._check(other)
        return [found for found in self._connections(self._check(one)) if found.between(one, other)]

    # -- the loop

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(main)

    def report(self) -> str:
        tails = [f"node {child.name}{child.tail()}" for child in self._children.values()]
        return "\n".join([f"on real time, seed {self.seed} of the relays", *tails])

    def close(self) -> None:
        try:
            self._runner.run(self._end())
        finally:
            for child in self._children.values():
                child.kill()
            for give_back in self._ports.values():
                give_back()
            self._runner.close()
            self._folder.cleanup()

    async def _end(self) -> None:
        self.heal()
        for name in self.living:
            if (child := self._children.get(name)) is not None:
                child.signal(signal.SIGCONT)
                child.signal(signal.SIGKILL)
        leaving = [
            asyncio.ensure_future(made.net.leave_network()) for made in self._made.values() if made.net
        ]
        if leaving:
            _, late = await asyncio.wait(leaving, timeout=LEAVE_S_MAX)
            for task in late:
                task.cancel()
            await asyncio.gather(*leaving, return_exceptions=True)
        for relay in self._relays.values():
            await relay.close()


def _checked(weather: Weather) -> Weather:
    never = [name for name in NEVER_BY_TCP if getattr(weather, name)]
    if never:
        raise ConfigError(
            f"weather of real links: {', '.join(never)}: TCP never does that; `stall` is what it makes of "
            f"a lost packet, `cut` of a lost connection"
        )
    return weather


def _environ(config: NetworkConfig, path: Iterable[str]) -> dict[str, str]:
    """That of this process, with the settings of the node, and modules found where they are found here."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    for field in fields(config):
        value = getattr(config, field.name)
        if value is not None and value != field.default:
            environ[PREFIX + field.name.upper()] = ",".join(value) if isinstance(value, tuple) else str(value)
    places = [*map(os.fspath, path), *(place or os.getcwd() for place in sys.path)]
    environ["PYTHONPATH"] = os.pathsep.join(places)
    with suppress(KeyError):
        del environ["PYTHONSAFEPATH"]
    return environ
