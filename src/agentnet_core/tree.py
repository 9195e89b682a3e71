"""Broadcasts along a tree that grows out of the links, and mends itself: Plumtree.

Leitao, Pereira, Rodrigues, "Epidemic Broadcast Trees", SRDS 2007.  A link is eager or lazy, at each
end.  A node hangs on the tree by its first link, which it grafts; further ones are lazy, so that who comes
makes no circle.  The first copy of a broadcast is delivered, sent on over eager links, and
announced, some together, over lazy ones; the link that brought it is eager.  A further copy prunes
the link that brought it: lazy at both ends.  What is left of eager links is a tree, one for all
origins.  What is announced and does not come is asked for, which makes that link eager again: so a
broken tree is mended by the next broadcast.

Other than there, few broadcasts prune.  Each leaves another tree of the same links, and where several
are under way at once, what all of them leave is no tree: it falls apart, is mended with links too
many, and falls apart again, for as long as there is traffic.  So an origin lets its broadcast shape
the tree only if it has heard of none that did for four times `prune_delay_ms`; of several at once the
least counts, and all know which it is when they prune, `prune_delay_ms` after the first of them.

Each node delivers a broadcast at most once, in any order: an origin numbers its broadcasts from 1, and
a window says which of the newest were here.  What has left the window unseen is `missed`.  Each is kept
until it is `broadcasts_kept_ms` old, and announced to whoever links up, so that a node that was cut off
for less than that misses nothing.  Its age is the time that it rested on the nodes of its way, so all let
go of it at about the same time, and only then an origin's window may be forgotten: else nodes that
forget could send a broadcast in circles for ever.

A peer that is `crowded`, because it does not read, is announced what it would be sent, once it has read:
what is on its way to it is bounded, and so is what is to be announced, by what is kept.  The store has
`broadcasts_kept_max`, the oldest go; but what is younger than `broadcasts_young_ms` may still be asked for
in a tree that mends itself.  So a user's broadcast has to wait (`room_ns`) where it would push out a young
one, or the young ones of its origin take more than a quarter of the store.  All see the same traffic, so
all origins together keep to what the store holds.

A peer may lie: what it announces takes room of its own only, what it asks for goes to it alone.  That it
speaks in another's name is for `broadcasts` to prevent; of what it passes on it may change hops and age.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterable, Sequence

from agentnet_core.config import EngineConfig
from agentnet_core.errors import MessageTooLarge
from agentnet_core.gossip import (
    CHANGES,
    HOPS_MAX,
    IDS_MAX,
    BroadcastId,
    Frame,
    Gone,
    Gossip,
    Graft,
    Ihave,
    Prune,
    pack_id,
)
from agentnet_core.signing import Seal
from agentnet_core.window import Window

CHANGE = bytes((CHANGES,))

NS_PER_MS = 1_000_000
NEVER = 2**63 - 1
EAGER_ENOUGH = 4
"""A node with more eager links prunes one by any copy too many."""
ORIGIN_SHARES = 4
"""An origin's young broadcasts may take one of so many shares of the store."""


class _Peer:
    """``pending``: to be announced to it. ``announced``: how many open announcements are its own."""

    __slots__ = ("announced", "eager", "pending")

    def __init__(self, eager: bool) -> None:
        self.eager = eager
        self.pending: dict[BroadcastId, None] = {}
        self.announced = 0


class _Missing:
    """``announcers``: who has it and was not asked yet. ``asked``: the one that was asked last."""

    __slots__ = ("announcers", "asked", "due_ns")

    def __init__(self, due_ns: int) -> None:
        self.announcers: list[str] = []
        self.asked: str | None = None
        self.due_ns = due_ns


class Tree:
    """The broadcasts of one node. The driver drains `drain_frames` and `drain_delivered` after whatever
    it calls, and calls `tick` when `next_deadline_ns` says so."""

    def __init__(
        self,
        node_id: str,
        incarnation: int,
        config: EngineConfig,
        crowded: Callable[[str, int], bool] = lambda name, more: False,
    ) -> None:
        self.node_id = node_id
        self.incarnation = incarnation
        self.seal: Callable[[BroadcastId, bytes], Seal | None] = lambda *_: None  # of what is published
        self.listeners: Container[str] | None = None
        """The peers that are announced what is kept, or None for all: others have it from elsewhere."""
        self.put_off = 0
        """Times that a broadcast was announced to a peer that was to be sent it, but was crowded."""
        self.duplicates = 0
        """Copies of what was here already."""
        self.missed = 0
        """Broadcasts that were not here when they left their window; those before the first are not told."""
        self.unanswered = 0
        """Announced broadcasts that nobody sent who was asked; they may come yet."""
        self.announcements_refused = 0
        """Announcements beyond ``broadcasts_announced_max``."""
        self.origins_refused = 0
        """Copies of broadcasts whose origin is beyond ``broadcast_origins_max``."""
        self._bytes_max = config.broadcast_bytes_max
        self._window_max = config.broadcast_window_max
        self._origins_max = config.broadcast_origins_max
        self._kept_max = config.broadcasts_kept_max
        self._kept_bytes_max = config.broadcasts_kept_bytes_max
        self._kept_ns = config.broadcasts_kept_ms * NS_PER_MS
        self._young_ns = config.broadcasts_young_ms * NS_PER_MS
        self._is_crowded = crowded
        self._announced_max = config.broadcasts_announced_max
        self._announce_ns = config.announce_interval_ms * NS_PER_MS
        self._graft_ns = config.graft_delay_ms * NS_PER_MS
        self._prune_ns = config.prune_delay_ms * NS_PER_MS
        self._sequence = 0
        self._peers: dict[str, _Peer] = {}
        self._windows: dict[tuple[str, int], Window] = {}  # the one heard of last is last
        self._kept: dict[BroadcastId, tuple[Gossip, int]] = {}  # as it goes on, and when it came here
        self._kept_bytes = 0
        self._told: dict[BroadcastId, None] = {}
        """Of what is kept, what a new peer is told of: changes of lists are found by their versions."""
        self.known: dict[bytes, BroadcastId] = {}
        """The ids of what is kept, by their bytes: nearly all that is announced is here."""
        self._young: deque[tuple[int, int]] = deque()  # the users' of this node: when, and bytes
        self._young_bytes = 0
        self._missing: dict[BroadcastId, _Missing] = {}  # the one due first is first: all wait equally long
        self._announce_due_ns = NEVER
        self._prune_due_ns = -NEVER
        self._shaped_ns = -NEVER
        """When the last time began in which one broadcast shapes the tree."""
        self._shaper: BroadcastId | None = None
        self._bringer: str | None = None
        """Who brought the first copy of the shaper; nobody, if it is this node's own."""
        self._spare: dict[str, None] = {}
        """Who brought further copies of it."""
        self._outgoing: list[tuple[tuple[str, ...], Frame]] = []
        self._delivered: list[Gossip] = []

    # -- reading

    def eager(self) -> list[str]:
        """The peers that broadcasts are sent to."""
        return [name for name, peer in self._peers.items() if peer.eager]

    def lazy(self) -> list[str]:
        """The peers that broadcasts are announced to."""
        return [name for name, peer in self._peers.items() if not peer.eager]

    @property
    def kept(self) -> tuple[int, int]:
        """Broadcasts that are kept, and bytes of their payloads."""
        return len(self._kept), self._kept_bytes

    @property
    def awaited(self) -> int:
        """Broadcasts that were announced and have not come."""
        return len(self._missing)

    def next_deadline_ns(self) -> int:
        """When `tick` will have something to do next; `NEVER` if only news can change that."""
        due_ns = self._announce_due_ns
        if self._spare:
            due_ns = min(due_ns, self._prune_due_ns)
        for missing in self._missing.values():
            due_ns = min(due_ns, missing.due_ns)
            break
        for _, came_ns in self._kept.values():
            due_ns = min(due_ns, came_ns + self._kept_ns)
            break
        return due_ns

    def drain_frames(self) -> Sequence[tuple[tuple[str, ...], Frame]]:
        """Who gets which frame, in this order, since the last call. One frame for several is one object,
        so that it need be encoded once."""
        if not self._outgoing:
            return ()
        frames, self._outgoing = self._outgoing, []
        return frames

    def drain_delivered(self) -> Sequence[Gossip]:
        """The broadcasts of other nodes that are new here, since the last call."""
        if not self._delivered:
            return ()
        delivered, self._delivered = self._delivered, []
        return delivered

    # -- news

    def link_up(self, name: str, now_ns: int) -> None:
        """A link to that node is up; if there was one, this one takes its place."""
        self.link_down(name, now_ns)
        self._peers[name] = _Peer(eager=False)
        self._hold_on(name)
        if self._listens(name):
            self._send_ids(name, Ihave, [b for b in self._told if self._age_ms(*self._kept[b], now_ns) >= 0])

    def link_down(self, name: str, now_ns: int) -> None:
        """The link is gone: what the peer had announced is asked of others."""
        if self._peers.pop(name, None) is None:
            return
        self._spare.pop(name, None)
        if self._shaper is not None and self._bringer == name:
            self._spare.clear()  # another link has to bring what it brought
        unasked = []
        for broadcast, missing in self._missing.items():
            if name in missing.announcers:
                missing.announcers.remove(name)
            if missing.asked == name or not (missing.asked or missing.announcers):
                unasked.append(broadcast)
        self._ask(unasked, now_ns)
        for other in self._peers:
            self._hold_on(other)
            break

    def room_ns(self, size: int, now_ns: int) -> int:
        """When a user's broadcast of that size may be published: now, or later."""
        self._grow_old(now_ns)
        due_ns = now_ns
        full = len(self._young) >= max(self._kept_max // ORIGIN_SHARES, 1)
        if full or (self._young and self._young_bytes + size > self._kept_bytes_max // ORIGIN_SHARES):
            due_ns = self._young[0][0] + self._young_ns
        if len(self._kept) >= self._kept_max or self._kept_bytes + size > self._kept_bytes_max:
            oldest_ns = next(iter(self._kept.values()))[1]
            due_ns = max(due_ns, oldest_ns + self._young_ns)
        return due_ns

    def _grow_old(self, now_ns: int) -> None:
        while self._young and self._young[0][0] + self._young_ns <= now_ns:
            self._young_bytes -= self._young.popleft()[1]

    def publish(self, payload: bytes, now_ns: int, *, own: bool = False) -> BroadcastId:
        """Send ``payload`` to all nodes but this one. MessageTooLarge before anything is sent.

        ``own``: it is the network's, so no user's limit holds; it fits a frame.
        """
        if len(payload) > self._bytes_max and not own:
            raise MessageTooLarge(
                f"broadcast of {len(payload)} bytes: expected at most broadcast_bytes_max={self._bytes_max}"
            )
        if not own:
            self._grow_old(now_ns)
            self._young.append((now_ns, len(payload)))
            self._young_bytes += len(payload)
        self._sequence += 1
        broadcast = BroadcastId(self.node_id, self.incarnation, self._sequence)
        shapes = now_ns >= self._shaped_ns + 4 * self._prune_ns
        if shapes:
            self._shape(broadcast, None, now_ns)
        self._spread(Gossip(broadcast, 1, 0, shapes, payload, self.seal(broadcast, payload)), (), now_ns)
        return broadcast

    def receive(self, name: str, frame: Frame, now_ns: int) -> None:
        """Take a frame of that peer; if its link is gone, what it said before is not taken any more."""
        peer = self._peers.get(name)
        if peer is None:
            return
        match frame:
            case Ihave(broadcasts):
                self._note(name, peer, broadcasts, now_ns)
            case Gossip():
                self._take(name, peer, frame, now_ns)
            case Prune():
                peer.eager = False
            case Graft(broadcasts):
                self._answer(name, peer, broadcasts, now_ns)
            case Gone(broadcasts):
                self._ask([b for b in broadcasts if self._asked(b) == name], now_ns)

    def tick(self, now_ns: int) -> None:
        """Announce what is to be announced, ask for what did not come, let go of what is old."""
        if now_ns >= self._announce_due_ns:
            self._announce_due_ns = NEVER
            for name, peer in self._peers.items():
                if peer.pending and self._is_crowded(name, 0):
                    self._announce_due_ns = now_ns + self._announce_ns
                elif peer.pending:
                    self._send_ids(name, Ihave, [b for b in peer.pending if b in self._kept])
                    peer.pending.clear()
        overdue = []
        for broadcast, missing in self._missing.items():
            if missing.due_ns > now_ns:
                break
            overdue.append(broadcast)
        self._ask(overdue, now_ns)
        if now_ns >= self._prune_due_ns and self._spare:
            self._prune_spare()
        while self._kept and next(iter(self._kept.values()))[1] + self._kept_ns <= now_ns:
            self._let_go()

    # -- what is here

    def is_here(self, broadcast: BroadcastId) -> bool:
        """Whether it was delivered, or can be no more."""
        if broadcast in self._kept:
            return True
        origin, incarnation, sequence = broadcast
        if origin == self.node_id and incarnation == self.incarnation:
            return True  # who else would know
        window = self._windows.get((origin, incarnation))
        return window is not None and window.has(sequence, self._window_max)

    def _admit(self, broadcast: BroadcastId, now_ns: int) -> bool:
        """Note in its origin's window that it is here; False if there is no room for its origin."""
        key = broadcast[:2]
        window = self._windows.pop(key, None)
        if window is None:
            if len(self._windows) >= self._origins_max and not self._forget_origin(now_ns):
                return False
            window = Window(broadcast.sequence)
        else:
            self.missed += window.add(broadcast.sequence, self._window_max)
        window.heard_ns = now_ns
        self._windows[key] = window
        return True

    def _forget_origin(self, now_ns: int) -> bool:
        key, window = next(iter(self._windows.items()))
        if window.heard_ns + 2 * self._kept_ns > now_ns:  # the time on links is not in a broadcast's age
            return False
        self.missed += window.unseen(window.newest - self._window_max + 1, window.newest)
        del self._windows[key]
        return True

    def _keep(self, gossip: Gossip, now_ns: int) -> None:
        self._kept[gossip.broadcast] = gossip, now_ns
        self.known[pack_id(gossip.broadcast)] = gossip.broadcast
        if gossip.payload[:1] != CHANGE:
            self._told[gossip.broadcast] = None
        self._kept_bytes += len(gossip.payload)
        while len(self._kept) > self._kept_max or self._kept_bytes > self._kept_bytes_max:
            self._let_go()

    def _age_ms(self, gossip: Gossip, came_ns: int, now_ns: int) -> int:
        """How old what is kept is; -1 if it is too old to be told of."""
        age_ms = gossip.age_ms + (now_ns - came_ns) // NS_PER_MS
        return age_ms if age_ms * NS_PER_MS < self._kept_ns else -1

    def _let_go(self) -> None:
        gossip, _ = self._kept.pop(next(iter(self._kept)))
        del self.known[pack_id(gossip.broadcast)]
        self._told.pop(gossip.broadcast, None)
        self._kept_bytes -= len(gossip.payload)

    # -- copies

    def _take(self, name: str, peer: _Peer, gossip: Gossip, now_ns: int) -> None:
        broadcast = gossip.broadcast
        peer.pending.pop(broadcast, None)
        if self.is_here(broadcast):
            self.duplicates += 1
            if broadcast == self._shaper:
                self._spare[name] = None
            elif now_ns >= self._prune_due_ns and peer.eager and len(self.eager()) > EAGER_ENOUGH:
                self._prune(name)
            return
        missing = self._missing.pop(broadcast, None)
        announcers = missing.announcers if missing is not None else []
        for announcer in announcers:
            self._peers[announcer].announced -= 1
        if not self._admit(broadcast, now_ns):
            self.origins_refused += 1
            return
        peer.eager = True
        self._delivered.append(gossip)
        if gossip.shapes:
            self._shape(broadcast, name, now_ns)
        onward = gossip._replace(hops=min(gossip.hops + 1, HOPS_MAX))
        self._spread(onward, (name, *announcers), now_ns)

    def _spread(self, gossip: Gossip, have: Container[str], now_ns: int) -> None:
        """Send it to the eager, announce it to the lazy, but for those that have it."""
        broadcast = gossip.broadcast
        self._keep(gossip, now_ns)
        eager = []
        for name, peer in self._peers.items():
            if name in have:
                continue
            if peer.eager:
                if not self._is_crowded(name, 0):
                    eager.append(name)
                    continue
                self.put_off += 1
            elif not self._listens(name):
                continue
            self._announce_later(peer, broadcast, now_ns)
            if len(peer.pending) >= IDS_MAX and not self._is_crowded(name, 0):
                self._send_ids(name, Ihave, peer.pending)
                peer.pending.clear()
        if eager:
            self._outgoing.append((tuple(eager), gossip))

    def _listens(self, name: str) -> bool:
        return self.listeners is None or name in self.listeners

    def _announce_later(self, peer: _Peer, broadcast: BroadcastId, now_ns: int) -> None:
        peer.pending[broadcast] = None
        if len(peer.pending) > self._kept_max:
            del peer.pending[next(iter(peer.pending))]  # is kept no more
        if self._announce_due_ns == NEVER:
            self._announce_due_ns = now_ns + self._announce_ns

    # -- the shape

    def _shape(self, broadcast: BroadcastId, bringer: str | None, now_ns: int) -> None:
        """The broadcast shapes the tree, unless a lesser one does or one has just done so."""
        if self._shaper is None or (now_ns >= self._prune_due_ns and not self._spare):
            if now_ns < self._shaped_ns + 2 * self._prune_ns:
                return
            self._shaped_ns = now_ns
            self._prune_due_ns = now_ns + self._prune_ns
        elif broadcast > self._shaper:
            return
        self._shaper, self._bringer = broadcast, bringer
        self._spare.clear()

    def _prune_spare(self) -> None:
        for name in self._spare:
            self._prune(name)
        self._spare.clear()
        self._shaper = None

    def _prune(self, name: str) -> None:
        self._peers[name].eager = False
        self._outgoing.append(((name,), Prune()))

    def _hold_on(self, name: str) -> None:
        """Hang on the tree by that peer, if by no other."""
        if not any(peer.eager for peer in self._peers.values()):
            self._make_eager(name)
            self._outgoing.append(((name,), Graft(())))

    def _make_eager(self, name: str) -> None:
        """Broadcasts are wanted over this link, by one end or the other."""
        self._peers[name].eager = True
        self._spare.pop(name, None)

    # -- announcements

    def _note(self, name: str, peer: _Peer, broadcasts: Iterable[BroadcastId], now_ns: int) -> None:
        for broadcast in broadcasts:
            if self.is_here(broadcast):
                peer.pending.pop(broadcast, None)
                continue
            missing = self._missing.get(broadcast)
            if missing is not None and name in missing.announcers:
                continue  # who was asked and announces it again had put it off
            if peer.announced >= self._announced_max:
                self.announcements_refused += 1
                continue
            if missing is None:
                missing = self._missing[broadcast] = _Missing(now_ns + self._graft_ns)
            missing.announcers.append(name)
            peer.announced += 1

    def _asked(self, broadcast: BroadcastId) -> str | None:
        missing = self._missing.get(broadcast)
        return None if missing is None else missing.asked

    def _ask(self, broadcasts: Iterable[BroadcastId], now_ns: int) -> None:
        """Ask for each the first of its announcers that was not asked yet, and give up when there is none."""
        grafts: dict[str, list[BroadcastId]] = {}
        for broadcast in broadcasts:
            missing = self._missing.pop(broadcast, None)
            if missing is None:
                continue  # named twice
            if not missing.announcers:
                self.unanswered += 1
                continue
            name = missing.asked = missing.announcers.pop(0)
            missing.due_ns = now_ns + self._graft_ns
            self._missing[broadcast] = missing
            self._peers[name].announced -= 1
            grafts.setdefault(name, []).append(broadcast)
        for name, wanted in grafts.items():
            self._make_eager(name)
            self._send_ids(name, Graft, wanted)

    def _answer(self, name: str, peer: _Peer, broadcasts: Iterable[BroadcastId], now_ns: int) -> None:
        """Send what is kept, and say what is not."""
        self._make_eager(name)
        gone, sent_bytes = [], 0
        for broadcast in dict.fromkeys(broadcasts):
            peer.pending.pop(broadcast, None)
            kept = self._kept.get(broadcast)
            age_ms = -1 if kept is None else self._age_ms(*kept, now_ns)
            if kept is None or age_ms < 0:
                gone.append(broadcast)
            elif self._is_crowded(name, sent_bytes):
                self.put_off += 1
                self._announce_later(peer, broadcast, now_ns)
            else:
                sent_bytes += len(kept[0].payload)
                self._outgoing.append(((name,), kept[0]._replace(age_ms=age_ms, shapes=False)))
        self._send_ids(name, Gone, gone)

    def _send_ids(
        self, name: str, kind: type[Ihave | Graft | Gone], broadcasts: Iterable[BroadcastId]
    ) -> None:
        ids = tuple(broadcasts)
        for at in range(0, len(ids), IDS_MAX):
            self._outgoing.append(((name,), kind(ids[at : at + IDS_MAX])))
