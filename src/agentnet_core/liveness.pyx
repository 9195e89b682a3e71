"""Links that fall silent: whom to ask, on the link and past it, and what silence means.  Busy is not dead.

A link that brings nothing is pinged, and any link now and then, to know its round trip.  An event loop
that stands cannot answer that, so a node also has a liveness port, which answers without its loop and tells
the lag: for how long it has stood.  The driver asks there when the engine's `Ready.probe` says so, and
hands the answer to `answered`.

    link      liveness port        then
    --------  -------------------  ---------------------------------------------------------------
    fresh     asked now and then   known to be within reach ("port") or not ("link")
    silent    answers, with a lag  the loop stands since before it was asked: the node is INACTIVE,
                                   and its link is kept for as long as that goes on
    silent    answers, no lag      the link is broken: lost after `link_silence_ms_max`
    silent    silent as well       stopped or cut off: lost after `unreachable_ms_max`
    silent    not within reach     lost after `link_silence_ms_max`; busy or dead, nobody can tell

An own loop that stood still has heard nobody: what went unanswered meanwhile does not count.
It holds one Watch for each welcomed link, and for twice `nodes_max` nodes what was known last.
"""

from libc.stdint cimport INT64_MAX, int64_t

from agentnet_core.session cimport Session

from dataclasses import replace

from agentnet_core.config import LAG_MS_MIN
from agentnet_core.errors import LinkLost, OutageError
from agentnet_core.records import Event, NodeStatus

UNANSWERED_MIN = 4
"""Probes that went unanswered before that means anything: one may be lost on the way, and an own loop that
stands a little sends two before it reads the answer to the first."""
LOOKS = 2
"""Between two pings of a link, or probes of a silent one: what is due between them waits for the next."""
PINGS_MIN = 3
"""In a large network a silent link is still pinged so often before it is let go."""
BY_PORT, BY_LINK = "port", "link"

cdef int64_t MS = 1_000_000, NEVER = INT64_MAX
cdef int unanswered_min = UNANSWERED_MIN


cdef class Watch:
    """What is known of the peer of one link, beside when the link was heard.

    ``pinged_ns``: the first ping since then. ``unanswered``: probes since the last answer, which came
    at ``answered_ns``, 0 if the port is not within reach. ``excused_ns``: the peer's loop stood until
    then. ``inactive_ns``: since when that is known; ``told``: an event has told of it. ``due_ns``: when
    to look again: what is heard meanwhile can only put that off.
    """

    def __init__(self, bint has_port):
        self.has_port = has_port

    @property
    def means(self):
        """By what a busy peer is told from a dead one: its "port", or not at all, by the "link" alone."""
        return BY_PORT if self.answered_ns else BY_LINK


cdef class Liveness:
    """The silence of every link of one engine."""

    def __init__(self, engine, config):
        self._engine, self._config = engine, config
        self._silence_ns = config.link_silence_ms_max * MS
        # Where links are let go early, there must be time to ask before.
        self._probe_ns = min(<int64_t>(config.probe_interval_ms * MS), self._silence_ns // 8)
        self._unreachable_ns = config.unreachable_ms_max * MS
        self._inactive_ns = config.inactive_lag_ms * MS
        self._stands_ns = max(<int64_t>(LAG_MS_MIN * MS), min(self._inactive_ns, self._silence_ns // 4))
        self._watches, self._known = {}, {}
        self.keep_pace(1.0)

    def keep_pace(self, double pace):
        """Ask so many times less often than the config says (`overlay.pace_of`)."""
        if pace == self._pace:
            return
        config, self._pace = self._config, pace
        cdef int64_t base_ns = config.ping_interval_ms * MS
        # A link must have time to answer before its silence ends it.
        self._ping_ns = max(base_ns, min(<int64_t>(base_ns * pace), self._silence_ns // PINGS_MIN))
        self._refresh_ns = int(config.refresh_interval_ms * MS * pace)
        self._late_ns = min(self._ping_ns, self._silence_ns - self._ping_ns) // 2
        self._along_ns = self._ping_ns // LOOKS
        self._check_ns = int(config.port_check_ms * MS * pace)
        self._again_ns = <int64_t>(self._probe_ns * pace)
        self._patience_ns = min(self._ping_ns + self._probe_ns, self._silence_ns // 2)
        self._rest_ns = <int64_t>(min(base_ns, self._probe_ns) * pace) // LOOKS
        self._grace_ns = max(0, self._silence_ns - <int64_t>int(config.node_silence_ms_max * MS * pace))

    # -- news

    def opened(self, int64_t now_ns):
        """There is a connection more: its handshake may take only so long."""
        self.look_by(now_ns + <int64_t>self._config.handshake_ms_max * MS)

    def welcomed(self, Session session not None, int64_t now_ns):
        """A link is in use from now on."""
        offer = session.hello.liveness
        watch = Watch(offer is not None and bool(offer[2]) and bool(offer[0] or offer[1]))
        self._watches[session] = watch
        self.look_by(now_ns + min(self._ping_ns, self._probe_ns))
        self._engine.ping(session)
        self.ask(session, now_ns)

    def closed(self, Session session not None):
        """A link is gone."""
        cdef Watch watch = self._watches.pop(session, None)
        if watch is not None:
            self._known.pop(session.node_id, None)
            if len(self._known) >= 2 * self._config.nodes_max:
                del self._known[next(iter(self._known))]
            self._known[session.node_id] = watch.means

    cpdef ask(self, Session session, int64_t now_ns):
        """Ask the peer's liveness port now, if it has one."""
        cdef Watch watch = self._watches.get(session)
        if watch is not None and watch.has_port:
            watch.probed_ns = now_ns
            watch.unanswered += 1
            self._engine.probe(session)

    def answered(self, Session session not None, int64_t lag_ns, str stack, int64_t now_ns):
        """The peer's liveness port answered: its loop has stood for ``lag_ns``, at ``stack``."""
        cdef Watch watch = self._watches.get(session)
        cdef bint stands
        if watch is None:
            return
        watch.answered_ns, watch.unanswered = now_ns, 0
        # A loop that turned well after the ping has seen it: then it is the link that fails.
        stands = lag_ns >= self._stands_ns and now_ns - lag_ns <= watch.pinged_ns + self._stands_ns
        if watch.pinged_ns <= session.heard_ns or not stands:
            return
        watch.excused_ns, watch.lag_ns = now_ns, lag_ns
        if lag_ns < self._inactive_ns:
            return
        watch.inactive_ns = watch.inactive_ns or now_ns
        self.look_by(now_ns)
        # Its stack may take a moment to be had.
        if not watch.told and (stack or now_ns - watch.inactive_ns >= self._unreachable_ns):
            watch.told = True
            where = f", in\n{stack}" if stack else ""
            detail = f"alive, but its event loop has not turned for {lag_ns // MS} ms{where}"
            self._engine.event(Event(Event.INACTIVE, session.node_id, detail=detail))

    # -- reading

    def seen(self, member, Session session, int64_t now_ns):
        """``member`` with what is known here of its liveness; ``session``: the link to it."""
        cdef Watch watch = self._watches.get(session)
        if watch is None:
            means = self._known.get(member.node_id, "")
            return replace(member, liveness=means) if means else member
        if watch.inactive_ns <= session.heard_ns:
            return replace(member, liveness=watch.means)
        lag_ms = (watch.lag_ns + now_ns - watch.answered_ns) // MS
        return replace(member, liveness=watch.means, status=NodeStatus.INACTIVE, lag_ms=lag_ms)

    cpdef int64_t heard_ns(self, Session session) except? -1:
        """When the peer was heard last, on its link or at its liveness port; later, where it has no port
        within reach: it counts as heard for as long as its link is kept, as it may only be busy."""
        cdef Watch watch = self._watches.get(session)
        if watch is not None and watch.answered_ns:
            return max(session.heard_ns, watch.answered_ns)
        return session.heard_ns + self._grace_ns

    def answered_since(self, Session session not None, int64_t when_ns):
        """Whether the peer has proved since then that it is alive."""
        cdef Watch watch = self._watches.get(session)
        return session.ponged_ns >= when_ns or (watch is not None and watch.answered_ns >= when_ns)

    # -- time

    def tick(self, int64_t now_ns, int64_t gap_ns):
        """Ask the silent, close the mute; the time of the next look. ``gap_ns``: since the last one."""
        cdef Session session
        cdef Watch watch
        cdef int64_t next_ns = NEVER
        if gap_ns > self._unreachable_ns:
            for watch in self._watches.values():
                watch.unanswered = 0
        if now_ns < self._due_ns:
            return self._due_ns
        for session in list(self._engine.links):
            watch = self._watches.get(session)
            if watch is not None:
                # What is due soon is asked along, so that the links of a node come to be due together.
                if now_ns + self.along_ns(session) >= watch.due_ns or watch.inactive_ns:
                    watch.due_ns = self.check(session, watch, now_ns)
                next_ns = min(next_ns, now_ns if watch.inactive_ns else watch.due_ns)
            elif not session.welcomed:
                next_ns = min(next_ns, self.check_handshake(session, now_ns))
        self._due_ns = max(next_ns, now_ns + self._rest_ns)
        return self._due_ns

    cdef int look_by(self, int64_t when_ns) except -1:
        self._due_ns = min(self._due_ns, when_ns)
        self._engine.wake_by(when_ns)
        return 0

    cdef int64_t along_ns(self, Session session) noexcept:
        """So much earlier may what is due for the link be done along with other things."""
        return self._along_ns if session.dialled else self._rest_ns

    cdef int64_t check_handshake(self, Session session, int64_t now_ns) except? -1:
        cdef int64_t limit_ms = self._config.handshake_ms_max
        if now_ns < session.opened_ns + limit_ms * MS:
            return session.opened_ns + limit_ms * MS
        said = "said nothing" if session.node_id == "" else "sent no WELCOME"
        text = f"{session.address} {said} for {limit_ms} ms (handshake_ms_max)"
        self._engine.fail(session, OutageError(text))  # no refusal: it may have been too busy
        return NEVER

    cdef int64_t check(self, Session session, Watch watch, int64_t now_ns) except? -1:
        cdef str reason = self.lost(session, watch, now_ns)
        if reason:
            self._engine.down(session, LinkLost(f"node {session.node_id} was silent for {reason}"))
            return NEVER
        if watch.inactive_ns and session.heard_ns >= watch.inactive_ns:
            self.is_back(session, watch)
        if watch.unanswered >= unanswered_min and session.heard_ns >= watch.probed_ns + self._probe_ns:
            watch.answered_ns = 0  # the peer speaks, its port does not
        if now_ns + self.along_ns(session) >= self.next_ping_ns(session):
            if watch.pinged_ns <= session.heard_ns:
                watch.pinged_ns = now_ns
            self._engine.ping(session)
        if now_ns >= self.next_probe_ns(session, watch):
            self.ask(session, now_ns)
        return min(
            self.next_ping_ns(session),
            max(session.heard_ns, watch.excused_ns) + self._silence_ns,
            self.next_probe_ns(session, watch),
        )

    cdef str lost(self, Session session, Watch watch, int64_t now_ns):
        """For how long the peer was silent, if that means that it must be let go."""
        if now_ns - max(session.heard_ns, watch.excused_ns) >= self._silence_ns:
            what = f"{self._config.link_silence_ms_max} ms"
            if watch.answered_ns:
                return what
            return f"{what}; no liveness port of it is within reach, so it may be busy or dead"
        cdef int64_t silent_ns = now_ns - max(watch.pinged_ns, watch.answered_ns)
        if (
            watch.answered_ns
            and watch.pinged_ns > session.heard_ns
            and watch.unanswered >= unanswered_min
            and silent_ns >= self._unreachable_ns
            and now_ns - watch.probed_ns >= self._probe_ns
        ):
            ms = (now_ns - max(session.heard_ns, watch.answered_ns)) // MS
            return f"{ms} ms, and its liveness port as well: it is stopped or cut off"
        return ""

    cdef int64_t next_ping_ns(self, Session session) noexcept:
        # Who was dialled leaves it to the other end, whose links come to be due together.
        cdef int64_t late_ns = 0 if session.dialled else self._late_ns
        cdef int64_t silent_ns = max(session.heard_ns, session.pinged_ns) + self._ping_ns + late_ns
        return min(silent_ns, session.pinged_ns + self._refresh_ns)

    cdef int64_t next_probe_ns(self, Session session, Watch watch) noexcept:
        if not watch.has_port:
            return NEVER
        cdef bint trying = 0 < watch.unanswered < unanswered_min
        cdef int64_t fresh_ns = watch.probed_ns + (self._again_ns if trying else self._check_ns)
        cdef int64_t silent_ns = max(session.heard_ns + self._patience_ns, watch.probed_ns + self._probe_ns)
        return min(fresh_ns, silent_ns)

    cdef int is_back(self, Session session, Watch watch) except -1:
        stood_ms = (watch.lag_ns + session.heard_ns - watch.answered_ns) // MS
        if watch.told:
            detail = f"its event loop turns again, after some {stood_ms} ms"
            self._engine.event(Event(Event.ACTIVE, session.node_id, detail=detail))
        watch.inactive_ns, watch.told = 0, False
        return 0
