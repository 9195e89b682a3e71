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

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING

from agentnet_core.config import EngineConfig
from agentnet_core.errors import MessageTooLarge, ProtocolError
from agentnet_core.gossip import GONE, GOSSIP, BroadcastId, Gossip, decode, encode
from agentnet_core.signing import BROADCAST, DIGEST_BYTES, Seal, Seals
from agentnet_core.tree import Tree

if TYPE_CHECKING:
    from agentnet_core.engine import Engine
    from agentnet_core.message import AgentMessage
    from agentnet_core.session import Session

KINDS = range(GOSSIP, GONE + 1)
MS = 1_000_000
OFFER_NS = 10 * MS
"""Those who wait for room are let in some together."""

Deliver = Callable[[str, Gossip, bytes], None]
"""Called with the linked node that brought a body, what brought it, and the body."""


class Broadcasts:
    """The tree of one engine. ``refused``: bodies that came from afar and were not what they should be.
    ``sent``: users' that went out."""

    def __init__(
        self,
        engine: Engine,
        config: EngineConfig,
        seals: Seals | None = None,
        certificate_of: Callable[[str, int], bytes] = lambda *_: b"",
    ) -> None:
        self.engine = engine
        self._seals = seals
        self._certificate_of = certificate_of
        self._new_ns = config.broadcasts_kept_ms * MS
        self._first_link_ns: int | None = None
        self.refused = self.sent = 0
        self._tree = Tree(engine.node_id, engine.incarnation, config, self._is_crowded)
        self._tree.seal = self._seal
        self._bytes_max = config.broadcast_bytes_max
        self._backlog_max = min(config.broadcast_backlog_bytes_max, config.control_bytes_max // 2)
        self._peers: dict[str, None] = {}
        self._takers: dict[int, Deliver] = {}

    def take(self, what: int, deliver: Deliver) -> None:
        """Let ``deliver`` have the bodies of that kind."""
        self._takers[what] = deliver

    def publish(self, what: int, body: bytes) -> None:
        """Send a body of the network's own to all nodes but this one."""
        self._tree.publish(bytes((what,)) + body, self.engine.now_ns, own=True)
        self._flush()

    def fits(self, message: AgentMessage) -> bool:
        """Whether the tree takes a user's message of that size."""
        # The kind is one byte; a payload that is too large by itself need not be encoded to see it.
        return len(message.payload) < self._bytes_max and len(message.encode()) < self._bytes_max

    def too_large(self, message: AgentMessage) -> MessageTooLarge:
        """Why it does not."""
        return MessageTooLarge(
            f"payload of {len(message.payload)} bytes to all nodes, which are not all linked: expected at "
            f"most broadcast_bytes_max={self._bytes_max}, less what the message has beside it"
        )

    def offer(self, what: int, body: bytes) -> int:
        """Send a user's body to all nodes but this one: 0, or when there may be room for it."""
        now_ns = self.engine.now_ns
        due_ns = self._tree.room_ns(len(body) + 1, now_ns)
        if due_ns > now_ns:
            return max(due_ns, now_ns + OFFER_NS)
        self._tree.publish(bytes((what,)) + body, now_ns)
        self.sent += 1
        self._flush()
        return 0

    def stats(self) -> dict[str, int]:
        """Every counter, by name."""
        tree = self._tree
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

    def take_up(self, listeners: Mapping[str, object], nodes: int) -> None:
        """Broadcasts go over the links to these, those that were made for messages too, but not through
        others; no others are announced any. ``nodes``: how many there are in the network."""
        self._tree.listeners = listeners
        self._tree.pace(nodes)
        for node_id in listeners:
            session = self.engine.sessions.get(node_id)
            if session is not None and not session.relay and node_id not in self._peers:
                self.link_up(node_id)

    def link_up(self, node_id: str) -> None:
        """A link to a neighbour is welcomed: broadcasts go over it."""
        self._peers[node_id] = None
        if self._first_link_ns is None:
            self._first_link_ns = self.engine.now_ns
        self._tree.link_up(node_id, self.engine.now_ns)
        self._flush()

    def link_down(self, node_id: str) -> None:
        """The link to that node is gone."""
        if node_id in self._peers:
            del self._peers[node_id]
            self._tree.link_down(node_id, self.engine.now_ns)
            self._flush()

    def receive(self, session: Session, kind: int, body: bytes) -> None:
        """A frame of the tree; whoever sends one is a neighbour."""
        source = session.node_id
        frame = decode(kind, body, self._tree.known)
        if source not in self._peers:
            self.link_up(source)
        if isinstance(frame, Gossip) and not self._is_proven(source, frame):
            return
        self._tree.receive(source, frame, self.engine.now_ns)
        self._flush()
        for gossip in self._tree.drain_delivered():
            self._deliver(source, gossip)

    def tick(self, now_ns: int) -> int:
        """Mend the tree; the time of the next thing."""
        self._tree.tick(now_ns)
        self._flush()
        return self._tree.next_deadline_ns()

    def _deliver(self, source: str, gossip: Gossip) -> None:
        origin = gossip.broadcast.origin
        deliver = self._takers.get(gossip.payload[0]) if gossip.payload else None
        if deliver is None:
            self.refused += 1
            return
        try:
            deliver(source, gossip, gossip.payload[1:])
        except ProtocolError:
            if source == origin:
                raise
            self.refused += 1

    def _seal(self, broadcast: BroadcastId, payload: bytes) -> Seal | None:
        """What goes with a broadcast of this node."""
        if self._seals is None:
            return None
        since_ns = self._first_link_ns if self._first_link_ns is not None else self.engine.now_ns
        is_new = self.engine.now_ns - since_ns < self._new_ns
        signature = self._seals.sign(BROADCAST, *_said(broadcast, payload))
        return Seal(signature, self._seals.certificate if is_new else b"")

    def _is_proven(self, source: str, gossip: Gossip) -> bool:
        """Whether it is here already, or its origin has sent it. Forged ends the link."""
        if self._seals is None or self._tree.is_here(gossip.broadcast):
            return True
        origin, incarnation, _ = gossip.broadcast
        seal = gossip.seal
        if seal is None:
            self._seals.refuse(source, origin, "its broadcast bears no signature")
            return False
        certificate = self._certificate_of(origin, incarnation) or seal.certificate
        said = _said(gossip.broadcast, gossip.payload)
        return self._seals.holds(source, origin, certificate, seal.signature, BROADCAST, *said)

    def _is_crowded(self, name: str, more: int) -> bool:
        """Whether that much more would be too much for the peer now."""
        session = self.engine.sessions.get(name)
        return session is not None and session.control.waiting + more > self._backlog_max

    def _flush(self) -> None:
        for names, frame in self._tree.drain_frames():
            kind, body = encode(frame)
            for name in names:
                session = self.engine.sessions.get(name)
                if session is not None:
                    self.engine.put_control(session, kind, body)
        self.engine.wake_by(self._tree.next_deadline_ns())


def _said(broadcast: BroadcastId, payload: bytes) -> tuple[object, ...]:
    """What of a broadcast its origin signs."""
    return (*broadcast, blake2b(payload, digest_size=DIGEST_BYTES).digest())
