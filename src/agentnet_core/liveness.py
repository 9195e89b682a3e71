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

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from agentnet_core.config import LAG_MS_MIN, EngineConfig
from agentnet_core.errors import LinkLost, NetworkError, OutageError
from agentnet_core.records import Event, Member, NodeStatus
from agentnet_core.session import Session

MS = 1_000_000
NEVER = 2**63 - 1
UNANSWERED_MIN = 4
"""Probes that went unanswered before that means anything: one may be lost on the way, and an own loop that
stands a little sends two before it reads the answer to the first."""
LOOKS = 2
"""Between two pings of a link, or probes of a silent one: what is due between them waits for the next."""
PINGS_MIN = 3
"""In a large network a silent link is still pinged so often before it is let go."""
BY_PORT, BY_LINK = "port", "link"


class Engine(Protocol):
    """What this room asks of the engine."""

    @property
    def links(self) -> Sequence[Session]: ...
    def ping(self, session: Session, /) -> None: ...
    def probe(self, session: Session, /) -> None: ...
    def event(self, event: Event, /) -> None: ...
    def wake_by(self, when_ns: int, /) -> None: ...
    def fail(self, session: Session, error: NetworkError, /) -> None: ...
    def down(self, session: Session, error: NetworkError, /) -> None: ...


class Watch:
    """What is known of the peer of one link, beside when the link was heard.

    ``pinged_ns``: the first ping since then. ``unanswered``: probes since the last answer, which came
    at ``answered_ns``, 0 if the port is not within reach. ``excused_ns``: the peer's loop stood until
    then. ``inactive_ns``: since when that is known; ``told``: an event has told of it. ``due_ns``: when
    to look again: what is heard meanwhile can only put that off.
    """

    __slots__ = (
        *("answered_ns", "due_ns", "excused_ns", "has_port", "inactive_ns", "lag_ns"),
        *("pinged_ns", "probed_ns", "told", "unanswered"),
    )

    def __init__(self, has_port: bool) -> None:
        self.has_port = has_port
        self.pinged_ns = self.probed_ns = self.answered_ns = self.excused_ns = 0
        self.inactive_ns = self.lag_ns = self.unanswered = self.due_ns = 0
        self.told = False

    @property
    def means(self) -> str:
        """By what a busy peer is told from a dead one: its "port", or not at all, by the "link" alone."""
        return BY_PORT if self.answered_ns else BY_LINK


class Liveness:
    """The silence of every link of one engine."""

    def __init__(self, engine: Engine, config: EngineConfig) -> None:
        self._engine = engine
        self._config = config
        self._silence_ns = config.link_silence_ms_max * MS
        # Where links are let go early, there must be time to ask before.
        self._probe_ns = min(config.probe_interval_ms * MS, self._silence_ns // 8)
        self._unreachable_ns = config.unreachable_ms_max * MS
        self._inactive_ns = config.inactive_lag_ms * MS
        self._stands_ns = max(LAG_MS_MIN * MS, min(self._inactive_ns, self._silence_ns // 4))
        self._pace = 0.0
        self.keep_pace(1.0)
        self._due_ns = 0
        """When a link is to be looked at next."""
        self._watches: dict[Session, Watch] = {}
        self._known: dict[str, str] = {}

    def keep_pace(self, pace: float) -> None:
        """Ask so many times less often than the config says (`overlay.pace_of`)."""
        if pace == self._pace:
            return
        config, self._pace = self._config, pace
        base_ns = config.ping_interval_ms * MS
        # A link must have time to answer before its silence ends it.
        self._ping_ns = max(base_ns, min(int(base_ns * pace), self._silence_ns // PINGS_MIN))
        self._refresh_ns = int(config.refresh_interval_ms * MS * pace)
        self._late_ns = min(self._ping_ns, self._silence_ns - self._ping_ns) // 2
        self._along_ns = self._ping_ns // LOOKS
        self._check_ns = int(config.port_check_ms * MS * pace)
        self._again_ns = int(self._probe_ns * pace)
        self._patience_ns = min(self._ping_ns + self._probe_ns, self._silence_ns // 2)
        self._rest_ns = int(min(base_ns, self._probe_ns) * pace) // LOOKS
        self._grace_ns = max(0, self._silence_ns - int(config.node_silence_ms_max * MS * pace))

    # -- news

    def opened(self, now_ns: int) -> None:
        """There is a connection more: its handshake may take only so long."""
        self._look_by(now_ns + self._config.handshake_ms_max * MS)

    def welcomed(self, session: Session, now_ns: int) -> None:
        """A link is in use from now on."""
        offer = session.hello.liveness
        watch = Watch(offer is not None and bool(offer[2]) and bool(offer[0] or offer[1]))
        self._watches[session] = watch
        self._look_by(now_ns + min(self._ping_ns, self._probe_ns))
        self._engine.ping(session)
        self.ask(session, now_ns)

    def closed(self, session: Session) -> None:
        """A link is gone."""
        watch = self._watches.pop(session, None)
        if watch is not None:
            self._known.pop(session.node_id, None)
            if len(self._known) >= 2 * self._config.nodes_max:
                del self._known[next(iter(self._known))]
            self._known[session.node_id] = watch.means

    def ask(self, session: Session, now_ns: int) -> None:
        """Ask the peer's liveness port now, if it has one."""
        watch = self._watches.get(session)
        if watch is not None and watch.has_port:
            watch.probed_ns = now_ns
            watch.unanswered += 1
            self._engine.probe(session)

    def answered(self, session: Session, lag_ns: int, stack: str, now_ns: int) -> None:
        """The peer's liveness port answered: its loop has stood for ``lag_ns``, at ``stack``."""
        watch = self._watches.get(session)
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
        self._look_by(now_ns)
        # Its stack may take a moment to be had.
        if not watch.told and (stack or now_ns - watch.inactive_ns >= self._unreachable_ns):
            watch.told = True
            where = f", in\n{stack}" if stack else ""
            detail = f"alive, but its event loop has not turned for {lag_ns // MS} ms{where}"
            self._engine.event(Event(Event.INACTIVE, session.node_id, detail=detail))

    # -- reading

    def seen(self, member: Member, session: Session | None, now_ns: int) -> Member:
        """``member`` with what is known here of its liveness; ``session``: the link to it."""
        watch = self._watches.get(session) if session is not None else None
        if session is None or watch is None:
            means = self._known.get(member.node_id, "")
            return replace(member, liveness=means) if means else member
        if watch.inactive_ns <= session.heard_ns:
            return replace(member, liveness=watch.means)
        lag_ms = (watch.lag_ns + now_ns - watch.answered_ns) // MS
        return replace(member, liveness=watch.means, status=NodeStatus.INACTIVE, lag_ms=lag_ms)

    def heard_ns(self, session: Session) -> int:
        """When the peer was heard last, on its link or at its liveness port; later, where it has no port
        within reach: it counts as heard for as long as its link is kept, as it may only be busy."""
        watch = self._watches.get(session)
        if watch is not None and watch.answered_ns:
            return max(session.heard_ns, watch.answered_ns)
        return session.heard_ns + self._grace_ns

    def answered_since(self, session: Session, when_ns: int) -> bool:
        """Whether the peer has proved since then that it is alive."""
        watch = self._watches.get(session)
        return session.ponged_ns >= when_ns or (watch is not None and watch.answered_ns >= when_ns)

    # -- time

    def tick(self, now_ns: int, gap_ns: int) -> int:
        """Ask the silent, close the mute; the time of the next look. ``gap_ns``: since the last one."""
        if gap_ns > self._unreachable_ns:
            for each in self._watches.values():
                each.unanswered = 0
        if now_ns < self._due_ns:
            return self._due_ns
        next_ns = NEVER
        for session in list(self._engine.links):
            watch = self._watches.get(session)
            if watch is not None:
                # What is due soon is asked along, so that the links of a node come to be due together.
                along_ns = self._along_ns if session.dialled else self._rest_ns
                if now_ns + along_ns >= watch.due_ns or watch.inactive_ns:
                    watch.due_ns = self._check(session, watch, now_ns)
                next_ns = min(next_ns, now_ns if watch.inactive_ns else watch.due_ns)
            elif not session.welcomed:
                next_ns = min(next_ns, self._check_handshake(session, now_ns))
        self._due_ns = max(next_ns, now_ns + self._rest_ns)
        return self._due_ns

    def _look_by(self, when_ns: int) -> None:
        self._due_ns = min(self._due_ns, when_ns)
        self._engine.wake_by(when_ns)

    def _check_handshake(self, session: Session, now_ns: int) -> int:
        limit_ms = self._config.handshake_ms_max
        if now_ns < session.opened_ns + limit_ms * MS:
            return session.opened_ns + limit_ms * MS
        said = "said nothing" if session.node_id == "" else "sent no WELCOME"
        text = f"{session.address} {said} for {limit_ms} ms (handshake_ms_max)"
        self._engine.fail(session, OutageError(text))  # no refusal: it may have been too busy
        return NEVER

    def _check(self, session: Session, watch: Watch, now_ns: int) -> int:
        reason = self._lost(session, watch, now_ns)
        if reason:
            self._engine.down(session, LinkLost(f"node {session.node_id} was silent for {reason}"))
            return NEVER
        if watch.inactive_ns and session.heard_ns >= watch.inactive_ns:
            self._is_back(session, watch)
        if watch.unanswered >= UNANSWERED_MIN and session.heard_ns >= watch.probed_ns + self._probe_ns:
            watch.answered_ns = 0  # the peer speaks, its port does not
        if now_ns + (self._along_ns if session.dialled else self._rest_ns) >= self._next_ping_ns(session):
            if watch.pinged_ns <= session.heard_ns:
                watch.pinged_ns = now_ns
            self._engine.ping(session)
        if now_ns >= self._next_probe_ns(session, watch):
            self.ask(session, now_ns)
        return min(
            self._next_ping_ns(session),
            max(session.heard_ns, watch.excused_ns) + self._silence_ns,
            self._next_probe_ns(session, watch),
        )

    def _lost(self, session: Session, watch: Watch, now_ns: int) -> str:
        """For how long the peer was silent, if that means that it must be let go."""
        if now_ns - max(session.heard_ns, watch.excused_ns) >= self._silence_ns:
            what = f"{self._config.link_silence_ms_max} ms"
            if watch.answered_ns:
                return what
            return f"{what}; no liveness port of it is within reach, so it may be busy or dead"
        silent_ns = now_ns - max(watch.pinged_ns, watch.answered_ns)
        if (
            watch.answered_ns
            and watch.pinged_ns > session.heard_ns
            and watch.unanswered >= UNANSWERED_MIN
            and silent_ns >= self._unreachable_ns
            and now_ns - watch.probed_ns >= self._probe_ns
        ):
            ms = (now_ns - max(session.heard_ns, watch.answered_ns)) // MS
            return f"{ms} ms, and its liveness port as well: it is stopped or cut off"
        return ""

    def _next_ping_ns(self, session: Session) -> int:
        # Who was dialled leaves it to the other end, whose links come to be due together.
        late_ns = 0 if session.dialled else self._late_ns
        silent_ns = max(session.heard_ns, session.pinged_ns) + self._ping_ns + late_ns
        return min(silent_ns, session.pinged_ns + self._refresh_ns)

    def _next_probe_ns(self, session: Session, watch: Watch) -> int:
        if not watch.has_port:
            return NEVER
        trying = 0 < watch.unanswered < UNANSWERED_MIN
        fresh_ns = watch.probed_ns + (self._again_ns if trying else self._check_ns)
        silent_ns = max(session.heard_ns + self._patience_ns, watch.probed_ns + self._probe_ns)
        return min(fresh_ns, silent_ns)

    def _is_back(self, session: Session, watch: Watch) -> None:
        stood_ms = (watch.lag_ns + session.heard_ns - watch.answered_ns) // MS
        if watch.told:
            detail = f"its event loop turns again, after some {stood_ms} ms"
            self._engine.event(Event(Event.ACTIVE, session.node_id, detail=detail))
        watch.inactive_ns, watch.told = 0, False
