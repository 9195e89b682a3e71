from agentnet_core.calls cimport Calls
from agentnet_core.message cimport AgentMessage
from agentnet_core.port cimport Port


cdef class Runner:
    cdef readonly Port port
    cdef Calls engine
    cdef object handler, loop, report, monotonic_ns
    cdef public object task
    cdef readonly object inner      # what is being awaited: the handler's coroutine, mail, room for a reply
    cdef AgentMessage message       # what the handler is working on
    cdef object mail                # future that ends its idleness
    cdef bint retired
    cdef object step(self, object thrown)
    cdef bint next_message(self) except -1
    cdef int finish(self, object result) except -1
    cdef int wait_for(self, object token) except -1
    cdef int failed(self, object error) except -1
