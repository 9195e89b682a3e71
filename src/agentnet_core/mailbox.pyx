"""The mailbox of one agent: bounded, by priority, in order within each.

Strict by priority, except that one message in sixteen comes from the longest waiting of the
lower levels, so that none starves.  The box does not refuse: its owner asks `is_high` and
`is_full` and holds the senders back, because what is on its way cannot be unsent.  Rings grow by
doubling and are given back by `trim`, so that an idle agent holds none.
"""

from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from agentnet_core.message cimport charge

cdef enum:
    RING_SLOTS_MIN = 16
    FAIR_EVERY = 16


cdef int grow(Ring* ring) except -1:
    cdef Py_ssize_t capacity = ring.capacity * 2 if ring.capacity else RING_SLOTS_MIN
    cdef Py_ssize_t first = ring.capacity - ring.head
    cdef PyObject** slots = <PyObject**>malloc(capacity * sizeof(PyObject*))
    if slots == NULL:
        raise MemoryError
    if ring.count:
        memcpy(slots, ring.slots + ring.head, first * sizeof(PyObject*))
        memcpy(slots + first, ring.slots, ring.head * sizeof(PyObject*))
    free(ring.slots)
    ring.slots, ring.capacity, ring.head = slots, capacity, 0
    return 0


cdef inline bint may_be_taken(AgentMessage message, Origin origin) noexcept:
    """A request of that node that is no operation: one of those is asked for again."""
    return (message.correlation and message.origin is origin and message.slip is None
            and (message.envelope is None or message.envelope.operation is None))


cdef class Mailbox:
    """`count` and `bytes` are what is in it; a message counts its payload and 200 bytes."""

    def __cinit__(self, Py_ssize_t messages_max, Py_ssize_t bytes_max):
        self.messages_max = messages_max
        self.bytes_max = bytes_max
        memset(self.rings, 0, sizeof(self.rings))

    def __dealloc__(self):
        cdef int level
        cdef Py_ssize_t i
        cdef Ring* ring
        for level in range(LEVELS):
            ring = &self.rings[level]
            for i in range(ring.count):
                Py_DECREF(<object>ring.slots[(ring.head + i) & (ring.capacity - 1)])
            free(ring.slots)

    cdef int push(self, AgentMessage message) except -1:
        cdef Ring* ring = &self.rings[message.level]
        if ring.count == ring.capacity:
            grow(ring)
        Py_INCREF(message)
        ring.slots[(ring.head + ring.count) & (ring.capacity - 1)] = <PyObject*>message
        ring.count += 1
        self.arrivals += 1
        message.arrival = self.arrivals
        self.count += 1
        self.bytes += charge(message)
        return 0

    cpdef AgentMessage pop(self):
        """The next message, or None."""
        cdef int level = LEVELS - 1
        cdef Ring* ring
        cdef AgentMessage message
        if self.count == 0:
            return None
        while self.rings[level].count == 0:
            level -= 1
        if self.rings[level].count == self.count:
            self.streak = 0         # nobody waits below
        else:
            self.streak += 1
            if self.streak == FAIR_EVERY:
                self.streak = 0
                level = self._fairest(level)
        ring = &self.rings[level]
        message = <AgentMessage>ring.slots[ring.head]
        Py_DECREF(message)          # the ring's reference; `message` holds its own
        ring.head = (ring.head + 1) & (ring.capacity - 1)
        ring.count -= 1
        self.count -= 1
        self.bytes -= charge(message)
        return message

    cdef AgentMessage take_out(self, Origin origin, uint64_t correlation):
        """That request of that node, if it is here; those before it move up."""
        cdef int level
        cdef Py_ssize_t i, mask
        cdef Ring* ring
        cdef AgentMessage message
        for level in range(LEVELS):
            ring = &self.rings[level]
            mask = ring.capacity - 1
            for i in range(ring.count):
                message = <AgentMessage>ring.slots[(ring.head + i) & mask]
                if message.correlation == correlation and may_be_taken(message, origin):
                    while i > 0:
                        ring.slots[(ring.head + i) & mask] = ring.slots[(ring.head + i - 1) & mask]
                        i -= 1
                    ring.head = (ring.head + 1) & mask
                    self.took(ring, message)
                    return message
        return None

    cdef list take_requests(self, Origin origin):
        """All requests of that node."""
        cdef int level
        cdef Py_ssize_t i, kept, mask, count
        cdef Ring* ring
        cdef AgentMessage message
        cdef list taken = []
        for level in range(LEVELS):
            ring = &self.rings[level]
            mask, kept, count = ring.capacity - 1, 0, ring.count
            for i in range(count):
                message = <AgentMessage>ring.slots[(ring.head + i) & mask]
                if may_be_taken(message, origin):
                    taken.append(message)
                    self.took(ring, message)
                else:
                    ring.slots[(ring.head + kept) & mask] = <PyObject*>message
                    kept += 1
        return taken

    cdef AgentMessage take_oldest(self):
        """The first of the lowest priority that is here."""
        cdef int level = 0
        cdef Ring* ring
        cdef AgentMessage message
        while self.rings[level].count == 0:
            level += 1
        ring = &self.rings[level]
        message = <AgentMessage>ring.slots[ring.head]
        ring.head = (ring.head + 1) & (ring.capacity - 1)
        self.took(ring, message)
        return message

    cdef AgentMessage take_newest(self, int level):
        """The last of that priority."""
        cdef Ring* ring = &self.rings[level]
        cdef Py_ssize_t last = (ring.head + ring.count - 1) & (ring.capacity - 1)
        cdef AgentMessage message = <AgentMessage>ring.slots[last]
        self.took(ring, message)
        return message

    cdef int took(self, Ring* ring, AgentMessage message) except -1:
        """It is in no slot any more."""
        Py_DECREF(message)          # the ring's reference
        ring.count -= 1
        self.count -= 1
        self.bytes -= charge(message)
        return 0

    cdef int _fairest(self, int top) noexcept:
        """The lower level whose head has waited longest."""
        cdef int level, best = top
        cdef uint64_t oldest = <uint64_t>-1
        cdef Ring* ring
        for level in range(top):
            ring = &self.rings[level]
            if ring.count and (<AgentMessage>ring.slots[ring.head]).arrival < oldest:
                oldest = (<AgentMessage>ring.slots[ring.head]).arrival
                best = level
        return best

    def put(self, AgentMessage message not None):
        """Append a message behind those of its priority."""
        self.push(message)

    def trim(self):
        """Give back the rings of an empty mailbox."""
        cdef int level
        if self.count == 0:
            for level in range(LEVELS):
                free(self.rings[level].slots)
            memset(self.rings, 0, sizeof(self.rings))

    def __len__(self):
        return self.count

    @property
    def high(self):
        """Whether senders should stop: three quarters of the count or of the bytes."""
        return is_high(self)

    @property
    def full(self):
        return is_full(self)

    @property
    def low(self):
        """Whether stopped senders may go on: half of both."""
        return is_low(self)
