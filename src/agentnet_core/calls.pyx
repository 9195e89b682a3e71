"""Requests and what becomes of them: answers, refusals, timeouts, lost links.

A request has a correlation number and a deadline; it ends exactly once, with the answer of the
session that it was sent to or with an error whose `definite` tells whether it may have been carried
out.  An answer waits for room like any message, and its agent goes on; too many of them hold up who answers,
for a short time.  One that nobody waits for is counted and dropped.

Held here: at most `requests_pending_max` requests.  One that is given up is for `Recalls`.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy

from agentnet_core.envelope cimport STREAM_ANSWER, STREAM_ASKED, STREAM_GIVEN
from agentnet_core.framing cimport REFUSED, Cursor, pack_bin_head, pack_u64, read_array, read_bin, read_uint
from agentnet_core.message cimport PLAIN_HEAD_BYTES, TYPE_QUERY, TYPE_RESPONSE, real
from agentnet_core.outflow cimport FRAME_OVERHEAD_BYTES
from agentnet_core.recalls cimport Pending
from agentnet_core.route cimport Route, Waiting

from agentnet_core.agent_record import AgentRecord
from agentnet_core.errors import (
    ConfigError, Congested, DeliveryUnsupported, InternalError, MessageTooLarge, Nack, ProtocolError,
    Recalled, RequestTimeout, from_code,
)
from agentnet_core.records import Event, describe


DEFECTS = {
    "cycle let in": CYCLE_LET_IN, "hops uncounted": HOPS_UNCOUNTED, "calls uncounted": CALLS_UNCOUNTED,
    "shares kept": SHARES_KEPT, "window unheeded": WINDOW_UNHEEDED, "gone on behind": GONE_ON_BEHIND,
    "taken twice": TAKEN_TWICE, "left open": LEFT_OPEN, "given unasked": GIVEN_UNASKED,
    "input left": INPUT_LEFT, "input unwatched": INPUT_UNWATCHED,
}
cdef int64_t DATE_NS = 1_000_000                # a clock that is later by less is as good as right
cdef int64_t TIMEOUT_S_MAX = 1_000_000_000      # some thirty years: for ever


cdef class Calls(Recalls):
    """The asking and answering part of an engine."""

    cdef int date(self) except -1:
        cdef Pending pending
        cdef int64_t gap_ns = self.now_ns - self.dated_ns
        Recalls.date(self)
        while gap_ns > DATE_NS and self.dated_correlation < self.correlation:
            self.dated_correlation += 1
            pending = self.pending.get(self.dated_correlation)
            if pending is not None:
                pending.deadline_ns = self.now_ns + pending.timeout_ns
                if pending.deadline_ns < self.wake_ns:
                    self.wake_ns = pending.deadline_ns
        self.dated_correlation, self.dated_ns = self.correlation, self.now_ns
        return 0

    cdef int fail_waiting(self, Waiting waiting, error) except -1:
        cdef AgentMessage message = waiting.message
        cdef Session session = waiting.route.session
        cdef Pending pending
        waiting.drop()
        if session is not None and waiting.route is session.answers:
            self.replies_lost += 1
            if not (session.stalled or session.closed):
                session.stalled = True
                self.event(Event(Event.UNDELIVERABLE, session.node_id, detail=f"answers dropped: {error}",
                                 error=error))
            self.settle(waiting.token, None)    # its agent goes on
        elif waiting.token is not None:
            self.settle(waiting.token, error)
        elif message.type == TYPE_QUERY and message.correlation:
            pending = self.pending.pop(message.correlation, None)
            if pending is not None:
                self.end(pending, error)
        else:                       # of `send_nowait`
            self.refuse(message, waiting.route.record, error)
        return 0

    cpdef int64_t nanoseconds(self, timeout) except -1:
        """A timeout in seconds, as a user gives it; ConfigError if it is no time."""
        cdef double seconds = real(timeout)
        if not seconds >= 0:
            raise ConfigError(f"timeout={describe(timeout)}: expected seconds, 0 or more")
        return <int64_t>(seconds * 1e9) if seconds < TIMEOUT_S_MAX else TIMEOUT_S_MAX * 1_000_000_000

    cdef int on_answer(self, Session session, AgentMessage message) except -1:
        cdef Pending pending
        if message.envelope is not None and message.envelope.part & (STREAM_ANSWER | STREAM_GIVEN):
            return self.on_part(session, message)
        pending = self.pending.pop(message.correlation, None)
        if pending is None or pending.route.session is not session:
            if pending is not None:
                self.pending[message.correlation] = pending     # not this peer's to answer
            self.replies_late += 1
            pending = self.take_recalled(message.correlation, session)
            if pending is not None:
                self.learn(pending, outcome_of(message, pending))
            return 0
        if message.failure is not None:
            self.end(pending, outcome_of(message, pending))
        else:
            self.end(pending, message, pending.hint)
        return 0

    cpdef object reply(self, AgentMessage request, bytes payload, int content=0, failure=None):
        """Answer a request; None when the answer is on its way, else a token to await.

        `failure`: (code, text) of the error to answer with. A message that asks for no answer is
        passed over.
        """
        if request is None or payload is None:
            raise TypeError("reply: expected a message and bytes, got None")
        if request.type != TYPE_QUERY or request.correlation == 0:
            if request.slip is not None:
                self.handled(request, failure)
            elif failure is not None and failure[0] == Nack.code:
                self.nacks_lost += 1
                record = self.control.directory.get(request.to_id)
                text = f"{failure[1]}; it was sent without a promise, and does not come again"
                self.event(Event(Event.UNDELIVERABLE, self.node_id, request.to_id, name_of(record), text,
                                 error=Nack(text)))
            return None
        if request.envelope is not None:
            if request.envelope.part & STREAM_ASKED:
                return self.reply_in_parts(request, payload, content, failure)
            if request.envelope.operation is not None:
                return self.reply_once(request, payload, content, failure)
        return self.respond(request, payload, content, failure)

    cdef object respond(self, AgentMessage request, bytes payload, int content, failure):
        """Send the answer to a request, or that it failed."""
        cdef Session session = request.origin.session
        cdef AgentMessage answer
        if (session is not None and session.clear and content == 0 and failure is None
                and PyBytes_GET_SIZE(payload) <= self.fragment_bytes
                and PyBytes_GET_SIZE(payload) <= session.message_bytes_max
                and session.room() >= PyBytes_GET_SIZE(payload) + PLAIN_HEAD_BYTES + FRAME_OVERHEAD_BYTES):
            self.put_plain(session, request.to_id, request.from_agent, request.correlation, TYPE_RESPONSE,
                           request.level, 0, payload)
            return None
        answer = AgentMessage(payload, to_agent=request.from_agent, from_agent=request.to_id,
                              message_type=TYPE_RESPONSE, priority=request.level)
        answer.correlation, answer.content = request.correlation, content
        if failure is not None:
            answer.failure = (failure[0], failure[1].encode("utf-8", "replace")[:1024])
        if session is None and request.origin is not self.origin:
            self.replies_lost += 1
            return None
        try:
            self.check_size(answer, session)
        except MessageTooLarge as error:
            text = f"the answer of agent {self.control.directory.label(request.to_id)}: {error}"
            return self.respond(request, b"", 0, (MessageTooLarge.code, text))
        if session is None:
            self.stamp(answer)
            self.on_answer(None, answer)
            return None
        return self.answer(session, answer)

    cdef object answer(self, Session session, AgentMessage answer):
        """Send an answer or queue it; a token to await when too many are queued already."""
        cdef Route route
        if session.answers is None:
            session.answers = Route(AgentRecord(0, session.node_id, f"of node {session.node_id}"), session)
        route = session.answers
        if self.offer(route, answer):
            return None
        if not self.is_full(route, PyBytes_GET_SIZE(answer.payload)):
            self.queue(route, answer, None, self.send_wait_ns)
            return None
        if session.stalled:
            self.replies_lost += 1
            return None
        token = self.make_token()
        self.queue(route, answer, token, self.answer_wait_ns)
        return token

    cdef object send_letter(self, uint64_t from_id, to, payload, tuple options, delivery, until, timeout):
        """Send with a promise: `Posting` makes it."""
        raise InternalError("Calls alone promise nothing")

    cdef object post_letter(self, uint64_t from_id, Route route, to, bytes payload, uint8_t level,
                            bint durable):
        """Likewise, one that is acknowledged and nothing else; None if that is to go the general way."""
        raise InternalError("Calls alone promise nothing")

    cdef int handled(self, AgentMessage message, failure) except -1:
        """What was delivered with a promise was handled: `Reception` keeps the promise."""
        raise InternalError("Calls alone promise nothing")

    cdef int hand_over(self, Route port, AgentMessage message) except -1:
        """A handler of that agent has it from now on: `Leases` knows for how long."""
        raise InternalError("Calls alone promise nothing")

    cdef object reply_once(self, AgentMessage request, bytes payload, int content, failure):
        """Answer one that is an operation: `Operations` keeps the answer."""
        raise InternalError("Calls alone promise nothing")

    cdef int turn_down(self, AgentMessage message, error) except -1:
        """It was not, or will not be."""
        raise InternalError("Calls alone promise nothing")

    cdef int refuse(self, AgentMessage message, record, error) except -1:
        """Tell the sender that its message to the agent of `record` (None: nobody) was not executed."""
        cdef Session session = message.origin.session
        cdef Pending pending
        self.messages_undeliverable += 1
        if message.slip is not None:
            return self.turn_down(message, error)
        if message.origin is self.origin:
            if message.correlation:
                pending = self.pending.pop(message.correlation, None)
                if pending is not None:
                    self.end(pending, error)
                else:
                    pending = self.take_recalled(message.correlation, None)
                    if pending is not None:
                        self.learn(pending, error)
            else:
                self.event(Event(Event.UNDELIVERABLE, self.node_id, message.to_id, name_of(record),
                                 str(error), error=error))
        elif session is not None:
            self.put_refused(session, message.seq, message.correlation, message.to_id, error)
        return 0

    cdef int put_refused(self, Session session, uint64_t seq, uint64_t correlation, uint64_t to,
                         error) except -1:
        cdef bytes text = str(error).encode("utf-8", "replace")[:512]
        cdef uint8_t* start = session.control.begin(REFUSED, 0, 1 + 4 * 9 + 5 + len(text))
        cdef uint8_t* p
        start[0] = 0x95
        p = pack_u64(start + 1, seq)
        p = pack_u64(p, correlation)
        p = pack_u64(p, to)
        p = pack_u64(p, <uint64_t>error.code)
        p = pack_bin_head(p, <uint32_t>len(text))
        memcpy(p, PyBytes_AS_STRING(text), len(text))
        session.control.finish(start, p + len(text) - start)
        return self.mark(session)

    cdef int on_part(self, Session session, AgentMessage message) except -1:
        """A part of a stream has come: `Streams` has its reader."""
        raise InternalError("a Calls alone has no streams")

    cdef object reply_in_parts(self, AgentMessage request, bytes payload, int content, failure):
        """The handler of a stream has ended: likewise."""
        raise InternalError("a Calls alone has no streams")

    cdef int lose_stream(self, Session session, uint64_t correlation, error) except -1:
        """What was asked for in parts was refused: likewise."""
        return 0

    cdef int on_refused(self, Session session, Frame* frame) except -1:
        cdef uint64_t seq = 0, correlation = 0, to = 0, code = 0
        cdef uint32_t n = 0
        cdef const uint8_t* data = NULL
        cdef Pending pending
        cdef Cursor c
        c.at, c.end = frame.body, frame.body + frame.size
        if not (read_array(&c, &n) and n == 5 and read_uint(&c, &seq) and read_uint(&c, &correlation)
                and read_uint(&c, &to) and read_uint(&c, &code) and read_bin(&c, &data, &n)
                and c.at == c.end):
            raise ProtocolError("REFUSED frame: expected [seq, correlation, to, code, text]")
        text = PyBytes_FromStringAndSize(<const char*>data, n)
        if correlation:
            pending = self.pending.get(correlation)
            if pending is not None and pending.route.session is session:
                del self.pending[correlation]
                self.end(pending, refusal(<int>code, text, pending.route.record))
            else:
                pending = self.take_recalled(correlation, session)
                if pending is not None:
                    self.learn(pending, refusal(<int>code, text, pending.route.record))
                else:
                    self.lose_stream(session, correlation, refusal(<int>code, text, None))
        else:
            self.messages_undeliverable += 1
            record = self.control.directory.get(to)
            error = refusal(<int>code, text, record)
            self.event(Event(Event.UNDELIVERABLE, session.node_id, to, name_of(record), str(error),
                             error=error))
        return 0

    cdef int check_peer(self, Route route, Session session) except -1:
        """DeliveryUnsupported, definite, if the node there does not know what an Envelope carries."""
        if session is not None and session.welcomed and not session.delivers:
            raise DeliveryUnsupported(f"agent {route.record.label} is on node {session.node_id}, whose "
                                      f"release knows no operation ids, streams and chains of calls; it was "
                                      f"not sent", definite=True)
        return 0

    cdef int expire_request(self, correlation, Pending pending) except -1:
        del self.pending[correlation]
        if pending.waiting is not None and not pending.waiting.dropped and not pending.waiting.started:
            pending.waiting.drop()
            error = Congested(f"agent {pending.waiting.route.record.label} or the link to it had no room "
                              f"in time; the request was not sent")
        else:
            error = RequestTimeout(f"no answer from agent {pending.route.record.label} in time; "
                                   f"the outcome is unknown")
            self.recall(pending)
        self.end(pending, error)
        return 0


cdef name_of(record):
    return None if record is None else record.name


cdef outcome_of(AgentMessage answer, Pending pending):
    """The answer, or the error that it tells."""
    if answer.failure is None:
        return answer
    return told(answer.failure[0], answer.failure[1], pending.route.record)


cdef refusal(int code, bytes text, record):
    """The error that a peer tells of what it has not executed."""
    error = told(code, text, record)
    if code == Recalled.code:
        error.definite = True
    return error


cdef told(int code, bytes text, record):
    """The error that a peer tells of the agent of `record`, None if that is unknown here.

    To a node that has no such agent it is a number; whoever asked knows the name.
    """
    words = text.decode("utf-8", "replace")
    if record is not None:
        words = words.replace(f"agent {record.agent_id}", f"agent {record.label}")
    return from_code(code, words)
