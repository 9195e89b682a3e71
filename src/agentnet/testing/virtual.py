"""A network on virtual time: production managers and the user's own code, driven from one seed.

Time, chance and bytes reach a node through its Host alone; timers are those of the loop.  A plain
``def`` handler is called in place, in no time.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from agentnet.app import load_app
from agentnet.config import NetworkConfig
from agentnet.manager import AgentNetworkManager
from agentnet.sim.clock import Clock as Schedule
from agentnet.sim.network import Network as Ways
from agentnet.sim.network import Weather
from agentnet.testing.base import Clock, Made, Network, NodeProcess, end_at_once
from agentnet.testing.loop import Process, VirtualHost, VirtualLoop
from agentnet.testing.wires import VirtualTransport, Wires
from agentnet.transport import Transport
from agentnet_core.errors import ConfigError

T = TypeVar("T")

WALL_NS = 1_700_000_000 * 10**9
"""The wall clock at virtual time 0."""
START_S = 0.05
"""What it takes a process to start: a new incarnation has a later time."""
MEMORIES_MS = (
    "delivery_window_ms",
    "lease_ms_max",
    "operation_ms",
    "state_lost_ms",
    "state_name_ms_max",
    "state_prune_after_ms",
)
"""How long something is kept at most: no interval of a node's upkeep."""


class VirtualClock(Clock):
    """Reading it takes no time."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._began_ns = schedule.now_ns

    @property
    def now_ns(self) -> int:
        return self._schedule.now_ns - self._began_ns


class VirtualNetwork(Network):
    """Of one seed. ``trace``: a digest of all that has happened, equal for equal histories."""

    def __init__(self, seed: int = 0, weather: Weather | None = None) -> None:
        super().__init__()
        self.seed = seed
        self._schedule = Schedule(seed)
        self.rng = random.Random(self._schedule.rng.random())
        self.clock = VirtualClock(self._schedule)
        self.loop = VirtualLoop(self._schedule, self._expects)
        self._ways = Ways(self._schedule, weather if weather is not None else Weather())
        self._wires = Wires(self.loop, self._ways)
        self._processes: dict[str, Process] = {}
        self._dead: list[Process] = []

    @property
    def trace(self) -> str:
        return self._schedule.trace

    # -- nodes

    async def _config(self, name: str, settings: dict[str, Any]) -> NetworkConfig:
        # No loop blocks here, and nothing opens a port.
        config = NetworkConfig(**{**settings, "liveness_ports": False})
        times = [field.name for field in fields(config) if "_ms" in field.name]
        intervals = [getattr(config, name) for name in times if name not in MEMORIES_MS]
        self.loop.quiet_s = max(self.loop.quiet_s, 2 * max(intervals) / 1000)
        for address in (*config.listen_addresses, *config.advertise_addresses):
            if address.secure:
                raise ConfigError(f"node {name}: {address}: on virtual time there is only tcp://")
        return config

    def _manager(self, name: str, config: NetworkConfig) -> AgentNetworkManager:
        process = self._processes[name] = Process(name)
        schedule = self._schedule

        def open_virtual(scheme: str, config: NetworkConfig) -> Transport:
            if scheme != "tcp":
                raise ConfigError(f"{scheme}:// on virtual time: there is only tcp://")
            return VirtualTransport(self._wires, process, config)

        host = VirtualHost(
            process=process,
            monotonic_ns=self.loop.read_clock,
            time_ns=lambda: WALL_NS + schedule.now_ns,
            make_rng=lambda: random.Random(schedule.rng.random()),
            open_transport=open_virtual,
        )
        return AgentNetworkManager(name, config, host=host)

    async def _start(self, name: str, made: Made, bootstrap: Sequence[str]) -> AgentNetworkManager:
        await asyncio.sleep(START_S)
        return await super()._start(name, made, bootstrap)

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
        before = sys.path[:]
        sys.path[:0] = path
        try:
            made.app = load_app(target)
        finally:
            sys.path[:] = before
        net = await self._start(name, made, self._addresses(join))
        return NodeProcess(name, net.addresses)

    async def crash(self, name: str, *, silently: bool = False) -> None:
        made, process = self._running(name), self._processes[name]
        self._wires.kill(process, silently)
        process.stopped = True
        self._dead.append(process)
        made.alive = False
        assert made.net is not None
        burying: Any = self.loop.create_task(end_at_once(made.net))
        burying.process = None  # it may be its own handler that asks for this, and goes no further
        await asyncio.wait([burying])

    def pause(self, name: str) -> None:
        self._running(name)
        self._processes[name].stopped = True

    def resume(self, name: str) -> None:
        self._running(name)
        self._processes[name].go_on(self.loop)

    # -- faults

    def partition(self, *groups: Iterable[str]) -> None:
        self._ways.partition(*[[self._check(name) for name in group] for group in groups])

    def block(self, source: str, target: str) -> None:
        self._ways.block(self._check(source), self._check(target))

    def heal(self) -> None:
        self._ways.heal()

    def cut(self, one: str, other: str) -> None:
        for wire in self._wires.between(self._check(one), self._check(other)):
            wire.break_off()
            wire.far.break_off()

    def half_open(self, holder: str, gone: str) -> None:
        for wire in self._wires.between(self._check(holder), self._check(gone)):
            wire.out.mute = wire.far.out.mute = True
            wire.far.break_off()

    def set_weather(self, weather: Weather, source: str | None = None, target: str | None = None) -> None:
        if source is None and target is None:
            self._ways.weather = weather
            self._ways.weathers.clear()
        elif source is None or target is None:
            raise ConfigError("set_weather: give source and target, or neither")
        else:
            self._ways.weathers[self._check(source), self._check(target)] = weather

    # -- the loop

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Whatever draws from the module `random` meanwhile draws what the seed decides."""
        before = random.getstate()
        random.seed(self._schedule.rng.random())
        try:
            result: T = self.loop.run_until_complete(main)
        finally:
            random.setstate(before)
        return result

    def _expects(self) -> bool:
        """Whether a request is under way somewhere: it has a deadline."""
        running = (self._made[name].net for name in self.living)
        return any(net is not None and net.engine.pending for net in running)

    def report(self) -> str:
        return f"seed {self.seed}, at {self.clock.now:.6f} s of virtual time, trace {self.trace}"

    def close(self) -> None:
        if self.loop.is_closed():
            return
        self.heal()
        self.loop.set_exception_handler(None)  # what the last things that happen raise is only logged
        try:
            self.loop.run_until_complete(self._end())
        finally:
            for process in self._processes.values():
                process.stopped = True
            self.loop.close()

    async def _end(self) -> None:
        for name in self.living:
            self._processes[name].go_on(self.loop)
        nets = [self[name] for name in self.living]
        await asyncio.gather(*(net.leave_network() for net in nets), return_exceptions=True)
        # What was killed could not even end: now it may, or its coroutines would end whenever they are freed.
        for process in self._dead:
            process.go_on(self.loop)
        tasks = [task for task in self.loop.tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
        await self.loop.shutdown_asyncgens()
