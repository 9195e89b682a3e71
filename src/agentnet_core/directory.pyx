"""Who is where: every agent of the network, its name, its capabilities and its node.

Each node publishes the list of its own agents; the directory holds one such list per node, whoever
brought it, and for every id the record that counts.  A list has the incarnation of its owner and a
version: a higher incarnation replaces it, a higher version is a change of it or all of it anew, what
is not higher is old and changes nothing.  So in whatever order and over whatever ways lists and
changes come, and however often, all who have got the newest hold the same.

A whole list comes in parts, over one link: what another link brings meanwhile does not mix in, and
until the last part has come nothing is held of a version.  A change whose base is not there yet is kept
until it is; `Applied.lacks` says that the list is to be asked for if that does not come.  A version
that is held is answered with CONFIRM, which names the ids that were not taken.

An id has one owner.  A node registers only what its own directory does not know, so two owners come
only from a race or a partition.  Then the lower node id keeps the id, on every node alike, whatever
comes first: the others' claims are kept behind it and take over in the same order if it goes, and
a node whose own agent has lost withdraws it.  So directories that have seen the same lists agree.

In a signed network a version of another's list is merged only if its owner signed it; see `ledger`.

Limits: `agents_max` records of all nodes together and `metadata_bytes_max` each; a peer's record
beyond is not taken and reported, and its list not passed on.  `changes_early_max` changes are kept
that are early; the oldest go.  A body that breaks the law raises ProtocolError and changes nothing.
"""

from operator import attrgetter

from agentnet_core.agent_record cimport AgentRecord
from agentnet_core.body import U64_MAX, wrong
from agentnet_core.claims cimport Applied, Claims
from agentnet_core.config import BODY_BYTES
from agentnet_core.errors import AgentExists, LimitReached, NoSuchAgent, ProtocolError
from agentnet_core.listing import (
    CAPABILITY_BYTES_MAX, Capabilities, read_update, unsigned, wire_form, write_change, write_reminder,
    write_whole,
)
from agentnet_core.lookups import Place
from agentnet_core.records import describe
from agentnet_core.update cimport Update, read_plain

cdef object by_node = attrgetter("node_id")


cdef class Directory(Index):
    """All agents that this node knows; ``version`` counts the changes of its own list.

    ``body_bytes``: what frames are filled to.
    """

    def __init__(self, str node_id not None, uint64_t incarnation, config, ledger=None):
        self.node_id, self.incarnation = node_id, incarnation
        self.body_bytes = BODY_BYTES
        self._ledger = ledger
        self._agents_max = config.agents_max
        self._metadata_bytes_max = config.metadata_bytes_max
        self._rivals, self._claims, self._early = {}, {}, {}
        self._mine = Claims(node_id, incarnation)
        self._own = self._mine.many = {}
        self._changes = []
        self._early_max = config.changes_early_max
        self._capabilities = Capabilities()
        self._words = self._capabilities.words
        # So many capabilities fit, however long they are.
        self._capabilities_fit = self._metadata_bytes_max // (CAPABILITY_BYTES_MAX + 5) - 1

    # -- reading

    def is_mine(self, agent_id):
        """Whether the id belongs to an agent of this node."""
        return agent_id in self._own

    def owned_by(self, str node_id not None):
        """The agents of one node, in the order in which they came."""
        cdef Claims claims
        cdef AgentRecord r
        if node_id == self.node_id:
            return list(self._own.values())
        claims = self._claims.get(node_id)
        if claims is None:
            return []
        return [r for r in claims.all() if self._winners.get(r.agent_id) is r]

    cpdef tuple held(self, str node_id):
        """Incarnation and version of that node's list, (0, 0) if none is held whole."""
        cdef Claims claims
        if node_id == self.node_id:
            return self.incarnation, self.version
        claims = self._claims.get(node_id)
        if claims is None or not claims.whole:
            return 0, 0
        return claims.incarnation, claims.version

    cpdef uint64_t held_as(self, str node_id, uint64_t incarnation) except? 0:
        """Which version of that node's list is held whole, as it lives in that incarnation; 0 if none is."""
        life, version = self.held(node_id)
        return version if life == incarnation else 0

    def whole_list(self, str node_id not None, incarnation=0, version=0):
        """That node's list as bodies of AGENTS frames; none for who holds that version of it, if it is no
        less than what there is here."""
        cdef Claims claims = self._mine if node_id == self.node_id else self._claims.get(node_id)
        held = self.held(node_id)
        if claims is None or claims.partial or held <= (incarnation, version):
            return []
        if claims.body is not None:
            return [claims.body]
        bodies = write_whole(node_id, *held, claims.records.values(), self.body_bytes, self.head_of(node_id))
        if claims is not self._mine and len(bodies) == 1:
            claims.keep(bodies[0])
        return bodies

    def head_of(self, str node_id not None):
        """What that node signed of its list as it is held here, where the network is signed."""
        cdef Claims claims
        if node_id == self.node_id:
            return self._ledger.head(self.version) if self._ledger is not None else None
        claims = self._claims.get(node_id)
        return claims.head if claims is not None else None

    def place(self, agent_id):
        """Whose the agent is, if it is known."""
        cdef Claims claims
        cdef AgentRecord record = self._winners.get(agent_id)
        if record is None:
            return None
        if record.node_id == self.node_id:
            return Place(agent_id, self.node_id, self.incarnation, self.version)
        claims = self._claims[record.node_id]
        return Place(agent_id, record.node_id, claims.incarnation, claims.version)

    # -- the own list

    def check(self, records):
        """Raise what `register` would."""
        self._checked(records)

    def register(self, records):
        """Take agents of this node, all or none; the version of its list that holds them.

        An id that is this node's already gets the new record. The directory owns the records from
        now on. AgentExists names the other owner; LimitReached names the limit.
        """
        cdef AgentRecord record
        cdef dict taken = self._checked(records), mine = self._own
        for agent_id, record in taken.items():
            if agent_id not in mine:
                self._held += 1
            else:
                self._before(mine[agent_id])
            mine[agent_id] = record
            self._crown(agent_id, record)
        return self._changed(taken) if taken else self.version

    def unregister(self, agent_ids):
        """Drop agents of this node, all or none; NoSuchAgent if one is not this node's."""
        dropped = tuple(dict.fromkeys(agent_ids))
        for agent_id in dropped:
            if agent_id not in self._own:
                raise NoSuchAgent(f"no agent with id {describe(agent_id)} is registered on {self.node_id!r}")
        cdef Applied applied = Applied.__new__(Applied)
        for agent_id in dropped:
            self._held -= 1
            self._before(self._own[agent_id])
            self._release(self._own.pop(agent_id), applied)
        if dropped:
            self._changed(dropped)
        return applied

    def say_health(self, agent_id, str health not None):
        """Let an agent of this node say how it is; whether that is news, and the list has a new version."""
        cdef AgentRecord record = self._own.get(agent_id)
        if record is None or record.health == health:
            return False
        self._before(record)
        record.health = health
        self._changed((agent_id,))
        return True

    def regroup(self, agent_id, groups):
        """Let an agent of this node be in these groups; the groups before, and the version of the list now.

        UsageError or LimitReached, and nothing has changed.
        """
        cdef AgentRecord record = self._own[agent_id]
        before, record.groups = record.groups, self._capabilities.own_groups(groups)
        limit = self._over_limit(self._capabilities.record_bytes(record))
        after, record.groups = record.groups, before
        if limit is not None:
            raise LimitReached(f"agent {record.label}: {limit}")
        self._before(record)
        self._part(record)
        record.groups = after
        self._meet(record)
        return before, self._changed((agent_id,))

    def reminder(self):
        """A change of nothing, as the body of an AGENTS frame: who holds the newest version confirms it, who
        does not will ask for it."""
        return write_reminder(self.node_id, self.incarnation, self.version, self.head_of(self.node_id))

    def take_changes(self):
        """What changed in the own list since the last call, as bodies of AGENTS frames."""
        changes, self._changes = self._changes, []
        return changes

    def concede(self, str reporter not None, confirm):
        """Give up the own agents that ``reporter`` keeps for itself, as its CONFIRM says.

        Only the owner's word counts: a third node may speak of an owner that is gone, and takes
        this node's claim once it learns so.
        """
        if confirm.version > self.version:
            raise wrong("CONFIRM version", f"at most {self.version}", confirm.version)
        lost = []
        for agent_id, owner in confirm.conflicts:
            if owner and owner >= self.node_id:
                raise ProtocolError(f"CONFIRM: node {reporter!r} keeps agent {agent_id} for {owner!r}, "
                                    f"expected a node id below {self.node_id!r}")
            if owner == reporter and agent_id in self._own:
                lost.append(agent_id)
        cdef Applied applied = Applied.__new__(Applied)
        for agent_id in dict.fromkeys(lost):
            self._release(self._withdraw(agent_id, reporter, applied), applied)
            applied.removed.pop()  # told as lost, not as removed
        self._mine_changed(applied)
        return applied

    # -- the lists of others

    cpdef Update read(self, bytes body):
        """The update in the body of an AGENTS frame, for `apply`."""
        cdef Update update = read_plain(body, self._words.packed, self._words.by_bytes)
        return update if update is not None else read_update(body, self._capabilities)

    cpdef Applied apply(self, str source, Update update):
        """Take what an AGENTS frame says; ``source``: the node whose link brought it."""
        cdef Applied applied = Applied.__new__(Applied)
        if update.owner == self.node_id:
            self._check_echo(source, update)
        elif self._ledger is None or self._is_old(update):
            self._apply(source, update, applied)
        else:
            for part in self._ledger.passed(source, update):
                self._apply(source, part, applied)
        return applied

    cdef bint _is_old(self, Update update) except -1:
        """Whether that is held, or was: nothing of it will be merged."""
        cdef Claims claims = self._claims.get(update.owner)
        if claims is None or claims.incarnation < update.incarnation:
            return False
        return claims.incarnation > update.incarnation or (claims.whole and update.version <= claims.version)

    cdef int _apply(self, str source, Update update, Applied applied) except -1:
        cdef Claims claims = self._claims.get(update.owner)
        if claims is None or claims.incarnation < update.incarnation:
            if update.base:
                self._keep_early(update, applied)
            if update.base or not update.first:
                return 0
            claims = self._begin(claims, source, update)
        elif claims.incarnation > update.incarnation or not self._is_next(claims, source, update, applied):
            return 0
        if not self._adds_up(claims, update, applied):
            return 0
        self._take_all(claims, update, applied)
        if update.last:
            self._finish(claims, update, applied)
        return self._mine_changed(applied)

    def interrupt(self, str source not None):
        """The link to that node is gone: the owners of the lists whose last parts will not come."""
        cdef Claims claims
        broken = []
        for node_id, claims in self._claims.items() if self._coming else ():
            if claims.source is not None and claims.source == source:
                broken.append(node_id)
        if self._ledger is not None:
            broken += self._ledger.waits_for(source)
        for node_id in broken:
            self.give_up(node_id)
        return broken

    cpdef int give_up(self, str node_id) except -1:
        """Wait no more for the last parts of that node's list: another may bring it."""
        cdef Claims claims = self._claims.get(node_id)
        if self._ledger is not None:
            self._ledger.give_up(node_id)
        if claims is not None and claims.source is not None:
            claims.source = None
            self._coming -= 1
        return 0

    cpdef bint is_of(self, str node_id, uint64_t incarnation) except -1:
        """Whether surely nothing is held of that node but of that incarnation."""
        cdef Claims claims
        if self._early or self._ledger is not None:
            return False
        claims = self._claims.get(node_id)
        return claims is None or claims.incarnation == incarnation

    cpdef Applied forget(self, str node_id, below=None):
        """Drop all that a node said it owns, unless as incarnation ``below`` or a higher one."""
        cdef Applied applied = Applied.__new__(Applied)
        cdef Claims claims
        cdef AgentRecord record
        if below is None:
            below = U64_MAX + 1
        if self._early:
            self._drop_early(node_id, below, 0)
        self.give_up(node_id)
        claims = self._claims.get(node_id)
        if claims is not None and claims.incarnation < below:
            del self._claims[node_id]
            for record in claims.all():
                self._held -= 1
                self._release(record, applied)
        return applied

    # -- records in

    cdef dict _checked(self, records):
        """Agents of this node, by id, all of which can be taken."""
        cdef AgentRecord record
        cdef Py_ssize_t more = 0
        cdef dict taken = {}
        for record in records:
            self._check_mine(record)
            if record.agent_id in taken:
                raise AgentExists(f"agent {record.label} is named twice in one registration")
            taken[record.agent_id] = record
            more += record.agent_id not in self._own
        if self._held + more > self._agents_max:
            raise LimitReached(f"agents_max={self._agents_max}: {self._held} agents are known, {more} more "
                               f"do not fit")
        return taken

    cdef int _check_mine(self, AgentRecord record) except -1:
        cdef AgentRecord owner
        limit = self._over_limit(self._capabilities.check_own(record))
        if limit is not None:
            raise LimitReached(f"agent {record.label}: {limit}")
        record.node_id = self.node_id
        owner = self._winners.get(record.agent_id)
        if owner is None or (owner.node_id == self.node_id and owner.name == record.name):
            return 0
        if owner.name == record.name:
            raise AgentExists(f"agent {record.label} is registered on node {owner.node_id!r} already")
        raise AgentExists(f"agent {record.label}: its id {record.agent_id} is that of agent {owner.label} on "
                          f"node {owner.node_id!r}: choose another name or id")

    cdef bint _is_plain(self, AgentRecord record) except -1:
        """Whether nobody has its id, and it surely is within all limits."""
        if self._held >= self._agents_max or record.agent_id in self._winners:
            return False
        return len(<tuple>record.capabilities) <= self._capabilities_fit and not (
            record.metadata or record.groups)

    cdef str _over_limit(self, Py_ssize_t size):
        if size <= self._metadata_bytes_max:
            return None
        limit = f"metadata_bytes_max={self._metadata_bytes_max}"
        return f"capabilities, groups and metadata take {size} bytes, over {limit}"

    # -- what comes, and when

    cdef int _check_echo(self, str source, Update update) except -1:
        """Others may pass on what this node said, and nothing else in its name."""
        if update.incarnation != self.incarnation or update.version <= self.version:
            return 0
        if self._ledger is not None:
            self._ledger.refuse(source, self.node_id, f"there is no version {update.version}")
            return 0
        raise ProtocolError(f"AGENTS: node {self.node_id!r} is told of version {update.version} of its own "
                            f"list: expected at most {self.version}, which nobody else raises")

    cdef bint _is_next(self, Claims claims, str source, Update update, Applied applied) except -1:
        """Whether the update is to be taken now; what is old is answered, what is early is kept."""
        cdef bint none_comes = claims.source is None
        cdef uint64_t better
        if claims.whole and update.version <= claims.version:
            if update.last:
                self._answer_old(claims, update, applied)
            return False
        if update.base == 0:
            if not update.first:
                return not none_comes and claims.source == source and claims.coming == update.version
            better = claims.version if none_comes else claims.coming + (claims.source != source)
            if update.version < better:
                return False
            self._begin(claims, source, update)
            return True
        if claims.whole and update.base == claims.version:
            return True
        if none_comes or claims.coming < update.version:
            self._keep_early(update, applied)
            applied.lacks = none_comes
        return False

    cdef int _answer_old(self, Claims claims, Update update, Applied applied) except -1:
        """Confirm what is held already: the first answer may not have reached the owner."""
        cdef AgentRecord record, winner
        cdef list untaken = []
        for record in update.records:
            winner = self._winners.get(record.agent_id)
            if winner is not None and winner.node_id != update.owner:
                untaken.append((record.agent_id, winner.node_id))
        return self._answer(claims, untaken, applied)

    cdef int _keep_early(self, Update update, Applied applied) except -1:
        applied.lacks = True
        if update.base == update.version:
            return 0
        key = update.owner, update.incarnation, update.base
        if key not in self._early and len(self._early) >= self._early_max:
            del self._early[next(iter(self._early))]
        self._early[key] = update
        return 0

    cdef int _drop_early(self, node_id, incarnation, version) except -1:
        """Let go of the changes that this version holds."""
        for key in [k for k in self._early if k[0] == node_id and k[1:] < (incarnation, version)]:
            del self._early[key]
        return 0

    cdef Claims _begin(self, Claims claims, str source, Update update):
        if claims is None:
            claims = self._claims[update.owner] = Claims(update.owner, update.incarnation)
        self._coming += claims.source is None
        claims.begin(source, update)
        return claims

    cdef int _finish(self, Claims claims, Update update, Applied applied) except -1:
        """A version is there: what was early may be next now."""
        cdef AgentRecord record
        cdef Update early
        cdef list untaken
        if not claims.whole:
            claims.whole, claims.source = True, None
            self._coming -= 1
            stale, claims.stale = claims.stale, None
            for record in stale.values() if stale is not None else ():
                self._held -= 1
                self._release(record, applied)
        claims.hold(update)
        if self._early:
            early = self._early.pop((update.owner, claims.incarnation, claims.version), None)
            while early is not None and self._adds_up(claims, early, applied):
                self._take_all(claims, early, applied)
                claims.hold(early)
                early = self._early.pop((update.owner, claims.incarnation, claims.version), None)
            self._drop_early(update.owner, claims.incarnation, claims.version)
        untaken, claims.untaken = claims.untaken, None
        return self._answer(claims, untaken if untaken is not None else [], applied)

    cdef int _answer(self, Claims claims, list untaken, Applied applied) except -1:
        applied.version = claims.version
        applied.answer = claims.node_id, claims.incarnation, claims.version, untaken, self.body_bytes
        return 0

    cdef bint _adds_up(self, Claims claims, Update update, Applied applied) except -1:
        """Whether a change is what its owner signed; if not, the list is wanted whole, and so it is where
        some of it is not held."""
        cdef bint fine
        if self._ledger is None or not update.base:
            return True
        fine = not claims.partial and self._ledger.adds_up(update, claims.records, claims.tally)
        applied.lacks = applied.lacks or not fine
        return fine

    # -- claims

    cdef int _take_all(self, Claims claims, Update update, Applied applied) except -1:
        cdef Py_ssize_t conflicts = len(applied.conflicts), refused = len(applied.refused)
        cdef AgentRecord record
        for record in update.records:
            if self._is_plain(record):
                # The plain case of most records, told apart for its speed; `_take` would do the same.
                self._held += 1
                claims.put(record)
                self._crown(record.agent_id, record)
                applied.added.append(record)
            else:
                self._take(claims, record, applied)
        for agent_id in update.over:
            refusal = AgentRecord(agent_id, update.owner), f"agents_max={self._agents_max} is reached"
            applied.refused.append(refusal)
        for agent_id in update.removals:
            self._drop(claims, agent_id, applied)
        if len(applied.conflicts) > conflicts or len(applied.refused) > refused:
            claims.untaken = (claims.untaken or []) + applied.conflicts[conflicts:]
        if len(applied.refused) > refused:
            claims.untaken += [(record.agent_id, "") for record, _ in applied.refused[refused:]]
            claims.partial = True
        return 0

    cdef int _take(self, Claims claims, AgentRecord record, Applied applied) except -1:
        agent_id = record.agent_id
        cdef AgentRecord old = claims.get(agent_id)
        if old is None:
            old = claims.pop_stale(agent_id)
        limit = self._over_limit(self._capabilities.record_bytes(record))
        if limit is None and old is None and self._held >= self._agents_max:
            limit = f"agents_max={self._agents_max} is reached"
        if limit is not None:
            applied.refused.append((record, limit))
            if old is not None:
                # What it was is not true any more.
                claims.put(old)
                self._drop(claims, agent_id, applied)
            return 0
        if old is None:
            self._held += 1
        elif wire_form(old) == wire_form(record):
            record = old
        claims.put(record)
        return self._compete(record, old, applied)

    cdef int _compete(self, AgentRecord record, AgentRecord old, Applied applied) except -1:
        """Let ``record``, which takes the place of ``old`` in its node's list, win its id or not."""
        cdef AgentRecord winner = self._winners.get(record.agent_id), r
        agent_id = record.agent_id
        if winner is None:
            applied.added.append(record)
        elif winner is old:
            if record is old:
                return 0
            applied.changed.append(record)
        elif record.node_id < winner.node_id:
            # As a rival it would have won already, so ``old`` is None here.
            if winner.node_id == self.node_id:
                self._withdraw(agent_id, record.node_id, applied)
            else:
                self._rivals.setdefault(agent_id, []).append(winner)
                applied.removed.append(winner)
            applied.added.append(record)
        else:
            rivals = self._rivals.setdefault(agent_id, [])
            rivals[:] = [r for r in rivals if r is not old] + [record]
            applied.conflicts.append((agent_id, winner.node_id))
            return 0
        return self._crown(agent_id, record)

    cdef int _drop(self, Claims claims, agent_id, Applied applied) except -1:
        cdef AgentRecord record = claims.pop(agent_id)
        if record is not None:
            self._held -= 1
            self._release(record, applied)
        return 0

    cdef int _release(self, AgentRecord record, Applied applied) except -1:
        """Let go of a record that is in no list any more; the lowest rival takes its id."""
        cdef AgentRecord heir = None, r
        agent_id = record.agent_id
        rivals = self._rivals.get(agent_id)
        if self._winners.get(agent_id) is record:
            if record in applied.added:  # nobody was told of it
                applied.added.remove(record)
            else:
                applied.removed.append(record)
            heir = min(rivals, key=by_node) if rivals else None
            self._crown(agent_id, heir)
            if heir is not None:
                applied.added.append(heir)
        if rivals is not None:
            rivals[:] = [r for r in rivals if r is not record and r is not heir]
            if not rivals:
                del self._rivals[agent_id]
        return 0

    cdef AgentRecord _withdraw(self, agent_id, owner, Applied applied):
        cdef AgentRecord record = self._own.pop(agent_id)
        self._before(record)
        self._held -= 1
        applied.lost_mine.append((record, owner))
        return record

    cdef int _mine_changed(self, Applied applied) except -1:
        """Publish what was withdrawn."""
        if applied.lost_mine:
            self._changed([record.agent_id for record, _ in applied.lost_mine])
        return 0

    cdef uint64_t _changed(self, agent_ids) except? 0:
        mine = self._own
        upserts = [mine[agent_id] for agent_id in agent_ids if agent_id in mine]
        removals = [agent_id for agent_id in agent_ids if agent_id not in mine]
        head_of = self._ledger.after if self._ledger is not None else unsigned
        bodies = write_change(self.node_id, self.incarnation, self.version, upserts, removals,
                              self.body_bytes, head_of)
        self.version += len(bodies)
        self._changes += bodies
        return self.version

    cdef int _before(self, AgentRecord record) except -1:
        """A record of the own list is about to change, or to go."""
        if self._ledger is not None:
            self._ledger.before(record)
        return 0
