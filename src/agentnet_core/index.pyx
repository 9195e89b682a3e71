"""The agents that count, by id, by name, by capability, by group and by what they say of themselves.

In: for an id, the record that counts from now on.  Out: records, in id order, the same on every node that
knows the same.  The agents of a capability that was asked for are kept at hand, `FOUND_MAX` capabilities of
them, and sorted again when somebody asks after a change.  The members of a group are kept by node, for
those who send to it.
"""

from operator import attrgetter

cimport cython

from agentnet_core.agent_record cimport AgentRecord
from agentnet_core.records import agent_id_of

cdef object by_id = attrgetter("agent_id")

FOUND_MAX = 1024
"""Capabilities whose agents are kept sorted; the one that was asked for first goes first."""


@cython.final
cdef class _Found:
    """The agents of one capability that was asked for, in id order unless ``dirty``."""
    cdef list records
    cdef bint dirty

    def __init__(self, list records):
        self.records = records
        self.dirty = True


cdef class Index:
    """The record of each id."""

    def __cinit__(self, *args, **kwargs):
        self._winners, self._found, self._groups = {}, {}, {}

    def __len__(self):
        return len(self._winners)

    def get(self, agent):
        """The agent of that id or name, if one is registered."""
        cdef AgentRecord record
        if not isinstance(agent, str):
            return self._winners.get(agent)
        try:
            record = self._winners.get(agent_id_of(agent))
        except UnicodeEncodeError:
            return None
        return record if record is not None and record.name == agent else None

    def label(self, agent_id):
        """What errors call that agent: its name, where it is registered under one."""
        cdef AgentRecord record
        record = self._winners.get(agent_id)
        return record.label if record is not None else str(agent_id)

    def agents(self):
        """All agents, in id order."""
        return sorted(self._winners.values(), key=by_id)

    def find(self, capability):
        """The agents with that capability, in id order: the same on every node."""
        cdef AgentRecord r
        cdef _Found found = self._found.get(capability)
        if found is None:
            if len(self._found) >= FOUND_MAX:
                del self._found[next(iter(self._found))]
            found = _Found([r for r in self._winners.values() if capability in r.capabilities])
            self._found[capability] = found
        if found.dirty:
            # A record that lost its id and won it back is there twice.
            kept = {r.agent_id: r for r in found.records if self._winners.get(r.agent_id) is r}
            found.records = sorted(kept.values(), key=by_id)
            found.dirty = False
        return found.records.copy()

    def nodes_of(self, group):
        """The nodes that have agents in that group."""
        return list(self._groups.get(group, ()))

    def members(self, group):
        """The agents in that group, in id order."""
        nodes = self._groups.get(group, {})
        return sorted((record for members in nodes.values() for record in members.values()), key=by_id)

    def select(self, capability=None, name=None, metadata=None, healthy=None, group=None):
        """The agents to which all of that applies that is given, in id order."""
        cdef AgentRecord r
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

    cdef int _crown(self, object agent_id, AgentRecord record) except -1:
        """Let ``record`` be the one that counts for its id."""
        cdef AgentRecord before = self._winners.get(agent_id)
        if before is not None and before.groups:
            self._part(before)
        if record is not None and record.groups:
            self._meet(record)
        if self._found:
            for capability in before.capabilities if before is not None else ():
                if capability in self._found:
                    (<_Found>self._found[capability]).dirty = True
            for capability in record.capabilities if record is not None else ():
                self._refind(capability, record)
        if record is None:
            del self._winners[agent_id]
        else:
            self._winners[agent_id] = record
        return 0

    cdef int _meet(self, AgentRecord record) except -1:
        """It is in its groups from now on."""
        for group in record.groups:
            self._groups.setdefault(group, {}).setdefault(record.node_id, {})[record.agent_id] = record
        return 0

    cdef int _part(self, AgentRecord record) except -1:
        """It is in none of its groups any more."""
        cdef dict nodes
        for group in dict.fromkeys(record.groups):
            nodes = self._groups[group]
            del nodes[record.node_id][record.agent_id]
            if not nodes[record.node_id]:
                del nodes[record.node_id]
            if not nodes:
                del self._groups[group]
        return 0

    cdef int _refind(self, capability, AgentRecord record) except -1:
        cdef _Found found = self._found.get(capability)
        if found is None:
            return 0
        if len(found.records) > 2 * len(self._winners) + FOUND_MAX:
            # Mostly records that are gone: nobody asked for a long time.
            del self._found[capability]
            return 0
        found.records.append(record)
        found.dirty = True
        return 0
