"""LWWMap: values by key; of concurrent writes of one key the one with the latest stamp counts.

A write and a removal of one key at the same time: the write stays. Each key is as an LWWRegister.
"""

from libc.stdint cimport uint32_t

from agentnet_core.crdt.base cimport ALL, Crdt, stamp_of
from agentnet_core.crdt.table cimport ANY, KEYED, NONE, STAMPED, content_of, path_of
from agentnet_core.packing cimport key_at, put_key, put_value, value_at


cdef class LWWMap(Crdt):
    def __cinit__(self):
        self.code = KEYED | STAMPED | ANY

    def set(self, key, value, stamp):
        """Write `value` under `key`, at the time `stamp` of a HybridClock."""
        cdef size_t path_size
        self.begin()
        put_key(&self.table.scratch, key)
        path_size = self.table.scratch.used
        put_value(&self.table.scratch, value)
        return self.write(path_size, stamp_of(stamp), ALL, None)

    def delete(self, key):
        """Remove `key` if it is there."""
        self.begin()
        put_key(&self.table.scratch, key)
        return self.erase(self.find())

    def clear(self):
        """Remove all keys that are there."""
        return self.erase_all()

    def get(self, key, default=None):
        """The value under `key`."""
        cdef uint32_t i, best
        self.begin()
        put_key(&self.table.scratch, key)
        i = best = self.find()
        if best == NONE:
            return default
        while self.table.entries[i].next != NONE:
            i = self.table.entries[i].next
            if self.table.beats(i, best):
                best = i
        return value_at(content_of(self.table, best), self.table.entries[best].value_size)

    def __contains__(self, key):
        self.begin()
        put_key(&self.table.scratch, key)
        return self.find() != NONE

    def __len__(self):
        return len(self.value) if self.prefix else self.table.paths.used

    cdef object read(self, list rows, size_t skip):
        cdef uint32_t i
        best = {}
        for row in rows:
            i = row
            key = key_at(path_of(self.table, i) + skip, self.table.entries[i].path_size - skip)
            if key not in best or self.table.beats(i, best[key]):
                best[key] = row
        for key, row in best.items():
            i = row
            best[key] = value_at(content_of(self.table, i), self.table.entries[i].value_size)
        return best
