"""One link as the engine sees it: two lanes out, a window, fragments in.

The control lane goes first and never waits for credit.  Data counts against the window that the
peer granted; the peer gives credit back as it takes messages off the wire.  A message over
`fragment_bytes` travels in pieces that interleave with the others; order holds per sender,
receiver and priority.  What one link can make this node hold is bounded: the arena, one partial
frame, fragments in reassembly, and for each full mailbox what was on its way when STOP was said: a
window, and the large messages that had begun.
"""

from collections import deque

from agentnet_core.errors import ProtocolError


cdef class Assembly:
    def __cinit__(self, AgentMessage first, uint32_t count):
        self.first = first
        self.pieces = []
        self.count = count


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
        self.node_id = ""
        self.opened_ns = self.heard_ns = now_ns
        self.blocked = deque()
        self.bulk = {}
        self.assemblies = {}

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
        parts.size += size
        if parts.size > bytes_max or self.assembly_bytes > total_max:
            raise ProtocolError(f"message {piece.seq}: {parts.size} bytes in fragments and "
                                f"{self.assembly_bytes} of memory on this link: expected at most "
                                f"{bytes_max} and {total_max}")
        parts.pieces.append(piece.payload)
        parts.next_index += 1
        if parts.next_index < parts.count:
            return None
        del self.assemblies[piece.seq]
        self.assembly_bytes -= parts.size + PART_OVERHEAD_BYTES * parts.count
        parts.first.payload = b"".join(parts.pieces)
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
        if self.origin is not None and self.origin.session is self:
            self.origin.session = None

    def __repr__(self):
        state = "closed" if self.closed else "welcomed" if self.welcomed else "new"
        return f"<Session {self.node_id or '?'} {self.address} {state}>"
