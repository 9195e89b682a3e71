from libc.stdint cimport int64_t, uint32_t, uint64_t

from agentnet_core.framing cimport Frame
from agentnet_core.message cimport AgentMessage, Origin
from agentnet_core.route cimport Route
from agentnet_core.session cimport Session
from agentnet_core.streams cimport Limit, Reader, Streams, Writer


cdef class Taker(Reader):
    cdef tuple key                  # of its answer's Writer


cdef class Input:
    cdef Taker taker


cdef class Inputs(Streams):
    cdef object __weakref__
    cdef object itself               # weakly: for messages, which are not looked at for cycles
    cdef readonly dict takers        # (node id, incarnation, correlation) -> Taker
    cdef int on_take(self, Session session, Frame* frame) except -1
    cdef int taken(self, Session session, uint64_t correlation, uint64_t wanted, uint64_t limit) except -1
    cdef bint sought(self, Reader reader, Session session) except -1
    cdef int put_take(self, Taker taker, uint64_t wanted) except -1
    cdef int drop_taker(self, tuple key, error) except -1
    cdef int cast_off(self, Taker taker) except -1
