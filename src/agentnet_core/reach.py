"""Links for messages: made when something is to be sent, given up when both sides can do without.

The overlay keeps a handful of links; any other link is made for whoever wants to send.  In: nodes
that are wanted, control frames for them, how their dials end, links that come and go, RETIRE and
STAY.  Out: requests to the membership to dial, what the engine is to hold, let go or fail.

    wanted    messages wait at the engine, control frames here, while the node is dialled: each
              address once, or until `link_wait_ms_max`. For messages a way through another node is
              looked for (`tunnels`) when all were in vain, or after `relay_after_ms`, and it is
              dialled on: a link of its own takes over from one that is relayed, which ends when all
              that was sent on it is answered. Else they fail, and surely were not sent
    in use    until no message has gone either way for `data_idle_ms`, or for an eighth of that since it
              was made, or another link needs the
              place (`data_links_max`) and this one is not needed and was used least recently
    retiring  this side sends no message and says RETIRE, for nothing of its own is on its way. The
              other one answers STAY if it keeps the link, or if anything waits, is unconfirmed or is
              to be answered there: then both go on. Else it lets go, and says CLOSE (IDLE)
    let go    it is no link any more, whatever comes next waits for another. Who has read CLOSE hangs
              up, and only then the other: who closes first might take the last words back

So nothing is on its way in either direction when a link ends.  If both say RETIRE at once, both answer.
Held here: control frames for nodes without a link, `control_kept_max` in all, and one entry for
each link and each node that is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from agentnet_core.body import expect_list, unpack
from agentnet_core.config import EngineConfig
from agentnet_core.errors import (
    AgentUnreachable,
    Congested,
    DuplicateLink,
    HandshakeRefused,
    LinkLost,
    NetworkError,
    ProtocolError,
)
from agentnet_core.handshake import Close
from agentnet_core.membership import Membership
from agentnet_core.session import Session

MS = 1_000_000
NEVER = 2**63 - 1
AT_NEXT_TICK = 0
"""The clock may be older than whoever sends: a deadline runs from when it was set."""
LOOKS = 8
"""How often an idle link is looked at before it is retired."""
NOWHERE = "it is lost, has left or has no address that is known"
FULL_LOOK_NS = 50 * MS
OLD_LOOK_NS = 20 * MS
"""How often a link is looked at that another has taken over from."""
"""How often a place is looked for while somebody waits for one."""

CLOSE, RETIRE, STAY = 2, 14, 15
NOTHING = b"\x90"
"""The body of RETIRE and STAY: an empty list."""

Unsaid = Callable[[NetworkError], None]
"""Called with the error if a control frame surely was not put on any link."""


class Say(Protocol):
    """`Reach.say`: put a control frame on the link to a node, once there is one."""

    def __call__(self, node_id: str, kind: int, body: bytes, unsaid: Unsaid | None = None, /) -> None: ...


class Engine(Protocol):
    """What this room asks of the engine."""

    now_ns: int

    @property
    def sessions(self) -> Mapping[str, Session]: ...
    @property
    def awaited(self) -> Mapping[str, Session]: ...
    def put_control(self, session: Session, kind: int, body: bytes, /) -> None: ...
    def unreachable(self, node_id: str, error: NetworkError, /) -> None: ...
    def is_drained(self, session: Session, /) -> bool: ...
    def idle(self, sessions: list[Session], /) -> list[Session]: ...
    def hold(self, session: Session, /) -> None: ...
    def unhold(self, session: Session, /) -> None: ...
    def retire(self, session: Session, error: NetworkError, /) -> None: ...
    def down(self, session: Session, error: NetworkError, /) -> None: ...
    def wake_by(self, when_ns: int, /) -> None: ...


class Ways(Protocol):
    """Other ways to a node than its addresses."""

    def seek(self, node_id: str, /) -> str:
        """Look for one; why there is none, empty if there may be. `Reach.no_way` tells if it was in vain."""

    def found(self, node_id: str, /) -> None:
        """None is needed any more."""

    def carries(self, session: Session, /) -> bool:
        """Whether others depend on that link."""


class _Want:
    """A node that is wanted. ``left``: its addresses that were not dialled in vain yet, None while there is
    no place for the link; ``reason``: why the last one was in vain. ``for_messages``: not for control frames
    alone. ``seek_ns``: when to look for another way; ``no_way``: why there is none, empty while one is looked
    for, None before."""

    __slots__ = ("deadline_ns", "for_messages", "frames", "left", "no_way", "reason", "seek_ns")

    def __init__(self) -> None:
        self.deadline_ns = self.seek_ns = NEVER
        self.for_messages = False
        self.no_way: str | None = None
        self.left: int | None = None
        self.reason = ""
        self.frames: list[tuple[int, bytes, Unsaid | None]] = []


class _Use:
    """Of a link: ``moved`` bytes of data when it was looked at last, and since when these are all."""

    __slots__ = ("moved", "since_ns")

    def __init__(self, moved: int, since_ns: int) -> None:
        self.moved, self.since_ns = moved, since_ns


class Reach:
    """Which nodes are wanted, and which links are not any more."""

    def __init__(self, engine: Engine, membership: Membership, ways: Ways, config: EngineConfig) -> None:
        self._engine = engine
        self._membership = membership
        self._ways = ways
        self._seek_after_ns = config.relay_after_ms * MS
        self._wait_ns = config.link_wait_ms_max * MS
        self._hang_up_ns = config.handshake_ms_max * MS
        self._idle_ns = config.data_idle_ms * MS
        self._links_max = config.data_links_max
        self._kept_max, self._kept_bytes_max = config.control_kept_max, config.control_kept_bytes_max
        self._kept = self._kept_bytes = 0
        self._wants: dict[str, _Want] = {}
        self._uses: dict[Session, _Use] = {}
        self._retiring: dict[Session, None] = {}
        self._let_go: dict[Session, int] = {}
        self._older: dict[Session, Session] = {}
        """Relayed links, and those that took over from them."""
        self._look_ns = NEVER
        self._ended = ""

    # -- wanting

    def reach(self, node_id: str) -> None:
        """Messages are to wait for a link to the node; AgentUnreachable, definite, if there can be none.

        `Engine.welcome` or `Engine.unreachable` follows.
        """
        self._reach(node_id, for_messages=True)

    def _reach(self, node_id: str, *, for_messages: bool) -> None:
        if self._ended:
            raise _unreachable(node_id, self._ended)
        want = self._wants.get(node_id) or _Want()
        want.for_messages = want.for_messages or for_messages
        if not self._dial(node_id, want):
            raise _unreachable(node_id, NOWHERE)
        want.deadline_ns = AT_NEXT_TICK
        self._wants[node_id] = want
        if want.left is None:
            self._look_by(self._engine.now_ns)
        self._engine.wake_by(self._engine.now_ns)

    def say(self, node_id: str, kind: int, body: bytes, unsaid: Unsaid | None = None) -> None:
        """Put a control frame on the link to the node, once there is one.

        ``unsaid``: called, perhaps at once, with the error if it surely was not put on any.
        """
        session = self._engine.sessions.get(node_id)
        if session is not None and session not in self._retiring:
            self._uses[session].since_ns = self._engine.now_ns
            self._engine.put_control(session, kind, body)
            return
        if self._kept >= self._kept_max or self._kept_bytes + len(body) > self._kept_bytes_max:
            error: NetworkError = Congested(
                f"{self._kept} control frames of {self._kept_bytes} bytes wait for links already "
                f"(control_kept_max, control_kept_bytes_max); none was kept for node {node_id}"
            )
        else:
            try:
                if session is None and node_id not in self._wants:
                    self._reach(node_id, for_messages=False)
                self._keep(self._wants.setdefault(node_id, _Want()), kind, body, unsaid)
                return
            except AgentUnreachable as found:
                error = found
        if unsaid is not None:
            unsaid(error)

    def dial_failed(self, node_id: str | None, error: NetworkError) -> None:
        """A dial of the node, or the link that it gave, came to nothing."""
        want = self._wants.get(node_id) if node_id is not None else None
        if node_id is None or want is None or want.left is None:
            return
        want.reason = str(error)
        if isinstance(error, DuplicateLink):
            return  # another link of the two nodes stays, or an old one is being probed: dialled again
        want.left -= 1
        if want.left <= 0 and (isinstance(error, HandshakeRefused) or not self._seek(node_id, want)):
            self._give_up(node_id, _why(want))

    def no_way(self, node_id: str, reason: str) -> None:
        """There is no other way to the node than to dial it."""
        want = self._wants.get(node_id)
        if want is not None and want.no_way is not None:
            want.no_way = reason
            if want.left is not None and want.left <= 0:
                self._give_up(node_id, _why(want))

    def gone(self, node_id: str, why: str) -> None:
        """The node is lost, or has left."""
        if node_id in self._wants and node_id not in self._engine.sessions:
            self._give_up(node_id, why)

    def end(self) -> None:
        """This node leaves: it makes no more links."""
        self._ended = "this node leaves the network"
        for node_id in list(self._wants):
            self._give_up(node_id, self._ended)

    def _dial(self, node_id: str, want: _Want) -> bool:
        """Have the node dialled, once there is a place for the link; False if nobody knows where it is."""
        if want.left is None and self._has_place(node_id):
            left = self._membership.reach(node_id, self._engine.now_ns)
            in_vain = left == 0 or self._membership.is_in_vain(node_id)
            if in_vain and not self._seek(node_id, want) and left == 0:
                return False
            want.left = left
        return True

    def _seek(self, node_id: str, want: _Want) -> bool:
        """Look for another way, if that was not done yet; whether there may be one."""
        if want.no_way is None:
            want.no_way = self._ways.seek(node_id) if want.for_messages else "it is for messages alone"
        return not want.no_way

    def _give_up(self, node_id: str, reason: str) -> None:
        want = self._wants.pop(node_id)
        self._membership.release(node_id)
        self._ways.found(node_id)
        error = _unreachable(node_id, reason)
        self._engine.unreachable(node_id, error)
        for _, _, unsaid in self._take_frames(want):
            if unsaid is not None:
                unsaid(error)

    # -- control frames that wait

    def _keep(self, want: _Want, kind: int, body: bytes, unsaid: Unsaid | None) -> None:
        want.frames.append((kind, body, unsaid))
        self._kept += 1
        self._kept_bytes += len(body)

    def _take_frames(self, want: _Want) -> list[tuple[int, bytes, Unsaid | None]]:
        frames, want.frames = want.frames, []
        self._kept -= len(frames)
        self._kept_bytes -= sum(len(body) for _, body, _ in frames)
        return frames

    def _say_kept(self, session: Session) -> None:
        want = self._wants.pop(session.node_id, None)
        if want is not None:
            for kind, body, _ in self._take_frames(want):
                self._engine.put_control(session, kind, body)

    # -- links that come and go

    def welcomed(self, session: Session, old: Session | None = None) -> None:
        """There is a link: what waited for it goes. ``old``: one that was there; the relayed one ends."""
        now = self._engine.now_ns
        self._uses[session] = _Use(session.moved, now)
        self._ways.found(session.node_id)
        if not session.relay:  # while it is, the node is dialled on
            self._membership.release(session.node_id)
        self._say_kept(session)
        if old is not None and not old.closed:
            older, newer = (session, old) if session.relay else (old, session)
            self._older[older] = newer
            self._look_by(now)
        self._look_by(now + min(self._idle_ns // LOOKS, FULL_LOOK_NS if self._is_full() else NEVER))

    def closed(self, session: Session) -> None:
        """A link is gone, and the membership knows; what still waits for it is to go by another."""
        self._uses.pop(session, None)
        self._retiring.pop(session, None)
        self._yield_place(session)
        node_id = session.node_id
        want = self._wants.get(node_id)
        if session.relay and want is None and node_id not in self._engine.sessions:
            self._membership.release(node_id)
        aside = node_id in self._engine.awaited if want is None else want.deadline_ns == NEVER
        if aside and node_id not in self._engine.sessions:
            self._reach_again(node_id)
        if any(self._waits(want) for want in self._wants.values()):
            self._look_by(self._engine.now_ns)

    def _reach_again(self, node_id: str) -> None:
        try:
            self.reach(node_id)
        except AgentUnreachable:
            self._wants.setdefault(node_id, _Want())
            self._give_up(node_id, self._ended or NOWHERE)

    def receive(self, session: Session, kind: int, body: bytes) -> None:
        """RETIRE or STAY of the peer."""
        engine = self._engine
        expect_list("RETIRE or STAY", unpack("RETIRE or STAY", body), range(1))
        if kind == STAY:
            if session not in self._retiring:
                raise ProtocolError("STAY: expected only as the answer to RETIRE")
            del self._retiring[session]
            self._uses[session].since_ns = engine.now_ns
            engine.unhold(session)
            self._say_kept(session)
        elif self._is_needed(session):
            engine.put_control(session, STAY, NOTHING)
        else:
            close = Close(Close.IDLE, f"the link of node {session.node_id} is not used")
            engine.put_control(session, CLOSE, close.encode())
            self._let_go[session] = engine.now_ns + self._hang_up_ns
            engine.wake_by(self._let_go[session])
            engine.retire(session, close.error())

    def _yield_place(self, old: Session) -> None:
        """All that was sent on a link has been taken, or never will be: what waits goes by the newer one."""
        new = self._older.get(old)
        if new is not None and not new.closed and new not in self._retiring:
            self._engine.unhold(new)
        if old.closed:
            self._older.pop(old, None)

    def _is_needed(self, session: Session) -> bool:
        wanted = self._keeps(session) or session.node_id in self._wants or self._ways.carries(session)
        return wanted or not self._engine.idle([session])

    # -- time

    def tick(self, now_ns: int) -> int:
        """What is due; the time of the next thing."""
        if now_ns < self._look_ns and not (self._wants or self._let_go):
            return self._look_ns
        for node_id, want in list(self._wants.items()):
            if want.deadline_ns == AT_NEXT_TICK:
                want.deadline_ns, want.seek_ns = now_ns + self._wait_ns, now_ns + self._seek_after_ns
            elif now_ns >= want.deadline_ns:
                self._give_up(node_id, self._late(want))
            elif now_ns >= want.seek_ns and want.left is not None:
                want.seek_ns = NEVER
                self._seek(node_id, want)
        for session, deadline_ns in list(self._let_go.items()):
            if session.closed or now_ns >= deadline_ns:
                del self._let_go[session]
                self._engine.down(session, LinkLost(f"node {session.node_id} did not hang up"))
        if now_ns >= self._look_ns:
            self._look(now_ns)
        deadlines = [min(want.deadline_ns, want.seek_ns) for want in self._wants.values()]
        return min(self._look_ns, *deadlines, *self._let_go.values(), NEVER)

    def _late(self, want: _Want) -> str:
        if want.left is None:
            return f"{self._links_max} others are in use (data_links_max)"
        return f"{_why(want)}, for {self._wait_ns // MS} ms (link_wait_ms_max)"

    def _look_by(self, when_ns: int) -> None:
        self._look_ns = min(self._look_ns, when_ns)
        self._engine.wake_by(self._look_ns)

    def _look(self, now_ns: int) -> None:
        """Retire what is not used, and make a place for each link that waits for one."""
        for session, use in self._uses.items():
            if session.moved != use.moved:
                use.moved, use.since_ns = session.moved, now_ns
        for session in [each for each in self._older if self._engine.is_drained(each)]:
            self._yield_place(session)
        for node_id, want in list(self._wants.items()):
            if self._waits(want) and not self._dial(node_id, want):
                self._give_up(node_id, NOWHERE)
        excess = self._in_use() - self._links_max + sum(self._waits(want) for want in self._wants.values())
        newer = list(self._older.values())
        candidates = [
            s
            for s in self._uses
            if not (s in self._retiring or s in newer or self._keeps(s) or self._ways.carries(s))
        ]
        candidates.sort(key=lambda session: self._uses[session].since_ns)
        old = [s for s in candidates if self._is_old(s, now_ns)]
        some = candidates if excess > len(self._retiring) else old
        for session in self._engine.idle(some):
            if len(self._retiring) < excess or self._is_old(session, now_ns):
                self._retiring[session] = None
                self._engine.hold(session)
                self._engine.put_control(session, RETIRE, NOTHING)
        every_ns = min(self._idle_ns // LOOKS, FULL_LOOK_NS if excess > 0 else NEVER)
        every_ns = min(every_ns, OLD_LOOK_NS if self._older else NEVER)
        self._look_ns = now_ns + max(every_ns, MS) if self._uses or self._wants else NEVER

    def _is_old(self, session: Session, now_ns: int) -> bool:
        # What was linked for the overlay alone, and is not any more, is given up sooner.
        idle_ns = self._idle_ns if session.moved else self._idle_ns // LOOKS
        return session in self._older or now_ns - self._uses[session].since_ns >= idle_ns

    def _keeps(self, session: Session) -> bool:
        return not session.relay and self._membership.keeps_link(session.node_id)

    def _waits(self, want: _Want) -> bool:
        return want.left is None and want.deadline_ns != NEVER

    def _in_use(self) -> int:
        """Links of no use to the overlay, and dials of such."""
        dialled = [node_id for node_id, want in self._wants.items() if want.left is not None]
        linked = sum(not self._keeps(session) for session in self._uses)
        return linked + sum(not self._membership.keeps_link(node_id) for node_id in dialled)

    def _is_full(self) -> bool:
        return not self._are_few and self._in_use() > self._links_max

    def _has_place(self, node_id: str) -> bool:
        return self._are_few or self._membership.keeps_link(node_id) or self._in_use() < self._links_max

    @property
    def _are_few(self) -> bool:
        """Whether there is a place, whatever all links are for: as a rule, and told without counting."""
        return len(self._uses) + len(self._wants) < self._links_max


def _why(want: _Want) -> str:
    """Why there is no link to the node."""
    tried = f"; through others: {want.no_way}" if want.no_way and want.for_messages else ""
    return (want.reason or "no answer") + tried


def _unreachable(node_id: str, reason: str) -> AgentUnreachable:
    return AgentUnreachable(f"no link to node {node_id} could be made: {reason}; nothing was sent")
