from libc.stdint cimport int64_t, uint8_t, uint64_t

from agentnet_core.envelope cimport Envelope
from agentnet_core.framing cimport Frame
from agentnet_core.message cimport AgentMessage, Origin
from agentnet_core.outflow cimport Outflow
from agentnet_core.route cimport Route, Waiting
from agentnet_core.session cimport Session


# Bugs, planted by tests that must find them; 0 none.
cdef enum RecallDefect:
    NEVER_TOLD = 1              # the other node is not told that a request was given up
    NOT_AWAITED = 2             # that is heeded before the request has come
    TAKEN_OUT_SILENTLY = 3      # nobody is told of what was taken out of a mailbox
    TOLD_AND_LEFT = 4           # it is told for taken out, and is in the mailbox still
    TOLD_AND_SENT = 5           # it is told for not sent, and goes out
    LEARNED_TWICE = 6
    NEVER_FORGOTTEN = 7         # who waits for word of it waits for ever
    WORKS_ON = 8                # what a lost link had brought is done


cdef class Pending:
    """What is to come: what its asker holds, of the driver's own kind.

    The driver's fields are here, too, so that its kinds are as large as this and come from one free list.
    """
    cdef Recalls engine             # None before it is asked
    cdef uint64_t correlation
    cdef object hint
    cdef object told                # what it is settled with, until its driver has taken that
    cdef Route route
    cdef Envelope cause             # of the message whose handler asks; None outside of handlers
    cdef uint64_t share             # of the calls that may be open below that one
    cdef int64_t timeout_ns, deadline_ns
    cdef Waiting waiting
    cdef object waker               # the driver's, as all below
    cdef uint8_t state
    cdef bint awaited               # by a task, which will claim it
    cdef bint claimed               # by a task, which will add its wakeup
    cdef object outcome             # the answer, or the error
    cdef object wakeup, context     # of the first task that awaits it
    cdef list callbacks             # (function, context) of all others
    cdef object fate                # future of a Fate, once asked for
    cdef object word                # the Fate, once it is known
    cdef Pending another(self)
    cdef Pending receipt(self)
    cpdef bint cancelled(self) except -1


cdef class Recalls(Outflow):
    cdef Pending call                # of which each request gets another
    cdef readonly dict pending       # correlation -> Pending
    cdef readonly dict recalled      # those that were given up, and whose outcome is not known yet
    cdef Py_ssize_t pending_max
    cdef int64_t recall_wait_ns
    cdef int64_t requests_recalled, requests_withdrawn
    cdef public int recall_defect
    cdef int hand_back(self, Pending pending, outcome, hint) except -1
    cdef int end(self, Pending pending, outcome, hint=*) except -1
    cdef int recall(self, Pending pending) except -1
    cdef int learn(self, Pending pending, outcome) except -1
    cdef Pending take_recalled(self, uint64_t correlation, Session session)
    cdef int put_recall(self, Route route, uint64_t correlation) except -1
    cdef int put_cancel(self, Pending pending) except -1
    cdef int on_cancel(self, Session session, Frame* frame) except -1
    cdef int carry_out_recalls(self, Session session) except -1
    cdef int expire_recalled(self) except -1
    cdef int lose_recalled(self, Session session) except -1
    cdef int withdraw(self, Origin origin, uint64_t agent_id, uint64_t correlation) except -1
