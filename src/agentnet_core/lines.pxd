from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef class Ring:
    cdef uint64_t* data
    cdef Py_ssize_t begin, count, capacity      # a power of two
    cdef int append(self, uint64_t number) except -1
    cdef uint64_t popleft(self) noexcept
    cdef int grow(self) except -1

    cdef inline uint64_t first(self) noexcept:
        return self.data[self.begin]


# What is to be said of all that was let in from `first` to `last`.
cdef struct Said:
    int what
    uint32_t attempt            # the last one that came
    uint64_t first
    uint64_t last


cdef class InLine:
    """What came of one sender for one receiver at one priority, as far as it matters for what comes."""
    cdef readonly str node_id
    cdef readonly uint64_t epoch, from_id, to_id
    cdef readonly uint8_t level
    cdef readonly uint64_t last     # the highest number let in
    cdef readonly Ring open         # those that are not finished
    cdef readonly dict early        # those that are, before an earlier one
    cdef readonly dict failed       # of those that are open, those that wait to be sent again
    cdef readonly dict attempts     # of those that are open, the last attempt, if it came again since
    cdef readonly dict refused      # number -> (code, text)
    cdef readonly uint64_t forgotten    # up to this it is not known any more which were refused
    cdef Said* runs
    cdef Py_ssize_t runs_count, runs_capacity
    cdef bint joins                 # the last run of what was processed may be made longer
    cdef bint touched, gap, durable
    cdef uint32_t place             # its number in the log, 0 if it is not there
    cdef int64_t used_ns
    cdef uint64_t floor(self)
    cdef bint is_finished(self, uint64_t number) except -1
    cdef int finish(self, uint64_t number, uint32_t attempt, bint on_disk) except -1
    cdef uint32_t newest(self, uint64_t number, uint32_t attempt) except 0
    cdef int drop(self, uint64_t number) except -1
    cdef int refuse(self, uint64_t number, int code, bytes text, Py_ssize_t most) except -1
    cdef int settled_below(self, uint64_t number) except -1
    cdef int note(self, int what, uint64_t number, uint32_t attempt) except -1
    cdef int say(self, int what, uint64_t first, uint64_t last, uint32_t attempt) except -1
    cdef list take_runs(self)
    cdef int restore(self, uint64_t floor, uint64_t forgotten, list early) except -1
