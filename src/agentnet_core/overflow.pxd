from libc.stdint cimport int64_t

from agentnet_core.freight cimport Freight
from agentnet_core.message cimport AgentMessage
from agentnet_core.port cimport Port


cdef class Overflow(Freight):
    cdef dict overflown             # Port -> what its mailbox has dropped since that was told last
    cdef int64_t mailbox_dropped
    cdef int overflow(self, Port port, AgentMessage newest) except -1
    cdef int drop(self, Port port, AgentMessage message) except -1
    cdef int tell_overflows(self) except -1
