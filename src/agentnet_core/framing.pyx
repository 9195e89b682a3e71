"""Bytes to frames and back.

A frame is `u32 length, u8 kind, u8 flags, body[, u32 crc32c]`, big-endian; `length` counts what
follows it.  The checksum covers kind, flags and body, and goes on from that of the frame before it
in its lane (messages, chunks of states and what tunnels carry, or all else), so that whole frames that
are lost, swapped or repeated are noticed, too.  The decoder takes bytes as they come (whole, byte by byte,
with a tail) and gives whole frames, views into the arena that die with the next read; a frame over the limit
is refused by its length alone, before anything is held for it.  The encoder writes into chunks that a
transport can write from without a copy.  MessagePack is written fixed-width, so that a message
is a handful of stores, and read in any width, so that any MessagePack library can speak to us.

Fails with ProtocolError, which says what was wrong and at which byte of the stream.
"""

from collections import deque

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdlib cimport free, malloc
from libc.string cimport memmove

from agentnet_core.errors import ProtocolError

cdef extern from "include/agentnet_crc32c.h":
    void agentnet_crc32c_setup() noexcept nogil
    uint32_t agentnet_crc32c_extend(uint32_t, const uint8_t*, size_t) noexcept nogil

agentnet_crc32c_setup()

KINDS = {
    HELLO: "HELLO", WELCOME: "WELCOME", CLOSE: "CLOSE", PING: "PING", PONG: "PONG",
    CREDIT: "CREDIT", STOP: "STOP", GO: "GO", MEMBERS: "MEMBERS", AGENTS: "AGENTS",
    CONFIRM: "CONFIRM", PROBE: "PROBE", VOUCH: "VOUCH", DIGEST: "DIGEST", RETIRE: "RETIRE", STAY: "STAY",
    STATUS: "STATUS", PULL: "PULL", DONE: "DONE", RETURN: "RETURN",
    GOSSIP: "GOSSIP", IHAVE: "IHAVE", GRAFT: "GRAFT", PRUNE: "PRUNE", GONE: "GONE",
    STATE: "STATE", STATE_CHUNK: "STATE_CHUNK", ROUND: "ROUND",
    TUNNEL: "TUNNEL", CARRY: "CARRY",
    MESSAGE: "MESSAGE", REFUSED: "REFUSED", CANCEL: "CANCEL", GRANT: "GRANT", TAKE: "TAKE",
}

cdef enum:
    CHUNK_BYTES = 262144
    COPY_BYTES_MAX = 2048       # below this, copying is cheaper than exporting a view
    POOL_CHUNKS_MAX = 4
    REST_BYTES_KEPT = 4096
    DEPTH_MAX = 64


cdef uint32_t crc32c_extend(uint32_t crc, const uint8_t* p, size_t n) noexcept nogil:
    return agentnet_crc32c_extend(crc, p, n)


def crc32c(const uint8_t[::1] data, uint32_t crc=0):
    """CRC-32C of a bytes-like object, continued from `crc`.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    if data.shape[0] == 0:
        return crc
    return agentnet_crc32c_extend(crc, &data[0], data.shape[0])


# -- MessagePack readers

cdef bint read_uint(Cursor* c, uint64_t* value) noexcept nogil:
    cdef uint8_t tag
    cdef Py_ssize_t left = c.end - c.at - 1
    if left < 0:
        return False
    tag = c.at[0]
    c.at += 1
    if tag == 0xcf and left >= 8:
        value[0] = get_u64(c.at)
        c.at += 8
    elif tag < 0x80:
        value[0] = tag
    elif tag == 0xce and left >= 4:
        value[0] = get_u32(c.at)
        c.at += 4
    elif tag == 0xcd and left >= 2:
        value[0] = get_u16(c.at)
        c.at += 2
    elif tag == 0xcc and left >= 1:
        value[0] = c.at[0]
        c.at += 1
    elif 0xd0 <= tag <= 0xd3:
        # Other libraries may write a positive number in a signed form.
        c.at -= 1
        return read_int(c, <int64_t*>value) and <int64_t>value[0] >= 0
    else:
        return False
    return True


cdef bint read_int(Cursor* c, int64_t* value) noexcept nogil:
    cdef uint8_t tag
    cdef uint64_t wide
    cdef Py_ssize_t left = c.end - c.at - 1
    if left < 0:
        return False
    tag = c.at[0]
    if tag == 0xd3 and left >= 8:
        value[0] = <int64_t>get_u64(c.at + 1)
        c.at += 9
    elif tag == 0xd2 and left >= 4:
        value[0] = <int>get_u32(c.at + 1)
        c.at += 5
    elif tag == 0xd1 and left >= 2:
        value[0] = <short>get_u16(c.at + 1)
        c.at += 3
    elif tag == 0xd0 and left >= 1:
        value[0] = <signed char>c.at[1]
        c.at += 2
    elif tag >= 0xe0:
        value[0] = <signed char>tag
        c.at += 1
    elif 0xd0 <= tag <= 0xd3:
        return False
    else:
        if not read_uint(c, &wide) or <int64_t>wide < 0:
            return False
        value[0] = <int64_t>wide
    return True


cdef inline bint read_sized(Cursor* c, uint8_t tag8, const uint8_t** data, uint32_t* n) noexcept nogil:
    """bin and str share their forms: 8, 16 and 32 bit lengths in consecutive tags."""
    cdef uint8_t tag = c.at[0]
    cdef Py_ssize_t left = c.end - c.at - 1
    cdef int width = 1 << (tag - tag8)
    if left < width:
        return False
    c.at += 1
    if width == 1:
        n[0] = c.at[0]
    elif width == 2:
        n[0] = get_u16(c.at)
    else:
        n[0] = get_u32(c.at)
    c.at += width
    if <Py_ssize_t>n[0] > c.end - c.at:
        return False
    data[0] = c.at
    c.at += n[0]
    return True


cdef bint read_bin(Cursor* c, const uint8_t** data, uint32_t* n) noexcept nogil:
    if c.at >= c.end or not 0xc4 <= c.at[0] <= 0xc6:
        return False
    return read_sized(c, 0xc4, data, n)


cdef bint read_str(Cursor* c, const uint8_t** data, uint32_t* n) noexcept nogil:
    if c.at >= c.end:
        return False
    if c.at[0] & 0xe0 == 0xa0:
        n[0] = c.at[0] & 0x1f
        c.at += 1
        if <Py_ssize_t>n[0] > c.end - c.at:
            return False
        data[0] = c.at
        c.at += n[0]
        return True
    return 0xd9 <= c.at[0] <= 0xdb and read_sized(c, 0xd9, data, n)


cdef inline bint read_count(Cursor* c, uint8_t fix, uint8_t tag16, uint32_t* n) noexcept nogil:
    cdef Py_ssize_t left = c.end - c.at - 1
    cdef uint8_t tag
    if left < 0:
        return False
    tag = c.at[0]
    c.at += 1
    if tag & 0xf0 == fix:
        n[0] = tag & 0x0f
    elif tag == tag16 and left >= 2:
        n[0] = get_u16(c.at)
        c.at += 2
    elif tag == tag16 + 1 and left >= 4:
        n[0] = get_u32(c.at)
        c.at += 4
    else:
        return False
    return True


cdef bint read_array(Cursor* c, uint32_t* n) noexcept nogil:
    # Every element takes at least one byte: a count beyond that is a bomb.
    return read_count(c, 0x90, 0xdc, n) and <Py_ssize_t>n[0] <= c.end - c.at


cdef bint read_map(Cursor* c, uint32_t* n) noexcept nogil:
    return read_count(c, 0x80, 0xde, n) and 2 * <Py_ssize_t>n[0] <= c.end - c.at


cdef bint skip_bytes(Cursor* c, Py_ssize_t n) noexcept nogil:
    if c.end - c.at < n:
        return False
    c.at += n
    return True


cdef bint skip_many(Cursor* c, Py_ssize_t n, int depth) noexcept nogil:
    if depth <= 0 and n > 0:
        return False
    while n > 0:
        if not skip_value(c, depth):
            return False
        n -= 1
    return True


cdef bint skip_value(Cursor* c, int depth) noexcept nogil:
    """Pass over one value of any type, nested at most `depth` deep."""
    cdef uint8_t tag
    cdef uint32_t n = 0
    cdef const uint8_t* data
    if c.at >= c.end:
        return False
    tag = c.at[0]
    if tag < 0x80 or tag >= 0xe0 or tag == 0xc0 or tag == 0xc2 or tag == 0xc3:
        c.at += 1
        return True
    if tag < 0x90 or tag == 0xde or tag == 0xdf:
        return read_map(c, &n) and skip_many(c, 2 * <Py_ssize_t>n, depth - 1)
    if tag < 0xa0 or tag == 0xdc or tag == 0xdd:
        return read_array(c, &n) and skip_many(c, n, depth - 1)
    if tag < 0xc0 or 0xd9 <= tag <= 0xdb:
        return read_str(c, &data, &n)
    if 0xc4 <= tag <= 0xc6:
        return read_bin(c, &data, &n)
    if 0xcc <= tag <= 0xd3:
        return skip_bytes(c, 1 + (1 << ((tag - 0xcc) & 3)))
    if tag == 0xca or tag == 0xcb:
        return skip_bytes(c, 5 if tag == 0xca else 9)
    if 0xd4 <= tag <= 0xd8:
        return skip_bytes(c, 2 + (1 << (tag - 0xd4)))
    if 0xc7 <= tag <= 0xc9:     # ext: length, type, data
        n = 1 << (tag - 0xc7)
        if c.end - c.at < <Py_ssize_t>n + 2:
            return False
        if n == 1:
            return skip_bytes(c, 3 + <Py_ssize_t>c.at[1])
        return skip_bytes(c, 2 + n + (<Py_ssize_t>get_u16(c.at + 1) if n == 2
                                      else <Py_ssize_t>get_u32(c.at + 1)))
    return False                # 0xc1 is never used


def check_msgpack(const uint8_t[::1] body, int depth_max=DEPTH_MAX, Py_ssize_t values_max=1):
    """Refuse what a MessagePack library should not be handed; ProtocolError says at which byte.

    `body` must hold exactly `values_max` values, nested at most `depth_max`, and every length and
    count must be covered by bytes that are there, so that decoding allocates in proportion to it.
    """
    cdef Cursor c
    cdef Py_ssize_t size = body.shape[0]
    cdef const uint8_t* start
    if size == 0:
        raise ProtocolError("MessagePack: expected a value, got no bytes")
    start = &body[0]
    c.at, c.end = start, start + size
    for _ in range(values_max):
        if not skip_value(&c, depth_max):
            raise ProtocolError(
                f"MessagePack: malformed, cut short or nested deeper than {depth_max} near byte "
                f"{min(<Py_ssize_t>(c.at - start), size)} of {size}")
    if c.at != c.end:
        raise ProtocolError(f"MessagePack: {c.end - c.at} bytes too many after byte {c.at - start}")


def split_msgpack(const uint8_t[::1] body, int depth_max=DEPTH_MAX):
    """The elements of the list that `body` is, each as its bytes; None where `check_msgpack` would refuse
    it, or where it is no list."""
    cdef Cursor c
    cdef const uint8_t* start
    cdef uint32_t n = 0
    if body.shape[0] == 0:
        return None
    c.at, c.end = &body[0], &body[0] + body.shape[0]
    if not read_array(&c, &n) or (n and depth_max <= 1):
        return None
    items = []
    for _ in range(n):
        start = c.at
        if not skip_value(&c, depth_max - 1):
            return None
        items.append(PyBytes_FromStringAndSize(<const char*>start, c.at - start))
    return items if c.at == c.end else None


# -- out

cdef class Chunk:
    def __cinit__(self, Py_ssize_t capacity):
        self.data = <uint8_t*>malloc(capacity)
        if self.data == NULL:
            raise MemoryError
        self.capacity = capacity

    def __dealloc__(self):
        free(self.data)

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.used, 1, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer* view):
        self.exports -= 1


cdef class Outbox:
    def __cinit__(self, bint checksum, Py_ssize_t chunk_bytes=CHUNK_BYTES):
        self.checksum = checksum
        self.chunk_bytes = chunk_bytes
        self.full = deque()
        self.pool = []

    def set_checksum(self, bint checksum):
        """Whether frames from here on carry a checksum."""
        self.checksum = checksum

    cdef uint8_t* reserve(self, Py_ssize_t n) except NULL:
        """Room for `n` bytes in a row; nothing counts as written before `finish`."""
        cdef Chunk chunk = self.open
        if chunk is not None:
            if chunk.capacity - chunk.used >= n:
                return chunk.data + chunk.used
            if chunk.used:
                self.full.append(chunk)
                self.open = None
        self.open = chunk = self._free_chunk(n)
        return chunk.data

    cdef Chunk _free_chunk(self, Py_ssize_t n):
        cdef Chunk chunk
        cdef Py_ssize_t i
        for i in range(len(self.pool)):
            chunk = self.pool[i]
            if chunk.exports == 0 and chunk.capacity >= n:
                del self.pool[i]
                chunk.used = 0
                return chunk
        return Chunk(max(n, self.chunk_bytes))

    cdef uint8_t* begin(self, uint8_t kind, uint8_t flags, Py_ssize_t body) except NULL:
        """Start a frame of at most `body` bytes; the caller writes them at the result, then `finish`es."""
        cdef uint8_t* p = self.reserve(FRAME_HEAD_BYTES + body + CHECKSUM_BYTES)
        p[4] = kind
        p[5] = flags | CHECKED if self.checksum else flags
        return p + FRAME_HEAD_BYTES

    cdef Py_ssize_t finish(self, uint8_t* body, Py_ssize_t size) noexcept:
        """End the frame whose body is `size` bytes; how many it takes on the wire."""
        cdef Py_ssize_t total = FRAME_HEAD_BYTES + size
        if self.checksum:
            self.chain = agentnet_crc32c_extend(self.chain, body - 2, size + 2)
            put_u32(body + size, self.chain)
            total += CHECKSUM_BYTES
        put_u32(body - FRAME_HEAD_BYTES, <uint32_t>(total - 4))
        self.open.used += total
        self.waiting += total
        return total

    cdef int put_frame(self, uint8_t kind, const uint8_t* body, Py_ssize_t size) except -1:
        cdef uint8_t* p = self.begin(kind, 0, size)
        if size:
            memcpy(p, body, size)
        self.finish(p, size)
        return 0

    def put(self, int kind, const uint8_t[::1] body):
        """Append one frame of `kind` with `body`."""
        self.put_frame(kind, &body[0] if body.shape[0] else NULL, body.shape[0])

    cpdef object take(self):
        """The next bytes to write, or None: bytes if few, else a view that keeps its chunk from reuse."""
        cdef Chunk chunk
        if self.full:
            chunk = self.full.popleft()
        elif self.open is not None and self.open.used:
            chunk = self.open
            if chunk.used <= COPY_BYTES_MAX:
                small = PyBytes_FromStringAndSize(<char*>chunk.data, chunk.used)
                self.waiting -= chunk.used
                chunk.used = 0
                return small
            self.open = None
        else:
            return None
        self.waiting -= chunk.used
        view = memoryview(chunk)
        if chunk.capacity == self.chunk_bytes:
            if len(self.pool) >= POOL_CHUNKS_MAX:
                del self.pool[0]
            self.pool.append(chunk)
        return view

    def clear(self):
        """Forget what waits."""
        self.full.clear()
        self.open = None
        self.pool.clear()
        self.waiting = 0


# -- in

cdef class Arena:
    """DANGER: frames point into it, so one decoder at a time, from `begin` to `keep`."""

    def __cinit__(self, Py_ssize_t frame_bytes_max):
        # A frame's beginning is put right before the read area, so that it is whole in one piece.
        self.carry = frame_bytes_max + FRAME_HEAD_BYTES
        self.data = <uint8_t*>malloc(self.carry + READ_BYTES)
        if self.data == NULL:
            raise MemoryError
        self.view = memoryview(self)

    def __dealloc__(self):
        free(self.data)

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.data + self.carry, READ_BYTES, 0, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer* view):
        self.exports -= 1


cdef class Decoder:
    """Frames from a stream of bytes. `offset`: bytes of the stream that whole frames have used.

    After an error the stream has no meaning any more: the link must be closed.
    """

    def __cinit__(self, Arena arena not None, bint checksum):
        self.arena = arena
        self.checksum = checksum
        self.frame_bytes_max = arena.carry - FRAME_HEAD_BYTES

    def __dealloc__(self):
        free(self.rest)

    cdef int begin(self, Py_ssize_t n) except -1:
        """`n` bytes have been read into the arena's view."""
        cdef uint8_t* start = self.arena.data + self.arena.carry
        if not 0 <= n <= READ_BYTES:
            raise ValueError(f"read of {n} bytes: expected 0 to {READ_BYTES}")
        self.end = start + n
        if self.rest_size:
            start -= self.rest_size
            memcpy(start, self.rest, self.rest_size)
            if self.rest_capacity > REST_BYTES_KEPT:
                free(self.rest)
                self.rest = NULL
                self.rest_capacity = 0
            self.rest_size = 0
        self.at = start
        return 0

    cdef int next(self, Frame* frame) except -1:
        """1 and a frame, or 0 when no whole one is left."""
        cdef const uint8_t* p = self.at
        cdef Py_ssize_t left = self.end - p
        cdef Py_ssize_t least = 2 + CHECKSUM_BYTES if self.checksum else 2
        cdef uint32_t length, chain
        cdef bint lane
        if left < 4:
            return 0
        length = get_u32(p)
        if length > <uint64_t>self.frame_bytes_max or length < least:
            raise ProtocolError(f"frame of {length} bytes at byte {self.offset}: expected {least} to "
                                f"{self.frame_bytes_max}")
        if left - 4 < <Py_ssize_t>length:
            return 0
        frame.kind = p[4]
        frame.flags = p[5] & ~CHECKED
        frame.body = p + FRAME_HEAD_BYTES
        frame.size = length - 2
        frame.wire_size = length + 4
        # Each frame says so itself: one side may learn a frame before the other that none are needed.
        if self.checksum or p[5] & CHECKED:
            if length < 2 + CHECKSUM_BYTES:
                raise ProtocolError(f"frame of {length} bytes at byte {self.offset}: "
                                    f"too short for its checksum")
            frame.size -= CHECKSUM_BYTES
            lane = is_data(frame.kind)
            chain = agentnet_crc32c_extend(self.chains[lane], p + 4, length - CHECKSUM_BYTES)
            if chain != get_u32(frame.body + frame.size):
                raise ProtocolError(f"frame at byte {self.offset}: its checksum does not match, "
                                    f"bytes were damaged or lost")
            self.chains[lane] = chain
        self.at = p + 4 + length
        self.offset += 4 + length
        return 1

    cdef int keep(self) except -1:
        """Save the beginning of a frame before the arena is read into again."""
        cdef Py_ssize_t n = self.end - self.at
        if n:
            if n > self.rest_capacity:
                free(self.rest)
                self.rest_capacity = 0
                self.rest = <uint8_t*>malloc(n)
                if self.rest == NULL:
                    raise MemoryError
                self.rest_capacity = n
            memmove(self.rest, self.at, n)
        self.rest_size = n
        self.at = self.end
        return 0

    def feed(self, const uint8_t[::1] data):
        """All whole frames once `data` has arrived, as (kind, flags, body) with copied bodies."""
        cdef Frame frame
        cdef Py_ssize_t done = 0, n, size = data.shape[0]
        frames = []
        while done < size:
            n = min(size - done, <Py_ssize_t>READ_BYTES)
            memcpy(self.arena.data + self.arena.carry, &data[done], n)
            done += n
            self.begin(n)
            while self.next(&frame):
                frames.append((frame.kind, frame.flags,
                               PyBytes_FromStringAndSize(<const char*>frame.body, frame.size)))
            self.keep()
        return frames
