"""Nodes, the network between them, a virtual clock and a seed: a whole agent network in one process.

    world = World(seed=1)
    a, b = world.join("a", "b")
    sink = b.agent("sink")
    a.agent("source").send("sink", b"hello")
    world.until(lambda: sink.received)

Invariants are checked where they can break: `each_step` after whatever a node does, `each_second` on
the world as a whole.  An exception, whoever raises it, carries the seed and the time; the same seed
plays the same history again, to the same trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from agentnet.sim.clock import MS, Action, Clock
from agentnet.sim.link import Link
from agentnet.sim.network import Network, Pipe, Weather
from agentnet.sim.node import Node, address_of
from agentnet.sim.notary import Notary
from agentnet.sim.token import Token
from agentnet_core.config import EngineConfig
from agentnet_core.dials import Dial
from agentnet_core.engine import Engine
from agentnet_core.errors import OutageError
from agentnet_core.session import Session

REFUSED = "connection refused"

UUID = bytes(range(16))
"""Of the networks that are founded here."""


class World:
    """``nodes`` by name. ``secure``: as under TLS, peers prove their names and sign what they say; the
    ``notary`` has their keys."""

    def __init__(self, seed: int = 0, weather: Weather | None = None, *, secure: bool = False) -> None:
        self.clock = Clock(seed)
        self.network = Network(self.clock, weather if weather is not None else Weather())
        self.notary = Notary() if secure else None
        self.nodes: dict[str, Node] = {}
        self._each_step: list[Callable[[Node], None]] = []
        self._each_second: list[Callable[[World], None]] = []

    # -- time

    @property
    def now_ns(self) -> int:
        return self.clock.now_ns

    @property
    def rng(self) -> Random:
        """Draw from it whatever the seed is to decide."""
        return self.clock.rng

    @property
    def trace(self) -> str:
        """A digest of all that has happened: equal for equal seeds."""
        return self.clock.trace

    def at(self, when_ns: int, action: Action, *arguments: Any) -> None:
        """Let ``action`` happen then (virtual nanoseconds, as of `now_ns`)."""
        self.clock.at(when_ns, action, *arguments)

    def after(self, ms: float, action: Action, *arguments: Any) -> None:
        """Let ``action`` happen that much later."""
        self.clock.at(self.clock.now_ns + int(ms * MS), action, *arguments)

    def run(self, ms: float) -> None:
        """Let that much time pass."""
        self.clock.run(ms)

    def until(self, condition: Callable[[], Any], ms: float = 60_000) -> None:
        """Run until ``condition`` holds; AssertionError when it does not within that much time."""
        self.clock.until(condition, ms)

    def step(self) -> bool:
        """Let the next thing happen; False if nothing is to come."""
        return self.clock.step()

    def finish(self, token: Token, ms: float = 60_000) -> Token:
        """Run until ``token`` is settled; raises what it failed with."""
        self.until(lambda: token.done, ms)
        if token.error is not None:
            raise token.error
        return token

    # -- nodes

    def node(self, name: str, **options: Any) -> Node:
        """A node that is in no network yet; ``options`` as of `Node`."""
        node = self.nodes[name] = Node(self, name, **options)
        return node

    def join(self, *names: str, config: EngineConfig | None = None) -> list[Node]:
        """Nodes of one network, all linked; the first founded it."""
        nodes = [self.node(name, config=config) for name in names]
        nodes[0].control.found(UUID)
        for node in nodes[1:]:
            self.finish(node.join(names[0]))
        self.until(lambda: all(len(node.engine.sessions) == len(nodes) - 1 for node in nodes))
        return nodes

    # -- invariants

    def each_step(self, check: Callable[[Node], None]) -> None:
        """Call ``check`` with a node after whatever it did; it raises AssertionError."""
        self._each_step.append(check)

    def each_second(self, check: Callable[[World], None]) -> None:
        """Call ``check`` with the world each virtual second from now on; it raises AssertionError."""
        if not self._each_second:
            self.after(1000, self._second)
        self._each_second.append(check)

    def _second(self) -> None:
        for check in self._each_second:
            check(self)
        self.after(1000, self._second)

    def acted(self, node: Node) -> None:
        for check in self._each_step:
            check(node)

    def agreed(self, names: Iterable[str] | None = None) -> bool:
        """Whether these nodes, or all that live, are linked and know the same members and agents."""
        living = [
            node for name, node in self.nodes.items() if not node.dead and (names is None or name in names)
        ]
        if any(len(node.engine.sessions) != len(living) - 1 for node in living):
            return False  # which is quickly seen, and is asked at each step

        def view(node: Node) -> tuple[list[tuple[str, int]], list[tuple[int, str]]]:
            return (
                [(member.node_id, member.incarnation) for member in node.control.members()],
                sorted((agent.agent_id, agent.node_id) for agent in node.control.directory.agents()),
            )

        first = view(living[0]) if living else None
        return all(view(node) == first for node in living[1:])

    # -- links

    def dial(self, node: Node, dial: Dial) -> None:
        """A node wants a connection: the answer comes after a while, if it comes."""
        engine = node.engine  # that of this process: a node that is started again has another
        self.at(self.now_ns + self.network.delay(), self._answer, node, engine, dial)

    def _answer(self, node: Node, engine: Engine, dial: Dial) -> None:
        name = dial.address.removeprefix("sim://").rpartition(":")[0]
        there = self.nodes.get(name)
        if node.dead or node.engine is not engine:
            return
        if not (self.network.passes(node.name, name) and self.network.passes(name, node.name)):
            patience_ms = node.config.handshake_ms_max
            self.after(patience_ms, self._refuse, node, engine, dial, "no answer in time")
        elif there is None or there.dead:
            self._refuse(node, engine, dial, REFUSED)
        else:
            self.clock.note("dial", node.name, dial.address)
            out = Pipe(self.network, node.name, name)
            back = Pipe(self.network, name, node.name)
            Link(node, out, back, dial.address, there.certificate, dial)
            Link(there, back, out, address_of(node.name), node.certificate, None)

    def _refuse(self, node: Node, engine: Engine, dial: Dial, reason: str) -> None:
        if not node.dead and node.engine is engine:
            self.clock.note("dial failed", node.name, dial.address, reason)
            engine.now_ns = self.now_ns
            refused = reason == REFUSED
            node.control.dial_failed(dial, OutageError(f"{dial.address}: {reason}"), refused=refused)

    def probe(self, node: Node, session: Session) -> None:
        """A node asks the liveness port of a link's peer: a packet each way, and either may be lost."""
        there, engine = self.nodes.get(session.node_id), node.engine

        def arrive() -> None:
            if there is None or there.engine.incarnation != session.incarnation:
                return
            answer = there.answer_probe()
            if answer is not None and self.network.passes(there.name, node.name):
                self.after(self.network.delay() / MS, lambda: node.act(lambda: hear(*answer)))

        def hear(lag_ns: int, stack: str) -> None:
            if node.engine is engine:
                self.clock.note("alive", node.name, session.node_id, lag_ns)
                engine.now_ns = self.now_ns
                node.control.alive(session, lag_ns, stack)

        if self.network.passes(node.name, session.node_id):
            self.after(self.network.delay() / MS, arrive)

    # -- faults

    def partition(self, *groups: Iterable[str]) -> None:
        """Nothing gets from one group of nodes to another; who is in none reaches all."""
        self.network.partition(*groups)

    def block(self, source: str, target: str) -> None:
        """Nothing gets from one node to the other, that way round."""
        self.network.block(source, target)

    def heal(self) -> None:
        """Every node reaches every other again."""
        self.network.heal()
