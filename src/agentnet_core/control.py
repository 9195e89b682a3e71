"""Who is linked and who is known: the engine's cold half.

In: control frames, links that open and close, the driver's commands, ticks.  Out: control frames
and whatever the engine's Ready carries: dials, closes, events, settled tokens.  It composes the
admission, the membership, the catalogue of agents, the tree and a join, and decides nothing itself.

On each link that is let in, both sides send a DIGEST, and answer that of the other with MEMBERS: what
differs.  Whatever fails before is told to the peer and to the dialler's `join`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentnet_core.admission import CLOSE, Admission
from agentnet_core.agent_record import AgentRecord
from agentnet_core.broadcasts import KINDS, Broadcasts
from agentnet_core.catalogue import AGENTS, CONFIRM, PULL, THERE, WHERE, Catalogue
from agentnet_core.config import MS_MAX, EngineConfig
from agentnet_core.dials import Dial
from agentnet_core.errors import (
    DuplicateLink,
    HandshakeRefused,
    LinkLost,
    NetworkError,
    ProtocolError,
)
from agentnet_core.gossip import MESSAGES, Gossip
from agentnet_core.handshake import Close, Hello
from agentnet_core.joining import Joining
from agentnet_core.liveness import Liveness
from agentnet_core.membership import Membership
from agentnet_core.message import AgentMessage, Origin
from agentnet_core.parts import STATE, STATE_CHUNK
from agentnet_core.proofs import Proofs
from agentnet_core.pruning import ROUND
from agentnet_core.reach import Reach
from agentnet_core.records import Event, Member
from agentnet_core.replication import Replication
from agentnet_core.roster import Vouch, decode_digest, decode_probe, encode_digest, encode_probe
from agentnet_core.signing import LEAVE, Seals, Signer
from agentnet_core.tunnels import TUNNEL, Tunnels
from agentnet_core.views import show_members

if TYPE_CHECKING:
    from agentnet_core.engine import Engine
    from agentnet_core.session import Session

MS = 1_000_000
TICK_NS = 1_000 * MS
"""So often time is to be given in a small network, however little is due."""
NEVER = 2**63 - 1

MEMBERS = 8
PROBE, VOUCH, DIGEST, RETIRE, STAY = range(11, 16)


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
        signer: Signer | None = None,
    ) -> None:
        self.engine = engine
        engine.rng = rng
        self.config = config
        self.seals = seals = Seals(signer, config, engine.event) if signer is not None else None
        proofs = Proofs(seals) if seals is not None else None
        self.membership = Membership(engine.node_id, engine.incarnation, (), config, rng, proofs)
        self.tunnels = tunnels = Tunnels(engine, self.membership, config)
        self.carried = tunnels.carried
        self._reach = Reach(engine, self.membership, tunnels, config)
        self.reach, self.say = self._reach.reach, self._reach.say
        tunnels.say, tunnels.no_way = self.say, self._reach.no_way
        self.broadcasts = Broadcasts(engine, config, seals, self.membership.certificate_of)
        self.broadcasts.take(MESSAGES, self._hear)
        self.catalogue = Catalogue(engine, config, self.membership, self.broadcasts, self.say, seals)
        self.directory, self.seek = self.catalogue.directory, self.catalogue.seek
        self.replication = Replication(
            engine, config, self.membership, self.broadcasts, self.say, rng, signed=seals is not None
        )
        self.liveness = Liveness(engine, config)
        self.admission = Admission(
            engine,
            self,
            self.liveness,
            config,
            network_uuid=network_uuid,
            plaintext=plaintext,
            signed=seals is not None,
        )
        if seals is not None:
            seals.network = lambda: self.network_uuid
        self.node_record = AgentRecord(0, engine.node_id)
        self.leaving = False
        self._joining: Joining | None = None
        self._compared: dict[str, None] = {}
        """The linked nodes that were told what is known here: none takes news for the whole."""
        self.ticked_ns = engine.now_ns
        """When the driver last came round, even if nothing was due here."""
        self._due_ns, self._expected_ns = NEVER, engine.now_ns

    @property
    def network_uuid(self) -> bytes:
        """Of the network that the node is in; empty while it is in none."""
        return self.admission.network_uuid

    @property
    def linked_to_all(self) -> bool:
        """Whether all nodes are to be linked with each other, and this one is with all that live."""
        return self.membership.has_at_most(min(len(self.engine.sessions) + 1, self.config.mesh_nodes_max))

    def nodes_for(self, message: AgentMessage) -> list[str] | None:
        """The nodes to send a broadcast to, one by one, because the tree does not take it; None if it does.

        In a network that is too large for that: MessageTooLarge.
        """
        if self.broadcasts.fits(message):
            return None
        if self.membership.has_at_most(self.config.mesh_nodes_max):
            return self.membership.alive()
        raise self.broadcasts.too_large(message)

    # -- commands of the driver

    def set_addresses(self, addresses: tuple[str, ...]) -> None:
        """Where other nodes reach this one."""
        self.admission.addresses = addresses
        self.membership.set_addresses(addresses)

    def found(self, network_uuid: bytes) -> None:
        """Start a network."""
        self.admission.network_uuid = network_uuid

    def join(self, bootstrap: tuple[str, ...], new_uuid: bytes, token: Any) -> None:
        """Find the network through ``bootstrap``; the token settles when its nodes and agents are known.

        ``new_uuid``: of the network, if it comes to founding it (see `joining`).
        """
        now, own = self.engine.now_ns, self.membership.addresses
        self._joining = Joining(
            self.config,
            token,
            bootstrap,
            now,
            first=bootstrap[0] in own,
            new_uuid=new_uuid,
        )
        self.membership.bootstrap([a for a in bootstrap if a not in own], now)
        self._turn(now)
        self._check_joined()

    def dial_failed(self, dial: Dial, error: NetworkError, *, refused: bool = False) -> None:
        """The driver could not connect. ``refused``: the host says that nobody listens there."""
        self._dial_failed(dial, error, refused=refused)
        if isinstance(error, HandshakeRefused):
            self._count_refusal(dial.node_id or dial.address, error)
        self._check_joined()
        self._turn(self.engine.now_ns)

    def _dial_failed(
        self, dial: Dial, error: NetworkError, *, node_id: str | None = None, refused: bool = False
    ) -> None:
        if dial.relay:
            self.tunnels.dial_failed(dial, error)
            return
        now = self.engine.now_ns
        self.membership.dial_failed(dial, str(error), now, node_id=node_id, refused=refused)
        self._refused(dial.address, error)
        self._reach.dial_failed(dial.node_id, error)

    def leave(self) -> None:
        """Tell every node that this one goes for good; the driver flushes and closes."""
        self.leaving = self.tunnels.leaving = True
        self.replication.end()
        self._reach.end()
        self.catalogue.end()
        life = self.engine.node_id, self.engine.incarnation
        signature = self.seals.sign(LEAVE, *life) if self.seals is not None else b""
        for session in list(self.engine.links):
            if session.welcomed:
                # The last word on what was taken, so that nothing handled counts as lost.
                self.engine.close_account(session)
                session.parting = True
                body = Close(Close.LEAVE, f"node {self.engine.node_id} leaves", signature).encode()
                self.engine.put_control(session, CLOSE, body)
            self.engine.down(session, LinkLost(f"node {self.engine.node_id} has left the network"))
        self.engine.end_requests()

    def members(self) -> list[Member]:
        """This node and all that it knows, by node id."""
        return show_members(self.engine, self.membership, self.liveness, plaintext=self.admission.plaintext)

    def stats(self) -> dict[str, int]:
        """Every counter of what this room holds, by name."""
        seals = self.seals
        return {
            **self.broadcasts.stats(),
            **self.replication.stats(),
            **self.tunnels.stats(),
            "records_refused": 0 if seals is None else seals.refused,
            "records_unproven": 0 if seals is None else seals.unproven,
        }

    def alive(self, session: Session, lag_ns: int, stack: str) -> None:
        """The liveness port of a link's peer answered; ``stack`` is empty if none is known."""
        self.liveness.answered(session, lag_ns, stack, self.engine.now_ns)

    def _hear(self, source: str, gossip: Gossip, body: bytes) -> None:
        """A user's broadcast came on the tree."""
        origin = Origin(gossip.origin, gossip.incarnation)
        if self.seals is not None:
            speaker = AgentMessage.decode(body, origin).from_agent
            record = self.directory.get(speaker) if speaker else None
            if record is not None and record.node_id != origin.node_id:
                self.broadcasts.refused += 1  # an agent of another node than that which sent it
                return
        self.engine.hear(origin, body, min(gossip.age_ms, MS_MAX))

    # -- links, as the engine tells

    def opened(self, session: Session, dial: Dial | None) -> None:
        """A connection is there: say who we are."""
        self.liveness.opened(self.engine.now_ns)
        self.admission.opened(session, dial)

    def closed(self, session: Session, error: NetworkError) -> None:
        """A link is gone."""
        now = self.engine.now_ns
        self.engine.mesh_known = False
        dial = self.admission.closed(session)
        heard_ns = self.liveness.heard_ns(session)
        self.liveness.closed(session)
        # A newcomer that was closed as a duplicate says nothing about the link that stays.
        was_current = session.welcomed and session.node_id not in self.engine.sessions
        if was_current:
            if self.seals is not None:
                self.seals.forgive(session.node_id)
            if session.dialled and isinstance(error, HandshakeRefused):
                self._refused(session.address, error)  # an arbiter may be refused by the other side yet
            self._compared.pop(session.node_id, None)
            self.catalogue.link_down(session.node_id)
            self.replication.link_down(session.node_id)
            if not session.relay:
                self.broadcasts.link_down(session.node_id)
            if session.retired and not session.relay:
                self.membership.link_retired(session.node_id, now)
            elif not session.relay:
                self.membership.link_down(session.node_id, now, heard_ns, hung_up=session.hung_up)
            if not (self.leaving or session.left or session.retired):
                self.engine.event(Event(Event.LINK_LOST, session.node_id, detail=str(error), error=error))
        elif not session.welcomed:
            if dial is not None:
                self._dial_failed(dial, error, node_id=session.node_id or None)
            if not (self.leaving or isinstance(error, DuplicateLink)):
                self._count_refusal(session.node_id or session.address, error)
        self._reach.closed(session)
        self.tunnels.closed(session)
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
        if session.retired and kind != CLOSE:
            return  # said before the peer knew
        if kind == CLOSE:
            self._on_close(session, Close.decode(body))
        elif kind < CLOSE and self.admission.receive(session, kind, body):
            return
        elif kind in KINDS and session.welcomed:
            self.broadcasts.receive(session, kind, body)
        elif kind == MEMBERS and session.welcomed:
            learned = self.membership.learn(body, self.engine.now_ns, session.node_id)
            if self.membership.confirm(session.node_id) or learned:
                self.engine.wake_by(self.engine.now_ns)  # there may be more
            self.catalogue.heed()
            self.catalogue.met(session.node_id)
            self._check_joined()
        elif kind in (PROBE, VOUCH, DIGEST) and session.welcomed:
            self._on_question(session, kind, body)
        elif kind == AGENTS and session.welcomed:
            self.catalogue.on_agents(session, body)
            self._check_joined()
        elif kind in (STATE, STATE_CHUNK) and session.welcomed:
            self.replication.receive(session, kind, body)
        elif kind == ROUND and session.welcomed:
            self.replication.pruning.receive(session.node_id, body)
        elif kind == PULL and session.welcomed:
            self.catalogue.on_pull(session, body)
        elif kind == WHERE and session.welcomed:
            self.catalogue.on_where(session, body)
        elif kind == THERE and session.welcomed:
            self.catalogue.on_there(session, body)
        elif kind in (RETIRE, STAY) and session.welcomed:
            self._reach.receive(session, kind, body)
        elif kind == TUNNEL and session.welcomed:
            self.tunnels.receive(session, body)
        elif kind == CONFIRM and session.welcomed:
            self.catalogue.on_confirm(session, body)
        else:
            state = "before" if not session.welcomed else "after"
            raise ProtocolError(f"a frame of kind {kind} {state} WELCOME: it is unknown or out of place")

    # -- links, as the admission tells

    def let_in(self, session: Session, dial: Dial | None, confirmed: bool) -> None:
        """A link is in use from now on: tell the peer what is known here."""
        engine, node_id = self.engine, session.node_id
        old = engine.sessions.get(node_id)
        engine.welcome(session)
        self.liveness.welcomed(session, engine.now_ns)
        hello: Hello = session.hello
        if not session.relay:  # who is reached through another is no neighbour
            self.membership.link_up(
                node_id, session.incarnation, hello.addresses, engine.now_ns, hello.plaintext, dial, confirmed
            )
        engine.put_control(session, DIGEST, encode_digest(self.membership.digest(), False))
        if session.closed:  # it was too much for it at once
            return
        self.replication.pruning.link_up(node_id)
        self._reach.welcomed(session, old)
        self._compared.pop(node_id, None)
        if not session.relay:
            self.broadcasts.link_down(node_id)  # the one whose place it takes
            self.broadcasts.take_up(self.membership.listeners(), len(self.membership))
        self.catalogue.link_up(session)
        self.replication.link_up(node_id)
        self._turn(engine.now_ns)

    def refusal(self, node_id: str, incarnation: int) -> str | None:
        """Why a link to that node cannot be; None if it can."""
        return self.membership.refusal(node_id, incarnation)

    def met_self(self, address: str) -> None:
        """The node itself is at that address."""
        self.membership.is_self(address)
        if self._joining is not None:
            self._joining.is_self(address)

    def _on_close(self, session: Session, close: Close) -> None:
        if close.code == Close.LEAVE and session.welcomed:
            session.left = True
            self.membership.left(session.node_id, self.engine.now_ns, close.signature)
            self.engine.down(session, LinkLost(f"node {session.node_id} has left the network"))
            self._turn(self.engine.now_ns)
        else:
            self.engine.links_refused += session.welcomed and not close.benign
            if close.code == Close.IDLE and session.welcomed:
                self.engine.retire(session, close.error())
            self.engine.down(session, close.error())

    # -- time

    def tick(self, now_ns: int) -> int:
        """What is due; the time of the next thing."""
        # In a large network a node is given time seldom: only what is beyond that was no rest.
        gap_ns = min(now_ns - self.ticked_ns, max(0, now_ns - self._expected_ns) + TICK_NS)
        self.ticked_ns = now_ns
        late = now_ns - self._due_ns > self.config.node_silence_ms_max * MS // 4
        if late and self.config.local_health:
            # This node was the one that stood still: all peers get the time back to be heard.
            for session in self.engine.links:
                session.opened_ns = min(now_ns, session.opened_ns + gap_ns)
                session.heard_ns = min(now_ns, session.heard_ns + gap_ns)
            self.membership.stood_still(now_ns, gap_ns)
        self._turn(now_ns)
        next_ns = min(self._reach.tick(now_ns), self.liveness.tick(now_ns, gap_ns), self.tunnels.tick(now_ns))
        if not self.leaving:
            next_ns = min(next_ns, self.membership.next_deadline_ns(), self.membership.news_due_ns())
        next_ns = min(next_ns, self.admission.tick(now_ns), self.catalogue.tick(now_ns))
        next_ns = min(next_ns, self.broadcasts.tick(now_ns), self.replication.tick(now_ns))
        if self._joining is not None:
            self._check_joined()
            next_ns = min(next_ns, now_ns + 100 * MS)
        self._due_ns, self._expected_ns = next_ns, min(next_ns, now_ns + self.engine.tick_ns_max)
        return next_ns

    def _turn(self, now_ns: int) -> None:
        """Carry out what the membership wants: dials, questions, news of nodes and for them."""
        engine, membership = self.engine, self.membership
        engine.mesh_known = False
        if self.leaving:
            return
        for dial in membership.tick(now_ns, self._heard_ns):
            engine.dial(dial)
        pace = membership.pace
        self.liveness.keep_pace(pace)
        engine.tick_ns_max = int(TICK_NS * pace)
        self.broadcasts.take_up(membership.listeners(), len(membership))
        asked = [(helper, PROBE, encode_probe(node_id)) for helper, node_id in membership.drain_probes()]
        for node_id in membership.drain_syncs():
            asked.append((node_id, DIGEST, encode_digest(membership.digest(), True)))
        for node_id, kind, body in asked:
            session = engine.sessions.get(node_id)
            if session is not None:  # the last question may have been one too many for it
                engine.put_control(session, kind, body)
        for event in membership.drain_events():
            engine.event(event)
            if event.kind in (Event.LOST, Event.LEFT):
                self._reach.gone(event.node_id, event.detail or "it has left")
            session = engine.sessions.get(event.node_id)
            if event.kind == Event.LOST and session is not None and membership.living(event.node_id) is None:
                engine.down(session, LinkLost(f"node {event.node_id} is lost: {event.detail}"))
        if now_ns >= membership.news_due_ns(along=True):
            peers = [node_id for node_id in membership.listeners() if node_id in self._compared]
            for node_id, bodies in membership.drain_news(peers, now_ns):
                for body in bodies:
                    session = engine.sessions.get(node_id)
                    if session is not None:  # one may have been too much for it
                        engine.put_control(session, MEMBERS, body)
        self.catalogue.heed()
        engine.wake_by(min(membership.next_deadline_ns(), membership.news_due_ns()))

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
            digest, asks = decode_digest(body)
            own = self.membership.digest()
            for frame in self.membership.frames(unlike=digest):
                engine.put_control(session, MEMBERS, frame)
            self._compared[session.node_id] = None
            if asks and digest != own:
                engine.put_control(session, DIGEST, encode_digest(own, False))

    # -- joining

    def _refused(self, address: str, error: NetworkError) -> None:
        if self._joining is not None:
            self._joining.refused(address, error)

    def _check_joined(self) -> None:
        if self._joining is None:
            return
        now = self.engine.now_ns
        complete = self.catalogue.complete and self.membership.joined(now)
        left = self.membership.bootstrap_left()
        joined = self._joining.outcome(now, left, linked=bool(self.engine.sessions), complete=complete)
        if joined is None:
            return
        token, self._joining = self._joining.token, None
        if joined.found:
            self.found(self.network_uuid or joined.found)
        self.engine.settle(token, joined.error)
