"""How a message gets out: routes, the two lanes, and who waits for room.

A message goes straight into its peer's lane if the agent has not said STOP, the window has room and
nobody waits before it; otherwise it is queued, and its token is settled when it is sent or fails.
A message to a node without a link waits at a Session that stands for the link until there is one.
Large messages wait in bulk lanes, one per sender, receiver and priority, and go in fragments in turn.

Held here: at most `sends_waiting_max` messages for each agent, of `sends_waiting_bytes_max` in all,
each for `send_wait_ms_max`, and what the peers' windows allow.  Fails with Congested, Expired,
AgentUnreachable: all definite.
"""

from collections import deque

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItemWithError
from cpython.object cimport PyObject

from agentnet_core.framing cimport CREDIT, MESSAGE, OPTIONAL_FIELDS, Cursor, pack_u64, read_array, read_uint
from agentnet_core.message cimport PLAIN_HEAD_BYTES, copy_message, write_plain
from agentnet_core.session cimport PART_OVERHEAD_BYTES

from agentnet_core.config import OPTIONAL_BYTES_MAX
from agentnet_core.errors import (
    AgentUnreachable, ConfigError, Congested, Expired, InternalError, MessageTooLarge, ProtocolError,
)
from agentnet_core.route import SENT, Pause

cdef enum:
    PAUSE_EVERY_SENDS = 64      # off the hot path: the loop turns at least this often

optional_bytes_max = OPTIONAL_BYTES_MAX

cdef object _SENT = SENT        # a C global: nothing is looked up

cdef int64_t MS = 1_000_000
cdef int64_t NEVER = 0x7fffffffffffffff


cdef class Ready:
    """What is to be done, field by field in this order; a driver may keep it until the next `ready()`.

    persist: Entries for the log, or None, as batch number `batch`; `persisted` or `unpersisted` tells of it.
    send: sessions with bytes to write. close: (session, error). dial: addresses to dial.
    tunnels: those with something for the driver.
    recall: (port, or None for all, origin, correlation): a handler that is at that request of that node, or
    at any of it if that is 0, must stop. learn: (a Pending, an outcome or None): what became of
    a request that was given up.
    probe: sessions whose peer's liveness port is to be asked; the control's `alive` takes the answer.
    deliver: ports whose runner must be woken. stop: ports that lost their id to another node, and whose
    runner must end. settle: (token, message or error or None, hint), or a Pending, which has the rest itself.
    events: Event.
    """

    def __cinit__(self):
        self.send, self.close, self.dial, self.probe, self.tunnels = [], [], [], [], []
        self.deliver, self.stop, self.settle, self.events = [], [], [], []
        self.recall, self.learn = [], []

    def clear(self):
        for field in (self.send, self.close, self.dial, self.probe, self.tunnels, self.deliver, self.stop,
                      self.settle, self.recall, self.learn, self.events):
            field.clear()


cdef class Outflow:
    """The sending half of an engine."""

    def __cinit__(self, *args, **kwargs):
        self.now_ready, self.spare_ready = Ready(), Ready()
        self.routes, self.sessions, self.awaited = {}, {}, {}
        self.origin = Origin("", 0)
        self.stamped, self.waits, self.stuck = [], [], {}
        self.wake_ns = NEVER

    cdef int limit(self, config) except -1:
        """Take the limits of the config, as C."""
        self.fragment_bytes = min(config.fragment_bytes, config.message_bytes_max)
        self.bulk_window = config.bulk_window_bytes
        self.message_bytes_max = config.message_bytes_max
        self.parted_max = config.fragments_open_max
        self.parted_bytes_max = config.reassembly_bytes_max
        self.waiting_max = config.sends_waiting_max
        self.waiting_bytes_max = config.sends_waiting_bytes_max
        self.send_wait_ns = config.send_wait_ms_max * MS
        return 0

    # -- out: what the driver carries out

    cdef int rouse(self) except -1:
        if not self.awake:
            self.awake = True
            self.wake()
        return 0

    cdef int mark(self, Session session) except -1:
        """The session has bytes to write."""
        if not session.dirty:
            session.dirty = True
            self.now_ready.send.append(session)
            self.rouse()
        return 0

    def ready(self):
        """Drain what is to be done; valid until the next call."""
        cdef Ready ready
        cdef Session session
        if self.last_words is not None:
            last_words, self.last_words = self.last_words, None
            last_words()
        self.date()
        for session in self.now_ready.send:
            if session.bulk or session.freight:
                self.pump(session)
        ready = self.now_ready
        for session in ready.send:
            session.dirty = False
        self.now_ready = self.spare_ready
        self.now_ready.clear()
        self.spare_ready = ready
        self.awake = False
        self.unflushed = 0
        return ready

    @property
    def has_mail(self):
        """Whether `ready()` would wake a runner or settle a token."""
        return bool(self.now_ready.deliver) or bool(self.now_ready.settle)

    def before_ready(self, call):
        """Call that once, when the driver drains: what is gathered in one turn leaves with it."""
        self.last_words = call
        self.rouse()

    cpdef object settle(self, token, outcome, hint=None):
        """Hand `token` back with its outcome: a message, an error, or None for done."""
        if token is not None:
            self.now_ready.settle.append((token, outcome, hint))
            self.rouse()

    def event(self, event):
        self.now_ready.events.append(event)
        self.rouse()

    def dial(self, dial):
        self.now_ready.dial.append(dial)
        self.rouse()

    def probe(self, Session session not None):
        self.now_ready.probe.append(session)
        self.rouse()

    cdef int put_control_u64(self, Session session, uint8_t kind, uint64_t value) except -1:
        cdef uint8_t* start = session.control.begin(kind, 0, 9)
        session.control.finish(start, pack_u64(start, value) - start)
        return self.mark(session)

    # -- credit

    cdef int give_credit(self, Session session) except -1:
        # Fragments fill a share of the window only, and that may be less than a quarter.
        if session.welcomed and (session.owed() * 4 >= session.window or session.parts_came):
            session.parts_came = False
            if session.owed() > 0:
                self.put_credit(session)
        return 0

    cdef int put_credit(self, Session session) except -1:
        cdef uint8_t* start = session.control.begin(CREDIT, 0, 19)
        cdef uint8_t* p
        session.reported += session.owed()
        session.reported_messages = session.received_messages
        start[0] = 0x92
        p = pack_u64(start + 1, <uint64_t>session.reported)
        p = pack_u64(p, <uint64_t>session.reported_messages)
        session.control.finish(start, p - start)
        return self.mark(session)

    def close_account(self, Session session not None):
        """Give back all credit at once."""
        if session.owed() > 0 or session.reported_messages < session.received_messages:
            self.put_credit(session)

    cdef int on_credit(self, Session session, Frame* frame) except -1:
        cdef uint64_t taken = 0, messages = 0
        cdef uint32_t n = 0
        cdef Cursor c
        c.at, c.end = frame.body, frame.body + frame.size
        if not (read_array(&c, &n) and n == 2 and read_uint(&c, &taken) and read_uint(&c, &messages)
                and c.at == c.end):
            raise ProtocolError("CREDIT frame: expected [bytes, messages]")
        if (not <uint64_t>session.credited <= taken <= <uint64_t>session.sent
                or messages > <uint64_t>session.sent_messages):
            raise ProtocolError(f"CREDIT for {taken} bytes and {messages} messages: expected "
                                f"{session.credited} to {session.sent} bytes, and at most "
                                f"{session.sent_messages} messages")
        if <int64_t>taken > session.credited:
            session.stalled = False
        session.credited, session.credited_messages = <int64_t>taken, <int64_t>messages
        session.share.credited(session.credited, self.now_ns, self.bulk_window // self.fragment_bytes)
        if session.bulk or session.freight:
            self.mark(session)
        return self.drain(session) if session.blocked else 0

    # -- sending

    cdef Route resolve(self, to):
        """The route to an agent given by id or name; NoSuchAgent or AgentUnreachable, definite."""
        cdef Route route
        cdef PyObject* found
        if type(to) is not int and type(to) is not str:
            raise ConfigError(f"agent {to!r}: expected its id (int) or its name (str)")
        found = PyDict_GetItemWithError(self.routes, to)
        if found != NULL:
            return <Route>found
        record = self.control.directory.get(to)
        if record is None:
            return self.seek(to)
        route = self.routes.get(record.agent_id)
        if route is None:
            session = self.sessions.get(record.node_id)
            if session is None:
                session = self.await_link(record)
            elif (<Session>session).cordoned:
                raise AgentUnreachable(f"agent {record.label} is on node {record.node_id}, which is in "
                                       f"maintenance and takes no new work; nothing was sent")
            route = Route(record, session)
            self.routes[record.agent_id] = route
        self.routes[to] = route
        return route

    cdef int put_plain(self, Session session, uint64_t from_id, uint64_t to_id, uint64_t correlation,
                       uint8_t type, uint8_t level, uint32_t ttl_ms, bytes payload) except -1:
        """The hot path: one plain message, straight into the peer's lane."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(payload)
        cdef uint8_t* p = session.data.begin(MESSAGE, 0, PLAIN_HEAD_BYTES + size)
        self.seq += 1
        write_plain(p, from_id, to_id, self.seq, correlation, type, level, ttl_ms,
                    self.now_ns + self.wall_offset_ns,
                    <const uint8_t*>PyBytes_AS_STRING(payload), <uint32_t>size)
        return self.account(session, session.data.finish(p, PLAIN_HEAD_BYTES + size))

    cdef int account(self, Session session, Py_ssize_t size) except -1:
        session.sent += size
        session.sent_messages += 1
        self.unflushed += size
        self.messages_sent += 1
        if not session.dirty:
            self.mark(session)
        return 0

    cdef int stamp(self, AgentMessage message) except -1:
        self.seq += 1
        message.seq = self.seq
        message.origin = self.origin
        if message.timestamp == 0:
            message.timestamp = self.now_ns + self.wall_offset_ns
        if message.ttl_ms:
            message.deadline_ns = self.now_ns + message.ttl_ms * MS
            self.stamped.append(message)
            self.rouse()
        return 0

    cdef object post(self, Route route, AgentMessage message, bint may_wait):
        """Send a message of this node's; something to await, None if it may not wait."""
        if self.offer(route, message):
            self.sends += 1
            if may_wait and (self.unflushed >= FLUSH_BYTES or self.sends % PAUSE_EVERY_SENDS == 0):
                return Pause()
            return _SENT
        if may_wait:
            token = self.make_token()
            self.wait(route, message, token)
            return token
        if not self.may_follow(route, message):
            if route.session is not None and route.session.held:
                raise Congested(f"agent {route.record.label}: the link to node {route.session.node_id} is "
                                f"not there yet; nothing was sent")
            raise Congested(f"agent {route.record.label} or the link to it has no room now; nothing was sent")
        self.queue(route, message, None, self.send_wait_ns)
        return _SENT

    cdef bint may_follow(self, Route route, AgentMessage message) except -1:
        """Whether a large message may be left to go in parts: none like it is under way."""
        cdef Session session = route.session
        return (PyBytes_GET_SIZE(message.payload) > self.fragment_bytes and session is not None
                and not (session.closed or session.held or session.blocked or route.stopped or route.waiting)
                and bulk_key(message) not in session.bulk)

    cdef bint offer(self, Route route, AgentMessage message) except -1:
        """Stamp and send it if there is room now; MessageTooLarge, definite."""
        self.check_size(message, route.session)
        if message.seq == 0:
            self.stamp(message)
        return self.admit(route, message)

    cdef int check_size(self, AgentMessage message, Session session) except -1:
        """MessageTooLarge if the payload is over this node's limit, or over the peer's."""
        cdef int64_t limit = self.message_bytes_max
        if session is not None and session.message_bytes_max < limit:
            limit = session.message_bytes_max
        if <int64_t>PyBytes_GET_SIZE(message.payload) > limit:
            where = "" if limit == self.message_bytes_max else f" of node {session.node_id}"
            raise MessageTooLarge(f"payload of {len(message.payload)} bytes: expected at most {limit} "
                                  f"(message_bytes_max{where})")
        return 0

    cdef bint admit(self, Route route, AgentMessage message) except -1:
        cdef Session session = route.session
        cdef Py_ssize_t size
        if route.stopped or route.waiting:
            return False
        if session is None:
            self.messages_local += 1
            self.deliver_here(route, message)
            return True
        size = PyBytes_GET_SIZE(message.payload)
        if size > self.fragment_bytes:
            return False
        if not session.clear and (session.closed or session.held or session.blocked
                                  or bulk_key(message) in session.bulk):
            return False
        if session.room() < message.encoded_size(size) + FRAME_OVERHEAD_BYTES:
            return False
        self.encode(session, message)
        return True

    cdef int encode(self, Session session, AgentMessage message) except -1:
        cdef Py_ssize_t size = PyBytes_GET_SIZE(message.payload)
        cdef Py_ssize_t bound = message.encoded_size(size)
        cdef uint8_t* p
        cdef uint8_t* end
        self.age(message)
        p = session.data.begin(MESSAGE, OPTIONAL_FIELDS if message.has_optional() else 0, bound)
        end = message.write(p, <const uint8_t*>PyBytes_AS_STRING(message.payload), size, 0, 0)
        return self.account(session, session.data.finish(p, end - p))

    cdef int age(self, AgentMessage message) except -1:
        """Take the time that it waited here off its remaining time."""
        cdef int64_t left
        if message.deadline_ns:
            left = (message.deadline_ns - self.now_ns) // MS
            message.ttl_ms = <uint32_t>left if left > 0 else 1
        return 0

    cdef Waiting wait(self, Route route, AgentMessage message, token):
        """Queue a message that `offer` did not take; its token is settled when it is sent or fails."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(message.payload)
        if self.is_full(route, size):
            # Those that were given up keep their place until somebody looks.
            self.expire_waiting(route.waiting if route.waiting is not None else route.session.blocked)
        if self.is_full(route, size):
            raise Congested(f"{route.waiting_count} sends of {route.waiting_bytes} bytes to agent "
                            f"{route.record.label} wait already (sends_waiting_max, "
                            f"sends_waiting_bytes_max); nothing was sent")
        return self.queue(route, message, token, self.send_wait_ns)

    cdef bint is_full(self, Route route, Py_ssize_t size) noexcept:
        return (route.waiting_count >= self.waiting_max
                or route.waiting_bytes + size > self.waiting_bytes_max)

    cdef Waiting queue(self, Route route, AgentMessage message, token, int64_t wait_ns):
        cdef Waiting waiting = Waiting(message, route, token, wait_ns)
        waiting.deadline_ns = self.now_ns + wait_ns
        self.waits.append(waiting)
        self.wake_for(waiting)
        self.rouse()                # the driver sets its timer, and the clock
        self.line_up(waiting)
        return waiting

    cdef int line_up(self, Waiting waiting) except -1:
        """Let it wait behind all that waits for the same."""
        cdef Route route = waiting.route
        cdef Session session = route.session
        if session is None or route.stopped:
            if route.waiting is None:
                route.waiting = self.stuck[route] = deque()
            route.waiting.append(waiting)
        else:
            session.blocked.append(waiting)
            session.clear = False
            self.drain(session)
        return 0

    cdef bint settled(self, Waiting waiting) except -1:
        """Whether nobody waits for it any more, or its time is over; it was not sent."""
        if waiting.dropped:
            return True
        if waiting.token is not None and waiting.token.cancelled():
            waiting.drop()
            return True
        if waiting.message.deadline_ns and self.now_ns >= waiting.message.deadline_ns:
            self.messages_expired += 1
            self.fail_waiting(waiting, Expired(
                f"the ttl of the message to agent {waiting.route.record.label} ran out while it waited; "
                f"it was not sent"))
            return True
        return False

    cdef int finish_waiting(self, Waiting waiting) except -1:
        waiting.drop()
        self.settle(waiting.token, None)
        return 0

    cdef int fail_waiting(self, Waiting waiting, error) except -1:
        """It was not sent: `Calls` knows whose it is."""
        raise InternalError("an Outflow alone keeps no requests")

    cdef Route seek(self, to):
        """Where messages wait to an agent that is not known here: `Engine` can ask for it."""
        raise InternalError("an Outflow alone knows nobody to ask")

    cdef Session await_link(self, record):
        """Where messages to an agent wait whose node has no link now: `Engine` can ask for one."""
        raise InternalError("an Outflow alone has no links")

    cdef int deliver_here(self, Route route, AgentMessage message) except -1:
        """Put a message into the mailbox of an agent of this node: `Engine` has them."""
        raise InternalError("an Outflow alone has no agents")

    cdef int drain(self, Session session) except -1:
        """Send what waits for room in the window, in order, as far as there is room."""
        cdef Waiting waiting
        cdef Py_ssize_t size
        if session.held:
            return 0
        while session.blocked:
            waiting = session.blocked[0]
            size = PyBytes_GET_SIZE(waiting.message.payload)
            if self.settled(waiting):
                session.blocked.popleft()
            elif size > self.fragment_bytes or (session.bulk and bulk_key(waiting.message) in session.bulk):
                session.blocked.popleft()
                self.queue_bulk(session, waiting)
            elif session.room() >= waiting.message.encoded_size(size) + FRAME_OVERHEAD_BYTES:
                session.blocked.popleft()
                self.encode(session, waiting.message)
                self.finish_waiting(waiting)
            else:
                return 0
        session.clear = session.welcomed and not session.bulk
        return 0

    cdef int queue_bulk(self, Session session, Waiting waiting) except -1:
        key = bulk_key(waiting.message)
        lane = session.bulk.get(key)
        if lane is None:
            lane = session.bulk[key] = deque()
        lane.append(waiting)
        session.clear = False
        return self.mark(session)

    cdef int pump(self, Session session) except -1:
        """One fragment of each large message in turn, while their share of the link has room."""
        cdef Waiting waiting
        cdef bint more = True
        while more and session.bulk:
            more = False
            for key in list(session.bulk):
                if session.freight and session.freight_turn:
                    session.freight_turn = not self.put_freight(session)
                if not session.share.has_room() or session.room() < self.fragment_bytes + optional_bytes_max:
                    return 0
                lane = session.bulk[key]
                if not lane:        # what waited in it has expired
                    del session.bulk[key]
                    continue
                waiting = lane[0]
                if not waiting.started and self.settled(waiting):
                    lane.popleft()
                elif not waiting.started and not self.may_start(session, waiting):
                    continue
                else:
                    self.put_piece(session, waiting)
                    session.freight_turn = True
                    if waiting.dropped:
                        lane.popleft()
                if not lane:
                    del session.bulk[key]
                more = True
        session.clear = session.welcomed and not session.blocked
        return 0

    cdef bint put_freight(self, Session session) except -1:
        """Put one piece of a tunnel on the link, if there is room: `Freight` has them."""
        raise InternalError("an Outflow alone has no tunnels")

    cdef bint may_start(self, Session session, Waiting waiting) except -1:
        """Whether the agent takes messages, and the peer may hold one more in parts."""
        cdef int64_t size = PyBytes_GET_SIZE(waiting.message.payload)
        if waiting.route.stopped:
            return False
        if size <= self.fragment_bytes or session.parted == 0:
            return True
        size = session.parted_bytes + parted_size(size, size // self.fragment_bytes + 1)
        return session.parted < self.parted_max and size <= self.parted_bytes_max

    cdef int put_piece(self, Session session, Waiting waiting) except -1:
        """The next fragment, or the whole of a small message that had to stay behind a large one."""
        cdef AgentMessage message = waiting.message
        cdef int64_t whole = PyBytes_GET_SIZE(message.payload)
        cdef int64_t start = waiting.fragment * self.fragment_bytes
        cdef int64_t size = min(self.fragment_bytes, whole - start)
        cdef uint32_t count = <uint32_t>((whole + self.fragment_bytes - 1) // self.fragment_bytes)
        cdef uint8_t* p
        cdef uint8_t* end
        if count <= 1:
            self.encode(session, message)
            return self.finish_waiting(waiting)
        if waiting.fragment == 0:
            waiting.started = True
            session.parted += 1
            session.parted_bytes += parted_size(whole, count)
            self.age(message)
        p = session.data.begin(MESSAGE, OPTIONAL_FIELDS, message.encoded_size(size) + 32)
        end = message.write(p, <const uint8_t*>PyBytes_AS_STRING(message.payload) + start, size,
                            waiting.fragment, count)
        self.account(session, session.data.finish(p, end - p))
        session.share.sent(session.sent, self.now_ns)
        waiting.fragment += 1
        if waiting.fragment < count:
            session.sent_messages -= 1
            self.messages_sent -= 1
            return 0
        session.parted -= 1
        session.parted_bytes -= parted_size(whole, count)
        return self.finish_waiting(waiting)

    cdef int drain_local(self, Route port) except -1:
        cdef Waiting waiting
        while port.waiting and not port.stopped:
            waiting = port.waiting.popleft()
            if not self.settled(waiting):
                self.messages_local += 1
                self.deliver_here(port, waiting.message)
                self.finish_waiting(waiting)
        return 0

    def send_message(self, AgentMessage message not None, uint64_t from_agent):
        """Send a user's message of any type from `from_agent`; something to await, as of `Port.send`."""
        cdef AgentMessage copy = copy_message(message)
        copy.from_agent = from_agent
        return self.post(self.resolve(copy.to_id), copy, True)

    cdef int date(self) except -1:
        """The driver has set the clock: what was sent since it did that last was sent about now.

        Users call whenever they like, and an idle driver looks at the clock a few times a second.
        """
        cdef AgentMessage message
        cdef Waiting waiting
        if self.stamped:
            for message in self.stamped:
                message.deadline_ns = self.now_ns + message.ttl_ms * MS
            self.stamped.clear()
        if self.waits:
            for waiting in self.waits:
                waiting.deadline_ns = self.now_ns + waiting.wait_ns
                self.wake_for(waiting)
            self.waits.clear()
        return 0

    cdef int wake_for(self, Waiting waiting) except -1:
        """Be there when it has waited too long, or its message expires."""
        if waiting.deadline_ns < self.wake_ns:
            self.wake_ns = waiting.deadline_ns
        if 0 < waiting.message.deadline_ns < self.wake_ns:
            self.wake_ns = waiting.message.deadline_ns
        return 0

    cdef int expire_waiting(self, queue) except -1:
        cdef Waiting waiting
        cdef bint dropped = False
        for waiting in queue:
            if waiting.dropped or waiting.started:
                dropped = dropped or waiting.dropped
            elif self.settled(waiting):     # cancelled, or expired
                dropped = True
            elif waiting.deadline_ns <= self.now_ns:
                dropped = True
                self.fail_waiting(waiting, Congested(
                    f"agent {waiting.route.record.label} or the link to it had no room for "
                    f"{waiting.wait_ns // MS} ms (send_wait_ms_max); nothing was sent"))
            else:
                self.wake_for(waiting)
        if dropped:
            # Nobody may come to drain them, and each holds its message.
            kept = [waiting for waiting in queue if not waiting.dropped]
            queue.clear()
            queue.extend(kept)
        return 0


cdef inline int64_t parted_size(int64_t size, int64_t count) noexcept:
    """What a large message takes at the other side until its last fragment is there."""
    return size + count * PART_OVERHEAD_BYTES


cdef inline bulk_key(AgentMessage message):
    return (message.from_agent, message.to_id, message.level)
