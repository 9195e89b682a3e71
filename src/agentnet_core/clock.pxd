from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_Compare
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef struct Count:
    PyObject* actor         # an interned str, owned: one pointer is one name
    uint64_t number


cdef enum Relation:
    EQUAL = 0
    BEFORE = 1              # the other has more of some actor
    AFTER = 2               # this one has
    CONCURRENT = 3


cdef class VectorClock:
    cdef Count* slots       # in order of name
    cdef uint32_t count, capacity
    cdef uint32_t find(self, str actor) noexcept
    cdef int insert(self, uint32_t at, PyObject* actor, uint64_t number) except -1
    cdef int join(self, VectorClock other) except -1


cdef class HybridClock:
    cdef readonly uint64_t last
    cdef readonly uint64_t skew_ms_max
    cpdef uint64_t stamp(self, int64_t now_ns)
    cpdef uint64_t latest(self, int64_t now_ns)


cdef inline int relate(VectorClock one, VectorClock other) noexcept:
    """A Relation of `one` to `other`."""
    cdef int found = EQUAL
    cdef uint32_t i = 0, k = 0
    cdef int order
    while i < one.count and k < other.count:
        if one.slots[i].actor == other.slots[k].actor:
            if one.slots[i].number != other.slots[k].number:
                found |= BEFORE if one.slots[i].number < other.slots[k].number else AFTER
            i += 1
            k += 1
            continue
        order = PyUnicode_Compare(<object>one.slots[i].actor, <object>other.slots[k].actor)
        if order < 0:
            found |= AFTER
            i += 1
        else:
            found |= BEFORE
            k += 1
    if i < one.count:
        found |= AFTER
    if k < other.count:
        found |= BEFORE
    return found


cdef inline int unite(VectorClock into, VectorClock other) except -1:
    """`into` becomes the greater of both, actor by actor."""
    cdef uint32_t i = 0, n = other.count
    if into.count == n:
        while i < n and into.slots[i].actor == other.slots[i].actor:
            if into.slots[i].number < other.slots[i].number:
                into.slots[i].number = other.slots[i].number
            i += 1
    return 0 if i == n else into.join(other)
