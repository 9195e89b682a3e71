"""One registered agent as the directory keeps it: as small as it can be, because there are many.

Plain data: texts, numbers and tuples of texts, so nothing that it holds can hold it, and the garbage
collector need not look at it.
"""

cimport cython


@cython.no_gc
cdef class AgentRecord:
    """``health``: why it cannot work now, in its own words; empty when it is well. ``groups``: whose
    multicasts it gets."""

    def __init__(self, agent_id, node_id, name=None, capabilities=(), metadata=None, bint broadcasts=True,
                 health="", groups=()):
        self.agent_id = agent_id
        self.node_id = node_id
        self.name = name
        self.capabilities = capabilities
        self.metadata = metadata
        self.broadcasts = broadcasts
        self.health = health
        self.groups = groups

    @property
    def label(self):
        """What errors and tables call it: its name, or else its id."""
        return self.name if self.name is not None else str(self.agent_id)

    def __repr__(self):
        return f"<AgentRecord {self.label} on {self.node_id}>"
