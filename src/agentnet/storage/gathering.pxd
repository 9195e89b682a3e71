from cpython.pythread cimport PyThread_type_lock
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef struct Heap:
    uint8_t* data
    Py_ssize_t used, capacity       # with room for the head of a group


cdef class Gathering:
    cdef PyThread_type_lock mutex   # around all below; whoever has it waits for nothing
    cdef PyThread_type_lock bell    # the thread waits for it while it is `idle`
    cdef bint idle, ending
    cdef bint bare                  # something was written since the thread rested
    cdef bint rested                # it did, and `wait` has not told
    cdef int64_t rest_us
    cdef Heap open, flying
    cdef readonly uint64_t number   # of the last batch that was put
    cdef readonly uint64_t done     # all up to this one that were not cleared are on the disk
    cdef int64_t put_bytes, flying_bytes, done_bytes    # of all batches up to there
    cdef public int told            # the descriptor that the loop reads; -1 if there is none
    cdef object batches             # deque of (number, count, orders, frees, runs)
    cdef bint await_some(self) noexcept nogil
    cdef bint lie(self) noexcept nogil
    cdef void write_groups(self, int file, uint32_t salt, uint64_t* group, int64_t* at, int64_t limit,
                           int* error, bint* syncing) noexcept nogil
