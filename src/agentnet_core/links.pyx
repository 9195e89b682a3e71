"""The links of one node: how they begin, are let go, and end, and what becomes of all that depended on them.

In: links that open and are welcomed, nodes that have none and are written to, links that are lost or
given up.  Out: sessions to write and to close, and the outcome of what waited at a link that ends:
it goes by the next one if surely nothing of it was sent, else it fails, as unknown where some of it
was.  A session that stands in for a link to come holds what waits, and sends nothing.

Held here: every open link, and a stand-in for each node that is written to without one and for each
agent that is sought, whose messages are bounded as all that wait.
"""

from libc.stdint cimport uint64_t

from collections import deque

from agentnet_core.framing cimport PING, STATUS
from agentnet_core.message cimport Origin
from agentnet_core.outflow cimport MAINTENANCE
from agentnet_core.recalls cimport Pending
from agentnet_core.route cimport Route, Waiting

from agentnet_core.errors import (
    AgentUnreachable, Congested, DuplicateLink, LinkLost, NetworkError,
)
from agentnet_core.records import Event


cdef class Links(Calls):
    """An engine's links, between its calls and its agents."""

    def __cinit__(self, *args, **kwargs):
        self.links = []

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

    def open(self, *, bint secure, str address, str certified=None, dial=None, str relay=""):
        """A new link, dialled for `dial` or accepted; the session that stands for it. Its Hello goes out.

        `relay`: the node whose tunnel it goes through.
        """
        session = Session(self.arena, dial is not None, secure, address, certified, self.now_ns)
        session.relay = relay
        self.links.append(session)
        self.control.opened(session, dial)
        return session

    def rouse_session(self, Session session not None):
        """It has bytes to write."""
        self.mark(session)

    def welcome(self, Session session not None):
        """The link is in use from now on: messages may pass."""
        cdef Session awaited = self.awaited.pop(session.node_id, None)
        cdef Session old = self.sessions.get(session.node_id)
        session.welcomed = session.clear = True
        session.origin.session = session
        if old is not None and session.relay and not old.relay:     # that one takes over
            return
        self.sessions[session.node_id] = session
        if old is not None:
            self.supersede(old, session)
        if self.cordoned:
            self.put_control_u64(session, STATUS, MAINTENANCE)
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

    cdef Route seek(self, to):
        """Where messages wait to an agent that is not known here; NoSuchAgent if nobody else knows more."""
        record = self.control.seek(to)
        session = self.awaited[sought(to)] = self.stand_in(sought(to))
        route = self.routes[to] = Route(record, session)
        return route

    def found(self, to):
        """An agent is known that was sought: what waits for it goes its way."""
        cdef Session awaited = self.awaited.pop(sought(to))
        cdef Route route = self.routes[to]
        cdef Pending pending
        cdef Waiting waiting
        if route.session is awaited:    # else it is an agent of this node
            del self.routes[to]
        try:
            route = self.resolve(to)
        except NetworkError as error:
            self.strand(awaited, error, error)
            return
        for pending in self.pending.values():
            if pending.route.session is awaited:
                pending.route = route
        for waiting in awaited.blocked:
            if waiting.dropped:
                continue
            waiting.move(route)
            try:
                self.check_fit(waiting, route.session)
            except NetworkError as error:
                self.fail_waiting(waiting, error)
            else:
                self.line_up(waiting)
        if route.session is None:
            self.drain_local(route)

    def missing(self, to, error):
        """There is no such agent, or it cannot be found: what waits for it fails with `error`."""
        self.unreachable(sought(to), error)

    cdef int check_fit(self, Waiting waiting, Session session) except -1:
        """MessageTooLarge or DeliveryUnsupported, definite, if the peer cannot take what has waited."""
        self.check_size(waiting.message, session)
        return self.check_peer(waiting.route, session) if waiting.message.envelope is not None else 0

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
        if old.everyone is not None and new.everyone is None:
            (<Route>old.everyone).session = new
            new.everyone, old.everyone = old.everyone, None
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
                self.check_fit(waiting, new)
            except NetworkError as error:
                self.fail_waiting(waiting, error)
            else:
                new.blocked.append(waiting)
                new.clear = False
        old.blocked.clear()
        return 0

    cdef int supersede(self, Session old, Session new) except -1:
        """What is not sent yet goes by the new link, which is held until all that was sent is taken; what
        was sent is answered, and the peer's requests are, on the old one."""
        cdef Route route
        cdef Waiting waiting
        cdef list waits = [w for lane in old.bulk.values() for w in lane] + list(old.blocked)
        new.held, new.clear = True, False
        old.shelved = {key: route for key, route in self.routes.items() if route.session is old}
        for key, route in old.shelved.items():
            del self.routes[key]
            if route.waiting and key == route.agent_id:
                waits.extend(route.waiting)
                route.waiting = None
        if old.everyone is not None:
            (<Route>old.everyone).session = new
            new.everyone, old.everyone = old.everyone, None
        for waiting in waits:
            if waiting.dropped or waiting.started or waiting.route is old.answers:
                continue
            if waiting.message.slip is not None:    # it is sent again, by the link of its time
                self.fail_waiting(waiting, AgentUnreachable(f"another link to node {old.node_id} takes over"))
            else:
                self.follow(waiting, new)
                new.blocked.append(waiting)
        old.blocked = deque(w for w in old.blocked if (<Waiting>w).route.session is old)
        for key in list(old.bulk):
            old.bulk[key] = deque(w for w in old.bulk[key] if (<Waiting>w).route.session is old)
        return 0

    cdef int follow(self, Waiting waiting, Session new) except -1:
        """It goes by that link to the same node."""
        cdef Route old = waiting.route, route
        cdef Pending pending
        if old.session is new:      # of a broadcast
            return 0
        route = self.routes.get(old.agent_id)
        if route is None:
            route = self.routes[old.agent_id] = Route(old.record, new)
        waiting.move(route)
        pending = self.pending.get(waiting.message.correlation) if waiting.message.correlation else None
        if pending is not None and pending.route is old and pending.waiting is waiting:
            pending.route = route
        return 0

    def is_drained(self, Session session not None):
        """Whether the peer has taken all that was sent or waits here."""
        return not (session.blocked or session.bulk) and session.sent_messages == session.credited_messages

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
        cdef bint current = self.sessions.get(session.node_id) is session
        session.clear = False
        if session.origin.session is session:
            session.origin.session = None
        if current:
            del self.sessions[session.node_id]
            if session.retired:
                self.links_retired += 1
            else:
                self.links_lost += 1
        lost = LinkLost(f"the link to node {session.node_id} went down: {error}; the outcome is unknown")
        unsent = AgentUnreachable(f"the link to node {session.node_id} went down: {error}; nothing was sent")
        if session.held and current:
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
                self.end(pending, lost)
        self.lose_recalled(session)
        return 0

    def end_requests(self):
        """This node goes: what only its own agents could still answer has an unknown outcome."""
        cdef Pending pending
        for pending in self.pending.values():
            self.end(pending, LinkLost(
                f"node {self.node_id} has left the network; the outcome of the request is unknown"))
        self.pending.clear()
        for pending in self.recalled.values():
            self.learn(pending, None)
        self.recalled.clear()

    cdef int expire_stuck(self) except -1:
        """Of what waits for room with agents, what has waited too long fails."""
        cdef Route route
        for route in list(self.stuck):
            if route.waiting:
                self.expire_waiting(route.waiting)
            if not route.waiting:
                route.waiting = None
                del self.stuck[route]
        return 0

    def forget_session(self, Session session not None):
        """The driver has written the last of it."""
        session.discard()

    def resume(self, Session session not None):
        """The transport takes bytes again."""
        session.paused = False
        if not session.closed:
            self.mark(session)


cdef str sought(to):
    """The place in `awaited` of an agent that is sought: no node has such a name."""
    return f"?{to!r}"


cdef bint is_quiet(Session session) except -1:
    """Whether the session itself holds nothing of this side's that the other has not taken."""
    return (session.welcomed and not (session.closed or session.blocked or session.bulk or session.assemblies)
            and session.sent_messages == session.credited_messages)
