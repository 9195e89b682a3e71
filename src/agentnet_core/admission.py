"""Who is let in: every link from its HELLO to WELCOME, or to the CLOSE that says why not.

In: links that open and close, their HELLO and WELCOME, ticks.  Out: control frames, and one call for
each link that both sides may use from now on.  `handshake` has the law, what fits and which of two
links to one node stays; here it is carried out: an older link in question is pinged, and newcomers
wait for what comes of it.

It holds at most one Hello, one dial and one question for each open link, which `handshake_ms_max`
and `redial_ms_max` end.  A link that is not let in fails with HandshakeRefused, told on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

from agentnet_core.config import OPTIONAL_BYTES_MAX, EngineConfig
from agentnet_core.dials import Dial
from agentnet_core.errors import HandshakeRefused, JoinFailed, LinkLost, NetworkError, ProtocolError
from agentnet_core.handshake import (
    CHECKSUM_CRC32C,
    CHECKSUM_NONE,
    FEATURE_DELIVERY,
    FEATURE_PRUNING,
    FEATURE_SIGNED,
    FEATURE_STATES,
    Agreed,
    Close,
    Hello,
    LinkView,
    Ruling,
    Verdict,
    Welcome,
    arbitrate,
    is_self,
    judge,
)
from agentnet_core.liveness import Liveness
from agentnet_core.message import Origin
from agentnet_core.session import Session

MS = 1_000_000
NEVER = 2**63 - 1

HELLO, WELCOME, CLOSE = 0, 1, 2


class Engine(Protocol):
    """What this room asks of the engine."""

    @property
    def node_id(self) -> str: ...
    @property
    def incarnation(self) -> int: ...
    @property
    def now_ns(self) -> int: ...
    @property
    def sessions(self) -> Mapping[str, Session]: ...
    def put_control(self, session: Session, kind: int, body: bytes, /) -> None: ...
    def ping(self, session: Session, /) -> None: ...
    def fail(self, session: Session, error: NetworkError, /) -> None: ...
    def down(self, session: Session, error: NetworkError, /) -> None: ...
    def wake_by(self, when_ns: int, /) -> None: ...


class House(Protocol):
    """What is asked, and told, about who comes."""

    def refusal(self, node_id: str, incarnation: int, /) -> str | None:
        """Why a link to that node cannot be; None if it can."""

    def met_self(self, address: str, /) -> None:
        """The node itself is at that address."""

    def let_in(self, session: Session, dial: Dial | None, confirmed: bool, /) -> None:
        """The link is in use from now on. ``confirmed``: by both sides."""


class Admission:
    """The door of one node."""

    def __init__(
        self,
        engine: Engine,
        house: House,
        liveness: Liveness,
        config: EngineConfig,
        *,
        network_uuid: bytes,
        plaintext: bool,
        signed: bool = False,
    ) -> None:
        self.network_uuid = network_uuid
        """Of the network that the node is in; empty while it is in none."""
        self.addresses: tuple[str, ...] = ()
        self.offer_liveness: Callable[[], tuple[int, int, bytes] | None] = lambda: None
        """UDP port, TCP port and key of the next link's liveness probes; the driver has them."""
        self.plaintext = plaintext
        self._features = FEATURE_SIGNED if signed else 0
        self._engine = engine
        self._house = house
        self._liveness = liveness
        self._config = config
        self._dials: dict[Session, Dial] = {}
        self._agreed: dict[Session, Agreed] = {}
        self._probes: dict[Session, tuple[Session, Verdict, int]] = {}
        self._asked: dict[Session, int] = {}

    # -- links, as the engine tells

    def opened(self, session: Session, dial: Dial | None) -> None:
        """A connection is there: say who we are."""
        if dial is not None:
            self._dials[session] = dial
        session.hello = self._hello(session)
        self._engine.put_control(session, HELLO, session.hello.encode())

    def closed(self, session: Session) -> Dial | None:
        """A link is gone; the dial that it was to answer, and has not."""
        self._agreed.pop(session, None)
        self._probes.pop(session, None)
        self._asked.pop(session, None)
        return self._dials.pop(session, None)

    def receive(self, session: Session, kind: int, body: bytes) -> bool:
        """Take a frame, if it is one of these, and in its place."""
        if kind == HELLO and session not in self._agreed:
            self._on_hello(session, Hello.decode(body))
        elif kind == WELCOME and session in self._agreed and not session.welcomed:
            self._on_welcome(session, Welcome.decode(body))
        else:
            return False
        return True

    def close(self, session: Session, close: Close) -> None:
        """End a link for that reason."""
        if not close.benign:
            return self._engine.fail(session, close.error())
        self._engine.put_control(session, CLOSE, close.encode())
        self._engine.down(session, close.error())

    # -- both Hellos

    def _hello(self, session: Session) -> Hello:
        return Hello(
            network=self._config.network,
            node_id=self._engine.node_id,
            incarnation=self._engine.incarnation,
            network_uuid=self.network_uuid,
            frame_bytes_max=self._config.frame_bytes_max,
            message_bytes_max=self._config.message_bytes_max,
            credit_bytes=self._config.link_window_bytes,
            checksum=CHECKSUM_NONE if session.secure else CHECKSUM_CRC32C,
            addresses=self.addresses,
            plaintext=self.plaintext,
            # Who cannot dial this node cannot probe it.
            liveness=None if session.relay else self.offer_liveness(),
            features_required=self._features,
            features_optional=FEATURE_DELIVERY | FEATURE_STATES | FEATURE_PRUNING,
        )

    def _on_hello(self, session: Session, remote: Hello) -> None:
        local: Hello = replace(session.hello, network_uuid=self.network_uuid)
        session.set_checksum(bool(max(local.checksum, remote.checksum)))
        if is_self(local, remote):
            self._house.met_self(session.address)
            raise HandshakeRefused(f"{session.address} is this node itself")
        if local.network == remote.network and not local.network_uuid and not remote.network_uuid:
            raise JoinFailed(
                f"nodes {local.node_id!r} and {remote.node_id!r} are both still joining network "
                f"{local.network!r}: one node must found it, with join_network([])"
            )
        agreed = judge(local, remote, session.certified)
        if agreed.features & FEATURE_SIGNED and session.certified is None:
            raise HandshakeRefused(
                f"{session.address} is plaintext: nodes {local.node_id!r} and {remote.node_id!r} sign what "
                "they say, and prove who they are by tls://"
            )
        room = self._config.fragment_bytes + OPTIONAL_BYTES_MAX
        if agreed.credit_bytes < room or agreed.frame_bytes_max < room:
            raise HandshakeRefused(
                f"node {remote.node_id!r} takes frames of {agreed.frame_bytes_max} bytes and a window of "
                f"{agreed.credit_bytes}: node {local.node_id!r} needs {room} of both "
                f"(fragment_bytes and {OPTIONAL_BYTES_MAX})"
            )
        refusal = self._house.refusal(agreed.node_id, agreed.incarnation)
        if refusal is not None and agreed.node_id not in self._engine.sessions:
            raise HandshakeRefused(refusal)
        dial = self._dials.get(session)
        if session.relay and dial is not None and dial.node_id != agreed.node_id:
            raise HandshakeRefused(f"{session.address}: node {agreed.node_id!r} is there")
        self._agreed[session] = agreed
        session.hello = remote
        session.delivers = bool(agreed.features & FEATURE_DELIVERY)
        session.agree(
            min(agreed.credit_bytes, self._config.link_window_bytes),
            self._config.link_window_bytes,
            agreed.message_bytes_max,
            Origin(agreed.node_id, agreed.incarnation),
        )
        if agreed.arbiter:
            self._decide(session, arbiter=True)

    def _on_welcome(self, session: Session, welcome: Welcome) -> None:
        agreed = self._agreed[session]
        if agreed.arbiter:
            raise ProtocolError(
                f"WELCOME from node {session.node_id!r}, which is not the arbiter of this pair"
            )
        agreed.check(welcome)
        self._decide(session, arbiter=False)

    def _decide(self, session: Session, *, arbiter: bool) -> None:
        """What becomes of a new link; the table is in `handshake`."""
        old = self._engine.sessions.get(session.node_id)
        seen = None if old is None else _view(old)
        new = _view(session)
        verdict = arbitrate(session.node_id, seen, new, arbiter=arbiter)
        if verdict.ruling is Ruling.PROBE and old is not None and verdict.close is not None:
            asked_ns = self._probe(old)
            if arbiter:
                self._probes[session] = (old, verdict, asked_ns)
            elif self._liveness.answered_since(old, asked_ns):
                self.close(session, verdict.close)
            else:
                # The arbiter has welcomed the link and speaks on: it dials again once this is known.
                self.close(session, Close(Close.DUPLICATE, "the older link is being probed: dial again"))
        elif verdict.ruling in (Ruling.DUPLICATE, Ruling.REFUSE) and verdict.close is not None:
            self.close(session, verdict.close)
        else:
            if old is not None and verdict.close is not None:
                self.close(old, verdict.close)
            self._welcome(session, arbiter=arbiter)

    def _welcome(self, session: Session, *, arbiter: bool) -> None:
        agreed = self._agreed[session]
        # Much may have happened since the Hello.
        refusal = self._house.refusal(session.node_id, session.incarnation)
        if refusal is None and self.network_uuid not in (b"", agreed.network_uuid):
            refusal = f"node {self._engine.node_id!r} has joined another network of that name meanwhile"
        if refusal is not None:
            raise HandshakeRefused(refusal)
        self.network_uuid = agreed.network_uuid
        if arbiter:
            self._engine.put_control(session, WELCOME, Welcome(agreed.network_uuid).encode())
        self._house.let_in(session, self._dials.pop(session, None), not arbiter)

    def _probe(self, old: Session) -> int:
        """Ask whether the peer of a link is alive, unless that was done just now; when it was."""
        if old not in self._asked:
            self._engine.ping(old)
            self._liveness.ask(old, self._engine.now_ns)
            self._asked[old] = self._engine.now_ns
            self._engine.wake_by(self._engine.now_ns + self._probe_ns())
        return self._asked[old]

    # -- time

    def tick(self, now_ns: int) -> int:
        """Decide what a ping has answered, or time; the time of the next look."""
        next_ns = NEVER
        for session, (old, verdict, asked_ns) in list(self._probes.items()):
            if old.closed:
                del self._probes[session]
                try:
                    self._decide(session, arbiter=self._agreed[session].arbiter)
                except NetworkError as error:
                    self._engine.fail(session, error)
            elif self._liveness.answered_since(old, asked_ns) and verdict.close is not None:
                del self._probes[session]
                self.close(session, verdict.close)
            else:
                next_ns = min(next_ns, now_ns + 20 * MS)
        for old, asked_ns in list(self._asked.items()):
            if self._liveness.answered_since(old, asked_ns):
                # Kept for a newcomer that dials again to be told, for as long as that may take it; with
                # less, each of its links would ask anew and none would get the answer.
                if now_ns >= asked_ns + (self._config.redial_ms_max + self._config.handshake_ms_max) * MS:
                    del self._asked[old]
            elif now_ns >= asked_ns + self._probe_ns():
                self._engine.down(
                    old, LinkLost(f"node {old.node_id} was started again; its old process is silent")
                )
                next_ns = now_ns
            else:
                next_ns = min(next_ns, asked_ns + self._probe_ns())
        return next_ns

    def _probe_ns(self) -> int:
        return min(self._config.ping_interval_ms, self._config.handshake_ms_max // 2) * MS


def _view(session: Session) -> LinkView:
    return LinkView(
        session.dialled, session.incarnation, session.welcomed, bool(session.relay), session.opened_ns
    )
