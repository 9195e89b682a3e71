"""Clocks: who has seen what, and when things were, as far as clocks can tell.

`VectorClock` is a number by actor.  Of two, one is before the other if it has nothing that the other
lacks; if each has something, they are concurrent.  It grows by `increment`, of the own actor alone, and
by `merge`.  In and out it is a mapping of str to int; on the wire a MessagePack map in order of names,
shortest form.  Names are interned, so that clocks which know the same actors compare by pointers.

`HybridClock` makes stamps that rise on one node and follow what it has seen of others: milliseconds
since the epoch, shifted left by 16, and a count.  It reads no clock, time is an argument.  A stamp that
lies too far ahead is refused with FromFuture, so that a clock that is wrong does not take others along.
"""

from collections.abc import Mapping
from enum import IntEnum

from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.string cimport memmove

from agentnet_core.dots cimport CausalContext, check_actor, read_actor
from agentnet_core.framing cimport Cursor, read_map, read_uint
from agentnet_core.packing cimport Buffer, buffer_bytes, buffer_free, buffer_room, put_map, put_str, put_uint

from agentnet_core.config import VERSION_MAX
from agentnet_core.errors import FromFuture, ProtocolError, UsageError
from agentnet_core.records import describe

cdef extern from "Python.h":
    void PyUnicode_InternInPlace(PyObject** text)

cdef enum:
    COUNT_BITS = 16
    NS_PER_MS = 1000000

cdef uint64_t number_max = VERSION_MAX


class Order(IntEnum):
    """How one clock stands to another."""

    EQUAL = 0
    BEFORE = 1
    AFTER = 2
    CONCURRENT = 3


cdef tuple ORDERS = tuple(Order)


cdef class VectorClock:
    """A mapping of actors to how many of their events are known.

    >>> one = VectorClock({"a": 2}); other = VectorClock({"a": 1, "b": 1})
    >>> one.compare(other)
    <Order.CONCURRENT: 3>
    >>> other.merge(one)
    >>> dict(other), one < other
    ({'a': 2, 'b': 1}, True)
    """

    def __init__(self, counts=()):
        """The same as `counts`, a mapping of str to int; what is 0 there is not in the clock."""
        if self.count:
            raise UsageError("a VectorClock is made once")
        for actor, number in dict(counts).items():
            if type(actor) is not str or type(number) is not int or not 0 <= number <= number_max:
                raise UsageError(f"clock {describe(actor)}: {describe(number)}: expected a name and an "
                                 f"integer from 0 to {number_max}")
            if number:
                self._set(actor, number)

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.count):
            Py_XDECREF(self.slots[i].actor)
        PyMem_Free(self.slots)

    cdef uint32_t find(self, str actor) noexcept:
        """Index of the first actor that is not before `actor`."""
        cdef uint32_t low = 0, high = self.count, middle
        while low < high:
            middle = (low + high) >> 1
            if PyUnicode_Compare(<object>self.slots[middle].actor, actor) < 0:
                low = middle + 1
            else:
                high = middle
        return low

    cdef int insert(self, uint32_t at, PyObject* actor, uint64_t number) except -1:
        """`actor`, an interned str that is not in it yet."""
        cdef size_t capacity = self.capacity
        cdef Count* slots
        if self.count == capacity:
            capacity = capacity + (capacity >> 1) + 4
            slots = <Count*>PyMem_Realloc(self.slots, capacity * sizeof(Count))
            if slots == NULL:
                raise MemoryError
            self.slots, self.capacity = slots, <uint32_t>capacity
        memmove(&self.slots[at + 1], &self.slots[at], (self.count - at) * sizeof(Count))
        Py_INCREF(<object>actor)
        self.slots[at].actor, self.slots[at].number = actor, number
        self.count += 1
        return 0

    def _set(self, str actor, uint64_t number):
        cdef uint32_t at = self.find(actor)
        cdef PyObject* name
        if at < self.count and <object>self.slots[at].actor == actor:
            self.slots[at].number = number
            return
        check_actor(actor)
        Py_INCREF(actor)
        name = <PyObject*>actor
        PyUnicode_InternInPlace(&name)
        try:
            self.insert(at, name, number)
        finally:
            Py_XDECREF(name)

    cdef int join(self, VectorClock other) except -1:
        cdef uint32_t i = 0, k
        for k in range(other.count):
            while i < self.count and self.slots[i].actor != other.slots[k].actor and PyUnicode_Compare(
                    <object>self.slots[i].actor, <object>other.slots[k].actor) < 0:
                i += 1
            if i < self.count and self.slots[i].actor == other.slots[k].actor:
                self.slots[i].number = max(self.slots[i].number, other.slots[k].number)
            else:
                self.insert(i, other.slots[k].actor, other.slots[k].number)
        return 0

    def increment(self, str actor not None):
        """One more event of `actor`; its number."""
        cdef uint32_t at = self.find(actor)
        if at == self.count or <object>self.slots[at].actor != actor:
            self._set(actor, 1)
            return 1
        if self.slots[at].number == number_max:
            raise UsageError(f"clock: {actor} is at {number_max}, the last number there is")
        self.slots[at].number += 1
        return self.slots[at].number

    def merge(self, VectorClock other not None):
        """Become the greater of both, actor by actor."""
        unite(self, other)

    def compare(self, VectorClock other not None):
        """How this clock stands to `other`."""
        return ORDERS[relate(self, other)]

    def covers(self, dot):
        """Whether the event `dot`, an (actor, number), is among those that this clock counts."""
        actor, number = dot
        return 0 < number <= self.get(actor, 0)

    def compare_many(self, actors, const uint64_t[:, ::1] counts not None):
        """How this clock stands to each row of `counts`, whose columns are those of `actors`.

        Returns an array of int8, Orders by value. Numbers are at most 2^53; actors are distinct.
        """
        import numpy
        cdef Py_ssize_t columns = counts.shape[1], rows = counts.shape[0]
        cdef int64_t[::1] mine
        cdef signed char[::1] found
        names = list(actors)
        if len(names) != columns or len(dict.fromkeys(names)) != columns:
            raise UsageError(f"counts of {columns} columns: expected one for each of {len(names)} distinct "
                             "actors")
        own = numpy.array([self.get(name, 0) for name in names], dtype=numpy.int64)
        result = numpy.zeros(rows, dtype=numpy.int8)
        if rows == 0 or columns == 0:
            result[:] = AFTER if self.count else EQUAL
            return result
        mine, found = own, result
        if relate_rows(&mine[0], <const int64_t*>&counts[0, 0], &found[0], rows, columns) < 0:
            raise UsageError(f"counts: expected numbers of at most {number_max}")
        if numpy.count_nonzero(own) < self.count:
            result |= AFTER
        return result

    def copy(self):
        """Another clock of the same counts."""
        cdef VectorClock other = VectorClock.__new__(VectorClock)
        unite(other, self)
        return other

    def encode(self):
        """The form, as bytes."""
        cdef Buffer b
        cdef uint32_t i
        b.data, b.used, b.capacity = NULL, 0, 0
        try:
            buffer_room(&b, 5)
            put_map(&b, self.count)
            for i in range(self.count):
                put_str(&b, <str>self.slots[i].actor)
                buffer_room(&b, 9)
                put_uint(&b, self.slots[i].number)
            return buffer_bytes(&b)
        finally:
            buffer_free(&b)

    @staticmethod
    def decode(const uint8_t[::1] data, *, uint32_t actors_max):
        """The clock whose form `data` is; ProtocolError if it is none, or of more than `actors_max`."""
        cdef VectorClock clock = VectorClock.__new__(VectorClock)
        cdef Cursor c
        cdef uint32_t n = 0
        cdef uint64_t number = 0
        cdef str last = None, actor
        if data.shape[0]:
            c.at, c.end = &data[0], &data[0] + data.shape[0]
            if read_map(&c, &n) and n <= actors_max:
                while n:
                    n -= 1
                    actor = read_actor(&c)
                    if actor is None or (last is not None and actor <= last):
                        break
                    if not read_uint(&c, &number) or not 1 <= number <= number_max:
                        break
                    last = actor
                    clock._set(actor, number)
                else:
                    if c.at == c.end:
                        return clock
        raise ProtocolError(f"clock: malformed, out of order, or of more than {actors_max} actors")

    def context(self):
        """The dots that this clock counts."""
        return CausalContext(self)

    # -- a mapping

    def __getitem__(self, str actor not None):
        cdef uint32_t at = self.find(actor)
        if at == self.count or <object>self.slots[at].actor != actor:
            raise KeyError(actor)
        return self.slots[at].number

    def get(self, str actor not None, default=None):
        cdef uint32_t at = self.find(actor)
        if at == self.count or <object>self.slots[at].actor != actor:
            return default
        return self.slots[at].number

    def keys(self):
        """The actors, in order."""
        return [<object>self.slots[i].actor for i in range(self.count)]

    def values(self):
        return [self.slots[i].number for i in range(self.count)]

    def items(self):
        return [(<object>self.slots[i].actor, self.slots[i].number) for i in range(self.count)]

    def __iter__(self):
        return iter(self.keys())

    def __len__(self):
        return self.count

    def __contains__(self, actor):
        return type(actor) is str and self.get(actor) is not None

    def __eq__(self, other):
        if isinstance(other, VectorClock):
            return relate(self, other) == EQUAL
        return dict(self.items()) == other

    def __lt__(self, VectorClock other not None):
        return relate(self, other) == BEFORE

    def __le__(self, VectorClock other not None):
        return relate(self, other) <= BEFORE

    def __gt__(self, VectorClock other not None):
        return relate(self, other) == AFTER

    def __ge__(self, VectorClock other not None):
        return relate(self, other) in (EQUAL, AFTER)

    __hash__ = None

    def __repr__(self):
        return f"VectorClock({dict(self.items())})"


Mapping.register(VectorClock)


cdef int relate_rows(const int64_t* mine, const int64_t* rows, signed char* found, Py_ssize_t count,
                     Py_ssize_t columns) noexcept nogil:
    """Signs of differences, with no branch, so that several columns go at a time; -1 if one is too large."""
    cdef Py_ssize_t i, k
    cdef int64_t less, more, large = 0
    for i in range(count):
        less = more = 0
        for k in range(columns):
            less |= mine[k] - rows[k]
            more |= rows[k] - mine[k]
            large |= rows[k]
        found[i] = <signed char>((BEFORE if less < 0 else 0) | (AFTER if more < 0 else 0))
        rows += columns
    return -1 if large < 0 or large >> 54 else 0


cdef class HybridClock:
    """Stamps of one node.

    >>> clock = HybridClock(skew_ms_max=60_000)
    >>> first = clock.stamp(1_000_000_000); clock.observe(first + 5, 1_000_000_000)
    >>> clock.stamp(1_000_000_000) - first
    6
    """

    def __init__(self, uint64_t skew_ms_max, uint64_t last=0):
        """`last`: the last stamp of an earlier run, if it is known."""
        self.skew_ms_max = skew_ms_max
        self.last = last

    cpdef uint64_t stamp(self, int64_t now_ns):
        """A stamp above all that this clock made or observed."""
        cdef uint64_t now = <uint64_t>max(now_ns, 0) // NS_PER_MS << COUNT_BITS
        self.last = max(self.last + 1, now)
        return self.last

    cpdef uint64_t latest(self, int64_t now_ns):
        """The last stamp that is not from the future."""
        return ((<uint64_t>max(now_ns, 0) // NS_PER_MS + self.skew_ms_max + 1) << COUNT_BITS) - 1

    def observe(self, stamp, int64_t now_ns):
        """Stamps to come are above `stamp`, a peer's; FromFuture if it is too far ahead."""
        if not 0 <= stamp <= self.latest(now_ns):
            raise FromFuture(f"stamp {describe(stamp)}: expected at most {self.skew_ms_max} ms after this "
                             f"node's time, {now_ns // NS_PER_MS} ms; see to the clocks of both nodes")
        self.last = max(self.last, <uint64_t>stamp)
