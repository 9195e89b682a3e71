"""The window of one line at its receiver: what was let in, what is done, and what is to be said of it.

A line brings rising numbers, with gaps.  All up to `last` were let in, or were settled before they came;
of these the open ones are in the mailbox or at the handler, and every other one is finished.  So the window
is as long as the line, and takes only what is open, what was finished out of order and what was refused.

What is to be said are runs of one line in a row: from `first` to `last`, all that was let in between them.
"""

from collections import deque

cdef enum:
    MAILBOXED = 2
    PROCESSED = 3


cdef class InLine:
    def __cinit__(self, str node_id, uint64_t epoch, uint64_t from_id, uint64_t to_id, uint8_t level):
        self.node_id, self.epoch, self.from_id, self.to_id = node_id, epoch, from_id, to_id
        self.level = level
        self.open = deque()
        self.early, self.failed, self.refused, self.runs = {}, {}, {}, []

    cdef uint64_t floor(self):
        """All up to this are finished, and none of them was refused."""
        cdef uint64_t floor = self.last
        if self.open:
            floor = <uint64_t>self.open[0] - 1
        if self.refused:
            floor = min(floor, <uint64_t>next(iter(self.refused)) - 1)
        return floor

    cdef bint is_finished(self, uint64_t number) except -1:
        """Of one that was let in."""
        return number in self.early or not self.open or number < <uint64_t>self.open[0]

    cdef int finish(self, uint64_t number) except -1:
        """Its handler has returned."""
        cdef bint in_order = self.open and <uint64_t>self.open[0] == number
        self.drop(number)
        if not in_order:
            self.joins = False
        self.note(PROCESSED, number)
        self.joins = in_order
        return 0

    def drop(self, uint64_t number):
        """It is not open any more."""
        self.failed.pop(number, None)
        if not self.open or <uint64_t>self.open[0] != number:
            self.early[number] = None
            return
        self.open.popleft()
        while self.open and self.open[0] in self.early:
            del self.early[self.open.popleft()]

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
                          if each > number or (self.open and each > <uint64_t>self.open[0])}
        return 0

    cdef int note(self, int what, uint64_t number) except -1:
        """That is to be said of it."""
        cdef list run
        if self.runs and (what == MAILBOXED or self.joins):
            run = <list>self.runs[len(self.runs) - 1]
            if run[0] == what and <uint64_t>run[2] < number:
                run[2] = number
                return 0
        self.runs.append([what, number, number])
        return 0

    cdef int restore(self, uint64_t floor, uint64_t forgotten, list early) except -1:
        """As it was found on the disk."""
        self.last, self.forgotten, self.durable = floor, forgotten, True
        for number in early:
            self.early[number] = None
        return 0
