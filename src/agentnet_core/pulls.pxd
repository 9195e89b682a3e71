from libc.stdint cimport int64_t, uint64_t


cdef class Want:
    cdef readonly uint64_t incarnation, version
    cdef readonly str asked         # who is asked now, or None
    cdef int64_t due_ns
    cdef list tellers, tried        # nodes; the latter may be None


cdef class Pulls:
    cdef readonly dict _wants       # Want by owner
    cdef readonly dict _open        # how many lists are asked of a node
    cdef int64_t _patience_ns, _due_ns
    cdef int _lists_max
    cdef bint _starved              # whether a list is due that nobody could be asked for
    cpdef int want(self, str owner, uint64_t incarnation, uint64_t version, str teller,
                   int64_t due_ns) except -1
    cpdef int held(self, str owner, uint64_t incarnation, uint64_t version) except -1
    cpdef int drop(self, str owner) except -1
    cpdef int came(self, str owner, str source, int64_t now_ns) except -1
    cpdef int64_t next_deadline_ns(self) except? -1
    cdef bint is_busy(self, str node_id) except -1
    cdef str next_of(self, str owner, Want want, linked)
    cdef int release(self, Want want) except -1
