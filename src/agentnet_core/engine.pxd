from libc.stdint cimport int64_t, uint64_t

from agentnet_core.calls cimport Calls
from agentnet_core.framing cimport Arena, Frame
from agentnet_core.message cimport AgentMessage
from agentnet_core.route cimport Route
from agentnet_core.port cimport Port
from agentnet_core.session cimport Session


cdef class Engine(Calls):
    cdef readonly Arena arena
    cdef readonly dict ports         # id -> Port
    cdef readonly list links         # every open Session
    cdef uint64_t last_to
    cdef Port last_port
    cdef int64_t control_bytes_max
    cdef int64_t messages_received, bytes_received, messages_unconfirmed
    cdef int64_t broadcasts_dropped, links_lost, links_retired
    cdef public int64_t links_refused    # by either side; its control counts them

    cdef int limit_handshake(self, int64_t size) except -1
    cdef int on_message(self, Session session, Frame* frame) except -1
    cdef int deliver(self, Port port, AgentMessage message, Session session) except -1
    cdef Route everyone(self, Session session)
    cdef Session stand_in(self, str node_id)
    cdef int move(self, Session old, Session new) except -1
    cdef int part(self, Session session, error) except -1
    cdef int set_aside(self, Session session, lost) except -1
    cdef int strand(self, Session session, lost, unsent) except -1
    cdef int spread(self, AgentMessage message) except -1
    cdef int on_control(self, Session session, Frame* frame) except -1
    cdef int on_stop(self, Session session, uint64_t agent_id) except -1
    cdef int on_go(self, Session session, uint64_t agent_id) except -1
