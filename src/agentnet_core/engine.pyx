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

from agentnet_core.framing cimport (
    CREDIT, GO, MESSAGE, OPTIONAL_FIELDS, PING, PONG, REFUSED, STOP, Cursor, read_uint,
)
from agentnet_core.mailbox cimport Mailbox, is_full, is_high
from agentnet_core.message cimport TYPE_RESPONSE, Origin, copy_message, read_message
from agentnet_core.outflow cimport optional_bytes_max
from agentnet_core.route cimport Waiting
from agentnet_core.calls cimport Pending

from agentnet_core.errors import (
    AgentStopped, AgentUnreachable, Congested, DuplicateLink, LinkLost, MessageTooLarge, NetworkError,
    NoSuchAgent, ProtocolError,
)
from agentnet_core.records import AgentRecord, Event

cdef int64_t MS = 1_000_000
cdef int64_t NEVER = 0x7fffffffffffffff


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
        self.answer_wait_ns = config.answer_wait_ms_max * MS

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
            route = self.everyone(session)
            if not self.offer(route, copy):
                token = self.make_token()
                tokens.append(token)
                try:
                    self.wait(route, copy, token)
                except Congested as error:
                    self.settle(token, error)
        if copy.seq == 0:
            self.stamp(copy)
        self.spread(copy)
        return tokens

    cdef Route everyone(self, Session session):
        """Where broadcasts to the agents of a peer wait, so that they are counted like those to one."""
        if session.everyone is None:
            session.everyone = Route(AgentRecord(0, session.node_id, f"* of node {session.node_id}"), session)
        return session.everyone

    # -- receiving

    def receive(self, Session session not None, Py_ssize_t n):
        """`n` bytes from the peer are in the arena. Bad ones close the link; nothing is raised."""
        cdef Frame frame
        if session.closed:
            return
        self.bytes_received += n
        try:
            session.decoder.begin(n)
            while session.decoder.next(&frame):
                session.heard_ns = self.now_ns      # bytes of a frame that never ends are no sign of life
                if frame.kind == MESSAGE:
                    self.on_message(session, &frame)
                else:
                    if not session.welcomed:
                        session.handshake_bytes += frame.wire_size
                        self.limit_handshake(session.handshake_bytes)
                    self.on_control(session, &frame)
                if session.closed:
                    return
            session.decoder.keep()
            if not session.welcomed:
                self.limit_handshake(session.handshake_bytes + session.decoder.rest_size)
            self.give_credit(session)
            if session.control.waiting > self.control_bytes_max:
                raise Congested(f"{session.control.waiting} bytes of control frames wait for node "
                                f"{session.node_id}: it does not read (control_bytes_max)")
        except NetworkError as error:
            self.fail(session, error)

    cdef int limit_handshake(self, int64_t size) except -1:
        # By the frame: what comes behind WELCOME in one read is no part of it.
        if size > self.config.handshake_bytes_max:
            raise ProtocolError(f"{size} bytes before the link was welcomed: expected at most "
                                f"{self.config.handshake_bytes_max} (handshake_bytes_max)")
        return 0

    cdef int on_message(self, Session session, Frame* frame) except -1:
        cdef AgentMessage message
        cdef Port port
        cdef PyObject* found
        cdef int64_t whole = 0
        if not session.welcomed:
            raise ProtocolError("a MESSAGE frame before the link was welcomed")
        session.received += frame.wire_size
        if session.received - session.reported > session.granted + optional_bytes_max:
            raise ProtocolError(f"{session.received - session.reported} bytes of data at once: expected at "
                                f"most {session.granted}, the credit that was given (link_window_bytes)")
        message = read_message(frame.body, frame.size, frame.flags & OPTIONAL_FIELDS, session.origin)
        if message.ttl_ms:      # of a large message, since its first fragment
            message.deadline_ns = self.now_ns + message.ttl_ms * MS
        if message.fragments:
            message = session.assemble(message, self.message_bytes_max, self.config.reassembly_bytes_max,
                                       self.config.fragments_open_max)
            session.parts_came = True
            if message is None:
                return 0
            whole = PyBytes_GET_SIZE(message.payload)
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
                label = self.control.directory.label(message.to_id)
                return self.refuse(message, None, NoSuchAgent(
                    f"agent {label} is not registered on node {self.node_id}"))
            port = <Port>found
            self.last_to, self.last_port = message.to_id, port
        if port.box is not None and is_full(port.box):
            port.withhold(session, frame.wire_size, whole)
        return self.deliver(port, message, session)

    cdef int deliver(self, Port port, AgentMessage message, Session session) except -1:
        cdef Mailbox box = port.mailbox()
        box.push(message)
        if is_high(box):
            port.stopped = True
            if session is not None:
                if port.stopped_sessions is None:
                    port.stopped_sessions = []
                if session not in port.stopped_sessions:
                    port.stopped_sessions = [s for s in port.stopped_sessions if not (<Session>s).closed]
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
                self.deliver(port, copy, None)
        return 0

    cdef int deliver_here(self, Route route, AgentMessage message) except -1:
        return self.deliver(<Port>route, message, None)

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
        cdef Session awaited = self.awaited.pop(session.node_id, None)
        session.welcomed = session.clear = True
        session.origin.session = session
        self.sessions[session.node_id] = session
        if awaited is not None:
            self.move(awaited, session)
            self.drain(session)

    cdef Session await_link(self, record):
        """Where messages to an agent wait whose node has no link; AgentUnreachable if it can have none."""
        cdef str node_id = record.node_id
        if node_id not in self.awaited:
            self.control.reach(node_id)
            self.awaited[node_id] = self.stand_in(node_id)
        return self.awaited[node_id]

    cdef Session stand_in(self, str node_id):
        cdef Session session = Session(self.arena, True, False, f"node {node_id}", None, self.now_ns)
        session.agree(0, 0, self.message_bytes_max, Origin(node_id, 0))
        session.held = True
        return session

    cdef int move(self, Session old, Session new) except -1:
        """The routes of one session, and all that waits, go by another from now on, in the same order."""
        cdef Route route
        cdef Waiting waiting
        for route in self.routes.values():
            if route.session is old:
                route.session, route.stopped = new, False   # the agent says STOP again, if it must
                if route.waiting:
                    old.blocked.extend(route.waiting)
                    route.waiting = None
        for waiting in old.blocked:
            if waiting.dropped:
                continue
            if waiting.route is old.answers:    # who asked has the link, or has given up
                waiting.drop()
                self.replies_lost += 1
                self.settle(waiting.token, None)
                continue
            waiting.route.session = new
            try:
                self.check_size(waiting.message, new)
            except MessageTooLarge as error:
                self.fail_waiting(waiting, error)
            else:
                new.blocked.append(waiting)
                new.clear = False
        old.blocked.clear()
        return 0

    def unreachable(self, str node_id, error):
        """No link to that node is to come: what waits for one fails with `error`."""
        cdef Session awaited = self.awaited.pop(node_id, None)
        if awaited is not None:
            awaited.closed = True
            self.strand(awaited, error, error)

    def idle(self, list sessions not None):
        """Those of the sessions that nobody needs now: nothing waits, is on its way, or is to be answered."""
        cdef Session session
        cdef Route route
        cdef Pending pending
        cdef list idle = [each for each in sessions if is_quiet(each)]
        cdef dict needed = {}
        if idle:
            for pending in self.pending.values():
                needed[pending.route.session] = True
            for route in self.routes.values():
                if route.waiting_count:
                    needed[route.session] = True
        return [session for session in idle if session not in needed]

    def hold(self, Session session not None):
        """Send nothing on it for now: new messages wait."""
        session.held, session.clear = True, False

    def unhold(self, Session session not None):
        """Send on it again."""
        session.held = False
        self.drain(session)

    def retire(self, Session session not None, error):
        """Both sides have let go of the link: what has come to wait at it waits for the next one.

        It is still open: `down` closes it.
        """
        if not (session.closed or session.retired):
            session.retired = True
            self.part(session, error)

    def fail(self, Session session not None, error):
        """Close a link for a reason that the peer is told."""
        if not session.closed:
            self.control.say_close(session, error)
            self.down(session, error)

    def down(self, Session session not None, error, *, bint hung_up=False):
        """The link is gone, or must go: settle all that depended on it. `hung_up`: its other end is gone."""
        if session.closed:
            return
        session.closed = True
        session.hung_up = hung_up
        self.links.remove(session)
        self.now_ready.close.append((session, error))
        self.rouse()
        if not session.retired:
            # Whom this side has asked to let go, and who makes another link, has let go.
            session.retired = session.held and isinstance(error, DuplicateLink)
            self.part(session, error)

    cdef int part(self, Session session, error) except -1:
        """The link is not in use any more: settle all that depended on it."""
        session.clear = False
        if session.origin.session is session:
            session.origin.session = None
        if self.sessions.get(session.node_id) is session:
            del self.sessions[session.node_id]
            if session.retired:
                self.links_retired += 1
            else:
                self.links_lost += 1
        lost = LinkLost(f"the link to node {session.node_id} went down: {error}; the outcome is unknown")
        unsent = AgentUnreachable(f"the link to node {session.node_id} went down: {error}; nothing was sent")
        if session.held:
            self.set_aside(session, lost)
        self.strand(session, lost, unsent)
        if session.unconfirmed:
            self.messages_unconfirmed += session.unconfirmed
            self.event(Event(Event.UNDELIVERABLE, session.node_id, count=session.unconfirmed, error=lost,
                             detail=f"up to {session.unconfirmed} messages may not have arrived: {error}"))
        self.control.closed(session, error)
        return 0

    cdef int set_aside(self, Session session, lost) except -1:
        """Of what waits at it nothing was sent, nor will be: it waits for the next link to that node."""
        cdef Session awaited = self.stand_in(session.node_id)
        self.awaited[session.node_id] = awaited
        self.move(session, awaited)
        if not awaited.blocked:
            self.unreachable(session.node_id, lost)
        return 0

    cdef int strand(self, Session session, lost, unsent) except -1:
        """Fail what waits at a session, or for an answer through it: with `lost` if any of it was sent."""
        cdef Waiting waiting
        cdef Pending pending
        cdef Route route
        stranded = list(session.blocked)
        for lane in session.bulk.values():
            stranded.extend(lane)
        session.blocked.clear()     # a session that is still to be written has its turn once more
        session.bulk.clear()
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
            if pending.route.session is session:
                del self.pending[correlation]
                self.settle(pending.token, lost)
        return 0

    def end_requests(self):
        """This node goes: what only its own agents could still answer has an unknown outcome."""
        cdef Pending pending
        for pending in self.pending.values():
            self.settle(pending.token, LinkLost(
                f"node {self.node_id} has left the network; the outcome of the request is unknown"))
        self.pending.clear()

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
        """Take an agent, in the place of one of the same id if there is one."""
        cdef Port old = self.ports.get(port.agent_id)
        agent_id = port.record.agent_id     # one int object serves all tables
        if old is not None:         # what waits for it, here and at other nodes, goes to the new one
            port.stopped_sessions = old.stopped_sessions
            port.inherit(old)
            self.remove_port(old)
        self.ports[agent_id] = port
        self.routes[agent_id] = port
        self.last_port = None
        if port.stopped_sessions is not None or port.waiting:
            port.go()

    def remove_port(self, Port port not None):
        """The agent is gone: refuse what is in its mailbox and what waits for it."""
        cdef AgentMessage message
        cdef Waiting waiting
        if self.ports.get(port.agent_id) is not port:
            return
        del self.ports[port.agent_id]
        self.last_port = None
        port.stopped, port.stopped_sessions = False, None       # no GO: there is nobody any more
        port.forgive()
        self.drop_routes(port.record)
        error = AgentStopped(f"agent {port.record.label} on node {self.node_id} was unregistered before it "
                             f"saw the message")
        while port.waiting:
            waiting = port.waiting.popleft()
            if not waiting.dropped:
                self.fail_waiting(waiting, error)
        message = port.next_message()
        while message is not None:
            self.refuse(message, port.record, error)
            message = port.next_message()

    def lose_port(self, Port port not None):
        """The agent lost its id to another node: as `remove_port`, and the driver ends its runner."""
        self.remove_port(port)
        self.now_ready.stop.append(port)
        self.rouse()

    def renew_route(self, record):
        """The agent is where it was, but what is known of it has changed."""
        cdef Route route = self.routes.get(record.agent_id)
        if route is not None and route.session is not None:
            route.record = record

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

    def wake_by(self, int64_t when_ns):
        """The driver is to tick by then."""
        if when_ns < self.wake_ns:
            self.wake_ns = when_ns
            self.rouse()

    def tick(self, int64_t now_ns):
        """Time has come: requests and sends whose deadline has passed fail; `wake_ns` is the next one."""
        cdef Pending pending
        cdef Session session
        self.now_ns = now_ns
        self.date()
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
            session.clear = (session.welcomed and not session.held and not session.blocked
                             and not session.bulk)
        for session in self.awaited.values():
            self.expire_waiting(session.blocked)
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
            "links_refused": self.links_refused, "links_retired": self.links_retired,
            "links_awaited": len(self.awaited),
        }


cdef bint is_quiet(Session session) except -1:
    """Whether the session itself holds nothing of this side's that the other has not taken."""
    return (session.welcomed and not (session.closed or session.blocked or session.bulk or session.assemblies)
            and session.sent_messages == session.credited_messages)
