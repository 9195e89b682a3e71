"""The nouns of the directory: what one node claims to own, and what a change of that did.

Plain data; what becomes of it is for `directory` to say.  There is one of the former for each node that is
known: nothing in it can hold it, so the garbage collector need not look at it.
"""

cimport cython

from agentnet_core.listing import write_confirms

# A list that goes to others in no more than that is kept as it goes: who is new asks for all.
cdef Py_ssize_t KEPT_BYTES_MAX = 1024


@cython.no_gc
@cython.freelist(4)
cdef class Applied:
    """What a change did to the directory.

    ``version``: of the owner's list, as it is held whole from now on, 0 if none is. ``lacks``: something
    is missing before what came, and nothing that brings it is under way.

    ``added``, ``changed``, ``removed``: records that count from now on, that took the place of the
    same agent's, that count no more. ``lost_mine``: own agents that lost their id, and to whom.
    ``conflicts``: ids of the update that another node keeps. ``refused``: records over a limit, and
    which limit. ``answer``: what the owner is to be told, as `write_confirms` takes it.
    """

    def __cinit__(self):
        self.added, self.changed, self.removed = [], [], []
        self.lost_mine, self.conflicts, self.refused = [], [], []

    @property
    def confirms(self):
        """The answer as bodies of CONFIRM frames, written each time: most owners are not linked."""
        return write_confirms(*self.answer) if self.answer is not None else []

    def __eq__(self, other):
        return isinstance(other, Applied) and _fields(self) == _fields(<Applied>other)


cdef tuple _fields(Applied it):
    return (it.version, it.lacks, it.added, it.changed, it.removed, it.lost_mine, it.conflicts, it.refused,
            it.answer)


@cython.no_gc
cdef class Claims:
    """The list of one node: what it says it owns.

    ``version``: that is held, or was before another came. ``source``: the link that a whole list comes
    over, and ``coming`` its version. ``whole`` False: some of ``stale`` was not repeated by it yet.
    ``untaken``: ids of it that others keep, or a limit refuses; ``partial``: there are some of the latter.
    ``tally`` and ``head``: what the version comes to, and its owner's signature, where the network is signed.
    ``body``: the list as it goes to others, as it came or once it was asked for, if it is short.
    """

    def __init__(self, str node_id, uint64_t incarnation):
        self.node_id, self.incarnation = node_id, incarnation
        self.records = {}
        self.whole = True

    cdef int begin(self, str source, Update update) except -1:
        """A whole list begins to come."""
        if self.incarnation != update.incarnation:
            self.incarnation, self.version = update.incarnation, 0
        if self.records:
            # One that breaks off and begins again leaves both halves to be repeated.
            self.stale = self.stale | self.records if self.stale else self.records
            self.records = {}
        self.source, self.coming = source, update.version
        self.untaken = self.body = None
        self.whole = self.partial = False
        return 0

    cdef int hold(self, Update update) except -1:
        """That version is held from now on."""
        self.version, self.head, self.body = update.version, update.head, None
        if update.body is not None:
            self.keep(update.body)
        if update.tally is not None:
            self.tally = update.tally
        return 0

    cdef int keep(self, bytes body) except -1:
        """That is the list as it goes to others."""
        if len(body) <= KEPT_BYTES_MAX:
            self.body = body
        return 0

    cdef list all(self):
        """What is held of it, those of the version before that were not repeated yet first."""
        return [*(self.stale or {}).values(), *self.records.values()]


cdef class Early:
    """Changes of lists of nodes that are not known yet, at most ``count_max``; of the oldest node they go."""

    def __init__(self, Py_ssize_t count_max):
        self._count_max, self._updates = count_max, {}

    def __len__(self):
        return self._count

    def keep(self, str owner, str source, Update update):
        """``source`` has brought that."""
        if self._count >= self._count_max:
            self.take(next(iter(self._updates)))
        self._updates.setdefault(owner, []).append((source, update))
        self._count += 1

    def take(self, str owner):
        """What there is of that node, oldest first; it is kept here no more."""
        if not self._count:
            return []
        updates = self._updates.pop(owner, [])
        self._count -= len(updates)
        return updates
