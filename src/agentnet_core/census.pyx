"""What is known of every node: its record, what it is to this one, and who are the neighbours.

A node is alive (on the rings of `overlay`), lost (off them, but remembered), or left (its last
incarnation is all that is kept).  One of the living may be linked, and may be accused.  Who is a
neighbour follows from the living alone, but that one who is dialled in vain is doubled by the next.

It decides nothing and knows no time but when something changed: `membership` does, which is one of
these.  It holds at most `nodes_max` nodes, of which the lost give way, and as many that have left.
"""

from libc.stdint cimport INT64_MIN, uint32_t

from agentnet_core.member_record cimport (
    ALIVE,
    LEFT,
    LOST,
    NodeRecord,
    Plain,
    covers_plain,
    find_plain,
    plain_record,
    read_record,
    text,
)
from agentnet_core.node cimport Node, share_of
from agentnet_core.overlay cimport Rings

from collections import deque
from hashlib import blake2b
from operator import attrgetter
from struct import Struct

from agentnet_core.member_record import pack_record
from agentnet_core.overlay import pace_of
from agentnet_core.records import Event, Member, NodeStatus
from agentnet_core.roster import DIGEST_BYTES, SHARES, join_members

SAID_BYTES_MAX = 4096
"""A record that takes more bytes is read each time that it is told."""
PASSED_BY_FAILURES = 3
"""After so many failed dials of a neighbour another is dialled as well, until it is reached."""


MARK_BYTES = DIGEST_BYTES // SHARES
DIGEST = Struct(f">{SHARES}I")
HEARD_NS = attrgetter("heard_ns")

cdef uint32_t MARK_MASK = 2 ** (8 * MARK_BYTES) - 1
cdef int64_t NEVER_MOVED = INT64_MIN


cpdef uint32_t mark_of(NodeRecord record) except? 0:
    """What the record of a living node is in the sum over all of its share."""
    if record.rank != ALIVE:
        return 0
    cdef bint signed = record.seal is not None  # what came by HELLO alone is not yet
    against = ",".join((*record.accusers, "", *record.witnesses))
    line = f"{record.node_id} {record.incarnation} {record.version} {record.listed} {signed:d} {against}"
    return int.from_bytes(blake2b(line.encode(), digest_size=MARK_BYTES).digest(), "big")


cdef NodeRecord bare(NodeRecord record):
    """The record without its node's certificate."""
    return record if record.seal is None else record.replace(seal=record.seal._replace(certificate=b""))


cdef class Census:
    """All nodes that one node knows. ``courtesy_ns``: how long to wait before a node is dialled first."""

    def __init__(self, str node_id, uint64_t incarnation, addresses, config, courtesy_ns, proofs=None):
        self.node_id, self.incarnation, self.addresses = node_id, incarnation, tuple(addresses)
        self.list_head = none
        self._share, self._sums = share_of(node_id), [0] * SHARES
        self._proofs, self._courtesy_ns = proofs, courtesy_ns
        self._nodes_max = config.nodes_max
        self._rings = Rings(config, (node_id,))
        self._nodes, self._found, self._listeners = {}, {}, None
        self._linked, self._accused, self._lost, self._untold, self._unmarked = {}, {}, {}, {}, {}
        self._said, self._left, self._farewells = {}, {}, {}
        self._events, self._events_missed = deque(), 0
        self._moved_ns = NEVER_MOVED

    # -- reading

    def __len__(self):
        """This node and all that are not lost."""
        return len(self._rings.slots)

    @property
    def pace(self):
        """How many times as long as in a small network all that is done now and then takes to come again."""
        return pace_of(len(self._rings.slots))

    def members(self):
        """This node and all that it knows, by node id; neighbours without a link are DISCONNECTED.

        ``last_heartbeat`` is for the caller to fill in: there is no wall clock here.
        """
        cdef Node node
        cdef NodeRecord record
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

    cpdef incarnation_of(self, str node_id):
        """The incarnation of a node that is known, lost ones too."""
        cdef Node node = self._nodes.get(node_id)
        return None if node is None else node.record.incarnation

    def lives(self):
        """This node and all others that have not left: id, incarnation, whether it is lost."""
        cdef Node node
        cdef list known = [(self.node_id, self.incarnation, False)]
        for node_id, node in self._nodes.items():
            known.append((node_id, node.record.incarnation, node.lost))
        return known

    cpdef NodeRecord living(self, str node_id):
        """What is held of another node, unless it is not known, lost or gone."""
        cdef Node node = self._nodes.get(node_id)
        return None if node is None or node.lost else node.record

    cpdef bint is_gone(self, str node_id, uint64_t incarnation) except -1:
        """Whether another node, in that incarnation, is known to be lost, replaced or gone."""
        cdef Node node
        if self.has_left(node_id, incarnation):
            return True
        node = self._nodes.get(node_id)
        return node is not None and (node.lost or node.record.incarnation > incarnation)

    def alive(self):
        """This node and all that are not lost."""
        cdef Node node
        return [self.node_id, *[node_id for node_id, node in self._nodes.items() if not node.lost]]

    def known(self):
        """This node and all others that have not left, the lost ones too."""
        return [self.node_id, *self._nodes]

    def has_at_most(self, Py_ssize_t count):
        """Whether no more nodes than that are alive, this one among them."""
        return len(self._nodes) - len(self._lost) < count

    cpdef dict neighbours(self):
        """The nodes to be linked with, which watch each other and pass on what they learn; none is lost."""
        cdef Node node
        cdef dict before
        cdef int64_t moved_ns = self._moved_ns
        if moved_ns == NEVER_MOVED:
            return self._found
        before, self._moved_ns = self._found, NEVER_MOVED
        ids = self._rings.neighbours(self.node_id)
        vain = [i for i in ids if (<Node>self._nodes[i]).redial.failures >= PASSED_BY_FAILURES]
        self._passed_by = bool(vain)
        if vain and not self.is_mesh():
            ids += self._rings.neighbours(self.node_id, [i for i in vain if i not in self._linked])
        self._found, self._listeners = {node_id: self._nodes[node_id] for node_id in ids}, None
        for node_id, node in self._found.items():
            if node_id not in before and not node.linked:
                # It is watched from now on: what was before does not count.
                node.heard_ns = max(node.heard_ns, moved_ns)
                node.redial.next_ns = max(node.redial.next_ns, moved_ns + self.courtesy_ns(node_id))
        return self._found

    cpdef dict listeners(self):
        """The neighbours that hear from this node what is new and what is broadcast: all on the rings, those
        of a full mesh that are linked and next to it there."""
        cdef dict neighbours = self.neighbours()
        if self._listeners is None:
            self._listeners = neighbours
            if self.is_mesh():
                unlinked = [node_id for node_id in neighbours if node_id not in self._linked]
                ids = self._rings.listeners(self.node_id, unlinked)
                self._listeners = {node_id: self._nodes[node_id] for node_id in ids}
        return self._listeners

    def linked(self):
        """The nodes with a link, the newest link last."""
        return list(self._linked)

    def keeps_link(self, str node_id):
        """Whether a link to the node is for the overlay, and stays however little it is used."""
        return node_id in self.neighbours()

    def relays(self, str node_id):
        """Who should be linked with that node, and may pass on what is for it; those linked here first.

        Not who is said not to hear it, or was dialled in vain.
        """
        cdef NodeRecord record = self.living(node_id)
        if record is None:
            return []
        nodes = [self._nodes[each] for each in self._rings.neighbours(node_id) if each != self.node_id]
        heard = [node for node in nodes if node.record.node_id not in record.accusers]
        may = [node for node in heard if node.linked or not node.redial.reason]
        return [node.record.node_id for node in sorted(may, key=lambda node: not node.linked)]

    def is_in_vain(self, str node_id):
        """Whether the node was dialled in vain last."""
        cdef Node node = self._nodes.get(node_id)
        return node is not None and not node.linked and bool(node.redial.reason)

    cpdef bint is_mesh(self) except -1:
        """Whether all nodes are neighbours of each other."""
        return self._rings.is_mesh(self.node_id)

    def records(self):
        """What this node tells others: itself and all that it knows."""
        cdef Node node
        return [self._me(), *[node.record for node in self._nodes.values()]]

    def digest(self):
        """`DIGEST_BYTES`, equal for nodes that hold the same of the same living nodes; so is each share."""
        cdef Node node
        for node in self._unmarked.values():
            self.count_mark(node, mark_of(node.record))
        self._unmarked.clear()
        sums = list(self._sums)
        sums[self._share] = (<uint32_t>sums[self._share] + mark_of(self._me())) & MARK_MASK
        return DIGEST.pack(*sums)

    def frames(self, bytes unlike=b""):
        """Bodies of MEMBERS frames, at least one: all that this node tells of the shares that are not as in
        that digest."""
        cdef Node node
        own = self.digest()
        if own == unlike:
            return join_members([])
        there = DIGEST.unpack(unlike) if unlike else (None,) * SHARES
        differs = [here != it for here, it in zip(DIGEST.unpack(own), there, strict=True)]
        ids = [self.node_id] if differs[self._share] else []
        ids += [node_id for node_id, node in self._nodes.items() if differs[node.share]]
        return join_members(self._pack(ids))

    def refusal(self, str node_id, uint64_t incarnation):
        """Why a link to that node cannot be, whatever other links there are; None if it can."""
        cdef Node node
        if self.has_left(node_id, incarnation):
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
        if node is None and not self.has_room():
            return f"node {node_id!r} is one too many for nodes_max={self._nodes_max} of {self.node_id!r}"
        return None

    def certificate_of(self, str node_id, uint64_t incarnation):
        """The certificate of another node in that incarnation; none if it is not known."""
        cdef Node node = self._nodes.get(node_id)
        if node is None or node.record.seal is None or node.record.incarnation != incarnation:
            return b""
        return node.record.seal.certificate

    def drain_events(self):
        """What happened since the last call."""
        if not self._events and not self._events_missed:
            return []
        events = list(self._events)
        self._events.clear()
        if self._events_missed:
            events.append(Event(Event.EVENTS_MISSED, count=self._events_missed))
            self._events_missed = 0
        return events

    cpdef NodeRecord _me(self):
        cdef NodeRecord me = NodeRecord(
            self.node_id, self.incarnation, self.addresses, self.version, listed=self.listed
        )
        return me if self._proofs is None else self._proofs.own(me.with_list(self.listed, self.list_head()))

    cdef NodeRecord proven(self, NodeRecord record, str source):
        """The record, if it is its node's own word, or if nobody signs."""
        cdef Node node
        if self._proofs is None or source is None:
            return record
        node = self._nodes.get(record.node_id)
        held = self._me() if record.node_id == self.node_id else node.record if node is not None else None
        return self._proofs.learned(record, held, source)

    cpdef NodeRecord _record(self, str node_id):
        cdef Node node = self._nodes.get(node_id)
        if node is not None:
            return node.record
        if node_id == self.node_id:
            return self._me()
        seal = self._farewells.get(node_id)
        return NodeRecord(node_id, self._left.get(node_id, 0), (), standing=LEFT, seal=seal)

    def _pack(self, node_ids, *, bint news=False):
        """What is held of these nodes now, for those who learn of it; not of those that have not signed it.

        ``news``: for those who were told of them before, so that a certificate goes out once.
        """
        cdef Node node
        cdef NodeRecord record
        cdef list packed = []
        for node_id in node_ids:
            node = self._nodes.get(node_id)
            record = self._record(node_id) if node is None else node.record
            if self._proofs is not None and record.seal is None:
                continue
            if node is None or (news and record.seal is not None and not node.fresh):
                certified = record.rank == LEFT or not news
                packed.append(pack_record(record, certified=certified))
                continue
            if node.packed is None:
                node.packed = pack_record(record)
            node.fresh = node.fresh and not news
            packed.append(node.packed)
        return packed

    # -- what is said more than once

    cdef object known_or_read(self, bytes item):
        """The node that a record in these bytes is of, if that says nothing that is not held; else itself."""
        cdef Plain plain
        cdef Node node
        cdef NodeRecord record = None
        if self._proofs is None and find_plain(item, &plain):
            node_id = text(plain.name, plain.name_size)
            node = self._nodes.get(node_id)
            if node is not None and covers_plain(node.record, &plain):
                return node_id
            record = plain_record(&plain, node_id)
            if record is not None:
                return record
        node_id = self._said.get(item)
        if node_id is not None:
            return node_id
        record = read_record(item)
        return record.node_id if self.holds(record, item) else record

    cdef int note_said(self, NodeRecord record, bytes item) except -1:
        """The record was told in these bytes: if it is what is held now, they need not be read again."""
        cdef Node node = self._nodes.get(record.node_id)
        if node is None or node.record is not record or len(item) > SAID_BYTES_MAX:
            return 0
        if self._proofs is None:
            if node.packed is None and record.seal is None:
                node.packed = item
            return 0
        if node.said is not None:
            del self._said[node.said]
        node.said, self._said[item] = item, record.node_id
        return 0

    cdef bint holds(self, NodeRecord record, bytes item) except -1:
        """Whether a record that was told in these bytes says nothing that is not held."""
        cdef Node node = self._nodes.get(record.node_id)
        if node is None:
            return False
        if self._proofs is None:
            return record.seal is None and node.record.covers(record)
        # Whatever certificate is beside the same signature, that was checked with the right one.
        if bare(node.record) != bare(record):
            return False
        self.note_said(node.record, item)
        return True

    # -- changing

    cdef Node admit(self, NodeRecord record, int64_t now_ns):
        cdef Node node
        if len(self._nodes) + 1 >= self._nodes_max:
            self.forget(min(self._lost.values(), key=HEARD_NS), now_ns)
        node = Node(record, now_ns, now_ns + self.courtesy_ns(record.node_id))
        self._nodes[record.node_id] = node
        self.place(node, now_ns)
        self.hold(node, record)
        return node

    cdef int hold(self, Node node, NodeRecord record) except -1:
        """Hold that record of the node from now on."""
        node.record, node.packed = record, None
        if node.said is not None:
            del self._said[node.said]
            node.said = None
        self._unmarked[record.node_id] = node
        if not node.lost and (record.accusers or record.rank == LOST):
            self._accused[record.node_id] = node
        elif self._accused:
            self._accused.pop(record.node_id, None)
        return 0

    cdef int place(self, Node node, int64_t now_ns) except -1:
        """The node is one of the living from now on."""
        cdef str node_id = node.record.node_id
        cdef bint was_mesh = self.is_mesh()
        self.changes += 1
        node.heard_ns = now_ns
        node.redial.failures, node.redial.next_ns = 0, now_ns + self.courtesy_ns(node_id)
        self._rings.add(node_id)
        if was_mesh or self._passed_by or self._rings.are_beside(self.node_id, node_id):
            self.move(now_ns)
        if not node.told:
            self._untold[node_id] = node
        return 0

    cdef int take_off(self, Node node, int64_t now_ns) except -1:
        """The node is lost from now on."""
        cdef str node_id = node.record.node_id
        node.lost = True
        self.changes += 1
        self._accused.pop(node_id, None)
        self._untold.pop(node_id, None)
        self._lost[node_id] = node
        self.leave_rings(node_id, now_ns)
        return 0

    cdef int put_back(self, Node node, int64_t now_ns) except -1:
        """A lost node lives."""
        node.lost = False
        self._lost.pop(node.record.node_id)
        self.place(node, now_ns)
        return 0

    cdef int forget(self, Node node, int64_t now_ns) except -1:
        cdef str node_id = node.record.node_id
        self.changes += 1
        self.unlink(node_id)
        for table in (self._nodes, self._accused, self._lost, self._untold, self._unmarked):
            table.pop(node_id, None)
        if node.said is not None:
            del self._said[node.said]
        self.count_mark(node, 0)
        self.leave_rings(node_id, now_ns)
        return 0

    cdef int leave_rings(self, str node_id, int64_t now_ns) except -1:
        self._rings.remove(node_id)
        if node_id in self._found or self._passed_by or self.is_mesh():
            self.move(now_ns)
        return 0

    cdef int bury(self, str node_id, uint64_t incarnation, seal) except -1:
        self._left.pop(node_id, None)
        if len(self._left) >= self._nodes_max:
            self.exhume(next(iter(self._left)))
        self._left[node_id], self._farewells[node_id] = incarnation, seal
        return 0

    cdef int exhume(self, str node_id) except -1:
        """It does not matter any more that the node has left."""
        if self._left:
            self._left.pop(node_id, None)
            self._farewells.pop(node_id, None)
        return 0

    cdef bint has_left(self, str node_id, uint64_t incarnation) except -1:
        """Whether it said so, in that incarnation or a later one."""
        cdef object last = self._left.get(node_id) if self._left else None
        return last is not None and <uint64_t>last >= incarnation

    cdef int link(self, Node node) except -1:
        self._linked[node.record.node_id], self._listeners = node, None
        return 0

    cdef int unlink(self, str node_id) except -1:
        self._linked.pop(node_id, None)
        self._listeners = None
        return 0

    cdef bint has_room(self) except -1:
        # One place is this node's own.
        return len(self._nodes) + 1 < self._nodes_max or bool(self._lost)

    cdef int move(self, int64_t now_ns) except -1:
        """A node has come, or gone, or is dialled in vain from now on, or no more."""
        self._moved_ns = now_ns
        return 0

    cdef int was_reached(self, Node node, int64_t now_ns) except -1:
        if node.redial.failures >= PASSED_BY_FAILURES:
            self.move(now_ns)
        return 0

    cdef int64_t courtesy_ns(self, str node_id) except? -1:
        return self._courtesy_ns(node_id)

    cdef int count_mark(self, Node node, uint32_t mark) except -1:
        self._sums[node.share] = (<uint32_t>self._sums[node.share] + mark - node.mark) & MARK_MASK
        node.mark = mark
        return 0

    cdef int tell_far(self) except -1:
        """Tell of those that joined and are no neighbours; of the others their links will tell."""
        cdef Node node
        if not self._untold:
            return 0
        neighbours = self.neighbours()
        for node in [node for i, node in self._untold.items() if i not in neighbours]:
            if not node.linked:
                self.tell_joined(node)
        return 0

    cdef int tell_joined(self, Node node) except -1:
        node.told = True
        self._untold.pop(node.record.node_id, None)
        self.tell(Event(Event.JOINED, node.record.node_id, detail=f"incarnation {node.record.incarnation}"))
        return 0

    cdef int tell(self, event) except -1:
        # Each node can be lost, replaced and joined between two drains; beyond that it is a storm.
        if len(self._events) >= 4 * self._nodes_max:
            self._events_missed += 1
        else:
            self._events.append(event)
        return 0


def none():
    """No list is signed."""
