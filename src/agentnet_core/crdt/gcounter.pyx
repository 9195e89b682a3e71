"""GCounter: a number that only grows.

Each actor has one entry with all that it has added; the value is their sum, at any time.  In a map, a
removal takes away what it has seen; an actor that adds at that time brings back all that it had added.
"""

from libc.stdint cimport uint32_t, uint64_t

from agentnet_core.crdt.base cimport OWN, Crdt
from agentnet_core.crdt.counting cimport amount_of, latest, own_entry, total_of
from agentnet_core.crdt.table cimport COUNT, NONE
from agentnet_core.packing cimport buffer_room, put_uint


cdef class GCounter(Crdt):
    def __cinit__(self):
        self.code = COUNT

    def increment(self, amount=1):
        """Add `amount`, at least 1."""
        cdef uint64_t more = amount_of(amount), total = 0
        cdef uint32_t mine
        self.begin()
        mine = own_entry(self.table, self.find())
        if mine != NONE:
            total_of(self.table, mine, &total, NULL)
        path_size = self.table.scratch.used
        buffer_room(&self.table.scratch, 9)
        put_uint(&self.table.scratch, amount_of(total + more))
        return self.write(path_size, 0, OWN, None)

    cdef object read(self, list rows, size_t skip):
        cdef uint64_t added = 0
        value = 0
        for row in latest(self.table, rows):
            total_of(self.table, row, &added, NULL)
            value += added
        return value
