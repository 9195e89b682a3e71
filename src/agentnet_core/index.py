"""The agents that count, by id, by name, by capability, by group and by what they say of themselves.

In: for an id, the record that counts from now on.  Out: records, in id order, the same on every node that
knows the same.  The agents of a capability that was asked for are kept at hand, `FOUND_MAX` capabilities of
them, and sorted again when somebody asks after a change.  The members of a group are kept by node, for
those who send to it.
"""

from __future__ import annotations

from collections.abc import Mapping

from agentnet_core.records import AgentRecord, agent_id_of

FOUND_MAX = 1024
"""Capabilities whose agents are kept sorted; the one that was asked for first goes first."""


class _Found:
    """The agents of one capability that was asked for, in id order unless ``dirty``."""

    __slots__ = ("dirty", "records")

    def __init__(self, records: list[AgentRecord]) -> None:
        self.records = records
        self.dirty = True


class Index:
    """The record of each id."""

    def __init__(self) -> None:
        self._winners: dict[int, AgentRecord] = {}
        self._found: dict[str, _Found] = {}
        self._groups: dict[str, dict[str, dict[int, AgentRecord]]] = {}

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

    def nodes_of(self, group: str) -> list[str]:
        """The nodes that have agents in that group."""
        return list(self._groups.get(group, ()))

    def members(self, group: str) -> list[AgentRecord]:
        """The agents in that group, in id order."""
        nodes = self._groups.get(group, {})
        return sorted((record for members in nodes.values() for record in members.values()), key=_by_id)

    def select(
        self,
        capability: str | None = None,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        healthy: bool | None = None,
        group: str | None = None,
    ) -> list[AgentRecord]:
        """The agents to which all of that applies that is given, in id order."""
        if name is not None:
            record = self.get(name)
            found = [] if record is None else [record]
        elif group is not None:
            found = self.members(group)
        elif capability is not None:
            found, capability = self.find(capability), None
        else:
            found = self.agents()
        if capability is not None:
            found = [r for r in found if capability in r.capabilities]
        if group is not None:
            found = [r for r in found if group in r.groups]
        if metadata:
            found = [r for r in found if metadata.items() <= (r.metadata or {}).items()]
        return found if healthy is None else [r for r in found if healthy is not bool(r.health)]

    def _crown(self, agent_id: int, record: AgentRecord | None) -> None:
        """Let ``record`` be the one that counts for its id."""
        before = self._winners.get(agent_id)
        if before is not None and before.groups:
            self._part(before)
        if record is not None and record.groups:
            self._meet(record)
        if self._found:
            for capability in before.capabilities if before is not None else ():
                if capability in self._found:
                    self._found[capability].dirty = True
            for capability in record.capabilities if record is not None else ():
                self._refind(capability, record)
        if record is None:
            del self._winners[agent_id]
        else:
            self._winners[agent_id] = record

    def _meet(self, record: AgentRecord) -> None:
        """It is in its groups from now on."""
        for group in record.groups:
            self._groups.setdefault(group, {}).setdefault(record.node_id, {})[record.agent_id] = record

    def _part(self, record: AgentRecord) -> None:
        """It is in none of its groups any more."""
        for group in dict.fromkeys(record.groups):
            nodes = self._groups[group]
            del nodes[record.node_id][record.agent_id]
            if not nodes[record.node_id]:
                del nodes[record.node_id]
            if not nodes:
                del self._groups[group]

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


def _by_id(record: AgentRecord) -> int:
    return record.agent_id
