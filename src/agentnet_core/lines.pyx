"""The window of one line at its receiver: what was let in, what is done, and what is to be said of it.

A line brings rising numbers, with gaps.  All up to `last` were let in, or were settled before they came;
of these the open ones are in the mailbox or at the handler, and every other one is finished.  So the window
is as long as the line, and takes only what is open, what was finished out of order and what was refused.

What is to be said are runs of one line in a row: from `first` to `last`, all that was let in between them, of
one attempt, which is the last one that came: to who sent it again an older one says nothing.  Open numbers
and runs are C arrays: no Python object is made of a message that goes its usual way.
"""

from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

cdef enum:
    MAILBOXED = 2
    PROCESSED = 3
    ON_DISK = 4
    RING_KEPT = 1024            # places of one that is empty


cdef class Ring:
    """Rising numbers: put in behind, taken out in front."""

    def __dealloc__(self):
        free(self.data)

    def __len__(self):
        return self.count

    def __iter__(self):
        cdef Py_ssize_t k
        for k in range(self.count):
            yield self.data[(self.begin + k) & (self.capacity - 1)]

    cdef int append(self, uint64_t number) except -1:
        if self.count == self.capacity:
            self.grow()
        self.data[(self.begin + self.count) & (self.capacity - 1)] = number
        self.count += 1
        return 0

    cdef uint64_t popleft(self) noexcept:
        cdef uint64_t number = self.data[self.begin]
        self.begin = (self.begin + 1) & (self.capacity - 1)
        self.count -= 1
        if self.count == 0 and self.capacity > RING_KEPT:
            free(self.data)
            self.data, self.begin, self.capacity = NULL, 0, 0
        return number

    cdef int grow(self) except -1:
        cdef Py_ssize_t old = self.capacity, capacity = max(16, 2 * old)
        cdef void* grown = realloc(self.data, capacity * sizeof(uint64_t))
        if grown == NULL:
            raise MemoryError
        self.data, self.capacity = <uint64_t*>grown, capacity
        memcpy(self.data + old, self.data, self.begin * sizeof(uint64_t))   # it goes on behind its old end
        return 0


cdef class InLine:
    def __cinit__(self, str node_id, uint64_t epoch, uint64_t from_id, uint64_t to_id, uint8_t level):
        self.node_id, self.epoch, self.from_id, self.to_id = node_id, epoch, from_id, to_id
        self.level = level
        self.open = Ring()
        self.early, self.failed, self.refused, self.attempts = {}, {}, {}, {}

    def __dealloc__(self):
        free(self.runs)

    cdef uint64_t floor(self):
        """All up to this are finished, and none of them was refused."""
        cdef uint64_t floor = self.last
        if self.open.count:
            floor = self.open.first() - 1
        if self.refused:
            floor = min(floor, <uint64_t>next(iter(self.refused)) - 1)
        return floor

    cdef bint is_finished(self, uint64_t number) except -1:
        """Of one that was let in."""
        return number in self.early or not self.open.count or number < self.open.first()

    cdef int finish(self, uint64_t number, uint32_t attempt, bint on_disk) except -1:
        """Its handler has returned; `on_disk`: that is on the disk, though the line is not."""
        cdef bint in_order = self.open.count and self.open.first() == number
        attempt = self.newest(number, attempt)
        self.drop(number)
        if not in_order:
            self.joins = False
        self.note(PROCESSED | (ON_DISK if on_disk else 0), number, attempt)
        self.joins = in_order
        return 0

    cdef uint32_t newest(self, uint64_t number, uint32_t attempt) except 0:
        """The attempt that its sender waits to hear of: the last that came, for a new life counts anew."""
        if not self.attempts:
            return attempt
        return <uint32_t>self.attempts.get(number, attempt)

    cdef int drop(self, uint64_t number) except -1:
        """It is not open any more."""
        if self.failed:
            self.failed.pop(number, None)
        if self.attempts:
            self.attempts.pop(number, None)
        if not self.open.count or self.open.first() != number:
            self.early[number] = None
            return 0
        self.open.popleft()
        while self.early and self.open.count and self.open.first() in self.early:
            del self.early[self.open.popleft()]
        return 0

    cdef int refuse(self, uint64_t number, int code, bytes text, Py_ssize_t most) except -1:
        """It will not be handled. Of the oldest beyond `most` it is forgotten whether they were refused."""
        self.drop(number)
        self.joins = False
        self.refused[number] = (code, text)
        if len(self.refused) > most:
            self.forgotten = <uint64_t>next(iter(self.refused))
            del self.refused[self.forgotten]
        return 0

    cdef int settled_below(self, uint64_t number) except -1:
        """The sender knows what became of all that is below."""
        if self.refused:
            self.refused = {each: why for each, why in self.refused.items() if each >= number}
        for each in [each for each in self.failed if each < number]:
            self.drop(each)
        if self.early:
            self.early = {each: None for each in self.early
                          if each > number or (self.open.count and each > self.open.first())}
        return 0

    cdef int note(self, int what, uint64_t number, uint32_t attempt) except -1:
        """That is to be said of it."""
        cdef Said* run
        if self.runs_count and (what == MAILBOXED or self.joins):
            run = &self.runs[self.runs_count - 1]
            if run.what == what and run.last < number and run.attempt == attempt:
                run.last = number
                return 0
        return self.say(what, number, number, attempt)

    cdef int say(self, int what, uint64_t first, uint64_t last, uint32_t attempt) except -1:
        """That is to be said of all from `first` to `last`, at that attempt."""
        cdef void* grown
        if self.runs_count == self.runs_capacity:
            grown = realloc(self.runs, (2 * self.runs_capacity + 4) * sizeof(Said))
            if grown == NULL:
                raise MemoryError
            self.runs = <Said*>grown
            self.runs_capacity = 2 * self.runs_capacity + 4
        self.runs[self.runs_count].what, self.runs[self.runs_count].attempt = what, attempt
        self.runs[self.runs_count].first, self.runs[self.runs_count].last = first, last
        self.runs_count += 1
        return 0

    cdef list take_runs(self):
        """(what, first, last, attempt) of each that is to be said; it is not said again."""
        cdef Py_ssize_t k
        cdef list runs = [(self.runs[k].what, self.runs[k].first, self.runs[k].last, self.runs[k].attempt)
                          for k in range(self.runs_count)]
        self.runs_count = 0
        self.joins = False
        return runs

    cdef int restore(self, uint64_t floor, uint64_t forgotten, list early) except -1:
        """As it was found on the disk."""
        self.last, self.forgotten, self.durable = floor, forgotten, True
        for number in early:
            self.early[number] = None
        return 0
