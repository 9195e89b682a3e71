from agentnet_core.recalls cimport Pending


cdef enum State:
    WAITS = 0
    ANSWERED = 1
    FAILED = 2
    CANCELLED = 3


cdef class Call(Pending):
    cdef State state
    cdef object outcome             # the answer, or the error
    cdef object waiter              # the loop's own future, once somebody awaits
    cdef list callbacks             # (function, context)
    cdef object fate                # future of a Fate, once asked for
    cdef object word                # the Fate, once it is known
    cdef int finish(self, State state, outcome) except -1
    cdef int lapse(self) except -1
    cdef int call_back(self) except -1
    cdef object wait(self)
    cdef object take(self)
    cdef object known(self)
