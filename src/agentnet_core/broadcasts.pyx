"""What reaches every node over the broadcast tree: the tree between links and those who publish.

In: bodies to publish, frames of the tree's kinds, links that come and go.  Out: frames in the control
lane, and each body of another node once, to whoever takes its kind.  A payload is one byte that says
what it is, then the body; what is not known here is passed on and not delivered.

A user's body goes out when there is room for it among what the tree keeps; until then its sender waits.
A peer that does not read as fast as broadcasts come is announced them, and asks when it has read that:
what waits for it in its control lane is bounded.

Where the network is signed, so is each broadcast, by its origin: its number and its payload.  Who has just
joined sends its certificate with it, for a broadcast may overtake the news of who it is from.

A peer answers for what it says in its own name: bad bytes close its link.  Those of an origin further
away are counted (`refused`) and let go, for whoever passed them on is not to blame.
"""

from libc.stdint cimport INT64_MAX, int64_t

from hashlib import blake2b

from agentnet_core.engine cimport Engine
from agentnet_core.gossip cimport Frame, Gossip, decode, encode, read_id
from agentnet_core.session cimport Session
from agentnet_core.tree cimport Tree

from agentnet_core.errors import MessageTooLarge, ProtocolError
from agentnet_core.gossip import GONE, GOSSIP
from agentnet_core.signing import BROADCAST, DIGEST_BYTES, Seal

KINDS = range(GOSSIP, GONE + 1)

cdef enum:
    MS = 1_000_000
    OFFER_NS = 10_000_000       # those who wait for room are let in some together

cdef int64_t never = INT64_MAX


cdef class Broadcasts:
    """The tree of one engine."""

    def __cinit__(self, Engine engine not None, config, seals=None, certificate_of=None):
        self.engine = engine
        self.seals = seals
        self.certificate_of = certificate_of
        self.new_ns = config.broadcasts_kept_ms * MS
        self.first_link_ns = never
        self.bytes_max = config.broadcast_bytes_max
        self.backlog_max = min(config.broadcast_backlog_bytes_max, config.control_bytes_max // 2)
        self._peers, self._takers = {}, {}
        self.tree = Tree(engine.node_id, engine.incarnation, config, self._is_crowded)
        self.tree.seal = self._seal

    def take(self, int what, deliver):
        """Let ``deliver`` have the bodies of that kind."""
        self._takers[what] = deliver

    def publish(self, int what, bytes body not None):
        """Send a body of the network's own to all nodes but this one."""
        self.tree.publish(bytes((what,)) + body, self.engine.now_ns, own=True)
        self.flush()

    def fits(self, message not None):
        """Whether the tree takes a user's message of that size."""
        # The kind is one byte; a payload that is too large by itself need not be encoded to see it.
        return len(message.payload) < self.bytes_max and len(message.encode()) < self.bytes_max

    def too_large(self, message not None):
        """Why it does not."""
        return MessageTooLarge(
            f"payload of {len(message.payload)} bytes to all nodes, which are not all linked: expected at "
            f"most broadcast_bytes_max={self.bytes_max}, less what the message has beside it"
        )

    def offer(self, int what, bytes body not None):
        """Send a user's body to all nodes but this one: 0, or when there may be room for it."""
        cdef int64_t now_ns = self.engine.now_ns
        cdef int64_t due_ns = self.tree.room_ns(len(body) + 1, now_ns)
        if due_ns > now_ns:
            return max(due_ns, now_ns + OFFER_NS)
        self.tree.publish(bytes((what,)) + body, now_ns)
        self.sent += 1
        self.flush()
        return 0

    def stats(self):
        """Every counter, by name."""
        cdef Tree tree = self.tree
        kept, kept_bytes = tree.kept
        return {
            "broadcasts_sent": self.sent,
            "broadcasts_kept": kept,
            "broadcasts_kept_bytes": kept_bytes,
            "broadcasts_twice": tree.duplicates,
            "broadcasts_missed": tree.missed,
            "broadcasts_unanswered": tree.unanswered,
            "broadcasts_put_off": tree.put_off,
            "broadcasts_refused": self.refused + tree.origins_refused + tree.announcements_refused,
        }

    def take_up(self, listeners not None, Py_ssize_t nodes):
        """Broadcasts go over the links to these, those that were made for messages too, but not through
        others; no others are announced any. ``nodes``: how many there are in the network."""
        cdef Session session
        if nodes != self.nodes:
            self.nodes = nodes
            self.tree.pace(nodes)
        if listeners is self.taken_up:
            return
        self.tree.listeners = self.taken_up = listeners
        for node_id in listeners:
            session = self.engine.sessions.get(node_id)
            if session is not None and not session.relay and node_id not in self._peers:
                self.link_up(node_id)

    cdef int link_up(self, str node_id) except -1:
        """A link to a neighbour is welcomed: broadcasts go over it."""
        self._peers[node_id] = None
        if self.first_link_ns == never:
            self.first_link_ns = self.engine.now_ns
        self.tree.link_up(node_id, self.engine.now_ns)
        return self.flush()

    def link_down(self, str node_id not None):
        """The link to that node is gone, or another takes its place."""
        self.taken_up = None  # the other is to be looked at
        if node_id in self._peers:
            del self._peers[node_id]
            self.tree.link_down(node_id, self.engine.now_ns)
            self.flush()

    def receive(self, Session session not None, int kind, bytes body not None):
        """A frame of the tree; whoever sends one is a neighbour."""
        cdef str source = session.node_id
        cdef Frame frame = decode(kind, body)
        if source not in self._peers:
            self.link_up(source)
        if self.seals is not None and type(frame) is Gossip and not self.is_proven(source, <Gossip>frame):
            return
        self.tree.receive(source, frame, self.engine.now_ns)
        self.flush()
        for gossip in self.tree.drain_delivered():
            self.deliver(source, <Gossip>gossip)

    def tick(self, int64_t now_ns):
        """Mend the tree; the time of the next thing."""
        self.tree.tick(now_ns)
        self.flush()
        return self.tree.next_deadline_ns()

    cdef int deliver(self, str source, Gossip gossip) except -1:
        cdef object taker = self._takers.get(gossip.payload[0]) if gossip.payload else None
        if taker is None:
            self.refused += 1
            return 0
        try:
            taker(source, gossip, gossip.payload[1:])
        except ProtocolError:
            if source == gossip.origin:
                raise
            self.refused += 1
        return 0

    def _seal(self, bytes broadcast, bytes payload):
        """What goes with a broadcast of this node."""
        if self.seals is None:
            return None
        is_new = self.first_link_ns == never or self.engine.now_ns - self.first_link_ns < self.new_ns
        signature = self.seals.sign(BROADCAST, *said(broadcast, payload))
        return Seal(signature, self.seals.certificate if is_new else b"")

    cdef bint is_proven(self, str source, Gossip gossip) except -1:
        """Whether it is here already, or its origin has sent it. Forged ends the link."""
        if self.tree.is_here(gossip.broadcast):
            return True
        origin, incarnation, _ = read_id(gossip.broadcast)
        seal = gossip.seal
        if seal is None:
            self.seals.refuse(source, origin, "its broadcast bears no signature")
            return False
        certificate = self.certificate_of(origin, incarnation) or seal.certificate
        words = said(gossip.broadcast, gossip.payload)
        return self.seals.holds(source, origin, certificate, seal.signature, BROADCAST, *words)

    def _is_crowded(self, str name, Py_ssize_t more):
        """Whether that much more would be too much for the peer now."""
        cdef Session session = self.engine.sessions.get(name)
        return session is not None and session.control.waiting + more > self.backlog_max

    cdef int flush(self) except -1:
        cdef Session session
        cdef int kind
        cdef bytes body
        for names, frame in self.tree.drain_frames():
            kind, body = encode(frame)
            for name in names:
                session = self.engine.sessions.get(name)
                if session is not None:
                    self.engine.put_control(session, kind, body)
        self.engine.wake_by(self.tree.next_deadline_ns())
        return 0


cdef tuple said(bytes broadcast, bytes payload):
    """What of a broadcast its origin signs."""
    return (*read_id(broadcast), blake2b(payload, digest_size=DIGEST_BYTES).digest())
