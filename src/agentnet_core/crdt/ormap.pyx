"""ORMap: states by key, of any type, maps among them; all in one table, with one context.

A key is there as long as something under it is.  A removal takes away all of it that was seen; what
was changed concurrently stays, and no more than that.  A key is of a name and a type: two nodes that use
one name for different types have two states, and neither is lost.
"""

from libc.stdint cimport uint32_t

from agentnet_core.crdt.base cimport Crdt
from agentnet_core.crdt.table cimport MAP, path_of
from agentnet_core.framing cimport Cursor
from agentnet_core.packing cimport (
    KEY_DEPTH_MAX, buffer_bytes, buffer_room, key_at, put_key, put_uint, read_key,
)

from agentnet_core.crdt.base import BY_CODE
from agentnet_core.errors import UsageError

cdef enum:
    MAPS_DEEP_MAX = 8


cdef class ORMap(Crdt):
    def __cinit__(self):
        self.code = MAP

    def at(self, key, kind):
        """The state of type `kind` under `key`: changed through it, encoded and merged through the map."""
        cdef Crdt child
        if self.deep + 1 > MAPS_DEEP_MAX - (kind is ORMap):
            raise UsageError(f"map {self.deep + 2} maps deep: expected at most {MAPS_DEEP_MAX}")
        self.begin()
        put_key(&self.table.scratch, key)
        child = kind.__new__(kind)
        buffer_room(&self.table.scratch, 9)
        put_uint(&self.table.scratch, child.code)
        child.table, child.delta, child.deep = self.table, self.delta, self.deep + 1
        child.prefix = buffer_bytes(&self.table.scratch)
        return child

    def delete(self, key, kind):
        """Remove the state of type `kind` under `key`."""
        return (<Crdt>self.at(key, kind)).erase_all()

    def clear(self):
        """Remove all that is there."""
        return self.erase_all()

    cdef object read(self, list rows, size_t skip):
        """Values by (key, name of type); types that this version does not know are left out."""
        cdef Cursor c
        cdef uint32_t i
        found = {}
        for row in rows:
            i = row
            c.at = path_of(self.table, i) + skip
            c.end = c.at + self.table.entries[i].path_size - skip
            start = c.at - path_of(self.table, i)
            read_key(&c, KEY_DEPTH_MAX)
            size = c.at - path_of(self.table, i)
            key = key_at(path_of(self.table, i) + <size_t>start, <size_t>size - <size_t>start)
            found.setdefault((key, c.at[0]), (size + 1, []))[1].append(row)
        return {(key, BY_CODE[code].__name__): self._read_child(BY_CODE[code], place, inner)
                for (key, code), (place, inner) in found.items() if code in BY_CODE}

    def _read_child(self, kind, place, rows):
        cdef Crdt child = kind.__new__(kind)
        child.table = self.table
        return child.read(rows, place)
