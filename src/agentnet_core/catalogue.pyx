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

from functools import partial

from agentnet_core.agent_record cimport AgentRecord
from agentnet_core.claims cimport Applied, Early
from agentnet_core.directory cimport Directory
from agentnet_core.member_record cimport NodeRecord
from agentnet_core.membership cimport Membership
from agentnet_core.outflow cimport Outflow
from agentnet_core.pulls cimport Pulls
from agentnet_core.session cimport Session
from agentnet_core.update cimport Update

from agentnet_core.body import U64_MAX, wrong
from agentnet_core.errors import AgentExists, AgentUnreachable, NetworkError, NoSuchAgent
from agentnet_core.gossip import CHANGES
from agentnet_core.keepers import Keepers
from agentnet_core.ledger import Ledger
from agentnet_core.listing import Confirm, health_text, read_pull, write_pulls
from agentnet_core.lookups import Lookups, Question, read_there, read_where, write_there
from agentnet_core.records import Event, agent_id_of
from agentnet_core.registrations import Registrations

AGENTS, CONFIRM = 9, 10
PULL, WHERE, THERE = range(19, 22)
cdef str LEAVES = "this node leaves the network"

cdef int64_t MS = 1_000_000
cdef int64_t NEVER = 2**63 - 1


cdef class Catalogue:
    """The agents of one engine's network."""

    def __init__(self, Outflow engine not None, config, Membership membership not None, broadcasts, say,
                 seals=None):
        life = engine.node_id, engine.incarnation
        ledger = Ledger(*life, config, seals, membership.certificate_of) if seals is not None else None
        self.engine, self._membership, self._broadcasts, self._say_to = engine, membership, broadcasts, say
        self._is_signed = seals is not None
        self.directory = Directory(*life, config, ledger)
        membership.list_head = partial(self.directory.head_of, engine.node_id)
        self.registrations = Registrations(config, self.directory.label)
        broadcasts.take(CHANGES, self.on_change)
        self._early = Early(config.changes_early_max)
        self._pulls, self._lookups, self._keepers = Pulls(config), Lookups(config), Keepers(config.keepers)
        self._delay_ns = config.pull_delay_ms * MS
        self._patience_ns = config.pull_ms_max * MS
        self._sync_ns = config.sync_interval_ms * MS
        self._lookup_ns = config.lookup_ms_max * MS
        self._remind_ns = self._newcomers_ns = NEVER
        self._newcomers, self._sought, self._met = {}, {}, {}
        self._mesh_nodes_max = config.mesh_nodes_max
        self._network = config.network

    @property
    def complete(self):
        """Whether every linked node has told what it knows, and no list that it told of is lacking."""
        return not self._pulls and all(self._met.values())

    # -- commands of the driver

    def register(self, ports, token, int64_t timeout_ns):
        """Take agents of this node; the token settles when all who keep them have confirmed them.

        AgentExists or LimitReached, definite, are raised before anything has changed, or are what the token
        settles with where the keepers had to be asked.
        """
        self.directory.check([port.record for port in ports])
        deadline_ns = self.engine.now_ns + timeout_ns
        new = [port.agent_id for port in ports if not self.directory.is_mine(port.agent_id)]
        if new and self.is_large():
            go_on = partial(self._register_if_free, ports, token, deadline_ns)
            self._ask(go_on, min(timeout_ns, self._lookup_ns), new)
        else:
            self._register(ports, token, deadline_ns)

    def _register_if_free(self, ports, token, int64_t deadline_ns, question):
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
            self.close(question)
            if not token.cancelled():
                try:
                    self._register(ports, token, deadline_ns)
                except NetworkError as error:  # what is known here has changed meanwhile
                    self.engine.settle(token, error)

    def _register(self, ports, token, int64_t deadline_ns):
        version = self.directory.register([port.record for port in ports])
        self.engine.forget_speakers()
        for port in ports:
            self.engine.add_port(port)
            self.appeared(port.record)
        self.publish()
        self.confirm(version, [port.agent_id for port in ports], token, deadline_ns)

    def regroup(self, port, groups, token, int64_t timeout_ns):
        """Let an agent of this node be in these groups; the token settles as that of `register` does.

        UsageError or LimitReached, definite, are raised before anything has changed.
        """
        if self.engine.ports.get(port.agent_id) is not port or not self.directory.is_mine(port.agent_id):
            raise NoSuchAgent(f"agent {port.record.label} is not registered any more, so it is in no group")
        before, version = self.directory.regroup(port.agent_id, groups)
        self.engine.regroup(port, before, port.record.groups)
        self.publish()
        self.confirm(version, [port.agent_id], token, self.engine.now_ns + timeout_ns)

    cdef int confirm(self, uint64_t version, list ids, token, int64_t deadline_ns) except -1:
        """Settle the token when those who keep these ids have confirmed that version."""
        keepers = self._keepers_of(ids)
        self.settle(self.registrations.begin(version, keepers, ids, token, deadline_ns))
        self.remind(keepers)
        self._remind_ns = min(self._remind_ns, self.engine.now_ns + self._patience_ns)
        self.engine.wake_by(min(deadline_ns, self._remind_ns))

    def unregister(self, ports):
        """Drop agents of this node; what is in their mailboxes is refused."""
        applied = self.directory.unregister([port.agent_id for port in ports])
        for port in ports:
            self.engine.remove_port(port)
        self.report(applied)
        self.publish()

    def report_health(self, port, text):
        """An agent of this node says why it cannot work, or None when it can; other nodes are told."""
        if self.engine.ports.get(port.agent_id) is not port:
            raise NoSuchAgent(f"agent {port.record.label} is not registered any more, so it has no health")
        if self.directory.say_health(port.agent_id, health_text(text)):
            self.publish()

    def withdraw(self):
        """Let no node send work here any more; what is here already can still be done."""
        self.report(self.directory.unregister(list(self.engine.ports)))
        self.publish()

    # -- links and nodes, as control tells

    def link_up(self, Session session):
        """A link is welcomed."""
        self._met[session.node_id] = False
        if self.registrations.awaits(session.node_id):
            self.remind([session.node_id])
        self._pulls.link_up(self.engine.now_ns)
        self.pull()

    def link_down(self, str node_id):
        """The link to that node is gone, and no other took its place."""
        self._met.pop(node_id, None)
        if not self.is_large():
            self.settle(self.registrations.lost(node_id))
        self._pulls.link_down(node_id, self.engine.now_ns)
        for owner in self.directory.interrupt(node_id):
            self.compare(owner, "")
        self.pull()
        self._lookups.lost(node_id)

    def met(self, str node_id):
        """A linked node has told what it knows."""
        self._met[node_id] = True

    def heed(self):
        """Follow what membership has learned: the agents of who is gone go, lists that are lacking are
        asked for."""
        told = self._membership.drain_lists()
        if told:
            for owner, teller in told:
                self.compare(owner, teller)
            if self._pulls:
                self.pull()

    def on_agents(self, Session session not None, bytes body not None):
        """An AGENTS frame of a welcomed link."""
        self.take(session.node_id, self.directory.read(body))

    def on_change(self, str source not None, gossip, bytes body not None):
        """A change of a list that was published on the tree, where it may overtake the news of its owner."""
        cdef Update update = self.directory.read(body)
        cdef str origin = gossip.origin
        if update.owner != origin:
            raise wrong("AGENTS owner", f"{origin!r}, who published it", update.owner)
        if self._membership.incarnation_of(origin) is None:
            if not self._membership.is_gone(origin, update.incarnation):
                self._early.keep(origin, source, update)
        else:
            self.take(source, update)

    cdef int take(self, str source, Update update) except -1:
        """What a linked node brings of a list."""
        cdef Applied applied
        cdef str owner = update.owner
        cdef Pulls pulls = self._pulls
        cdef int64_t now_ns = self.engine.now_ns
        if not self.may_take(update):
            return 0
        if pulls._wants:
            pulls.came(owner, source, now_ns)
        applied = self.directory.apply(source, update)
        if owner in self.engine.sessions:
            self.say(owner, CONFIRM, applied.confirms)
        self.report(applied)
        if self._is_signed and applied.added:
            for question in self._lookups.open():
                question.tell(question)
        if applied.version:
            head = self.directory.head_of(owner) if self._is_signed else None
            self._membership.note_list(owner, update.incarnation, applied.version, head)
            if pulls._wants:
                pulls.held(owner, update.incarnation, applied.version)
        if applied.lacks:
            pulls.want(owner, update.incarnation, update.version, source, now_ns + self._delay_ns)
        if pulls._wants:
            self.pull()
        return 0

    def on_pull(self, Session session, body):
        """A PULL frame of a welcomed link: send what there is more of."""
        # Each list once, however often it is named: it may be very long.
        wanted = {owner: held for owner, *held in read_pull(body)}
        for owner, held in wanted.items():
            self.say(session.node_id, AGENTS, self.directory.whole_list(owner, *held))

    def on_where(self, Session session, body):
        """A WHERE frame of a welcomed link: tell what is known of these ids."""
        number, ids = read_where(body)
        places = [place for place in map(self.directory.place, ids) if place is not None]
        self.say(session.node_id, THERE, [write_there(number, places)])

    def on_there(self, Session session, body):
        """A THERE frame of a welcomed link."""
        number, places = read_there(body)
        for _, owner, incarnation, version in places:
            living = self._membership.living(owner)
            if living is not None and living.incarnation == incarnation:
                # That there is so much more is hearsay, until a list with its owner's signature has come.
                most = self.directory.held(owner)[1] + 1 if self._is_signed else version
                self.want(owner, incarnation, min(version, most), session.node_id)
        self.pull()
        question = self._lookups.there(session.node_id, number, places)
        if question is not None:
            question.tell(question)

    def on_confirm(self, Session session, body):
        """A CONFIRM frame of a welcomed link."""
        confirm = Confirm.decode(body)
        life = confirm.owner, confirm.incarnation
        if life != (self.engine.node_id, self.engine.incarnation):
            raise wrong("CONFIRM owner", f"{self.engine.node_id!r} in its incarnation", life)
        self.report(self.directory.concede(session.node_id, confirm))
        self.settle(self.registrations.confirm(session.node_id, confirm))

    def tick(self, int64_t now_ns):
        """Tell those whose time is over; the time of the next thing."""
        if self.registrations:
            self.settle(self.registrations.late(now_ns))
        if now_ns >= self._remind_ns:
            awaited = self.registrations.awaited()
            self._remind_ns = now_ns + self._patience_ns if awaited else NEVER
            self.remind(awaited)  # what they were told, or said, may be lost
        if now_ns >= self._newcomers_ns:
            self.tell_newcomers()
        if self._pulls:
            self.pull()
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

    cdef bint may_take(self, Update update) except -1:
        """Whether what was brought of a list is of a node that lives, as it lives now."""
        cdef NodeRecord living = self._membership.living(update.owner)
        if living is None:
            return update.owner == self.engine.node_id  # the directory knows what it said
        return living.incarnation == update.incarnation

    cdef int compare(self, str owner, str teller) except -1:
        """Something was heard of a node: the list of its dead life goes, more of its living one is wanted."""
        cdef NodeRecord living = self._membership.living(owner)
        early = self._early.take(owner)
        if living is None:
            return self.drop(owner)
        if not self.directory.is_of(owner, living.incarnation):
            self.report(self.directory.forget(owner, living.incarnation))
        for source, update in early:
            self.take(source, update)
        if living.listed:
            self.want(owner, living.incarnation, living.listed, teller)
        if self.engine.now_ns < self._unheard_until_ns and owner not in self.engine.sessions:
            self._newcomers[owner] = None
            self._newcomers_ns = min(self._newcomers_ns, self.engine.now_ns + self._patience_ns)
            self.engine.wake_by(self._newcomers_ns)
        return 0

    cdef int drop(self, str owner) except -1:
        """There is no such node any more: its agents go, and nobody waits for it."""
        self.report(self.directory.forget(owner))
        self._pulls.drop(owner)
        more, told = self.registrations.replace(owner, self._keepers_of)
        if more:
            self.remind(more)
        return self.settle(told)

    cdef int tell_newcomers(self) except -1:
        """Let who came, and could not be linked, hear of the own list on the tree: who let it in knew that
        from this node's link, and does not pass it on."""
        newcomers, self._newcomers, self._newcomers_ns = self._newcomers, {}, NEVER
        living = [i for i in newcomers if self._membership.living(i) is not None]
        if not self.is_large() and [i for i in living if i not in self.engine.sessions]:
            self._unheard_until_ns = 0
            self._broadcasts.publish(CHANGES, self.directory.reminder())
        return 0

    cdef int want(self, str owner, uint64_t incarnation, uint64_t listed, str teller) except -1:
        """There is that version of a list: ask for it, if it is not here and does not come by itself."""
        cdef uint64_t version = self.directory.held_as(owner, incarnation)
        if version < listed:
            due_ns = self.engine.now_ns + (self._delay_ns if version else 0)
            self._pulls.want(owner, incarnation, listed, teller, due_ns)
        return 0

    cdef int pull(self) except -1:
        """Ask for the lists that are due."""
        cdef list have
        if self.engine.now_ns >= self._pulls.next_deadline_ns():
            for node_id, wanted in self._pulls.tick(self.engine.sessions, self.engine.now_ns).items():
                have = []
                for owner, incarnation in wanted:
                    self.directory.give_up(owner)  # whoever was asked before has not brought it
                    have.append((owner, incarnation, self.directory.held_as(owner, incarnation)))
                self.say(node_id, PULL, write_pulls(have))
        if self._pulls.next_deadline_ns() < self.engine.wake_ns:
            self.engine.wake_by(self._pulls.next_deadline_ns())
        return 0

    # -- who keeps what

    cdef bint is_large(self) except -1:
        return not self._membership.has_at_most(self._mesh_nodes_max)

    cdef bint is_linked_to_all(self) except -1:
        """Whether every node is."""
        return self._membership.has_at_most(len(self.engine.sessions) + 1)

    def _keepers_of(self, agent_ids):
        """The other nodes that keep one of these ids; in a small network all that are linked do."""
        if not self.is_large():
            return list(self.engine.sessions)
        self._keepers.among(self._membership.alive())
        found = dict.fromkeys(node_id for i in agent_ids for node_id in self._keepers.of(i))
        found.pop(self.engine.node_id, None)
        return list(found)

    cdef int remind(self, node_ids) except -1:
        """Let these nodes confirm the own list: nobody else does who got it from others."""
        for node_id in node_ids if self.is_large() else ():
            self._say_to(node_id, AGENTS, self.directory.reminder())
        return 0

    # -- agents that are unknown here

    def seek(self, agent):
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
        told_all = self.is_linked_to_all() and not self.is_large()
        if hides or told_all or self._ended or not 0 < agent_id <= U64_MAX:
            raise nobody
        self._sought[agent] = self._ask(partial(self._go_on, agent, nobody), self._lookup_ns, [agent_id])
        return AgentRecord(agent_id, "", agent if isinstance(agent, str) else None)

    def _ask(self, tell, int64_t wait_ns, agent_ids):
        """Ask who keeps these ids. ``tell`` is not called before this has returned."""
        asked = {}
        for agent_id in agent_ids:
            for node_id in self._keepers_of([agent_id]):
                asked.setdefault(node_id, []).append(agent_id)
        question = Question(tell, wait_ns)
        for node_id, number, body in self._lookups.ask(question, asked):
            self._say_to(node_id, WHERE, body, partial(self._unasked, number))
        self.engine.wake_by(self.engine.now_ns)
        return question

    def _unasked(self, number, _):
        self._lookups.unasked(number)
        self.engine.wake_by(self.engine.now_ns)

    def _go_on(self, agent, nobody, question):
        """There is news of an agent that messages wait for: fail them, if it is that none is to come."""
        if self._ended:
            return self.give_up(agent, question, AgentUnreachable(f"{LEAVES}; nothing was sent"))
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
        self.give_up(agent, question, error)

    cdef int close(self, question) except -1:
        """Nobody needs to know any more, nor needs the lists that it told of, where they are not proven."""
        self._lookups.close(question)
        for place in question.found.values() if self._is_signed and question.is_late else ():
            living = self._membership.living(place.owner)
            if living is None or living.listed <= self.directory.held(place.owner)[1]:
                self._pulls.drop(place.owner)
        return 0

    cdef int give_up(self, agent, question, error) except -1:
        del self._sought[agent]
        self.close(question)
        self.engine.missing(agent, error)
        return 0

    def end(self):
        """This node leaves: nobody is looked for or waited for any more."""
        self._ended = True
        for question in self._lookups.open():
            question.tell(question)
        for node_id in self.registrations.awaited():
            self.settle(self.registrations.lost(node_id))

    cdef int appeared(self, AgentRecord record) except -1:
        """An agent is known from now on."""
        self.agent_event(Event.AGENT_REGISTERED, record)
        if self._sought:
            for agent in (record.agent_id, record.name or 0):
                question = self._sought.pop(agent, None)
                if question is not None:
                    self._lookups.close(question)
                    self.engine.found(agent)
        return 0

    # -- what follows

    cdef int report(self, Applied applied) except -1:
        """Let routes and events follow what changed in the directory."""
        cdef AgentRecord record
        if applied.added:
            self.engine.forget_speakers()
        for record in applied.changed:
            self.engine.renew_route(record)
        for record in applied.removed:
            self.engine.drop_routes(record)
            self.agent_event(Event.AGENT_GONE, record)
        for record in applied.added if self.watched or self._sought else ():
            self.appeared(record)
        if applied.lost_mine:
            self.report_lost(applied)
        for record, limit in applied.refused:
            text = f"not taken: {limit}"
            self.engine.event(Event(Event.AGENT_CONFLICT, record.node_id, record.agent_id, record.name, text))
        return 0

    cdef int report_lost(self, Applied applied) except -1:
        """Own agents belong to others from now on."""
        cdef AgentRecord record
        for record, owner in applied.lost_mine:
            self.registrations.outdone(record.agent_id, owner)
            port = self.engine.ports.get(record.agent_id)
            if port is not None:
                self.engine.lose_port(port)
            text = f"agent {record.label} belongs to node {owner}, which keeps it; here it is unregistered"
            error = AgentExists(text)
            event = Event(Event.AGENT_CONFLICT, owner, record.agent_id, record.name, text, error=error)
            self.engine.event(event)
        return self.publish()

    cdef int agent_event(self, str kind, AgentRecord record) except -1:
        if self.watched:
            self.engine.event(Event(kind, record.node_id, record.agent_id, record.name))
        return 0

    cdef int publish(self) except -1:
        """Send all nodes what has changed in the own list."""
        self._membership.listed = self.directory.version
        changes = self.directory.take_changes()
        linked = list(self.engine.sessions)
        if self.is_linked_to_all():
            self._unheard_until_ns = self.engine.now_ns + self._sync_ns
            for node_id in linked:
                self.say(node_id, AGENTS, changes)
        else:
            for change in changes:
                self._broadcasts.publish(CHANGES, change)
        return 0

    cdef int say(self, str node_id, int kind, bodies) except -1:
        """Frames for a node, if it is linked."""
        for body in bodies:
            session = self.engine.sessions.get(node_id)
            if session is None:
                return 0
            self.engine.put_control(session, kind, body)
        return 0

    cdef int settle(self, told) except -1:
        for token, error in told:
            self.engine.settle(token, error)
        return 0
