"""One link as the engine sees it: two lanes out, a window, fragments in.

The control lane goes first and never waits for credit.  Data counts against the window that the
peer granted; the peer gives credit back as it takes messages off the wire.  A message over
`fragment_bytes` travels in pieces that interleave with the others; order holds per sender,
receiver and priority.  What one link can make this node hold is bounded: the arena, one partial
frame, fragments in reassembly, and for each full mailbox what was on its way when STOP was said: a
window, and the large messages that had begun.
"""

from collections import deque

from cpython.bytes cimport (
    PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE, _PyBytes_Resize,
)
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.string cimport memcpy

from agentnet_core.errors import ProtocolError


cdef class Assembly:
    def __cinit__(self, AgentMessage first, uint32_t count):
        self.first = first
        self.count = count

    def __dealloc__(self):
        Py_XDECREF(self.body)

    cdef int add(self, bytes piece) except -1:
        # Copied as they come: to join them at the end would stop all else for milliseconds.
        cdef Py_ssize_t n = PyBytes_GET_SIZE(piece)
        if n == 0:
            return 0
        if self.size + n > self.room:
            self.resize(max(self.size + n, min(2 * self.room, n * <Py_ssize_t>self.count)))
        memcpy(PyBytes_AS_STRING(<object>self.body) + self.size, PyBytes_AS_STRING(piece), n)
        self.size += n
        return 0

    cdef int resize(self, Py_ssize_t room) except -1:
        if self.body == NULL:
            fresh = PyBytes_FromStringAndSize(NULL, room)
            Py_INCREF(fresh)
            self.body = <PyObject*>fresh
        else:
            _PyBytes_Resize(&self.body, room)
        self.room = room
        return 0

    cdef bytes end(self):
        self.resize(self.size)
        return <bytes>self.body


cdef class Share:
    """The fragments on their way: as many as do not delay one another, one at least.

    What lies in the link's buffers delays every small message behind it, so a fragment is added only
    while one still takes as long as alone, and half are taken back when it takes a quarter more.  So a
    short link is never filled, and a long one is.  After LEDBAT (RFC 6817), with CREDIT as the ACK.
    """

    def __cinit__(self):
        self.ends = deque()
        self.eighths = 8

    cdef bint has_room(self) noexcept:
        return 8 * (len(self.ends) + 1) <= self.eighths

    cdef int sent(self, int64_t end, int64_t now_ns) except -1:
        self.ends.append((end, now_ns))
        return 0

    cdef int credited(self, int64_t taken, int64_t now_ns, int64_t most) except -1:
        """The peer has taken all up to that place of the stream."""
        cdef int64_t delay_ns = -1
        while self.ends and self.ends[0][0] <= taken:
            delay_ns = now_ns - <int64_t>self.ends.popleft()[1]
        if delay_ns < 0:
            return 0
        if self.base_ns == 0 or delay_ns < self.base_ns:
            self.base_ns = delay_ns
        else:
            self.base_ns += self.base_ns >> 6       # the way may have become longer
        if 4 * delay_ns > 5 * self.base_ns:
            self.hindered = True
            self.eighths = max(8, self.eighths // 2)
        else:
            self.eighths = min(8 * most, self.eighths + (1 if self.hindered else self.eighths))
        return 0


cdef class Session:
    """State of one link. `link` is the driver's own handle; the rest belongs to the engine."""

    def __cinit__(self, Arena arena, bint dialled, bint secure, str address, str certified, int64_t now_ns):
        # Until both have said how they want it, frames carry a checksum.
        self.decoder = Decoder(arena, True)
        self.control = Outbox(True)
        self.data = Outbox(True)
        self.dialled = dialled
        self.secure = secure
        self.address = address
        self.certified = certified
        self.node_id = self.relay = ""
        self.origin = Origin("", 0)     # until both have said who they are
        self.opened_ns = self.heard_ns = now_ns
        self.blocked = deque()
        self.bulk = {}
        self.assemblies = {}
        self.share = Share()

    def set_checksum(self, bint checksum):
        """Both Hellos are here: how frames are checked from now on."""
        self.decoder.checksum = checksum
        self.control.set_checksum(checksum)
        self.data.set_checksum(checksum)

    def agree(self, int64_t window, int64_t granted, int64_t message_bytes_max, Origin origin not None):
        """Who the peer is, the data that it has room for and was granted here, the largest payload."""
        self.message_bytes_max = message_bytes_max
        self.window = window
        self.granted = granted
        self.origin = origin
        self.node_id = origin.node_id
        self.incarnation = origin.incarnation

    cdef int64_t owed(self) noexcept:
        """Credit to give back: all that came, but what is withheld."""
        return self.received - self.reported - self.withheld

    @property
    def outstanding(self):
        """Bytes of data sent that the peer has not given credit for."""
        return self.sent - self.credited

    @property
    def unconfirmed(self):
        """Messages sent that the peer has not yet said to have taken."""
        return self.sent_messages - self.credited_messages

    def has_all_since(self, int64_t when_ns):
        """Whether all has come that the peer had sent when it answered a PING of then or later."""
        return self.ponged_ns >= when_ns and <uint64_t>self.received >= self.announced

    @property
    def moved(self):
        """Bytes of data, both ways, so far: what has not changed has not been used."""
        return self.sent + self.received

    @property
    def assembling(self):
        """Messages that have come in part, and the bytes that this takes."""
        return len(self.assemblies), self.assembly_bytes

    @property
    def waiting_bytes(self):
        """Encoded bytes of both lanes that no transport has taken yet."""
        return self.control.waiting + self.data.waiting

    cpdef object take(self):
        """The next bytes to write, or None: control first, but last if what is in it ends the link."""
        piece = self.data.take() if self.parting else self.control.take()
        if piece is None:
            piece = self.control.take() if self.parting else self.data.take()
        return piece

    cdef AgentMessage assemble(self, AgentMessage piece, int64_t bytes_max, int64_t total_max,
                               Py_ssize_t open_max):
        """The whole message if `piece` was its last, else None."""
        cdef Assembly parts
        cdef Py_ssize_t size = len(piece.payload)
        if piece.fragment == 0:
            if piece.seq in self.assemblies or len(self.assemblies) >= open_max:
                raise ProtocolError(
                    f"fragment 0 of message {piece.seq}: it is open already, or {open_max} others are")
            parts = Assembly(piece, piece.fragments)
            self.assemblies[piece.seq] = parts
        else:
            parts = self.assemblies.get(piece.seq)
            if parts is None or piece.fragment != parts.next_index or piece.fragments != parts.count:
                raise ProtocolError(f"fragment {piece.fragment} of {piece.fragments} of message {piece.seq}: "
                                    f"expected {'fragment 0' if parts is None else parts.next_index}")
        self.assembly_bytes += size + PART_OVERHEAD_BYTES
        if parts.size + size > bytes_max or self.assembly_bytes > total_max:
            raise ProtocolError(f"message {piece.seq}: {parts.size + size} bytes in fragments and "
                                f"{self.assembly_bytes} of memory on this link: expected at most "
                                f"{bytes_max} and {total_max}")
        parts.add(piece.payload)
        parts.next_index += 1
        if parts.next_index < parts.count:
            return None
        del self.assemblies[piece.seq]
        self.assembly_bytes -= parts.size + PART_OVERHEAD_BYTES * parts.count
        parts.first.payload = parts.end()
        parts.first.fragments = 0
        return parts.first

    def discard(self):
        """The link is gone: let go of all that it held."""
        self.closed = True
        self.welcomed = self.clear = False
        self.control.clear()
        self.data.clear()
        self.blocked.clear()
        self.bulk.clear()
        self.assemblies.clear()
        if self.origin.session is self:
            self.origin.session = None

    def __repr__(self):
        state = "closed" if self.closed else "welcomed" if self.welcomed else "new"
        state = "retired" if self.retired else "held" if self.held else state
        return f"<Session {self.node_id or '?'} {self.address} {state}>"
