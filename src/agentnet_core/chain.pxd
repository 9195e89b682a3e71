from libc.stdint cimport int64_t, uint64_t

from agentnet_core.envelope cimport Envelope
from agentnet_core.message cimport AgentMessage


cdef Envelope call_below(AgentMessage cause, uint64_t worker, int64_t hops_max, int64_t calls_max)
cdef Envelope send_below(AgentMessage cause, uint64_t worker, int64_t hops_max)
cdef uint64_t take_share(Envelope above, Envelope below) except? 0
cdef int give_back(Envelope above, uint64_t share) except -1
