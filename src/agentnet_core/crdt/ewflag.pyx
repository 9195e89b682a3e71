"""EWFlag: on or off; of concurrent changes, the one that turns it on counts."""

from agentnet_core.crdt.base cimport ALL, Crdt


cdef class EWFlag(Crdt):
    """Its code is 0: an entry has nothing but its dot."""

    def enable(self):
        """Turn it on."""
        self.begin()
        return self.write(self.table.scratch.used, 0, ALL, None)

    def disable(self):
        """Turn it off, as far as is known here."""
        self.begin()
        return self.erase(self.find())

    cdef object read(self, list rows, size_t skip):
        return bool(rows)
