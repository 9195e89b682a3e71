from libc.stdint cimport int64_t

from agentnet_core.gossip cimport Frame, Gossip


cdef class Peer:
    cdef dict pending                 # to be announced to it
    cdef Py_ssize_t announced         # how many open announcements are its own
    cdef bint eager


cdef class Missing:
    cdef list announcers              # who has it and was not asked yet
    cdef object asked                 # the one that was asked last
    cdef int64_t due_ns


cdef class Kept:
    cdef Gossip gossip                # as it goes on
    cdef int64_t came_ns


cdef class Tree:
    cdef readonly str node_id
    cdef readonly object incarnation
    cdef public object seal           # of what is published
    cdef public object listeners      # who is told what is kept, None for all: others hear it otherwise
    cdef readonly Py_ssize_t put_off, duplicates, missed, unanswered
    cdef readonly Py_ssize_t announcements_refused, origins_refused
    cdef object crowded
    cdef int64_t kept_ns, young_ns, announce_ns, announce_ns_min, graft_ns, prune_ns
    cdef Py_ssize_t bytes_max, window_max, origins_max, kept_max, kept_bytes_max, announced_max
    cdef bytes life                   # of this node's own broadcasts
    cdef object sequence
    cdef dict peers
    cdef dict windows                 # by life of the origin; the one heard of last is last
    cdef dict store                   # by id
    cdef object order                 # what is kept, the oldest first
    cdef int64_t let_go_ns            # when the oldest goes
    cdef Py_ssize_t store_bytes
    cdef dict told                    # what of it a new peer is told: changes of lists go by versions
    cdef object young                 # the users' of this node: when, and bytes
    cdef Py_ssize_t young_bytes
    cdef dict missing                 # the one due first is first: all wait equally long
    cdef int64_t announce_due_ns, announce_from_ns, prune_due_ns
    cdef int64_t shaped_ns            # when the last time began in which one broadcast shapes the tree
    cdef bytes shaper
    cdef object bringer               # of its first copy; nobody, if it is this node's own
    cdef dict spare                   # who brought further copies of it
    cdef list outgoing, delivered

    cdef int grow_old(self, int64_t now_ns) except -1
    cpdef int64_t next_deadline_ns(self) except? -1
    cpdef object drain_frames(self)
    cpdef object drain_delivered(self)
    cpdef object receive(self, str name, Frame frame, int64_t now_ns)
    cpdef object tick(self, int64_t now_ns)
    cpdef bint is_here(self, bytes broadcast) except -1
    cdef bint admit(self, bytes broadcast, int64_t now_ns) except -1
    cdef bint forget_origin(self, int64_t now_ns) except -1
    cdef int keep(self, Gossip gossip, bint is_told, int64_t now_ns) except -1
    cdef int64_t age_ms(self, Kept kept, int64_t now_ns) noexcept
    cdef int let_go(self) except -1
    cdef int take(self, str name, Peer peer, Gossip gossip, int64_t now_ns) except -1
    cdef int spread(self, Gossip gossip, tuple have, int64_t now_ns) except -1
    cdef bint is_crowded(self, str name, Py_ssize_t more) except -1
    cdef bint listens(self, str name) except -1
    cdef int announce_later(self, Peer peer, bytes broadcast, int64_t wait_ns, int64_t now_ns) except -1
    cdef void announce_by(self, int64_t due_ns, int64_t wait_ns) noexcept
    cdef bint eager_more_than_enough(self)
    cdef int shape(self, bytes broadcast, bringer, int64_t now_ns) except -1
    cdef int prune_spare(self) except -1
    cdef int prune(self, str name) except -1
    cdef int hold_on(self, str name) except -1
    cdef int make_eager(self, str name) except -1
    cdef int announce(self, int64_t now_ns) except -1
    cdef int note(self, str name, Peer peer, tuple broadcasts, int64_t now_ns) except -1
    cdef object asked(self, bytes broadcast)
    cdef int ask(self, list broadcasts, int64_t now_ns) except -1
    cdef int answer(self, str name, Peer peer, tuple broadcasts, int64_t now_ns) except -1
    cdef int send_ids(self, str name, kind, broadcasts) except -1
