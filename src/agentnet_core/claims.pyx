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
    ``one`` or ``many``: its records, for most nodes have one agent.
    ``tally`` and ``head``: what the version comes to, and its owner's signature, where the network is signed.
    ``body``: the list as it goes to others, as it came or once it was asked for, if it is short.
    """

    def __init__(self, str node_id, uint64_t incarnation):
        self.node_id, self.incarnation = node_id, incarnation
        self.whole = True

    @property
    def records(self):
        """What is held of it, by id, but of ``stale``."""
        if self.many is not None:
            return self.many
        return {self.one.agent_id: self.one} if self.one is not None else {}

    cdef int begin(self, str source, Update update) except -1:
        """A whole list begins to come."""
        if self.incarnation != update.incarnation:
            self.incarnation, self.version = update.incarnation, 0
        records, self.one, self.many = self.records, None, None
        if records:
            # One that breaks off and begins again leaves both halves to be repeated.
            self.stale = self.stale | records if self.stale else records
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

    cdef AgentRecord get(self, agent_id):
        """The record of that id, if it is held and is not of ``stale``."""
        if self.many is not None:
            return self.many.get(agent_id)
        return self.one if self.one is not None and self.one.agent_id == agent_id else None

    cdef int put(self, AgentRecord record) except -1:
        """Hold that record."""
        if self.many is None and (self.one is None or self.one.agent_id == record.agent_id):
            self.one = record
            return 0
        if self.many is None:
            self.many, self.one = self.records, None
        self.many[record.agent_id] = record
        return 0

    cdef AgentRecord pop(self, agent_id):
        """Let go of the record of that id, wherever it is held."""
        cdef AgentRecord record = self.get(agent_id)
        if record is None:
            return self.pop_stale(agent_id)
        if self.many is not None:
            del self.many[agent_id]
        else:
            self.one = None
        return record

    cdef AgentRecord pop_stale(self, agent_id):
        """Let go of the record of that id that was not repeated yet."""
        return self.stale.pop(agent_id, None) if self.stale is not None else None


cdef class Early:
    """Changes of lists of nodes that are not known yet, at most ``count_max``; of the oldest node they go."""

    def __init__(self, Py_ssize_t count_max):
        self._count_max, self._updates = count_max, {}

    def __len__(self):
        return self._count

    cpdef int keep(self, str owner, str source, Update update) except -1:
        """``source`` has brought that."""
        if self._count >= self._count_max:
            self.take(next(iter(self._updates)))
        self._updates.setdefault(owner, []).append((source, update))
        self._count += 1
        return 0

    cpdef list take(self, str owner):
        """What there is of that node, oldest first; it is kept here no more."""
        if not self._count:
            return []
        updates = self._updates.pop(owner, [])
        self._count -= len(updates)
        return updates
