"""PNCounter: a number that grows and shrinks: what was added less what was taken, each as in a GCounter."""

from libc.stdint cimport uint32_t, uint64_t

from agentnet_core.crdt.base cimport OWN, Crdt, Delta
from agentnet_core.crdt.counting cimport amount_of, latest, own_entry, total_of
from agentnet_core.crdt.table cimport NONE, PAIR
from agentnet_core.packing cimport buffer_room, put_array, put_uint


cdef class PNCounter(Crdt):
    def __cinit__(self):
        self.code = PAIR

    def increment(self, amount=1):
        """Add `amount`, at least 1."""
        return self.change(amount_of(amount), 0)

    def decrement(self, amount=1):
        """Take `amount` away, at least 1."""
        return self.change(0, amount_of(amount))

    cdef Delta change(self, object added, object taken):
        cdef uint64_t all_added = 0, all_taken = 0
        cdef uint32_t mine
        self.begin()
        mine = own_entry(self.table, self.find())
        if mine != NONE:
            total_of(self.table, mine, &all_added, &all_taken)
        added, taken = added + all_added, taken + all_taken
        amount_of(max(added, taken))
        path_size = self.table.scratch.used
        buffer_room(&self.table.scratch, 19)
        put_array(&self.table.scratch, 2)
        put_uint(&self.table.scratch, added)
        put_uint(&self.table.scratch, taken)
        return self.write(path_size, 0, OWN, None)

    cdef object read(self, list rows, size_t skip):
        cdef uint64_t added = 0, taken = 0
        value = 0
        for row in latest(self.table, rows):
            total_of(self.table, row, &added, &taken)
            value += added
            value -= taken
        return value
