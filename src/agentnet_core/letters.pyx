"""What a node has sent with a promise, in lines: one for each sender, receiver, priority and level.

A letter keeps its place in its line until it is settled, whatever becomes of those around it.  Each names
the one before it that is not settled, so that the receiver knows whether it lacks any; so a line may be
sent again from any letter on, by any link, and still comes in order.
"""


cdef class Letter:
    def __cinit__(self, AgentMessage message not None, OutLine line not None):
        self.message, self.line = message, line
        self.number = message.correlation


cdef class OutLine:
    def __cinit__(self, uint64_t from_id, uint64_t to_id, to, uint8_t level, bint durable):
        self.from_id, self.to_id, self.to, self.level, self.durable = from_id, to_id, to, level, durable

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
