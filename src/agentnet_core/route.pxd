from libc.stdint cimport int64_t, uint32_t, uint64_t

from agentnet_core.message cimport AgentMessage
from agentnet_core.session cimport Session


cdef class Route:
    """Where an agent is: behind a session, or here (a Port)."""
    cdef readonly uint64_t agent_id
    cdef readonly object record
    cdef readonly Session session
    cdef readonly bint stopped
    cdef object waiting             # deque of Waiting while stopped
    cdef Py_ssize_t waiting_count
    cdef int64_t waiting_bytes


cdef class Waiting:
    """A message that waits for room."""
    cdef readonly AgentMessage message
    cdef readonly Route route
    cdef readonly object token
    cdef int64_t wait_ns, deadline_ns
    cdef uint32_t fragment
    cdef bint dropped, started
    cdef int drop(self) except -1
    cdef int move(self, Route route) except -1
