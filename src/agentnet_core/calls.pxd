from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from agentnet_core.framing cimport Frame
from agentnet_core.message cimport AgentMessage
from agentnet_core.recalls cimport Pending, Recalls
from agentnet_core.route cimport Route
from agentnet_core.session cimport Session


# Bugs, planted by tests that must find them; 0 none.
cdef enum CallDefect:
    CYCLE_LET_IN = 1            # an agent is asked for what it waits for
    HOPS_UNCOUNTED = 2
    CALLS_UNCOUNTED = 3
    SHARES_KEPT = 4             # a call that has ended leaves no room for the next one
    WINDOW_UNHEEDED = 5         # more parts are said than were granted
    GONE_ON_BEHIND = 6          # after a lost link what was on its way is not said again
    TAKEN_TWICE = 7             # nor is it known if it is
    LEFT_OPEN = 8               # a stream goes on that nobody reads
    GIVEN_UNASKED = 9           # an input begins before its handler reads it
    INPUT_LEFT = 10             # it is waited for when its answer is over
    INPUT_UNWATCHED = 11        # it does not go on by the next link


cdef class Calls(Recalls):
    cdef uint64_t correlation, dated_correlation
    cdef int64_t dated_ns
    cdef int64_t request_timeout_ns, answer_wait_ns, chain_hops_max, chain_calls_max
    cdef public object work         # the Work of the handler that runs now, if any
    cdef bint chain_sends
    cdef public int call_defect
    cdef int64_t messages_undeliverable, replies_late, replies_lost, nacks_lost, sends_spent
    cpdef int64_t nanoseconds(self, timeout) except -1
    cdef int on_answer(self, Session session, AgentMessage message) except -1
    cdef object answer(self, Session session, AgentMessage answer)
    cpdef object reply(self, AgentMessage request, bytes payload, int content=*, failure=*)
    cdef object send_letter(self, uint64_t from_id, to, payload, tuple options, delivery, until, timeout)
    cdef object post_letter(self, uint64_t from_id, Route route, to, bytes payload, uint8_t level,
                            bint durable)
    cdef int handled(self, AgentMessage message, failure) except -1
    cdef object reply_once(self, AgentMessage request, bytes payload, int content, failure)
    cdef object respond(self, AgentMessage request, bytes payload, int content, failure)
    cdef int hand_over(self, Route port, AgentMessage message) except -1
    cdef int turn_down(self, AgentMessage message, error) except -1
    cdef int refuse(self, AgentMessage message, record, error) except -1
    cdef int put_refused(self, Session session, uint64_t seq, uint64_t correlation, uint64_t to,
                         error) except -1
    cdef int on_part(self, Session session, AgentMessage message) except -1
    cdef object reply_in_parts(self, AgentMessage request, bytes payload, int content, failure)
    cdef int lose_stream(self, Session session, uint64_t correlation, error) except -1
    cdef int on_refused(self, Session session, Frame* frame) except -1
    cdef int check_peer(self, Route route, Session session) except -1
    cdef int expire_request(self, correlation, Pending pending) except -1


cdef told(int code, bytes text, record)
