"""What tunnels carry, on the data lane of a link: pieces out, in turn with those of large messages.

In: legs of tunnels that have bytes for a link, CARRY frames.  Out: pieces in the lane, and what has come to
the control.  The two kinds take turns, piece by piece, in that share of the link which delays nothing
behind it, and all that is on a lane counts against the window.  A leg has its own credit: what
it may not send it does not give, so it holds up nobody.

Held here: the turn of each leg, nothing of what it has.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from agentnet_core.framing cimport CARRY, Cursor, pack_bin_head, pack_u64, read_array, read_bin, read_uint
from agentnet_core.outflow cimport FRAME_OVERHEAD_BYTES, optional_bytes_max

from agentnet_core.config import BODY_BYTES
from agentnet_core.errors import ProtocolError

cdef enum:
    HEAD_BYTES = 1 + 9 + 5      # of a CARRY frame's body

cdef int64_t piece_bytes_max = BODY_BYTES


cdef class Freight(Operations):
    """The part of an engine that carries bytes for tunnels; `tunnels` knows whose they are."""

    def haul(self, Session session not None, leg):
        """A leg has something for its link: it is asked for pieces until it gives none."""
        if not session.closed:
            if session.freight is None:
                session.freight = {}
            session.freight[leg] = None
            self.mark(session)

    def unhaul(self, Session session not None, leg):
        """It has nothing any more."""
        if session.freight is not None:
            session.freight.pop(leg, None)

    def tunnelled(self, tunnel):
        """The driver is to look at an end of a tunnel."""
        self.now_ready.tunnels.append(tunnel)
        self.rouse()

    cdef int pump(self, Session session) except -1:
        if session.bulk:
            Operations.pump(self, session)
        while session.freight and self.put_freight(session):
            pass
        return 0

    cdef bint put_freight(self, Session session) except -1:
        """One piece of the leg whose turn it is; False if there is no room, or none has any."""
        cdef int64_t most = min(self.fragment_bytes, piece_bytes_max)
        cdef bytes piece
        cdef uint8_t* start
        cdef uint8_t* p
        cdef Py_ssize_t size
        while session.freight:
            if not session.share.has_room() or session.room() < most + HEAD_BYTES + FRAME_OVERHEAD_BYTES:
                return False
            leg = next(iter(session.freight))
            del session.freight[leg]
            piece = leg.take(most)
            if piece is None:
                continue
            session.freight[leg] = None     # behind the others
            size = PyBytes_GET_SIZE(piece)
            start = session.data.begin(CARRY, 0, HEAD_BYTES + size)
            start[0] = 0x92
            p = pack_bin_head(pack_u64(start + 1, <uint64_t>leg.number), <uint32_t>size)
            memcpy(p, PyBytes_AS_STRING(piece), size)
            session.sent += session.data.finish(start, p + size - start)
            session.share.sent(session.sent, self.now_ns)
            self.mark(session)
            return True
        return False

    cdef int count_data(self, Session session, Frame* frame) except -1:
        """A frame of the data lane has come: it must be within the credit that the peer was given."""
        session.received += frame.wire_size
        if session.received - session.reported > session.granted + optional_bytes_max:
            raise ProtocolError(f"{session.received - session.reported} bytes of data at once: expected at "
                                f"most {session.granted}, the credit that was given (link_window_bytes)")
        return 0

    cdef int on_carry(self, Session session, Frame* frame) except -1:
        cdef uint64_t number = 0
        cdef uint32_t n = 0
        cdef const uint8_t* data = NULL
        cdef Cursor c
        if not session.welcomed:
            raise ProtocolError("a CARRY frame before the link was welcomed")
        self.count_data(session, frame)
        session.parts_came = True
        c.at, c.end = frame.body, frame.body + frame.size
        if not (read_array(&c, &n) and n == 2 and read_uint(&c, &number) and read_bin(&c, &data, &n)
                and c.at == c.end):
            raise ProtocolError("CARRY frame: expected [number, bytes]")
        self.control.carried(session, number, PyBytes_FromStringAndSize(<const char*>data, n))
        return 0
