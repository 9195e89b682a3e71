"""What a node has sent with a promise, in lines: one for each sender, receiver, priority and level.

A letter keeps its place in its line until it is settled, whatever becomes of those around it.  Each names
the one before it that is not settled, so that the receiver knows whether it lacks any; so a line may be
sent again from any letter on, by any link, and still comes in order.

A letter that goes its usual way is bytes at once: no message is made of it until somebody needs one.

Those that somebody waits for until a certain time are in a Watch as well, in the order of their times.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free

from agentnet_core.message cimport FIELD_DELIVERY, TYPE_COMMAND, write_plain
from agentnet_core.slip cimport CARE_ACKNOWLEDGED, CARE_DURABLE, CARE_PROCESSED, Slip, put_slip

from agentnet_core.records import Reached, Receipt

cdef tuple REACHED = (None, Reached.KEPT, Reached.MAILBOXED, Reached.PROCESSED)


cdef enum:
    PLACES_MIN = 1024


@cython.freelist(2048)
cdef class Letter:
    @property
    def message(self):
        """It, as a message."""
        return self.whole()

    cdef AgentMessage whole(self):
        cdef AgentMessage message = self.made
        cdef Slip slip
        if message is None:
            message = self.made = AgentMessage.__new__(AgentMessage)
            message.payload, message.origin, message.type = self.payload, self.line.origin, TYPE_COMMAND
            message.from_agent, message.to_id = self.line.from_id, self.line.to_id
            message.level, message.seq, message.timestamp = self.line.level, self.seq, self.timestamp
            message.correlation = self.number
            slip = message.slip = Slip.__new__(Slip)
            slip.care, slip.attempt = self.line.care, max(1, self.sent)
            slip.epoch, slip.prior = self.line.epoch, 0 if self.before is None else self.before.number
        return message

    cdef uint8_t* write(self, uint8_t* p) noexcept:
        """The body of what it is as a message, if that was not made."""
        cdef OutLine line = self.line
        p = write_plain(p, line.from_id, line.to_id, self.seq, self.number, TYPE_COMMAND, line.level, 0,
                        self.timestamp, <const uint8_t*>PyBytes_AS_STRING(self.payload),
                        <uint32_t>PyBytes_GET_SIZE(self.payload))
        p[0], p[1], p[2] = 0xde, 0, 1
        return put_slip(p + 3, FIELD_DELIVERY, line.care, max(1, self.sent), line.epoch,
                        0 if self.before is None else self.before.number)


cdef Letter new_letter(AgentMessage message, OutLine line):
    cdef Letter letter = Letter.__new__(Letter)
    letter.made, letter.payload, letter.line = message, message.payload, line
    letter.number = message.correlation
    return letter


cdef class Book:
    """Letters by their numbers. It does not hold them: who leaves its line is taken out of here before."""

    def __dealloc__(self):
        free(self.places)

    def __len__(self):
        return self.count

    def __contains__(self, uint64_t number):
        return self.find(number) is not None

    def __iter__(self):
        """All of them, by their numbers."""
        cdef Py_ssize_t k
        cdef PyObject* at
        cdef Letter letter
        cdef list found = []
        for k in range(self.capacity):
            at = self.places[k]
            while at != NULL:
                letter = <Letter>at
                found.append((letter.number, letter))
                at = letter.chain
        return iter([letter for _, letter in sorted(found)])

    cdef int put(self, Letter letter) except -1:
        cdef Py_ssize_t place
        if self.count == self.capacity:
            self.resize(max(PLACES_MIN, 2 * self.capacity))
        place = letter.number & (self.capacity - 1)
        letter.chain = self.places[place]
        self.places[place] = <PyObject*>letter
        self.count += 1
        return 0

    cdef Letter find(self, uint64_t number):
        """None if it is settled."""
        cdef PyObject* at = self.places[number & (self.capacity - 1)] if self.capacity else NULL
        while at != NULL:
            if (<Letter>at).number == number:
                return <Letter>at
            at = (<Letter>at).chain
        return None

    cdef int take_out(self, Letter letter) except -1:
        cdef PyObject** at = &self.places[letter.number & (self.capacity - 1)]
        while at[0] != <PyObject*>letter:
            at = &(<Letter>at[0]).chain
        at[0] = letter.chain
        letter.chain = NULL
        self.count -= 1
        if self.count == 0 and self.capacity > PLACES_MIN:
            free(self.places)
            self.places, self.capacity = NULL, 0
        return 0

    cdef int resize(self, Py_ssize_t capacity) except -1:
        cdef PyObject** places = <PyObject**>calloc(capacity, sizeof(PyObject*))
        cdef PyObject* at
        cdef PyObject* after
        cdef Py_ssize_t k, place
        if places == NULL:
            raise MemoryError
        for k in range(self.capacity):
            at = self.places[k]
            while at != NULL:
                after = (<Letter>at).chain
                place = (<Letter>at).number & (capacity - 1)
                (<Letter>at).chain = places[place]
                places[place] = at
                at = after
        free(self.places)
        self.places, self.capacity = places, capacity
        return 0


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
    def __cinit__(self, uint64_t from_id, uint64_t to_id, to, uint8_t level, bint durable,
                  Origin origin=None, uint64_t epoch=0):
        self.origin, self.epoch = origin, epoch
        self.from_id, self.to_id, self.to, self.level, self.durable = from_id, to_id, to, level, durable
        self.care = (CARE_DURABLE if durable else CARE_ACKNOWLEDGED) | CARE_PROCESSED

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
            if after.made is not None:
                after.made.slip.prior = 0 if before is None else before.number
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
        if letter.made is not None:
            letter.made.slip.attempt = letter.sent
            letter.made.slip.prior = 0 if letter.before is None else letter.before.number
        return 0
