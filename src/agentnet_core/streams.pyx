"""Streams: requests that are answered in parts, as fast as the parts are taken, over whatever link there is.

The parts of an answer are numbered.  Who asked grants how many may be sent, and says at the same time up
to which it has taken them: so much the sender may forget, all else it keeps.  So a stream goes on by another
link from the part that is wanted next.  Whoever leaves tells the other: who asked by CANCEL, who answers by a
last part, which carries an error if there is one; who is gone without a word is waited for, then forgotten.

Held here: `streams_max` of each kind; for each, `stream_parts_max` parts and `stream_bytes_max` bytes, and
one part more.  A Reader ends with StreamLost if its stream cannot go on, RequestTimeout if nothing came.
"""

from collections import deque

from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t

from agentnet_core.envelope cimport STREAM_ANSWER, STREAM_ASKED, STREAM_INPUT, STREAM_LAST, Envelope
from agentnet_core.chain cimport give_back, take_share
from agentnet_core.calls cimport GONE_ON_BEHIND, LEFT_OPEN, TAKEN_TWICE, WINDOW_UNHEEDED, told
from agentnet_core.framing cimport GRANT, Cursor, pack_u64, read_array, read_uint
from agentnet_core.message cimport TYPE_QUERY, TYPE_RESPONSE
from agentnet_core.port cimport Work, to_ttl

from agentnet_core.errors import (
    ConfigError, InternalError, LimitReached, NetworkError, ProtocolError, RequestTimeout, StreamLost,
)

cdef int64_t MS = 1_000_000
cdef int64_t NEVER = 0x7fffffffffffffff


cdef class Reader:
    def __cinit__(self):
        self.parts = deque()
        self.deadline_ns = NEVER

    def take(self):
        """The next part, or None: then `wait` for one; StopIteration at the end, or what it ended with."""
        cdef AgentMessage part
        cdef Streams engine = self.engine
        if self.parts:
            part = self.parts.popleft()
            self.taken += 1
            self.freed += PyBytes_GET_SIZE(part.payload)
            if (2 * (self.taken + engine.stream_parts_max - self.granted) >= <uint64_t>engine.stream_parts_max
                    or 2 * self.freed >= engine.stream_bytes_max) and not self.over and not self.adrift:
                self.grant()
            return part
        if self.over:
            if self.error is not None:
                raise self.error
            raise StopIteration
        return None

    def wait(self):
        """Something to await, until there is a part, or there will be none."""
        cdef Streams engine = self.engine
        waiter = self.waiter = engine.make_token()
        self.deadline_ns = engine.now_ns + self.idle_ns
        engine.wake_by(self.deadline_ns)
        if not (self.over or self.adrift) and self.taken + <uint64_t>engine.stream_parts_max > self.granted:
            self.grant()            # to an agent of this node, and what it grants may be here then
        return waiter

    def close(self):
        """Nobody reads it any more: the other side stops, and nothing of it stays."""
        if not self.over:
            self.engine.cancel_stream(self, None)

    cdef int wake(self) except -1:
        waiter, self.waiter = self.waiter, None
        self.deadline_ns = NEVER
        self.engine.settle(waiter, None)
        return 0

    cdef int stop(self, error) except -1:
        """It is over; what has come may be taken still."""
        self.over, self.error = True, error
        self.forget()
        self.end_call()
        return self.wake()

    cdef int end_call(self) except -1:
        """It is open no more."""
        cause, self.cause = self.cause, None
        return give_back(cause, self.share) if cause is not None else 0

    cdef int accept(self, Session session, AgentMessage message) except -1:
        """A part has come; what is not as it was granted ends it."""
        cdef Envelope envelope = message.envelope
        if self.route.session is not session or (
                envelope.position < self.position and self.engine.call_defect != TAKEN_TWICE):
            self.engine.replies_late += 1   # it has left, or it came by the link before as well
            return 0
        if envelope.position > self.position or (
                self.position >= self.granted and not envelope.part & STREAM_LAST):
            self.engine.streams_lost += 1
            return self.breach(StreamLost(
                f"part {envelope.position} of the stream of agent {self.route.record.label} came where "
                f"{self.position} was expected, and {self.granted} granted"))
        self.position += 1
        self.waiting = None
        if not envelope.part & STREAM_LAST:
            self.parts.append(message)
            return self.wake() if self.waiter is not None else 0
        self.grant(self.position)
        if message.failure is None:
            return self.stop(None)
        return self.stop(told(message.failure[0], message.failure[1], self.route.record))

    # -- what the other kind does otherwise, see `Inputs`

    cdef int grant(self, uint64_t wanted=0) except -1:
        return self.engine.put_grant(self, wanted)

    cdef int forget(self) except -1:
        cdef Writer giver = self.giver
        self.engine.readers.pop(self.correlation, None)
        if giver is not None:
            self.giver = None
            giver.end(StreamLost("the answer has ended, and nothing more of its input is taken"))
        return 0

    cdef int breach(self, error) except -1:
        self.engine.cancel_stream(self, error)
        return 0


cdef class Writer:
    def __cinit__(self):
        self.kept = deque()
        self.deadline_ns = NEVER

    cdef bint full(self) noexcept:
        if self.engine.call_defect == WINDOW_UNHEEDED:
            return False
        return (self.base + len(self.kept) >= self.limit or self.bytes >= self.engine.stream_bytes_max
                or len(self.kept) >= self.engine.stream_parts_max)

    def put(self, bytes payload not None, int content=0, bint last=False, failure=None):
        """Say one more part; None, or something to await before the next one.

        Raises StreamLost, or what the stream has ended with, if nobody is there to hear it.
        """
        cdef AgentMessage part
        cdef Envelope envelope
        if self.error is not None:
            raise self.error
        part = AgentMessage(payload, to_agent=self.to_id, from_agent=self.from_id, message_type=TYPE_RESPONSE,
                            priority=self.request.level)
        part.correlation, part.content, part.failure = self.request.correlation, content, failure
        part.envelope = envelope = Envelope()
        envelope.put_stream(self.what | (STREAM_LAST if last else 0), self.base + len(self.kept))
        self.engine.check_size(part, self.session)
        self.kept.append(part)
        self.bytes += PyBytes_GET_SIZE(payload)
        self.over = last
        self.flush()
        if last or not self.full():
            return None
        self.waiter = self.engine.make_token()
        self.deadline_ns = self.engine.now_ns + self.engine.stream_idle_ns
        self.engine.wake_by(self.deadline_ns)
        return self.waiter

    cdef int flush(self) except -1:
        """Send what may be sent now."""
        cdef AgentMessage part
        cdef uint64_t end = self.base + len(self.kept)
        if self.adrift:
            return 0
        while self.sent < end and (self.sent < self.limit or (self.sent + 1 == end and self.over)
                                   or self.engine.call_defect == WINDOW_UNHEEDED):
            part = self.kept[self.sent - self.base]
            self.sent += 1
            part.seq = 0            # it may be said again
            self.engine.put_part(self.session, part)
        return 0

    cdef int advance(self, Session session, uint64_t wanted, uint64_t limit) except -1:
        """All before part `wanted` were taken, and those before `limit` may be sent; False if it is over."""
        cdef AgentMessage part
        if wanted > self.sent or wanted < self.base:
            raise ProtocolError(f"a grant from part {wanted} of a stream: expected {self.base} to "
                                f"{self.sent}")
        while self.base < wanted:
            part = self.kept.popleft()
            self.bytes -= PyBytes_GET_SIZE(part.payload)
            self.base += 1
        self.limit = max(self.limit, limit)
        if self.session is not session or self.adrift:
            # By another link than before: all that it lacks is said again.
            self.session, self.adrift = session, False
            if self.engine.call_defect != GONE_ON_BEHIND:
                self.sent = wanted
            if not self.over:
                self.deadline_ns = NEVER
        return not (self.over and not self.kept)

    cdef int go_on(self) except -1:
        self.flush()
        return self.wake() if self.waiter is not None and not self.full() else 0

    cdef int end(self, error) except -1:
        """Nobody hears it any more."""
        self.error = error
        self.kept.clear()
        return self.wake()

    cdef int wake(self) except -1:
        waiter, self.waiter = self.waiter, None
        self.deadline_ns = NEVER
        self.engine.settle(waiter, None)
        return 0


cdef class Streams(Overflow):
    """What an engine does about requests that are answered in parts."""

    def __cinit__(self, *args, **kwargs):
        self.readers, self.writers = {}, {}

    cdef int limit_streams(self) except -1:
        config = self.config
        self.streams_max, self.stream_parts_max = config.streams_max, config.stream_parts_max
        self.stream_bytes_max = config.stream_bytes_max
        self.stream_idle_ns = config.stream_idle_ms_max * MS
        self.stream_resume_ns = config.stream_resume_ms_max * MS
        return 0

    # -- who asks

    def stream(self, Port asker not None, to, payload, idle, bint gives=False):
        """Ask for an answer in parts; the Reader of them, whose `giver` takes the parts of an input if it
        `gives` one. Raises what `request` would, before it was sent."""
        cdef Reader reader = Reader()
        cdef AgentMessage message
        cdef Work work = self.work
        cdef Envelope envelope
        cdef Route route
        cdef int64_t left_ns = NEVER
        if len(self.readers) >= self.streams_max:
            raise LimitReached(f"{self.streams_max} streams are open already (streams_max): end some first")
        reader.idle_ns = self.stream_idle_ns if idle is None else self.nanoseconds(idle)
        route = self.resolve(to)
        self.check_peer(route, route.session)
        body, content = self.to_bytes(payload)
        self.correlation += 1
        message = AgentMessage(body, to_agent=route.agent_id, from_agent=asker.agent_id,
                               message_type=TYPE_QUERY)
        message.content, message.correlation = content, self.correlation
        if work is None or work.message is None:
            envelope = Envelope()
        else:                       # as of any call of a handler: see `chain`
            envelope = asker.nest(work, &left_ns)
            reader.cause = work.message.envelope
            reader.share = take_share(reader.cause, envelope)
            message.ttl_ms = to_ttl(left_ns)
        envelope.put_stream(STREAM_ASKED | (STREAM_INPUT if gives else 0), <uint64_t>self.stream_parts_max)
        message.envelope = envelope
        reader.engine, reader.correlation, reader.to, reader.route = self, self.correlation, to, route
        reader.agent_id, reader.asker, reader.granted = route.agent_id, asker, <uint64_t>self.stream_parts_max
        self.readers[reader.correlation] = reader
        if gives:
            reader.giver = self.give(message)
        try:
            if not self.offer(route, message):
                reader.waiting = self.wait(route, message, None)
        except NetworkError:
            del self.readers[reader.correlation]
            reader.end_call()
            raise
        return reader

    def cancel_stream(self, Reader reader not None, error):
        """It ends here with `error`, and at the other side."""
        reader.parts.clear()
        reader.stop(error)
        if reader.waiting is not None and not (reader.waiting.dropped or reader.waiting.started):
            reader.waiting.drop()
        else:
            self.put_recall(reader.route, reader.correlation)
        reader.waiting = None

    cdef int on_part(self, Session session, AgentMessage message) except -1:
        cdef Reader reader = self.readers.get(message.correlation)
        if reader is not None and reader.position == 0 and message.from_agent == reader.agent_id:
            if reader.route.session is not session:     # it was sought when it was asked
                reader.route = Route(reader.route.record, session)
        if reader is None:
            self.replies_late += 1
            return 0
        return reader.accept(session, message)

    cdef int put_grant(self, Reader reader, uint64_t wanted) except -1:
        """So much has been taken, or is wanted no more, and as much may follow."""
        cdef uint64_t limit = reader.taken + <uint64_t>self.stream_parts_max
        wanted = max(wanted, reader.taken)
        reader.granted, reader.freed = limit, 0
        if reader.route.session is None:
            return self.granted(None, self.origin, reader.correlation, wanted, limit)
        return self.put_limit(GRANT, reader, wanted, limit)

    cdef int put_limit(self, uint8_t kind, Reader reader, uint64_t wanted, uint64_t limit) except -1:
        cdef Session session = reader.route.session
        cdef uint8_t* start
        cdef uint8_t* p
        if session.closed or not session.welcomed:
            return 0
        start = session.control.begin(kind, 0, 1 + 3 * 9)
        start[0] = 0x93
        p = pack_u64(start + 1, reader.correlation)
        p = pack_u64(p, wanted)
        p = pack_u64(p, limit)
        session.control.finish(start, p - start)
        return self.mark(session)

    cdef int fail_waiting(self, Waiting waiting, error) except -1:
        cdef Reader reader = None
        if is_asked(waiting.message) and waiting.message.origin is self.origin:
            waiting.drop()
            reader = self.readers.get(waiting.message.correlation)
            return reader.stop(error) if reader is not None else 0
        return Overflow.fail_waiting(self, waiting, error)

    cdef int refuse(self, AgentMessage message, record, error) except -1:
        cdef Reader reader
        if message.origin is self.origin and is_asked(message):
            self.messages_undeliverable += 1
            reader = self.readers.get(message.correlation)
            return reader.stop(error) if reader is not None else 0
        return Overflow.refuse(self, message, record, error)

    cdef int lose_stream(self, Session session, uint64_t correlation, error) except -1:
        """The other node refuses: it has not begun it, or knows it no more."""
        cdef Reader reader = self.readers.get(correlation)
        if reader is not None and reader.route.session is session:
            return reader.stop(error)
        return 0

    # -- who answers

    def open_writer(self, AgentMessage request not None):
        """Where the parts of the answer to `request` go; LimitReached if there are too many already."""
        cdef Writer writer = Writer()
        cdef Origin origin = request.origin
        if request.envelope is None or not request.envelope.part & STREAM_ASKED:
            raise ConfigError("this request is not asked for in parts: the asker calls `stream` for that")
        if len(self.writers) >= self.streams_max:
            raise LimitReached(f"node {self.node_id} answers {self.streams_max} streams already "
                               f"(streams_max); it was not begun")
        request.envelope.answered = True
        writer.engine, writer.request, writer.session = self, request, origin.session
        writer.key = (origin.node_id, origin.incarnation, request.correlation)
        writer.from_id, writer.to_id, writer.what = request.to_id, request.from_agent, STREAM_ANSWER
        writer.limit = request.envelope.position
        if writer.session is None and origin is not self.origin:
            writer.adrift, writer.deadline_ns = True, self.now_ns + self.stream_resume_ns
            self.wake_by(writer.deadline_ns)
        self.writers[writer.key] = writer
        return writer

    # -- as other rooms ask

    def welcome(self, Session session not None):
        Overflow.welcome(self, session)
        self.take_up(session)

    def idle(self, list sessions not None):
        """As of all links, and no stream goes over it."""
        cdef Reader reader
        cdef Writer writer
        used = [reader.route.session for reader in self.readers.values()]
        used += [writer.session for writer in self.writers.values()]
        return [session for session in Overflow.idle(self, sessions) if session not in used]

    def end_requests(self):
        cdef Reader reader
        Overflow.end_requests(self)
        for reader in list(self.readers.values()):
            reader.stop(StreamLost(f"node {self.node_id} has left the network; part {reader.position} is the "
                                   f"next one"))

    cdef Writer give(self, AgentMessage request):
        """Where the parts of the input of that request go: `Inputs` sends them."""
        raise InternalError("a Streams alone has no inputs")

    cdef int put_part(self, Session session, AgentMessage part) except -1:
        if session is not None:
            self.answer(session, part)  # what it may give to wait for, the grants make needless
            return 0
        self.stamp(part)
        return self.on_part(None, part)

    cdef object reply_in_parts(self, AgentMessage request, bytes payload, int content, failure):
        """The handler has ended, of whatever kind it is."""
        cdef Origin origin = request.origin
        cdef Writer writer = self.writers.get((origin.node_id, origin.incarnation, request.correlation))
        cdef AgentMessage part
        if failure is None and (writer.whole if writer is not None else not request.envelope.answered):
            try:                    # of a plain handler: its answer is the only part
                if writer is None:
                    writer = self.open_writer(request)
                writer.put(payload, content)
            except NetworkError as error:
                failure = (error.code, str(error))
        if failure is not None:
            failure = (failure[0], failure[1].encode("utf-8", "replace")[:1024])
        if writer is not None:
            self.end_stream(writer, failure)
        elif not request.envelope.answered and (origin.session is not None or origin is self.origin):
            request.envelope.answered = True
            part = AgentMessage(b"", to_agent=request.from_agent, from_agent=request.to_id,
                                message_type=TYPE_RESPONSE, priority=request.level)
            part.correlation, part.failure, part.envelope = request.correlation, failure, Envelope()
            part.envelope.put_stream(STREAM_ANSWER | STREAM_LAST, 0)
            self.put_part(origin.session, part)
        return None

    cdef int end_stream(self, Writer writer, failure) except -1:
        """Its last part, which carries (code, text) if it failed."""
        if writer.error is None and not writer.over:
            writer.put(b"", 0, True, failure)
            if writer.key in self.writers:      # until it is told that it has come
                writer.deadline_ns = self.now_ns + self.stream_idle_ns
                self.wake_by(writer.deadline_ns)
        return 0

    cdef int on_grant(self, Session session, Frame* frame) except -1:
        cdef Limit it
        read_limit(frame, "GRANT", &it)
        return self.granted(session, session.origin, it.correlation, it.wanted, it.limit)

    cdef int granted(self, Session session, Origin origin, uint64_t correlation, uint64_t wanted,
                     uint64_t limit) except -1:
        cdef Writer writer = self.writers.get((origin.node_id, origin.incarnation, correlation))
        if writer is None:
            if session is not None:
                self.put_refused(session, 0, correlation, 0, StreamLost(
                    f"node {self.node_id} knows no such stream any more"))
            return 0
        if not writer.advance(session, wanted, limit):
            del self.writers[writer.key]
            return 0
        return writer.go_on()

    cdef int end_writer(self, Writer writer, error) except -1:
        """Nobody hears it any more."""
        cdef Port port = self.ports.get(writer.request.to_id)
        self.writers.pop(writer.key, None)
        if port is not None:
            self.now_ready.recall.append((port, writer.request.origin, writer.request.correlation))
        return writer.end(error)

    def drop_stream(self, Origin origin not None, correlation):
        """Who asked has left."""
        cdef Writer writer = self.writers.get((origin.node_id, origin.incarnation, correlation))
        if writer is not None and self.call_defect != LEFT_OPEN:
            self.end_writer(writer, StreamLost("who asked for the stream has left"))

    # -- links that end, and others that come

    cdef int set_adrift(self, Session session) except -1:
        """Streams over that link go on by the next one, if it comes in time."""
        cdef Reader reader
        cdef Writer writer
        for writer in self.writers.values():
            if writer.session is session and not writer.adrift:
                writer.adrift = True
                writer.deadline_ns = self.now_ns + self.stream_resume_ns
                self.wake_by(writer.deadline_ns)
        for reader in list(self.readers.values()):
            if reader.route.session is session and not reader.adrift:
                reader.adrift, reader.node_id, reader.incarnation = True, session.node_id, session.incarnation
                reader.resume_ns = self.now_ns + self.stream_resume_ns
                self.wake_by(reader.resume_ns)
                try:
                    self.resolve(reader.agent_id)   # which asks for a link
                except NetworkError:
                    continue        # one may come all the same
        return 0

    cdef int take_up(self, Session session) except -1:
        """There is a link to that node: streams that had another go on."""
        cdef Reader reader
        for reader in list(self.readers.values()):
            if reader.adrift and reader.node_id == session.node_id:
                if reader.incarnation != session.incarnation:
                    reader.stop(StreamLost(f"node {session.node_id} was started anew, and knows it no more"))
                    continue
                reader.route = Route(reader.route.record, session)
                reader.adrift = False
                reader.grant()
        return 0

    cdef int tick_streams(self) except -1:
        cdef Reader reader
        cdef Writer writer
        for reader in list(self.readers.values()):
            if reader.adrift and reader.resume_ns <= self.now_ns:
                self.streams_lost += 1
                reader.stop(StreamLost(
                    f"the link to node {reader.node_id} is gone, and no other came in time; part "
                    f"{reader.position} is the next one"))
            elif reader.deadline_ns <= self.now_ns and not reader.adrift:
                self.cancel_stream(reader, RequestTimeout(
                    f"no part of the stream of agent {reader.route.record.label} came for too long; part "
                    f"{reader.position} is the next one"))
            else:
                self.wake_ns = min(self.wake_ns, reader.resume_ns if reader.adrift else reader.deadline_ns)
        for writer in list(self.writers.values()):
            if writer.deadline_ns <= self.now_ns:
                self.streams_lost += 1
                self.end_writer(writer, StreamLost("who asked for the stream took nothing for too long"))
            else:
                self.wake_ns = min(self.wake_ns, writer.deadline_ns)
        return 0


cdef int read_limit(Frame* frame, str kind, Limit* it) except -1:
    """What `put_limit` wrote."""
    cdef uint32_t n = 0
    cdef Cursor c
    c.at, c.end = frame.body, frame.body + frame.size
    if not (read_array(&c, &n) and n == 3 and read_uint(&c, &it.correlation) and read_uint(&c, &it.wanted)
            and read_uint(&c, &it.limit) and c.at == c.end):
        raise ProtocolError(f"{kind} frame: expected [correlation, part wanted next, parts granted]")
    return 0


cdef inline bint is_asked(AgentMessage message) noexcept:
    return message.envelope is not None and message.envelope.part & STREAM_ASKED
