from agentnet_core.engine cimport Engine, Port
from agentnet_core.message cimport AgentMessage


cdef class Runner:
    cdef Port port
    cdef Engine engine
    cdef object handler, loop, report
    cdef public object task
    cdef object inner               # what is being awaited: the handler's coroutine, mail, room for a reply
    cdef AgentMessage message       # what the handler is working on
    cdef object mail                # future that ends its idleness
    cdef bint retired
    cdef object step(self, object thrown)
    cdef bint next_message(self) except -1
    cdef int finish(self, object result) except -1
    cdef int failed(self, object error) except -1
