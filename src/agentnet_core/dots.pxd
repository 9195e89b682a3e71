from libc.stdint cimport uint8_t, uint32_t, uint64_t

from agentnet_core.framing cimport Cursor
from agentnet_core.packing cimport Buffer


cdef struct Run:
    uint64_t first, last


cdef struct Runs:
    Run* items              # in order, with at least one number missing between two
    uint32_t count, capacity


cdef inline uint32_t runs_after(const Runs* runs, uint64_t n) noexcept nogil:
    """Index of the first run that does not end before n."""
    cdef uint32_t low = 0, high = runs.count, middle
    while low < high:
        middle = (low + high) >> 1
        if runs.items[middle].last < n:
            low = middle + 1
        else:
            high = middle
    return low

cdef inline bint runs_hold(const Runs* runs, uint64_t n) noexcept nogil:
    cdef uint32_t at
    if runs.count == 1:
        return runs.items[0].first <= n <= runs.items[0].last
    at = runs_after(runs, n)
    return at < runs.count and runs.items[at].first <= n

cdef inline uint64_t runs_top(const Runs* runs) noexcept nogil:
    return runs.items[runs.count - 1].last if runs.count else 0

cdef int runs_reserve(Runs* runs, size_t count) except -1
cdef int runs_add(Runs* runs, uint64_t first, uint64_t last) except -1
cdef int runs_join(Runs* into, const Runs* one, const Runs* other) except -1
cdef int runs_subtract(Runs* into, const Runs* one, const Runs* other) except -1
cdef bint runs_hold_all(const Runs* runs, const Runs* others) noexcept nogil
cdef bint runs_equal(const Runs* one, const Runs* other) noexcept nogil
cdef uint64_t runs_total(const Runs* runs) noexcept nogil
cdef void runs_free(Runs* runs) noexcept nogil
cdef int put_runs(Buffer* b, const Runs* runs) except -1
cdef bint read_runs(Cursor* c, Runs* runs, size_t* room) except -1


cdef class Seen:
    """The numbers of one actor's dots."""
    cdef Runs runs


cdef class CausalContext:
    cdef dict actors        # name: Seen
    cdef Seen of(self, str actor)


cdef str read_actor(Cursor* c)
cdef int check_actor(str actor) except -1
