"""What lists of agents come to, and whether their owners signed that: the books of a signed network.

In: the own list as it changes, updates of others' lists.  Out: signed heads of the own list; of the others
what may be merged.  The parts of a whole list are held back until the last is here, and then pass together
or not at all; a change is held against what it is a change of.  So no record counts but in a version of a
list that its owner signed.

Held back are `agents_max` records in all; what is over that is counted, and let go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgpack

from agentnet_core.agent_record import AgentRecord
from agentnet_core.body import pack
from agentnet_core.config import EngineConfig
from agentnet_core.listing import Part, wire_form
from agentnet_core.signing import LIST, Head, Seals
from agentnet_core.tally import Tally
from agentnet_core.update import Update


class _Stage:
    """A list of which the last part has not come."""

    __slots__ = ("over", "parts", "size", "source", "tally", "version")

    def __init__(self, source: str, version: int) -> None:
        self.source = source
        self.version = version
        self.parts: list[Update] = []
        self.tally = Tally()
        self.over: list[int] = []
        self.size = 0


class Ledger:
    """The heads of one node's list, and the proofs of all others."""

    def __init__(
        self,
        node_id: str,
        incarnation: int,
        config: EngineConfig,
        seals: Seals,
        certificate_of: Callable[[str, int], bytes],
    ) -> None:
        self._life = node_id, incarnation
        self._seals = seals
        self._certificate_of = certificate_of
        self._agents_max = config.agents_max
        self._own = Tally()
        self._before: dict[int, bytes] = {}
        self._head: tuple[bytes, int, Head] | None = None
        self._stages: dict[str, _Stage] = {}

    # -- the own list

    def before(self, record: AgentRecord) -> None:
        """A record of the last version is about to change, or to go."""
        self._before.setdefault(record.agent_id, pack(wire_form(record)))

    def after(self, version: int, part: Part) -> Head | None:
        """That has changed in a new version; its head, if there is anybody to tell it to."""
        records, removals = part
        for packed in records:
            if self._before:
                self._drop_own(msgpack.unpackb(packed, strict_map_key=False)[0])
            self._own.add(packed)
        for packed in removals:
            self._drop_own(msgpack.unpackb(packed))
        return self.head(version) if self._seals.network() else None

    def _drop_own(self, agent_id: int) -> None:
        packed = self._before.pop(agent_id, None)
        if packed is not None:
            self._own.drop(packed)

    def head(self, version: int) -> Head:
        """The own list as it is, which is that version, signed; once for each."""
        key = self._seals.network(), version
        if self._head is None or self._head[:2] != key:
            said = self._own.count, self._own.digest()
            self._head = (*key, Head(*said, self._seals.sign(LIST, *self._life, version, *said)))
        return self._head[2]

    # -- the lists of others

    def refuse(self, source: str, owner: str, why: str) -> None:
        """``source`` brought what ``owner`` never said. Forged ends the link."""
        self._seals.refuse(source, owner, why)

    def passed(self, source: str, update: Update) -> list[Update]:
        """What may be looked at now that this has come: a change that is signed, though perhaps not the
        next; or all parts of a list that is proven, of which this is the last."""
        if update.base:
            update.source = source
            return [update] if self._is_signed(source, update) else []
        stage = self._stages.get(update.owner)
        if update.first:
            better = 0 if stage is None else stage.version + (stage.source != source)
            if update.version < better or not self._is_signed(source, update):
                return []
            stage = self._stages[update.owner] = _Stage(source, update.version)
        elif stage is None or (stage.source, stage.version) != (source, update.version):
            return []
        self._add(stage, update)
        return self._end(stage, update) if update.last else []

    def _add(self, stage: _Stage, update: Update) -> None:
        for record in update.records:
            stage.tally.add(pack(wire_form(record)))
        room = max(0, self._agents_max - sum(each.size for each in self._stages.values()))
        stage.over += [record.agent_id for record in update.records[room:]]
        del update.records[room:]
        stage.size += len(update.records)
        stage.parts.append(update)

    def _end(self, stage: _Stage, update: Update) -> list[Update]:
        del self._stages[update.owner]
        head = stage.parts[0].head
        ids = [record.agent_id for part in stage.parts for record in part.records]
        once = len(dict.fromkeys(ids + stage.over)) == len(ids) + len(stage.over)
        if head is None or not (once and stage.tally.is_of(head)):
            self.refuse(stage.source, update.owner, f"version {update.version} of its list is another")
            return []
        update.head, update.tally, update.over = head, stage.tally, stage.over
        return stage.parts

    def adds_up(self, update: Update, records: Mapping[int, AgentRecord], tally: Tally) -> bool:
        """Whether a change, of these records which come to that, comes to what its owner signed."""
        new = Tally(tally.count, tally.total)
        after: dict[int, AgentRecord | None] = {record.agent_id: record for record in update.records}
        after |= dict.fromkeys(update.removals)
        for agent_id, record in after.items():
            if agent_id in records:
                new.drop(pack(wire_form(records[agent_id])))
            if record is not None:
                new.add(pack(wire_form(record)))
        if update.head is None or not new.is_of(update.head):
            self.refuse(update.source, update.owner, f"the change to version {update.version} is another")
            return False
        update.tally = new
        return True

    def waits_for(self, source: str) -> list[str]:
        """The owners of the lists whose last parts that node was to bring."""
        return [owner for owner, stage in self._stages.items() if stage.source == source]

    def give_up(self, owner: str) -> None:
        """The last parts of that node's list do not come."""
        self._stages.pop(owner, None)

    def _is_signed(self, source: str, update: Update) -> bool:
        head, life = update.head, (update.owner, update.incarnation)
        if head is None:
            self.refuse(source, update.owner, f"version {update.version} of its list bears no signature")
            return False
        certificate = self._certificate_of(*life)
        said = *life, update.version, head.agents, head.digest
        return self._seals.holds(source, update.owner, certificate, head.signature, LIST, *said)
