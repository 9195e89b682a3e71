"""Which agents there are, told to every linked node and learned from them.

In: registrations of this node's agents, AGENTS, PULL and CONFIRM frames, links that come and go, what
MEMBERS tell of versions.  Out: the same frames, routes and events that follow what changed, and tokens
that settle once others have confirmed.  It composes the directory, the registrations and the pulls.

The owner of a list sends each change of it over every link; where it is not linked to all nodes, on the
broadcast tree.  Nobody is sent a list unasked: MEMBERS say which version each node has of its own, and
who hears of one that it does not hold asks for it.  If it holds an older one it waits `pull_delay_ms`
first: the change may be on its way.

In a network of more than `mesh_nodes_max` a registration waits for the keepers of its ids alone, whom this
node asks itself, again each `pull_ms_max`; one that is lost meanwhile gives way to the next.

Lists are taken of nodes that membership knows to live, of no other incarnation: a list that is passed
on cannot bring back the dead.  What a node says in its own name over its own link is true of it; what
others pass on is hearsay that a signature will have to prove, in `_may_take`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from agentnet_core.body import wrong
from agentnet_core.broadcasts import CHANGES, Broadcasts
from agentnet_core.config import EngineConfig
from agentnet_core.directory import Applied, Directory
from agentnet_core.errors import AgentExists, NoSuchAgent
from agentnet_core.keepers import Keepers
from agentnet_core.listing import Confirm, Update, health_text, read_pull, write_pulls
from agentnet_core.membership import Membership
from agentnet_core.pulls import Pulls
from agentnet_core.records import AgentRecord, Event
from agentnet_core.registrations import Registrations, Told

if TYPE_CHECKING:
    from agentnet_core.engine import Engine
    from agentnet_core.port import Port
    from agentnet_core.session import Session

AGENTS, CONFIRM, PULL = 9, 10, 19

MS = 1_000_000
NEVER = 2**63 - 1


class Catalogue:
    """The agents of one engine's network."""

    def __init__(
        self,
        engine: Engine,
        config: EngineConfig,
        membership: Membership,
        broadcasts: Broadcasts,
        reach: Callable[[str, int, bytes], None],
    ) -> None:
        self.engine = engine
        self.directory = Directory(engine.node_id, engine.incarnation, config)
        self.registrations = Registrations(config, self.directory.label)
        self.watched = False
        """Whether anybody reads events of single agents: a network may have very many."""
        self._membership = membership
        self._broadcasts = broadcasts
        broadcasts.take(CHANGES, self._on_change)
        self._pulls = Pulls(config)
        self._delay_ns = config.pull_delay_ms * MS
        self._patience_ns = config.pull_ms_max * MS
        self._remind_ns = NEVER
        self._keepers = Keepers(config)
        self._mesh_nodes_max = config.mesh_nodes_max
        self._reach = reach
        self._met: dict[str, bool] = {}
        """Whether a linked node has told which nodes and lists it knows."""

    @property
    def complete(self) -> bool:
        """Whether every linked node has told what it knows, and no list that it told of is lacking."""
        return not self._pulls and all(self._met.values())

    # -- commands of the driver

    def register(self, ports: Sequence[Port], token: Any, timeout_ns: int) -> None:
        """Take agents of this node; the token settles when all who keep them have confirmed them.

        AgentExists or LimitReached, definite, are raised before anything has changed.
        """
        version = self.directory.register([port.record for port in ports])
        for port in ports:
            self.engine.add_port(port)
            self._agent_event(Event.AGENT_REGISTERED, port.record)
        self._publish()
        ids = [port.record.agent_id for port in ports]
        deadline_ns = self.engine.now_ns + timeout_ns
        keepers = self._keepers_of(ids)
        self._settle(self.registrations.begin(version, keepers, ids, token, deadline_ns))
        self._remind(keepers)
        self._remind_ns = min(self._remind_ns, self.engine.now_ns + self._patience_ns)
        self.engine.wake_by(min(deadline_ns, self._remind_ns))

    def unregister(self, ports: Sequence[Port]) -> None:
        """Drop agents of this node; what is in their mailboxes is refused."""
        applied = self.directory.unregister([port.agent_id for port in ports])
        for port in ports:
            self.engine.remove_port(port)
        self._report(applied)
        self._publish()

    def report_health(self, port: Port, text: str | None) -> None:
        """An agent of this node says why it cannot work, or None when it can; other nodes are told."""
        if self.engine.ports.get(port.agent_id) is not port:
            raise NoSuchAgent(f"agent {port.record.label} is not registered any more, so it has no health")
        if self.directory.say_health(port.agent_id, health_text(text)):
            self._publish()

    def withdraw(self) -> None:
        """Let no node send work here any more; what is here already can still be done."""
        self._report(self.directory.unregister(list(self.engine.ports)))
        self._publish()

    # -- links and nodes, as control tells

    def link_up(self, session: Session) -> None:
        """A link is welcomed."""
        self._met[session.node_id] = False
        if self.registrations.awaits(session.node_id):
            self._remind([session.node_id])
        self._pulls.link_up(self.engine.now_ns)
        self._pull()

    def link_down(self, node_id: str) -> None:
        """The link to that node is gone, and no other took its place."""
        self._met.pop(node_id, None)
        if not self._is_large:
            self._settle(self.registrations.lost(node_id))
        self._pulls.link_down(node_id, self.engine.now_ns)
        for owner in self.directory.interrupt(node_id):
            self._compare(owner, "")
        self._pull()

    def met(self, node_id: str) -> None:
        """A linked node has told what it knows."""
        self._met[node_id] = True

    def heed(self) -> None:
        """Follow what membership has learned: the agents of who is gone go, lists that are lacking are
        asked for."""
        told = self._membership.drain_lists()
        for owner, teller in told:
            self._compare(owner, teller)
        if told:
            self._pull()

    def on_agents(self, session: Session, body: bytes) -> None:
        """An AGENTS frame of a welcomed link."""
        self._take(session.node_id, self.directory.read(body))

    def _on_change(self, source: str, origin: str, body: bytes) -> None:
        """A change of a list that was published on the tree."""
        update = self.directory.read(body)
        if update.owner != origin:
            raise wrong("AGENTS owner", f"{origin!r}, who published it", update.owner)
        self._take(source, update)

    def _take(self, source: str, update: Update) -> None:
        """What a linked node brings of a list."""
        owner, now_ns = update.owner, self.engine.now_ns
        if not self._may_take(update):
            return
        self._pulls.came(owner, source, now_ns)
        applied = self.directory.apply(source, update)
        self._say(owner, CONFIRM, applied.confirms)
        self._report(applied)
        if applied.version:
            self._membership.note_list(owner, update.incarnation, applied.version)
            self._pulls.held(owner, update.incarnation, applied.version)
        if applied.lacks:
            self._pulls.want(owner, update.incarnation, update.version, source, now_ns + self._delay_ns)
        self._pull()

    def on_pull(self, session: Session, body: bytes) -> None:
        """A PULL frame of a welcomed link: send what there is more of."""
        # Each list once, however often it is named: it may be very long.
        wanted = {owner: held for owner, *held in read_pull(body)}
        for owner, held in wanted.items():
            self._say(session.node_id, AGENTS, self.directory.whole_list(owner, *held))

    def on_confirm(self, session: Session, body: bytes) -> None:
        """A CONFIRM frame of a welcomed link."""
        confirm = Confirm.decode(body)
        life = confirm.owner, confirm.incarnation
        if life != (self.engine.node_id, self.engine.incarnation):
            raise wrong("CONFIRM owner", f"{self.engine.node_id!r} in its incarnation", life)
        self._report(self.directory.concede(session.node_id, confirm))
        self._settle(self.registrations.confirm(session.node_id, confirm))

    def tick(self, now_ns: int) -> int:
        """Tell those whose time is over; the time of the next thing."""
        self._settle(self.registrations.late(now_ns))
        if now_ns >= self._remind_ns:
            awaited = self.registrations.awaited()
            self._remind_ns = now_ns + self._patience_ns if awaited else NEVER
            self._remind(awaited)  # what they were told, or said, may be lost
        self._pull()
        return min(self.registrations.next_deadline_ns(), self._pulls.next_deadline_ns(), self._remind_ns)

    # -- the lists of others

    def _may_take(self, update: Update) -> bool:
        """Whether what was brought of a list is of a node that lives, as it lives now."""
        if update.owner == self.engine.node_id:
            return True  # the directory knows what it said
        living = self._membership.living(update.owner)
        return living is not None and living.incarnation == update.incarnation

    def _compare(self, owner: str, teller: str) -> None:
        """Something was heard of a node: the list of its dead life goes, more of its living one is wanted."""
        living = self._membership.living(owner)
        self._report(self.directory.forget(owner, living.incarnation if living is not None else None))
        if living is None:
            self._pulls.drop(owner)
            more, told = self.registrations.replace(owner, self._keepers_of)
            self._remind(more)
            return self._settle(told)
        incarnation, version = self.directory.held(owner)
        if incarnation != living.incarnation:
            version = 0
        if version < living.listed:
            due_ns = self.engine.now_ns + (self._delay_ns if version else 0)
            self._pulls.want(owner, living.incarnation, living.listed, teller, due_ns)

    def _pull(self) -> None:
        """Ask for the lists that are due."""
        engine = self.engine
        for node_id, wanted in self._pulls.tick(engine.sessions, engine.now_ns).items():
            have = []
            for owner, incarnation in wanted:
                self.directory.give_up(owner)  # whoever was asked before has not brought it
                held = self.directory.held(owner)
                have.append((owner, incarnation, held[1] if held[0] == incarnation else 0))
            self._say(node_id, PULL, write_pulls(have))
        engine.wake_by(self._pulls.next_deadline_ns())

    # -- who keeps what

    @property
    def _is_large(self) -> bool:
        return len(self._membership.alive()) > self._mesh_nodes_max

    def _keepers_of(self, agent_ids: Iterable[int]) -> list[str]:
        """The other nodes that keep one of these ids; in a small network all that are linked do."""
        if not self._is_large:
            return list(self.engine.sessions)
        self._keepers.among(self._membership.alive())
        found = dict.fromkeys(node_id for i in agent_ids for node_id in self._keepers.of(i))
        found.pop(self.engine.node_id, None)
        return list(found)

    def _remind(self, node_ids: Iterable[str]) -> None:
        """Let these nodes confirm the own list: nobody else does who got it from others."""
        for node_id in node_ids if self._is_large else ():
            self._reach(node_id, AGENTS, self.directory.reminder())

    # -- what follows

    def _report(self, applied: Applied) -> None:
        """Let routes and events follow what changed in the directory."""
        for record in applied.changed:
            self.engine.renew_route(record)
        for record in applied.removed:
            self.engine.drop_routes(record)
            self._agent_event(Event.AGENT_GONE, record)
        for record in applied.added:
            self._agent_event(Event.AGENT_REGISTERED, record)
        for record, owner in applied.lost_mine:
            self.registrations.outdone(record.agent_id, owner)
            port = self.engine.ports.get(record.agent_id)
            if port is not None:
                self.engine.lose_port(port)
            text = f"agent {record.label} belongs to node {owner}, which keeps it; here it is unregistered"
            error = AgentExists(text)
            self.engine.event(
                Event(Event.AGENT_CONFLICT, owner, record.agent_id, record.name, text, error=error)
            )
        if applied.lost_mine:
            self._publish()
        for record, limit in applied.refused:
            self.engine.event(
                Event(
                    Event.AGENT_CONFLICT, record.node_id, record.agent_id, record.name, f"not taken: {limit}"
                )
            )

    def _agent_event(self, kind: str, record: AgentRecord) -> None:
        if self.watched:
            self.engine.event(Event(kind, record.node_id, record.agent_id, record.name))

    def _publish(self) -> None:
        """Send all nodes what has changed in the own list."""
        self._membership.listed = self.directory.version
        changes = self.directory.take_changes()
        linked = list(self.engine.sessions)
        if len(self._membership.alive()) <= len(linked) + 1:
            for node_id in linked:
                self._say(node_id, AGENTS, changes)
        else:
            for change in changes:
                self._broadcasts.publish(CHANGES, change)

    def _say(self, node_id: str, kind: int, bodies: Iterable[bytes]) -> None:
        """Frames for a node, if it is linked."""
        for body in bodies:
            session = self.engine.sessions.get(node_id)
            if session is None:
                return
            self.engine.put_control(session, kind, body)

    def _settle(self, told: Told) -> None:
        for token, error in told:
            self.engine.settle(token, error)
