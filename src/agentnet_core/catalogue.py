"""Which agents there are, told to every linked node and learned from them.

In: registrations of this node's agents, AGENTS, PULL and CONFIRM frames, links that come and go, what
MEMBERS tell of versions.  Out: the same frames, routes and events that follow what changed, and tokens
that settle once others have confirmed.  It composes the directory, the registrations and the pulls.

The owner of a list sends each change of it over every link; where it is not linked to all nodes, on the
broadcast tree; and if a node comes meanwhile that it cannot link, it tells of it there, too.  Nobody is
sent a list unasked: MEMBERS say which version each node has of its own, and who hears of one that it does
not hold asks for it.  If it holds an older one it waits `pull_delay_ms` first: the change may be on its way.

In a network of more than `mesh_nodes_max` each id has some keepers.  Before a registration they are asked
whose the ids are, so that nobody's agent loses its id to a later one; then it waits for them alone to
confirm, whom this node asks itself, again each `pull_ms_max`; one that is lost meanwhile gives way to the
next.  Messages to an agent that is unknown here wait while its keepers are asked: `seek`.

Lists are taken of nodes that membership knows to live, of no other incarnation: a list that is passed
on cannot bring back the dead.  Where the network is signed, what comes is what the owner signed, whoever
brings it; elsewhere what others pass on is believed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from agentnet_core.agent_record import AgentRecord
from agentnet_core.body import U64_MAX, wrong
from agentnet_core.broadcasts import Broadcasts
from agentnet_core.claims import Applied, Early
from agentnet_core.config import EngineConfig
from agentnet_core.directory import Directory
from agentnet_core.errors import AgentExists, AgentUnreachable, NetworkError, NoSuchAgent
from agentnet_core.gossip import CHANGES, Gossip
from agentnet_core.keepers import Keepers
from agentnet_core.ledger import Ledger
from agentnet_core.listing import Confirm, health_text, read_pull, write_pulls
from agentnet_core.lookups import Lookups, Question, read_there, read_where, write_there
from agentnet_core.membership import Membership
from agentnet_core.pulls import Pulls
from agentnet_core.reach import Say
from agentnet_core.records import Event, agent_id_of
from agentnet_core.registrations import Registrations, Told
from agentnet_core.signing import Seals
from agentnet_core.update import Update

if TYPE_CHECKING:
    from agentnet_core.engine import Engine
    from agentnet_core.port import Port
    from agentnet_core.session import Session

AGENTS, CONFIRM = 9, 10
PULL, WHERE, THERE = range(19, 22)

MS = 1_000_000
NEVER = 2**63 - 1
LEAVES = "this node leaves the network"


class Catalogue:
    """The agents of one engine's network."""

    def __init__(
        self,
        engine: Engine,
        config: EngineConfig,
        membership: Membership,
        broadcasts: Broadcasts,
        say: Say,
        seals: Seals | None = None,
    ) -> None:
        self.engine = engine
        life = engine.node_id, engine.incarnation
        self._is_signed = seals is not None
        ledger = Ledger(*life, config, seals, membership.certificate_of) if seals is not None else None
        self.directory = Directory(*life, config, ledger)
        membership.list_head = partial(self.directory.head_of, engine.node_id)
        self.registrations = Registrations(config, self.directory.label)
        self.watched = False
        """Whether anybody reads events of single agents: a network may have very many."""
        self._membership = membership
        self._broadcasts = broadcasts
        broadcasts.take(CHANGES, self._on_change)
        self._early = Early(config.changes_early_max)
        self._pulls = Pulls(config)
        self._delay_ns = config.pull_delay_ms * MS
        self._patience_ns = config.pull_ms_max * MS
        self._remind_ns = NEVER
        self._sync_ns = config.sync_interval_ms * MS
        self._unheard_until_ns = 0
        """Until then a node may come that has not heard of what was told to links alone, nor will."""
        self._newcomers: dict[str, None] = {}
        self._newcomers_ns = NEVER
        self._keepers = Keepers(config.keepers)
        self._mesh_nodes_max = config.mesh_nodes_max
        self._network = config.network
        self._say_to = say
        self._lookups = Lookups(config)
        self._lookup_ns = config.lookup_ms_max * MS
        self._sought: dict[int | str, Question] = {}
        """The agents, by id or name, that messages wait for."""
        self._ended = False
        self._met: dict[str, bool] = {}
        """Whether a linked node has told which nodes and lists it knows."""

    @property
    def complete(self) -> bool:
        """Whether every linked node has told what it knows, and no list that it told of is lacking."""
        return not self._pulls and all(self._met.values())

    # -- commands of the driver

    def register(self, ports: Sequence[Port], token: Any, timeout_ns: int) -> None:
        """Take agents of this node; the token settles when all who keep them have confirmed them.

        AgentExists or LimitReached, definite, are raised before anything has changed, or are what the token
        settles with where the keepers had to be asked.
        """
        self.directory.check([port.record for port in ports])
        deadline_ns = self.engine.now_ns + timeout_ns
        new = [port.agent_id for port in ports if not self.directory.is_mine(port.agent_id)]
        if new and self._is_large:
            go_on = partial(self._register_if_free, ports, token, deadline_ns)
            self._ask(go_on, min(timeout_ns, self._lookup_ns), new)
        else:
            self._register(ports, token, deadline_ns)

    def _register_if_free(
        self, ports: Sequence[Port], token: Any, deadline_ns: int, question: Question
    ) -> None:
        """Go on with a registration when it is known whose the ids are."""
        if self._ended:
            self._lookups.close(question)
            return self.engine.settle(token, AgentUnreachable(f"{LEAVES}; nothing was registered"))
        for agent_id, place in question.found.items():
            taken = place.owner != self.engine.node_id
            if taken and not self._membership.is_gone(place.owner, place.incarnation):
                if self._is_signed and self.directory.get(agent_id) is None:
                    if question.is_late:
                        continue  # nobody has proved it: not believed
                    return  # the list that proves it is on its way
                self._lookups.close(question)
                label = next(port.record.label for port in ports if port.agent_id == agent_id)
                text = f"agent {label} is registered on node {place.owner!r} already"
                return self.engine.settle(token, AgentExists(text))
        if question.is_over or question.is_late:
            self._close(question)
            if not token.cancelled():
                try:
                    self._register(ports, token, deadline_ns)
                except NetworkError as error:  # what is known here has changed meanwhile
                    self.engine.settle(token, error)

    def _register(self, ports: Sequence[Port], token: Any, deadline_ns: int) -> None:
        version = self.directory.register([port.record for port in ports])
        self.engine.forget_speakers()
        for port in ports:
            self.engine.add_port(port)
            self._appeared(port.record)
        self._publish()
        self._confirm(version, [port.agent_id for port in ports], token, deadline_ns)

    def regroup(self, port: Port, groups: Iterable[str], token: Any, timeout_ns: int) -> None:
        """Let an agent of this node be in these groups; the token settles as that of `register` does.

        UsageError or LimitReached, definite, are raised before anything has changed.
        """
        if self.engine.ports.get(port.agent_id) is not port or not self.directory.is_mine(port.agent_id):
            raise NoSuchAgent(f"agent {port.record.label} is not registered any more, so it is in no group")
        before, version = self.directory.regroup(port.agent_id, groups)
        self.engine.regroup(port, before, port.record.groups)
        self._publish()
        self._confirm(version, [port.agent_id], token, self.engine.now_ns + timeout_ns)

    def _confirm(self, version: int, ids: list[int], token: Any, deadline_ns: int) -> None:
        """Settle the token when those who keep these ids have confirmed that version."""
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
        self._lookups.lost(node_id)

    def met(self, node_id: str) -> None:
        """A linked node has told what it knows."""
        self._met[node_id] = True

    def heed(self) -> None:
        """Follow what membership has learned: the agents of who is gone go, lists that are lacking are
        asked for."""
        told = self._membership.drain_lists()
        if told:
            for owner, teller in told:
                self._compare(owner, teller)
            if self._pulls:
                self._pull()

    def on_agents(self, session: Session, body: bytes) -> None:
        """An AGENTS frame of a welcomed link."""
        self._take(session.node_id, self.directory.read(body))

    def _on_change(self, source: str, gossip: Gossip, body: bytes) -> None:
        """A change of a list that was published on the tree, where it may overtake the news of its owner."""
        update, origin = self.directory.read(body), gossip.broadcast.origin
        if update.owner != origin:
            raise wrong("AGENTS owner", f"{origin!r}, who published it", update.owner)
        if self._membership.incarnation_of(origin) is None:
            if not self._membership.is_gone(origin, update.incarnation):
                self._early.keep(origin, source, update)
        else:
            self._take(source, update)

    def _take(self, source: str, update: Update) -> None:
        """What a linked node brings of a list."""
        owner, engine, pulls = update.owner, self.engine, self._pulls
        if not self._may_take(update):
            return
        if pulls:
            pulls.came(owner, source, engine.now_ns)
        applied = self.directory.apply(source, update)
        if owner in engine.sessions:
            self._say(owner, CONFIRM, applied.confirms)
        self._report(applied)
        if self._is_signed and applied.added:
            for question in self._lookups.open():
                question.tell(question)
        if applied.version:
            head = self.directory.head_of(owner) if self._is_signed else None
            self._membership.note_list(owner, update.incarnation, applied.version, head)
            if pulls:
                pulls.held(owner, update.incarnation, applied.version)
        if applied.lacks:
            pulls.want(owner, update.incarnation, update.version, source, engine.now_ns + self._delay_ns)
        if pulls:
            self._pull()

    def on_pull(self, session: Session, body: bytes) -> None:
        """A PULL frame of a welcomed link: send what there is more of."""
        # Each list once, however often it is named: it may be very long.
        wanted = {owner: held for owner, *held in read_pull(body)}
        for owner, held in wanted.items():
            self._say(session.node_id, AGENTS, self.directory.whole_list(owner, *held))

    def on_where(self, session: Session, body: bytes) -> None:
        """A WHERE frame of a welcomed link: tell what is known of these ids."""
        number, ids = read_where(body)
        places = [place for place in map(self.directory.place, ids) if place is not None]
        self._say(session.node_id, THERE, [write_there(number, places)])

    def on_there(self, session: Session, body: bytes) -> None:
        """A THERE frame of a welcomed link."""
        number, places = read_there(body)
        for _, owner, incarnation, version in places:
            living = self._membership.living(owner)
            if living is not None and living.incarnation == incarnation:
                # That there is so much more is hearsay, until a list with its owner's signature has come.
                most = self.directory.held(owner)[1] + 1 if self._is_signed else version
                self._want(owner, incarnation, min(version, most), session.node_id)
        self._pull()
        question = self._lookups.there(session.node_id, number, places)
        if question is not None:
            question.tell(question)

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
        if self.registrations:
            self._settle(self.registrations.late(now_ns))
        if now_ns >= self._remind_ns:
            awaited = self.registrations.awaited()
            self._remind_ns = now_ns + self._patience_ns if awaited else NEVER
            self._remind(awaited)  # what they were told, or said, may be lost
        if now_ns >= self._newcomers_ns:
            self._tell_newcomers()
        if self._pulls:
            self._pull()
        for question in self._lookups.tick(now_ns) if self._lookups else ():
            question.tell(question)
        return min(
            self._remind_ns,
            self._newcomers_ns,
            self.registrations.next_deadline_ns(),
            self._pulls.next_deadline_ns(),
            self._lookups.next_deadline_ns(),
        )

    # -- the lists of others

    def _may_take(self, update: Update) -> bool:
        """Whether what was brought of a list is of a node that lives, as it lives now."""
        living = self._membership.living(update.owner)
        if living is None:
            return update.owner == self.engine.node_id  # the directory knows what it said
        return living.incarnation == update.incarnation

    def _compare(self, owner: str, teller: str) -> None:
        """Something was heard of a node: the list of its dead life goes, more of its living one is wanted."""
        living, early = self._membership.living(owner), self._early.take(owner) if self._early else ()
        if living is None:
            return self._is_gone(owner)
        if not self.directory.is_of(owner, living.incarnation):
            self._report(self.directory.forget(owner, living.incarnation))
        for source, update in early:
            self._take(source, update)
        if living.listed:
            self._want(owner, living.incarnation, living.listed, teller)
        if self.engine.now_ns < self._unheard_until_ns and owner not in self.engine.sessions:
            self._newcomers[owner] = None
            self._newcomers_ns = min(self._newcomers_ns, self.engine.now_ns + self._patience_ns)
            self.engine.wake_by(self._newcomers_ns)

    def _is_gone(self, owner: str) -> None:
        """There is no such node any more: its agents go, and nobody waits for it."""
        self._report(self.directory.forget(owner))
        self._pulls.drop(owner)
        more, told = self.registrations.replace(owner, self._keepers_of)
        self._remind(more)
        self._settle(told)

    def _tell_newcomers(self) -> None:
        """Let who came, and could not be linked, hear of the own list on the tree: who let it in knew that
        from this node's link, and does not pass it on."""
        newcomers, self._newcomers, self._newcomers_ns = self._newcomers, {}, NEVER
        living = [i for i in newcomers if self._membership.living(i) is not None]
        if not self._is_large and any(i not in self.engine.sessions for i in living):
            self._unheard_until_ns = 0
            self._broadcasts.publish(CHANGES, self.directory.reminder())

    def _want(self, owner: str, incarnation: int, listed: int, teller: str) -> None:
        """There is that version of a list: ask for it, if it is not here and does not come by itself."""
        held, version = self.directory.held(owner)
        if held != incarnation:
            version = 0
        if version < listed:
            due_ns = self.engine.now_ns + (self._delay_ns if version else 0)
            self._pulls.want(owner, incarnation, listed, teller, due_ns)

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
        return not self._membership.has_at_most(self._mesh_nodes_max)

    @property
    def _is_linked_to_all(self) -> bool:
        """Whether every node is."""
        return self._membership.has_at_most(len(self.engine.sessions) + 1)

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
            self._say_to(node_id, AGENTS, self.directory.reminder())

    # -- agents that are unknown here

    def seek(self, agent: int | str) -> AgentRecord:
        """Ask whose that agent is; what stands in for its record until `Engine.found` or `missing` follows.

        NoSuchAgent if the agents of all nodes are known here; Congested if too many are looked for.
        """
        nobody = NoSuchAgent(
            f"no agent {agent!r} is registered in network {self._network!r}, as far as node "
            f"{self.engine.node_id} knows: register it, or look at net.agents()"
        )
        try:
            agent_id = agent_id_of(agent)
        except UnicodeEncodeError:
            raise nobody from None
        hides = self.directory.get(agent_id) is not None  # a name that hashes to the id of another agent
        told_all = self._is_linked_to_all and not self._is_large
        if hides or told_all or self._ended or not 0 < agent_id <= U64_MAX:
            raise nobody
        self._sought[agent] = self._ask(partial(self._go_on, agent, nobody), self._lookup_ns, [agent_id])
        return AgentRecord(agent_id, "", agent if isinstance(agent, str) else None)

    def _ask(self, tell: Callable[[Question], None], wait_ns: int, agent_ids: Iterable[int]) -> Question:
        """Ask who keeps these ids. ``tell`` is not called before this has returned."""
        asked: dict[str, list[int]] = {}
        for agent_id in agent_ids:
            for node_id in self._keepers_of([agent_id]):
                asked.setdefault(node_id, []).append(agent_id)
        question = Question(tell, wait_ns)
        for node_id, number, body in self._lookups.ask(question, asked):
            self._say_to(node_id, WHERE, body, partial(self._unasked, number))
        self.engine.wake_by(self.engine.now_ns)
        return question

    def _unasked(self, number: int, _: NetworkError) -> None:
        self._lookups.unasked(number)
        self.engine.wake_by(self.engine.now_ns)

    def _go_on(self, agent: int | str, nobody: NetworkError, question: Question) -> None:
        """There is news of an agent that messages wait for: fail them, if it is that none is to come."""
        if self._ended:
            return self._give_up(agent, question, AgentUnreachable(f"{LEAVES}; nothing was sent"))
        if question.found and not question.is_late:
            return  # whose it is, is known: its list is on its way
        if not (question.is_over or question.is_late):
            return
        error = nobody
        places = [it for it in question.found.values() if self._membership.living(it.owner) is not None]
        if places:
            (place,) = places
            error = AgentUnreachable(
                f"agent {agent!r} is on node {place.owner}, whose list has not come yet; nothing was sent"
            )
        elif not (question.found or question.answered):
            error = AgentUnreachable(
                f"agent {agent!r} is not known on node {self.engine.node_id}, and who would know it did not "
                f"answer: {', '.join(question.silent) or 'there is nobody'}; nothing was sent"
            )
        self._give_up(agent, question, error)

    def _close(self, question: Question) -> None:
        """Nobody needs to know any more, nor needs the lists that it told of, where they are not proven."""
        self._lookups.close(question)
        for place in question.found.values() if self._is_signed and question.is_late else ():
            living = self._membership.living(place.owner)
            if living is None or living.listed <= self.directory.held(place.owner)[1]:
                self._pulls.drop(place.owner)

    def _give_up(self, agent: int | str, question: Question, error: NetworkError) -> None:
        del self._sought[agent]
        self._close(question)
        self.engine.missing(agent, error)

    def end(self) -> None:
        """This node leaves: nobody is looked for or waited for any more."""
        self._ended = True
        for question in self._lookups.open():
            question.tell(question)
        for node_id in self.registrations.awaited():
            self._settle(self.registrations.lost(node_id))

    def _appeared(self, record: AgentRecord) -> None:
        """An agent is known from now on."""
        self._agent_event(Event.AGENT_REGISTERED, record)
        if self._sought:
            for agent in (record.agent_id, record.name or 0):
                question = self._sought.pop(agent, None)
                if question is not None:
                    self._lookups.close(question)
                    self.engine.found(agent)

    # -- what follows

    def _report(self, applied: Applied) -> None:
        """Let routes and events follow what changed in the directory."""
        if applied.added:
            self.engine.forget_speakers()
        for record in applied.changed:
            self.engine.renew_route(record)
        for record in applied.removed:
            self.engine.drop_routes(record)
            self._agent_event(Event.AGENT_GONE, record)
        for record in applied.added if self.watched or self._sought else ():
            self._appeared(record)
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
        if self._is_linked_to_all:
            self._unheard_until_ns = self.engine.now_ns + self._sync_ns
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
