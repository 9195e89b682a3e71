"""A state, or any part of it, as bytes, and its way into another table.

The form is `[version, code, [actor, ...], [[gap, length, ...], ...], [[gap, length, ...], ...], [part,
...]]`, shortest MessagePack.  The actors are in order of name; for each come the runs of the dots that the
sender has seen, then of those whose entries still live.  Last come these entries, in order of actor and
number, each as far as its type has it: path, value, and what its stamp is more than that of the
entry before.  Equal states are equal bytes, and a change has the same form as a whole state.

To merge: what the table has not seen is added; an entry of the table goes if the sender has seen it and
has it no longer; what has been seen grows to both.  So any order and any repetition end in the same.

In: any bytes.  They are read within the site's limits and judged in full before the first change; then
nothing can fail.  ProtocolError: malformed. LimitReached: too large, or would be. NotOwner, Contradiction,
FromFuture: as their names say. After each of them the table is as it was.
"""

from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free, malloc, qsort
from libc.string cimport memcmp, memset

from agentnet_core.crdt.passage cimport read_passage, read_passage_key
from agentnet_core.crdt.table cimport (
    ANY, KEYED, MAP, NONE, PAIR, STAMPED, TEXT, Actor, Entry, bytes_alive, path_of,
)
from agentnet_core.dots cimport (
    CausalContext, Seen, put_runs, read_actor, read_runs, runs_free, runs_hold, runs_hold_all, runs_join,
    runs_total,
)
from agentnet_core.framing cimport Cursor, read_array, read_int, read_str, read_uint
from agentnet_core.packing cimport (
    KEY_DEPTH_MAX, VALUE_DEPTH_MAX, Buffer, buffer_bytes, buffer_room, is_utf8, put_array, put_int, put_raw,
    put_str, put_uint, read_key, read_value,
)

from agentnet_core.config import ACTOR_BYTES_MAX
from agentnet_core.errors import Contradiction, FromFuture, LimitReached, NotOwner, ProtocolError
from agentnet_core.records import describe

cdef enum:
    VERSION = 1
    MAPS_DEEP_MAX = 8
    SCRATCH_BYTES_KEPT = 4096
    STAMP_BITS = 62

cdef uint32_t actor_bytes_max = ACTOR_BYTES_MAX


# -- out

cdef struct Pick:
    uint64_t number
    uint32_t entry


cdef int by_number(const void* one, const void* other) noexcept nogil:
    cdef uint64_t a = (<const Pick*>one).number, b = (<const Pick*>other).number
    return (a > b) - (a < b)


cdef bytes encode(Table table, int code, Runs* wanted):
    """All of the table; or, given the runs of each actor's dots, what it knows of these alone."""
    cdef uint32_t n = table.actor_count
    cdef Pick* picks = <Pick*>malloc((table.alive + 1) * sizeof(Pick))
    cdef uint32_t* ends = <uint32_t*>malloc((<size_t>n + 1) * sizeof(uint32_t))
    try:
        if picks == NULL or ends == NULL:
            raise MemoryError
        if wanted == NULL:
            pick_all(table, picks, ends)
        else:
            pick_some(table, wanted, picks, ends)
        return write(table, code, wanted, picks, ends)
    finally:
        free(picks)
        free(ends)
        if table.scratch.capacity > SCRATCH_BYTES_KEPT:
            free(table.scratch.data)
            memset(&table.scratch, 0, sizeof(Buffer))


cdef void pick_all(Table table, Pick* picks, uint32_t* ends) noexcept nogil:
    """Entries by rank of actor, then number; those of the r-th actor end at ends[r]."""
    cdef uint32_t r, i, end = 0
    cdef Actor* actor
    # First where each actor's begin, by index; entries came in nearly the order that is wanted.
    for r in range(table.actor_count):
        ends[table.order[r]] = end
        end += table.actors[table.order[r]].alive
    for i in range(table.count):
        if table.entries[i].alive:
            end = ends[table.entries[i].actor]
            picks[end].number, picks[end].entry = table.entries[i].number, i
            ends[table.entries[i].actor] = end + 1
    end = 0
    for r in range(table.actor_count):
        actor = &table.actors[table.order[r]]
        sort_picks(picks + end, actor.alive)
        end += actor.alive
    end = 0
    for r in range(table.actor_count):
        end += table.actors[table.order[r]].alive
        ends[r] = end


cdef void sort_picks(Pick* picks, size_t n) noexcept nogil:
    cdef size_t i
    for i in range(1, n):
        if picks[i].number < picks[i - 1].number:
            qsort(picks, n, sizeof(Pick), by_number)
            return


cdef void pick_some(Table table, const Runs* wanted, Pick* picks, uint32_t* ends) noexcept nogil:
    cdef uint32_t r, a, k, i, end = 0, start
    cdef uint64_t number
    for r in range(table.actor_count):
        a, start = table.order[r], end
        if table.actors[a].alive and runs_total(&wanted[a]) <= table.alive:
            for k in range(wanted[a].count):
                for number in range(wanted[a].items[k].first, wanted[a].items[k].last + 1):
                    i = table.find_dot(a, number)
                    if i != NONE:
                        picks[end].number, picks[end].entry = number, i
                        end += 1
        elif table.actors[a].alive:
            for i in range(table.count):
                if table.entries[i].alive and table.entries[i].actor == a and (
                        runs_hold(&wanted[a], table.entries[i].number)):
                    picks[end].number, picks[end].entry = table.entries[i].number, i
                    end += 1
            sort_picks(picks + start, end - start)
        ends[r] = end


cdef int put_live(Buffer* b, const Pick* picks, uint32_t n) except -1:
    """The numbers of the picks as runs."""
    cdef uint32_t i, count = 0
    cdef uint64_t end = 0, first
    for i in range(n):
        count += i == 0 or picks[i].number != picks[i - 1].number + 1
    buffer_room(b, 5 + <size_t>count * 18)
    put_array(b, 2 * count)
    i = 0
    while i < n:
        first = picks[i].number
        put_uint(b, first - end - 1)
        end = first
        i += 1
        while i < n and picks[i].number == end + 1:
            end += 1
            i += 1
        put_uint(b, end - first + 1)
    return 0


cdef bytes write(Table table, int code, Runs* wanted, const Pick* picks, const uint32_t* ends):
    cdef Buffer* b = &table.scratch
    cdef uint32_t n = 0, r, i, a, start = 0, total = ends[table.actor_count - 1] if table.actor_count else 0
    cdef const Runs* seen
    cdef Entry* entry
    cdef uint64_t stamp = 0
    cdef size_t values = 0, size = 0
    for r in range(table.actor_count):
        a = table.order[r]
        n += (table.actors[a].seen.count if wanted == NULL else wanted[a].count) > 0
    b.used = 0
    buffer_room(b, 32)
    put_array(b, 6)
    put_uint(b, VERSION)
    put_uint(b, code)
    put_array(b, n)
    for r in range(table.actor_count):
        a = table.order[r]
        if (table.actors[a].seen.count if wanted == NULL else wanted[a].count) > 0:
            put_str(b, <str>table.actors[a].name)
    buffer_room(b, 5)
    put_array(b, n)
    for r in range(table.actor_count):
        seen = &table.actors[table.order[r]].seen if wanted == NULL else &wanted[table.order[r]]
        if seen.count:
            put_runs(b, seen)
    buffer_room(b, 5)
    put_array(b, n)
    for r in range(table.actor_count):
        seen = &table.actors[table.order[r]].seen if wanted == NULL else &wanted[table.order[r]]
        if seen.count:
            put_live(b, picks + start, ends[r] - start)
        start = ends[r]
    for i in range(total):
        entry = &table.entries[picks[i].entry]
        values += entry.parts
        size += <size_t>entry.path_size + entry.value_size
    buffer_room(b, 5 + size + <size_t>total * 9)
    put_array(b, <uint32_t>values)
    for i in range(total):
        entry = &table.entries[picks[i].entry]
        put_raw(b, table.bytes.data + entry.at, <size_t>entry.path_size + entry.value_size)
        if entry.stamp:
            put_int(b, <int64_t>(entry.stamp - stamp))
            stamp = entry.stamp
    return buffer_bytes(b)


# -- in

def seen_in(const uint8_t[::1] data not None, *, uint32_t actors_max, size_t runs_max):
    """The dots that a form speaks of, alive or not, or None if it is none; its entries are not read."""
    cdef CausalContext context = CausalContext()
    cdef list names = []
    cdef Cursor c
    cdef uint32_t n = 0, _i
    cdef uint64_t number = 0
    cdef str actor
    cdef Seen seen
    c.at = &data[0] if data.shape[0] else NULL
    c.end = c.at + data.shape[0]
    if not read_array(&c, &n) or n != 6 or not read_uint(&c, &number) or not read_uint(&c, &number) or (
            not read_array(&c, &n) or n > actors_max):
        return None
    for _i in range(n):
        actor = read_actor(&c)
        if actor is None or (names and actor <= names[len(names) - 1]):
            return None
        names.append(actor)
    if not read_array(&c, &n) or n != <uint32_t>len(names):
        return None
    for actor in names:
        seen = context.of(actor)
        if not read_runs(&c, &seen.runs, &runs_max) or not seen.runs.count:
            return None
    return context


cdef bint read_path(Cursor* c, int* code, uint8_t* parts) noexcept nogil:
    """Pass over the path of an entry in a state of type `code`, which becomes that of the entry itself."""
    cdef int deep = 0
    while code[0] == MAP:
        deep += 1
        if deep > MAPS_DEEP_MAX or not read_key(c, KEY_DEPTH_MAX) or c.at >= c.end or c.at[0] > MAP:
            return False
        code[0] = c.at[0]
        c.at += 1
        parts[0] += 2
    if code[0] & KEYED:
        parts[0] += 1
        return read_passage_key(c) if code[0] == TEXT else read_key(c, KEY_DEPTH_MAX)
    return True


cdef bint read_content(Cursor* c, int code, uint8_t* parts) noexcept nogil:
    cdef uint32_t n = 2
    cdef uint64_t number = 0
    if code & ANY == 0:
        return True
    parts[0] += 1
    if code == TEXT:
        return read_passage(c)
    if code & ANY == ANY:
        return read_value(c, VALUE_DEPTH_MAX)
    if code & ANY == PAIR and (not read_array(c, &n) or n != 2 or not read_uint(c, &number) or number >> 62):
        return False
    return read_uint(c, &number) and number >> 62 == 0


cdef class Incoming:
    """One message: first parsed, then judged against the table, then carried out."""

    def __dealloc__(self):
        cdef uint32_t i
        if self.parts != NULL:
            for i in range(self.part_count):
                runs_free(&self.parts[i].seen)
                runs_free(&self.parts[i].live)
                runs_free(&self.parts[i].joint)
        free(self.parts)
        free(self.items)
        free(self.doomed)

    cdef int parse(self, const uint8_t* data, size_t size) except -1:
        cdef Cursor c
        cdef uint32_t n = 0, values = 0
        cdef uint64_t version = 0, code = 0, total
        c.at, c.end = data, data + size
        if not read_array(&c, &n) or n != 6 or not read_uint(&c, &version) or not read_uint(&c, &code):
            raise malformed("its head", &c, data)
        if version != VERSION or code != <uint64_t>self.code:
            raise ProtocolError(f"state: version {version} of type {code}: expected {VERSION} of type "
                                f"{self.code}")
        self._parse_actors(&c, data)
        total = self._parse_runs(&c, data)
        if not read_array(&c, &values):
            raise malformed("its entries", &c, data)
        # An entry without path and value takes no bytes, so that bytes do not bound how many there are.
        if total > self.part_count and total > values:
            raise ProtocolError(f"state: {total} live dots, but {values} values: expected at least one for "
                                "each")
        if total > self.table.site.elements_max:
            raise LimitReached(f"state of {total} elements: expected at most "
                               f"state_elements_max={self.table.site.elements_max}")
        self.items = <Item*>malloc((total + 1) * sizeof(Item))
        if self.items == NULL:
            raise MemoryError
        self._parse_items(&c, data, values)
        return 0

    cdef int _parse_actors(self, Cursor* c, const uint8_t* data) except -1:
        cdef uint32_t n = 0, i, size = 0
        cdef int order
        if not read_array(c, &n):
            raise malformed("its actors", c, data)
        if n > self.table.site.actors_max:
            raise LimitReached(f"state of {n} actors: expected at most "
                               f"state_actors_max={self.table.site.actors_max}")
        self.parts = <Part*>calloc(<size_t>n + 1, sizeof(Part))
        if self.parts == NULL:
            raise MemoryError
        for i in range(n):
            self.part_count = i + 1
            if not read_str(c, &self.parts[i].name, &size) or not 0 < size <= actor_bytes_max or (
                    not is_utf8(self.parts[i].name, size)):
                raise malformed("an actor", c, data)
            self.parts[i].name_size = size
            if i:
                order = memcmp(self.parts[i - 1].name, self.parts[i].name,
                               min(self.parts[i - 1].name_size, size))
                if order > 0 or (order == 0 and self.parts[i - 1].name_size >= size):
                    raise malformed("the order of its actors", c, data)
        return 0

    cdef uint64_t _parse_runs(self, Cursor* c, const uint8_t* data) except? 0xfffffffffffffffe:
        """How many live dots there are."""
        cdef uint32_t n = 0, i
        cdef uint64_t total = 0
        cdef size_t room = self.table.site.runs_max
        if not read_array(c, &n) or n != self.part_count:
            raise malformed("its dots", c, data)
        for i in range(n):
            if not read_runs(c, &self.parts[i].seen, &room) or not self.parts[i].seen.count:
                raise malformed("its dots, or their number,", c, data)
        if not read_array(c, &n) or n != self.part_count:
            raise malformed("its live dots", c, data)
        # Each run of live dots has an entry, so these are bound by the elements.
        room = self.table.site.elements_max
        for i in range(n):
            if not read_runs(c, &self.parts[i].live, &room) or (
                    not runs_hold_all(&self.parts[i].seen, &self.parts[i].live)):
                raise malformed("its live dots, or their number,", c, data)
            total += runs_total(&self.parts[i].live)
        return total

    cdef int _parse_items(self, Cursor* c, const uint8_t* data, uint32_t values) except -1:
        cdef uint32_t p, k
        cdef uint64_t number, stamp = 0, read = 0
        cdef int64_t step = 0
        cdef int code
        cdef Item* item
        cdef const uint8_t* content
        for p in range(self.part_count):
            for k in range(self.parts[p].live.count):
                for number in range(self.parts[p].live.items[k].first, self.parts[p].live.items[k].last + 1):
                    item = &self.items[self.item_count]
                    code = self.code
                    item.path, item.number, item.part, item.parts, item.stamp = c.at, number, p, 0, 0
                    if not read_path(c, &code, &item.parts):
                        raise malformed("a key", c, data)
                    content = c.at
                    if not read_content(c, code, &item.parts):
                        raise malformed("a value", c, data)
                    self._check_sizes(content - item.path, c.at - content)
                    item.path_size = <uint32_t>(content - item.path)
                    item.value_size = <uint32_t>(c.at - content)
                    if code & STAMPED:
                        item.parts += 1
                        if not read_int(c, &step) or stamp + <uint64_t>step == 0 or (
                                stamp + <uint64_t>step) >> STAMP_BITS:
                            raise malformed("a stamp", c, data)
                        stamp += <uint64_t>step
                        item.stamp = stamp
                    read += item.parts
                    item.hash = self.table.hash_path(item.path, item.path_size)
                    self.item_count += 1
        if read != values or c.at != c.end:
            raise malformed("how many values it has, or its end,", c, data)
        return 0

    cdef int _check_sizes(self, size_t path, size_t value) except -1:
        cdef size_t path_max = self.table.site.key_bytes_max, value_max = self.table.site.value_bytes_max
        if path > path_max:
            raise LimitReached(f"state: a key of {path} bytes: expected at most "
                               f"state_key_bytes_max={path_max}")
        if value > value_max:
            raise LimitReached(f"state: a value of {value} bytes: expected at most "
                               f"state_value_bytes_max={value_max}")
        return 0

    # -- against the table

    cdef int judge(self, str author, uint64_t stamp_max, bint own) except -1:
        """All that speaks against it. `own`: it may hold dots of the own actor that were not seen here."""
        cdef Table table = self.table
        cdef uint32_t i, rank = 0
        cdef Part* part
        cdef Item* item
        for i in range(self.part_count):
            part = &self.parts[i]
            part.index = table.find_actor(part.name, part.name_size, &rank)
            if author is not None and part.live.count and not is_of(name_of(part), author):
                raise NotOwner(f"state: events of {describe(name_of(part))}: expected those of its origin, "
                               f"{author}, alone")
            part.grows = part.index == NONE or not runs_hold_all(&table.actors[part.index].seen, &part.seen)
            if part.grows and not own and table.site.actor is not None and name_of(part) == table.site.actor:
                raise Contradiction(f"state: events of {table.site.actor} that this node never made: another "
                                    "process uses its name, or somebody lies", actor=table.site.actor)
        for i in range(self.item_count):
            item = &self.items[i]
            part = &self.parts[item.part]
            item.fresh = part.index == NONE or not runs_hold(&table.actors[part.index].seen, item.number)
            if item.fresh and item.stamp > stamp_max:
                raise FromFuture(f"state: stamp {item.stamp}: expected at most {stamp_max}; see to the "
                                 "clocks of both nodes")
            if item.fresh:
                self.fresh += 1
                self.fresh_bytes += <size_t>item.path_size + item.value_size
            else:
                self._compare(part, item)
        self._find_doomed()
        self._check_room()
        return 0

    cdef int _compare(self, Part* part, Item* item) except -1:
        """One dot has one content, for ever."""
        cdef uint32_t i = self.table.find_dot(part.index, item.number)
        cdef Entry* entry
        if i == NONE:
            return 0
        entry = &self.table.entries[i]
        if entry.path_size != item.path_size or entry.value_size != item.value_size or (
                entry.stamp != item.stamp) or memcmp(
                path_of(self.table, i), item.path, <size_t>item.path_size + item.value_size) != 0:
            raise Contradiction(f"state: event {item.number} of {describe(name_of(part))} has two contents: "
                                "two processes use that name, or somebody lies", actor=name_of(part))
        return 0

    cdef int _find_doomed(self) except -1:
        """Entries whose dots the message has seen and has not alive."""
        cdef Table table = self.table
        cdef uint32_t p, k, i
        cdef uint64_t number, looks = 0, total
        cdef Part* part
        for p in range(self.part_count):
            part = &self.parts[p]
            if part.index != NONE and table.actors[part.index].alive:
                total = runs_total(&part.seen)
                looks += min(total, <uint64_t>table.count)
        if looks == 0:
            return 0
        self.doomed = <uint32_t*>malloc(min(looks, <uint64_t>table.alive) * sizeof(uint32_t))
        if self.doomed == NULL:
            raise MemoryError
        if looks >= table.count:
            return self._find_by_entry()
        for p in range(self.part_count):
            part = &self.parts[p]
            if part.index == NONE or not table.actors[part.index].alive:
                continue
            for k in range(part.seen.count):
                for number in range(part.seen.items[k].first, part.seen.items[k].last + 1):
                    if not runs_hold(&part.live, number):
                        i = table.find_dot(part.index, number)
                        if i != NONE:
                            self._doom(i)
        return 0

    cdef int _find_by_entry(self) except -1:
        cdef Table table = self.table
        cdef uint32_t i, p
        cdef Part* part
        cdef uint32_t* part_of = <uint32_t*>malloc(table.actor_count * sizeof(uint32_t))
        if part_of == NULL:
            raise MemoryError
        memset(part_of, 0xff, table.actor_count * sizeof(uint32_t))
        for p in range(self.part_count):
            if self.parts[p].index != NONE:
                part_of[self.parts[p].index] = p
        for i in range(table.count):
            if table.entries[i].alive and part_of[table.entries[i].actor] != NONE:
                part = &self.parts[part_of[table.entries[i].actor]]
                if runs_hold(&part.seen, table.entries[i].number) and (
                        not runs_hold(&part.live, table.entries[i].number)):
                    self._doom(i)
        free(part_of)
        return 0

    cdef void _doom(self, uint32_t i) noexcept nogil:
        self.doomed[self.doomed_count] = i
        self.doomed_count += 1
        self.doomed_bytes += <size_t>self.table.entries[i].path_size + self.table.entries[i].value_size

    cdef int _check_room(self) except -1:
        """The limits after the change; and room for it, so that nothing can fail then."""
        cdef Table table = self.table
        cdef size_t elements = <size_t>table.alive + self.fresh - self.doomed_count
        cdef size_t size = bytes_alive(table) + self.fresh_bytes - self.doomed_bytes
        cdef size_t actors = table.actor_count, runs = table.runs
        cdef uint32_t p
        cdef Part* part
        for p in range(self.part_count):
            part = &self.parts[p]
            if not part.grows:
                continue
            if part.index == NONE:
                actors += 1
                runs += part.seen.count
            else:
                runs_join(&part.joint, &table.actors[part.index].seen, &part.seen)
                runs += part.joint.count
                runs -= table.actors[part.index].seen.count
        # What was over a limit before may always shrink.
        if elements > table.site.elements_max and elements > table.alive:
            raise over("elements", elements, table.site.elements_max)
        if size > table.site.bytes_max and size > bytes_alive(table):
            raise over("bytes", size, table.site.bytes_max)
        if actors > table.site.actors_max and actors > table.actor_count:
            raise over("actors", actors, table.site.actors_max)
        if runs > table.site.runs_max and runs > table.runs:
            raise over("runs", runs, table.site.runs_max)
        table.reserve_actors(actors - table.actor_count)
        if self.fresh:
            table.reserve(self.fresh, self.fresh_bytes)
        return 0

    cdef bint commit(self) except -1:
        """Whether the table changed."""
        cdef Table table = self.table
        cdef uint32_t i
        cdef bint changed = self.fresh > 0 or self.doomed_count > 0
        cdef Part* part
        cdef Item* item
        cdef Entry entry
        cdef list names = None
        for i in range(self.part_count):
            if self.parts[i].index == NONE:
                # All at once and before the first change: nothing can fail after that.
                names = [name_of(&self.parts[k]) for k in range(self.part_count)]
                break
        for i in range(self.part_count):
            part = &self.parts[i]
            if not part.grows:
                continue
            changed = True
            if part.index == NONE:
                part.index = table.add_actor(names[i])
                part.joint, part.seen = part.seen, part.joint
            table.runs += part.joint.count
            table.runs -= table.actors[part.index].seen.count
            part.joint, table.actors[part.index].seen = table.actors[part.index].seen, part.joint
        for i in range(self.doomed_count):
            table.kill(self.doomed[i])
        for i in range(self.item_count):
            item = &self.items[i]
            if item.fresh:
                entry.number, entry.stamp, entry.hash = item.number, item.stamp, item.hash
                entry.path_size, entry.value_size, entry.parts = item.path_size, item.value_size, item.parts
                entry.actor = self.parts[item.part].index
                table.append(&entry, item.path)
        if self.doomed_count:
            table.tidy()
        return changed


cdef str name_of(const Part* part):
    """Its name, which needs no memory from here on."""
    cdef Py_ssize_t n = 0
    cdef str name = PyUnicode_DecodeUTF8(<const char*>part.name, part.name_size, NULL)
    PyUnicode_AsUTF8AndSize(name, &n)
    return name


cdef bint is_of(str actor, str author) except -1:
    """Whether the actor is that one, or one life of the node of that name."""
    return actor == author or actor.startswith(author + ":")


cdef object malformed(str what, Cursor* c, const uint8_t* start):
    return ProtocolError(f"state: {what} malformed or out of order near byte {c.at - start}")


cdef object over(str what, size_t found, size_t most):
    return LimitReached(f"state of {found} {what}: expected at most state_{what}_max={most}")


cdef bint merge(Table table, int code, const uint8_t* data, size_t size, str author, uint64_t stamp_max,
                bint own) except -1:
    """Take what `data` knows; whether anything changed."""
    cdef Incoming message = Incoming.__new__(Incoming)
    message.table, message.code = table, code
    message.parse(data, size)
    message.judge(author, stamp_max, own)
    return message.commit()
