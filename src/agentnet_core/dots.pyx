"""Dots, and sets of them: which events of which actors have been seen.

A dot is one event: the actor that made it and its number there, counted from 1.  A set of numbers is
kept as its runs, so what came in order costs one pair for each actor, and a gap one pair more; no
number between two runs is ever covered by them.  The form is `{actor: [gap, length, gap, length, ...]}`,
actors in order, shortest MessagePack: equal sets are equal bytes.

In: dots, and the forms of peers. Fails with ProtocolError when a form is malformed or over a limit
that the caller names; then nothing has been taken of it.
"""

from typing import NamedTuple

from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdlib cimport free, realloc
from libc.string cimport memmove

from agentnet_core.framing cimport read_array, read_map, read_str, read_uint
from agentnet_core.packing cimport (
    buffer_bytes, buffer_free, buffer_room, is_utf8, put_array, put_map, put_str, put_uint,
)

from agentnet_core.config import ACTOR_BYTES_MAX, VERSION_MAX
from agentnet_core.errors import ProtocolError, UsageError
from agentnet_core.records import describe

cdef enum:
    RUNS_MIN = 1

cdef uint64_t number_max = VERSION_MAX      # the config's, for C
cdef uint32_t actor_bytes_max = ACTOR_BYTES_MAX


class Dot(NamedTuple):
    """One event: the `number`-th of `actor`."""

    actor: str
    number: int


# -- sets of numbers

cdef int runs_reserve(Runs* runs, size_t count) except -1:
    cdef Run* items
    cdef size_t capacity
    if count <= runs.capacity:
        return 0
    capacity = runs.capacity * 2 if runs.capacity else RUNS_MIN
    if capacity < count:
        capacity = count
    items = <Run*>realloc(runs.items, capacity * sizeof(Run))
    if items == NULL:
        raise MemoryError
    runs.items, runs.capacity = items, <uint32_t>capacity
    return 0


cdef int runs_add(Runs* runs, uint64_t first, uint64_t last) except -1:
    """All from `first` to `last`, at least 1; runs that it touches become one."""
    cdef uint32_t at, end
    if runs.count and first == runs.items[runs.count - 1].last + 1:
        runs.items[runs.count - 1].last = last
        return 0
    at = runs_after(runs, first - 1)
    end = at
    while end < runs.count and runs.items[end].first <= last + 1:
        end += 1
    if end == at:
        runs_reserve(runs, <size_t>runs.count + 1)
        memmove(&runs.items[at + 1], &runs.items[at], (runs.count - at) * sizeof(Run))
        runs.items[at].first, runs.items[at].last = first, last
        runs.count += 1
        return 0
    runs.items[at].first = min(first, runs.items[at].first)
    runs.items[at].last = max(last, runs.items[end - 1].last)
    memmove(&runs.items[at + 1], &runs.items[end], (runs.count - end) * sizeof(Run))
    runs.count -= end - at - 1
    return 0


cdef int runs_join(Runs* into, const Runs* one, const Runs* other) except -1:
    """`into`, empty before, becomes what is in either."""
    cdef uint32_t i = 0, k = 0
    cdef const Run* run
    runs_reserve(into, <size_t>one.count + other.count)
    while i < one.count or k < other.count:
        if k == other.count or (i < one.count and one.items[i].first <= other.items[k].first):
            run = &one.items[i]
            i += 1
        else:
            run = &other.items[k]
            k += 1
        if into.count and run.first <= into.items[into.count - 1].last + 1:
            into.items[into.count - 1].last = max(run.last, into.items[into.count - 1].last)
        else:
            into.items[into.count] = run[0]
            into.count += 1
    return 0


cdef int runs_subtract(Runs* into, const Runs* one, const Runs* other) except -1:
    """`into`, empty before, becomes what is in `one` and not in `other`."""
    cdef uint32_t i, k = 0
    cdef uint64_t first
    runs_reserve(into, <size_t>one.count + other.count)
    for i in range(one.count):
        first = one.items[i].first
        while k < other.count and other.items[k].last < first:
            k += 1
        while k < other.count and other.items[k].first <= one.items[i].last:
            if other.items[k].first > first:
                into.items[into.count].first, into.items[into.count].last = first, other.items[k].first - 1
                into.count += 1
            first = other.items[k].last + 1
            if first > one.items[i].last:
                break
            k += 1
        if first <= one.items[i].last:
            into.items[into.count].first, into.items[into.count].last = first, one.items[i].last
            into.count += 1
    return 0


cdef bint runs_hold_all(const Runs* runs, const Runs* others) noexcept nogil:
    cdef uint32_t i, at
    for i in range(others.count):
        at = runs_after(runs, others.items[i].first)
        if at == runs.count or runs.items[at].first > others.items[i].first or (
                runs.items[at].last < others.items[i].last):
            return False
    return True


cdef bint runs_equal(const Runs* one, const Runs* other) noexcept nogil:
    cdef uint32_t i
    if one.count != other.count:
        return False
    for i in range(one.count):
        if one.items[i].first != other.items[i].first or one.items[i].last != other.items[i].last:
            return False
    return True


cdef uint64_t runs_total(const Runs* runs) noexcept nogil:
    """How many numbers; no overflow, as they lie below 2^53 and do not overlap."""
    cdef uint64_t total = 0
    cdef uint32_t i
    for i in range(runs.count):
        total += runs.items[i].last - runs.items[i].first + 1
    return total


cdef void runs_free(Runs* runs) noexcept nogil:
    free(runs.items)
    runs.items = NULL
    runs.count = runs.capacity = 0


cdef int put_runs(Buffer* b, const Runs* runs) except -1:
    """Before each run, how many numbers are missing."""
    cdef uint64_t end = 0
    cdef uint32_t i
    buffer_room(b, 5 + <size_t>runs.count * 18)
    put_array(b, 2 * runs.count)
    for i in range(runs.count):
        put_uint(b, runs.items[i].first - end - 1)
        put_uint(b, runs.items[i].last - runs.items[i].first + 1)
        end = runs.items[i].last
    return 0


cdef bint read_runs(Cursor* c, Runs* runs, size_t* room) except -1:
    """Into `runs`, empty before; False if malformed, or of more runs than `room`, which shrinks by them."""
    cdef uint32_t n = 0, i
    cdef uint64_t gap = 0, length = 0, end = 0
    if not read_array(c, &n) or n & 1 or n >> 1 > room[0]:
        return False
    room[0] -= n >> 1
    runs_reserve(runs, n >> 1)
    for i in range(n >> 1):
        if not read_uint(c, &gap) or not read_uint(c, &length) or (gap == 0 and i > 0) or length == 0:
            return False
        if gap > number_max or length > number_max or end + gap + length > number_max:
            return False
        runs.items[i].first = end + gap + 1
        runs.items[i].last = end = end + gap + length
        runs.count += 1
    return True


# -- sets of dots

cdef class Seen:
    def __dealloc__(self):
        runs_free(&self.runs)


cdef class CausalContext:
    """A set of dots.

    >>> seen = CausalContext({"a": 2})
    >>> seen.add(Dot("a", 4))
    >>> Dot("a", 3) in seen, seen.clock(), seen.gaps
    (False, {'a': 2}, 1)
    """

    def __init__(self, clock=()):
        """All up to the number that `clock`, a mapping, has for each actor."""
        self.actors = {}
        for actor, number in dict(clock).items():
            if number:
                self.add_run(actor, 1, number)

    cdef Seen of(self, str actor):
        cdef Seen seen = self.actors.get(actor)
        if seen is None:
            seen = self.actors[actor] = Seen.__new__(Seen)
        return seen

    def add(self, dot):
        """One dot, an (actor, number)."""
        actor, number = dot
        self.add_run(actor, number, number)

    def add_run(self, str actor not None, first, last):
        """The dots of `actor` from number `first` to `last`."""
        if not 1 <= first <= last <= number_max:
            raise UsageError(f"dots {describe(first)} to {describe(last)} of {actor}: expected numbers from "
                             f"1 to {number_max} in order")
        check_actor(actor)
        runs_add(&self.of(actor).runs, first, last)

    def merge(self, CausalContext other not None):
        """All that `other` holds as well."""
        cdef Seen seen, theirs
        cdef Runs joint
        for actor, found in other.actors.items():
            seen, theirs = self.of(actor), found
            joint.items, joint.count, joint.capacity = NULL, 0, 0
            runs_join(&joint, &seen.runs, &theirs.runs)
            runs_free(&seen.runs)
            seen.runs = joint

    def minus(self, CausalContext other not None):
        """What is in this and not in `other`."""
        cdef CausalContext rest = CausalContext()
        cdef Seen seen, theirs, left, nothing = Seen.__new__(Seen)
        for actor, found in self.actors.items():
            seen, theirs, left = found, other.actors.get(actor, nothing), Seen.__new__(Seen)
            runs_subtract(&left.runs, &seen.runs, &theirs.runs)
            if left.runs.count:
                rest.actors[actor] = left
        return rest

    def covers(self, CausalContext other not None):
        """Whether all of `other` is in this."""
        cdef Seen seen, theirs
        for actor, found in other.actors.items():
            seen, theirs = self.actors.get(actor), found
            if seen is None or not runs_hold_all(&seen.runs, &theirs.runs):
                return False
        return True

    def clock(self):
        """By actor, the number up to which all of its dots are here."""
        cdef Seen seen
        found = {}
        for actor in sorted(self.actors):
            seen = self.actors[actor]
            if seen.runs.items[0].first == 1:
                found[actor] = seen.runs.items[0].last
        return found

    def runs(self, str actor not None):
        """The runs of `actor` as (first, last), in order."""
        cdef Seen seen = self.actors.get(actor)
        cdef uint32_t i
        if seen is None:
            return []
        return [(seen.runs.items[i].first, seen.runs.items[i].last) for i in range(seen.runs.count)]

    @property
    def gaps(self):
        """How many runs do not begin at 1."""
        cdef Seen seen
        total = 0
        for found in self.actors.values():
            seen = found
            total += seen.runs.count - (seen.runs.items[0].first == 1)
        return total

    def __contains__(self, dot):
        cdef Seen seen
        actor, number = dot
        seen = self.actors.get(actor)
        return seen is not None and 0 < number <= number_max and runs_hold(&seen.runs, number)

    def __iter__(self):
        """The actors, in order."""
        return iter(sorted(self.actors))

    def __len__(self):
        """How many dots."""
        cdef Seen seen
        total = 0
        for found in self.actors.values():
            seen = found
            total += runs_total(&seen.runs)
        return total

    def __bool__(self):
        return bool(self.actors)

    def __eq__(self, other):
        return isinstance(other, CausalContext) and self.covers(other) and other.covers(self)

    __hash__ = None

    def __repr__(self):
        return f"CausalContext({ {actor: self.runs(actor) for actor in self} })"

    def encode(self):
        """The form, as bytes."""
        cdef Buffer b
        cdef Seen seen
        b.data, b.used, b.capacity = NULL, 0, 0
        try:
            buffer_room(&b, 5)
            put_map(&b, <uint32_t>len(self.actors))
            for actor in sorted(self.actors):
                seen = self.actors[actor]
                put_str(&b, actor)
                put_runs(&b, &seen.runs)
            return buffer_bytes(&b)
        finally:
            buffer_free(&b)

    @staticmethod
    def decode(const uint8_t[::1] data, *, uint32_t actors_max, size_t runs_max):
        """The set whose form `data` is; ProtocolError if it is none, or over a limit."""
        cdef CausalContext context = CausalContext()
        cdef Cursor c
        cdef Seen seen
        cdef uint32_t n = 0
        cdef str last = None, actor
        if data.shape[0]:
            c.at, c.end = &data[0], &data[0] + data.shape[0]
            if read_map(&c, &n) and n <= actors_max:
                while n:
                    n -= 1
                    actor = read_actor(&c)
                    if actor is None or (last is not None and actor <= last):
                        break
                    last, seen = actor, context.of(actor)
                    if not read_runs(&c, &seen.runs, &runs_max) or not seen.runs.count:
                        break
                else:
                    if c.at == c.end:
                        return context
        raise ProtocolError(f"context: malformed, out of order, or of more than {actors_max} actors or too "
                            "many runs")


cdef str read_actor(Cursor* c):
    """The name that is next, or None."""
    cdef const uint8_t* data = NULL
    cdef uint32_t n = 0
    if not read_str(c, &data, &n) or not 0 < n <= actor_bytes_max or not is_utf8(data, n):
        return None
    return PyUnicode_DecodeUTF8(<char*>data, n, NULL)


cdef int check_actor(str actor) except -1:
    """UsageError if no state could hold it."""
    try:
        size = len(actor.encode())
    except UnicodeEncodeError:
        size = 0
    if not 0 < size <= actor_bytes_max:
        raise UsageError(f"actor {describe(actor)}: expected 1 to {actor_bytes_max} bytes of UTF-8")
    return 0
