from libc.stdint cimport int64_t, uint32_t

from agentnet_core.member_record cimport NodeRecord


cpdef int share_of(str node_id) except -1


cdef class Redial:
    cdef public object dial         # the one in progress
    cdef public int failures
    cdef public int64_t next_ns
    cdef public str reason
    cpdef fail(self, str reason, int64_t next_ns)


cdef class Node:
    cdef public NodeRecord record
    cdef readonly Redial redial
    cdef public int64_t since_ns, heard_ns
    cdef public bint fresh, hung_up, linked, lost, plaintext, told
    cdef bytes packed, said
    cdef tuple refused
    cdef int share, turn
    cdef uint32_t mark
