from libc.stdint cimport int64_t, uint64_t


cdef class Window:
    cdef uint64_t first, newest
    cdef object seen
    cdef int64_t heard_ns
    cdef bint has(self, uint64_t sequence, uint64_t size) except -1
    cdef uint64_t add(self, uint64_t sequence, uint64_t size) except? -1
    cdef uint64_t oldest(self, uint64_t size) noexcept
    cdef uint64_t unseen(self, uint64_t low, uint64_t high) except? -1
