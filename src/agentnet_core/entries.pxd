from libc.stdint cimport uint8_t, uint32_t, uint64_t


# What a record says; an owner's own kinds, of entries, begin at KIND_MIN.
cdef enum Order:
    CELL = 1            # index: its key; body: its value from now on
    RELEASE = 2         # entries below the index are needed no more
    TRUNCATE = 3        # entries from the index on are void
    RETIRE = 4          # index: the lowest segment that still counts
    FORGET = 5          # the owner is no more, nor is all that it had
    SNAPSHOT = 6        # body: the file that stands for all entries below the index
    KIND_MIN = 16

cdef enum:
    RECORD_HEAD_BYTES = 25
    GROUP_HEAD_BYTES = 32


# Entries of one owner in a row, or one order.
cdef struct Run:
    uint64_t owner
    uint64_t first
    uint64_t last
    Py_ssize_t body     # which of the bodies, -1 if none
    uint8_t kind        # KIND_MIN for entries


cdef class Runs:
    cdef Run* runs
    cdef Py_ssize_t count, capacity
    cdef list bodies
    cdef int add(self, uint64_t owner, uint8_t kind, uint64_t index, bytes body) except -1
    cdef int extend(self, Runs other) except -1
    cdef bint joins(self, uint64_t owner, uint64_t index) noexcept
    cdef list as_list(self)


cdef class Entries:
    cdef uint8_t* data
    cdef Py_ssize_t used, capacity
    cdef int exports
    cdef readonly Py_ssize_t count, orders
    cdef readonly bint frees
    cdef Runs runs
    cdef uint8_t* reserve(self, Py_ssize_t n) except NULL
    cdef int _record(
        self, uint64_t owner, uint8_t kind, uint64_t index, const uint8_t* body, Py_ssize_t size) except -1
    cdef int _close_record(self, uint64_t owner, uint8_t kind, uint64_t index, Py_ssize_t size) except -1
    cdef uint8_t* begin_record(self, Py_ssize_t size) except NULL
    cdef int finish_record(self, uint64_t owner, uint8_t kind, uint64_t index, Py_ssize_t size) except -1
    cdef int put_record(
        self, uint64_t owner, uint8_t kind, uint64_t index, const uint8_t* body, Py_ssize_t size) except -1


cdef class Trail:
    """The live entries of one owner, found again; views into the segments that `keep` holds."""
    cdef const uint8_t** heads
    cdef Py_ssize_t begin, end, capacity
    cdef object keep
    cdef int add(self, const uint8_t* head) except -1
    cdef void release(self, uint64_t index) noexcept
    cdef void truncate(self, uint64_t index) noexcept


cdef class Replay:
    cdef readonly dict trails
    cdef list keep
    cdef int take(self, const uint8_t* at, const uint8_t* end, Runs runs) except -1
