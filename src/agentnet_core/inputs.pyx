"""Inputs in parts: what goes the other way of a stream, from who asks to who answers.

A request that is answered in parts may have its input in parts, too.  Nothing of it is sent before its
handler reads it; then all is as of the answer with the two ends exchanged: the taker grants how many parts
may be sent and says up to which it has taken them, the giver keeps all else.  So it goes on by another link,
with its answer.  It is over with its last part, and at the latest when its answer is: then nobody needs more.

Held here: a Taker for each stream that is answered here and reads its input, a giver for each that was
asked; each has what the limits of streams allow.  A Taker ends as a Reader does; who gives is told by what
its stream ends with.
"""

from weakref import ref

from agentnet_core.calls cimport GIVEN_UNASKED, INPUT_LEFT, INPUT_UNWATCHED
from agentnet_core.envelope cimport STREAM_GIVEN, STREAM_INPUT
from agentnet_core.framing cimport TAKE
from agentnet_core.streams cimport read_limit

from agentnet_core.agent_record import AgentRecord
from agentnet_core.errors import ConfigError, RequestTimeout, StreamLost

cdef int64_t NEVER = 0x7fffffffffffffff


cdef class Taker(Reader):
    """The handler's end of an input."""

    cdef int grant(self, uint64_t wanted=0) except -1:
        return (<Inputs>self.engine).put_take(self, wanted)

    cdef int forget(self) except -1:
        (<Inputs>self.engine).takers.pop(self.key, None)
        return 0

    cdef int breach(self, error) except -1:
        return self.stop(error)

    def close(self):
        """Nobody reads it any more; its giver waits until the answer has ended."""
        if not self.over:
            self.stop(None)


cdef class Input:
    """What a handler reads: `async for part in message.parts()`. `position`: of the next part to come."""

    def __cinit__(self, Taker taker not None):
        self.taker = taker

    @property
    def position(self):
        return self.taker.position

    def __aiter__(self):
        return self

    async def __anext__(self):
        cdef AgentMessage part
        while True:
            try:
                part = self.taker.take()
            except StopIteration:
                raise StopAsyncIteration from None
            if part is not None:
                return part.value
            await self.taker.wait()


cdef class Inputs(Streams):
    """What an engine does about inputs in parts."""

    def __cinit__(self, *args, **kwargs):
        self.takers, self.itself = {}, ref(self)

    # -- who asks

    cdef Writer give(self, AgentMessage request):
        cdef Writer giver = Writer()
        giver.engine, giver.request, giver.what = self, request, STREAM_GIVEN
        giver.from_id, giver.to_id = request.from_agent, request.to_id
        giver.adrift = True         # until it is asked for
        if self.call_defect == GIVEN_UNASKED:
            giver.limit = <uint64_t>self.stream_parts_max
        return giver

    cdef int on_take(self, Session session, Frame* frame) except -1:
        cdef Limit it
        read_limit(frame, "TAKE", &it)
        return self.taken(session, it.correlation, it.wanted, it.limit)

    cdef int taken(self, Session session, uint64_t correlation, uint64_t wanted, uint64_t limit) except -1:
        """Who answers has taken so much, and as much may follow."""
        cdef Reader reader = self.readers.get(correlation)
        cdef Writer giver
        if reader is None or reader.giver is None:
            return 0                # who asked has left, and has said so
        giver = reader.giver
        if reader.route.session is not session:
            if not self.sought(reader, session):
                return 0
            reader.route = Route(reader.route.record, session)
        if reader.waiter is not None:
            # What moves there is no silence here.
            reader.deadline_ns = self.now_ns + reader.idle_ns
            self.wake_by(reader.deadline_ns)
        if not giver.advance(session, wanted, limit):
            reader.giver = None     # all of it is there
            return 0
        return giver.go_on()

    cdef bint sought(self, Reader reader, Session session) except -1:
        """Whether its agent, which was sought when it was asked, was found there."""
        if session is None or reader.position or reader.giver.base or not reader.giver.adrift:
            return False
        record = self.control.directory.get(reader.agent_id)
        return record is not None and record.node_id == session.node_id

    # -- who answers

    def open_input(self, AgentMessage request not None):
        """The Input of that request; as of `open_writer`, and ConfigError if it was read before."""
        cdef Origin origin = request.origin
        cdef Taker taker
        cdef Writer writer
        if request.envelope is None or not request.envelope.part & STREAM_INPUT:
            raise ConfigError("this request has no input in parts: the asker calls `stream` with `parts`")
        key = (origin.node_id, origin.incarnation, request.correlation)
        if request.envelope.taken:
            raise ConfigError("the input of this request is read already: its parts come once")
        if key not in self.writers:
            writer = self.open_writer(request)
            writer.whole = True
        request.envelope.taken = True
        taker = Taker()
        taker.engine, taker.correlation, taker.key = self, request.correlation, key
        taker.agent_id = request.from_agent
        taker.node_id, taker.incarnation = origin.node_id, origin.incarnation
        taker.route = Route(AgentRecord(request.from_agent, origin.node_id), origin.session)
        taker.idle_ns = self.stream_idle_ns
        if origin.session is None and origin is not self.origin:
            self.cast_off(taker)
        self.takers[key] = taker
        return Input(taker)

    cdef int put_take(self, Taker taker, uint64_t wanted) except -1:
        cdef uint64_t limit = taker.taken + <uint64_t>self.stream_parts_max
        wanted = max(wanted, taker.taken)
        taker.granted, taker.freed = limit, 0
        if taker.route.session is None:
            return self.taken(None, taker.correlation, wanted, limit)
        return self.put_limit(TAKE, taker, wanted, limit)

    cdef int on_part(self, Session session, AgentMessage message) except -1:
        cdef Taker taker
        if not message.envelope.part & STREAM_GIVEN:
            return Streams.on_part(self, session, message)
        taker = self.takers.get((message.origin.node_id, message.origin.incarnation, message.correlation))
        if taker is None or message.from_agent != taker.agent_id:
            self.replies_late += 1
            return 0
        return taker.accept(session, message)

    cdef int drop_taker(self, tuple key, error) except -1:
        cdef Taker taker = self.takers.get(key)
        return taker.stop(error) if taker is not None and self.call_defect != INPUT_LEFT else 0

    cdef int end_stream(self, Writer writer, failure) except -1:
        self.drop_taker(writer.key, StreamLost("its handler has ended"))
        return Streams.end_stream(self, writer, failure)

    cdef int end_writer(self, Writer writer, error) except -1:
        self.drop_taker(writer.key, error)
        return Streams.end_writer(self, writer, error)

    def end_requests(self):
        cdef Taker taker
        Streams.end_requests(self)
        for taker in list(self.takers.values()):
            taker.stop(StreamLost(f"node {self.node_id} has left the network; part {taker.position} of the "
                                  f"input is the next one"))

    # -- links that end, and others that come; time

    cdef int cast_off(self, Taker taker) except -1:
        taker.adrift, taker.resume_ns = True, self.now_ns + self.stream_resume_ns
        self.wake_by(taker.resume_ns)
        return 0

    cdef int set_adrift(self, Session session) except -1:
        cdef Reader reader
        cdef Taker taker
        for reader in self.readers.values():
            if reader.giver is not None and reader.giver.session is session:
                reader.giver.adrift = True
        for taker in self.takers.values():
            if (taker.route.session is session and not taker.adrift
                    and self.call_defect != INPUT_UNWATCHED):
                self.cast_off(taker)
        return Streams.set_adrift(self, session)

    cdef int take_up(self, Session session) except -1:
        cdef Taker taker
        Streams.take_up(self, session)
        for taker in list(self.takers.values()):
            if taker.adrift and taker.node_id == session.node_id:
                if taker.incarnation != session.incarnation:
                    taker.stop(StreamLost(f"node {session.node_id} was started anew, and gives no more"))
                    continue
                taker.route = Route(taker.route.record, session)
                taker.adrift = False
                if taker.granted:
                    taker.grant()
        return 0

    cdef int tick_streams(self) except -1:
        cdef Taker taker
        for taker in list(self.takers.values()):
            if taker.adrift and taker.resume_ns <= self.now_ns:
                self.streams_lost += 1
                taker.stop(StreamLost(f"the link to node {taker.node_id} is gone, and no other came in time; "
                                      f"part {taker.position} of the input is the next one"))
            elif taker.deadline_ns <= self.now_ns and not taker.adrift:
                self.streams_lost += 1
                taker.stop(RequestTimeout(f"no part of the input came for too long; part {taker.position} is "
                                          f"the next one"))
            else:
                self.wake_ns = min(self.wake_ns, taker.resume_ns if taker.adrift else taker.deadline_ns)
        return Streams.tick_streams(self)
