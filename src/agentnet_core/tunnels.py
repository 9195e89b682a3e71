"""Tunnels: a way to a node that cannot be dialled, through one node that is linked with it.

The source asks a relay, a neighbour of the target on the rings, for one.  What either end writes comes out
at the other in order, and it is a connection like any other: all handshakes run inside of it, TLS too,
and the relay sees bytes.  It is for messages alone, and ends with either link of the relay.

    OPEN     [0, number, source, target, window]    the source asks the relay, which asks the target
    OPENED   [1, number, window]                    the target is there, the same way back
    TAKEN    [2, number, bytes]                     the other end has taken so many, in all
    END      [3, number, code, text]                it is no more, or never was, and why
    CARRY    [number, bytes]                        on the data lane; an empty one is the last

A number is that of a tunnel on one link; each end gives its own, rising, the greater node id odd ones.  A
frame of a tunnel that has ended is ignored, of one that never was, or in bytes over the window, it is a
ProtocolError.

A relay carries from one link to another, no further: the source must be who asks, the target linked, and
neither link relayed itself.  Held here: for each tunnel, `relayed_max` of others' and `tunnels_max` ends,
what its window allows each way (`tunnel_window_bytes`); one more is refused.  A search asks
`relay_tries_max` nodes, one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from agentnet_core.body import U64_MAX, expect_int, expect_list, expect_name, pack, unpack, wrong
from agentnet_core.config import EngineConfig
from agentnet_core.dials import Dial
from agentnet_core.errors import (
    DuplicateLink,
    HandshakeRefused,
    LinkLost,
    NetworkError,
    OutageError,
    ProtocolError,
    RelayRefused,
    from_code,
)
from agentnet_core.membership import Membership
from agentnet_core.records import describe
from agentnet_core.session import Session

MS = 1_000_000
NEVER = 2**63 - 1
WAITS = 4
"""The share of `link_wait_ms_max` for which one relay that was asked is waited for."""
TEXT_MAX = 512

TUNNEL = 31
OPEN, OPENED, TAKEN, END = range(4)


class Engine(Protocol):
    """What this room asks of the engine."""

    now_ns: int

    @property
    def node_id(self) -> str: ...
    @property
    def cordoned(self) -> bool: ...
    @property
    def sessions(self) -> Mapping[str, Session]: ...
    def put_control(self, session: Session, kind: int, body: bytes, /) -> None: ...
    def haul(self, session: Session, leg: Leg, /) -> None: ...
    def unhaul(self, session: Session, leg: Leg, /) -> None: ...
    def tunnelled(self, tunnel: object, /) -> None: ...
    def wake_by(self, when_ns: int, /) -> None: ...


class Leg:
    """One tunnel on one link. Out: bytes that wait, ``sent`` that went and ``taken`` that have arrived, never
    more than ``window`` between the two; ``ends``: none follow those that wait; ``shut``: and all went. In:
    ``came`` bytes, of which the other side was told of ``told``, never more than ``grant`` between the two;
    ``ended``: that was all.

    ``beyond``: the other leg, at a relay; ``end``: what the driver has of it, at an end. ``due_ns``: when
    it must be open, or have ended."""

    __slots__ = (
        *("beyond", "came", "due_ns", "end", "ended", "ends", "grant", "number", "peer", "sent"),
        *("_settle", "session", "shut", "taken", "told", "waits", "window"),
    )

    def __init__(
        self, number: int, peer: str, session: Session | None, grant: int, settle: Callable[[Leg], None]
    ) -> None:
        self.number, self.peer, self.session = number, peer, session
        self._settle = settle
        self.grant, self.window = grant, 0
        self.waits = bytearray()
        self.sent = self.taken = self.came = self.told = 0
        self.ends = self.shut = self.ended = False
        self.due_ns = NEVER
        self.beyond: Leg | None = None
        self.end: Tunnel | None = None

    def take(self, most: int) -> bytes | None:
        """The next piece to send; None if there is none, or the other end has no room for it."""
        size = min(len(self.waits), self.window - (self.sent - self.taken), most)
        if size > 0:
            piece = bytes(memoryview(self.waits)[:size])
            del self.waits[:size]
            self.sent += size
            if self.end is not None:
                self.end.took()
            return piece
        if self.ends and not (self.shut or self.waits):
            self.shut = True
            self._settle(self)
            return b""
        return None

    def receive(self, size: int) -> None:
        """So many bytes have come."""
        if self.ended:
            raise ProtocolError(f"tunnel {self.number}: bytes after the last one")
        self.came += size
        if self.came - self.told > self.grant:
            raise ProtocolError(
                f"tunnel {self.number}: {self.came - self.told} bytes at once, expected at most {self.grant} "
                "(tunnel_window_bytes)"
            )
        self.ended = size == 0

    def credit(self, taken: int) -> None:
        """The other end has taken so many of those that were sent."""
        if not self.taken <= taken <= self.sent:
            raise ProtocolError(
                f"tunnel {self.number}: TAKEN {taken}, expected {self.taken} to {self.sent} bytes"
            )
        self.taken = taken


class Tunnel:
    """An end of a tunnel, as its driver has it: what a socket is to other links.

    ``peer``: who says that it is at the other end, which is not proven yet. ``dial``: what it answers,
    None if the other end opened it. ``handle``: the driver's own, None until it has looked. ``lost``: why
    there is no tunnel any more. ``paused``: the driver waits until less is `waiting`.
    """

    def __init__(self, tunnels: Tunnels, leg: Leg, peer: str, relay: str, dial: Dial | None) -> None:
        self.peer, self.relay, self.dial = peer, relay, dial
        self.handle: Any = None
        self.paused = False
        self.lost: str | None = None
        self._tunnels, self._leg = tunnels, leg
        self._inbox = bytearray()
        self._told = False

    @property
    def address(self) -> str:
        """How it is shown."""
        return address_of(self.relay, self.peer)

    @property
    def ended(self) -> bool:
        """Whether nothing comes any more behind what `read` gives."""
        return self._leg.ended or self.lost is not None

    @property
    def waiting(self) -> int:
        """Bytes written that have not gone yet."""
        return len(self._leg.waits)

    def read(self) -> bytes:
        """All that has come, which may be nothing; the other end may send as much again."""
        self._told = False
        data = bytes(self._inbox)
        self._inbox.clear()
        if data and self.lost is None:
            self._tunnels.took(self._leg)
        return data

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send it, once there is room: `waiting` tells how much had none yet."""
        if self.lost is None and not self._leg.ends:
            self._leg.waits += data
            self._tunnels.load(self._leg)

    def close(self) -> None:
        """Nothing more is written; what waits still goes."""
        if self.lost is None and not self._leg.ends:
            self._leg.ends = True
            self._tunnels.expect_end(self._leg)
            self._tunnels.load(self._leg)

    def abort(self, reason: str = "given up") -> None:
        """It ends at once."""
        if self.lost is None:
            self._tunnels.end(self._leg, LinkLost(reason))
            self.lost = reason

    def came(self, data: bytes) -> None:
        self._inbox += data
        self.show()

    def took(self) -> None:
        if self.paused and len(self._leg.waits) < self._leg.window // 2:
            self.show()

    def broke(self, reason: str) -> None:
        self.lost = reason
        self.show()

    def show(self) -> None:
        """Let the driver look at it."""
        if not self._told:
            self._told = True
            self._tunnels.show(self)


class _Search:
    """For a way to a node. ``relays``: to be asked yet; ``leg``: of the last one; ``opened``: it agreed."""

    __slots__ = ("due_ns", "leg", "opened", "reasons", "relays")

    def __init__(self, relays: list[str]) -> None:
        self.relays = relays
        self.leg: Leg | None = None
        self.opened = False
        self.reasons: list[str] = []
        self.due_ns = NEVER


class Tunnels:
    """Those of one node: carried for others, and its own ends. ``say`` and ``no_way`` are `Reach`'s."""

    def __init__(self, engine: Engine, membership: Membership, config: EngineConfig) -> None:
        self.say: Callable[[str, int, bytes, Callable[[NetworkError], None]], None]
        self.no_way: Callable[[str, str], None]
        self.opened = self.refused = self.bytes_relayed = 0
        self.leaving = False
        self._engine, self._membership, self._config = engine, membership, config
        self._window = config.tunnel_window_bytes
        self._try_ns = config.link_wait_ms_max * MS // WAITS
        self._next = 0
        self._mine: dict[int, Leg] = {}
        """Those that this node numbered."""
        self._theirs: dict[Session, dict[int, Leg]] = {}
        self._highest: dict[Session, int] = {}
        self._relayed = self._ends = 0
        self._searches: dict[str, _Search] = {}

    def stats(self) -> dict[str, int]:
        """Every counter, by name."""
        return {
            "tunnels": self._ends,
            "tunnels_opened": self.opened,
            "tunnels_relayed": self._relayed,
            "tunnels_refused": self.refused,
            "bytes_relayed": self.bytes_relayed,
        }

    # -- looking for a way

    def seek(self, node_id: str) -> str:
        """Look for a way to the node; why there is none, empty if there may be one.

        A link to it comes, or `no_way` is called.
        """
        if node_id in self._searches:
            return ""
        relays = [each for each in self._membership.relays(node_id) if not self._is_relayed(each)]
        search = self._searches[node_id] = _Search(relays[: self._config.relay_tries_max])
        return self._ask_next(node_id, search)

    def found(self, node_id: str) -> None:
        """There is a link to the node, or nobody needs one any more."""
        search = self._searches.pop(node_id, None)
        if search is not None and search.leg is not None and not search.opened:
            self.end(search.leg, LinkLost("it is not needed any more"))

    def dial_failed(self, dial: Dial, error: NetworkError) -> None:
        """What was to run inside a tunnel did not come to be."""
        node_id = dial.node_id or ""
        search = self._searches.get(node_id)
        if search is None or search.leg is None or search.leg.peer != dial.relay or not search.opened:
            return
        if isinstance(error, DuplicateLink):
            del self._searches[node_id]  # another link of the two stays
            return
        if isinstance(error, HandshakeRefused):
            search.relays.clear()  # so would it through any other
        self._failed(node_id, search, f"through {dial.relay}: {error}")

    def _ask_next(self, node_id: str, search: _Search) -> str:
        """Ask the next relay; why there is none, if so: then the search is over."""
        own = self._engine.node_id
        if self._ends >= self._config.tunnels_max:
            search.relays.clear()
            search.reasons.append(f"{self._ends} tunnels end here already (tunnels_max)")
        if not search.relays:
            del self._searches[node_id]
            return "; ".join(search.reasons) or "no other node is linked with it"
        relay = search.relays.pop(0)
        search.opened = False
        search.leg = leg = self._number(relay, None, self._window)
        search.due_ns = self._engine.now_ns + self._try_ns
        self._engine.wake_by(search.due_ns)
        self._ends += 1
        body = pack([OPEN, leg.number, own, node_id, self._window])
        self.say(relay, TUNNEL, body, lambda error: self._unsaid(node_id, leg, error))
        return ""

    def _unsaid(self, node_id: str, leg: Leg, error: NetworkError) -> None:
        """The relay could not be asked; that may be known at once."""
        search = self._searches.get(node_id)
        if search is not None and search.leg is leg:
            self._drop(leg)
            search.leg, search.due_ns = None, self._engine.now_ns
            search.reasons.append(str(error))
            self._engine.wake_by(search.due_ns)

    def _failed(self, node_id: str, search: _Search, reason: str = "") -> None:
        search.reasons += [reason] if reason else []
        why = self._ask_next(node_id, search)
        if why:
            self.no_way(node_id, why)

    def _is_relayed(self, node_id: str) -> bool:
        session = self._engine.sessions.get(node_id)
        return session is not None and bool(session.relay)

    # -- frames

    def receive(self, session: Session, body: bytes) -> None:
        """A TUNNEL frame."""
        verb, number, *said = expect_list("TUNNEL", unpack("TUNNEL", body), range(3, 6))
        expect_int("TUNNEL number", number, 0, U64_MAX)
        expect_int("TUNNEL verb", verb, OPEN, END)
        if len(said) != (3, 1, 1, 2)[verb]:
            raise wrong("TUNNEL", f"{(5, 3, 3, 4)[verb]} values for verb {verb}", len(said) + 2)
        if verb == OPEN:
            source, target = (expect_name("TUNNEL node", each) for each in said[:2])
            self._on_open(session, number, source, target, expect_int("TUNNEL window", said[2], 1, U64_MAX))
            return
        value = expect_int("TUNNEL value", said[0], 0, U64_MAX)
        leg = self._leg(session, number)
        if verb == END:
            if type(said[1]) is not str or len(said[1]) > TEXT_MAX:
                raise wrong("TUNNEL text", f"at most {TEXT_MAX} characters", said[1])
            if leg is not None:
                self._on_end(leg, from_code(value, _plain(said[1])))
        elif leg is None:
            if verb == OPENED:
                self._say_end(session, number, LinkLost("nobody waits for it any more"))
        elif verb == OPENED:
            self._on_opened(leg, value)
        else:
            leg.credit(value)
            if leg.beyond is not None:
                self.took(leg.beyond)
            else:
                self.load(leg)

    def carried(self, session: Session, number: int, piece: bytes) -> None:
        """A CARRY frame."""
        leg = self._leg(session, number)
        if leg is None:
            return
        leg.receive(len(piece))
        onward = leg.beyond
        if onward is not None:
            self.bytes_relayed += len(piece)
            onward.waits += piece
            onward.ends = not piece
            self.load(onward)
        elif leg.end is not None:
            leg.end.came(piece)
            self._settle(leg)

    def _leg(self, session: Session, number: int) -> Leg | None:
        """The tunnel of that number on that link; None if it has ended."""
        if self._is_mine(session, number):
            leg = self._mine.get(number)
            if leg is not None and leg.session is None and leg.peer == session.node_id:
                leg.session = session
            if leg is not None and leg.session is session:
                return leg
            known = number < self._next
        else:
            leg = self._theirs.get(session, {}).get(number)
            known = number <= self._highest.get(session, -1)
        if leg is None and not known:
            raise ProtocolError(f"TUNNEL frame: there never was a tunnel {number} on this link")
        return leg

    def _is_mine(self, session: Session, number: int) -> bool:
        return bool(number & 1) == (self._engine.node_id > session.node_id)

    def _number(self, peer: str, session: Session | None, grant: int) -> Leg:
        """A new tunnel of this node's on a link, which there may not be yet."""
        number = self._next + (self._next & 1 != (self._engine.node_id > peer))
        self._next = number + 1
        leg = self._mine[number] = Leg(number, peer, session, grant, self._settle)
        return leg

    # -- opening

    def _on_open(self, session: Session, number: int, source: str, target: str, window: int) -> None:
        if self._is_mine(session, number) or number <= self._highest.get(session, -1):
            raise ProtocolError(f"OPEN: tunnel {number} is not the next that node {session.node_id} may open")
        self._highest[session] = number
        refusal = self._refusal(session, source, target)
        if refusal:
            self.refused += 1
            self._say_end(session, number, RelayRefused(f"node {self._engine.node_id} {refusal}"))
            return
        leg = Leg(number, session.node_id, session, self._window, self._settle)
        leg.window = min(window, self._window)
        self._theirs.setdefault(session, {})[number] = leg
        if target == self._engine.node_id:
            self._ends += 1
            leg.end = Tunnel(self, leg, source, session.node_id, None)
            self._say(leg, OPENED, self._window)
            leg.end.show()
            return
        self._relayed += 1
        onward = self._engine.sessions[target]
        leg.beyond = beyond = self._number(target, onward, leg.window)
        beyond.beyond = leg
        beyond.due_ns = self._engine.now_ns + self._config.handshake_ms_max * MS
        self._engine.wake_by(beyond.due_ns)
        self._say(beyond, OPEN, source, target, leg.window)

    def _refusal(self, session: Session, source: str, target: str) -> str:
        """Why this node will not carry it, or be its end; empty if it will."""
        engine, config = self._engine, self._config
        if session.relay:
            return "takes no tunnel through a tunnel"
        if self.leaving:
            return "leaves the network"
        if target == engine.node_id:
            if self._ends >= config.tunnels_max:
                return f"is the end of {self._ends} tunnels already (tunnels_max)"
            return "is the source itself" if source == engine.node_id else ""
        if source != session.node_id:
            return f"carries for who asks alone: node {session.node_id} asks for node {source}"
        if not config.relay:
            return "does not relay (relay=False)"
        if engine.cordoned:
            return "is in maintenance"
        onward = engine.sessions.get(target)
        if onward is None or onward.relay or target == source:
            return f"is not linked with node {target}"
        if self._relayed >= config.relayed_max:
            return f"relays {self._relayed} tunnels already (relayed_max)"
        return ""

    def _on_opened(self, leg: Leg, window: int) -> None:
        target = next((each for each, search in self._searches.items() if search.leg is leg), None)
        opening = leg.due_ns != NEVER or target is not None
        if not opening or leg.window or self._mine.get(leg.number) is not leg or window == 0:
            raise ProtocolError(f"OPENED: tunnel {leg.number} is open already, or its window is 0")
        leg.window, leg.due_ns = min(window, self._window), NEVER
        if leg.beyond is not None:
            leg.beyond.grant = leg.window
            self._say(leg.beyond, OPENED, leg.window)
            self.load(leg)
        elif target is not None:
            search = self._searches[target]
            search.opened, search.due_ns = True, NEVER
            dial = Dial(address_of(leg.peer, target), target, leg.peer)
            leg.end = Tunnel(self, leg, target, leg.peer, dial)
            self.opened += 1
            leg.end.show()

    # -- what ends asks

    def show(self, tunnel: Tunnel) -> None:
        self._engine.tunnelled(tunnel)

    def expect_end(self, leg: Leg) -> None:
        """The other end is to close, too, and soon."""
        leg.due_ns = self._engine.now_ns + self._config.handshake_ms_max * MS
        self._engine.wake_by(leg.due_ns)

    def load(self, leg: Leg) -> None:
        """It has something to send, or may send on."""
        if leg.session is not None:
            self._engine.haul(leg.session, leg)
        self._settle(leg)

    def took(self, leg: Leg) -> None:
        """What had come on it has been taken; the other side is told in good time."""
        taken = leg.beyond.taken if leg.beyond is not None else leg.came
        if leg.beyond is not None or (taken - leg.told) * 4 >= leg.grant:
            leg.told = taken
            self._say(leg, TAKEN, taken)

    def end(self, leg: Leg, error: NetworkError) -> None:
        """The tunnel ends here and now; the other side is told why."""
        if self._drop(leg) and leg.session is not None:
            self._say_end(leg.session, leg.number, error)

    # -- ending

    def _settle(self, leg: Leg) -> None:
        """Forget it if both directions have ended."""
        beyond = leg.beyond
        if beyond is None:
            beyond = leg
        if leg.ended and beyond.ended and leg.shut and beyond.shut:
            self._drop(leg)

    def _on_end(self, leg: Leg, error: NetworkError) -> None:
        """Its other side says that there is no tunnel any more, or its link is gone."""
        onward = leg.beyond
        self._drop(leg)
        if onward is not None:
            if onward.session is not None:
                self._say_end(onward.session, onward.number, error)
        elif leg.end is not None:
            leg.end.broke(f"the tunnel through node {leg.peer} ended: {error}")
        else:
            for node_id, search in list(self._searches.items()):
                if search.leg is leg:
                    self._failed(node_id, search, str(error))

    def _drop(self, leg: Leg) -> bool:
        """Forget a tunnel; whether it was known."""
        known = self._forget(leg)
        if known and leg.beyond is not None:
            self._relayed -= 1
            self._forget(leg.beyond)
        elif known:
            self._ends -= 1
        return known

    def _forget(self, leg: Leg) -> bool:
        if leg.session is not None:
            self._engine.unhaul(leg.session, leg)
        if self._mine.get(leg.number) is leg:
            del self._mine[leg.number]
            return True
        if leg.session is None:
            return False
        theirs = self._theirs.get(leg.session, {})
        return theirs.pop(leg.number, None) is leg

    def closed(self, session: Session) -> None:
        """A link is gone, and all tunnels on it."""
        legs = list(self._theirs.get(session, {}).values())
        legs += [leg for leg in self._mine.values() if leg.session is session]
        for leg in legs:
            self._on_end(leg, LinkLost(f"the link of node {self._engine.node_id} to node {leg.peer} is gone"))
        self._theirs.pop(session, None)
        self._highest.pop(session, None)

    def carries(self, session: Session) -> bool:
        """Whether tunnels are on that link."""
        return bool(self._theirs.get(session)) or any(leg.session is session for leg in self._mine.values())

    # -- time

    def tick(self, now_ns: int) -> int:
        """What is due; the time of the next thing."""
        if not (self._mine or self._theirs or self._searches):
            return NEVER
        for leg in [leg for leg in self._all() if now_ns >= leg.due_ns]:
            error = OutageError(f"node {leg.peer} has not answered in time")
            self.end(leg, error)
            if leg.beyond is not None and leg.beyond.session is not None:
                self._say_end(leg.beyond.session, leg.beyond.number, error)
        for node_id, search in list(self._searches.items()):
            if now_ns >= search.due_ns and search.leg is None:
                self._failed(node_id, search)
            elif now_ns >= search.due_ns and search.leg is not None:
                leg, search.leg = search.leg, None
                self.end(leg, LinkLost("it was not open in time"))
                self._failed(node_id, search, f"node {leg.peer} has not answered in time")
        dues = [search.due_ns for search in self._searches.values()]
        return min([*dues, *(leg.due_ns for leg in self._all())], default=NEVER)

    def _all(self) -> list[Leg]:
        return [*self._mine.values(), *(leg for legs in self._theirs.values() for leg in legs.values())]

    # -- saying

    def _say(self, leg: Leg, verb: int, *said: object) -> None:
        if leg.session is not None and not leg.session.closed:
            self._engine.put_control(leg.session, TUNNEL, pack([verb, leg.number, *said]))

    def _say_end(self, session: Session, number: int, error: NetworkError) -> None:
        if not session.closed:
            body = pack([END, number, error.code, _plain(str(error)[:TEXT_MAX])])
            self._engine.put_control(session, TUNNEL, body)


def _plain(text: str) -> str:
    return text if text.isprintable() else describe(text, TEXT_MAX)


def address_of(relay: str, node_id: str) -> str:
    """How a tunnel to a node is written where links have an address."""
    return f"relay://{relay}/{node_id}"
