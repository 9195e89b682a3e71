from libc.stdint cimport uint8_t, uint32_t, uint64_t

from agentnet_core.crdt.table cimport Table
from agentnet_core.dots cimport Runs
from agentnet_core.framing cimport Cursor


# What a message says of one actor.
cdef struct Part:
    const uint8_t* name
    uint32_t name_size
    Runs seen, live
    uint32_t index          # in the table, or NONE
    bint grows              # has dots that the table has not seen
    Runs joint              # both, where they grow


# One entry of a message.
cdef struct Item:
    const uint8_t* path
    uint64_t number, stamp
    uint32_t path_size, value_size, hash
    uint32_t part
    uint8_t parts
    bint fresh              # not seen by the table


cdef class Incoming:
    cdef Table table
    cdef int code
    cdef Part* parts
    cdef uint32_t part_count
    cdef Item* items
    cdef uint32_t item_count, fresh
    cdef uint32_t* doomed   # entries of the table that the sender knows to be gone
    cdef uint32_t doomed_count
    cdef size_t fresh_bytes, doomed_bytes
    cdef int parse(self, const uint8_t* data, size_t size) except -1
    cdef int judge(self, str author, uint64_t stamp_max, bint own) except -1
    cdef bint commit(self) except -1
    cdef int _parse_actors(self, Cursor* c, const uint8_t* data) except -1
    cdef uint64_t _parse_runs(self, Cursor* c, const uint8_t* data) except? 0xfffffffffffffffe
    cdef int _parse_items(self, Cursor* c, const uint8_t* data, uint32_t values) except -1
    cdef int _check_sizes(self, size_t path, size_t value) except -1
    cdef int _compare(self, Part* part, Item* item) except -1
    cdef int _find_doomed(self) except -1
    cdef int _find_by_entry(self) except -1
    cdef void _doom(self, uint32_t i) noexcept nogil
    cdef int _check_room(self) except -1


cdef bytes encode(Table table, int code, Runs* wanted)
cdef bint merge(Table table, int code, const uint8_t* data, size_t size, str author, uint64_t stamp_max,
                bint own) except -1
