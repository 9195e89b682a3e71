"""The table that every state is kept in: entries, each one event that still counts, and who has seen what.

An entry is a path, a value, a stamp and the dot of the event that made it; its type says which of them
it has.  Entries lie in an array in the order in which they came, their bytes in another; two indexes
lead to them, by path and by dot.  Both are open tables hashed by SipHash with the site's key, so that
no peer can choose keys that collide.  What is removed leaves nothing but its dot in its actor's runs; when
more than half is dead, the arrays are made anew, and nothing alive means no arrays.

The table checks nothing: limits and contradictions are for those who change it.  `reserve` may fail,
and is asked first; `append` and `kill` cannot.  DANGER: `tidy` gives entries other indexes.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_Compare
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memmove, memset

from agentnet_core.crdt.ranges cimport Block, sums_add, sums_clear, sums_drop
from agentnet_core.dots cimport Run, check_actor, runs_free
from agentnet_core.packing cimport buffer_free, buffer_room, put_raw

from agentnet_core.config import EngineConfig
from agentnet_core.errors import LimitReached, UsageError

cdef extern from "agentnet_siphash.h":
    uint64_t agentnet_siphash13(uint64_t, uint64_t, const uint8_t*, size_t) noexcept nogil

cdef enum:
    SLOTS_MIN = 8
    ENTRIES_MIN = 4
    DEAD_MIN = 16           # fewer are not worth a new table
    ROW = 8                 # dots in a row of slots: one line of cache


cdef class Site:
    """`actor`: the name under which this node changes states, None if it only reads and merges them.

    `hash_key`: 16 bytes that no peer knows, drawn once a process. Two sites with one actor name would
    make different events with the same dots: a process that has lost its disk takes another name.
    """

    def __init__(self, str actor, bytes hash_key not None, config=None):
        if len(hash_key) != 16:
            raise UsageError(f"hash_key of {len(hash_key)} bytes: expected 16")
        if actor is not None:
            check_actor(actor)
        config = config or EngineConfig()
        self.actor = actor
        self.key0 = int.from_bytes(hash_key[:8], "little")
        self.key1 = int.from_bytes(hash_key[8:], "little")
        # Entries and actors are counted in 32 bits.
        self.elements_max = min(config.state_elements_max, 1 << 31)
        self.actors_max = min(config.state_actors_max, 1 << 31)
        self.runs_max = min(config.state_runs_max, 1 << 31)
        self.bytes_max = config.state_bytes_max
        self.key_bytes_max = min(config.state_key_bytes_max, 1 << 31)
        self.value_bytes_max = min(config.state_value_bytes_max, 1 << 31)

    def rename(self, str actor not None):
        """Change states under that name from now on; each of them is told by `Crdt.disown`."""
        check_actor(actor)
        self.actor = actor

    def unbound(self):
        """The same without limits and of nobody, for what is made of what was within them."""
        cdef Site site = Site.__new__(Site)
        site.actor, site.key0, site.key1 = None, self.key0, self.key1
        site.elements_max = site.actors_max = site.runs_max = <size_t>1 << 31
        site.bytes_max = site.key_bytes_max = site.value_bytes_max = <size_t>1 << 40
        return site


# -- an index

cdef inline void index_put(Index* index, uint32_t hash, uint32_t entry) noexcept nogil:
    cdef size_t at = hash & index.mask
    while index.slots[at]:
        at = (at + 1) & index.mask
    index.slots[at] = <uint64_t>hash << 32 | (entry + 1)
    index.used += 1


cdef inline void index_drop(Index* index, size_t at) noexcept nogil:
    """Empty one slot; what was pushed behind it moves up, so that no mark has to stay."""
    cdef size_t hole = at, home
    while True:
        at = (at + 1) & index.mask
        if not index.slots[at]:
            break
        home = (index.slots[at] >> 32) & index.mask
        if ((at - home) & index.mask) >= ((at - hole) & index.mask):
            index.slots[hole] = index.slots[at]
            hole = at
    index.slots[hole] = 0
    index.used -= 1


cdef int index_reserve(Index* index, size_t more) except -1:
    """Room for `more`, so that a third of the slots stays empty."""
    cdef size_t wanted = index.used + more
    cdef size_t capacity = index.mask + 1 if index.slots != NULL else SLOTS_MIN
    cdef size_t i
    cdef Index grown
    if index.slots != NULL and 3 * wanted <= 2 * capacity:
        return 0
    while 3 * wanted > 2 * capacity:
        capacity *= 2
    grown.slots = <uint64_t*>calloc(capacity, sizeof(uint64_t))
    if grown.slots == NULL:
        raise MemoryError
    grown.mask, grown.used = capacity - 1, 0
    if index.slots != NULL:
        for i in range(index.mask + 1):
            if index.slots[i]:
                index_put(&grown, <uint32_t>(index.slots[i] >> 32), <uint32_t>index.slots[i] - 1)
        free(index.slots)
    index[0] = grown
    return 0


cdef inline size_t index_size(const Index* index) noexcept nogil:
    return (index.mask + 1) * sizeof(uint64_t) if index.slots != NULL else 0


cdef inline void index_free(Index* index) noexcept nogil:
    free(index.slots)
    index.slots = NULL
    index.mask = index.used = 0


cdef class Table:
    def __cinit__(self, Site site not None):
        self.site = site
        self.own = NONE
        self.sums.key0, self.sums.key1 = site.key0, site.key1

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.actor_count):
            Py_XDECREF(self.actors[i].name)
            runs_free(&self.actors[i].seen)
        free(self.actors)
        free(self.order)
        free(self.entries)
        index_free(&self.paths)
        index_free(&self.dots)
        sums_clear(&self.sums)
        buffer_free(&self.bytes)
        buffer_free(&self.scratch)

    # -- finding

    cdef uint32_t hash_path(self, const uint8_t* path, size_t size) noexcept nogil:
        return <uint32_t>agentnet_siphash13(self.site.key0, self.site.key1, path, size)

    cdef uint32_t hash_dot(self, uint32_t actor, uint64_t number) noexcept nogil:
        """Dots that follow each other lie side by side, a row at a time."""
        cdef uint64_t[2] words
        words[0], words[1] = number // ROW, actor
        return (<uint32_t>agentnet_siphash13(self.site.key0, self.site.key1, <uint8_t*>words, 16)
                & ~<uint32_t>(ROW - 1)) | <uint32_t>(number % ROW)

    cdef uint32_t find_path(self, uint32_t hash, const uint8_t* path, size_t size) noexcept nogil:
        """The first entry of the path, or NONE."""
        cdef size_t at
        cdef uint32_t i
        if self.paths.slots == NULL:
            return NONE
        at = hash & self.paths.mask
        while self.paths.slots[at]:
            if self.paths.slots[at] >> 32 == hash:
                i = <uint32_t>self.paths.slots[at] - 1
                if self.entries[i].path_size == size and memcmp(path_of(self, i), path, size) == 0:
                    return i
            at = (at + 1) & self.paths.mask
        return NONE

    cdef uint32_t find_dot(self, uint32_t actor, uint64_t number) noexcept nogil:
        """The entry of the dot, or NONE."""
        cdef uint32_t hash, i
        cdef size_t at
        if self.dots.slots == NULL:
            return NONE
        hash = self.hash_dot(actor, number)
        at = hash & self.dots.mask
        while self.dots.slots[at]:
            if self.dots.slots[at] >> 32 == hash:
                i = <uint32_t>self.dots.slots[at] - 1
                if self.entries[i].number == number and self.entries[i].actor == actor:
                    return i
            at = (at + 1) & self.dots.mask
        return NONE

    cdef uint32_t find_actor(self, const uint8_t* name, size_t size, uint32_t* rank) except? 0xfffffffe:
        """Index of the actor, or NONE; `rank`: where it is, or would be, in the order of names."""
        cdef uint32_t low = 0, high = self.actor_count, middle
        cdef Py_ssize_t n = 0
        cdef const char* other
        cdef int order
        while low < high:
            middle = (low + high) >> 1
            other = PyUnicode_AsUTF8AndSize(<str>self.actors[self.order[middle]].name, &n)
            order = memcmp(other, name, min(<size_t>n, size))
            if order == 0 and <size_t>n == size:
                rank[0] = middle
                return self.order[middle]
            if order < 0 or (order == 0 and <size_t>n < size):
                low = middle + 1
            else:
                high = middle
        rank[0] = low
        return NONE

    cdef bint beats(self, uint32_t one, uint32_t other) except -1:
        """Whether entry `one` is the later: by stamp, then name of actor, then number."""
        cdef Entry* a = &self.entries[one]
        cdef Entry* b = &self.entries[other]
        if a.stamp != b.stamp:
            return a.stamp > b.stamp
        if a.actor != b.actor:
            return PyUnicode_Compare(<str>self.actors[a.actor].name, <str>self.actors[b.actor].name) > 0
        return a.number > b.number

    # -- room

    cdef int reserve_actors(self, size_t more) except -1:
        cdef size_t capacity = self.actor_capacity
        cdef Actor* actors
        cdef uint32_t* order
        if self.actor_count + more <= capacity:
            return 0
        capacity = max(self.actor_count + more, capacity + (capacity >> 1))
        actors = <Actor*>realloc(self.actors, capacity * sizeof(Actor))
        if actors == NULL:
            raise MemoryError
        self.actors = actors
        order = <uint32_t*>realloc(self.order, capacity * sizeof(uint32_t))
        if order == NULL:
            raise MemoryError
        self.order, self.actor_capacity = order, <uint32_t>capacity
        return 0

    cdef uint32_t add_actor(self, str name) except? 0xfffffffe:
        """Index of `name`, which is added if it is not known."""
        cdef Py_ssize_t n = 0
        cdef uint32_t rank = 0
        cdef const uint8_t* data = <const uint8_t*>PyUnicode_AsUTF8AndSize(name, &n)
        cdef uint32_t i = self.find_actor(data, n, &rank)
        if i != NONE:
            if name == self.site.actor:
                self.own = i  # others may speak in a name before it is taken
            return i
        self.reserve_actors(1)
        i = self.actor_count
        memset(&self.actors[i], 0, sizeof(Actor))
        Py_INCREF(name)
        self.actors[i].name = <PyObject*>name
        self.actors[i].mark = agentnet_siphash13(0, 0, data, n)
        memmove(&self.order[rank + 1], &self.order[rank], (self.actor_count - rank) * sizeof(uint32_t))
        self.order[rank] = i
        self.actor_count += 1
        if name == self.site.actor:
            self.own = i
        return i

    cdef int reserve(self, size_t more, size_t bytes) except -1:
        """After it, `more` entries of `bytes` in all can be appended."""
        cdef size_t capacity = self.capacity
        cdef Entry* entries
        if <size_t>self.count + more > 0x7fffffff:
            raise LimitReached("state: more entries than 31 bits can count")
        if self.count + more > capacity:
            # An eighth more than is needed now: the next change should not copy all of them.
            capacity = max(self.count + more + ((self.count + more) >> 3), capacity + (capacity >> 1),
                           <size_t>ENTRIES_MIN)
            entries = <Entry*>realloc(self.entries, capacity * sizeof(Entry))
            if entries == NULL:
                raise MemoryError
            self.entries, self.capacity = entries, <uint32_t>capacity
        buffer_room(&self.bytes, bytes)
        index_reserve(&self.paths, more)
        index_reserve(&self.dots, more)
        return 0

    cdef size_t allocated(self) noexcept:
        """Bytes of memory that its arrays take."""
        cdef size_t total = self.capacity * sizeof(Entry) + self.bytes.capacity + self.scratch.capacity
        cdef uint32_t i
        total += self.actor_capacity * (sizeof(Actor) + sizeof(uint32_t))
        for i in range(self.actor_count):
            total += self.actors[i].seen.capacity * sizeof(Run)
        if self.sums.slots != NULL:
            total += (self.sums.mask + 1) * sizeof(Block)
        return total + index_size(&self.paths) + index_size(&self.dots)

    # -- changing

    cdef uint64_t mark_of(self, const Entry* entry) noexcept nogil:
        """What its dot and its content decide, on every node alike."""
        return agentnet_siphash13(self.actors[entry.actor].mark + entry.stamp, entry.number,
                                  self.bytes.data + entry.at, <size_t>entry.path_size + entry.value_size)

    cdef uint32_t append(self, const Entry* entry, const uint8_t* data) noexcept nogil:
        """One more entry, all but its links given; `data`: path and value."""
        cdef uint32_t i = self.count
        cdef Entry* made = &self.entries[i]
        cdef size_t at
        made[0] = entry[0]
        made.alive, made.prev, made.at = True, NONE, self.bytes.used
        put_raw(&self.bytes, data, <size_t>entry.path_size + entry.value_size)
        self.count += 1
        self.alive += 1
        self.actors[made.actor].alive += 1
        sums_add(&self.sums, made.actor, made.number, self.mark_of(made))
        index_put(&self.dots, self.hash_dot(made.actor, made.number), i)
        at = made.hash & self.paths.mask
        while self.paths.slots[at]:
            if self.paths.slots[at] >> 32 == made.hash:
                made.next = <uint32_t>self.paths.slots[at] - 1
                if self.entries[made.next].path_size == made.path_size and memcmp(
                        path_of(self, made.next), path_of(self, i), made.path_size) == 0:
                    self.entries[made.next].prev = i
                    self.paths.slots[at] = <uint64_t>made.hash << 32 | (i + 1)
                    return i
            at = (at + 1) & self.paths.mask
        made.next = NONE
        self.paths.slots[at] = <uint64_t>made.hash << 32 | (i + 1)
        self.paths.used += 1
        return i

    cdef void kill(self, uint32_t i) noexcept nogil:
        """The entry counts no longer; its index stays its own until `tidy`."""
        cdef Entry* entry = &self.entries[i]
        cdef uint32_t hash = self.hash_dot(entry.actor, entry.number)
        cdef size_t at = hash & self.dots.mask
        while self.dots.slots[at] != (<uint64_t>hash << 32 | (i + 1)):
            at = (at + 1) & self.dots.mask
        index_drop(&self.dots, at)
        self._unlink(entry, i)
        entry.alive = False
        self.alive -= 1
        self.actors[entry.actor].alive -= 1
        sums_drop(&self.sums, entry.actor, entry.number, self.mark_of(entry))
        self.garbage += <size_t>entry.path_size + entry.value_size

    cdef void exchange(self, Table other) noexcept:
        """All but the sites, which hash alike."""
        self.entries, other.entries = other.entries, self.entries
        self.count, other.count = other.count, self.count
        self.capacity, other.capacity = other.capacity, self.capacity
        self.alive, other.alive = other.alive, self.alive
        self.bytes, other.bytes = other.bytes, self.bytes
        self.garbage, other.garbage = other.garbage, self.garbage
        self.paths, other.paths = other.paths, self.paths
        self.dots, other.dots = other.dots, self.dots
        self.sums, other.sums = other.sums, self.sums
        self.actors, other.actors = other.actors, self.actors
        self.order, other.order = other.order, self.order
        self.actor_count, other.actor_count = other.actor_count, self.actor_count
        self.actor_capacity, other.actor_capacity = other.actor_capacity, self.actor_capacity
        self.own, other.own = other.own, self.own
        self.runs, other.runs = other.runs, self.runs

    cdef void _unlink(self, Entry* entry, uint32_t i) noexcept nogil:
        cdef size_t at
        if entry.next != NONE:
            self.entries[entry.next].prev = entry.prev
        if entry.prev != NONE:
            self.entries[entry.prev].next = entry.next
            return
        at = entry.hash & self.paths.mask
        while self.paths.slots[at] != (<uint64_t>entry.hash << 32 | (i + 1)):
            at = (at + 1) & self.paths.mask
        if entry.next == NONE:
            index_drop(&self.paths, at)
        else:
            self.paths.slots[at] = <uint64_t>entry.hash << 32 | (entry.next + 1)

    cdef bint tidy(self) noexcept nogil:
        """Make the arrays anew if most of them is dead; whether entries have other indexes now."""
        cdef uint32_t dead = self.count - self.alive
        if self.alive == 0 and self.count:
            free(self.entries)
            self.entries = NULL
            self.count = self.capacity = 0
            buffer_free(&self.bytes)
            self.garbage = 0
            sums_clear(&self.sums)
            index_free(&self.paths)
            index_free(&self.dots)
            return True
        # Without memory for it, all stays as it is.
        return dead > DEAD_MIN and dead > self.alive and self._renew()

    cdef bint _renew(self) noexcept nogil:
        cdef uint32_t i, n = 0
        cdef size_t capacity = SLOTS_MIN, used = 0, size
        cdef Entry* entries = <Entry*>malloc(self.alive * sizeof(Entry))
        cdef uint32_t* moved = <uint32_t*>malloc(self.count * sizeof(uint32_t))
        cdef uint8_t* data = <uint8_t*>malloc(max(self.bytes.used - self.garbage, <size_t>1))
        cdef Index paths, dots
        while 3 * self.alive > 2 * capacity:
            capacity *= 2
        paths.slots = <uint64_t*>calloc(capacity, sizeof(uint64_t))
        dots.slots = <uint64_t*>calloc(capacity, sizeof(uint64_t))
        paths.mask = dots.mask = capacity - 1
        paths.used = dots.used = 0
        if entries == NULL or moved == NULL or data == NULL or paths.slots == NULL or dots.slots == NULL:
            free(entries)
            free(moved)
            free(data)
            free(paths.slots)
            free(dots.slots)
            return False
        for i in range(self.count):
            if self.entries[i].alive:
                size = <size_t>self.entries[i].path_size + self.entries[i].value_size
                memcpy(data + used, self.bytes.data + self.entries[i].at, size)
                entries[n] = self.entries[i]
                entries[n].at = used
                moved[i] = n
                index_put(&dots, self.hash_dot(entries[n].actor, entries[n].number), n)
                used += size
                n += 1
        for i in range(n):
            if entries[i].next != NONE:
                entries[i].next = moved[entries[i].next]
            if entries[i].prev != NONE:
                entries[i].prev = moved[entries[i].prev]
        for used in range(self.paths.mask + 1):
            if self.paths.slots[used]:
                index_put(&paths, <uint32_t>(self.paths.slots[used] >> 32),
                          moved[<uint32_t>self.paths.slots[used] - 1])
        free(moved)
        self._take(entries, n, data, &paths, &dots)
        return True

    cdef void _take(self, Entry* entries, uint32_t count, uint8_t* data, Index* paths,
                    Index* dots) noexcept nogil:
        free(self.entries)
        free(self.paths.slots)
        free(self.dots.slots)
        free(self.bytes.data)
        self.bytes.capacity = max(self.bytes.used - self.garbage, <size_t>1)
        self.bytes.used -= self.garbage
        self.bytes.data, self.garbage = data, 0
        self.entries, self.count, self.capacity = entries, count, count
        self.paths, self.dots = paths[0], dots[0]
