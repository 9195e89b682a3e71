from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from agentnet_core.framing cimport Cursor, put_u16, put_u32, put_u64


cdef struct Buffer:
    uint8_t* data
    size_t used, capacity

cdef int buffer_grow(Buffer* b, size_t more) except -1
cdef void buffer_free(Buffer* b) noexcept nogil

cdef inline int buffer_room(Buffer* b, size_t more) except -1:
    """After it, `more` bytes can be put without a further look."""
    if b.capacity - b.used < more:
        buffer_grow(b, more)
    return 0


# -- out: nothing here looks for room

cdef inline void put_raw(Buffer* b, const void* data, size_t n) noexcept nogil:
    memcpy(b.data + b.used, data, n)
    b.used += n

cdef inline void put_uint(Buffer* b, uint64_t v) noexcept nogil:
    """At most 9 bytes."""
    cdef uint8_t* p = b.data + b.used
    if v < 0x80:
        p[0] = <uint8_t>v
        b.used += 1
    elif v < 0x100:
        p[0] = 0xcc
        p[1] = <uint8_t>v
        b.used += 2
    elif v < 0x10000:
        p[0] = 0xcd
        put_u16(p + 1, <uint32_t>v)
        b.used += 3
    elif v >> 32 == 0:
        p[0] = 0xce
        put_u32(p + 1, <uint32_t>v)
        b.used += 5
    else:
        p[0] = 0xcf
        put_u64(p + 1, v)
        b.used += 9

cdef inline void put_int(Buffer* b, int64_t v) noexcept nogil:
    """At most 9 bytes."""
    cdef uint8_t* p = b.data + b.used
    if v >= 0:
        put_uint(b, <uint64_t>v)
    elif v >= -32:
        p[0] = <uint8_t>v
        b.used += 1
    elif v >= -0x80:
        p[0] = 0xd0
        p[1] = <uint8_t>v
        b.used += 2
    elif v >= -0x8000:
        p[0] = 0xd1
        put_u16(p + 1, <uint32_t>v & 0xffff)
        b.used += 3
    elif v >= -2147483648:
        p[0] = 0xd2
        put_u32(p + 1, <uint32_t>v)
        b.used += 5
    else:
        p[0] = 0xd3
        put_u64(p + 1, <uint64_t>v)
        b.used += 9

cdef inline void put_count(Buffer* b, uint32_t n, uint8_t fix, uint8_t tag16) noexcept nogil:
    """The head of an array (0x90, 0xdc) or a map (0x80, 0xde); at most 5 bytes."""
    cdef uint8_t* p = b.data + b.used
    if n < 16:
        p[0] = fix | <uint8_t>n
        b.used += 1
    elif n < 0x10000:
        p[0] = tag16
        put_u16(p + 1, n)
        b.used += 3
    else:
        p[0] = tag16 + 1
        put_u32(p + 1, n)
        b.used += 5

cdef inline void put_array(Buffer* b, uint32_t n) noexcept nogil:
    put_count(b, n, 0x90, 0xdc)

cdef inline void put_map(Buffer* b, uint32_t n) noexcept nogil:
    put_count(b, n, 0x80, 0xde)

cdef int put_str(Buffer* b, str text) except -1
cdef int put_key(Buffer* b, object key) except -1
cdef int put_value(Buffer* b, object value) except -1
cdef bytes buffer_bytes(Buffer* b)


# -- in: False, and the cursor anywhere, when the bytes are not what was asked for

cdef bint is_utf8(const uint8_t* p, size_t n) noexcept nogil
cdef bint read_key(Cursor* c, int depth) noexcept nogil
cdef bint read_value(Cursor* c, int depth) noexcept nogil
cdef object key_at(const uint8_t* p, size_t n)
cdef object value_at(const uint8_t* p, size_t n)

cdef enum:
    VALUE_DEPTH_MAX = 32
    KEY_DEPTH_MAX = 4
