"""Text: characters in an order that all replicas agree on; what is written at one place is never mixed.

It is kept in passages, each an entry under its own key, and in a tree; see `sequence`.  Who deletes a part
of a passage, or writes on at its end, writes it anew; of writes that did not see each other, what one of them
has deleted is deleted, and what one of them has added is there.  What is deleted gives its characters back
and leaves its place: some dozen bytes a passage, for what others write there at the time.

In a map a text may be removed as a whole, and leaves nothing then.  Add wins, as with all that is in a map,
and what is added is a passage: one that another writer changed concurrently stays as that left it, with what
had been there before.  Who wants only what is newly written to stay clears the text, and does not remove it.
"""

from libc.stdint cimport uint32_t

from agentnet_core.crdt.base cimport ALL, Crdt
from agentnet_core.crdt.table cimport NONE, TEXT, bytes_alive, content_of, path_of
from agentnet_core.dots cimport runs_top
from agentnet_core.packing cimport key_at, put_key, put_value, value_at

from agentnet_core.crdt.sequence import Sequence, passage_of
from agentnet_core.errors import LimitReached, PayloadMismatch, UsageError
from agentnet_core.records import describe


cdef class Text(Crdt):
    def __cinit__(self):
        self.code = TEXT

    def splice(self, first, end, text):
        """Put `text` in the place of the characters from `first` up to, not with, `end`."""
        cdef size_t path_size = 0
        if type(text) is not str:
            raise UsageError(f"text {describe(text)}: expected a str")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise PayloadMismatch(f"{describe(text)}: expected text that UTF-8 can hold") from None
        sequence = self.order()
        if type(first) is not int or type(end) is not int or not 0 <= first <= end <= sequence.length:
            raise UsageError(f"characters {describe(first)} to {describe(end)} of a text of "
                             f"{sequence.length}: expected two indexes in it, in order")
        if not text and first == end:
            return self.delta
        self.own_actor()
        edit = sequence.edit(first, end, text, self.table.site.actor,
                             runs_top(&self.table.actors[self.table.own].seen) + 1)
        # As their events are numbered: the one that grows, the new ones, then those that shrink.
        passages = edit.changed[:edit.grown] + edit.made + edit.changed[edit.grown:]
        if len(passages) > 1:
            self.check_room(passages, len(edit.made))
        for passage in passages:
            self.put(passage, &path_size)
            self.write(path_size, 0, ALL, None)
        sequence.make(edit)
        self.sum_then = self.table.sums.total
        return self.delta

    def clear(self):
        """Delete all that is there."""
        return self.splice(0, self.order().length, "")

    @property
    def value(self):
        """The text; a copy."""
        return self.order().text()

    def __len__(self):
        return self.order().length

    cdef object read(self, list rows, size_t skip):
        return self.order_of(rows, skip).text()

    cdef object order(self):
        """The passages in order, as they are now."""
        if self.sequence is None or self.sum_then != self.table.sums.total or self.table.sums.lost:
            self.sequence = self.order_of(self.rows(), len(self.prefix))
            self.sum_then = self.table.sums.total
        return self.sequence

    cdef object order_of(self, list rows, size_t skip):
        cdef uint32_t i
        passages = []
        for row in rows:
            i = row
            key = key_at(path_of(self.table, i) + skip, self.table.entries[i].path_size - skip)
            dot = (<str>self.table.actors[self.table.entries[i].actor].name, self.table.entries[i].number)
            passages.append((key, dot, i))
        # Of one passage the same writer's comes first on every node.
        passages.sort()
        made = []
        for key, _, row in passages:
            i = row
            form = value_at(content_of(self.table, i), self.table.entries[i].value_size)
            made.append(passage_of(key, form))
        return Sequence(made)

    cdef int put(self, passage, size_t* path_size) except -1:
        """Into the table's scratch."""
        self.begin()
        put_key(&self.table.scratch, passage.key)
        path_size[0] = self.table.scratch.used
        put_value(&self.table.scratch, passage.form())
        return 0

    cdef int check_room(self, list passages, size_t made) except -1:
        """LimitReached if not all of them could be written: then none is."""
        cdef size_t path_size = 0, more = 0, less = 0, value_max = self.table.site.value_bytes_max
        cdef uint32_t i
        for passage in passages:
            self.put(passage, &path_size)
            if self.table.scratch.used - path_size > value_max:
                raise LimitReached(f"passage of {self.table.scratch.used - path_size} bytes: expected at "
                                   f"most state_value_bytes_max={value_max}")
            more += self.table.scratch.used
            i = self.table.find_path(self.table.hash_path(self.table.scratch.data, path_size),
                                     self.table.scratch.data, path_size)
            while i != NONE:
                less += path_size + self.table.entries[i].value_size
                i = self.table.entries[i].next
        if made and <size_t>self.table.alive + made > self.table.site.elements_max:
            raise LimitReached(f"state of {self.table.alive} elements and {made} more: expected at most "
                               f"state_elements_max={self.table.site.elements_max}")
        if bytes_alive(self.table) + more > self.table.site.bytes_max + less:
            raise LimitReached(f"state of {bytes_alive(self.table)} bytes and {more - less} more: expected "
                               f"at most state_bytes_max={self.table.site.bytes_max}")
        return 0
