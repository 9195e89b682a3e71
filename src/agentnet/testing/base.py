"""What a test holds: nodes by name, the faults between them, and the time. The same for both kinds.

On virtual time (`agentnet.testing.virtual`) everything is simulated but the code under test; on real time
(`agentnet.testing.real`) nodes talk over loopback sockets, through relays that make the faults.
A test that uses only what stands here runs on either.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

from agentnet.app import App, start
from agentnet.config import NetworkConfig
from agentnet.manager import AgentNetworkManager
from agentnet.sim.network import Weather
from agentnet_core.errors import ConfigError, NetworkError
from agentnet_core.records import NodeStatus

T = TypeVar("T")

POLL_S = 0.01
"""Between two looks at what is waited for."""


class Clock(ABC):
    """The time of a test, which begins at 0."""

    @property
    @abstractmethod
    def now_ns(self) -> int:
        """Nanoseconds since the test began."""

    @property
    def now(self) -> float:
        """Seconds since the test began."""
        return self.now_ns / 1e9


@dataclass(frozen=True)
class NodeProcess:
    """A node that runs by itself, reached by messages alone. ``pid``: None on virtual time."""

    node_id: str
    addresses: Sequence[str]
    pid: int | None = None


@dataclass
class Made:
    """How a node was made, to make it again. ``net``: None where it runs in another process.

    ``target``: MODULE:APP, if it was made by `process`.
    """

    config: NetworkConfig
    app: App | None
    target: str | None = None
    net: AgentNetworkManager | None = None
    alive: bool = True


class Network(ABC):
    """Nodes and the network between them; the fixture `network` gives one to each test.

    ``rng``: draw from it whatever the seed is to decide.  ``clock.now``: seconds since the test began.
    """

    seed: int
    rng: Random
    clock: Clock

    def __init__(self) -> None:
        self._made: dict[str, Made] = {}

    # -- nodes

    async def nodes(self, *names: str, app: App | None = None, **settings: Any) -> list[AgentNetworkManager]:
        """Nodes of these names, joined and linked, all with all; the very first founds the network.

        ``app``: a function of the manager that gives each its agents, as `agentnet run` takes.
        ``settings``: those of `NetworkConfig`.
        """
        made = [await self.node(name, app=app, **settings) for name in names]
        await self.settled()
        return made

    async def node(
        self, name: str, *, app: App | None = None, join: Sequence[str] | None = None, **settings: Any
    ) -> AgentNetworkManager:
        """A node that has joined; ``join``: by which nodes (their names), else by all that live."""
        bootstrap = self._addresses(join)
        made = await self._make(name, app, settings)
        return await self._start(name, made, bootstrap)

    async def make(self, name: str, **settings: Any) -> AgentNetworkManager:
        """A node that has not joined, for code that lets it join and leave by itself."""
        made = await self._make(name, None, settings)
        made.net = self._manager(name, made.config)
        return made.net

    async def _make(self, name: str, app: App | None, settings: dict[str, Any]) -> Made:
        if name in self._made:
            raise ConfigError(f"there is a node {name!r} already; restart({name!r}) starts it again")
        made = self._made[name] = Made(await self._config(name, settings), app)
        return made

    @abstractmethod
    async def process(
        self,
        name: str,
        target: str,
        *,
        path: Iterable[str] = (),
        join: Sequence[str] | None = None,
        **settings: Any,
    ) -> NodeProcess:
        """A node that runs MODULE:APP, as `agentnet run` does; ``path``: where modules are looked for first.

        On real time it is a process of its own; on virtual time it is simulated, like all others, in this
        process, where its module is imported once.  The same call starts one that crashed again, with the
        settings that it had.
        """

    def __getitem__(self, name: str) -> AgentNetworkManager:
        """The node of that name; the new one, if it was started again."""
        net = self._known(name).net
        if net is None:
            raise ConfigError(f"node {name} has no manager here: it runs in a process of its own")
        return net

    @property
    def living(self) -> list[str]:
        """Names of the nodes that have neither crashed nor left."""
        return [name for name, made in self._made.items() if made.alive and not self._has_left(made)]

    async def restart(self, name: str, *, join: Sequence[str] | None = None) -> AgentNetworkManager:
        """Start a node that crashed or left once more, as it was made by `nodes`, and its app with it.

        Agents that the test registered by hand are gone with the old one.
        """
        made = self._known(name)
        if made.target is not None:
            raise ConfigError(f"node {name} was made by process(): call that once more")
        self._check_dead(name)
        return await self._start(name, made, self._addresses(join))

    @abstractmethod
    async def crash(self, name: str, *, silently: bool = False) -> None:
        """Its process ends, and nothing that it runs goes on: no farewell, no ``finally``.

        Its connections are reset; ``silently``: they are not, as if the whole host were gone, so that
        nobody is told.  What the test awaits of its manager raises NotRunning.
        """

    @abstractmethod
    def pause(self, name: str) -> None:
        """Its process stops, as by SIGSTOP: what comes for it waits, its connections stay."""

    @abstractmethod
    def resume(self, name: str) -> None:
        """It goes on where it was paused."""

    # -- faults

    @abstractmethod
    def partition(self, *groups: Iterable[str]) -> None:
        """Nothing gets from one group of nodes to another; who is in none reaches all.

        Connections stay: as with TCP, what was under way comes when the network has healed, unless
        a node has given the link up meanwhile.
        """

    @abstractmethod
    def block(self, source: str, target: str) -> None:
        """Nothing gets from one node to the other, that way round; the other way is as it was."""

    @abstractmethod
    def heal(self) -> None:
        """Every node reaches every other again."""

    @abstractmethod
    def cut(self, one: str, other: str) -> None:
        """Connections between the two are reset; they may make new ones."""

    @abstractmethod
    def half_open(self, holder: str, gone: str) -> None:
        """Connections between the two end for ``gone``, and ``holder`` is not told.

        What it writes to them vanishes.  Both may make new ones.
        """

    @abstractmethod
    def set_weather(self, weather: Weather, source: str | None = None, target: str | None = None) -> None:
        """What happens to bytes from now on: everywhere, or from one node to another only."""

    # -- waiting

    async def until(self, condition: Callable[[], T], seconds: float = 60) -> T:
        """The first true value of ``condition``; AssertionError if there is none in that time."""
        end = self.clock.now + seconds
        while not (found := condition()):
            if self.clock.now >= end:
                raise AssertionError(f"not within {seconds:g} s: {condition!r}")
            await asyncio.sleep(POLL_S)
        return found

    async def settled(self, seconds: float = 60) -> None:
        """Return when all living nodes are linked and know the same agents, else AssertionError tells why."""
        end = self.clock.now + seconds
        while differing := self._differing():
            if self.clock.now >= end:
                raise AssertionError(f"not within {seconds:g} s: {differing}")
            await asyncio.sleep(POLL_S)

    def _differing(self) -> str | None:
        living = sorted(self.living)
        agents: dict[str, list[tuple[int, str]]] = {}
        for name in living:
            net = self._made[name].net
            if net is None:
                continue
            found = sorted(member.node_id for member in net.members() if member.status is NodeStatus.ACTIVE)
            if found != living:
                return f"node {name} reaches {found}, and {living} live"
            agents[name] = [(agent.agent_id, agent.node_id) for agent in net.agents()]
        views = list(agents.items())
        for name, view in views[1:]:
            if view != views[0][1]:
                return f"nodes {views[0][0]} and {name} know different agents: {views[0][1]} and {view}"
        return None

    # -- for those that derive

    @abstractmethod
    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop of this network."""

    @abstractmethod
    def close(self) -> None:
        """Let all nodes leave, and end what is left."""

    @abstractmethod
    def report(self) -> str:
        """What to know of a test that failed."""

    @abstractmethod
    async def _config(self, name: str, settings: dict[str, Any]) -> NetworkConfig: ...

    @abstractmethod
    def _manager(self, name: str, config: NetworkConfig) -> AgentNetworkManager:
        """One that has not joined."""

    async def _start(self, name: str, made: Made, bootstrap: Sequence[str]) -> AgentNetworkManager:
        if made.app is not None and isinstance(made.app, AgentNetworkManager):
            raise ConfigError(f"node {name}: its app is a manager: write a function that takes one")
        made.net = self._manager(name, made.config)
        made.alive = True
        try:
            await start(made.app if made.app is not None else made.net, made.net, bootstrap)
        except BaseException:
            made.alive = False
            raise
        return made.net

    def _known(self, name: str) -> Made:
        if name not in self._made:
            raise ConfigError(f"there is no node {name!r}; there are: {', '.join(self._made) or 'none'}")
        return self._made[name]

    def _check(self, name: str) -> str:
        self._known(name)
        return name

    def _check_dead(self, name: str) -> None:
        if name in self.living:
            raise ConfigError(f"node {name} runs: crash it first, or let it leave")

    def _running(self, name: str) -> Made:
        made = self._known(name)
        if name not in self.living:
            raise ConfigError(f"node {name} does not run: it has crashed or left")
        return made

    async def _made_by_process(self, name: str, target: str, settings: dict[str, Any]) -> Made:
        """What `process` is to start: a new node, or one that has ended."""
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = Made(await self._config(name, settings), None, target, alive=False)
        elif made.target != target:
            raise ConfigError(f"there is a node {name!r} already, which does not run {target}")
        self._check_dead(name)
        return made

    def _addresses(self, join: Sequence[str] | None) -> list[str]:
        names = self.living if join is None else join
        return [address for name in names for address in self._addresses_of(name)]

    def _addresses_of(self, name: str) -> Sequence[str]:
        made = self._known(name)
        return made.net.addresses if made.net is not None else made.config.advertise

    def _has_left(self, made: Made) -> bool:
        if made.net is None:
            return False
        try:
            made.net.members()
        except NetworkError:
            return True
        return False


async def end_at_once(net: AgentNetworkManager) -> None:
    """Close all that a node holds, without a word; what anyone awaits of it is answered."""
    leaving = asyncio.ensure_future(net.leave_network())
    await asyncio.sleep(0)
    leaving.cancel()  # a leaving that is cancelled closes everything at once
    await asyncio.wait([leaving])
