"""What is known of every node: its record, what it is to this one, and who are the neighbours.

A node is alive (on the rings of `overlay`), lost (off them, but remembered), or left (its last
incarnation is all that is kept).  One of the living may be linked, and may be accused.  Who is a
neighbour follows from the living alone, but that one who is dialled in vain is doubled by the next.

It decides nothing and knows no time but when something changed: `membership` does, which is one of
these.  It holds at most `nodes_max` nodes, of which the lost give way, and as many that have left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from struct import Struct

from agentnet_core.config import EngineConfig
from agentnet_core.dials import Redial
from agentnet_core.overlay import Rings, pace_of
from agentnet_core.proofs import Proofs
from agentnet_core.records import Event, Member, NodeStatus
from agentnet_core.roster import (
    DIGEST_BYTES,
    SHARES,
    NodeRecord,
    Standing,
    join_members,
    pack_record,
)
from agentnet_core.signing import Head, Seal

SAID_BYTES_MAX = 4096
"""A record that takes more bytes is read each time that it is told."""
PASSED_BY_FAILURES = 3
"""After so many failed dials of a neighbour another is dialled as well, until it is reached."""


MARK_BYTES = DIGEST_BYTES // SHARES
MARKS = 2 ** (8 * MARK_BYTES)
DIGEST = Struct(f">{SHARES}I")


def mark_of(record: NodeRecord) -> int:
    """What the record of a living node is in the sum over all of its share."""
    if record.standing is not Standing.ALIVE:
        return 0
    signed = record.seal is not None  # what came by HELLO alone is not yet
    against = ",".join((*record.accusers, "", *record.witnesses))
    line = f"{record.node_id} {record.incarnation} {record.version} {record.listed} {signed:d} {against}"
    return int.from_bytes(blake2b(line.encode(), digest_size=MARK_BYTES).digest(), "big")


def share_of(node_id: str) -> int:
    """Nodes are compared by shares, each of which takes the same nodes everywhere."""
    return blake2b(node_id.encode(), digest_size=1).digest()[0] % SHARES


def _bare(record: NodeRecord) -> NodeRecord:
    """The record without its node's certificate."""
    return record if record.seal is None else record._replace(seal=record.seal._replace(certificate=b""))


class Node:
    """``since_ns``: of its link. ``heard_ns``: when it was heard of last; of a linked one the caller may
    know better. ``told``: JOINED was told and LOST was not. ``packed``: the record, once needed; ``said``: in
    which bytes it was told last, which need not be read again. ``mark``: of the record that was last counted
    in the sum of its ``share``. ``hung_up``: its end of the last link closed without a word; ``refused``:
    where its dials are since. ``fresh``: its certificate has not been told on yet."""

    __slots__ = (
        *("fresh", "heard_ns", "hung_up", "linked", "lost", "mark", "plaintext", "record", "redial"),
        *("packed", "refused", "said", "share", "since_ns", "told", "turn"),
    )

    def __init__(self, record: NodeRecord, now_ns: int, next_ns: int) -> None:
        self.record = record
        self.redial = Redial(next_ns)
        self.since_ns = self.heard_ns = now_ns
        self.linked = self.lost = self.told = self.plaintext = self.hung_up = False
        self.refused: dict[str, None] = {}
        self.fresh = True
        self.turn = 0
        self.share, self.mark = share_of(record.node_id), 0
        self.packed: bytes | None = None
        self.said: bytes | None = None


class Census:
    """All nodes that one node knows. ``courtesy_ns``: how long to wait before a node is dialled first."""

    def __init__(
        self,
        node_id: str,
        incarnation: int,
        addresses: Iterable[str],
        config: EngineConfig,
        courtesy_ns: Callable[[str], int],
        proofs: Proofs | None = None,
    ) -> None:
        self.node_id = node_id
        self.incarnation = incarnation
        self.version = 0
        self.listed = 0
        """The version of its list of agents."""
        self.list_head: Callable[[], Head | None] = lambda: None
        """Of that version, where the network is signed."""
        self._share = share_of(node_id)
        self._sums = [0] * SHARES
        """Of the marks of each share."""
        self._unmarked: dict[str, Node] = {}
        """Those whose mark may be another by now."""
        self.addresses = tuple(addresses)
        self._proofs = proofs
        self._courtesy_ns = courtesy_ns
        self._nodes_max = config.nodes_max
        self._nodes: dict[str, Node] = {}
        self._said: dict[bytes, str] = {}
        """Of which node a record is that need not be read again: at most one of each."""
        self._rings = Rings(config, (node_id,))
        self._found: dict[str, Node] = {}
        """The neighbours, as they were found last."""
        self._listeners: Mapping[str, Node] | None = None
        """Those of them that are told what is new here; None if it may be others by now."""
        self._passed_by = False
        """Whether one of them is dialled in vain, so that who is further on the rings counts."""
        self._moved_ns: int | None = None
        """When they changed since."""
        self._linked: dict[str, Node] = {}
        self._accused: dict[str, Node] = {}
        """Not lost here, and somebody says so, or does not hear it."""
        self._lost: dict[str, Node] = {}
        self._untold: dict[str, Node] = {}
        """The living whose JOINED may have to be told without a link."""
        self._left: dict[str, int] = {}
        self._farewells: dict[str, Seal | None] = {}
        """What they signed when they left, where the network is signed."""
        self._events: deque[Event] = deque()
        self._events_missed = 0

    # -- reading

    def __len__(self) -> int:
        """This node and all that are not lost."""
        return len(self._rings)

    @property
    def pace(self) -> float:
        """How many times as long as in a small network all that is done now and then takes to come again."""
        return pace_of(len(self._rings))

    def members(self) -> list[Member]:
        """This node and all that it knows, by node id; neighbours without a link are DISCONNECTED.

        ``last_heartbeat`` is for the caller to fill in: there is no wall clock here.
        """
        known = [Member(self.node_id, self.incarnation, self.addresses)]
        neighbours = self.neighbours()
        for node_id, node in self._nodes.items():
            record = node.record
            far = not (node.lost or node_id in neighbours or node_id in self._accused)
            status = NodeStatus.ACTIVE if node.linked or far else NodeStatus.DISCONNECTED
            known.append(
                Member(record.node_id, record.incarnation, record.addresses, status, plaintext=node.plaintext)
            )
        return sorted(known, key=lambda member: member.node_id)

    def incarnation_of(self, node_id: str) -> int | None:
        """The incarnation of a node that is known, lost ones too."""
        node = self._nodes.get(node_id)
        return None if node is None else node.record.incarnation

    def lives(self) -> list[tuple[str, int, bool]]:
        """This node and all others that have not left: id, incarnation, whether it is lost."""
        known = [(node_id, node.record.incarnation, node.lost) for node_id, node in self._nodes.items()]
        return [(self.node_id, self.incarnation, False), *known]

    def living(self, node_id: str) -> NodeRecord | None:
        """What is held of another node, unless it is not known, lost or gone."""
        node = self._nodes.get(node_id)
        return None if node is None or node.lost else node.record

    def is_gone(self, node_id: str, incarnation: int) -> bool:
        """Whether another node, in that incarnation, is known to be lost, replaced or gone."""
        if self._left.get(node_id, -1) >= incarnation:
            return True
        node = self._nodes.get(node_id)
        return node is not None and (node.lost or node.record.incarnation > incarnation)

    def alive(self) -> list[str]:
        """This node and all that are not lost."""
        return [self.node_id, *(node_id for node_id, node in self._nodes.items() if not node.lost)]

    def known(self) -> list[str]:
        """This node and all others that have not left, the lost ones too."""
        return [self.node_id, *self._nodes]

    def has_at_most(self, count: int) -> bool:
        """Whether no more nodes than that are alive, this one among them."""
        return len(self._nodes) - len(self._lost) < count

    def neighbours(self) -> Mapping[str, Node]:
        """The nodes to be linked with, which watch each other and pass on what they learn; none is lost."""
        if self._moved_ns is not None:
            before, moved_ns, self._moved_ns = self._found, self._moved_ns, None
            ids = self._rings.neighbours(self.node_id)
            vain = [i for i in ids if self._nodes[i].redial.failures >= PASSED_BY_FAILURES]
            self._passed_by = bool(vain)
            if vain and not self.is_mesh():
                ids += self._rings.neighbours(self.node_id, [i for i in vain if i not in self._linked])
            self._found = {node_id: self._nodes[node_id] for node_id in ids}
            self._listeners = None
            for node_id, node in self._found.items():
                if node_id not in before and not node.linked:
                    # It is watched from now on: what was before does not count.
                    node.heard_ns = max(node.heard_ns, moved_ns)
                    node.redial.next_ns = max(node.redial.next_ns, moved_ns + self._courtesy_ns(node_id))
        return self._found

    def listeners(self) -> Mapping[str, Node]:
        """The neighbours that hear from this node what is new and what is broadcast: all on the rings, those
        of a full mesh that are linked and next to it there."""
        neighbours = self.neighbours()
        if self._listeners is None:
            self._listeners = neighbours
            if self.is_mesh():
                unlinked = [node_id for node_id in neighbours if node_id not in self._linked]
                ids = self._rings.listeners(self.node_id, unlinked)
                self._listeners = {node_id: self._nodes[node_id] for node_id in ids}
        return self._listeners

    def linked(self) -> list[str]:
        """The nodes with a link, the newest link last."""
        return list(self._linked)

    def keeps_link(self, node_id: str) -> bool:
        """Whether a link to the node is for the overlay, and stays however little it is used."""
        return node_id in self.neighbours()

    def relays(self, node_id: str) -> list[str]:
        """Who should be linked with that node, and may pass on what is for it; those linked here first.

        Not who is said not to hear it, or was dialled in vain.
        """
        record = self.living(node_id)
        if record is None:
            return []
        nodes = [self._nodes[each] for each in self._rings.neighbours(node_id) if each != self.node_id]
        heard = [node for node in nodes if node.record.node_id not in record.accusers]
        may = [node for node in heard if node.linked or not node.redial.reason]
        return [node.record.node_id for node in sorted(may, key=lambda node: not node.linked)]

    def is_in_vain(self, node_id: str) -> bool:
        """Whether the node was dialled in vain last."""
        node = self._nodes.get(node_id)
        return node is not None and not node.linked and bool(node.redial.reason)

    def is_mesh(self) -> bool:
        """Whether all nodes are neighbours of each other."""
        return self._rings.is_mesh(self.node_id)

    def records(self) -> list[NodeRecord]:
        """What this node tells others: itself and all that it knows."""
        return [self._me(), *(node.record for node in self._nodes.values())]

    def digest(self) -> bytes:
        """`DIGEST_BYTES`, equal for nodes that hold the same of the same living nodes; so is each share."""
        for node in self._unmarked.values():
            self._count(node, mark_of(node.record))
        self._unmarked.clear()
        sums = list(self._sums)
        sums[self._share] = (sums[self._share] + mark_of(self._me())) % MARKS
        return DIGEST.pack(*sums)

    def frames(self, unlike: bytes = b"") -> list[bytes]:
        """Bodies of MEMBERS frames, at least one: all that this node tells of the shares that are not as in
        that digest."""
        own = self.digest()
        if own == unlike:
            return join_members([])
        there = DIGEST.unpack(unlike) if unlike else (None,) * SHARES
        differs = [here != it for here, it in zip(DIGEST.unpack(own), there, strict=True)]
        ids = [self.node_id] if differs[self._share] else []
        ids += [node_id for node_id, node in self._nodes.items() if differs[node.share]]
        return join_members(self._pack(ids))

    def _count(self, node: Node, mark: int) -> None:
        self._sums[node.share] = (self._sums[node.share] + mark - node.mark) % MARKS
        node.mark = mark

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

    def certificate_of(self, node_id: str, incarnation: int) -> bytes:
        """The certificate of another node in that incarnation; none if it is not known."""
        node = self._nodes.get(node_id)
        if node is None or node.record.seal is None or node.record.incarnation != incarnation:
            return b""
        return node.record.seal.certificate

    def drain_events(self) -> list[Event]:
        """What happened since the last call."""
        events = list(self._events)
        self._events.clear()
        if self._events_missed:
            events.append(Event(Event.EVENTS_MISSED, count=self._events_missed))
            self._events_missed = 0
        return events

    def _me(self) -> NodeRecord:
        me = NodeRecord(self.node_id, self.incarnation, self.addresses, self.version, listed=self.listed)
        return me if self._proofs is None else self._proofs.own(me._replace(head=self.list_head()))

    def _proven(self, record: NodeRecord, source: str | None) -> NodeRecord | None:
        """The record, if it is its node's own word, or if nobody signs."""
        if self._proofs is None or source is None:
            return record
        node = self._nodes.get(record.node_id)
        held = self._me() if record.node_id == self.node_id else node.record if node is not None else None
        return self._proofs.learned(record, held, source)

    def _record(self, node_id: str) -> NodeRecord:
        node = self._nodes.get(node_id)
        if node is not None:
            return node.record
        if node_id == self.node_id:
            return self._me()
        seal = self._farewells.get(node_id)
        return NodeRecord(node_id, self._left.get(node_id, 0), (), standing=Standing.LEFT, seal=seal)

    def _pack(self, node_ids: Iterable[str], *, news: bool = False) -> list[bytes]:
        """What is held of these nodes now, for those who learn of it; not of those that have not signed it.

        ``news``: for those who were told of them before, so that a certificate goes out once.
        """
        packed = []
        for node_id in node_ids:
            node = self._nodes.get(node_id)
            record = self._record(node_id) if node is None else node.record
            if self._proofs is not None and record.seal is None:
                continue
            if node is None or (news and record.seal is not None and not node.fresh):
                certified = record.standing is Standing.LEFT or not news
                packed.append(pack_record(record, certified=certified))
                continue
            if node.packed is None:
                node.packed = pack_record(record)
            node.fresh = node.fresh and not news
            packed.append(node.packed)
        return packed

    def _note_said(self, record: NodeRecord, item: bytes) -> None:
        """The record was told in these bytes: if it is what is held now, they need not be read again."""
        node = self._nodes.get(record.node_id)
        if node is None or node.record is not record or len(item) > SAID_BYTES_MAX:
            return
        if node.said is not None:
            del self._said[node.said]
        node.said, self._said[item] = item, record.node_id
        if record.seal is None and node.packed is None:
            node.packed = item

    def _holds(self, record: NodeRecord, item: bytes) -> bool:
        """Whether a record that was told in these bytes says nothing that is not held."""
        node = self._nodes.get(record.node_id)
        if node is None:
            return False
        held = node.record
        if self._proofs is None:
            holds = record.seal is None and held.covers(record)
            same = holds and held.listed == record.listed
        else:
            # Whatever certificate is beside the same signature, that was checked with the right one.
            holds = same = _bare(held) == _bare(record)
        if same:
            self._note_said(held, item)
        return holds

    # -- changing

    def _admit(self, record: NodeRecord, now_ns: int) -> Node:
        if len(self._nodes) + 1 >= self._nodes_max:
            self._forget(min(self._lost.values(), key=lambda node: node.heard_ns), now_ns)
        node = Node(record, now_ns, now_ns + self._courtesy_ns(record.node_id))
        self._nodes[record.node_id] = node
        self._place(node, now_ns)
        self._hold(node, record)
        return node

    def _hold(self, node: Node, record: NodeRecord) -> None:
        """Hold that record of the node from now on."""
        node.record, node.packed = record, None
        if node.said is not None:
            del self._said[node.said]
            node.said = None
        self._unmarked[record.node_id] = node
        if not node.lost and (record.accusers or record.standing is Standing.LOST):
            self._accused[record.node_id] = node
        else:
            self._accused.pop(record.node_id, None)

    def _place(self, node: Node, now_ns: int) -> None:
        """The node is one of the living from now on."""
        node_id = node.record.node_id
        node.heard_ns = now_ns
        node.redial.failures, node.redial.next_ns = 0, now_ns + self._courtesy_ns(node_id)
        was_mesh = self.is_mesh()
        self._rings.add(node_id)
        if was_mesh or self._passed_by or self._rings.are_beside(self.node_id, node_id):
            self._move(now_ns)
        if not node.told:
            self._untold[node_id] = node

    def _take_off(self, node: Node, now_ns: int) -> None:
        """The node is lost from now on."""
        node_id = node.record.node_id
        node.lost = True
        self._accused.pop(node_id, None)
        self._untold.pop(node_id, None)
        self._lost[node_id] = node
        self._leave_rings(node_id, now_ns)

    def _put_back(self, node: Node, now_ns: int) -> None:
        """A lost node lives."""
        node.lost = False
        self._lost.pop(node.record.node_id)
        self._place(node, now_ns)

    def _forget(self, node: Node, now_ns: int) -> None:
        node_id = node.record.node_id
        self._unlink(node_id)
        for table in (self._nodes, self._accused, self._lost, self._untold, self._unmarked):
            table.pop(node_id, None)
        if node.said is not None:
            del self._said[node.said]
        self._count(node, 0)
        self._leave_rings(node_id, now_ns)

    def _leave_rings(self, node_id: str, now_ns: int) -> None:
        self._rings.remove(node_id)
        if node_id in self._found or self._passed_by or self.is_mesh():
            self._move(now_ns)

    def _bury(self, node_id: str, incarnation: int, seal: Seal | None) -> None:
        self._left.pop(node_id, None)
        if len(self._left) >= self._nodes_max:
            self._exhume(next(iter(self._left)))
        self._left[node_id], self._farewells[node_id] = incarnation, seal

    def _exhume(self, node_id: str) -> None:
        """It does not matter any more that the node has left."""
        self._left.pop(node_id, None)
        self._farewells.pop(node_id, None)

    def _link(self, node: Node) -> None:
        self._linked[node.record.node_id], self._listeners = node, None

    def _unlink(self, node_id: str) -> None:
        self._linked.pop(node_id, None)
        self._listeners = None

    def _has_room(self) -> bool:
        # One place is this node's own.
        return len(self._nodes) + 1 < self._nodes_max or bool(self._lost)

    def _move(self, now_ns: int) -> None:
        """A node has come, or gone, or is dialled in vain from now on, or no more."""
        self._moved_ns = now_ns

    def _was_reached(self, node: Node, now_ns: int) -> None:
        if node.redial.failures >= PASSED_BY_FAILURES:
            self._move(now_ns)

    def _tell_far(self) -> None:
        """Tell of those that joined and are no neighbours; of the others their links will tell."""
        for node in [node for i, node in self._untold.items() if i not in self.neighbours()]:
            if not node.linked:
                self._tell_joined(node)

    def _tell_joined(self, node: Node) -> None:
        node.told = True
        self._untold.pop(node.record.node_id, None)
        self._tell(Event(Event.JOINED, node.record.node_id, detail=f"incarnation {node.record.incarnation}"))

    def _tell(self, event: Event) -> None:
        # Each node can be lost, replaced and joined between two drains; beyond that it is a storm.
        if len(self._events) >= 4 * self._nodes_max:
            self._events_missed += 1
        else:
            self._events.append(event)
