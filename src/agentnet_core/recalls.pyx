"""Requests that were given up: whoever works on one is told to stop, and what became of it is learned.

A request that nobody waits for any more is not forgotten at once.  What has not been sent of it stays
here; else CANCEL follows it, and at the other node it is taken out of the mailbox, or its handler stopped.
The one word that every request gets, an answer or a refusal, then tells whether it was carried out.  CANCEL
goes in the control lane and may be there first: it names the data sent before it, and waits for that.

Held here: as many given up requests as may be pending, the oldest forgotten first, each for `recall_ms_max`.
"""

from libc.stdint cimport uint8_t, uint32_t

cimport cython

from agentnet_core.chain cimport give_back
from agentnet_core.framing cimport CANCEL, Cursor, pack_u64, read_array, read_uint
from agentnet_core.message cimport TYPE_QUERY

from agentnet_core.errors import InternalError, ProtocolError, Recalled

DEFECTS = {
    "never told": NEVER_TOLD, "not awaited": NOT_AWAITED, "taken out silently": TAKEN_OUT_SILENTLY,
    "told and left": TOLD_AND_LEFT, "told and sent": TOLD_AND_SENT, "learned twice": LEARNED_TWICE,
    "never forgotten": NEVER_FORGOTTEN, "works on": WORKS_ON,
}


@cython.freelist(2048)
cdef class Pending:
    cdef Pending another(self):
        """One of the same driver's, for the next request."""
        return type(self)()

    cdef Pending receipt(self):
        """Likewise, for what is sent with a promise: it has no request to give up."""
        return self.another()

    cpdef bint cancelled(self) except -1:
        """Whether nobody waits for it any more."""
        return False

    def take_told(self):
        """(outcome, hint) that it is settled with, for drivers in Python."""
        told, self.told = self.told, None
        return told, self.hint

    def give_up(self):
        """Nobody waits for the answer: stop who works on it. Too late is fine: it has ended."""
        if self.engine is not None and self.engine.pending.get(self.correlation) is self:
            del self.engine.pending[self.correlation]
            self.engine.recall(self)


cdef class Recalls(Outflow):
    """What an engine does about requests that were given up, here and at other nodes."""

    def __cinit__(self, *args, **kwargs):
        self.call, self.pending, self.recalled = Pending(), {}, {}

    cdef int end(self, Pending pending, outcome, hint=None) except -1:
        """It is pending no more: that is its outcome."""
        if pending.cause is not None:
            give_back(pending.cause, pending.share)
            pending.cause = None
        pending.waiting = None      # which holds the message, and the asker holds this
        return self.hand_back(pending, outcome, hint)

    cdef int hand_back(self, Pending pending, outcome, hint) except -1:
        """As `settle`, without a tuple for each of what is awaited most."""
        pending.told, pending.hint = outcome, hint
        self.now_ready.settle.append(pending)
        return self.rouse()

    cdef int recall(self, Pending pending) except -1:
        """It is pending no more: see to it that nobody works on it."""
        cdef Waiting waiting = pending.waiting
        self.requests_recalled += 1
        if pending.cause is not None:
            give_back(pending.cause, pending.share)
            pending.cause = None
        if waiting is not None and not waiting.dropped and not waiting.started:
            if self.recall_defect != TOLD_AND_SENT:
                waiting.drop()
            return self.learn(pending, Recalled(
                f"the request to agent {pending.route.record.label} was given up before it was sent",
                definite=True))
        if len(self.recalled) >= self.pending_max:
            self.learn(self.recalled.pop(next(iter(self.recalled))), None)
        self.recalled[pending.correlation] = pending
        pending.deadline_ns = self.now_ns + self.recall_wait_ns
        if waiting is not None and not waiting.dropped:
            return 0                # its last part is still to go, and CANCEL goes behind that
        return self.put_cancel(pending)

    cdef int learn(self, Pending pending, outcome) except -1:
        """What became of a request that was given up: an answer, an error, or None if that is not known."""
        pending.waiting = None
        self.now_ready.learn.append((pending, outcome))
        if self.recall_defect == LEARNED_TWICE:
            self.now_ready.learn.append((pending, outcome))
        return self.rouse()

    cdef Pending take_recalled(self, uint64_t correlation, Session session):
        """The given up request of which there is word over that link; None if there is none."""
        cdef Pending pending = self.recalled.get(correlation)
        if pending is None or pending.route.session is not session:
            return None
        del self.recalled[correlation]
        return pending

    cdef int finish_waiting(self, Waiting waiting) except -1:
        cdef Pending pending
        Outflow.finish_waiting(self, waiting)
        if self.recalled and waiting.message.type == TYPE_QUERY and waiting.message.slip is None:
            pending = self.recalled.get(waiting.message.correlation)
            if pending is not None:
                self.put_cancel(pending)
        return 0

    cdef int put_cancel(self, Pending pending) except -1:
        return self.put_recall(pending.route, pending.correlation)

    cdef int put_recall(self, Route route, uint64_t correlation) except -1:
        """Tell the node of that agent that nobody waits for the request."""
        cdef Session session = route.session
        cdef uint8_t* start
        cdef uint8_t* p
        if session is None:
            return self.withdraw(self.origin, route.agent_id, correlation)
        if session.closed or not (session.welcomed and session.delivers) or self.recall_defect == NEVER_TOLD:
            return 0                # the link has ended, or the peer is of a release before this
        start = session.control.begin(CANCEL, 0, 1 + 3 * 9)
        start[0] = 0x93
        p = pack_u64(start + 1, correlation)
        p = pack_u64(p, route.agent_id)
        p = pack_u64(p, <uint64_t>session.sent)
        session.control.finish(start, p - start)
        return self.mark(session)

    cdef int on_cancel(self, Session session, Frame* frame) except -1:
        cdef uint64_t correlation = 0, agent_id = 0, sent = 0
        cdef uint32_t n = 0
        cdef Cursor c
        c.at, c.end = frame.body, frame.body + frame.size
        if not (read_array(&c, &n) and n == 3 and read_uint(&c, &correlation) and read_uint(&c, &agent_id)
                and read_uint(&c, &sent) and c.at == c.end and correlation):
            raise ProtocolError("CANCEL frame: expected [correlation, agent, bytes sent before]")
        if <uint64_t>session.received >= sent or self.recall_defect == NOT_AWAITED:
            return self.withdraw(session.origin, agent_id, correlation)
        if session.recalls is None:
            session.recalls = []
        if len(session.recalls) < self.pending_max:     # who asks for more than may be pending is not heeded
            session.recalls.append((sent, agent_id, correlation))
        return 0

    cdef int carry_out_recalls(self, Session session) except -1:
        """Those whose request has come by now."""
        cdef list waiting = []
        for recall in session.recalls:
            if <uint64_t>session.received >= <uint64_t>recall[0]:
                self.withdraw(session.origin, recall[1], recall[2])
            else:
                waiting.append(recall)
        session.recalls = waiting or None
        return 0

    cdef int expire_recalled(self) except -1:
        """Forget those of which no word came in time; the oldest are the first."""
        cdef Pending pending
        while self.recalled and self.recall_defect != NEVER_FORGOTTEN:
            pending = next(iter(self.recalled.values()))
            if pending.deadline_ns > self.now_ns:
                self.wake_ns = min(self.wake_ns, pending.deadline_ns)
                return 0
            del self.recalled[pending.correlation]
            self.learn(pending, None)
        return 0

    cdef int lose_recalled(self, Session session) except -1:
        """No word comes over that link any more."""
        cdef Pending pending
        for pending in list(self.recalled.values()):
            if pending.route.session is session:
                del self.recalled[pending.correlation]
                self.learn(pending, None)
        return 0

    cdef int withdraw(self, Origin origin, uint64_t agent_id, uint64_t correlation) except -1:
        """A request of that node to an agent of this one was given up: `Engine` has the agents."""
        raise InternalError("a Recalls alone has no agents")
