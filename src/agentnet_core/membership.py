"""Which nodes there are, which of them to dial now, and which are lost: a full mesh.

Every node links to every node that it learns of, so it suits some 50 nodes.  A node speaks only of
those that it is linked to (MEMBERS, all to each new link, and the new one to the others), so that
the dead are not passed on.

MEMBERS  [[node id, incarnation, [address, ...]], ...]

What is believed of a node, and until when:

    linked    between `link_up` and `link_down`; JOINED is told when the node has taken the link, too
    down      learned of, or its link is gone: dialled, with backoff
    lost      down for `node_lost_ms`: an event tells; dialled on at `redial_ms_max`, so that a
              partition heals; the oldest is forgotten when `nodes_max` is reached
    left      it said so: not dialled, and its incarnation never comes back (the last `nodes_max`)

A node's incarnation only grows: a lower one is ignored, a higher one takes its place, but while a
link to the known one is up, hearsay does not shake it: the newcomer will be probed at the door.

To keep dials from crossing, the greater node id dials at once, the lesser a tenth of
`redial_ms_max` later.  A bootstrap address is dialled at once, until the node behind it is known,
and again once that is forgotten.  Each `Dial` is answered exactly once, by `link_up` or
`dial_failed`.  At most one is in progress for a node, and for an address.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from agentnet_core.body import (
    U64_MAX,
    expect_addresses,
    expect_int,
    expect_list,
    expect_name,
    pack,
    unpack,
)
from agentnet_core.config import BODY_BYTES, EngineConfig
from agentnet_core.errors import HandshakeRefused
from agentnet_core.records import Event, Member, NodeStatus

NS_PER_MS = 1_000_000
NEVER = 2**63 - 1
DIAL_REASON_CHARS = 500
HEAD_BYTES = 8
"""What a MEMBERS body holds beside its records, at most."""


class Random(Protocol):
    """Where jitter comes from."""

    def random(self) -> float:
        """A number from 0 up to 1."""


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node as MEMBERS tells of it."""

    node_id: str
    incarnation: int
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Dial:
    """Open a link to ``address``. ``node_id``: who should be there, None for a bootstrap address."""

    address: str
    node_id: str | None = None


class _Redial:
    """When to dial next. ``failures`` counts dials, and short-lived links, since the last good link."""

    __slots__ = ("dial", "failures", "next_ns", "reason")

    def __init__(self, next_ns: int) -> None:
        self.dial: Dial | None = None
        self.failures = 0
        self.next_ns = next_ns
        self.reason = ""


class _Seed:
    __slots__ = ("address", "node_id", "redial")

    def __init__(self, address: str, now_ns: int) -> None:
        self.address = address
        self.node_id: str | None = None
        self.redial = _Redial(now_ns)


class _Node:
    """``since_ns``: of its link, or of being without. ``told``: JOINED was told and LOST was not."""

    __slots__ = ("linked", "lost", "plaintext", "record", "redial", "since_ns", "told", "turn")

    def __init__(self, record: NodeRecord, now_ns: int, next_ns: int) -> None:
        self.record = record
        self.redial = _Redial(next_ns)
        self.since_ns = now_ns
        self.linked = self.lost = self.told = self.plaintext = False
        self.turn = 0


class Membership:
    """All nodes that this node knows, and the decisions to dial them."""

    def __init__(
        self, node_id: str, incarnation: int, addresses: Iterable[str], config: EngineConfig, rng: Random
    ) -> None:
        self.node_id = node_id
        self.incarnation = incarnation
        self.addresses = tuple(addresses)
        self._rng = rng
        self._nodes_max = config.nodes_max
        self._redial_ns_min = config.redial_ms_min * NS_PER_MS
        self._redial_ns_max = config.redial_ms_max * NS_PER_MS
        self._lost_ns = config.node_lost_ms * NS_PER_MS
        self._nodes: dict[str, _Node] = {}
        self._seeds: dict[str, _Seed] = {}
        self._left: dict[str, int] = {}
        self._dialling: dict[str, Dial] = {}
        self._events: deque[Event] = deque()
        self._events_missed = 0

    # -- reading

    def members(self) -> list[Member]:
        """This node and all that it knows, by node id; those without a link are DISCONNECTED.

        ``last_heartbeat`` is for the caller to fill in: there is no wall clock here.
        """
        known = [Member(self.node_id, self.incarnation, self.addresses)]
        for node in self._nodes.values():
            status = NodeStatus.ACTIVE if node.linked else NodeStatus.DISCONNECTED
            record = node.record
            known.append(
                Member(record.node_id, record.incarnation, record.addresses, status, plaintext=node.plaintext)
            )
        return sorted(known, key=lambda member: member.node_id)

    def incarnation_of(self, node_id: str) -> int | None:
        """The incarnation of a node that is known, lost ones too."""
        node = self._nodes.get(node_id)
        return None if node is None else node.record.incarnation

    def linked(self) -> list[str]:
        """The nodes with a link, in the order in which they came to be known."""
        return [node_id for node_id, node in self._nodes.items() if node.linked]

    def records(self) -> list[NodeRecord]:
        """What this node tells others: itself and the nodes that it is linked to."""
        me = NodeRecord(self.node_id, self.incarnation, self.addresses)
        return [me, *(node.record for node in self._nodes.values() if node.linked)]

    def frames(self, max_bytes: int = BODY_BYTES) -> list[bytes]:
        """`records` as bodies of MEMBERS frames, for a new link."""
        return encode_members(self.records(), max_bytes)

    def introduction(self, node_id: str) -> bytes:
        """The node alone as the body of a MEMBERS frame, for the other links when it comes up."""
        return encode_members([self._nodes[node_id].record])[0]

    def refusal(self, node_id: str, incarnation: int) -> str | None:
        """Why a link to that node cannot be, whatever other links there are; None if it can."""
        if self._left.get(node_id, -1) >= incarnation:
            return (
                f"node {node_id!r} has left the network as incarnation {self._left[node_id]}, this is "
                f"{incarnation}: join again, which takes a higher one"
            )
        node = self._nodes.get(node_id)
        if node is not None and node.record.incarnation > incarnation:
            return (
                f"incarnation {incarnation} of node {node_id!r} is dead, it runs as "
                f"{node.record.incarnation} now: restart the node, or give it an id of its own"
            )
        if node is None and not self._has_room():
            return f"node {node_id!r} is one too many for nodes_max={self._nodes_max} of {self.node_id!r}"
        return None

    def joined(self, now_ns: int) -> bool:
        """Whether all nodes that are known are linked, were dialled in vain, or are lost, and one is
        linked if there are bootstrap addresses. What linked nodes know must have been learned before.
        """
        if self._seeds and not self.linked():
            return False
        return all(
            node.linked or node.redial.failures > 0 or now_ns - node.since_ns >= self._lost_ns
            for node in self._nodes.values()
        )

    def dial_reasons(self) -> dict[str, str]:
        """Why the last dial of each bootstrap address and each unlinked node failed, if it did."""
        seeds = {seed.address: seed.redial.reason for seed in self._seeds.values()}
        nodes = {i: node.redial.reason for i, node in self._nodes.items() if not node.linked}
        return {what: reason for what, reason in (seeds | nodes).items() if reason}

    def bootstrap_left(self) -> list[str]:
        """The bootstrap addresses, but those that turned out to be this node's own."""
        return list(self._seeds)

    def next_deadline_ns(self) -> int:
        """When `tick` will have something to do next; `NEVER` if only news can change that."""
        deadlines = []
        for node in self._nodes.values():
            if not node.linked:
                if not node.lost:
                    deadlines.append(node.since_ns + self._lost_ns)
                if node.redial.dial is None and self._addresses(node):
                    deadlines.append(node.redial.next_ns)
        for seed in self._seeds.values():
            if seed.redial.dial is None and not self._is_resolved(seed):
                deadlines.append(seed.redial.next_ns)
        return min(deadlines, default=NEVER)

    def drain_events(self) -> list[Event]:
        """What happened since the last call."""
        events = list(self._events)
        self._events.clear()
        if self._events_missed:
            events.append(Event(Event.EVENTS_MISSED, count=self._events_missed))
            self._events_missed = 0
        return events

    # -- news

    def bootstrap(self, addresses: Iterable[str], now_ns: int) -> None:
        """Dial these addresses, whoever is there."""
        for address in addresses:
            if address not in self._seeds:
                self._seeds[address] = _Seed(address, now_ns)

    def learn(self, body: bytes | memoryview, now_ns: int) -> None:
        """Take the body of a MEMBERS frame: what a linked node tells of those that it is linked to."""
        untaken = [record.node_id for record in decode_members(body) if not self._learn(record, now_ns)]
        if untaken:
            detail = (
                f"nodes_max={self._nodes_max}: no room for {len(untaken)} nodes, {untaken[0]!r} and so on"
            )
            self._tell(Event(Event.LINK_REFUSED, untaken[0], detail=detail, count=len(untaken)))

    def link_up(
        self,
        node_id: str,
        incarnation: int,
        addresses: Iterable[str],
        now_ns: int,
        plaintext: bool = False,
        dial: Dial | None = None,
        confirmed: bool = True,
    ) -> None:
        """A link to the node is welcomed. ``dial``: the dial that it answers, if it was dialled.

        ``confirmed`` False: the node may refuse it yet, so JOINED is not told before `confirm`.
        HandshakeRefused if `refusal` has a reason; ask that before the link is welcomed.
        """
        reason = self.refusal(node_id, incarnation)
        if reason is not None:
            raise HandshakeRefused(reason)
        record = NodeRecord(node_id, incarnation, tuple(addresses))
        node = self._nodes.get(node_id)
        if node is None:
            node = self._admit(record, now_ns)
        elif node.record.incarnation != incarnation:
            self._replace(node, record, now_ns)
        node.record = record
        if not node.linked:
            node.since_ns = now_ns
        node.linked, node.lost, node.plaintext = True, False, plaintext
        node.redial.reason = ""
        self._left.pop(node_id, None)
        self._resolve_seeds(record)
        if dial is not None:
            redial = self._end_dial(dial, node_id)
            if redial is not None and dial.node_id is None:
                redial.failures, redial.reason = 0, ""
            elif redial is not None and dial.node_id != node_id:
                self._failed(dial, redial, f"node {node_id!r} is there", now_ns)
        if confirmed:
            self.confirm(node_id)

    def confirm(self, node_id: str) -> None:
        """The node has taken the link, too."""
        node = self._nodes.get(node_id)
        if node is not None and not node.told:
            node.told = True
            self._tell(Event(Event.JOINED, node_id, detail=f"incarnation {node.record.incarnation}"))

    def link_down(self, node_id: str, now_ns: int) -> None:
        """The node's link is gone, and no other took its place."""
        node = self._nodes.get(node_id)
        if node is None or not node.linked:
            return
        # A link that ends soon counts as a failed dial, else two nodes that disagree dial for ever.
        lasted = now_ns - node.since_ns >= self._redial_ns_max
        node.redial.failures = 0 if lasted else node.redial.failures + 1
        node.linked = False
        node.since_ns = now_ns
        node.redial.next_ns = now_ns + self._backoff_ns(node.redial) + self._courtesy_ns(node_id)

    def dial_failed(self, dial: Dial, reason: str, now_ns: int, *, node_id: str | None = None) -> None:
        """The dial gave no link, or one that was refused. ``node_id``: who answered, if anybody did."""
        redial = self._end_dial(dial, node_id)
        if redial is not None:
            self._failed(dial, redial, reason, now_ns)

    def is_self(self, address: str) -> None:
        """The node itself is at ``address``: that is none to dial. `dial_failed` follows."""
        self._seeds.pop(address, None)

    def left(self, node_id: str) -> None:
        """The node said that it leaves for good."""
        node = self._nodes.pop(node_id, None)
        if node is None:
            return
        self._left.pop(node_id, None)
        if len(self._left) >= self._nodes_max:
            del self._left[next(iter(self._left))]
        self._left[node_id] = node.record.incarnation
        if node.told:
            self._tell(Event(Event.LEFT, node_id))

    def tick(self, now_ns: int) -> list[Dial]:
        """Declare nodes lost that are, and decide whom to dial now."""
        dials = []
        for node in self._nodes.values():
            if node.linked:
                continue
            if not node.lost and now_ns - node.since_ns >= self._lost_ns:
                node.lost = True
                reason = f": {node.redial.reason}" if node.redial.reason else ""
                self._tell_lost(node, f"no link for {self._lost_ns // NS_PER_MS} ms{reason}")
            if node.redial.dial is None and now_ns >= node.redial.next_ns:
                dials += self._dial_node(node, now_ns)
        for seed in self._seeds.values():
            if seed.redial.dial is None and now_ns >= seed.redial.next_ns and not self._is_resolved(seed):
                dials += self._dial(seed.redial, Dial(seed.address), now_ns)
        return dials

    # -- nodes

    def _learn(self, record: NodeRecord, now_ns: int) -> bool:
        node_id = record.node_id
        if node_id == self.node_id or self._left.get(node_id, -1) >= record.incarnation:
            return True
        node = self._nodes.get(node_id)
        if node is None:
            if not self._has_room():
                return False
            self._resolve_seeds(self._admit(record, now_ns).record)
        elif record.incarnation > node.record.incarnation and not node.linked:
            self._replace(node, record, now_ns)
            self._resolve_seeds(record)
        return True

    def _has_room(self) -> bool:
        # One place is this node's own.
        return len(self._nodes) + 1 < self._nodes_max or any(node.lost for node in self._nodes.values())

    def _admit(self, record: NodeRecord, now_ns: int) -> _Node:
        if len(self._nodes) + 1 >= self._nodes_max:
            oldest = min((node for node in self._nodes.values() if node.lost), key=lambda node: node.since_ns)
            del self._nodes[oldest.record.node_id]
        node = _Node(record, now_ns, now_ns + self._courtesy_ns(record.node_id))
        self._nodes[record.node_id] = node
        return node

    def _replace(self, node: _Node, record: NodeRecord, now_ns: int) -> None:
        """A higher incarnation of the node is here, so the known one is dead."""
        if node.told:
            self._tell_lost(node, f"replaced by incarnation {record.incarnation}")
        node.record = record
        node.linked = node.lost = False
        node.since_ns = now_ns
        node.redial.failures = 0
        node.redial.next_ns = now_ns + self._courtesy_ns(record.node_id)

    def _tell_lost(self, node: _Node, detail: str) -> None:
        if node.told:
            node.told = False
            self._tell(Event(Event.LOST, node.record.node_id, detail=detail))

    def _tell(self, event: Event) -> None:
        # Each node can be lost, replaced and joined between two drains; beyond that it is a storm.
        if len(self._events) >= 4 * self._nodes_max:
            self._events_missed += 1
        else:
            self._events.append(event)

    # -- dials

    def _dial_node(self, node: _Node, now_ns: int) -> list[Dial]:
        addresses = self._addresses(node)
        if not addresses:
            return []
        address = addresses[node.turn % len(addresses)]
        node.turn += 1
        return self._dial(node.redial, Dial(address, node.record.node_id), now_ns)

    def _addresses(self, node: _Node) -> list[str]:
        """Where the node may be: as it says, and where it was found, which may be all that works."""
        found = (seed.address for seed in self._seeds.values() if seed.node_id == node.record.node_id)
        return list(dict.fromkeys([*node.record.addresses, *found]))

    def _dial(self, redial: _Redial, dial: Dial, now_ns: int) -> list[Dial]:
        if dial.address in self._dialling:
            redial.next_ns = now_ns + self._redial_ns_min
            return []
        redial.dial = self._dialling[dial.address] = dial
        return [dial]

    def _end_dial(self, dial: Dial, node_id: str | None) -> _Redial | None:
        """Whose dial it was; None if that node or address is not known any more."""
        if self._dialling.get(dial.address) == dial:
            del self._dialling[dial.address]
        redial: _Redial | None = None
        if dial.node_id is not None:
            node = self._nodes.get(dial.node_id)
            redial = node.redial if node is not None else None
        elif dial.address in self._seeds:
            seed = self._seeds[dial.address]
            seed.node_id = node_id if node_id is not None else seed.node_id
            redial = seed.redial
        if redial is None or redial.dial != dial:
            return None
        redial.dial = None
        return redial

    def _failed(self, dial: Dial, redial: _Redial, reason: str, now_ns: int) -> None:
        node = self._nodes.get(dial.node_id) if dial.node_id is not None else None
        if node is not None and node.linked:
            return  # the other side's dial was faster
        redial.failures += 1
        redial.reason = reason[:DIAL_REASON_CHARS]
        lost = node is not None and node.lost
        redial.next_ns = now_ns + (self._jitter(self._redial_ns_max) if lost else self._backoff_ns(redial))

    def _is_resolved(self, seed: _Seed) -> bool:
        return seed.node_id is not None and (seed.node_id in self._nodes or seed.node_id in self._left)

    def _resolve_seeds(self, record: NodeRecord) -> None:
        for address in record.addresses:
            seed = self._seeds.get(address)
            if seed is not None and not self._is_resolved(seed):
                seed.node_id = record.node_id

    def _courtesy_ns(self, node_id: str) -> int:
        """How long the lesser of two nodes leaves the dialling to the greater."""
        return 0 if self.node_id > node_id else self._redial_ns_max // 10

    def _backoff_ns(self, redial: _Redial) -> int:
        if redial.failures == 0:
            return 0
        # 2 ** 32 times any minimum is over any maximum.
        longest = self._redial_ns_min << min(redial.failures - 1, 32)
        return self._jitter(min(longest, self._redial_ns_max))

    def _jitter(self, longest_ns: int) -> int:
        half = longest_ns // 2
        return half + int(self._rng.random() * (longest_ns - half))


# -- MEMBERS


def encode_members(records: Iterable[NodeRecord], max_bytes: int = BODY_BYTES) -> list[bytes]:
    """The records as bodies of MEMBERS frames, at least one, cut at ``max_bytes``."""
    parts: list[list[NodeRecord]] = [[]]
    used = HEAD_BYTES
    for record in records:
        size = len(pack(_wire_form(record)))
        if parts[-1] and used + size > max_bytes:
            parts.append([])
            used = HEAD_BYTES
        parts[-1].append(record)
        used += size
    return [pack([_wire_form(record) for record in part]) for part in parts]


def decode_members(body: bytes | memoryview) -> list[NodeRecord]:
    """The records in the body of a MEMBERS frame."""
    return [_read_record(item) for item in expect_list("MEMBERS", unpack("MEMBERS", body))]


def _wire_form(record: NodeRecord) -> tuple[str, int, tuple[str, ...]]:
    return record.node_id, record.incarnation, record.addresses


def _read_record(item: object) -> NodeRecord:
    node_id, incarnation, addresses = expect_list("MEMBERS record", item, range(3, 4))
    return NodeRecord(
        expect_name("MEMBERS node id", node_id),
        expect_int("MEMBERS incarnation", incarnation, 0, U64_MAX),
        expect_addresses("MEMBERS addresses", addresses),
    )
