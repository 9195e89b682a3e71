"""Which of the newest of a row of numbers were here: a bit for each, and nothing for what is older.

In: numbers from 1, in any order.  Out: whether one was here, and how many leave the window unseen.
"""

cimport cython
from libc.stdint cimport uint64_t


@cython.final
@cython.no_gc
cdef class Window:
    """Which of an origin's newest broadcasts were here: bit n of `seen` is that n before `newest`."""

    def __cinit__(self, uint64_t sequence):
        self.first = self.newest = sequence
        self.seen = 1

    cdef bint has(self, uint64_t sequence, uint64_t size) except -1:
        """Whether that broadcast was here, or is too old to tell."""
        cdef uint64_t behind
        if sequence > self.newest:
            return False
        behind = self.newest - sequence
        return behind >= size or (self.seen >> behind & 1) == 1

    cdef uint64_t add(self, uint64_t sequence, uint64_t size) except? -1:
        """That broadcast is here, which `has` did not have; how many leave the window unseen."""
        cdef uint64_t ahead, unseen
        self.first = min(self.first, sequence)
        if sequence <= self.newest:
            self.seen |= 1 << <object>(self.newest - sequence)
            return 0
        ahead = sequence - self.newest
        unseen = self.unseen(self.oldest(size), sequence - size if sequence > size else 0)
        self.seen = (self.seen << ahead | 1) & (<object>1 << size) - 1 if ahead < size else 1
        self.newest = sequence
        return unseen

    cdef uint64_t oldest(self, uint64_t size) noexcept:
        """The least number that is in the window."""
        return self.newest - size + 1 if self.newest >= size else 1

    cdef uint64_t unseen(self, uint64_t low, uint64_t high) except? -1:
        """How many were not here from `low`, the oldest in the window, to `high`, since the first."""
        cdef uint64_t shift
        low = max(low, self.first)
        if high < low:
            return 0
        shift = self.newest - high if self.newest > high else 0
        return high - low + 1 - <uint64_t>(self.seen >> shift).bit_count()
