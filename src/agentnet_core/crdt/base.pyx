"""What all types of mergeable state share: how they change, what a change is on the wire, how they merge.

A state is one table of entries, told apart by path: the element of a set, the key of a map, nothing for
what is single; in a map of states, the way to them.  A write makes the site's next event, adds its entry
and replaces the entries of the path that its writer has seen; a removal replaces them with nothing.  A
concurrent write is not seen, so it survives: add wins.

Each mutator returns the replica's Delta, open until it is encoded: what changes until then goes along, in
one message.  It holds dots alone; contents are read when it is encoded.

What is removed needs no tombstone, at no time: that its dot was seen and has no entry says all. Once
everything is removed there remain, for each actor that ever changed the state, its name and the runs of its
dots, one if none is missing; no key, no value, no stamp, no array of entries and no index.

A type is a subclass with a code of its own, whose bits say what its entries have.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.string cimport memcmp, memset

from agentnet_core.crdt.ranges cimport BLOCK, sums_of
from agentnet_core.crdt.table cimport KEYED, MAP, NONE, Actor, Entry, Site, bytes_alive, path_of
from agentnet_core.crdt.wire cimport encode, merge
from agentnet_core.dots cimport CausalContext, Seen, runs_add, runs_free, runs_reserve, runs_top
from agentnet_core.packing cimport buffer_room, put_raw

from agentnet_core.config import VERSION_MAX
from agentnet_core.errors import InternalError, LimitReached, UsageError
from agentnet_core.records import describe

cdef enum:
    STAMP_BITS = 62
    GONE_MIN = 4

cdef uint64_t number_max = VERSION_MAX
cdef uint64_t any_stamp = (<uint64_t>1 << STAMP_BITS) - 1

BY_CODE: dict = {}
BLOCK_DOTS = BLOCK


def table_of(*types):
    """The types by name; their codes lead to them, too."""
    for cls in types:
        code = cls.__new__(cls).type_code
        if BY_CODE.setdefault(code, cls) is not cls:
            raise InternalError(f"{cls.__name__} and {BY_CODE[code].__name__} share code {code}")
    return {cls.__name__: cls for cls in types}


cdef uint64_t stamp_of(object stamp) except 0:
    if type(stamp) is not int or not 0 < stamp <= any_stamp:
        raise UsageError(f"stamp {describe(stamp)}: expected one of a HybridClock, 1 to 2^{STAMP_BITS} - 1")
    return stamp


cdef class Delta:
    """`encode` takes it: what changes after that is in the next one."""

    def __dealloc__(self):
        PyMem_Free(self.gone)

    cdef int add_gone(self, uint32_t actor, uint64_t number) except -1:
        cdef size_t capacity = self.gone_capacity
        cdef Gone* gone
        if self.whole or (self.last and actor == self.table.own and number >= self.first):
            return 0
        if self.gone_count == capacity:
            if capacity > self.table.site.elements_max:
                self.whole = True
                return 0
            capacity = capacity * 2 if capacity else GONE_MIN
            gone = <Gone*>PyMem_Realloc(self.gone, capacity * sizeof(Gone))
            if gone == NULL:
                raise MemoryError
            self.gone, self.gone_capacity = gone, capacity
        self.gone[self.gone_count].actor, self.gone[self.gone_count].number = actor, number
        self.gone_count += 1
        return 0

    cdef Runs* wanted(self) except NULL:
        """By index of actor, the dots that it speaks of."""
        cdef Table table = self.table
        cdef size_t size = (<size_t>table.actor_count + 1) * sizeof(Runs), i
        cdef Runs* runs = <Runs*>PyMem_Malloc(size)
        if runs == NULL:
            raise MemoryError
        memset(runs, 0, size)
        try:
            if self.last:
                runs_add(&runs[table.own], self.first, self.last)
            sort_gone(self.gone, self.gone_count)
            for i in range(self.gone_count):
                runs_add(&runs[self.gone[i].actor], self.gone[i].number, self.gone[i].number)
        except MemoryError:
            free_all(runs, table.actor_count)
            raise
        return runs

    def encode(self):
        """What changed, as bytes for `merge`."""
        cdef Runs* runs
        if self.whole:
            data = encode(self.table, self.code, NULL)
        else:
            runs = self.wanted()
            try:
                data = encode(self.table, self.code, runs)
            finally:
                free_all(runs, self.table.actor_count)
        PyMem_Free(self.gone)
        self.gone = NULL
        self.gone_count = self.gone_capacity = 0
        self.first = self.last = 0
        self.whole = False
        return data

    def __bool__(self):
        """Whether anything changed."""
        return self.last != 0 or self.gone_count != 0 or self.whole


cdef extern from "<stdlib.h>":
    void qsort(void*, size_t, size_t, int (*)(const void*, const void*) noexcept nogil) noexcept nogil


cdef int by_dot(const void* one, const void* other) noexcept nogil:
    cdef const Gone* a = <const Gone*>one
    cdef const Gone* b = <const Gone*>other
    if a.actor != b.actor:
        return 1 if a.actor > b.actor else -1
    return (a.number > b.number) - (a.number < b.number)


cdef void sort_gone(Gone* gone, size_t count) noexcept nogil:
    cdef size_t i
    for i in range(1, count):
        if by_dot(&gone[i - 1], &gone[i]) > 0:
            qsort(gone, count, sizeof(Gone), by_dot)
            return


cdef void free_all(Runs* runs, uint32_t count) noexcept:
    cdef uint32_t i
    for i in range(count):
        runs_free(&runs[i])
    PyMem_Free(runs)


cdef class Crdt:
    """Base of all types. `Type(site)` is an empty replica; `Type.decode(data, site)` one from its bytes."""

    def __init__(self, Site site not None):
        if self.table is not None:
            raise UsageError("a state is made once")
        self.table = Table.__new__(Table, site)
        self.prefix = b""
        self.delta = Delta.__new__(Delta)
        self.delta.table, self.delta.code = self.table, self.code

    # -- the wire

    @classmethod
    def decode(cls, data, Site site not None):
        """The replica that `encode` wrote, the site's own events included."""
        state = cls(site)
        (<Crdt>state)._merge(data, None, any_stamp, True)
        return state

    def encode(self, CausalContext context=None):
        """The whole state; or what it knows of the dots in `context` alone, to be merged likewise.

        Equal states are equal bytes.
        """
        cdef Runs* runs
        cdef uint32_t i
        cdef Seen seen
        self._check_root()
        if context is None:
            return encode(self.table, self.code, NULL)
        runs = <Runs*>PyMem_Malloc((<size_t>self.table.actor_count + 1) * sizeof(Runs))
        if runs == NULL:
            raise MemoryError
        # Views: what was never seen here must not be spoken of.
        context = self.context.minus(self.context.minus(context))
        for i in range(self.table.actor_count):
            memset(&runs[i], 0, sizeof(Runs))
            seen = context.actors.get(<str>self.table.actors[i].name)
            if seen is not None:
                runs[i] = seen.runs
        try:
            return encode(self.table, self.code, runs)
        finally:
            PyMem_Free(runs)

    def merge(self, data, *, str author=None, uint64_t stamp_max=any_stamp):
        """Take in what `data`, a delta or a state, knows; whether anything changed.

        `author`: the one actor whose events may be in it, or the node, of the actors `author:...`; None for
        all. `stamp_max`: the last stamp that is
        not from the future. Any error leaves the state as it was.
        """
        return self._merge(data, author, stamp_max, False)

    def restore(self, data):
        """As `merge`, of what this replica wrote itself in an earlier life, own events included."""
        return self._merge(data, None, any_stamp, True)

    def _merge(self, const uint8_t[::1] data not None, str author, uint64_t stamp_max, bint own):
        self._check_root()
        return merge(self.table, self.code, &data[0] if data.shape[0] else NULL, data.shape[0], author,
                     stamp_max, own)

    def _check_root(self):
        if self.prefix:
            raise UsageError("a state in a map travels with its map: encode or merge that")

    def become(self, Crdt other not None):
        """Hold what `other` holds, a state of the same type and of a site with the same keys, in one step."""
        cdef uint32_t rank = 0
        cdef Py_ssize_t n = 0
        cdef const char* name
        self._check_root()
        if self.delta or other.code != self.code:
            raise UsageError("a state with an open delta, or of another type, becomes nothing else")
        self.table.exchange(other.table)
        self.table.own = NONE
        if self.table.site.actor is not None:
            name = PyUnicode_AsUTF8AndSize(self.table.site.actor, &n)
            self.table.own = self.table.find_actor(<const uint8_t*>name, n, &rank)

    def disown(self):
        """The site has another name: what was done here under the old one is another actor's from now on."""
        if self.delta:
            raise UsageError("a state with an open delta is disowned: encode that before")
        self.table.own = NONE

    # -- reading

    @property
    def value(self):
        """What the state means, as plain Python values; a copy."""
        return self.read(self.rows(), len(self.prefix))

    @property
    def context(self):
        """The dots that have been seen; of the whole map for what is in one."""
        cdef CausalContext context = CausalContext()
        cdef Seen seen
        cdef uint32_t i, k
        for i in range(self.table.actor_count):
            if self.table.actors[i].seen.count:
                seen = context.of(<str>self.table.actors[i].name)
                runs_reserve(&seen.runs, self.table.actors[i].seen.count)
                for k in range(self.table.actors[i].seen.count):
                    seen.runs.items[k] = self.table.actors[i].seen.items[k]
                seen.runs.count = self.table.actors[i].seen.count
        return context

    @property
    def elements(self):
        """Entries that it holds, siblings and nested ones counted; `state_elements_max` bounds them."""
        return self.table.alive if not self.prefix else len(self.rows())

    @property
    def size(self):
        """Bytes of keys and values of the whole state; `state_bytes_max` bounds them."""
        return bytes_alive(self.table)

    @property
    def gaps(self):
        """How many runs of dots do not begin at 1: what lies before them has not come."""
        cdef uint32_t i
        cdef size_t gaps = 0
        for i in range(self.table.actor_count):
            if self.table.actors[i].seen.count:
                gaps += self.table.actors[i].seen.count - (self.table.actors[i].seen.items[0].first == 1)
        return gaps

    @property
    def sum(self):
        """64 bits for all entries of the whole state, kept as it changes; equal entries have equal sums."""
        return self.table.sums.total

    def sum_of(self, str actor not None, uint64_t first, uint64_t end):
        """Likewise of the actor's blocks of `BLOCK_DOTS` events from `first` up to, not with, `end`."""
        cdef Py_ssize_t n = 0
        cdef uint32_t rank = 0, i
        cdef const uint8_t* name = <const uint8_t*>PyUnicode_AsUTF8AndSize(actor, &n)
        if self.table.sums.lost:
            raise MemoryError("the sums of this state were given up")
        i = self.table.find_actor(name, n, &rank)
        return 0 if i == NONE or first >= end else sums_of(&self.table.sums, i, first, end)

    @property
    def allocated(self):
        """Bytes of memory that the whole state holds, its open delta included, Python's objects not."""
        return self.table.allocated() + self.delta.gone_capacity * sizeof(Gone)

    @property
    def type_code(self):
        """The number of the type on the wire."""
        return self.code

    def __repr__(self):
        return f"{type(self).__name__}({self.value!r})"

    # -- for the types

    cdef int begin(self) except -1:
        """Start a path in the table's scratch."""
        self.table.scratch.used = 0
        buffer_room(&self.table.scratch, len(self.prefix) + 9)
        put_raw(&self.table.scratch, <const char*>self.prefix, len(self.prefix))
        return 0

    cdef int own_actor(self) except -1:
        cdef Table table = self.table
        if table.own == NONE:
            if table.site.actor is None:
                raise UsageError("this replica has no actor: it can merge, not change")
            if table.actor_count >= table.site.actors_max:
                raise LimitReached(f"state of {table.actor_count} actors: expected at most "
                                   f"state_actors_max={table.site.actors_max}")
            table.add_actor(table.site.actor)
        return 0

    cdef uint32_t find(self) noexcept:
        """The first entry of the path in scratch, or NONE."""
        cdef Table table = self.table
        return table.find_path(table.hash_path(table.scratch.data, table.scratch.used), table.scratch.data,
                               table.scratch.used)

    cdef Delta write(self, size_t path_size, uint64_t stamp, int replace, object context):
        """An entry of the path and the value in scratch instead of those that `replace` names."""
        cdef Table table = self.table
        cdef size_t value_size = table.scratch.used - path_size, bytes_gone = 0
        cdef uint32_t i, next, gone = 0
        cdef Entry entry
        cdef Actor* own
        self.own_actor()
        entry.hash = table.hash_path(table.scratch.data, path_size)
        i = next = table.find_path(entry.hash, table.scratch.data, path_size)
        while next != NONE:
            if self._replaces(next, replace, context):
                gone += 1
                bytes_gone += path_size + table.entries[next].value_size
            next = table.entries[next].next
        self._check_room(path_size, value_size, gone, bytes_gone)
        own = &table.actors[table.own]
        entry.number = runs_top(&own.seen) + 1
        if entry.number > number_max:
            raise LimitReached(f"state: actor {table.site.actor} has made all of its {number_max} events")
        entry.stamp, entry.actor = stamp, table.own
        entry.path_size, entry.value_size = <uint32_t>path_size, <uint32_t>value_size
        entry.parts = self._count_parts(value_size, stamp)
        table.reserve(1, path_size + value_size)
        runs_reserve(&own.seen, <size_t>own.seen.count + 1)
        if gone:
            self._replace(i, replace, context)
        table.runs -= own.seen.count
        runs_add(&own.seen, entry.number, entry.number)
        table.runs += own.seen.count
        if not self.delta.last:
            # All of the own events of a single thing are about it, so one that got lost is made good.
            self.delta.first = entry.number if self.prefix or self.code & (KEYED | MAP) else 1
        self.delta.last = entry.number
        table.append(&entry, table.scratch.data)
        if gone:
            table.tidy()
        return self.delta

    cdef bint _replaces(self, uint32_t i, int replace, object context) except -1:
        cdef Entry* entry = &self.table.entries[i]
        if replace == ALL:
            return True
        if replace == OWN:
            return entry.actor == self.table.own
        return (<str>self.table.actors[entry.actor].name, entry.number) in context

    cdef int _replace(self, uint32_t i, int replace, object context) except -1:
        cdef uint32_t next
        while i != NONE:
            next = self.table.entries[i].next
            if self._replaces(i, replace, context):
                self.delta.add_gone(self.table.entries[i].actor, self.table.entries[i].number)
                self.table.kill(i)
            i = next
        return 0

    cdef uint8_t _count_parts(self, size_t value_size, uint64_t stamp) noexcept:
        """MessagePack values of the entry in scratch."""
        return <uint8_t>(2 * self.deep + (self.code & KEYED) + (value_size > 0) + (stamp > 0))

    cdef int _check_room(self, size_t path_size, size_t value_size, uint32_t gone,
                         size_t bytes_gone) except -1:
        cdef Table table = self.table
        cdef Site site = table.site
        cdef size_t size = bytes_alive(table) + path_size + value_size
        if path_size > site.key_bytes_max:
            raise LimitReached(f"key of {path_size} bytes: expected at most "
                               f"state_key_bytes_max={site.key_bytes_max}")
        if value_size > site.value_bytes_max:
            raise LimitReached(f"value of {value_size} bytes: expected at most "
                               f"state_value_bytes_max={site.value_bytes_max}")
        if <size_t>table.alive + 1 - gone > site.elements_max and gone == 0:
            raise LimitReached(f"state of {table.alive} elements: expected at most "
                               f"state_elements_max={site.elements_max}")
        if size > site.bytes_max + bytes_gone:
            raise LimitReached(f"state of {size - bytes_gone} bytes: expected at most "
                               f"state_bytes_max={site.bytes_max}")
        if table.runs >= site.runs_max and not table.actors[table.own].seen.count:
            raise LimitReached(f"state of {table.runs} runs: expected at most state_runs_max={site.runs_max}")
        return 0

    cdef Delta erase(self, uint32_t first):
        """Remove an entry and those that follow it: all of one path."""
        cdef uint32_t next
        if first != NONE:
            while first != NONE:
                next = self.table.entries[first].next
                self.delta.add_gone(self.table.entries[first].actor, self.table.entries[first].number)
                self.table.kill(first)
                first = next
            self.table.tidy()
        return self.delta

    cdef Delta erase_all(self):
        """Remove all that is here."""
        cdef uint32_t i
        for i in range(self.table.count):
            if self.table.entries[i].alive and self.has_prefix(i):
                self.delta.add_gone(self.table.entries[i].actor, self.table.entries[i].number)
                self.table.kill(i)
        self.table.tidy()
        return self.delta

    cdef bint has_prefix(self, uint32_t i) noexcept:
        cdef size_t size = len(self.prefix)
        return self.table.entries[i].path_size >= size and memcmp(
            path_of(self.table, i), <const char*>self.prefix, size) == 0

    cdef list rows(self):
        """Indexes of the entries that are here."""
        return [i for i in range(self.table.count) if self.table.entries[i].alive and self.has_prefix(i)]

    cdef object read(self, list rows, size_t skip):
        """The value that the entries `rows` make, whose paths begin after `skip` bytes."""
        raise InternalError(f"{type(self).__name__} does not say how it is read")
