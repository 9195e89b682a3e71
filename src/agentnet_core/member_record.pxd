from libc.stdint cimport uint8_t, uint32_t, uint64_t

from agentnet_core.framing cimport Cursor


cdef enum Rank:         # as Standing
    ALIVE
    LOST
    LEFT


cdef class NodeRecord:
    cdef readonly str node_id
    cdef readonly uint64_t incarnation, version, listed
    cdef readonly tuple addresses, accusers, witnesses
    cdef readonly object seal, head
    cdef int rank
    cdef bint is_as(self, NodeRecord other) except -1
    cdef bint says_as(self, NodeRecord other) except -1
    cdef NodeRecord copied(self)
    cpdef NodeRecord accused(self, str by, bint witness=*)
    cpdef NodeRecord standing_as(self, int standing)
    cpdef NodeRecord with_list(self, uint64_t listed, head)
    cpdef bint covers(self, NodeRecord told) except -1
    cpdef bint ends(self, NodeRecord told) except -1


cpdef NodeRecord merge(NodeRecord one, NodeRecord other)
cdef int older_first(NodeRecord one, NodeRecord other) noexcept
cdef tuple joined(tuple names, tuple others)

cdef dict sealed(NodeRecord record)

# Where the parts of a record are, in the bytes of it: lists from their heads on.
cdef struct Plain:
    const uint8_t* name
    uint32_t name_size
    bint is_judged
    uint64_t incarnation, version, standing, listed
    Cursor addresses, accusers, witnesses

cpdef NodeRecord read_record(bytes item)
cpdef NodeRecord read_plain(bytes item)
cdef bint find_plain(bytes item, Plain* plain) noexcept
cdef bint list_at(Cursor* c, Cursor* found) noexcept
cdef bint covers_plain(NodeRecord held, Plain* told) except -1
cdef bint are_texts(Cursor c, tuple texts) except -1
cdef NodeRecord plain_record(Plain* plain, str node_id)
cdef str text(const uint8_t* data, uint32_t size)
