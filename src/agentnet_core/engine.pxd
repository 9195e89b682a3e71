from libc.stdint cimport int64_t, uint32_t, uint64_t

from agentnet_core.calls cimport Calls
from agentnet_core.framing cimport Arena, Frame
from agentnet_core.mailbox cimport Mailbox
from agentnet_core.message cimport AgentMessage, Origin
from agentnet_core.outflow cimport Route
from agentnet_core.session cimport Session


cdef class Port(Route):
    """The engine's end of an agent of this node."""
    cdef readonly Engine engine
    cdef Mailbox box
    cdef public bint parked         # its runner waits, or it has none: mail must wake it
    cdef list stopped_sessions
    cdef readonly int64_t served_ns
    cdef Mailbox mailbox(self)
    cdef int go(self) except -1
    cpdef AgentMessage take(self)


cdef class Engine(Calls):
    cdef readonly Arena arena
    cdef readonly dict ports         # id -> Port
    cdef readonly list links         # every open Session
    cdef uint64_t last_to
    cdef Port last_port
    cdef int64_t control_bytes_max
    cdef int64_t messages_received, bytes_received, messages_unconfirmed
    cdef int64_t broadcasts_dropped, links_refused, links_lost

    cpdef receive(self, Session session, Py_ssize_t n)
    cdef int on_message(self, Session session, Frame* frame) except -1
    cdef int deliver(self, Port port, AgentMessage message, Session session, uint32_t size) except -1
    cdef int spread(self, AgentMessage message) except -1
    cdef int on_control(self, Session session, Frame* frame) except -1
    cdef int on_stop(self, Session session, uint64_t agent_id) except -1
    cdef int on_go(self, Session session, uint64_t agent_id) except -1
