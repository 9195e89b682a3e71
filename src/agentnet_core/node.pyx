"""One node as another knows it: what is held of it, and when it is dialled next."""

cimport cython

from hashlib import blake2b

from agentnet_core.roster import SHARES

DIAL_REASON_CHARS = 500


cpdef int share_of(str node_id) except -1:
    """Nodes are compared by shares, each of which takes the same nodes everywhere."""
    cdef bytes digest = blake2b(node_id.encode(), digest_size=1).digest()
    return digest[0] % shares


cdef int shares = SHARES


@cython.final
@cython.no_gc
cdef class Redial:
    """When to dial next. ``failures`` counts dials, and short-lived links, since the last good link."""

    def __init__(self, int64_t next_ns):
        self.next_ns = next_ns
        self.reason = ""

    cpdef fail(self, str reason, int64_t next_ns):
        """The dial, or the link that it gave, came to nothing."""
        self.failures += 1
        self.reason = reason[:DIAL_REASON_CHARS]
        self.next_ns = next_ns


@cython.final
@cython.no_gc
cdef class Node:
    """``since_ns``: of its link. ``heard_ns``: when it was heard of last; of a linked one the caller may
    know better. ``told``: JOINED was told and LOST was not. ``packed``: the record, once needed; ``said``: in
    which bytes it was told last, which need not be read again. ``mark``: of the record that was last counted
    in the sum of its ``share``. ``hung_up``: its end of the last link closed without a word; ``refused``:
    where its dials are since. ``fresh``: its certificate has not been told on yet."""

    def __init__(self, NodeRecord record not None, int64_t now_ns, int64_t next_ns):
        self.record = record
        self.redial = Redial(next_ns)
        self.since_ns = self.heard_ns = now_ns
        self.fresh = True
        self.refused = ()
        self.share = share_of(record.node_id)
