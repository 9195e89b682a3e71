from libc.stdint cimport int64_t, uint32_t

from agentnet_core.calls cimport Calls
from agentnet_core.envelope cimport Envelope
from agentnet_core.mailbox cimport Mailbox
from agentnet_core.message cimport AgentMessage
from agentnet_core.recalls cimport Pending
from agentnet_core.route cimport Route
from agentnet_core.session cimport Session


cdef class Overfill:
    """What one link has brought for a mailbox that was full already."""
    cdef int64_t plain, large
    cdef int64_t beyond(self, int64_t window, int64_t large_max) noexcept


cdef class Port(Route):
    """The engine's end of an agent of this node."""
    cdef readonly Calls engine
    cdef Mailbox box
    cdef public bint parked         # its runner waits, or it has none: mail must wake it
    cdef readonly int when_full     # number of a WhenFull
    cdef Py_ssize_t messages_max, bytes_max     # of its mailbox
    cdef public bint reentrant      # it takes calls of chains that wait for it already
    cdef object returned            # deque of those that have come, which go past the mailbox
    cdef Py_ssize_t returned_open   # they, and those that are worked on
    cdef list stopped_sessions
    cdef dict overfill              # Origin -> Overfill, until GO
    cdef readonly int64_t served_ns
    cdef bint works(self) noexcept
    cdef Envelope cause(self)
    cdef object spent(self, Work work, error)
    cdef object _post(self, to, payload, message_type, priority, ttl, message_id, bint may_wait)
    cdef int inherit(self, Port old) except -1
    cdef Mailbox mailbox(self)
    cdef int go(self) except -1
    cdef int withhold(self, Session session, int64_t size, int64_t whole) except -1
    cdef int forgive(self) except -1
    cdef AgentMessage next_message(self)
    cdef AgentMessage hand_over(self, AgentMessage message)
    cdef int count_call(self, Pending pending, Envelope above, Envelope below) except -1
    cdef int put_request(self, Route route, Pending pending, AgentMessage message, Envelope below,
                         operation) except -1
    cdef Envelope nest(self, Work work, int64_t* timeout_ns)


cdef class Work:
    """What one runner of an agent is at: `message` while a handler runs, else None."""
    cdef readonly Port port
    cdef public AgentMessage message


cdef uint32_t to_ttl(int64_t timeout_ns) noexcept
