from libc.stdint cimport int64_t, uint64_t

from agentnet_core.leases cimport Leases
from agentnet_core.message cimport AgentMessage
from agentnet_core.deeds cimport Kept, Deeds


cdef class Begun:
    """An operation that is in a mailbox, or at its handler."""
    cdef readonly AgentMessage owner
    cdef list waiters               # messages that ask for the same


cdef class Operations(Leases):
    cdef readonly Deeds deeds
    cdef readonly dict begun        # key -> Begun
    cdef object committing          # deque of (batch, token) of `once`
    cdef int64_t operation_ns, operations_max, operations_bytes_max, result_bytes_max
    cdef int64_t operations_replayed, operations_joined, operations_refused

    cdef tuple key_of(self, AgentMessage message)
    cdef bint admit_once(self, record, AgentMessage message) except -1
    cdef int forget_results(self) except -1
    cdef bint is_spent(self, tuple key) except -1
    cdef bint is_own(self, tuple key, AgentMessage message) except -1
    cdef Begun take_begun(self, tuple key, AgentMessage message)
    cdef object conclude(self, AgentMessage message, tuple key, Begun begun, bytes payload, int content,
                         failure)
    cdef Kept keep(self, tuple key, bytes payload, int content, bint firm)
    cdef object say_of(self, AgentMessage message, bytes payload, int content, failure)
    cdef int tell_of(self, AgentMessage message, Kept kept) except -1
    cdef int say_kept(self, AgentMessage message, Kept kept) except -1
    cdef int check_commit(self, AgentMessage message, tuple key, dict changes) except -1
    cdef int commit(self, AgentMessage message, dict changes, bytes payload, int content, token) except -1
