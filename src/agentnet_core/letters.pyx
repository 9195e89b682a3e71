"""What a node has sent with a promise, in lines: one for each sender, receiver, priority and level.

A letter keeps its place in its line until it is settled, whatever becomes of those around it.  Each names
the one before it that is not settled, so that the receiver knows whether it lacks any; so a line may be
sent again from any letter on, by any link, and still comes in order.

Those that somebody waits for until a certain time are in a Watch as well, in the order of their times.
"""

cimport cython

from agentnet_core.records import Reached, Receipt

cdef tuple REACHED = (None, Reached.KEPT, Reached.MAILBOXED, Reached.PROCESSED)


@cython.freelist(2048)
cdef class Letter:
    pass


cdef Letter new_letter(AgentMessage message, OutLine line):
    cdef Letter letter = Letter.__new__(Letter)
    letter.message, letter.line, letter.number = message, line, message.correlation
    return letter


cdef class Watch:
    """Letters that are waited for equally long, so that the first one is due first."""

    cdef int append(self, Letter letter) except -1:
        letter.watch = self
        letter.due_before = self.tail
        if self.tail is None:
            self.head = letter
        else:
            self.tail.due_after = letter
        self.tail = letter
        return 0

    cdef int remove(self, Letter letter) except -1:
        """Nobody waits for it any more."""
        cdef Letter before = letter.due_before, after = letter.due_after
        if before is None:
            self.head = after
        else:
            before.due_after = after
        if after is None:
            self.tail = before
        else:
            after.due_before = before
        letter.due_before = letter.due_after = None
        letter.watch = None
        return 0


cdef class OutLine:
    def __cinit__(self, uint64_t from_id, uint64_t to_id, to, uint8_t level, bint durable):
        self.from_id, self.to_id, self.to, self.level, self.durable = from_id, to_id, to, level, durable

    cdef object receipt_of(self, Letter letter, int reached, str node_id, bint on_disk):
        """What its sender is told; those that say the same are one."""
        if (self.receipt is None or self.told_reached != reached or self.told_sent != letter.sent
                or self.told_on_disk != on_disk or self.told_node is not node_id):
            self.told_reached, self.told_sent = reached, letter.sent
            self.told_on_disk, self.told_node = on_disk, node_id
            self.receipt = Receipt(REACHED[reached], node_id, letter.sent, on_disk)
        return self.receipt

    cdef int append(self, Letter letter) except -1:
        letter.before = self.tail
        if self.tail is None:
            self.head = letter
        else:
            self.tail.after = letter
        self.tail = letter
        if self.cursor is None:
            self.cursor = letter
        return 0

    cdef int unlink(self, Letter letter) except -1:
        """It is settled."""
        cdef Letter before = letter.before, after = letter.after
        if before is None:
            self.head = after
        else:
            before.after = after
        if after is None:
            self.tail = before
        else:
            after.before = before
            after.message.slip.prior = 0 if before is None else before.number
        if self.cursor is letter:
            self.cursor = after
        letter.before = letter.after = None
        return 0

    cdef int go_back(self, Letter letter) except -1:
        """Send all again from that one on; those that have not found room leave their places."""
        if self.cursor is None or letter.number < self.cursor.number:
            self.cursor = letter
        while letter is not None:
            if letter.waiting is not None:
                if not (letter.waiting.dropped or letter.waiting.started):
                    letter.waiting.drop()
                letter.waiting = None
            letter = letter.after
        return 0

    cdef int address(self, Letter letter) except -1:
        """Write its slip for the next attempt."""
        letter.sent += 1
        letter.message.slip.attempt = letter.sent
        letter.message.slip.prior = 0 if letter.before is None else letter.before.number
        return 0
