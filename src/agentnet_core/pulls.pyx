"""Which lists of agents are lacking here, and who is to be asked for them.

In: versions that were heard of and are not held, what has come, links that go.  Out: whom to ask for
what.  A list is asked of its owner if there is a link to it, else of those who told of it, else of
anybody that is linked; of the next when the link goes, or when no part of it has come for `pull_ms_max`;
and so on, until it is here or nobody wants it any more.

At most `pull_lists_max` lists are asked of one node at a time.  What is wanted is bounded by who wants:
one list for each node that is known.
"""

cimport cython

cdef int64_t NS_PER_MS = 1_000_000
cdef int64_t NEVER = 2**63 - 1
TELLERS_MAX = 8
"""Nodes that told of a list, which are kept: whoever has it will do."""


@cython.no_gc
cdef class Want:
    """A list that is lacking. ``tried``: who was asked since all were. ``asked``: who is asked now."""

    def __init__(self, uint64_t incarnation, uint64_t version, int64_t due_ns):
        self.incarnation, self.version, self.due_ns = incarnation, version, due_ns
        self.tellers = []


cdef class Pulls:
    """The lists that are lacking, by owner."""

    def __init__(self, config):
        self._patience_ns = config.pull_ms_max * NS_PER_MS
        self._lists_max = config.pull_lists_max
        self._wants, self._open = {}, {}
        self._due_ns = NEVER

    def __len__(self):
        return len(self._wants)

    cpdef int want(self, str owner, uint64_t incarnation, uint64_t version, str teller,
                   int64_t due_ns) except -1:
        """``teller`` has that version of the list, or may have; it is asked for at ``due_ns`` if it has not
        come by then."""
        cdef Want want = self._wants.get(owner)
        if want is not None and want.incarnation < incarnation:
            self.drop(owner)
            want = None
        if want is None:
            want = self._wants[owner] = Want(incarnation, version, due_ns)
        elif want.incarnation == incarnation:
            want.version = max(want.version, version)
            if want.asked is None:
                want.due_ns = min(want.due_ns, due_ns)
        if teller not in want.tellers and len(want.tellers) < TELLERS_MAX:
            want.tellers.append(teller)
        self._due_ns = min(self._due_ns, want.due_ns)
        return 0

    cpdef int held(self, str owner, uint64_t incarnation, uint64_t version) except -1:
        """That version is here."""
        cdef Want want = self._wants.get(owner)
        if want is None or incarnation < want.incarnation:
            return 0
        if incarnation > want.incarnation or version >= want.version:
            self.drop(owner)
        return 0

    cpdef int drop(self, str owner) except -1:
        """Nobody wants that list any more."""
        cdef Want want = self._wants.pop(owner, None)
        if want is not None:
            self.release(want)
            if not self._wants:
                self._due_ns, self._starved = NEVER, False
        return 0

    cpdef int came(self, str owner, str source, int64_t now_ns) except -1:
        """A part of the list has come: more will."""
        cdef Want want = self._wants.get(owner)
        if want is not None and want.asked is not None and want.asked == source:
            want.due_ns = now_ns + self._patience_ns
        return 0

    def link_up(self, int64_t now_ns):
        """There is somebody more to ask."""
        if self._starved:
            self._due_ns = min(self._due_ns, now_ns)

    def link_down(self, str node_id not None, int64_t now_ns):
        """Nothing comes from that node any more: others are asked."""
        cdef Want want
        for want in self._wants.values():
            if node_id in want.tellers:
                want.tellers.remove(node_id)
            if want.asked is not None and want.asked == node_id:
                self.release(want)
                want.due_ns = self._due_ns = now_ns

    def tick(self, linked, int64_t now_ns):
        """Whom of the linked nodes to ask now, and for which lists: owner and incarnation."""
        cdef dict asks = {}
        cdef Want want
        cdef Py_ssize_t busy = 0
        cdef str owner, node_id
        if now_ns < self._due_ns:
            return asks
        for want in self._wants.values():
            if want.due_ns <= now_ns:
                self.release(want)
        self._due_ns, self._starved = NEVER, False
        for node_id in linked:
            busy += self.is_busy(node_id)
        for owner, want in self._wants.items():
            if want.due_ns <= now_ns:
                node_id = self.next_of(owner, want, linked) if busy < len(linked) else None
                if node_id is None:
                    self._starved = True
                    continue
                want.asked = node_id
                want.tried.append(node_id)
                want.due_ns = now_ns + self._patience_ns
                self._open[node_id] = self._open.get(node_id, 0) + 1
                busy += self.is_busy(node_id)
                asks.setdefault(node_id, []).append((owner, want.incarnation))
            self._due_ns = min(self._due_ns, want.due_ns)
        return asks

    cpdef int64_t next_deadline_ns(self) except? -1:
        """When `tick` will have something to do next; NEVER if only news can change that."""
        return self._due_ns

    cdef bint is_busy(self, str node_id) except -1:
        """Whether no more lists are asked of that node for now."""
        return self._open.get(node_id, 0) >= self._lists_max

    cdef str next_of(self, str owner, Want want, linked):
        """Who is to be asked; nobody if all that could be are busy, or not linked."""
        cdef str node_id, again = None
        if want.tried is None:
            want.tried = []
        for nodes in ((owner,), want.tellers, linked):
            for node_id in nodes:
                if node_id not in linked or self.is_busy(node_id):
                    continue
                if node_id not in want.tried:
                    return node_id
                again = again or node_id
        if again is not None:
            want.tried.clear()
        return again

    cdef int release(self, Want want) except -1:
        cdef int left
        if want.asked is None:
            return 0
        left = self._open.pop(want.asked) - 1
        if left:
            self._open[want.asked] = left
        want.asked = None
        if self._starved and left <= self._lists_max // 2:
            self._due_ns = 0
        return 0
