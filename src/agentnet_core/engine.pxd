from libc.stdint cimport int64_t, uint64_t

from agentnet_core.framing cimport Frame
from agentnet_core.inputs cimport Inputs
from agentnet_core.message cimport AgentMessage
from agentnet_core.route cimport Route
from agentnet_core.port cimport Port
from agentnet_core.session cimport Session


cdef class Engine(Inputs):
    cdef readonly dict ports         # id -> Port
    cdef dict doors                  # of `ports`, those that other nodes reach: none in maintenance
    cdef public uint64_t load        # messages in all mailboxes, as the driver has counted them last
    cdef uint64_t last_to
    cdef Port last_port
    cdef bint speakers_known         # whether a session has any
    cdef public int64_t tick_ns_max  # however little is due, time is to be given so often
    cdef int64_t controlled_ns       # when its control was given the time last
    cdef int64_t bytes_received, broadcasts_dropped, multicasts_dropped, messages_forged
    cdef public int64_t links_refused    # by either side; its control counts them

    cpdef object wake_by(self, int64_t when_ns)
    cdef int limit_handshake(self, int64_t size) except -1
    cdef int on_message(self, Session session, Frame* frame) except -1
    cdef int return_call(self, Port port, AgentMessage message) except -1
    cdef bint may_speak(self, Session session, uint64_t agent_id) except -1
    cdef int deliver(self, Port port, AgentMessage message, Session session) except -1
    cdef int on_control(self, Session session, Frame* frame) except -1
    cdef int turn_away(self, AgentMessage message) except -1
    cdef int put_pong(self, Session session, uint64_t echo) except -1
    cdef int on_pong(self, Session session, Frame* frame) except -1
    cdef int on_status(self, Session session, bint cordoned) except -1
    cdef Route route_of(self, Session session, uint64_t agent_id)
    cdef int fail_unsent(self, Route route, error) except -1
    cdef int on_stop(self, Session session, uint64_t agent_id) except -1
    cdef int on_go(self, Session session, uint64_t agent_id) except -1
