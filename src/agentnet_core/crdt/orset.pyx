"""ORSet: a set; an element that is added and removed concurrently is in it.

A removal takes away the additions that it has seen, and leaves nothing behind.  Elements are keys: str,
bytes, int and tuples of these.
"""

from libc.stdint cimport uint32_t

from agentnet_core.crdt.base cimport ALL, Crdt
from agentnet_core.crdt.table cimport KEYED, NONE, path_of
from agentnet_core.packing cimport key_at, put_key


cdef class ORSet(Crdt):
    def __cinit__(self):
        self.code = KEYED

    def add(self, element):
        """Add `element`; also if it is there, so that removals elsewhere do not take it away."""
        self.begin()
        put_key(&self.table.scratch, element)
        return self.write(self.table.scratch.used, 0, ALL, None)

    def discard(self, element):
        """Remove `element` if it is there."""
        self.begin()
        put_key(&self.table.scratch, element)
        return self.erase(self.find())

    def clear(self):
        """Remove all that is there."""
        return self.erase_all()

    def __contains__(self, element):
        self.begin()
        put_key(&self.table.scratch, element)
        return self.find() != NONE

    def __len__(self):
        return len(self.value) if self.prefix else self.table.paths.used

    cdef object read(self, list rows, size_t skip):
        cdef uint32_t i
        found = set()
        for row in rows:
            i = row
            found.add(key_at(path_of(self.table, i) + skip, self.table.entries[i].path_size - skip))
        return found
