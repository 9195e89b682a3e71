"""Who is linked and who is known: the engine's cold half.

In: control frames, links that open and close, the driver's commands, ticks.  Out: control frames
and whatever the engine's Ready carries: dials, closes, events, settled tokens.  It composes the
handshake, the membership, the catalogue of agents and a join, and holds what belongs to none of
them: which link waits for which verdict.

A link passes HELLO both ways, then the greater node id says WELCOME or CLOSE; after that each side
sends MEMBERS and its list of agents.  Whatever fails before WELCOME is told to the peer and to
the dialler's `join`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agentnet_core.broadcasts import KINDS, Broadcasts
from agentnet_core.catalogue import AGENTS, CONFIRM, PULL, Catalogue
from agentnet_core.config import OPTIONAL_BYTES_MAX, EngineConfig
from agentnet_core.dials import Dial
from agentnet_core.errors import (
    DuplicateLink,
    HandshakeRefused,
    JoinFailed,
    LinkLost,
    NetworkError,
    ProtocolError,
)
from agentnet_core.handshake import (
    CHECKSUM_CRC32C,
    CHECKSUM_NONE,
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
from agentnet_core.joining import Joining
from agentnet_core.liveness import Liveness
from agentnet_core.membership import Membership
from agentnet_core.message import Origin
from agentnet_core.records import AgentRecord, Event, Member
from agentnet_core.roster import Vouch, decode_digest, decode_probe, encode_digest, encode_probe

if TYPE_CHECKING:
    from agentnet_core.engine import Engine
    from agentnet_core.session import Session

MS = 1_000_000
NEVER = 2**63 - 1

HELLO, WELCOME, CLOSE = 0, 1, 2
MEMBERS = 8
PROBE, VOUCH, DIGEST = range(11, 14)


class Control:
    """Handshake and members of one engine, and what it composes."""

    def __init__(
        self,
        engine: Engine,
        config: EngineConfig,
        *,
        rng: Any,
        network_uuid: bytes = b"",
        plaintext: bool = False,
    ) -> None:
        self.engine = engine
        self.config = config
        self.network_uuid = network_uuid
        self.membership = Membership(engine.node_id, engine.incarnation, (), config, rng)
        self.broadcasts = Broadcasts(engine, config)
        self.catalogue = Catalogue(engine, config, self.membership, self.broadcasts, self.say)
        self.directory = self.catalogue.directory
        self.liveness = Liveness(engine, config)
        self.node_record = AgentRecord(0, engine.node_id)
        self.leaving = False
        self.addresses: tuple[str, ...] = ()
        self.offer_liveness: Callable[[], tuple[int, int, bytes] | None] = lambda: None
        """UDP port, TCP port and key of the next link's liveness probes; the driver has them."""
        self._plaintext = plaintext
        self._dials: dict[Session, Dial] = {}
        self._agreed: dict[Session, Any] = {}
        self._probes: dict[Session, tuple[Session, Verdict, int]] = {}
        self._asked: dict[Session, int] = {}
        self._joining: Joining | None = None
        self._ticked_ns, self._due_ns = engine.now_ns, NEVER

    # -- commands of the driver

    def set_addresses(self, addresses: tuple[str, ...]) -> None:
        """Where other nodes reach this one."""
        self.addresses = addresses
        self.membership.set_addresses(addresses)

    def found(self, network_uuid: bytes) -> None:
        """Start a network."""
        self.network_uuid = network_uuid

    def join(self, bootstrap: tuple[str, ...], new_uuid: bytes, token: Any) -> None:
        """Find the network through ``bootstrap``; the token settles when its nodes and agents are known.

        ``new_uuid``: of the network, if it comes to founding it (see `joining`).
        """
        now = self.engine.now_ns
        self._joining = Joining(
            self.config, token, bootstrap, now, first=bootstrap[0] in self.addresses, new_uuid=new_uuid
        )
        self.membership.bootstrap([a for a in bootstrap if a not in self.addresses], now)
        self._turn(now)
        self._check_joined()

    def dial_failed(self, dial: Dial, error: NetworkError, *, refused: bool = False) -> None:
        """The driver could not connect. ``refused``: the host says that nobody listens there."""
        self.membership.dial_failed(dial, str(error), self.engine.now_ns, refused=refused)
        if isinstance(error, HandshakeRefused):
            self._count_refusal(dial.node_id or dial.address, error)
        self._refused(dial.address, error)
        self._check_joined()
        self._turn(self.engine.now_ns)

    def leave(self) -> None:
        """Tell every node that this one goes for good; the driver flushes and closes."""
        self.leaving = True
        for session in list(self.engine.links):
            if session.welcomed:
                # The last word on what was taken, so that nothing handled counts as lost.
                self.engine.close_account(session)
                session.parting = True
                body = Close(Close.LEAVE, f"node {self.engine.node_id} leaves").encode()
                self.engine.put_control(session, CLOSE, body)
            self.engine.down(session, LinkLost(f"node {self.engine.node_id} has left the network"))
        self.engine.end_requests()

    def members(self) -> list[Member]:
        """This node and all that it knows, by node id."""
        engine = self.engine
        heard = {node_id: session.heard_ns for node_id, session in engine.sessions.items()}
        heard[engine.node_id] = engine.now_ns

        def seen(member: Member) -> Member:
            plaintext = self._plaintext if member.node_id == engine.node_id else member.plaintext
            since = heard.get(member.node_id)
            when = member.last_heartbeat if since is None else since + engine.wall_offset_ns
            member = replace(member, last_heartbeat=when, plaintext=plaintext)
            return self.liveness.seen(member, engine.sessions.get(member.node_id), engine.now_ns)

        return [seen(member) for member in self.membership.members()]

    def say(self, node_id: str, kind: int, body: bytes) -> None:
        """Send a node a control frame, if it is linked."""
        session = self.engine.sessions.get(node_id)
        if session is not None:
            self.engine.put_control(session, kind, body)

    def alive(self, session: Session, lag_ns: int, stack: str) -> None:
        """The liveness port of a link's peer answered; ``stack`` is empty if none is known."""
        self.liveness.answered(session, lag_ns, stack, self.engine.now_ns)

    # -- links, as the engine tells

    def opened(self, session: Session, dial: Dial | None) -> None:
        """A connection is there: say who we are."""
        if dial is not None:
            self._dials[session] = dial
        session.hello = self._hello(session.secure)
        self.engine.put_control(session, HELLO, session.hello.encode())

    def closed(self, session: Session, error: NetworkError) -> None:
        """A link is gone."""
        now = self.engine.now_ns
        dial = self._dials.pop(session, None)
        self._agreed.pop(session, None)
        self._probes.pop(session, None)
        self._asked.pop(session, None)
        heard_ns = self.liveness.heard_ns(session)
        self.liveness.closed(session)
        # A newcomer that was closed as a duplicate says nothing about the link that stays.
        was_current = session.welcomed and session.node_id not in self.engine.sessions
        if was_current:
            if session.dialled and isinstance(error, HandshakeRefused):
                self._refused(session.address, error)  # an arbiter may be refused by the other side yet
            self.broadcasts.link_down(session.node_id)
            self.catalogue.link_down(session.node_id)
            self.membership.link_down(session.node_id, now, heard_ns, hung_up=session.hung_up)
            if not (self.leaving or session.left):
                self.engine.event(Event(Event.LINK_LOST, session.node_id, detail=str(error), error=error))
        elif not session.welcomed:
            if dial is not None:
                self.membership.dial_failed(dial, str(error), now, node_id=session.node_id or None)
                self._refused(dial.address, error)
            if not (self.leaving or isinstance(error, DuplicateLink)):
                self._count_refusal(session.node_id or session.address, error)
        self._check_joined()
        self.engine.wake_by(self.membership.next_deadline_ns())

    def _count_refusal(self, who: str, error: NetworkError) -> None:
        self.engine.links_refused += 1
        self.engine.event(Event(Event.LINK_REFUSED, who, detail=str(error), error=error))

    def say_close(self, session: Session, error: NetworkError) -> None:
        """Tell the peer why the link ends."""
        self.engine.links_refused += session.welcomed  # `closed` counts those that were not
        session.control.put(CLOSE, Close.of(error).encode())
        self.engine.rouse_session(session)

    def receive(self, session: Session, kind: int, body: bytes) -> None:
        """A control frame of ``session``."""
        if kind == HELLO and session not in self._agreed:
            self._on_hello(session, Hello.decode(body))
        elif kind == CLOSE:
            self._on_close(session, Close.decode(body))
        elif kind == WELCOME and session in self._agreed and not session.welcomed:
            self._on_welcome(session, Welcome.decode(body))
        elif kind == MEMBERS and session.welcomed:
            self.membership.learn(body, self.engine.now_ns, session.node_id)
            self.membership.confirm(session.node_id)
            self._turn(self.engine.now_ns)
            self.catalogue.met(session.node_id)
            self._check_joined()
        elif kind in (PROBE, VOUCH, DIGEST) and session.welcomed:
            self._on_question(session, kind, body)
        elif kind == AGENTS and session.welcomed:
            self.catalogue.on_agents(session, body)
            self._check_joined()
        elif kind in KINDS and session.welcomed:
            self.broadcasts.receive(session, kind, body)
        elif kind == PULL and session.welcomed:
            self.catalogue.on_pull(session, body)
        elif kind == CONFIRM and session.welcomed:
            self.catalogue.on_confirm(session, body)
        else:
            state = "before" if not session.welcomed else "after"
            raise ProtocolError(f"a frame of kind {kind} {state} WELCOME: it is unknown or out of place")

    # -- handshake

    def _hello(self, secure: bool) -> Hello:
        return Hello(
            network=self.config.network,
            node_id=self.engine.node_id,
            incarnation=self.engine.incarnation,
            network_uuid=self.network_uuid,
            frame_bytes_max=self.config.frame_bytes_max,
            message_bytes_max=self.config.message_bytes_max,
            credit_bytes=self.config.link_window_bytes,
            checksum=CHECKSUM_NONE if secure else CHECKSUM_CRC32C,
            addresses=self.addresses,
            plaintext=self._plaintext,
            liveness=self.offer_liveness(),
        )

    def _on_hello(self, session: Session, remote: Hello) -> None:
        local: Hello = replace(session.hello, network_uuid=self.network_uuid)
        session.set_checksum(bool(max(local.checksum, remote.checksum)))
        if is_self(local, remote):
            self.membership.is_self(session.address)
            if self._joining is not None:
                self._joining.is_self(session.address)
            raise HandshakeRefused(f"{session.address} is this node itself")
        if local.network == remote.network and not local.network_uuid and not remote.network_uuid:
            raise JoinFailed(
                f"nodes {local.node_id!r} and {remote.node_id!r} are both still joining network "
                f"{local.network!r}: one node must found it, with join_network([])"
            )
        agreed = judge(local, remote, session.certified)
        room = self.config.fragment_bytes + OPTIONAL_BYTES_MAX
        if agreed.credit_bytes < room or agreed.frame_bytes_max < room:
            raise HandshakeRefused(
                f"node {remote.node_id!r} takes frames of {agreed.frame_bytes_max} bytes and a window of "
                f"{agreed.credit_bytes}: node {local.node_id!r} needs {room} of both "
                f"(fragment_bytes and {OPTIONAL_BYTES_MAX})"
            )
        refusal = self.membership.refusal(agreed.node_id, agreed.incarnation)
        if refusal is not None and agreed.node_id not in self.engine.sessions:
            raise HandshakeRefused(refusal)
        self._agreed[session] = agreed
        session.hello = remote
        session.agree(
            min(agreed.credit_bytes, self.config.link_window_bytes),
            self.config.link_window_bytes,
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
        old = self.engine.sessions.get(session.node_id)
        seen = None if old is None else LinkView(old.dialled, old.incarnation, old.welcomed)
        new = LinkView(session.dialled, session.incarnation)
        verdict = arbitrate(session.node_id, seen, new, arbiter=arbiter)
        if verdict.ruling is Ruling.PROBE and old is not None and verdict.close is not None:
            asked_ns = self._probe(old)
            if arbiter:
                self._probes[session] = (old, verdict, asked_ns)
            elif self.liveness.answered_since(old, asked_ns):
                self._close(session, verdict.close)
            else:
                # The arbiter has welcomed the link and speaks on: it dials again once this is known.
                self._close(session, Close(Close.DUPLICATE, "the older link is being probed: dial again"))
        elif verdict.ruling in (Ruling.DUPLICATE, Ruling.REFUSE) and verdict.close is not None:
            self._close(session, verdict.close)
        else:
            if old is not None and verdict.close is not None:
                self._close(old, verdict.close)
            self._welcome(session, arbiter=arbiter)

    def _probe(self, old: Session) -> int:
        """Ask whether the peer of a link is alive, unless that was done just now; when it was."""
        if old not in self._asked:
            self.engine.ping(old)
            self.liveness.ask(old, self.engine.now_ns)
            self._asked[old] = self.engine.now_ns
            self.engine.wake_by(self.engine.now_ns + self._probe_ns())
        return self._asked[old]

    def _welcome(self, session: Session, *, arbiter: bool) -> None:
        engine, node_id = self.engine, session.node_id
        agreed = self._agreed[session]
        # Much may have happened since the Hello.
        refusal = self.membership.refusal(node_id, session.incarnation)
        if refusal is None and self.network_uuid not in (b"", agreed.network_uuid):
            refusal = f"node {engine.node_id!r} has joined another network of that name meanwhile"
        if refusal is not None:
            raise HandshakeRefused(refusal)
        self.network_uuid = agreed.network_uuid
        if arbiter:
            engine.put_control(session, WELCOME, Welcome(agreed.network_uuid).encode())
        engine.welcome(session)
        self.liveness.welcomed(session, engine.now_ns)
        dial = self._dials.pop(session, None)
        hello: Hello = session.hello
        self.membership.link_up(
            node_id, session.incarnation, hello.addresses, engine.now_ns, hello.plaintext, dial, not arbiter
        )
        for body in self.membership.frames():
            engine.put_control(session, MEMBERS, body)
        self.broadcasts.link_up(node_id)
        self.catalogue.link_up(session)
        self._turn(engine.now_ns)

    def _close(self, session: Session, close: Close) -> None:
        if not close.benign:
            return self.engine.fail(session, close.error())
        self.engine.put_control(session, CLOSE, close.encode())
        self.engine.down(session, close.error())

    def _on_close(self, session: Session, close: Close) -> None:
        if close.code == Close.LEAVE and session.welcomed:
            session.left = True
            self.membership.left(session.node_id)
            self.engine.down(session, LinkLost(f"node {session.node_id} has left the network"))
            self._turn(self.engine.now_ns)
        else:
            self.engine.links_refused += session.welcomed and not close.benign
            self.engine.down(session, close.error())

    # -- time

    def tick(self, now_ns: int) -> int:
        """What is due; the time of the next thing."""
        gap_ns, self._ticked_ns = now_ns - self._ticked_ns, now_ns
        if now_ns - self._due_ns > self.config.node_silence_ms_max * MS // 4:
            # This node was the one that stood still: its peers get the time back to be heard.
            for session in self.engine.sessions.values():
                session.heard_ns = min(now_ns, session.heard_ns + gap_ns)
            self.membership.stood_still(now_ns, gap_ns)
        self._turn(now_ns)
        next_ns = min(self.membership.next_deadline_ns(), self.liveness.tick(now_ns, gap_ns))
        next_ns = min(next_ns, self._check_probes(now_ns), self.catalogue.tick(now_ns))
        next_ns = min(next_ns, self.broadcasts.tick(now_ns))
        if self._joining is not None:
            self._check_joined()
            next_ns = min(next_ns, now_ns + 20 * MS)
        self._due_ns = next_ns
        return next_ns

    def _turn(self, now_ns: int) -> None:
        """Carry out what the membership wants: dials, questions, news of nodes and for them."""
        engine, membership = self.engine, self.membership
        if self.leaving:
            return
        for dial in membership.tick(now_ns, self._heard_ns):
            engine.dial(dial)
        asked = [(helper, PROBE, encode_probe(node_id)) for helper, node_id in membership.drain_probes()]
        for node_id in membership.drain_syncs():
            asked.append((node_id, DIGEST, encode_digest(membership.digest(), False)))
        for node_id, kind, body in asked:
            session = engine.sessions.get(node_id)
            if session is not None:  # the last question may have been one too many for it
                engine.put_control(session, kind, body)
        for event in membership.drain_events():
            engine.event(event)
            session = engine.sessions.get(event.node_id)
            if event.kind == Event.LOST and session is not None and membership.living(event.node_id) is None:
                engine.down(session, LinkLost(f"node {event.node_id} is lost: {event.detail}"))
        for source, bodies in membership.drain_news():
            for node_id, session in list(engine.sessions.items()):
                for body in bodies if node_id != source else ():
                    engine.put_control(session, MEMBERS, body)
        self.catalogue.heed()
        engine.wake_by(membership.next_deadline_ns())

    def _heard_ns(self, node_id: str) -> int:
        """When a linked node was heard last, on its link or past its event loop."""
        return self.liveness.heard_ns(self.engine.sessions[node_id])

    def _on_question(self, session: Session, kind: int, body: bytes) -> None:
        """A peer asks whether this node hears another, or answers that, or compares what is known."""
        engine = self.engine
        if kind == PROBE:
            node_id = decode_probe(body)
            heard_ns = self._heard_ns(node_id) if node_id in engine.sessions else 0
            vouch = self.membership.vouch(node_id, heard_ns, engine.now_ns)
            engine.put_control(session, VOUCH, vouch.encode())
        elif kind == VOUCH:
            self.membership.vouched(session.node_id, Vouch.decode(body), engine.now_ns)
            self._turn(engine.now_ns)
        else:
            digest, answer = decode_digest(body)
            if digest != self.membership.digest():
                for frame in self.membership.frames():
                    engine.put_control(session, MEMBERS, frame)
                if not answer:
                    engine.put_control(session, DIGEST, encode_digest(self.membership.digest(), True))

    def _probe_ns(self) -> int:
        return min(self.config.ping_interval_ms, self.config.handshake_ms_max // 2) * MS

    def _check_probes(self, now_ns: int) -> int:
        next_ns = NEVER
        for session, (old, verdict, asked_ns) in list(self._probes.items()):
            if old.closed:
                del self._probes[session]
                try:
                    self._decide(session, arbiter=self._agreed[session].arbiter)
                except NetworkError as error:
                    self.engine.fail(session, error)
            elif self.liveness.answered_since(old, asked_ns) and verdict.close is not None:
                del self._probes[session]
                self._close(session, verdict.close)
            else:
                next_ns = min(next_ns, now_ns + 20 * MS)
        for old, asked_ns in list(self._asked.items()):
            if self.liveness.answered_since(old, asked_ns):
                # Kept for a newcomer that dials again to be told, for as long as that may take it; with
                # less, each of its links would ask anew and none would get the answer.
                if now_ns >= asked_ns + (self.config.redial_ms_max + self.config.handshake_ms_max) * MS:
                    del self._asked[old]
            elif now_ns >= asked_ns + self._probe_ns():
                self.engine.down(
                    old, LinkLost(f"node {old.node_id} was started again; its old process is silent")
                )
                next_ns = now_ns
            else:
                next_ns = min(next_ns, asked_ns + self._probe_ns())
        return next_ns

    # -- joining

    def _refused(self, address: str, error: NetworkError) -> None:
        if self._joining is not None:
            self._joining.refused(address, error)

    def _check_joined(self) -> None:
        if self._joining is None:
            return
        now = self.engine.now_ns
        complete = self.membership.joined(now) and self.catalogue.complete
        left = self.membership.bootstrap_left()
        joined = self._joining.outcome(now, left, linked=bool(self.engine.sessions), complete=complete)
        if joined is None:
            return
        token, self._joining = self._joining.token, None
        if joined.found:
            self.found(self.network_uuid or joined.found)
        self.engine.settle(token, joined.error)
