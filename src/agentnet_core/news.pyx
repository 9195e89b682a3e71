"""What a node has learned of others and not told on yet, and whom it need not tell.

News goes to the neighbours on the rings, in a full mesh too: where each of n nodes tells all others what
it learned, one change costs n * n frames.  Whoever has told it knows it, and is not told.  In a large
network some are told together, and of those who come, who keep nobody from work, more than of those who go.
"""

from agentnet_core.roster import join_members

NEVER = 2**63 - 1
NODES_A_NEWS_MS = 2
"""For so many nodes, a node lets a millisecond pass between two frames of news on the same link."""
CALM, CALM_MS_MAX = 4, 1_000
"""So many times as long if none of it is urgent, at most so long."""

cdef int64_t MS = 1_000_000, never = NEVER


cdef class News:
    """At most one of each node that is known, and as many tellers of it as there are links."""

    def __cinit__(self):
        self.tellers = {}

    cpdef note(self, str node_id, str source=None, bint urgent=True):
        """Something is new of that node. ``source``: the linked node that told it."""
        self.tellers[node_id] = () if source is None else (source,)
        self.urgent = self.urgent or urgent

    cpdef echoed(self, str node_id, str source):
        """A linked node told what is known already."""
        cdef object tellers
        if source is not None and self.tellers:
            tellers = self.tellers.get(node_id)
            if tellers is not None and source not in <tuple>tellers:
                self.tellers[node_id] = <tuple>tellers + (source,)

    cpdef int64_t due_ns(self, Py_ssize_t nodes, bint along=False) except? -1:
        """When to tell it in a network of so many: at once in a small one. ``along``: with what else is done,
        for which half of the time is enough."""
        cdef int64_t pause_ns = nodes // NODES_A_NEWS_MS * MS
        if not self.tellers:
            return never
        if not self.urgent:
            pause_ns = max(pause_ns, min(CALM * pause_ns, CALM_MS_MAX * MS))
        return self.told_ns + (pause_ns // 2 if along else pause_ns)

    def drain(self, peers, int64_t now_ns, pack):
        """For each of the peers, the bodies of MEMBERS frames with all that it did not tell itself.

        ``pack``: what is held of a node now, as `join_members` takes it.
        """
        cdef list news = [], told = [], others
        cdef dict tellers = self.tellers, knowing = {}
        cdef tuple known
        self.told_ns, self.tellers, self.urgent = now_ns, {}, False
        for node_id, known in tellers.items():
            for packed in pack(node_id):
                news.append((packed, known))
            for teller in known:
                knowing[teller] = None
        for_all = join_members([packed for packed, _ in news]) if news else []
        for peer in peers:
            bodies = for_all
            if peer in knowing:
                others = [packed for packed, known in news if peer not in known]
                bodies = join_members(others) if others else []
            told.append((peer, bodies))
        return told
