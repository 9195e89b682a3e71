from libc.stdint cimport int64_t

from agentnet_core.message cimport AgentMessage
from agentnet_core.reception cimport Reception
from agentnet_core.route cimport Route
from agentnet_core.slip cimport Slip


cdef class Leases(Reception):
    cdef Slip first_lease, last_lease   # of those that are at work
    cdef int64_t lease_ns, lease_ns_max
    cdef int64_t leases, leases_extended, leases_expired
    cdef int begin_lease(self, Slip slip) except -1
    cdef int end_lease(self, Slip slip) except -1
    cdef int lapse(self, AgentMessage message) except -1
    cdef int tick_leases(self) except -1
