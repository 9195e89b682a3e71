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

cimport cython
from cpython.dict cimport PyDict_Next
from cpython.ref cimport PyObject
from libc.stdint cimport INT64_MAX, int64_t, uint64_t

from collections import deque

from agentnet_core.gossip cimport Frame, Gone, Gossip, Graft, Ids, Ihave, Prune, life_of, read_id
from agentnet_core.window cimport Window

from agentnet_core.errors import MessageTooLarge
from agentnet_core.gossip import CHANGES, HOPS_MAX, IDS_MAX, pack_id

CHANGE = bytes((CHANGES,))
NEVER = INT64_MAX
EAGER_ENOUGH = 4
ORIGIN_SHARES = 4

cdef enum:
    NS_PER_MS = 1_000_000
    NODES_AN_ANNOUNCE_MS = 2    # for so many, what is to be announced waits a millisecond for more
    CHANGES_PATIENCE = 4        # so many times as long waits what is found by the version of its list as well

cdef int64_t never = INT64_MAX
cdef Py_ssize_t eager_enough = EAGER_ENOUGH, ids_max = IDS_MAX
cdef uint64_t hops_max = HOPS_MAX
cdef bytes change = CHANGE


@cython.final
@cython.no_gc
cdef class Peer:
    def __cinit__(self):
        self.pending = {}


@cython.final
@cython.no_gc
cdef class Missing:
    def __cinit__(self, int64_t due_ns):
        self.announcers, self.due_ns = [], due_ns


@cython.final
@cython.no_gc
cdef class Kept:
    """A broadcast that is kept."""


cdef class Tree:
    """The broadcasts of one node. The driver drains `drain_frames` and `drain_delivered` after whatever
    it calls, and calls `tick` when `next_deadline_ns` says so."""

    def __cinit__(self, str node_id not None, incarnation, config, crowded=None):
        cdef uint64_t first = 0
        self.node_id, self.incarnation = node_id, incarnation
        self.crowded = crowded
        self.life = life_of(pack_id(node_id, incarnation, 1), &first)
        self.bytes_max = config.broadcast_bytes_max
        self.window_max = config.broadcast_window_max
        self.origins_max = config.broadcast_origins_max
        self.kept_max = config.broadcasts_kept_max
        self.kept_bytes_max = config.broadcasts_kept_bytes_max
        self.kept_ns = config.broadcasts_kept_ms * NS_PER_MS
        self.young_ns = config.broadcasts_young_ms * NS_PER_MS
        self.announced_max = config.broadcasts_announced_max
        self.announce_ns_min = self.announce_ns = config.announce_interval_ms * NS_PER_MS
        self.graft_ns = config.graft_delay_ms * NS_PER_MS
        self.prune_ns = config.prune_delay_ms * NS_PER_MS
        self.sequence = 0
        self.peers, self.windows, self.store, self.told, self.missing = {}, {}, {}, {}, {}
        self.order, self.young = deque(), deque()
        self.announce_due_ns = self.announce_from_ns = self.let_go_ns = never
        self.prune_due_ns = self.shaped_ns = -never
        self.spare = {}
        self.outgoing, self.delivered = [], []

    # -- reading

    def eager(self):
        """The peers that broadcasts are sent to."""
        return [name for name, peer in self.peers.items() if (<Peer>peer).eager]

    def lazy(self):
        """The peers that broadcasts are announced to."""
        return [name for name, peer in self.peers.items() if not (<Peer>peer).eager]

    def pending(self, str name not None):
        """What is to be announced to that peer."""
        return list((<Peer>self.peers[name]).pending)

    @property
    def kept(self):
        """Broadcasts that are kept, and bytes of their payloads."""
        return len(self.store), self.store_bytes

    @property
    def awaited(self):
        """Broadcasts that were announced and have not come."""
        return len(self.missing)

    cpdef int64_t next_deadline_ns(self) except? -1:
        """When `tick` will have something to do next; `NEVER` if only news can change that."""
        cdef int64_t due_ns = self.announce_due_ns
        cdef Py_ssize_t at = 0
        cdef PyObject* first
        if self.spare and self.prune_due_ns < due_ns:
            due_ns = self.prune_due_ns
        if PyDict_Next(self.missing, &at, NULL, &first) and (<Missing>first).due_ns < due_ns:
            due_ns = (<Missing>first).due_ns
        return self.let_go_ns if self.let_go_ns < due_ns else due_ns

    cpdef object drain_frames(self):
        """Who gets which frame, in this order, since the last call. One frame for several is one object,
        so that it need be encoded once."""
        cdef list frames = self.outgoing
        if not frames:
            return ()
        self.outgoing = []
        return frames

    cpdef object drain_delivered(self):
        """The broadcasts of other nodes that are new here, since the last call."""
        cdef list delivered = self.delivered
        if not delivered:
            return ()
        self.delivered = []
        return delivered

    # -- news

    def link_up(self, str name not None, int64_t now_ns):
        """A link to that node is up; if there was one, this one takes its place."""
        self.link_down(name, now_ns)
        self.peers[name] = Peer()
        self.hold_on(name)
        if self.listens(name):
            ids = [b for b in self.told if self.age_ms(<Kept>self.store[b], now_ns) >= 0]
            self.send_ids(name, Ihave, ids)

    def link_down(self, str name not None, int64_t now_ns):
        """The link is gone: what the peer had announced is asked of others."""
        cdef Missing missing
        cdef list unasked
        if self.peers.pop(name, None) is None:
            return
        self.spare.pop(name, None)
        if self.shaper is not None and self.bringer == name:
            self.spare.clear()  # another link has to bring what it brought
        unasked = []
        for broadcast, missing in self.missing.items():
            if name in missing.announcers:
                missing.announcers.remove(name)
            if missing.asked == name or not (missing.asked or missing.announcers):
                unasked.append(broadcast)
        self.ask(unasked, now_ns)
        for other in self.peers:
            self.hold_on(other)
            break

    def room_ns(self, Py_ssize_t size, int64_t now_ns):
        """When a user's broadcast of that size may be published: now, or later."""
        cdef int64_t due_ns = now_ns
        self.grow_old(now_ns)
        full = len(self.young) >= max(self.kept_max // ORIGIN_SHARES, 1)
        if full or (self.young and self.young_bytes + size > self.kept_bytes_max // ORIGIN_SHARES):
            due_ns = self.young[0][0] + self.young_ns
        if len(self.store) >= self.kept_max or self.store_bytes + size > self.kept_bytes_max:
            due_ns = max(due_ns, (<Kept>self.order[0]).came_ns + self.young_ns)
        return due_ns

    cdef int grow_old(self, int64_t now_ns) except -1:
        while self.young and self.young[0][0] + self.young_ns <= now_ns:
            self.young_bytes -= self.young.popleft()[1]
        return 0

    def publish(self, bytes payload not None, int64_t now_ns, *, bint own=False):
        """Send ``payload`` to all nodes but this one. MessageTooLarge before anything is sent.

        ``own``: it is the network's, so no user's limit holds; it fits a frame.
        """
        cdef bint shapes
        if len(payload) > self.bytes_max and not own:
            raise MessageTooLarge(
                f"broadcast of {len(payload)} bytes: expected at most broadcast_bytes_max={self.bytes_max}"
            )
        if not own:
            self.grow_old(now_ns)
            self.young.append((now_ns, len(payload)))
            self.young_bytes += len(payload)
        self.sequence += 1
        broadcast = pack_id(self.node_id, self.incarnation, self.sequence)
        shapes = now_ns >= self.shaped_ns + 4 * self.prune_ns
        if shapes:
            self.shape(broadcast, None, now_ns)
        seal = None if self.seal is None else self.seal(broadcast, payload)
        self.spread(Gossip(broadcast, 1, 0, shapes, payload, seal), (), now_ns)
        return broadcast

    cpdef object receive(self, str name, Frame frame, int64_t now_ns):
        """Take a frame of that peer; if its link is gone, what it said before is not taken any more."""
        cdef Peer peer = self.peers.get(name)
        if peer is None:
            return
        if type(frame) is Gossip:
            self.take(name, peer, <Gossip>frame, now_ns)
        elif type(frame) is Ihave:
            self.note(name, peer, (<Ids>frame).broadcasts, now_ns)
        elif type(frame) is Prune:
            peer.eager = False
        elif type(frame) is Graft:
            self.answer(name, peer, (<Ids>frame).broadcasts, now_ns)
        elif type(frame) is Gone:
            self.ask([b for b in (<Ids>frame).broadcasts if self.asked(b) == name], now_ns)

    def pace(self, Py_ssize_t nodes):
        """Announce together what comes in a while that is longer in a network of more nodes."""
        self.announce_ns = max(self.announce_ns_min, nodes // NODES_AN_ANNOUNCE_MS * NS_PER_MS)

    cpdef object tick(self, int64_t now_ns):
        """Announce what is to be announced, ask for what did not come, let go of what is old."""
        cdef Missing missing
        cdef list overdue
        if now_ns >= self.announce_from_ns:
            self.announce(now_ns)
        if self.missing:
            overdue = []
            for broadcast, missing in self.missing.items():
                if missing.due_ns > now_ns:
                    break
                overdue.append(broadcast)
            self.ask(overdue, now_ns)
        if now_ns >= self.prune_due_ns and self.spare:
            self.prune_spare()
        while self.let_go_ns <= now_ns:
            self.let_go()

    # -- what is here

    cpdef bint is_here(self, bytes broadcast) except -1:
        """Whether it was delivered, or can be no more."""
        cdef bytes life
        cdef Window window
        cdef uint64_t sequence = 0
        if broadcast in self.store:
            return True
        life = life_of(broadcast, &sequence)
        if life == self.life:
            return True  # who else would know
        window = self.windows.get(life)
        return window is not None and window.has(sequence, self.window_max)

    cdef bint admit(self, bytes broadcast, int64_t now_ns) except -1:
        """Note in its origin's window that it is here; False if there is no room for its origin."""
        cdef uint64_t sequence = 0
        cdef bytes life = life_of(broadcast, &sequence)
        cdef Window window = self.windows.pop(life, None)
        if window is None:
            if len(self.windows) >= self.origins_max and not self.forget_origin(now_ns):
                return False
            window = Window.__new__(Window, sequence)
        else:
            self.missed += window.add(sequence, self.window_max)
        window.heard_ns = now_ns
        self.windows[life] = window
        return True

    cdef bint forget_origin(self, int64_t now_ns) except -1:
        cdef bytes life = next(iter(self.windows))
        cdef Window window = self.windows[life]
        if window.heard_ns + 2 * self.kept_ns > now_ns:  # the time on links is not in a broadcast's age
            return False
        self.missed += window.unseen(window.oldest(self.window_max), window.newest)
        del self.windows[life]
        return True

    cdef int keep(self, Gossip gossip, bint is_told, int64_t now_ns) except -1:
        cdef Kept kept = Kept.__new__(Kept)
        cdef bytes broadcast = gossip.broadcast
        kept.gossip, kept.came_ns = gossip, now_ns
        if not self.store:
            self.let_go_ns = now_ns + self.kept_ns
        self.store[broadcast] = kept
        self.order.append(kept)
        if is_told:
            self.told[broadcast] = None
        self.store_bytes += len(gossip.payload)
        while len(self.store) > self.kept_max or self.store_bytes > self.kept_bytes_max:
            self.let_go()
        return 0

    cdef int64_t age_ms(self, Kept kept, int64_t now_ns) noexcept:
        """How old what is kept is; -1 if it is too old to be told of."""
        cdef int64_t left_ms = self.kept_ns // NS_PER_MS - (now_ns - kept.came_ns) // NS_PER_MS
        if left_ms <= 0 or kept.gossip.age_ms >= <uint64_t>left_ms:
            return -1
        return <int64_t>kept.gossip.age_ms + (now_ns - kept.came_ns) // NS_PER_MS

    cdef int let_go(self) except -1:
        cdef Kept kept = self.order.popleft()
        cdef bytes broadcast = kept.gossip.broadcast
        del self.store[broadcast]
        self.told.pop(broadcast, None)
        self.store_bytes -= len(kept.gossip.payload)
        self.let_go_ns = (<Kept>self.order[0]).came_ns + self.kept_ns if self.order else never
        return 0

    # -- copies

    cdef int take(self, str name, Peer peer, Gossip gossip, int64_t now_ns) except -1:
        cdef Missing missing
        cdef tuple have
        cdef bytes broadcast = gossip.broadcast
        if peer.pending:
            peer.pending.pop(broadcast, None)
        if self.is_here(broadcast):
            self.duplicates += 1
            if broadcast == self.shaper:
                self.spare[name] = None
            elif now_ns >= self.prune_due_ns and peer.eager and self.eager_more_than_enough():
                self.prune(name)
            return 0
        missing = self.missing.pop(broadcast, None) if self.missing else None
        have = (name,)
        if missing is not None:
            have += tuple(missing.announcers)
            for announcer in missing.announcers:
                (<Peer>self.peers[announcer]).announced -= 1
        if not self.admit(broadcast, now_ns):
            self.origins_refused += 1
            return 0
        peer.eager = True
        self.delivered.append(gossip)
        if gossip.shapes:
            self.shape(broadcast, name, now_ns)
        self.spread(gossip.again(min(gossip.hops + 1, hops_max), gossip.age_ms, gossip.shapes), have, now_ns)
        return 0

    cdef int spread(self, Gossip gossip, tuple have, int64_t now_ns) except -1:
        """Send it to the eager, announce it to the lazy, but for those that have it."""
        cdef list eager = []
        cdef str name
        cdef Peer peer
        cdef bytes broadcast = gossip.broadcast
        cdef bint is_change = gossip.payload.startswith(change)
        cdef int64_t wait_ns = self.announce_ns * CHANGES_PATIENCE if is_change else self.announce_ns
        self.keep(gossip, not is_change, now_ns)
        for name, peer in self.peers.items():
            if name in have:
                continue
            if peer.eager:
                if not self.is_crowded(name, 0):
                    eager.append(name)
                    continue
                self.put_off += 1
            elif not self.listens(name):
                continue
            self.announce_later(peer, broadcast, wait_ns, now_ns)
            if len(peer.pending) >= ids_max and not self.is_crowded(name, 0):
                self.send_ids(name, Ihave, peer.pending)
                peer.pending.clear()
        if eager:
            self.outgoing.append((tuple(eager), gossip))
        return 0

    cdef bint is_crowded(self, str name, Py_ssize_t more) except -1:
        return self.crowded is not None and self.crowded(name, more)

    cdef bint listens(self, str name) except -1:
        return self.listeners is None or name in self.listeners

    cdef int announce_later(self, Peer peer, bytes broadcast, int64_t wait_ns, int64_t now_ns) except -1:
        peer.pending[broadcast] = None
        if len(peer.pending) > self.kept_max:
            del peer.pending[next(iter(peer.pending))]  # is kept no more
        self.announce_by(now_ns + wait_ns, wait_ns)
        return 0

    cdef void announce_by(self, int64_t due_ns, int64_t wait_ns) noexcept:
        """By then; what is half due goes along with what else is."""
        self.announce_due_ns = min(self.announce_due_ns, due_ns)
        self.announce_from_ns = min(self.announce_from_ns, due_ns - wait_ns // 2)

    # -- the shape

    cdef bint eager_more_than_enough(self):
        cdef Py_ssize_t count = 0
        for peer in self.peers.values():
            count += (<Peer>peer).eager
        return count > eager_enough

    cdef int shape(self, bytes broadcast, bringer, int64_t now_ns) except -1:
        """The broadcast shapes the tree, unless a lesser one does or one has just done so."""
        if self.shaper is None or (now_ns >= self.prune_due_ns and not self.spare):
            if now_ns < self.shaped_ns + 2 * self.prune_ns:
                return 0
            self.shaped_ns = now_ns
            self.prune_due_ns = now_ns + self.prune_ns
        elif read_id(broadcast) > read_id(self.shaper):
            return 0
        self.shaper, self.bringer = broadcast, bringer
        self.spare.clear()
        return 0

    cdef int prune_spare(self) except -1:
        for name in self.spare:
            self.prune(name)
        self.spare.clear()
        self.shaper = None
        return 0

    cdef int prune(self, str name) except -1:
        (<Peer>self.peers[name]).eager = False
        self.outgoing.append(((name,), Prune()))
        return 0

    cdef int hold_on(self, str name) except -1:
        """Hang on the tree by that peer, if by no other."""
        for peer in self.peers.values():
            if (<Peer>peer).eager:
                return 0
        self.make_eager(name)
        self.outgoing.append(((name,), Graft(())))
        return 0

    cdef int make_eager(self, str name) except -1:
        """Broadcasts are wanted over this link, by one end or the other."""
        (<Peer>self.peers[name]).eager = True
        self.spare.pop(name, None)
        return 0

    # -- announcements

    cdef int announce(self, int64_t now_ns) except -1:
        """Tell the peers what is pending for them."""
        cdef str name
        cdef Peer peer
        self.announce_due_ns = self.announce_from_ns = never
        for name, peer in self.peers.items():
            if not peer.pending:
                continue
            if self.is_crowded(name, 0):
                self.announce_by(now_ns + self.announce_ns, self.announce_ns)
            else:
                ids = [broadcast for broadcast in peer.pending if broadcast in self.store]
                self.send_ids(name, Ihave, ids)
                peer.pending.clear()
        return 0

    cdef int note(self, str name, Peer peer, tuple broadcasts, int64_t now_ns) except -1:
        cdef Missing missing
        cdef bytes broadcast
        for broadcast in broadcasts:
            if self.is_here(broadcast):
                if peer.pending:
                    peer.pending.pop(broadcast, None)
                continue
            missing = self.missing.get(broadcast)
            if missing is not None and name in missing.announcers:
                continue  # who was asked and announces it again had put it off
            if peer.announced >= self.announced_max:
                self.announcements_refused += 1
                continue
            if missing is None:
                missing = self.missing[broadcast] = Missing(now_ns + self.graft_ns)
            missing.announcers.append(name)
            peer.announced += 1
        return 0

    cdef object asked(self, bytes broadcast):
        cdef Missing missing = self.missing.get(broadcast)
        return None if missing is None else missing.asked

    cdef int ask(self, list broadcasts, int64_t now_ns) except -1:
        """Ask for each the first of its announcers that was not asked yet, and give up when there is none."""
        cdef dict grafts
        cdef Missing missing
        if not broadcasts:
            return 0
        grafts = {}
        for broadcast in broadcasts:
            missing = self.missing.pop(broadcast, None)
            if missing is None:
                continue  # named twice
            if not missing.announcers:
                self.unanswered += 1
                continue
            name = missing.asked = missing.announcers.pop(0)
            missing.due_ns = now_ns + self.graft_ns
            self.missing[broadcast] = missing
            (<Peer>self.peers[name]).announced -= 1
            grafts.setdefault(name, []).append(broadcast)
        for name, wanted in grafts.items():
            self.make_eager(name)
            self.send_ids(name, Graft, wanted)
        return 0

    cdef int answer(self, str name, Peer peer, tuple broadcasts, int64_t now_ns) except -1:
        """Send what is kept, and say what is not."""
        cdef Kept kept
        cdef int64_t age_ms
        cdef bytes broadcast
        cdef list gone = []
        cdef Py_ssize_t sent_bytes = 0
        self.make_eager(name)
        for broadcast in dict.fromkeys(broadcasts):
            peer.pending.pop(broadcast, None)
            kept = self.store.get(broadcast)
            age_ms = -1 if kept is None else self.age_ms(kept, now_ns)
            if age_ms < 0:
                gone.append(broadcast)
            elif self.is_crowded(name, sent_bytes):
                self.put_off += 1
                self.announce_later(peer, broadcast, self.announce_ns, now_ns)
            else:
                sent_bytes += len(kept.gossip.payload)
                self.outgoing.append(((name,), kept.gossip.again(kept.gossip.hops, age_ms, False)))
        self.send_ids(name, Gone, gone)
        return 0

    cdef int send_ids(self, str name, kind, broadcasts) except -1:
        cdef tuple ids = tuple(broadcasts)
        cdef Py_ssize_t at
        for at in range(0, len(ids), ids_max):
            self.outgoing.append(((name,), kind(ids[at:at + ids_max])))
        return 0
