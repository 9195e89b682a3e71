"""Very many nodes that have an overlay and a broadcast tree and nothing else, on virtual time.

The rooms are those of production, `agentnet_core.overlay` and `agentnet_core.tree`; what is around
them is as little as will do.  Links are reliable and keep order, as TCP does, each with a delay of
its own and some jitter.  Frames travel as values, so nothing is encoded.

One `Rings` serves all: whoever joins or leaves is on it at once, and its neighbours act on that
`Forest.view_ms` later.  Whoever dies stays on it until `forget`.  A node learns of the death of one
that it is linked to, or dials: soon if only the process died, by silence if the host died too.  Then
it passes by it on the rings.  The dead do not come back.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from agentnet.sim.clock import MS, Clock
from agentnet_core.config import EngineConfig
from agentnet_core.gossip import Frame, Gossip, read_id
from agentnet_core.overlay import Rings
from agentnet_core.tree import NEVER, Tree

MESH_NODES_MAX = 50
"""A forest of more nodes than this is no mesh, unless its config says otherwise."""


class Wire:
    """One direction of a link. ``cut``: nothing more arrives."""

    __slots__ = ("cut", "delay_ns", "last_ns", "source", "target")

    def __init__(self, source: LightNode, target: LightNode, delay_ns: int) -> None:
        self.source, self.target = source, target
        self.delay_ns = delay_ns
        self.last_ns = 0
        self.cut = False


class LightNode:
    """``wires``: to whom it is linked. ``ticks_ns``: when it will look at the clock."""

    __slots__ = ("dead", "dialling", "name", "ticks_ns", "tree", "unreachable", "wires")

    def __init__(self, name: str, config: EngineConfig) -> None:
        self.name = name
        self.tree = Tree(name, 1, config)
        self.wires: dict[str, Wire] = {}
        self.dialling: set[str] = set()
        self.unreachable: set[str] = set()
        self.dead = False
        self.ticks_ns: set[int] = set()


class Flight:
    """What became of one broadcast. ``waits``: who lives, was there when it began, and has not got it.
    ``copies``: all that arrived. ``guests``: who came later and got it too; the rest is not about them."""

    __slots__ = ("began_ns", "copies", "done_ns", "guests", "hops", "latencies_ns", "waits")

    def __init__(self, began_ns: int, waits: set[str]) -> None:
        self.began_ns = began_ns
        self.done_ns = NEVER
        self.waits = waits
        self.copies = self.guests = 0
        self.hops = array("B")
        self.latencies_ns = array("q")

    @property
    def delivered(self) -> int:
        return len(self.hops)


class Forest:
    """``rng`` of the clock decides all. ``flights``: every broadcast so far, in order."""

    view_ms = 200
    """How long after it happened the neighbours act on a node's coming or going."""

    def __init__(
        self,
        clock: Clock,
        names: Iterable[str],
        config: EngineConfig | None = None,
        *,
        delay_ns: tuple[int, int] = (1 * MS, 20 * MS),
    ) -> None:
        self.clock = clock
        self.config = config if config is not None else EngineConfig(mesh_nodes_max=MESH_NODES_MAX)
        self.nodes = {name: LightNode(name, self.config) for name in names}
        """Those that live."""
        self.rings = Rings(self.config, self.nodes)
        self.flights: dict[bytes, Flight] = {}
        self._flying: dict[bytes, Flight] = {}
        self._hosts_gone: set[str] = set()
        self._delay_ns = delay_ns
        for node in self.nodes.values():
            for name in self.rings.wanted(node.name):
                if name not in node.wires:
                    self._link(node, self.nodes[name])

    # -- what happens to nodes

    def publish(self, name: str, payload: bytes = b"") -> Flight:
        """The node broadcasts."""
        node, now = self.nodes[name], self.clock.now_ns
        broadcast = node.tree.publish(payload, now)
        flight = self.flights[broadcast] = self._flying[broadcast] = Flight(now, self.nodes.keys() - {name})
        self.clock.note("publish", *read_id(broadcast))
        self._turn(node)
        return flight

    def kill(self, names: Iterable[str], *, silently: bool = False) -> None:
        """These die now; ``silently``: their hosts too, and only silence tells."""
        dying = list(names)
        for name in dying:
            node = self.nodes.pop(name)
            node.dead = True
            self.clock.note("die", name)
            if silently:
                self._hosts_gone.add(name)
            for broadcast in list(self._flying):
                self._arrived(broadcast, name)
            for wire in node.wires.values():
                heard_ns = wire.delay_ns
                if silently:
                    ping_ms, silence_ms = self.config.ping_interval_ms, self.config.link_silence_ms_max
                    heard_ns = silence_ms * MS - self.clock.rng.randrange(ping_ms * MS)
                back = wire.target.wires.get(name)
                if back is not None:
                    self.clock.at(self.clock.now_ns + heard_ns, self._lost, back, silently)

    def forget(self, name: str) -> None:
        """All agree that the node is gone."""
        neighbours = self.rings.neighbours(name)
        self.rings.remove(name)
        self._see(neighbours)

    def leave(self, name: str) -> None:
        """The node says farewell."""
        self.kill([name])
        self.forget(name)

    def join(self, name: str) -> None:
        """A new node, that knows all others at once."""
        node = self.nodes[name] = LightNode(name, self.config)
        self.clock.note("join", name)
        self.rings.add(name)
        self._tend(node)
        self._see(self.rings.neighbours(name))

    def fell(self) -> None:
        """All of it is gone, and what it would have done."""
        for node in self.nodes.values():
            node.dead = True
            node.wires.clear()
            del node.tree
        self.nodes.clear()

    # -- views

    def is_connected(self) -> bool:
        """Whether each living node is linked to each other one, by way of living ones."""
        if not self.nodes:
            return True
        found = {next(iter(self.nodes)): None}
        todo = list(found)
        while todo:
            for name in self.nodes[todo.pop()].wires:
                if name in self.nodes and name not in found:
                    found[name] = None
                    todo.append(name)
        return len(found) == len(self.nodes)

    def is_dialling(self) -> bool:
        """Whether a living node waits for the answer to a dial."""
        return any(node.dialling for node in self.nodes.values())

    def total(self, counter: str) -> int:
        """The sum of that counter of the living nodes' trees."""
        return sum(getattr(node.tree, counter) for node in self.nodes.values())

    # -- links

    def _see(self, names: Iterable[str]) -> None:
        when_ns = self.clock.now_ns + self.view_ms * MS
        for name in names:
            if name in self.nodes:
                self.clock.at(when_ns, self._tend, self.nodes[name])

    def _tend(self, node: LightNode) -> None:
        """Dial whom the node wants; close what no end wants once nothing is to be dialled."""
        if node.dead:
            return
        for name in self.rings.wanted(node.name, node.unreachable):
            if name not in node.wires and name not in node.dialling:
                self._dial(node, name)
        if node.dialling:
            return
        kept = self.rings.neighbours(node.name, node.unreachable)
        for name in [name for name in node.wires if name not in kept]:
            there = self.nodes.get(name)
            if there is not None and node.name not in self.rings.neighbours(name, there.unreachable):
                self._close(node, name)

    def _dial(self, node: LightNode, name: str) -> None:
        node.dialling.add(name)
        there = self.nodes.get(name)
        answer_ns = 2 * self.clock.rng.randint(*self._delay_ns)
        if there is None and name in self._hosts_gone:
            answer_ns = self.config.handshake_ms_max * MS
        self.clock.at(self.clock.now_ns + answer_ns, self._dialled, node, name)

    def _dialled(self, node: LightNode, name: str) -> None:
        node.dialling.discard(name)
        if node.dead:
            return
        there = self.nodes.get(name)
        if there is None:
            node.unreachable.add(name)
        elif name not in node.wires:
            self.clock.note("link", node.name, name)
            self._link(node, there)
        self._tend(node)

    def _link(self, one: LightNode, other: LightNode) -> None:
        delay_ns = self.clock.rng.randint(*self._delay_ns)
        for source, target in ((one, other), (other, one)):
            source.wires[target.name] = Wire(source, target, delay_ns)
            source.tree.link_up(target.name, self.clock.now_ns)
            self._turn(source)

    def _lost(self, wire: Wire, silently: bool) -> None:
        """The end that writes to ``wire`` learns that the link is gone."""
        node, name = wire.source, wire.target.name
        if node.dead or node.wires.get(name) is not wire:
            return
        del node.wires[name]
        if silently:
            node.unreachable.add(name)  # to dial it would take long; a reset may be the link's alone
        node.tree.link_down(name, self.clock.now_ns)
        self._turn(node)
        self._tend(node)

    def _close(self, node: LightNode, name: str) -> None:
        """The end that closes takes no more; what it has sent arrives."""
        wire = node.wires.pop(name)
        node.tree.link_down(name, self.clock.now_ns)
        self._turn(node)
        back = wire.target.wires.get(node.name)
        if back is not None:
            back.cut = True
            self.clock.at(max(wire.last_ns, self.clock.now_ns + wire.delay_ns), self._lost, back, False)

    # -- time

    def _turn(self, node: LightNode) -> None:
        """Carry out what the node's tree has decided."""
        tree, clock = node.tree, self.clock
        for names, frame in tree.drain_frames():
            for name in names:
                wire = node.wires[name]
                when_ns = clock.now_ns + int(wire.delay_ns * (1 + clock.rng.random() / 10))
                when_ns = max(when_ns, wire.last_ns)
                wire.last_ns = when_ns
                clock.at(when_ns, self._arrive, wire, frame)
        for gossip in tree.drain_delivered():
            self._delivered(node, gossip)
        due_ns = tree.next_deadline_ns()
        if due_ns < NEVER and due_ns not in node.ticks_ns:
            node.ticks_ns.add(due_ns)
            clock.at(due_ns, self._tick, node, due_ns)

    def _tick(self, node: LightNode, due_ns: int) -> None:
        node.ticks_ns.discard(due_ns)
        if not node.dead and node.tree.next_deadline_ns() <= due_ns:
            node.tree.tick(self.clock.now_ns)
            self._turn(node)

    def _arrive(self, wire: Wire, frame: Frame) -> None:
        node = wire.target
        if node.dead or wire.cut:
            return
        if type(frame) is Gossip:
            self.flights[frame.broadcast].copies += 1
        node.tree.receive(wire.source.name, frame, self.clock.now_ns)
        self._turn(node)

    def _delivered(self, node: LightNode, gossip: Gossip) -> None:
        flight = self.flights[gossip.broadcast]
        if node.name in flight.waits:
            flight.hops.append(gossip.hops)
            flight.latencies_ns.append(self.clock.now_ns - flight.began_ns)
        else:
            flight.guests += 1
        self.clock.note("deliver", node.name, *read_id(gossip.broadcast))
        self._arrived(gossip.broadcast, node.name)

    def _arrived(self, broadcast: bytes, name: str) -> None:
        """That node waits for it no more."""
        flight = self._flying.get(broadcast)
        if flight is not None:
            flight.waits.discard(name)
            if not flight.waits:
                flight.done_ns = self.clock.now_ns
                del self._flying[broadcast]
