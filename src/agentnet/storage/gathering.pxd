from cpython.pythread cimport PyThread_type_lock
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef struct Heap:
    uint8_t* data
    Py_ssize_t used, capacity       # with room for the head of a group


# Where the next group goes, and how far; `write` tells what the members are.
cdef struct Room:
    uint64_t group
    int64_t at, grown, limit, spare, step
    uint32_t salt
    int file, error
    bint syncing


cdef class Gathering:
    cdef PyThread_type_lock mutex   # around all below; whoever has it waits for nothing
    cdef PyThread_type_lock bell    # the thread waits for it while it is `idle`
    cdef bint idle, ending
    cdef bint bare                  # something was written since the thread rested
    cdef bint rested                # it did, and `wait` has not told
    cdef Py_ssize_t rung            # whether it was, since something was taken
    cdef bint brisk                 # what was waited for last came soon
    cdef int64_t rest_us, spin_ns
    cdef Heap open, flying
    cdef readonly uint64_t number   # of the last batch that was put
    cdef readonly uint64_t done     # all up to this one that were not cleared are on the disk
    cdef int64_t put_bytes, flying_bytes, done_bytes    # of all batches up to there
    cdef public int told            # the descriptor that the loop reads; -1 if there is none
    cdef object batches             # deque of (number, count, orders, frees, runs)
    cdef bint await_some(self) noexcept nogil
    cdef bint spin(self) noexcept nogil
    cdef bint lie(self) noexcept nogil
    cdef bint sleep(self) noexcept nogil
    cdef void write_groups(self, Room* room) noexcept nogil
