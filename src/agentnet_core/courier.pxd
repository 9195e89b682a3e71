from libc.stdint cimport int64_t, uint32_t, uint64_t

from agentnet_core.framing cimport Frame
from agentnet_core.letters cimport Letter, OutLine
from agentnet_core.posting cimport KEPT, MAILBOXED, ON_DISK, PROCESSED, Posting
from agentnet_core.route cimport Route
from agentnet_core.session cimport Session


cdef class Courier(Posting):
    cdef public object rng               # the driver's, for jitter
    cdef uint64_t agenda_order
    cdef int64_t letters_sent_again, acks_late

    cdef bint is_straight(self, Route route, Py_ssize_t size) noexcept
    cdef int put_letter(self, Session session, Letter letter) except -1
    cdef bint is_over(self, Letter letter) except -1
    cdef bint leads_on(self, Route route, OutLine line, Letter letter) noexcept
    cdef Route find(self, OutLine line, Letter letter)
    cdef bint transmit(self, OutLine line, Letter letter, Route route) except -1
    cdef int64_t backoff(self, uint32_t fails) except -1
    cdef int on_done(self, Session session, Frame* frame) except -1
    cdef int on_return(self, Session session, Frame* frame) except -1
    cdef int reach_run(self, OutLine line, str node_id, int what, bint on_disk,
                       uint64_t first, uint64_t last, uint32_t attempt) except -1
    cdef int take_back(self, Letter letter, int code, bytes text, str node_id, uint32_t attempt,
                       int64_t delay_ms) except -1
    cdef int try_alone(self, Letter letter, int64_t delay_ms) except -1
    cdef int64_t tick_letters(self, int64_t now_ns) except -1
