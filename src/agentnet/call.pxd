from agentnet_core.recalls cimport Pending


cdef enum State:
    WAITS = 0
    ANSWERED = 1
    FAILED = 2
    CANCELLED = 3


cdef class Waker:
    cdef object loop
    cdef object ended               # a future that is done: what a task that wakes is shown
    cdef list calls
    cdef int wake(self, Awaited call) except -1


cdef class Awaited(Pending):
    cdef int finish(self, State state, outcome) except -1
    cdef int lapse(self, message) except -1
    cdef int call_back(self) except -1
    cdef object take(self)


cdef class Call(Awaited):
    cdef object known(self)
