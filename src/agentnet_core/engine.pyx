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
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from agentnet_core.calls cimport CYCLE_LET_IN
from agentnet_core.envelope cimport STREAM_ASKED, STREAM_INPUT
from agentnet_core.framing cimport (
    CANCEL, CARRY, CREDIT, DONE, GO, GRANT, MESSAGE, OPTIONAL_FIELDS, PING, PONG, REFUSED, RETURN, STATUS,
    STOP, TAKE, Arena, Cursor, pack_u64, read_array, read_uint, skip_value,
)
from agentnet_core.mailbox cimport Mailbox, is_full, is_high, is_low
from agentnet_core.courier cimport Courier
from agentnet_core.message cimport TYPE_QUERY, TYPE_RESPONSE, Origin, copy_message, read_message
from agentnet_core.outflow cimport ACTIVE, MAINTENANCE
from agentnet_core.route cimport Waiting
from agentnet_core.recalls cimport TAKEN_OUT_SILENTLY, TOLD_AND_LEFT, WORKS_ON, Pending

from agentnet_core.errors import (
    AgentStopped, AgentUnreachable, CallCycle, Congested, LimitReached, NetworkError, NoSuchAgent, NotOwner,
    ProtocolError, Recalled,
)
from agentnet_core.records import Event

cdef int64_t MS = 1_000_000
cdef int64_t NEVER = 0x7fffffffffffffff


cdef class Engine(Inputs):
    """One node, without its I/O. See the module's head and the design's contract.

    `make_token()` gives an object that the engine hands back in `ready().settle`, and that has
    `cancelled()`; `call` is a Pending of the driver's kind, of which each request returns another.
    `to_bytes(value)` gives (bytes, content type). `wake()` is called once when
    `ready()` gets something to do. `now_ns`: monotonic.
    """

    def __init__(self, str node_id, uint64_t incarnation, config, int64_t now_ns, *,
                 make_token, call, to_bytes, wake):
        self.config = config
        self.node_id, self.incarnation = node_id, incarnation
        self.origin = Origin(node_id, incarnation)
        self.now_ns = self.born_ns = now_ns
        self.make_token, self.call, self.to_bytes, self.wake = make_token, call, to_bytes, wake
        self.arena = Arena(config.frame_bytes_max)
        self.ports = self.doors = {}
        self.limit(config)
        self.limit_letters()
        self.limit_streams()
        self.control_bytes_max = config.control_bytes_max
        self.pending_max = config.requests_pending_max
        self.recall_wait_ns = config.recall_ms_max * MS
        self.request_timeout_ns = config.request_timeout_ms * MS
        self.chain_hops_max, self.chain_calls_max = config.chain_hops_max, config.chain_calls_max
        self.chain_sends = config.chain_sends
        self.answer_wait_ns = config.answer_wait_ms_max * MS
        self.tick_ns_max = 1000 * MS

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
                elif frame.kind == CARRY:
                    self.on_carry(session, &frame)
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
            if session.recalls is not None:
                self.carry_out_recalls(session)
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
        self.count_data(session, frame)
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
        if (session.certified is not None
                and session.speakers[message.from_agent & 63] != message.from_agent
                and not self.may_speak(session, message.from_agent)):
            return self.refuse(message, None, NotOwner(
                f"agent {message.from_agent} belongs to another node than {session.node_id}, which sent a "
                f"message in its name; it was not executed"))
        if message.to_all:
            return self.spread(message)
        if message.to_id == self.last_to and self.last_port is not None:
            port = self.last_port
        else:
            found = PyDict_GetItemWithError(self.doors, message.to_id)
            if found == NULL:
                return self.turn_away(message)
            port = <Port>found
            self.last_to, self.last_port = message.to_id, port
        if message.slip is not None and not self.let_in(session, message):
            return 0
        if port.box is not None and is_full(port.box) and not port.when_full:
            port.withhold(session, frame.wire_size, whole)
        return self.deliver(port, message, session)

    cdef bint may_speak(self, Session session, uint64_t agent_id) except -1:
        """Whether the agent may be of the peer, whose name is proven: as far as is known, of no other node.
        Of one that is not known, its own list may be on its way."""
        record = self.control.directory.get(agent_id) if agent_id else None
        if record is not None and record.node_id != session.node_id:
            self.messages_forged += 1
            return False
        session.speakers[agent_id & 63], self.speakers_known = agent_id, True
        return True

    def forget_speakers(self):
        """Agents have new owners."""
        cdef Session session
        if self.speakers_known:
            for session in self.sessions.values():
                memset(session.speakers, 0, sizeof(session.speakers))
        self.speakers_known = False

    cdef int turn_away(self, AgentMessage message) except -1:
        """There is no such agent, or none that takes messages of other nodes now."""
        label = self.control.directory.label(message.to_id)
        if message.to_id not in self.ports:
            return self.refuse(message, None, NoSuchAgent(
                f"agent {label} is not registered on node {self.node_id}"))
        return self.refuse(message, None, AgentUnreachable(
            f"agent {label} is on node {self.node_id}, which is in maintenance and takes no new work; it was "
            f"not executed"))

    cdef int deliver(self, Port port, AgentMessage message, Session session) except -1:
        cdef Mailbox box = port.mailbox()
        if message.envelope is not None:
            if message.envelope.part & STREAM_INPUT:
                message.envelope.inputs = self.itself
            if (message.type == TYPE_QUERY and message.correlation and message.envelope.passed(port.agent_id)
                    and self.call_defect != CYCLE_LET_IN):
                return self.return_call(port, message)
            if message.envelope.part & STREAM_ASKED and len(self.writers) >= self.streams_max:
                return self.refuse(message, port.record, LimitReached(
                    f"node {self.node_id} answers {self.streams_max} streams already (streams_max); agent "
                    f"{port.record.label} has not begun it"))
        if not (message.envelope is None and message.slip is None or self.admit_once(port.record, message)):
            return 0
        box.push(message)
        if is_high(box) and port.when_full:
            self.overflow(port, message)
        elif is_high(box):
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

    cdef int return_call(self, Port port, AgentMessage message) except -1:
        """An agent is asked for what it waits for itself: it answers out of turn, or nobody ever does."""
        if not port.reentrant:
            names = [self.control.directory.label(agent) for agent in message.envelope.agents()]
            return self.refuse(message, port.record, CallCycle(
                f"{' -> '.join([*names, port.record.label])}: agent {port.record.label} waits for what this "
                f"asks; it was not executed (see reentrant)"))
        if port.returned_open >= self.config.reentrant_calls_max:
            return self.refuse(message, port.record, Congested(
                f"agent {port.record.label}: {port.returned_open} calls that came back to it are open "
                f"already (reentrant_calls_max); it was not executed"))
        if port.returned is None:
            port.returned = deque()
        port.returned.append(message)
        port.returned_open += 1
        self.now_ready.deliver.append(port)
        return self.rouse()

    cdef int spread(self, AgentMessage message) except -1:
        """A copy to each agent of this node in the message's group; of a broadcast, to who takes them."""
        cdef Port port
        cdef AgentMessage copy
        cdef str group = None if message.extras is None else message.group
        cdef dict ports = self.ports if group is None else self.groups.get(group)
        if ports is None:           # they have left it, and the sender did not know
            self.multicasts_dropped += 1
            return 0
        for port in ports.values():
            if group is None and not port.record.broadcasts:
                continue
            if is_full(port.mailbox()) and not port.when_full:
                self.broadcasts_dropped += 1
                self.event(Event(Event.UNDELIVERABLE, self.node_id, port.agent_id, port.record.name,
                                 f"broadcast {message.message_id} dropped: the mailbox is full"))
            else:
                copy = copy_message(message)
                copy.seq = message.seq
                self.deliver(port, copy, None)
        return 0

    cdef int withdraw(self, Origin origin, uint64_t agent_id, uint64_t correlation) except -1:
        cdef Port port = self.ports.get(agent_id)
        cdef AgentMessage message = None
        if port is None:
            return 0
        if port.box is not None:
            message = port.box.take_out(origin, correlation)
        if message is None:
            self.drop_stream(origin, correlation)
            self.now_ready.recall.append((port, origin, correlation))
            return self.rouse()
        self.requests_withdrawn += 1
        if self.recall_defect == TAKEN_OUT_SILENTLY:
            return 0
        if self.recall_defect == TOLD_AND_LEFT:
            port.box.push(message)
        self.refuse(message, port.record, Recalled(
            f"agent {port.record.label}: the request was given up before it was begun; it was not executed",
            definite=True))
        return port.go() if port.stopped and is_low(port.box) else 0

    cdef int part(self, Session session, error) except -1:
        """Nobody can be told what becomes of what the peer asked: nothing more is done for it."""
        cdef Port port
        Courier.part(self, session, error)
        if session.parting or self.recall_defect == WORKS_ON:
            return 0                # by this node's own wish: it ends them itself
        self.set_adrift(session)
        for port in self.ports.values():
            if port.box is not None:
                self.requests_withdrawn += len(port.box.take_requests(session.origin))
                if port.stopped and is_low(port.box):
                    port.go()
        self.now_ready.recall.append((None, session.origin, 0))
        return self.rouse()

    cdef int deliver_here(self, Route route, AgentMessage message) except -1:
        self.deliver(<Port>route, message, None)
        return 0 if message.slip is None else self.take_here(route, message)

    cdef int on_control(self, Session session, Frame* frame) except -1:
        cdef uint64_t value = 0
        cdef Cursor c
        if session.welcomed and frame.kind in (
                CREDIT, STOP, GO, PING, PONG, REFUSED, STATUS, DONE, RETURN, CANCEL, GRANT, TAKE):
            if frame.kind == CREDIT:
                return self.on_credit(session, frame)
            if frame.kind == DONE:
                return self.on_done(session, frame)
            if frame.kind == RETURN:
                return self.on_return(session, frame)
            if frame.kind == REFUSED:
                return self.on_refused(session, frame)
            if frame.kind == CANCEL:
                return self.on_cancel(session, frame)
            if frame.kind == GRANT:
                return self.on_grant(session, frame)
            if frame.kind == TAKE:
                return self.on_take(session, frame)
            if frame.kind == PONG:
                return self.on_pong(session, frame)
            c.at, c.end = frame.body, frame.body + frame.size
            if not read_uint(&c, &value) or c.at != c.end:
                raise ProtocolError(f"frame of kind {frame.kind}: expected one unsigned integer")
            if frame.kind == STOP:
                return self.on_stop(session, value)
            if frame.kind == GO:
                return self.on_go(session, value)
            if frame.kind == STATUS:
                return self.on_status(session, value == MAINTENANCE)
            return self.put_pong(session, value)
        self.control.receive(session, frame.kind,
                             PyBytes_FromStringAndSize(<const char*>frame.body, frame.size))
        return 0

    cdef int put_pong(self, Session session, uint64_t echo) except -1:
        cdef uint8_t* start = session.control.begin(PONG, 0, 1 + 4 * 9)
        cdef uint8_t* p
        start[0] = 0x94
        p = pack_u64(start + 1, echo)
        p = pack_u64(p, self.load)
        p = pack_u64(p, MAINTENANCE if self.cordoned else ACTIVE)
        p = pack_u64(p, <uint64_t>session.sent)
        session.control.finish(start, p - start)
        return self.mark(session)

    cdef int on_pong(self, Session session, Frame* frame) except -1:
        cdef uint64_t echo = 0, load = 0, status = session.cordoned, sent = 0
        cdef uint32_t n = 4
        cdef Cursor c
        cdef bint fine
        c.at, c.end = frame.body, frame.body + frame.size
        fine = read_uint(&c, &echo)     # the older form
        if not fine:
            c.at = frame.body
            fine = (read_array(&c, &n) and n >= 4 and read_uint(&c, &echo) and read_uint(&c, &load)
                    and read_uint(&c, &status) and read_uint(&c, &sent))
        while fine and n > 4:           # a later release may say more
            fine = skip_value(&c, 8)
            n -= 1
        if not fine or c.at != c.end:
            raise ProtocolError("PONG frame: expected [time, load, status, bytes sent], or the time alone")
        if echo <= <uint64_t>session.pinged_ns:
            session.ponged_ns, session.announced, session.load = <int64_t>echo, sent, load
            session.rtt_ns, session.proven_ns = self.now_ns - <int64_t>echo, self.now_ns
        return self.on_status(session, status == MAINTENANCE)

    cdef int on_status(self, Session session, bint cordoned) except -1:
        """The peer takes no new work, or takes it again."""
        cdef Route route
        if cordoned == session.cordoned or self.sessions.get(session.node_id) is not session:
            return 0
        session.cordoned = cordoned
        if cordoned:
            # Without a route to it, every send asks `resolve`, and finds out there: no message pays for this.
            session.shelved = {key: route for key, route in self.routes.items() if route.session is session}
            for key in session.shelved:
                del self.routes[key]
            for route in session.shelved.values():
                self.fail_unsent(route, AgentUnreachable(
                    f"agent {route.record.label} is on node {session.node_id}, which is in maintenance now; "
                    f"nothing was sent"))
            return 0
        for key, route in session.shelved.items():
            record = self.control.directory.get(key)
            if record is not None and record.node_id == session.node_id and key not in self.routes:
                route.record = record
                self.routes[key] = route
        session.shelved = None
        return 0

    cdef Route route_of(self, Session session, uint64_t agent_id):
        """The route to an agent of the peer, in maintenance too."""
        cdef Route route = self.routes.get(agent_id)
        if route is None and session.shelved is not None:
            route = session.shelved.get(agent_id)
        return route if route is not None and route.session is session else None

    cdef int on_stop(self, Session session, uint64_t agent_id) except -1:
        cdef Route route = self.route_of(session, agent_id)
        if route is None:
            return 0
        route.stopped = True
        if route.waiting_count:
            # Those that wait for the window must stay ahead of later ones that wait for GO.
            moved = deque(w for w in session.blocked if (<Waiting>w).route is route)
            if moved:
                kept = [w for w in session.blocked if (<Waiting>w).route is not route]
                session.blocked.clear()
                session.blocked.extend(kept)
                route.waiting = self.stuck[route] = moved
                self.drain(session)
        return 0

    cdef int on_go(self, Session session, uint64_t agent_id) except -1:
        cdef Route route = self.route_of(session, agent_id)
        if route is None:
            return 0
        route.stopped = False
        if route.waiting:
            session.blocked.extend(route.waiting)
            session.clear = False
        route.waiting = None
        if session.bulk:
            self.mark(session)      # large ones for it may start
        return self.drain(session)

    # -- maintenance

    def set_maintenance(self, bint on):
        """Take no new work of other nodes, or take it again; they are told. What is here is done."""
        cdef Session session
        if on != self.cordoned:
            self.cordoned = on
            self.doors = {} if on else self.ports
            self.last_port = None
            for session in self.sessions.values():
                self.put_control_u64(session, STATUS, MAINTENANCE if on else ACTIVE)

    @property
    def answers_waiting(self):
        """Answers to other nodes that have not found room yet."""
        cdef Session session
        cdef Py_ssize_t count = 0
        for session in self.sessions.values():
            if session.answers is not None:
                count += (<Route>session.answers).waiting_count
        return count

    # -- agents of this node

    def add_port(self, Port port not None):
        """Take an agent, in the place of one of the same id if there is one."""
        cdef Port old = self.ports.get(port.agent_id)
        agent_id = port.record.agent_id     # one int object serves all tables
        if old is not None:         # what waits for it, here and at other nodes, goes to the new one
            port.stopped_sessions = old.stopped_sessions
            port.inherit(old)
            self.lose_port(old)
        self.ports[agent_id] = port
        self.routes[agent_id] = port
        self.regroup(port, (), port.record.groups)
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
        self.regroup(port, port.record.groups, ())
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
        while port.returned:
            self.refuse(port.returned.popleft(), port.record, error)
        message = port.next_message()
        while message is not None:
            self.refuse(message, port.record, error)
            message = port.next_message()

    def regroup(self, Port port not None, before, after):
        """The agent was in those groups, and is in these now."""
        for group in before:
            members = self.groups.get(group)
            if members is not None:
                members.pop(port.agent_id, None)
                if not members:
                    del self.groups[group]
        for group in after:
            self.groups.setdefault(group, {})[port.agent_id] = port

    def lose_port(self, Port port not None):
        """The agent lost its id to another: as `remove_port`, and the driver ends its runner."""
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
        if record.name is not None:
            self.routes.pop(record.name, None)
        if route is not None:
            self.fail_unsent(route, AgentStopped(f"agent {record.label} was unregistered; nothing was sent"))

    cdef int fail_unsent(self, Route route, error) except -1:
        """What waits for an agent of a peer fails, but for what has been sent in part."""
        cdef Waiting waiting
        if route.session is None or not route.waiting_count:
            return 0
        lanes = [route.waiting or (), route.session.blocked, *route.session.bulk.values()]
        for waiting in [waiting for lane in lanes for waiting in lane]:
            if waiting.route is route and not waiting.dropped and not waiting.started:
                self.fail_waiting(waiting, error)
        route.waiting = None
        return 0

    # -- time

    cpdef object wake_by(self, int64_t when_ns):
        """The driver is to tick by then."""
        if when_ns < self.wake_ns:
            self.wake_ns = when_ns
            self.rouse()

    def tick(self, int64_t now_ns):
        """Time has come: requests and sends whose deadline has passed fail; `wake_ns` is the next one."""
        cdef Pending pending
        cdef Session session
        cdef int64_t wake_ns = self.wake_ns
        self.now_ns = now_ns
        self.date()
        self.wake_ns = NEVER
        self.wake_by(self.tick_letters(now_ns))
        for correlation, pending in list(self.pending.items()):
            if pending.deadline_ns <= now_ns:
                self.expire_request(correlation, pending)
            elif pending.deadline_ns < self.wake_ns:
                self.wake_ns = pending.deadline_ns
        self.expire_recalled()
        self.tick_streams()
        self.tell_overflows()
        self.tick_leases()
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
        self.drain_crowd()
        self.expire_stuck()
        if now_ns < wake_ns and now_ns - self.controlled_ns < self.tick_ns_max:
            self.control.ticked_ns = now_ns     # nothing is due there, as at most times
        else:
            self.controlled_ns = now_ns
            wake_ns = self.control.tick(now_ns)
        if wake_ns < self.wake_ns:
            self.wake_ns = wake_ns

    def stats(self):
        """Every counter, by name."""
        return {
            "messages_sent": self.messages_sent, "messages_received": self.messages_received,
            "messages_local": self.messages_local, "bytes_received": self.bytes_received,
            "messages_expired": self.messages_expired, "messages_undeliverable": self.messages_undeliverable,
            "messages_unconfirmed": self.messages_unconfirmed, "broadcasts_dropped": self.broadcasts_dropped,
            "multicasts_dropped": self.multicasts_dropped, "messages_forged": self.messages_forged,
            "replies_late": self.replies_late, "replies_lost": self.replies_lost,
            "requests_pending": len(self.pending), "requests_recalled": self.requests_recalled,
            "streams_read": len(self.readers), "streams_answered": len(self.writers),
            "streams_lost": self.streams_lost, "mailbox_dropped": self.mailbox_dropped,
            "requests_withdrawn": self.requests_withdrawn, "sends_spent": self.sends_spent,
            "links": len(self.links), "links_lost": self.links_lost,
            "links_refused": self.links_refused, "links_retired": self.links_retired,
            "links_awaited": len(self.awaited), **self.letter_stats(),
        }
