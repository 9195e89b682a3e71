"""The composition: bytes, commands and ticks in, one Ready out.

`receive`, the sends of a Port and `tick` change state and return at once; `ready()` drains what is
to be done, its fields in the order in which they must be carried out.  Messages are encoded
straight into the peer's lane and decoded straight into a mailbox; no other Python runs for them.
User code is never called from here; time is a cell, `now_ns`, that the driver sets.

What is held is bounded: mailboxes, windows, waiting sends, requests.  Whoever would pass a bound
waits, or gets an error that names it.  A peer's bad bytes close its link and touch nothing else.
"""

from collections import deque

from cpython.bytes cimport PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItemWithError
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t

from agentnet_core.framing cimport (
    CREDIT, GO, MESSAGE, OPTIONAL_FIELDS, PING, PONG, REFUSED, STOP, Cursor, read_uint,
)
from agentnet_core.mailbox cimport is_full, is_high, is_low
from agentnet_core.message cimport PLAIN_HEAD_BYTES, TYPE_QUERY, TYPE_RESPONSE, copy_message, read_message
from agentnet_core.outflow cimport FLUSH_BYTES, FRAME_OVERHEAD_BYTES, OPTIONAL_BYTES_MAX, Waiting
from agentnet_core.calls cimport Pending

from agentnet_core.errors import (
    AgentStopped, AgentUnreachable, ConfigError, Congested, Expired, LimitReached, LinkLost,
    NetworkError, NoSuchAgent, ProtocolError,
)
from agentnet_core.outflow import SENT, Pause
from agentnet_core.records import Event

cdef enum:
    CLOCK_EVERY_SENDS = 16      # a sender looks at the clock this often

cdef int64_t MS = 1_000_000
cdef int64_t NEVER = 0x7fffffffffffffff
cdef object _SENT = SENT        # a C global: the hot path looks nothing up


cdef class Port(Route):
    """The engine's end of an agent of this node: what it sends goes in here, its mail comes out."""

    def __init__(self, Engine engine not None, record):
        Route.__init__(self, record, None)
        self.engine = engine
        self.parked = True

    # -- out

    def send(self, to, payload, *, int message_type=1, int priority=1, double ttl=0, message_id=None):
        """Send `payload` to agent `to` (id or name); await the result.

        Awaiting returns once the message is on its way (at most once; see the errors of a lost
        link), and waits while the receiver or the link to it has no room.  `ttl`: seconds until it
        is not worth executing any more, 0 never.

        Raises NoSuchAgent, AgentUnreachable, MessageTooLarge, PayloadMismatch, Congested: all
        definite.
        """
        cdef Engine engine = self.engine
        cdef PyObject* found
        cdef Route route
        cdef Session session
        cdef Py_ssize_t size
        if (type(payload) is bytes and (type(to) is str or type(to) is int) and message_id is None
                and 0 <= priority < 4 and 0 <= message_type < 6 and ttl == 0):
            found = PyDict_GetItemWithError(engine.routes, to)
            if found != NULL:
                route = <Route>found
                session = route.session
                size = PyBytes_GET_SIZE(<bytes>payload)
                if (session is not None and session.clear and not route.stopped
                        and size <= engine.fragment_bytes and size <= session.message_bytes_max
                        and session.room() >= size + PLAIN_HEAD_BYTES + FRAME_OVERHEAD_BYTES):
                    engine.put_plain(session, self.agent_id, route.agent_id, 0, <uint8_t>message_type,
                                     <uint8_t>priority, <bytes>payload)
                    engine.sends += 1
                    if engine.unflushed < FLUSH_BYTES and engine.sends % CLOCK_EVERY_SENDS:
                        return _SENT
                    return self.breathe()
        return self._post(to, payload, message_type, priority, ttl, message_id, True)

    def send_nowait(self, to, payload, *, int message_type=1, int priority=1, double ttl=0, message_id=None):
        """As `send`, but raises Congested where `send` would wait."""
        self._post(to, payload, message_type, priority, ttl, message_id, False)

    def _post(self, to, payload, int message_type, int priority, double ttl, message_id, bint may_wait):
        cdef Engine engine = self.engine
        cdef AgentMessage message
        cdef Route route
        if to is None:
            raise ConfigError("send: to is None; a broadcast is net.broadcast_message(payload)")
        route = engine.resolve(to)
        body, content = engine.to_bytes(payload)
        message = AgentMessage(body, to_agent=route.agent_id, from_agent=self.agent_id,
                               message_type=message_type, priority=priority, ttl=ttl, message_id=message_id)
        message.content = content
        return engine.post(route, message, may_wait)

    def request(self, to, payload, *, timeout=None, int priority=1, reply=None):
        """Ask agent `to`; await the result for what its handler returned.

        `timeout`: seconds. `reply`: a type to decode the answer to.  Raises, when awaited:
        NoSuchAgent, AgentUnreachable, Expired, Congested (definite: not executed); HandlerFailed,
        RequestTimeout, LinkLost (not definite).
        """
        cdef Engine engine = self.engine
        cdef AgentMessage message
        cdef Pending pending = None
        cdef Route route
        cdef Session session
        cdef Py_ssize_t size
        cdef int64_t timeout_ns = engine.request_timeout_ns
        token = engine.make_token()
        try:
            if timeout is not None:
                timeout_ns = engine.nanoseconds(timeout)
            if len(engine.pending) >= engine.pending_max:
                raise LimitReached(f"{engine.pending_max} requests wait for an answer already "
                                   f"(requests_pending_max): await some first")
            if not 0 <= priority < 4:
                raise ConfigError(f"priority={priority}: expected a MessagePriority, 0 to 3")
            route = engine.resolve(to)
            body, content = (payload, 0) if type(payload) is bytes else engine.to_bytes(payload)
            engine.correlation += 1
            pending = Pending.__new__(Pending)
            pending.token, pending.hint = token, reply
            pending.session, pending.to_id = route.session, route.agent_id
            pending.deadline_ns = engine.now_ns + timeout_ns
            engine.pending[engine.correlation] = pending
            session = route.session
            size = PyBytes_GET_SIZE(<bytes>body)
            if (session is not None and session.clear and not route.stopped and content == 0
                    and size <= engine.fragment_bytes and size <= session.message_bytes_max
                    and session.room() >= size + PLAIN_HEAD_BYTES + FRAME_OVERHEAD_BYTES):
                engine.put_plain(session, self.agent_id, route.agent_id, engine.correlation, TYPE_QUERY,
                                 <uint8_t>priority, <bytes>body)
            else:
                message = AgentMessage(body, to_agent=route.agent_id, from_agent=self.agent_id,
                                       message_type=TYPE_QUERY, priority=priority)
                message.content, message.correlation = content, engine.correlation
                if not engine.offer(route, message):
                    pending.waiting = engine.wait(route, message, None)
            if pending.deadline_ns < engine.wake_ns:
                engine.wake_ns = pending.deadline_ns
        except NetworkError as error:
            if pending is not None:
                engine.pending.pop(engine.correlation, None)
            engine.settle(token, error)
        return token

    def breathe(self):
        """Called every few sends: something to await that lets the loop turn when it is time."""
        return Pause() if self.engine.unflushed >= FLUSH_BYTES else _SENT

    # -- in

    cdef Mailbox mailbox(self):
        if self.box is None:
            self.box = Mailbox(self.engine.config.mailbox_messages_max, self.engine.config.mailbox_bytes_max)
        return self.box

    cpdef AgentMessage take(self):
        """The next message to handle, expired ones passed over; None, and it is parked, if there is none."""
        cdef AgentMessage message
        cdef Engine engine = self.engine
        cdef Session session
        while self.box is not None:
            message = self.box.pop()
            if message is None:
                break
            if message.held:
                session = message.origin.session
                if session is not None:
                    session.held -= message.held
                    engine.give_credit(session)
                message.held = 0
            if self.stopped and is_low(self.box):
                self.go()
            if message.deadline_ns and engine.now_ns >= message.deadline_ns:
                engine.messages_expired += 1
                engine.refuse(message, Expired(f"agent {self.record.label}: the ttl of the message ran out "
                                               f"in its mailbox; it was not executed"))
                continue
            return message
        self.parked = True
        self.served_ns = engine.now_ns
        return None

    cdef int go(self) except -1:
        cdef Session session
        self.stopped = False
        if self.stopped_sessions is not None:
            for session in self.stopped_sessions:
                if not session.closed:
                    self.engine.put_control_u64(session, GO, self.agent_id)
            self.stopped_sessions = None
        return self.engine.drain_local(self)

    @property
    def pending_messages(self):
        """Messages in its mailbox."""
        return 0 if self.box is None else self.box.count

    def rest(self):
        """Give back the mailbox of an idle agent."""
        if self.box is not None and self.box.count == 0:
            self.box = None


cdef class Engine(Calls):
    """One node, without its I/O. See the module's head and the design's contract.

    `make_token()` gives an object that the engine hands back in `ready().settle`, and that has
    `cancelled()`. `to_bytes(value)` gives (bytes, content type). `wake()` is called once when
    `ready()` gets something to do. `now_ns`: monotonic.
    """

    def __init__(self, str node_id, uint64_t incarnation, config, int64_t now_ns, *,
                 make_token, to_bytes, wake):
        self.config = config
        self.node_id, self.incarnation = node_id, incarnation
        self.origin = Origin(node_id, incarnation)
        self.now_ns = now_ns
        self.make_token, self.to_bytes, self.wake = make_token, to_bytes, wake
        self.arena = Arena(config.frame_bytes_max)
        self.ports = {}
        self.links = []
        self.limit(config)
        self.control_bytes_max = config.control_bytes_max
        self.pending_max = config.requests_pending_max
        self.request_timeout_ns = config.request_timeout_ms * MS

    # -- sending to all

    def broadcast(self, AgentMessage message not None, uint64_t from_agent, int content=0):
        """Send to all agents of all nodes; tokens of the nodes that have no room yet."""
        cdef AgentMessage copy = copy_message(message)
        cdef list tokens = []
        self.check_size(message, None)
        for session in self.sessions.values():
            self.check_size(message, session)
        copy.from_agent, copy.to_all, copy.content = from_agent, True, message.content or content
        for session in list(self.sessions.values()):
            route = Route(self.control.node_record, session)
            if not self.offer(route, copy):
                token = self.make_token()
                self.wait(route, copy, token)
                tokens.append(token)
        if copy.seq == 0:
            self.stamp(copy)
        self.spread(copy)
        return tokens

    # -- receiving

    cpdef receive(self, Session session, Py_ssize_t n):
        """`n` bytes from the peer are in the arena. Bad ones close the link; nothing is raised."""
        cdef Frame frame
        if session.closed:
            return
        session.heard_ns = self.now_ns
        self.bytes_received += n
        try:
            if not session.welcomed:
                session.handshake_bytes += n
                if session.handshake_bytes > self.config.handshake_bytes_max:
                    raise ProtocolError(
                        f"{session.handshake_bytes} bytes before the link was welcomed: expected at most "
                        f"{self.config.handshake_bytes_max} (handshake_bytes_max)")
            session.decoder.begin(n)
            while session.decoder.next(&frame):
                if frame.kind == MESSAGE:
                    self.on_message(session, &frame)
                else:
                    self.on_control(session, &frame)
                if session.closed:
                    return
            session.decoder.keep()
            self.give_credit(session)
            if session.control.waiting > self.control_bytes_max:
                raise Congested(f"{session.control.waiting} bytes of control frames wait for node "
                                f"{session.node_id}: it does not read (control_bytes_max)")
        except NetworkError as error:
            self.fail(session, error)

    cdef int on_message(self, Session session, Frame* frame) except -1:
        cdef AgentMessage message
        cdef Port port
        cdef PyObject* found
        if not session.welcomed:
            raise ProtocolError("a MESSAGE frame before the link was welcomed")
        session.received += frame.wire_size
        if session.received - session.reported > session.granted + OPTIONAL_BYTES_MAX:
            raise ProtocolError(f"{session.received - session.reported} bytes of data at once: expected at "
                                f"most {session.granted}, the credit that was given (link_window_bytes)")
        message = read_message(frame.body, frame.size, frame.flags & OPTIONAL_FIELDS, session.origin)
        if message.ttl_ms:      # of a large message, since its first fragment
            message.deadline_ns = self.now_ns + message.ttl_ms * MS
        if message.fragments:
            message = session.assemble(message, self.message_bytes_max, self.config.reassembly_bytes_max,
                                       self.config.fragments_open_max)
            if message is None:
                return 0
        session.received_messages += 1
        self.messages_received += 1
        if message.type == TYPE_RESPONSE and message.correlation:
            return self.on_answer(session, message)
        if message.to_all:
            return self.spread(message)
        if message.to_id == self.last_to and self.last_port is not None:
            port = self.last_port
        else:
            found = PyDict_GetItemWithError(self.ports, message.to_id)
            if found == NULL:
                return self.refuse(message, NoSuchAgent(
                    f"agent {message.to_id} is not registered on node {self.node_id}"))
            port = <Port>found
            self.last_to, self.last_port = message.to_id, port
        return self.deliver(port, message, session, frame.wire_size)

    cdef int deliver(self, Port port, AgentMessage message, Session session, uint32_t size) except -1:
        cdef Mailbox box = port.mailbox()
        if session is not None and is_full(box):
            message.held = size
            session.held += size
        box.push(message)
        if is_high(box):
            port.stopped = True
            if session is not None:
                if port.stopped_sessions is None:
                    port.stopped_sessions = []
                if session not in port.stopped_sessions:
                    port.stopped_sessions.append(session)
                    self.put_control_u64(session, STOP, port.agent_id)
        if port.parked:
            port.parked = False
            self.now_ready.deliver.append(port)
            if not self.awake:
                self.rouse()
        return 0

    cdef int spread(self, AgentMessage message) except -1:
        """A copy of a broadcast to each agent of this node that takes them."""
        cdef Port port
        cdef AgentMessage copy
        for port in self.ports.values():
            if not port.record.broadcasts:
                continue
            if is_full(port.mailbox()):
                self.broadcasts_dropped += 1
                self.event(Event(Event.UNDELIVERABLE, self.node_id, port.agent_id, port.record.name,
                                 f"broadcast {message.message_id} dropped: the mailbox is full"))
            else:
                copy = copy_message(message)
                copy.seq = message.seq
                self.deliver(port, copy, None, 0)
        return 0

    cdef int deliver_here(self, Route route, AgentMessage message) except -1:
        return self.deliver(<Port>route, message, None, 0)

    cdef int on_control(self, Session session, Frame* frame) except -1:
        cdef uint64_t value = 0
        cdef Cursor c
        if session.welcomed and frame.kind in (CREDIT, STOP, GO, PING, PONG, REFUSED):
            if frame.kind == CREDIT:
                return self.on_credit(session, frame)
            if frame.kind == REFUSED:
                return self.on_refused(session, frame)
            c.at, c.end = frame.body, frame.body + frame.size
            if not read_uint(&c, &value) or c.at != c.end:
                raise ProtocolError(f"frame of kind {frame.kind}: expected one unsigned integer")
            if frame.kind == STOP:
                return self.on_stop(session, value)
            if frame.kind == GO:
                return self.on_go(session, value)
            if frame.kind == PING:
                self.put_control_u64(session, PONG, value)
            elif value <= <uint64_t>session.pinged_ns:
                session.ponged_ns = <int64_t>value
            return 0
        self.control.receive(session, frame.kind,
                             PyBytes_FromStringAndSize(<const char*>frame.body, frame.size))
        return 0

    cdef int on_stop(self, Session session, uint64_t agent_id) except -1:
        cdef Route route = self.routes.get(agent_id)
        if route is None or route.session is not session:
            return 0
        route.stopped = True
        if route.waiting_count:
            # Those that wait for the window must stay ahead of later ones that wait for GO.
            moved = deque(w for w in session.blocked if (<Waiting>w).route is route)
            if moved:
                kept = [w for w in session.blocked if (<Waiting>w).route is not route]
                session.blocked.clear()
                session.blocked.extend(kept)
                route.waiting = moved
                self.drain(session)
        return 0

    cdef int on_go(self, Session session, uint64_t agent_id) except -1:
        cdef Route route = self.routes.get(agent_id)
        if route is None or route.session is not session:
            return 0
        route.stopped = False
        if route.waiting:
            session.blocked.extend(route.waiting)
            session.clear = False
        route.waiting = None
        if session.bulk:
            self.mark(session)      # large ones for it may start
        return self.drain(session)

    # -- links

    def put_control(self, Session session not None, int kind, bytes body not None):
        """Queue a control frame; a peer that does not read them is cut off."""
        session.control.put(kind, body)
        if session.control.waiting > self.control_bytes_max:
            self.fail(session, Congested(f"{session.control.waiting} bytes of control frames wait for node "
                                         f"{session.node_id}: it does not read (control_bytes_max)"))
        else:
            self.mark(session)

    def ping(self, Session session not None):
        session.pinged_ns = self.now_ns
        self.put_control_u64(session, PING, <uint64_t>self.now_ns)

    def open(self, *, bint secure, str address, str certified=None, dial=None):
        """A new link, dialled for `dial` or accepted; the session that stands for it. Its Hello goes out."""
        session = Session(self.arena, dial is not None, secure, address, certified, self.now_ns)
        self.links.append(session)
        self.control.opened(session, dial)
        return session

    def rouse_session(self, Session session not None):
        """It has bytes to write."""
        self.mark(session)

    def welcome(self, Session session not None):
        """The link is in use from now on: messages may pass."""
        session.welcomed = session.clear = True
        session.origin.session = session
        self.sessions[session.node_id] = session

    def fail(self, Session session not None, error):
        """Close a link for a reason that the peer is told."""
        if not session.closed:
            self.links_refused += 1
            self.control.say_close(session, error)
            self.down(session, error)

    def down(self, Session session not None, error):
        """The link is gone, or must go: settle all that depended on it."""
        cdef Waiting waiting
        cdef Pending pending
        cdef Route route
        if session.closed:
            return
        session.closed = True
        session.clear = False
        if session.origin is not None and session.origin.session is session:
            session.origin.session = None
        self.links.remove(session)
        self.now_ready.close.append((session, error))
        self.rouse()
        if self.sessions.get(session.node_id) is session:
            del self.sessions[session.node_id]
            self.links_lost += 1
        lost = LinkLost(f"the link to node {session.node_id} went down: {error}; the outcome is unknown")
        unsent = AgentUnreachable(f"the link to node {session.node_id} went down: {error}; nothing was sent")
        stranded = list(session.blocked)
        for lane in session.bulk.values():
            stranded.extend(lane)
        for key, route in list(self.routes.items()):
            if route.session is session:
                del self.routes[key]
                if route.waiting:
                    stranded.extend(route.waiting)
                    route.waiting = None
        for waiting in stranded:
            if not waiting.dropped:
                self.fail_waiting(waiting, lost if waiting.started else unsent)
        for correlation, pending in list(self.pending.items()):
            if pending.session is session:
                del self.pending[correlation]
                self.settle(pending.token, lost)
        if session.unconfirmed:
            self.messages_unconfirmed += session.unconfirmed
            self.event(Event(Event.UNDELIVERABLE, session.node_id, count=session.unconfirmed, error=lost,
                             detail=f"up to {session.unconfirmed} messages may not have arrived: {error}"))
        self.control.closed(session, error)

    def forget_session(self, Session session not None):
        """The driver has written the last of it."""
        session.discard()

    def resume(self, Session session not None):
        """The transport takes bytes again."""
        session.paused = False
        if not session.closed:
            self.mark(session)

    # -- agents of this node

    def add_port(self, Port port not None):
        agent_id = port.record.agent_id     # one int object serves all tables
        self.ports[agent_id] = port
        self.routes[agent_id] = port
        self.last_port = None

    def remove_port(self, Port port not None):
        """The agent is gone: refuse what is in its mailbox and what waits for it."""
        cdef AgentMessage message
        cdef Waiting waiting
        if self.ports.get(port.agent_id) is not port:
            return
        del self.ports[port.agent_id]
        self.last_port = None
        self.drop_routes(port.record)
        error = AgentStopped(f"agent {port.record.label} on node {self.node_id} was unregistered before it "
                             f"saw the message")
        while port.waiting:
            waiting = port.waiting.popleft()
            if not waiting.dropped:
                self.fail_waiting(waiting, error)
        message = port.take()
        while message is not None:
            self.refuse(message, error)
            message = port.take()

    def drop_routes(self, record):
        """The agent of `record` is not where it was; sends that wait for it fail, definitely."""
        cdef Route route = self.routes.pop(record.agent_id, None)
        cdef Waiting waiting
        if record.name is not None:
            self.routes.pop(record.name, None)
        if route is not None and route.session is not None and route.waiting_count:
            error = AgentStopped(f"agent {record.label} was unregistered; nothing was sent")
            lanes = [route.waiting or (), route.session.blocked, *route.session.bulk.values()]
            for waiting in [waiting for lane in lanes for waiting in lane]:
                if waiting.route is route and not waiting.dropped and not waiting.started:
                    self.fail_waiting(waiting, error)
            route.waiting = None

    # -- time

    def tick(self, int64_t now_ns):
        """Time has come: requests and sends whose deadline has passed fail; `wake_ns` is the next one."""
        cdef Pending pending
        cdef Session session
        self.now_ns = now_ns
        self.wake_ns = NEVER
        for correlation, pending in list(self.pending.items()):
            if pending.deadline_ns <= now_ns or pending.token.cancelled():
                self.expire_request(correlation, pending)
            elif pending.deadline_ns < self.wake_ns:
                self.wake_ns = pending.deadline_ns
        for session in self.links:
            if session.welcomed:
                self.close_account(session)
            self.expire_waiting(session.blocked)
            for key in list(session.bulk):
                self.expire_waiting(session.bulk[key])
                if not session.bulk[key]:
                    del session.bulk[key]
            session.clear = session.welcomed and not session.blocked and not session.bulk
        for route in self.routes.values():
            if (<Route>route).waiting:
                self.expire_waiting((<Route>route).waiting)
        next_ns = self.control.tick(now_ns)
        if next_ns < self.wake_ns:
            self.wake_ns = next_ns

    def stats(self):
        """Every counter, by name."""
        return {
            "messages_sent": self.messages_sent, "messages_received": self.messages_received,
            "messages_local": self.messages_local, "bytes_received": self.bytes_received,
            "messages_expired": self.messages_expired, "messages_undeliverable": self.messages_undeliverable,
            "messages_unconfirmed": self.messages_unconfirmed, "broadcasts_dropped": self.broadcasts_dropped,
            "replies_late": self.replies_late, "replies_lost": self.replies_lost,
            "requests_pending": len(self.pending), "links": len(self.links), "links_lost": self.links_lost,
            "links_refused": self.links_refused,
        }
