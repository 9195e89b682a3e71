"""One agent of this node, as the engine sees it: what it sends goes in here, its mail comes out.

In: calls of the agent's code, and messages that the engine put into the mailbox.  Out: something to
await for each call, and messages for a handler.  A plain message to an agent behind a link with room
takes the short way: it is encoded in this call, and nothing but its bytes remains.

Held here: one mailbox, made at the first message and given back when idle.  Raises, or settles with,
errors that tell whether the message may have been executed.
"""

from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItemWithError
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t

from agentnet_core.calls cimport CALLS_UNCOUNTED, HOPS_UNCOUNTED, SHARES_KEPT
from agentnet_core.chain cimport call_below, give_back, send_below, take_share
from agentnet_core.envelope cimport check_operation
from agentnet_core.framing cimport GO
from agentnet_core.mailbox cimport is_low
from agentnet_core.message cimport PLAIN_HEAD_BYTES, TYPE_COMMAND, TYPE_QUERY, Origin, small
from agentnet_core.outflow cimport FLUSH_BYTES, FRAME_OVERHEAD_BYTES
from agentnet_core.recalls cimport Pending
from agentnet_core.route cimport Waiting

from agentnet_core.errors import (
    ChainSpent, ConfigError, Expired, LimitReached, NetworkError,
)
from agentnet_core.config import check_count
from agentnet_core.records import Delivery, Event, WhenFull, describe
from agentnet_core.route import SENT, Pause

cdef enum:
    CLOCK_EVERY_SENDS = 16      # a sender looks at the clock this often

cdef int64_t MS = 1_000_000
cdef int64_t TTL_MS_MAX = 0xffffffff
cdef object _SENT = SENT        # a C global: the hot path looks nothing up
cdef object _ACKNOWLEDGED = Delivery.ACKNOWLEDGED
cdef object _DURABLE = Delivery.DURABLE
cdef object _ONE = 1            # the usual type and priority, which need no conversion


cdef inline int number(value) except -2:
    return 1 if value is _ONE else small(value)


cdef uint32_t to_ttl(int64_t timeout_ns) noexcept:
    """Whole milliseconds, 0 for ever; a little late rather than early."""
    cdef int64_t ms = timeout_ns // MS + (timeout_ns % MS > 0)
    if ms > TTL_MS_MAX:
        return 0
    return <uint32_t>ms if ms > 0 else 1


cdef class Work:
    def __cinit__(self, Port port not None, *args):
        self.port = port


cdef class Overfill:
    cdef int64_t beyond(self, int64_t window, int64_t large_max) noexcept:
        """Of what no credit is given."""
        cdef int64_t plain = self.plain - window, large = self.large - large_max
        return (plain if plain > 0 else 0) + (large if large > 0 else 0)


cdef class Port(Route):
    """The engine's end of an agent of this node: what it sends goes in here, its mail comes out."""

    def __cinit__(self, Calls engine not None, *args):
        # Not in __init__, which a subclass may not call: C code takes the engine for granted.
        self.engine = engine
        self.parked = True

    def __init__(self, Calls engine not None, record):
        Route.__init__(self, record, None)
        self.messages_max = engine.config.mailbox_messages_max
        self.bytes_max = engine.config.mailbox_bytes_max

    # -- out

    def send(self, to, payload, *, delivery=None, message_type=1, priority=1, ttl=0.0, message_id=None,
             until=None, timeout=None, operation_id=None):
        """Send `payload` to agent `to` (id or name); await the result.

        Awaiting returns once the message is on its way (at most once; see the errors of a lost
        link), and waits while the receiver or the link to it has no room.  `ttl`: seconds until it
        is not worth executing any more, 0 never.

        `operation_id`: a text, this agent's name for what it asks: it is done once, however often it is sent
        under that, for `operation_ms`.

        `delivery`: what is promised.  With one, a Receipt is awaited, and the message goes again until it
        has come as far as `until`: 'mailboxed' or 'processed' (the default of ACKNOWLEDGED), for `timeout`
        seconds; a DURABLE one is 'kept' at first, which is when it is on the disk, and goes until it is
        processed.  Raises, when awaited, LimitReached, StorageFull, StorageBusy, DeliveryUnsupported,
        Expired and NoSuchAgent: definite; DeliveryTimeout and DeadLettered: see there; HandlerFailed,
        StorageFailed: not definite.

        Raises NoSuchAgent, AgentUnreachable, MessageTooLarge, PayloadMismatch, Congested, and of a handler
        ChainSpent where `chain_sends` counts: all definite.
        """
        cdef Calls engine = self.engine
        cdef PyObject* found
        cdef Route route
        cdef Session session
        cdef Py_ssize_t size
        cdef int kind = number(message_type), level = number(priority)
        if (type(payload) is bytes and (type(to) is str or type(to) is int) and message_id is None
                and 0 <= level < 4 and 0 <= kind < 6 and ttl == 0 and operation_id is None
                and not (engine.chain_sends and self.works())):
            found = PyDict_GetItemWithError(engine.routes, to)
            if found != NULL and delivery is None:
                route = <Route>found
                session = route.session
                size = PyBytes_GET_SIZE(<bytes>payload)
                if (session is not None and session.clear and not route.stopped
                        and size <= engine.fragment_bytes and size <= session.message_bytes_max
                        and session.room() >= size + PLAIN_HEAD_BYTES + FRAME_OVERHEAD_BYTES):
                    engine.put_plain(session, self.agent_id, route.agent_id, 0, <uint8_t>kind,
                                     <uint8_t>level, 0, <bytes>payload)
                    engine.sends += 1
                    if engine.unflushed < FLUSH_BYTES and engine.sends % CLOCK_EVERY_SENDS:
                        return _SENT
                    return self.breathe()
            elif (found != NULL and (delivery is _ACKNOWLEDGED or delivery is _DURABLE)
                    and kind == TYPE_COMMAND and until is None and timeout is None):
                token = engine.post_letter(self.agent_id, <Route>found, to, <bytes>payload, <uint8_t>level,
                                           delivery is _DURABLE)
                if token is not None:
                    return token
        if operation_id is not None and not delivery:
            raise ConfigError(f"operation_id={describe(operation_id)}: a send that has one needs a delivery: "
                              f"ACKNOWLEDGED or DURABLE")
        if delivery is not None:
            if delivery == 0:
                return self.send(to, payload, message_type=message_type, priority=priority, ttl=ttl,
                                 message_id=message_id)
            return engine.send_letter(self.agent_id, to, payload,
                                      (message_type, priority, ttl, message_id, operation_id, self.cause()),
                                      delivery, until, timeout)
        return self._post(to, payload, message_type, priority, ttl, message_id, True)

    def send_nowait(self, to, payload, *, message_type=1, priority=1, ttl=0.0, message_id=None):
        """As `send`, but raises Congested where `send` would wait."""
        self._post(to, payload, message_type, priority, ttl, message_id, False)

    cdef object _post(self, to, payload, message_type, priority, ttl, message_id, bint may_wait):
        cdef Calls engine = self.engine
        cdef AgentMessage message
        cdef Route route
        if to is None:
            raise ConfigError("send: to is None; a broadcast is net.broadcast_message(payload)")
        below = self.cause()
        route = engine.resolve(to)
        if route.session is not None and route.session.welcomed and not route.session.delivers:
            below = None            # its release would refuse it
        body, content = engine.to_bytes(payload)
        message = AgentMessage(body, to_agent=route.agent_id, from_agent=self.agent_id,
                               message_type=message_type, priority=priority, ttl=ttl, message_id=message_id)
        message.content, message.envelope = content, below
        return engine.post(route, message, may_wait)

    cdef bint works(self) noexcept:
        """Whether a handler sends this."""
        return self.engine.work is not None and (<Work>self.engine.work).message is not None

    cdef Envelope cause(self):
        """What a message carries that a handler sends: ChainSpent, where sends count."""
        cdef Calls engine = self.engine
        cdef Work work
        if not (engine.chain_sends and self.works()):
            return None
        work = <Work>engine.work
        try:
            return send_below(work.message, work.port.agent_id, engine.chain_hops_max)
        except ChainSpent as error:
            error = self.spent(work, error)
            engine.sends_spent += 1
            engine.event(Event(Event.UNDELIVERABLE, engine.node_id, work.port.agent_id, work.port.record.name,
                               str(error), error=error))
            raise error from None

    cdef object spent(self, Work work, error):
        """It, with the path."""
        cdef Envelope above = work.message.envelope
        passed = [] if above is None else above.agents()
        names = [self.engine.control.directory.label(agent) for agent in passed]
        path = " -> ".join([*names, work.port.record.label])
        return ChainSpent(f"{path}: {error}; nothing was sent")

    def request(self, to, payload, *, timeout=None, priority=1, reply=None, operation_id=None):
        """Ask agent `to`; await the result for what its handler returned.

        `operation_id`: a text, under which it is done once: who asks again under it, after a timeout, a lost
        link or a restart of either side, gets the same result, for `operation_ms`; its handler is not stopped
        then. Also DeliveryUnsupported, definite, and ResultForgotten, if the result was too large to be kept.

        `timeout`: seconds. `reply`: a type to decode the answer to.  Raises, when awaited:
        NoSuchAgent, AgentUnreachable, AgentStopped, Expired, Congested, and MessageTooLarge or
        PayloadMismatch of the request (definite: not executed); HandlerFailed, RequestTimeout, LinkLost,
        and MessageTooLarge or PayloadMismatch of the answer (not definite: the handler ran, or may have).
        """
        cdef Calls engine = self.engine
        cdef AgentMessage message
        cdef Pending pending = engine.call.another()
        cdef Route route
        cdef Session session
        cdef Py_ssize_t size
        cdef bytes body
        cdef int content = 0, level
        cdef int64_t timeout_ns = engine.request_timeout_ns
        cdef Envelope below = None
        pending.engine = engine
        try:
            if timeout is not None:
                timeout_ns = engine.nanoseconds(timeout)
            if len(engine.pending) >= engine.pending_max:
                raise LimitReached(f"{engine.pending_max} requests wait for an answer already "
                                   f"(requests_pending_max): await some first")
            level = number(priority)
            if not 0 <= level < 4:
                raise ConfigError(f"priority={describe(priority)}: expected a MessagePriority, 0 to 3")
            if engine.work is not None and (<Work>engine.work).message is not None:
                below = self.nest(<Work>engine.work, &timeout_ns)
            route = engine.resolve(to)
            if operation_id is not None:
                check_operation(operation_id)
            if operation_id is not None or below is not None:
                engine.check_peer(route, route.session)
            if type(payload) is bytes:
                body = <bytes>payload
            else:
                body, content = engine.to_bytes(payload)
            engine.correlation += 1
            pending.correlation, pending.hint, pending.route = engine.correlation, reply, route
            pending.timeout_ns = timeout_ns
            pending.deadline_ns = engine.now_ns + timeout_ns
            engine.pending[engine.correlation] = pending
            session = route.session
            size = PyBytes_GET_SIZE(body)
            if (session is not None and session.clear and not route.stopped and content == 0 and below is None
                    and operation_id is None and size <= engine.fragment_bytes
                    and size <= session.message_bytes_max
                    and session.room() >= size + PLAIN_HEAD_BYTES + FRAME_OVERHEAD_BYTES):
                engine.put_plain(session, self.agent_id, route.agent_id, engine.correlation, TYPE_QUERY,
                                 <uint8_t>level, to_ttl(timeout_ns), body)
            else:
                message = AgentMessage(body, to_agent=route.agent_id, from_agent=self.agent_id,
                                       message_type=TYPE_QUERY, priority=priority)
                message.content, message.correlation = content, engine.correlation
                message.ttl_ms = to_ttl(timeout_ns)
                if below is not None:
                    self.count_call(pending, (<Work>engine.work).message.envelope, below)
                self.put_request(route, pending, message, below, operation_id)
            if pending.deadline_ns < engine.wake_ns:
                engine.wake_ns = pending.deadline_ns
        except NetworkError as error:
            engine.pending.pop(pending.correlation, None)
            engine.end(pending, error)
        return pending

    cdef int count_call(self, Pending pending, Envelope above, Envelope below) except -1:
        """It is open from now on, until `Recalls.end`."""
        cdef int defect = self.engine.call_defect
        pending.cause, pending.share = above, take_share(above, below)
        if defect == CALLS_UNCOUNTED:
            give_back(above, pending.share)
        if defect == CALLS_UNCOUNTED or defect == SHARES_KEPT:
            pending.cause = None
        return 0

    cdef int put_request(self, Route route, Pending pending, AgentMessage message, Envelope below,
                         operation) except -1:
        message.envelope = below
        if operation is not None:
            if below is None:
                message.envelope = Envelope()
            message.envelope.put_operation(operation)
        if not self.engine.offer(route, message):
            pending.waiting = self.engine.wait(route, message, None)
        return 0

    cdef Envelope nest(self, Work work, int64_t* timeout_ns):
        """What a request carries that a handler makes: it has no more time than what the handler is at."""
        cdef AgentMessage cause = work.message
        cdef Calls engine = self.engine
        cdef Envelope below
        cdef int64_t left
        if cause.deadline_ns:
            left = cause.deadline_ns - engine.now_ns
            if left <= 0:
                raise Expired(f"the time of the request that agent {work.port.record.label} is at has run "
                              f"out; nothing was sent")
            timeout_ns[0] = min(timeout_ns[0], left)
        try:
            below = call_below(cause, work.port.agent_id, engine.chain_hops_max, engine.chain_calls_max)
            below.hops += engine.call_defect == HOPS_UNCOUNTED
            return below
        except ChainSpent as error:
            raise self.spent(work, error) from None

    def breathe(self):
        """Called every few sends: something to await that lets the loop turn when it is time."""
        return Pause() if self.engine.unflushed >= FLUSH_BYTES else _SENT

    # -- in

    cdef int inherit(self, Port old) except -1:
        """It takes the place of that one: the sends that wait for it."""
        cdef Waiting waiting
        self.waiting, old.waiting = old.waiting, None
        for waiting in self.waiting or ():
            if not waiting.dropped:
                waiting.move(self)
        return 0

    def bound(self, when_full, messages_max, bytes_max):
        """What its mailbox holds, None as the config says, and does when it is full; before it gets mail."""
        for name, limit in (("mailbox_messages_max", messages_max), ("mailbox_bytes_max", bytes_max)):
            if limit is not None:
                check_count(name, limit)
        self.when_full = WhenFull(when_full).number
        self.messages_max = self.messages_max if messages_max is None else messages_max
        self.bytes_max = self.bytes_max if bytes_max is None else bytes_max

    cdef Mailbox mailbox(self):
        if self.box is None:
            self.box = Mailbox(self.messages_max, self.bytes_max)
        return self.box

    def take(self):
        """The next message to handle, expired ones passed over; None, and it is parked, if there is none."""
        return self.next_message()

    cdef AgentMessage next_message(self):
        cdef AgentMessage message
        cdef Calls engine = self.engine
        while self.box is not None:
            message = self.box.pop()
            if message is None:
                break
            if self.stopped and is_low(self.box):
                self.go()
            if message.deadline_ns and engine.now_ns >= message.deadline_ns:
                engine.date()
                if engine.now_ns < message.deadline_ns:
                    return self.hand_over(message)
                engine.messages_expired += 1
                engine.refuse(message, self.record, Expired(
                    f"agent {self.record.label}: the ttl of the message ran out in its mailbox; it was not "
                    f"executed"))
                continue
            return self.hand_over(message)
        self.parked = True
        self.served_ns = engine.now_ns
        return None

    def take_returned(self):
        """The next call that came back to this agent, which waits for it; it goes past the mailbox."""
        return self.hand_over(self.returned.popleft()) if self.returned else None

    cdef AgentMessage hand_over(self, AgentMessage message):
        """Its handler has it now, for as long as may be."""
        if message.slip is not None or message.envelope is not None:
            self.engine.hand_over(self, message)
        return message

    def once(self, AgentMessage message not None, changes, result):
        """See `AgentMessage.once`."""
        return self.engine.once(message, changes, result)

    @property
    def store(self):
        """What it has committed with `once`, to read."""
        return self.engine.store_of(self.agent_id)

    def attends(self, AgentMessage message not None):
        """Whether a handler is at that message, and lives: the driver knows."""
        return False

    def end_returned(self):
        """One of them has ended."""
        self.returned_open -= 1

    cdef int go(self) except -1:
        cdef Session session
        self.stopped = False
        self.forgive()
        if self.stopped_sessions is not None:
            for session in self.stopped_sessions:
                if not session.closed:
                    self.engine.put_control_u64(session, GO, self.agent_id)
            self.stopped_sessions = None
        return self.engine.drain_local(self)

    cdef int withhold(self, Session session, int64_t size, int64_t whole) except -1:
        """A message, large if `whole` is not 0, comes for a full mailbox.

        A window of them and large ones that had begun may be on their way when STOP is said. For
        what comes beyond that no credit is given until GO: only who does not heed STOP gets there,
        so that no agent's full mailbox is felt by another.
        """
        cdef Overfill over
        cdef int64_t large_max = self.engine.parted_bytes_max
        if self.overfill is None:
            self.overfill = {}
        over = self.overfill.get(session.origin)
        if over is None:
            over = self.overfill[session.origin] = Overfill()
        session.withheld -= over.beyond(session.granted, large_max)
        if whole:
            over.large += whole
        else:
            over.plain += size
        session.withheld += over.beyond(session.granted, large_max)
        return 0

    cdef int forgive(self) except -1:
        """Give back the credit that was withheld for this mailbox."""
        cdef Origin origin
        cdef Session session
        cdef Overfill over
        if self.overfill is not None:
            for origin, over in self.overfill.items():
                session = origin.session
                if session is not None:
                    session.withheld -= over.beyond(session.granted, self.engine.parted_bytes_max)
                    self.engine.give_credit(session)
            self.overfill = None
        return 0

    @property
    def pending_messages(self):
        """Messages in its mailbox."""
        return 0 if self.box is None else self.box.count

    def rest(self):
        """Give back the mailbox of an idle agent."""
        if self.box is not None and self.box.count == 0:
            self.box = None
