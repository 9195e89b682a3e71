from libc.stdint cimport int64_t, uint8_t, uint64_t

from agentnet_core.courier cimport Courier
from agentnet_core.lines cimport InLine
from agentnet_core.message cimport AgentMessage
from agentnet_core.posting cimport MAILBOXED, ON_DISK, PROCESSED
from agentnet_core.route cimport Route
from agentnet_core.session cimport Session
from agentnet_core.slip cimport Slip


cdef class Reception(Courier):
    cdef dict in_lines              # (node, epoch, from, to, priority) -> InLine
    cdef InLine last_line
    cdef list touched               # InLines of which there is something to say
    cdef object unsaid              # deque of (batch, InLine, runs): said once that is on the disk
    cdef list unmarked              # InLines whose mark the disk refused, with their runs
    cdef list later                 # of those touched, those that are not to be marked yet
    cdef int64_t mark_ns, marks_due_ns  # how often, and when next at the earliest
    cdef int64_t settle_due_ns      # when what is settled is written by itself, 0 if nothing is
    cdef int64_t rest_ns            # when the agenda comes back to that, 0 if it does not
    cdef int64_t letters_received, letters_again, letters_early, lines_dropped

    cdef bint let_in(self, Session session, AgentMessage message) except -1
    cdef InLine line_of(self, Session session, AgentMessage message)
    cdef bint make_room(self) except -1
    cdef int say_again(self, InLine line, uint64_t number, Slip slip) except -1
    cdef int finish_here(self, AgentMessage message, failure) except -1
    cdef int handled(self, AgentMessage message, failure) except -1
    cdef int touch(self, InLine line) except -1
    cdef int take_here(self, Route route, AgentMessage message) except -1
    cdef int turn_down(self, AgentMessage message, error) except -1
    cdef int put_return(self, Session session, AgentMessage message, uint64_t number, int code,
                        bytes text) except -1
    cdef int speak(self) except -1
    cdef int rest(self, int64_t until_ns) except -1
    cdef int say(self, InLine line, list runs, bint on_disk, dict frames) except -1
    cdef int put_done(self, dict frames) except -1
