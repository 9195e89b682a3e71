"""LWWRegister: one value; of concurrent writes the one with the latest stamp counts.

A write replaces all that its writer has seen, whatever their stamps, so a stamp from the future
freezes nothing. Equal stamps: the greater name of actor.
"""

from libc.stdint cimport uint32_t

from agentnet_core.crdt.base cimport ALL, Crdt, stamp_of
from agentnet_core.crdt.table cimport ANY, NONE, STAMPED, content_of
from agentnet_core.packing cimport put_value, value_at


cdef class LWWRegister(Crdt):
    def __cinit__(self):
        self.code = STAMPED | ANY

    def set(self, value, stamp):
        """Write `value`, at the time `stamp` of a HybridClock."""
        self.begin()
        path_size = self.table.scratch.used
        put_value(&self.table.scratch, value)
        return self.write(path_size, stamp_of(stamp), ALL, None)

    def clear(self):
        """Back to no value; a write that was not seen here stays."""
        self.begin()
        return self.erase(self.find())

    cdef object read(self, list rows, size_t skip):
        """None before the first write."""
        cdef uint32_t best = NONE
        for row in rows:
            if best == NONE or self.table.beats(row, best):
                best = row
        if best == NONE:
            return None
        return value_at(content_of(self.table, best), self.table.entries[best].value_size)
