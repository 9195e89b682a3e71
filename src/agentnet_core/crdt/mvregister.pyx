"""MVRegister: one value, or several siblings if they were written concurrently; the reader decides.

A write that names the context in which it was made replaces what was seen there and no more: with a
stale context it becomes a sibling.  So there are never more siblings than concurrent writers.
"""

from agentnet_core.crdt.base cimport ALL, SEEN, Crdt
from agentnet_core.crdt.table cimport ANY, content_of
from agentnet_core.dots cimport CausalContext
from agentnet_core.packing cimport put_value, value_at


cdef class MVRegister(Crdt):
    def __cinit__(self):
        self.code = ANY

    def set(self, value, context=None):
        """Write `value`, made in view of `context`: a CausalContext, or a clock as a mapping; None for all
        that is here."""
        self.begin()
        path_size = self.table.scratch.used
        put_value(&self.table.scratch, value)
        if context is None:
            return self.write(path_size, 0, ALL, None)
        if not isinstance(context, CausalContext):
            context = CausalContext(context)
        return self.write(path_size, 0, SEEN, context)

    def clear(self):
        """Back to no value; a write that was not seen here stays."""
        self.begin()
        return self.erase(self.find())

    cdef object read(self, list rows, size_t skip):
        """The siblings as a list, in order of actor and event."""
        dots = []
        for row in rows:
            entry = self.table.entries[<int>row]
            dots.append((<str>self.table.actors[entry.actor].name, entry.number, row))
        return [value_at(content_of(self.table, row), self.table.entries[<int>row].value_size)
                for _, _, row in sorted(dots)]
