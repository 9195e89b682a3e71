"""Who is where: every agent of the network, its name, its capabilities and its node.

Each node publishes the list of its own agents; the directory holds one such list per node, and for
every id the record that counts.  A list has a version.  It goes out whole to a new link, and after
that as what changed since the version that the peer was last sent (AGENTS); the peer answers each
version with CONFIRM, which names the ids that it did not take.

An id has one owner.  A node registers only what its own directory does not know, so two owners come
only from a race or a partition.  Then the lower node id keeps the id, on every node alike, whatever
comes first: the others' claims are kept behind it and take over in the same order if it goes, and
a node whose own agent has lost withdraws it.  So directories that have seen the same lists agree.

Limits: `agents_max` records of all nodes together and `metadata_bytes_max` each; a peer's record
beyond is not taken and reported.  A body that breaks the law raises ProtocolError and changes nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from agentnet_core.body import wrong
from agentnet_core.config import BODY_BYTES, EngineConfig
from agentnet_core.errors import AgentExists, LimitReached, NoSuchAgent, ProtocolError
from agentnet_core.listing import (
    CAPABILITY_BYTES_MAX,
    Capabilities,
    Confirm,
    read_update,
    wire_form,
    write_confirms,
    write_update,
)
from agentnet_core.records import AgentRecord, agent_id_of, describe

FOUND_MAX = 1024
"""Capabilities whose agents are kept sorted; the one that was asked for first goes first."""
LOG_IDS_MIN = 4096
"""Changed ids of the own list that are kept at least, so that a peer is sent only those."""


@dataclass(slots=True)
class Applied:
    """What a change did to the directory.

    ``added``, ``changed``, ``removed``: records that count from now on, that took the place of the
    same agent's, that count no more. ``lost_mine``: own agents that lost their id, and to whom.
    ``conflicts``: ids of the update that another node keeps. ``refused``: records over a limit, and
    which limit. ``confirms``: bodies of the CONFIRM frames to answer with.
    """

    version: int = 0
    last: bool = True
    added: list[AgentRecord] = field(default_factory=list)
    changed: list[AgentRecord] = field(default_factory=list)
    removed: list[AgentRecord] = field(default_factory=list)
    lost_mine: list[tuple[AgentRecord, str]] = field(default_factory=list)
    conflicts: list[tuple[int, str]] = field(default_factory=list)
    refused: list[tuple[AgentRecord, str]] = field(default_factory=list)
    confirms: list[bytes] = field(default_factory=list)


class _Claims:
    """The list of one node: what it says it owns. ``stale``: not repeated yet by a whole list."""

    __slots__ = ("complete", "node_id", "records", "stale", "version")

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        self.version = 0
        self.records: dict[int, AgentRecord] = {}
        self.stale: dict[int, AgentRecord] = {}
        self.complete = True


class _Found:
    """The agents of one capability that was asked for, in id order unless ``dirty``."""

    __slots__ = ("dirty", "records")

    def __init__(self, records: list[AgentRecord]) -> None:
        self.records = records
        self.dirty = True


class Directory:
    """All agents that this node knows; ``version`` counts the changes of its own list."""

    def __init__(self, node_id: str, config: EngineConfig) -> None:
        self.node_id = node_id
        self.version = 0
        self._agents_max = config.agents_max
        self._metadata_bytes_max = config.metadata_bytes_max
        self._winners: dict[int, AgentRecord] = {}
        self._rivals: dict[int, list[AgentRecord]] = {}
        self._claims: dict[str, _Claims] = {}
        self._mine = _Claims(node_id)
        self._held = 0
        # Changes of the own list, oldest first, and the version before the oldest.
        self._log: deque[tuple[int, tuple[int, ...]]] = deque()
        self._log_ids = 0
        self._log_floor = 0
        self._capabilities = Capabilities()
        # So many capabilities fit, however long they are.
        self._capabilities_fit = config.metadata_bytes_max // (CAPABILITY_BYTES_MAX + 5) - 1
        self._found: dict[str, _Found] = {}

    # -- reading

    def __len__(self) -> int:
        return len(self._winners)

    def get(self, agent: int | str) -> AgentRecord | None:
        """The agent of that id or name, if one is registered."""
        if not isinstance(agent, str):
            return self._winners.get(agent)
        try:
            record = self._winners.get(agent_id_of(agent))
        except UnicodeEncodeError:
            return None
        return record if record is not None and record.name == agent else None

    def label(self, agent_id: int) -> str:
        """What errors call that agent: its name, where it is registered under one."""
        record = self._winners.get(agent_id)
        return record.label if record is not None else str(agent_id)

    def is_mine(self, agent_id: int) -> bool:
        """Whether the id belongs to an agent of this node."""
        return agent_id in self._mine.records

    def agents(self) -> list[AgentRecord]:
        """All agents, in id order."""
        return sorted(self._winners.values(), key=_by_id)

    def find(self, capability: str) -> list[AgentRecord]:
        """The agents with that capability, in id order: the same on every node."""
        found = self._found.get(capability)
        if found is None:
            if len(self._found) >= FOUND_MAX:
                del self._found[next(iter(self._found))]
            found = _Found([r for r in self._winners.values() if capability in r.capabilities])
            self._found[capability] = found
        if found.dirty:
            # A record that lost its id and won it back is there twice.
            kept = {r.agent_id: r for r in found.records if self._winners.get(r.agent_id) is r}
            found.records = sorted(kept.values(), key=_by_id)
            found.dirty = False
        return found.records.copy()

    def select(
        self,
        capability: str | None = None,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        healthy: bool | None = None,
    ) -> list[AgentRecord]:
        """The agents to which all of that applies that is given, in id order."""
        if name is not None:
            record = self.get(name)
            found = [] if record is None else [record]
            found = [r for r in found if capability is None or capability in r.capabilities]
        else:
            found = self.agents() if capability is None else self.find(capability)
        if metadata:
            found = [r for r in found if metadata.items() <= (r.metadata or {}).items()]
        return found if healthy is None else [r for r in found if healthy is not bool(r.health)]

    def owned_by(self, node_id: str) -> list[AgentRecord]:
        """The agents of one node, in the order in which they came."""
        if node_id == self.node_id:
            return list(self._mine.records.values())
        claims = self._claims.get(node_id)
        if claims is None:
            return []
        return [r for r in _all_of(claims) if self._winners.get(r.agent_id) is r]

    # -- the own list

    def register(self, records: Iterable[AgentRecord]) -> int:
        """Take agents of this node, all or none; the version of its list that holds them.

        An id that is this node's already gets the new record. The directory owns the records from
        now on. AgentExists names the other owner; LimitReached names the limit.
        """
        taken: dict[int, AgentRecord] = {}
        for record in records:
            self._check_mine(record)
            if record.agent_id in taken:
                raise AgentExists(f"agent {record.label} is named twice in one registration")
            taken[record.agent_id] = record
        mine = self._mine.records
        more = sum(agent_id not in mine for agent_id in taken)
        if self._held + more > self._agents_max:
            raise LimitReached(
                f"agents_max={self._agents_max}: {self._held} agents are known, {more} more do not fit"
            )
        self._held += more
        for agent_id, record in taken.items():
            mine[agent_id] = record
            self._crown(agent_id, record)
        return self._changed(tuple(taken)) if taken else self.version

    def unregister(self, agent_ids: Iterable[int]) -> Applied:
        """Drop agents of this node, all or none; NoSuchAgent if one is not this node's."""
        dropped = tuple(dict.fromkeys(agent_ids))
        for agent_id in dropped:
            if agent_id not in self._mine.records:
                raise NoSuchAgent(f"no agent with id {describe(agent_id)} is registered on {self.node_id!r}")
        applied = Applied()
        for agent_id in dropped:
            self._held -= 1
            self._release(self._mine.records.pop(agent_id), applied)
        applied.version = self._changed(dropped) if dropped else self.version
        return applied

    def say_health(self, agent_id: int, health: str) -> bool:
        """Let an agent of this node say how it is; whether that is news, and the list has a new version."""
        record = self._mine.records.get(agent_id)
        if record is None or record.health == health:
            return False
        record.health = health
        self._changed((agent_id,))
        return True

    def snapshot_frames(self, max_bytes: int = BODY_BYTES) -> list[bytes]:
        """The own list whole, as bodies of AGENTS frames."""
        return write_update(self.version, True, self._mine.records.values(), (), max_bytes)

    def updates_since(self, version: int, max_bytes: int = BODY_BYTES) -> list[bytes]:
        """What changed after ``version`` of the own list, as bodies of AGENTS frames.

        It is the whole list where the changes are not kept any more, none where there is no change.
        """
        if version == self.version:
            return []
        if not self._log_floor <= version < self.version:
            return self.snapshot_frames(max_bytes)
        touched: dict[int, None] = {}
        for at, agent_ids in self._log:
            if at > version:
                touched.update(dict.fromkeys(agent_ids))
        mine = self._mine.records
        upserts = [mine[agent_id] for agent_id in touched if agent_id in mine]
        removals = [agent_id for agent_id in touched if agent_id not in mine]
        return write_update(self.version, False, upserts, removals, max_bytes)

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
        applied.version = self.version
        return applied

    # -- the lists of others

    def apply(self, node_id: str, body: bytes | memoryview, max_bytes: int = BODY_BYTES) -> Applied:
        """Take an AGENTS frame of ``node_id``, whose body is ``body``."""
        update = read_update(node_id, body, self._capabilities)
        claims = self._claims.get(node_id)
        if update.first:
            claims = self._begin(claims, node_id)
        elif claims is None:
            raise ProtocolError(f"AGENTS: expected the whole list of node {node_id!r} first, got a change")
        elif update.version < claims.version:
            raise wrong("AGENTS version", f"{claims.version} or more", update.version)
        applied = Applied(update.version, update.last)
        for record in update.records:
            if self._fits_surely(record) and record.agent_id not in self._winners:
                # The plain case of most records, told apart for its speed; `_take` would do the same.
                self._held += 1
                claims.records[record.agent_id] = record
                self._crown(record.agent_id, record)
                applied.added.append(record)
            else:
                self._take(claims, record, applied)
        for agent_id in update.removals:
            self._drop(claims, agent_id, applied)
        claims.version = update.version
        if update.last and not claims.complete:
            claims.complete = True
            stale, claims.stale = claims.stale, {}
            for record in stale.values():
                self._held -= 1
                self._release(record, applied)
        untaken = applied.conflicts + [(record.agent_id, "") for record, _ in applied.refused]
        applied.confirms = write_confirms(applied.version, applied.last, untaken, max_bytes)
        return applied

    def forget(self, node_id: str) -> Applied:
        """Drop all that a node said it owns."""
        applied = Applied()
        claims = self._claims.pop(node_id, None)
        if claims is not None:
            for record in _all_of(claims):
                self._held -= 1
                self._release(record, applied)
        return applied

    # -- records in

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
            record.metadata is None
            and len(record.capabilities) <= self._capabilities_fit
            and self._held < self._agents_max
        )

    def _over_limit(self, size: int) -> str | None:
        if size <= self._metadata_bytes_max:
            return None
        limit = f"metadata_bytes_max={self._metadata_bytes_max}"
        return f"capabilities and metadata take {size} bytes, over {limit}"

    # -- claims

    def _begin(self, claims: _Claims | None, node_id: str) -> _Claims:
        if claims is None:
            claims = self._claims[node_id] = _Claims(node_id)
        # A whole list that breaks off and begins again leaves both halves to be repeated.
        claims.stale = claims.stale | claims.records if claims.stale else claims.records
        claims.records = {}
        claims.complete = False
        return claims

    def _take(self, claims: _Claims, record: AgentRecord, applied: Applied) -> None:
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

    def _drop(self, claims: _Claims, agent_id: int, applied: Applied) -> None:
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
            applied.removed.append(record)
            heir = min(rivals, key=_by_node) if rivals else None
            self._crown(agent_id, heir)
            if heir is not None:
                applied.added.append(heir)
        if rivals is not None:
            rivals[:] = [r for r in rivals if r is not record and r is not heir]
            if not rivals:
                del self._rivals[agent_id]

    def _crown(self, agent_id: int, record: AgentRecord | None) -> None:
        """Let ``record`` be the one that counts for its id."""
        if self._found:
            before = self._winners.get(agent_id)
            for capability in before.capabilities if before is not None else ():
                if capability in self._found:
                    self._found[capability].dirty = True
            for capability in record.capabilities if record is not None else ():
                self._refind(capability, record)
        if record is None:
            del self._winners[agent_id]
        else:
            self._winners[agent_id] = record

    def _refind(self, capability: str, record: AgentRecord | None) -> None:
        found = self._found.get(capability)
        if found is None or record is None:
            return
        if len(found.records) > 2 * len(self._winners) + FOUND_MAX:
            # Mostly records that are gone: nobody asked for a long time.
            del self._found[capability]
            return
        found.records.append(record)
        found.dirty = True

    def _withdraw(self, agent_id: int, owner: str, applied: Applied) -> AgentRecord:
        record = self._mine.records.pop(agent_id)
        self._held -= 1
        self._changed((agent_id,))
        applied.lost_mine.append((record, owner))
        return record

    def _changed(self, agent_ids: tuple[int, ...]) -> int:
        self.version += 1
        self._log.append((self.version, agent_ids))
        self._log_ids += len(agent_ids)
        # Beyond this, the changes would cost nearly as much as the whole list.
        while self._log_ids > max(LOG_IDS_MIN, len(self._mine.records) // 8):
            self._log_floor, dropped = self._log.popleft()
            self._log_ids -= len(dropped)
        return self.version


def _all_of(claims: _Claims) -> Iterator[AgentRecord]:
    yield from claims.stale.values()
    yield from claims.records.values()


def _by_id(record: AgentRecord) -> int:
    return record.agent_id


def _by_node(record: AgentRecord) -> str:
    return record.node_id
