from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef extern from *:
    """
    static inline uint16_t agentnet_be16(uint16_t v) {
    #if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        return __builtin_bswap16(v);
    #else
        return v;
    #endif
    }
    static inline uint32_t agentnet_be32(uint32_t v) {
    #if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        return __builtin_bswap32(v);
    #else
        return v;
    #endif
    }
    static inline uint64_t agentnet_be64(uint64_t v) {
    #if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        return __builtin_bswap64(v);
    #else
        return v;
    #endif
    }
    """
    uint16_t agentnet_be16(uint16_t v) noexcept nogil
    uint32_t agentnet_be32(uint32_t v) noexcept nogil
    uint64_t agentnet_be64(uint64_t v) noexcept nogil


cdef enum Kind:
    HELLO = 0
    WELCOME = 1
    CLOSE = 2
    PING = 3
    PONG = 4
    CREDIT = 5
    STOP = 6
    GO = 7
    MEMBERS = 8
    AGENTS = 9
    CONFIRM = 10
    PROBE = 11
    VOUCH = 12
    DIGEST = 13
    RETIRE = 14
    STAY = 15
    STATUS = 18
    PULL = 19
    DONE = 22
    RETURN = 23
    GOSSIP = 24
    IHAVE = 25
    GRAFT = 26
    PRUNE = 27
    GONE = 28
    STATE = 29
    STATE_CHUNK = 30
    TUNNEL = 31
    CARRY = 33
    CANCEL = 32
    GRANT = 34
    ROUND = 35
    TAKE = 41
    MESSAGE = 16
    REFUSED = 17

cdef enum Flag:
    OPTIONAL_FIELDS = 1
    CHECKED = 2             # a checksum follows the body

cdef enum:
    FRAME_HEAD_BYTES = 6
    CHECKSUM_BYTES = 4
    READ_BYTES = 131072


# -- MessagePack, written fixed-width, read in any width

cdef inline uint8_t* put_u16(uint8_t* p, uint16_t v) noexcept nogil:
    v = agentnet_be16(v)
    memcpy(p, &v, 2)
    return p + 2

cdef inline uint8_t* put_u32(uint8_t* p, uint32_t v) noexcept nogil:
    v = agentnet_be32(v)
    memcpy(p, &v, 4)
    return p + 4

cdef inline uint8_t* put_u64(uint8_t* p, uint64_t v) noexcept nogil:
    v = agentnet_be64(v)
    memcpy(p, &v, 8)
    return p + 8

cdef inline uint16_t get_u16(const uint8_t* p) noexcept nogil:
    cdef uint16_t v
    memcpy(&v, p, 2)
    return agentnet_be16(v)

cdef inline uint32_t get_u32(const uint8_t* p) noexcept nogil:
    cdef uint32_t v
    memcpy(&v, p, 4)
    return agentnet_be32(v)

cdef inline uint64_t get_u64(const uint8_t* p) noexcept nogil:
    cdef uint64_t v
    memcpy(&v, p, 8)
    return agentnet_be64(v)

cdef inline uint8_t* pack_u64(uint8_t* p, uint64_t v) noexcept nogil:
    p[0] = 0xcf
    return put_u64(p + 1, v)

cdef inline uint8_t* pack_bin_head(uint8_t* p, uint32_t n) noexcept nogil:
    p[0] = 0xc6
    return put_u32(p + 1, n)


cdef struct Cursor:
    const uint8_t* at
    const uint8_t* end

# Readers return False, and leave the cursor anywhere, when the bytes are not what was asked for.
cdef bint read_uint(Cursor* c, uint64_t* value) noexcept nogil
cdef bint read_int(Cursor* c, int64_t* value) noexcept nogil
cdef bint read_bin(Cursor* c, const uint8_t** data, uint32_t* n) noexcept nogil
cdef bint read_str(Cursor* c, const uint8_t** data, uint32_t* n) noexcept nogil
cdef bint read_array(Cursor* c, uint32_t* n) noexcept nogil
cdef bint read_map(Cursor* c, uint32_t* n) noexcept nogil
cdef bint skip_value(Cursor* c, int depth) noexcept nogil

cdef uint32_t crc32c_extend(uint32_t crc, const uint8_t* p, size_t n) noexcept nogil


cdef inline bint is_data(uint8_t kind) noexcept nogil:
    """Whether frames of that kind are on the data lane."""
    return kind == MESSAGE or kind == STATE_CHUNK or kind == CARRY


cdef struct Frame:
    uint8_t kind
    uint8_t flags
    const uint8_t* body
    uint32_t size           # of the body
    uint32_t wire_size      # of the whole frame, as both sides count it for credit


cdef class Chunk:
    """Bytes on their way out. Exported while a transport writes from it; reused after that."""
    cdef uint8_t* data
    cdef Py_ssize_t used, capacity
    cdef int exports


cdef class Outbox:
    """Encoded frames of one lane, in order, in chunks that a transport can write from."""
    cdef readonly Py_ssize_t waiting
    cdef readonly bint checksum
    cdef Py_ssize_t chunk_bytes
    cdef uint32_t chain         # checksum of the last frame
    cdef Chunk open
    cdef object full            # deque of Chunk
    cdef list pool
    cdef Chunk _free_chunk(self, Py_ssize_t n)
    cdef uint8_t* reserve(self, Py_ssize_t n) except NULL
    cdef uint8_t* begin(self, uint8_t kind, uint8_t flags, Py_ssize_t body) except NULL
    cdef Py_ssize_t finish(self, uint8_t* body, Py_ssize_t size) noexcept
    cdef int put_frame(self, uint8_t kind, const uint8_t* body, Py_ssize_t size) except -1
    cpdef object take(self)


cdef class Arena:
    """Where one engine reads: room for a frame's beginning, then READ_BYTES for the transport."""
    cdef uint8_t* data
    cdef Py_ssize_t carry
    cdef readonly object view
    cdef int exports


cdef class Decoder:
    cdef readonly Arena arena
    cdef readonly Py_ssize_t frame_bytes_max
    cdef public bint checksum
    cdef readonly uint64_t offset
    cdef uint32_t[2] chains     # checksums of the last frames: control, data
    cdef const uint8_t* at
    cdef const uint8_t* end
    cdef uint8_t* rest
    cdef Py_ssize_t rest_size, rest_capacity
    cdef int begin(self, Py_ssize_t n) except -1
    cdef int next(self, Frame* frame) except -1
    cdef int keep(self) except -1
