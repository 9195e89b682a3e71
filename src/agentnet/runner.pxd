from libc.stdint cimport int64_t

from agentnet_core.calls cimport Calls
from agentnet_core.message cimport AgentMessage, Origin
from agentnet_core.port cimport Port, Work


cdef class Runner(Work):
    cdef Calls engine
    cdef object handler, loop, report, monotonic_ns
    cdef public object task
    cdef readonly object inner      # what is being awaited: the handler's coroutine, mail, room for a reply
    cdef object mail                # future that ends its idleness
    cdef bint retired
    cdef bint single                # it is there for one message only
    cdef object enter(self, object thrown)
    cdef bint recalled              # it is to be cancelled: nobody waits for what it is at
    cdef readonly int64_t recalls   # handlers cancelled so
    cdef bint pardon(self) except -1
    cdef int stopped(self, AgentMessage message, object error) except -1
    cdef object step(self, object thrown)
    cdef bint next_message(self) except -1
    cdef int finish(self, object result) except -1
    cdef int wait_for(self, object token) except -1
    cdef int failed(self, object error) except -1
