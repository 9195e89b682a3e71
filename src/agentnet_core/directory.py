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

from __future__ import annotations

from collections.abc import Collection, Iterable

from agentnet_core.body import U64_MAX, wrong
from agentnet_core.claims import Applied, Claims, all_of, by_node
from agentnet_core.config import BODY_BYTES, EngineConfig
from agentnet_core.errors import AgentExists, LimitReached, NoSuchAgent, ProtocolError
from agentnet_core.index import Index
from agentnet_core.ledger import Ledger
from agentnet_core.listing import (
    CAPABILITY_BYTES_MAX,
    Capabilities,
    Confirm,
    Update,
    read_update,
    unsigned,
    wire_form,
    write_change,
    write_reminder,
    write_whole,
)
from agentnet_core.lookups import Place
from agentnet_core.records import AgentRecord, describe
from agentnet_core.signing import Head

KEPT_BYTES_MAX = 1024
"""A list that goes to others in no more than that is kept as it goes: who is new asks for all."""


class Directory(Index):
    """All agents that this node knows; ``version`` counts the changes of its own list.

    ``body_bytes``: what frames are filled to.
    """

    def __init__(
        self, node_id: str, incarnation: int, config: EngineConfig, ledger: Ledger | None = None
    ) -> None:
        super().__init__()
        self.node_id = node_id
        self.incarnation = incarnation
        self.version = 0
        self.body_bytes = BODY_BYTES
        self._ledger = ledger
        self._agents_max = config.agents_max
        self._metadata_bytes_max = config.metadata_bytes_max
        self._rivals: dict[int, list[AgentRecord]] = {}
        self._claims: dict[str, Claims] = {}
        self._mine = Claims(node_id, incarnation)
        self._held = 0
        self._changes: list[bytes] = []
        self._early: dict[tuple[str, int, int], Update] = {}
        self._early_max = config.changes_early_max
        self._capabilities = Capabilities()
        # So many capabilities fit, however long they are.
        self._capabilities_fit = config.metadata_bytes_max // (CAPABILITY_BYTES_MAX + 5) - 1

    # -- reading

    def is_mine(self, agent_id: int) -> bool:
        """Whether the id belongs to an agent of this node."""
        return agent_id in self._mine.records

    def owned_by(self, node_id: str) -> list[AgentRecord]:
        """The agents of one node, in the order in which they came."""
        if node_id == self.node_id:
            return list(self._mine.records.values())
        claims = self._claims.get(node_id)
        if claims is None:
            return []
        return [r for r in all_of(claims) if self._winners.get(r.agent_id) is r]

    def held(self, node_id: str) -> tuple[int, int]:
        """Incarnation and version of that node's list, (0, 0) if none is held whole."""
        if node_id == self.node_id:
            return self.incarnation, self.version
        claims = self._claims.get(node_id)
        return (claims.incarnation, claims.version) if claims is not None and claims.whole else (0, 0)

    def whole_list(self, node_id: str, incarnation: int = 0, version: int = 0) -> list[bytes]:
        """That node's list as bodies of AGENTS frames; none for who holds that version of it, if it is no
        less than what there is here."""
        held = self.held(node_id)
        claims = self._mine if node_id == self.node_id else self._claims.get(node_id)
        if claims is None or claims.partial or held <= (incarnation, version):
            return []
        if claims.bodies is None or claims.bodies[0] != held:
            records, head = claims.records.values(), self.head_of(node_id)
            bodies = write_whole(node_id, *held, records, self.body_bytes, head)
            if claims is self._mine or len(bodies) > 1 or len(bodies[0]) > KEPT_BYTES_MAX:
                return bodies
            claims.bodies = held, bodies
        return claims.bodies[1]

    def head_of(self, node_id: str) -> Head | None:
        """What that node signed of its list as it is held here, where the network is signed."""
        if node_id == self.node_id:
            return self._ledger.head(self.version) if self._ledger is not None else None
        claims = self._claims.get(node_id)
        return claims.head if claims is not None else None

    def place(self, agent_id: int) -> Place | None:
        """Whose the agent is, if it is known."""
        record = self._winners.get(agent_id)
        if record is None:
            return None
        if record.node_id == self.node_id:
            return Place(agent_id, self.node_id, self.incarnation, self.version)
        claims = self._claims[record.node_id]
        return Place(agent_id, record.node_id, claims.incarnation, claims.version)

    # -- the own list

    def check(self, records: Iterable[AgentRecord]) -> None:
        """Raise what `register` would."""
        self._checked(records)

    def register(self, records: Iterable[AgentRecord]) -> int:
        """Take agents of this node, all or none; the version of its list that holds them.

        An id that is this node's already gets the new record. The directory owns the records from
        now on. AgentExists names the other owner; LimitReached names the limit.
        """
        taken = self._checked(records)
        mine = self._mine.records
        self._held += sum(agent_id not in mine for agent_id in taken)
        for agent_id, record in taken.items():
            if agent_id in mine:
                self._before(mine[agent_id])
            mine[agent_id] = record
            self._crown(agent_id, record)
        return self._changed(taken) if taken else self.version

    def unregister(self, agent_ids: Iterable[int]) -> Applied:
        """Drop agents of this node, all or none; NoSuchAgent if one is not this node's."""
        dropped = tuple(dict.fromkeys(agent_ids))
        for agent_id in dropped:
            if agent_id not in self._mine.records:
                raise NoSuchAgent(f"no agent with id {describe(agent_id)} is registered on {self.node_id!r}")
        applied = Applied()
        for agent_id in dropped:
            self._held -= 1
            self._before(self._mine.records[agent_id])
            self._release(self._mine.records.pop(agent_id), applied)
        if dropped:
            self._changed(dropped)
        return applied

    def say_health(self, agent_id: int, health: str) -> bool:
        """Let an agent of this node say how it is; whether that is news, and the list has a new version."""
        record = self._mine.records.get(agent_id)
        if record is None or record.health == health:
            return False
        self._before(record)
        record.health = health
        self._changed((agent_id,))
        return True

    def regroup(self, agent_id: int, groups: Iterable[str]) -> tuple[tuple[str, ...], int]:
        """Let an agent of this node be in these groups; the groups before, and the version of the list now.

        UsageError or LimitReached, and nothing has changed.
        """
        record = self._mine.records[agent_id]
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

    def reminder(self) -> bytes:
        """A change of nothing, as the body of an AGENTS frame: who holds the newest version confirms it, who
        does not will ask for it."""
        return write_reminder(self.node_id, self.incarnation, self.version, self.head_of(self.node_id))

    def take_changes(self) -> list[bytes]:
        """What changed in the own list since the last call, as bodies of AGENTS frames."""
        changes, self._changes = self._changes, []
        return changes

    def concede(self, reporter: str, confirm: Confirm) -> Applied:
        """Give up the own agents that ``reporter`` keeps for itself, as its CONFIRM says.

        Only the owner's word counts: a third node may speak of an owner that is gone, and takes
        this node's claim once it learns so.
        """
        if confirm.version > self.version:
            raise wrong("CONFIRM version", f"at most {self.version}", confirm.version)
        lost: list[int] = []
        for agent_id, owner in confirm.conflicts:
            if owner and owner >= self.node_id:
                raise ProtocolError(
                    f"CONFIRM: node {reporter!r} keeps agent {agent_id} for {owner!r}, "
                    f"expected a node id below {self.node_id!r}"
                )
            if owner == reporter and agent_id in self._mine.records:
                lost.append(agent_id)
        applied = Applied()
        for agent_id in dict.fromkeys(lost):
            self._release(self._withdraw(agent_id, reporter, applied), applied)
            applied.removed.pop()  # told as lost, not as removed
        self._mine_changed(applied)
        return applied

    # -- the lists of others

    def read(self, body: bytes | memoryview) -> Update:
        """The update in the body of an AGENTS frame, for `apply`."""
        return read_update(body, self._capabilities)

    def apply(self, source: str, update: Update) -> Applied:
        """Take what an AGENTS frame says; ``source``: the node whose link brought it."""
        applied = Applied()
        if update.owner == self.node_id:
            self._check_echo(source, update)
        elif self._ledger is None or self._is_old(update):
            self._apply(source, update, applied)
        else:
            for part in self._ledger.passed(source, update):
                self._apply(source, part, applied)
        return applied

    def _is_old(self, update: Update) -> bool:
        """Whether that is held, or was: nothing of it will be merged."""
        claims = self._claims.get(update.owner)
        if claims is None or claims.incarnation < update.incarnation:
            return False
        return claims.incarnation > update.incarnation or (claims.whole and update.version <= claims.version)

    def _apply(self, source: str, update: Update, applied: Applied) -> None:
        claims = self._claims.get(update.owner)
        if claims is None or claims.incarnation < update.incarnation:
            if update.base:
                self._keep_early(update, applied)
            if update.base or not update.first:
                return
            claims = self._begin(claims, source, update)
        elif claims.incarnation > update.incarnation or not self._is_next(claims, source, update, applied):
            return
        if not self._adds_up(claims, update, applied):
            return
        self._take_all(claims, update, applied)
        if update.last:
            self._finish(claims, update, applied)
        self._mine_changed(applied)

    def interrupt(self, source: str) -> list[str]:
        """The link to that node is gone: the owners of the lists whose last parts will not come."""
        broken = [i for i, claims in self._claims.items() if claims.coming and claims.coming[0] == source]
        if self._ledger is not None:
            broken += self._ledger.waits_for(source)
        for node_id in broken:
            self.give_up(node_id)
        return broken

    def give_up(self, node_id: str) -> None:
        """Wait no more for the last parts of that node's list: another may bring it."""
        if self._ledger is not None:
            self._ledger.give_up(node_id)
        claims = self._claims.get(node_id)
        if claims is not None:
            claims.coming = None

    def is_of(self, node_id: str, incarnation: int) -> bool:
        """Whether surely nothing is held of that node but of that incarnation."""
        if self._early or self._ledger is not None:
            return False
        claims = self._claims.get(node_id)
        return claims is None or claims.incarnation == incarnation

    def forget(self, node_id: str, below: int | None = None) -> Applied:
        """Drop all that a node said it owns, unless as incarnation ``below`` or a higher one."""
        applied = Applied()
        below = U64_MAX + 1 if below is None else below
        self._drop_early(node_id, below, 0)
        self.give_up(node_id)
        claims = self._claims.get(node_id)
        if claims is not None and claims.incarnation < below:
            del self._claims[node_id]
            for record in all_of(claims):
                self._held -= 1
                self._release(record, applied)
        return applied

    # -- records in

    def _checked(self, records: Iterable[AgentRecord]) -> dict[int, AgentRecord]:
        """Agents of this node, by id, all of which can be taken."""
        taken: dict[int, AgentRecord] = {}
        for record in records:
            self._check_mine(record)
            if record.agent_id in taken:
                raise AgentExists(f"agent {record.label} is named twice in one registration")
            taken[record.agent_id] = record
        more = sum(agent_id not in self._mine.records for agent_id in taken)
        if self._held + more > self._agents_max:
            raise LimitReached(
                f"agents_max={self._agents_max}: {self._held} agents are known, {more} more do not fit"
            )
        return taken

    def _check_mine(self, record: AgentRecord) -> None:
        limit = self._over_limit(self._capabilities.check_own(record))
        if limit is not None:
            raise LimitReached(f"agent {record.label}: {limit}")
        record.node_id = self.node_id
        owner = self._winners.get(record.agent_id)
        if owner is None or (owner.node_id == self.node_id and owner.name == record.name):
            return
        if owner.name == record.name:
            raise AgentExists(f"agent {record.label} is registered on node {owner.node_id!r} already")
        raise AgentExists(
            f"agent {record.label}: its id {record.agent_id} is that of agent {owner.label} on node "
            f"{owner.node_id!r}: choose another name or id"
        )

    def _fits_surely(self, record: AgentRecord) -> bool:
        return (
            not (record.metadata or record.groups)
            and len(record.capabilities) <= self._capabilities_fit
            and self._held < self._agents_max
        )

    def _over_limit(self, size: int) -> str | None:
        if size <= self._metadata_bytes_max:
            return None
        limit = f"metadata_bytes_max={self._metadata_bytes_max}"
        return f"capabilities, groups and metadata take {size} bytes, over {limit}"

    # -- what comes, and when

    def _check_echo(self, source: str, update: Update) -> None:
        """Others may pass on what this node said, and nothing else in its name."""
        if update.incarnation == self.incarnation and update.version > self.version:
            if self._ledger is not None:
                return self._ledger.refuse(source, self.node_id, f"there is no version {update.version}")
            raise ProtocolError(
                f"AGENTS: node {self.node_id!r} is told of version {update.version} of its own list: "
                f"expected at most {self.version}, which nobody else raises"
            )

    def _is_next(self, claims: Claims, source: str, update: Update, applied: Applied) -> bool:
        """Whether the update is to be taken now; what is old is answered, what is early is kept."""
        coming = claims.coming
        if claims.whole and update.version <= claims.version:
            if update.last:
                self._answer_old(claims, update, applied)
            return False
        if update.base == 0:
            if not update.first:
                return coming == (source, update.version)
            better = claims.version if coming is None else coming[1] + (coming[0] != source)
            if update.version < better:
                return False
            self._begin(claims, source, update)
            return True
        if claims.whole and update.base == claims.version:
            return True
        if coming is None or coming[1] < update.version:
            self._keep_early(update, applied)
            applied.lacks = coming is None
        return False

    def _answer_old(self, claims: Claims, update: Update, applied: Applied) -> None:
        """Confirm what is held already: the first answer may not have reached the owner."""
        winners = self._winners
        of_others = ((i, winners[i].node_id) for i in (r.agent_id for r in update.records) if i in winners)
        untaken = [(i, owner) for i, owner in of_others if owner != update.owner]
        applied.version = claims.version
        applied.answer = self._answer(claims, untaken)

    def _keep_early(self, update: Update, applied: Applied) -> None:
        applied.lacks = True
        if update.base == update.version:
            return
        key = update.owner, update.incarnation, update.base
        if key not in self._early and len(self._early) >= self._early_max:
            del self._early[next(iter(self._early))]
        self._early[key] = update

    def _drop_early(self, node_id: str, incarnation: int, version: int) -> None:
        """Let go of the changes that this version holds."""
        for key in [k for k in self._early if k[0] == node_id and k[1:] < (incarnation, version)]:
            del self._early[key]

    def _begin(self, claims: Claims | None, source: str, update: Update) -> Claims:
        if claims is None:
            claims = self._claims[update.owner] = Claims(update.owner, update.incarnation)
        if claims.incarnation != update.incarnation:
            claims.incarnation, claims.version = update.incarnation, 0
        # A whole list that breaks off and begins again leaves both halves to be repeated.
        claims.stale = claims.stale | claims.records if claims.stale else claims.records
        claims.records = {}
        claims.coming = source, update.version
        claims.untaken = []
        claims.whole = claims.partial = False
        return claims

    def _finish(self, claims: Claims, update: Update, applied: Applied) -> None:
        """A version is there: what was early may be next now."""
        if not claims.whole:
            claims.whole, claims.coming = True, None
            stale, claims.stale = claims.stale, {}
            for record in stale.values():
                self._held -= 1
                self._release(record, applied)
        claims.hold(update)
        if self._early:
            early = self._early.pop((update.owner, claims.incarnation, claims.version), None)
            while early is not None and self._adds_up(claims, early, applied):
                self._take_all(claims, early, applied)
                claims.version, claims.tally, claims.head = (
                    early.version,
                    early.tally or claims.tally,
                    early.head,
                )
                early = self._early.pop((update.owner, claims.incarnation, claims.version), None)
            self._drop_early(update.owner, claims.incarnation, claims.version)
        applied.version = claims.version
        untaken, claims.untaken = claims.untaken, []
        applied.answer = self._answer(claims, untaken)

    def _answer(
        self, claims: Claims, untaken: list[tuple[int, str]]
    ) -> tuple[str, int, int, list[tuple[int, str]], int]:
        return claims.node_id, claims.incarnation, claims.version, untaken, self.body_bytes

    def _adds_up(self, claims: Claims, update: Update, applied: Applied) -> bool:
        """Whether a change is what its owner signed; if not, the list is wanted whole, and so it is where
        some of it is not held."""
        if self._ledger is None or not update.base:
            return True
        fine = not claims.partial and self._ledger.adds_up(update, claims.records, claims.tally)
        applied.lacks = applied.lacks or not fine
        return fine

    # -- claims

    def _take_all(self, claims: Claims, update: Update, applied: Applied) -> None:
        conflicts, refused = len(applied.conflicts), len(applied.refused)
        for record in update.records:
            if self._fits_surely(record) and record.agent_id not in self._winners:
                # The plain case of most records, told apart for its speed; `_take` would do the same.
                self._held += 1
                claims.records[record.agent_id] = record
                self._crown(record.agent_id, record)
                applied.added.append(record)
            else:
                self._take(claims, record, applied)
        for agent_id in update.over:
            applied.refused.append(
                (AgentRecord(agent_id, update.owner), f"agents_max={self._agents_max} is reached")
            )
        for agent_id in update.removals:
            self._drop(claims, agent_id, applied)
        claims.untaken += applied.conflicts[conflicts:]
        if len(applied.refused) > refused:
            claims.untaken += [(record.agent_id, "") for record, _ in applied.refused[refused:]]
            claims.partial = True

    def _take(self, claims: Claims, record: AgentRecord, applied: Applied) -> None:
        agent_id = record.agent_id
        old = claims.records.get(agent_id) or claims.stale.pop(agent_id, None)
        limit = self._over_limit(self._capabilities.record_bytes(record))
        if limit is None and old is None and self._held >= self._agents_max:
            limit = f"agents_max={self._agents_max} is reached"
        if limit is not None:
            applied.refused.append((record, limit))
            if old is not None:
                # What it was is not true any more.
                claims.records.setdefault(agent_id, old)
                self._drop(claims, agent_id, applied)
            return
        if old is None:
            self._held += 1
        elif wire_form(old) == wire_form(record):
            record = old
        claims.records[agent_id] = record
        self._compete(record, old, applied)

    def _compete(self, record: AgentRecord, old: AgentRecord | None, applied: Applied) -> None:
        """Let ``record``, which takes the place of ``old`` in its node's list, win its id or not."""
        agent_id = record.agent_id
        winner = self._winners.get(agent_id)
        if winner is None:
            applied.added.append(record)
        elif winner is old:
            if record is old:
                return
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
            return
        self._crown(agent_id, record)

    def _drop(self, claims: Claims, agent_id: int, applied: Applied) -> None:
        record = claims.records.pop(agent_id, None) or claims.stale.pop(agent_id, None)
        if record is not None:
            self._held -= 1
            self._release(record, applied)

    def _release(self, record: AgentRecord, applied: Applied) -> None:
        """Let go of a record that is in no list any more; the lowest rival takes its id."""
        agent_id = record.agent_id
        rivals = self._rivals.get(agent_id)
        heir = None
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

    def _withdraw(self, agent_id: int, owner: str, applied: Applied) -> AgentRecord:
        record = self._mine.records.pop(agent_id)
        self._before(record)
        self._held -= 1
        applied.lost_mine.append((record, owner))
        return record

    def _mine_changed(self, applied: Applied) -> None:
        """Publish what was withdrawn."""
        if applied.lost_mine:
            self._changed([record.agent_id for record, _ in applied.lost_mine])

    def _changed(self, agent_ids: Collection[int]) -> int:
        mine = self._mine.records
        upserts = [mine[agent_id] for agent_id in agent_ids if agent_id in mine]
        removals = [agent_id for agent_id in agent_ids if agent_id not in mine]
        head_of = self._ledger.after if self._ledger is not None else unsigned
        bodies = write_change(
            self.node_id, self.incarnation, self.version, upserts, removals, self.body_bytes, head_of
        )
        self.version += len(bodies)
        self._changes += bodies
        return self.version

    def _before(self, record: AgentRecord) -> None:
        """A record of the own list is about to change, or to go."""
        if self._ledger is not None:
            self._ledger.before(record)
