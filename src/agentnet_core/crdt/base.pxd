from libc.stdint cimport uint8_t, uint32_t, uint64_t

from agentnet_core.crdt.table cimport Table
from agentnet_core.dots cimport Runs


cdef struct Gone:
    uint64_t number
    uint32_t actor


cdef class Delta:
    """What one replica has changed since its last delta was encoded."""
    cdef Table table
    cdef int code
    cdef uint64_t first, last       # own events, none if `last` is 0
    cdef Gone* gone                 # others whose entries went
    cdef size_t gone_count, gone_capacity
    cdef bint whole                 # too many went: all of the state
    cdef int add_gone(self, uint32_t actor, uint64_t number) except -1
    cdef Runs* wanted(self) except NULL


# Which entries of a path a write replaces.
cdef enum Replace:
    ALL = 0
    OWN = 1
    SEEN = 2                        # those that a context holds


cdef class Crdt:
    cdef int code
    cdef Table table
    cdef readonly Delta delta
    cdef bytes prefix               # of the paths in `table`; empty but for what is in a map
    cdef int deep                   # in how many maps it is
    cdef int begin(self) except -1
    cdef int own_actor(self) except -1
    cdef Delta write(self, size_t path_size, uint64_t stamp, int replace, object context)
    cdef bint _replaces(self, uint32_t i, int replace, object context) except -1
    cdef int _replace(self, uint32_t i, int replace, object context) except -1
    cdef uint8_t _count_parts(self, size_t value_size, uint64_t stamp) noexcept
    cdef int _check_room(self, size_t path_size, size_t value_size, uint32_t gone,
                         size_t bytes_gone) except -1
    cdef Delta erase(self, uint32_t first)
    cdef Delta erase_all(self)
    cdef uint32_t find(self) noexcept
    cdef bint has_prefix(self, uint32_t i) noexcept
    cdef list rows(self)
    cdef object read(self, list rows, size_t skip)


cdef uint64_t stamp_of(object stamp) except 0
