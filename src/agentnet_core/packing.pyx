"""The shortest MessagePack: what states and clocks are made of, so that equal things are equal bytes.

A key is a str, bytes, an int or a tuple of keys, in its shortest form only: bytes then tell whether two
keys are the same.  A value is whatever MessagePack has, in any form, kept as its bytes.  `read_key` and
`read_value` pass over what a peer sent and take nothing that could not be read later: no text that is
not UTF-8, no map key that Python cannot have, no depth over the limit.

Fails with PayloadMismatch when a key or value of the caller's is none of these.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.long cimport PyLong_AsLongLongAndOverflow
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeUTF8
from libc.stdlib cimport free, realloc

from agentnet_core.framing cimport (
    get_u16, get_u32, read_array, read_bin, read_int, read_map, read_str, read_uint,
)

import msgpack

from agentnet_core.errors import PayloadMismatch
from agentnet_core.records import describe

cdef enum:
    BUFFER_BYTES_MIN = 64


cdef int buffer_grow(Buffer* b, size_t more) except -1:
    cdef size_t wanted = b.used + more
    cdef size_t capacity = b.capacity * 2 if b.capacity else BUFFER_BYTES_MIN
    cdef uint8_t* data
    while capacity < wanted:
        capacity *= 2
    data = <uint8_t*>realloc(b.data, capacity)
    if data == NULL:
        raise MemoryError
    b.data, b.capacity = data, capacity
    return 0


cdef void buffer_free(Buffer* b) noexcept nogil:
    free(b.data)
    b.data = NULL
    b.used = b.capacity = 0


cdef bytes buffer_bytes(Buffer* b):
    return PyBytes_FromStringAndSize(<char*>b.data, b.used)


# -- out

cdef int put_str(Buffer* b, str text) except -1:
    cdef Py_ssize_t n = 0
    cdef const char* data
    try:
        data = PyUnicode_AsUTF8AndSize(text, &n)
    except UnicodeEncodeError:
        raise PayloadMismatch(f"{describe(text)}: expected text that UTF-8 can hold") from None
    if n > 0xffffffff:
        raise PayloadMismatch("text of more than 4 GiB: MessagePack has no form for it")
    buffer_room(b, n + 5)
    if n < 32:
        b.data[b.used] = <uint8_t>(0xa0 | n)
        b.used += 1
    else:
        put_sized(b, 0xd9, n)
    put_raw(b, data, n)
    return 0


cdef inline void put_sized(Buffer* b, uint8_t tag8, Py_ssize_t n) noexcept nogil:
    """The head of a str beyond 31 bytes, or of a bin; at most 5 bytes."""
    cdef uint8_t* p = b.data + b.used
    if n < 0x100:
        p[0] = tag8
        p[1] = <uint8_t>n
        b.used += 2
    elif n < 0x10000:
        p[0] = tag8 + 1
        put_u16(p + 1, <uint32_t>n)
        b.used += 3
    else:
        p[0] = tag8 + 2
        put_u32(p + 1, <uint32_t>n)
        b.used += 5


cdef int put_bytes(Buffer* b, bytes data) except -1:
    cdef Py_ssize_t n = PyBytes_GET_SIZE(data)
    if n > 0xffffffff:
        raise PayloadMismatch("more than 4 GiB of bytes: MessagePack has no form for it")
    buffer_room(b, n + 5)
    put_sized(b, 0xc4, n)
    put_raw(b, PyBytes_AS_STRING(data), n)
    return 0


cdef int put_integer(Buffer* b, object number) except -1:
    cdef int overflow = 0
    cdef long long small = PyLong_AsLongLongAndOverflow(number, &overflow)
    buffer_room(b, 9)
    if not overflow:
        put_int(b, small)
    elif overflow > 0 and number < 1 << 64:
        put_uint(b, <uint64_t>number)
    else:
        raise PayloadMismatch(f"{describe(number)}: expected an integer of at most 64 bits")
    return 0


cdef int put_key(Buffer* b, object key) except -1:
    put_key_within(b, key, KEY_DEPTH_MAX)
    return 0


cdef int put_key_within(Buffer* b, object key, int depth) except -1:
    if type(key) is str:
        put_str(b, key)
    elif type(key) is int:
        put_integer(b, key)
    elif type(key) is bytes:
        put_bytes(b, key)
    elif type(key) is tuple and depth > 0:
        buffer_room(b, 5)
        put_array(b, <uint32_t>len(key))
        for part in key:
            put_key_within(b, part, depth - 1)
    else:
        raise PayloadMismatch(f"key {describe(key)}: expected a str, bytes, an int, or a tuple of these at "
                              f"most {KEY_DEPTH_MAX} deep")
    return 0


cdef int put_value(Buffer* b, object value) except -1:
    cdef Cursor c
    cdef bytes packed
    if type(value) is int:
        put_integer(b, value)
    elif type(value) is str:
        put_str(b, value)
    elif type(value) is bytes:
        put_bytes(b, value)
    else:
        try:
            packed = msgpack.packb(value)
        except (TypeError, ValueError, OverflowError) as error:
            text = f"value {describe(value)}: expected what MessagePack can hold: {error}"
            raise PayloadMismatch(text) from None
        c.at = <const uint8_t*>PyBytes_AS_STRING(packed)
        c.end = c.at + PyBytes_GET_SIZE(packed)
        if not read_value(&c, VALUE_DEPTH_MAX):
            raise PayloadMismatch(f"value {describe(value)}: expected one nested at most {VALUE_DEPTH_MAX} "
                                  "deep, its "
                                  f"map keys str, bytes, int, float, bool or None, its ext codes 0 to 127")
        buffer_room(b, PyBytes_GET_SIZE(packed))
        put_raw(b, PyBytes_AS_STRING(packed), PyBytes_GET_SIZE(packed))
    return 0


# -- in

cdef bint is_utf8(const uint8_t* p, size_t n) noexcept nogil:
    """As strict as Python: no surrogates, nothing longer than need be."""
    cdef const uint8_t* end = p + n
    cdef uint64_t word
    cdef uint32_t code
    cdef int more, i
    while p < end:
        while end - p >= 8:
            memcpy(&word, p, 8)
            if word & <uint64_t>0x8080808080808080:
                break
            p += 8
        if p == end:
            break
        if p[0] < 0x80:
            p += 1
            continue
        if 0xc2 <= p[0] < 0xe0:
            more, code = 1, p[0] & 0x1f
        elif 0xe0 <= p[0] < 0xf0:
            more, code = 2, p[0] & 0x0f
        elif 0xf0 <= p[0] < 0xf5:
            more, code = 3, p[0] & 0x07
        else:
            return False
        if end - p <= more:
            return False
        for i in range(1, more + 1):
            if p[i] & 0xc0 != 0x80:
                return False
            code = code << 6 | (p[i] & 0x3f)
        if (more == 2 and (code < 0x800 or 0xd800 <= code < 0xe000)) or (
                more == 3 and not 0x10000 <= code < 0x110000):
            return False
        p += more + 1
    return True


cdef inline bint read_text(Cursor* c, uint32_t* n) noexcept nogil:
    cdef const uint8_t* data = NULL
    return read_str(c, &data, n) and is_utf8(data, n[0])


cdef bint read_key(Cursor* c, int depth) noexcept nogil:
    """Pass over one key in its shortest form; tuples nested at most `depth` deep."""
    cdef uint8_t tag
    cdef uint32_t n = 0
    cdef const uint8_t* start = c.at
    cdef const uint8_t* data
    if c.at >= c.end:
        return False
    tag = start[0]
    if tag < 0x80 or tag >= 0xe0:
        c.at += 1
        return True
    if tag & 0xe0 == 0xa0:
        return read_text(c, &n)
    if 0xd9 <= tag <= 0xdb:
        return read_text(c, &n) and is_shortest_length(n, tag - 0xd9, 32)
    if 0xc4 <= tag <= 0xc6:
        return read_bin(c, &data, &n) and is_shortest_length(n, tag - 0xc4, 0)
    if 0xcc <= tag <= 0xd3:
        return read_shortest_int(c, tag)
    if tag & 0xf0 == 0x90 or tag == 0xdc or tag == 0xdd:
        if depth <= 0 or not read_array(c, &n):
            return False
        if (tag == 0xdc and n < 16) or (tag == 0xdd and n < 0x10000):
            return False
        while n > 0:
            if not read_key(c, depth - 1):
                return False
            n -= 1
        return True
    return False


cdef inline bint is_shortest_length(uint32_t n, int width, uint32_t least) noexcept nogil:
    """Whether a length of 1 << width bytes is needed for n."""
    if width == 0:
        return n >= least
    return n >= 0x100 if width == 1 else n >= 0x10000


cdef inline bint read_shortest_int(Cursor* c, uint8_t tag) noexcept nogil:
    cdef uint64_t wide = 0
    cdef int64_t narrow = 0
    if tag < 0xd0:
        if not read_uint(c, &wide):
            return False
        return wide >= (0x80 if tag == 0xcc else 0x100 if tag == 0xcd else
                        0x10000 if tag == 0xce else <uint64_t>1 << 32)
    if not read_int(c, &narrow):
        return False
    return narrow < (-32 if tag == 0xd0 else -0x80 if tag == 0xd1 else
                     -0x8000 if tag == 0xd2 else -2147483648)


cdef bint read_value(Cursor* c, int depth) noexcept nogil:
    """Pass over one value, nested at most `depth` deep, that msgpack will read."""
    cdef uint8_t tag
    cdef uint32_t n = 0
    cdef const uint8_t* data
    if c.at >= c.end:
        return False
    tag = c.at[0]
    if tag < 0x80 or tag >= 0xe0 or tag == 0xc0 or tag == 0xc2 or tag == 0xc3:
        c.at += 1
        return True
    if 0xa0 <= tag < 0xc0 or 0xd9 <= tag <= 0xdb:
        return read_text(c, &n)
    if 0xcc <= tag <= 0xd3:
        return skip_bytes(c, 1 + (1 << ((tag - 0xcc) & 3)))
    if tag == 0xca or tag == 0xcb:
        return skip_bytes(c, 5 if tag == 0xca else 9)
    if 0xc4 <= tag <= 0xc6:
        return read_bin(c, &data, &n)
    if 0x90 <= tag < 0xa0 or tag == 0xdc or tag == 0xdd:
        if depth <= 0 or not read_array(c, &n):
            return False
        while n > 0:
            if not read_value(c, depth - 1):
                return False
            n -= 1
        return True
    if 0x80 <= tag < 0x90 or tag == 0xde or tag == 0xdf:
        if depth <= 0 or not read_map(c, &n):
            return False
        while n > 0:
            # A list, a map or an ext as a map key: Python could not read it.
            if c.at >= c.end or not is_map_key(c.at[0]) or not read_value(c, 0):
                return False
            if not read_value(c, depth - 1):
                return False
            n -= 1
        return True
    return read_ext(c, tag)


cdef inline bint is_map_key(uint8_t tag) noexcept nogil:
    return not (0x80 <= tag < 0xa0 or 0xc7 <= tag <= 0xc9 or 0xd4 <= tag <= 0xd8 or 0xdc <= tag <= 0xdf)


cdef inline bint read_ext(Cursor* c, uint8_t tag) noexcept nogil:
    """Codes below 0 are MessagePack's own, with forms of their own."""
    cdef size_t left = c.end - c.at
    cdef size_t head, n
    if 0xd4 <= tag <= 0xd8:
        head, n = 1, <size_t>1 << (tag - 0xd4)
    elif tag == 0xc7 and left >= 2:
        head, n = 2, c.at[1]
    elif tag == 0xc8 and left >= 3:
        head, n = 3, get_u16(c.at + 1)
    elif tag == 0xc9 and left >= 5:
        head, n = 5, get_u32(c.at + 1)
    else:
        return False
    return left > head and c.at[head] < 0x80 and skip_bytes(c, head + 1 + n)


cdef inline bint skip_bytes(Cursor* c, size_t n) noexcept nogil:
    if <size_t>(c.end - c.at) < n:
        return False
    c.at += n
    return True


cdef object value_at(const uint8_t* p, size_t n):
    """The value whose bytes these are; they have passed `read_value`."""
    cdef uint8_t tag = p[0]
    cdef Cursor c
    cdef int64_t number = 0
    if tag < 0x80:
        return tag
    if tag & 0xe0 == 0xa0:
        return PyUnicode_DecodeUTF8(<char*>p + 1, n - 1, NULL)
    if tag == 0xc0:
        return None
    if tag == 0xc2 or tag == 0xc3:
        return tag == 0xc3
    if 0xd0 <= tag <= 0xd3 or 0xcc <= tag <= 0xcf or tag >= 0xe0:
        c.at, c.end = p, p + n
        if read_int(&c, &number):
            return number
    return msgpack.unpackb(PyBytes_FromStringAndSize(<char*>p, n), raw=False, strict_map_key=False)


cdef object key_at(const uint8_t* p, size_t n):
    """The key whose bytes these are; they have passed `read_key`."""
    if p[0] & 0xf0 == 0x90 or p[0] == 0xdc or p[0] == 0xdd:
        return msgpack.unpackb(PyBytes_FromStringAndSize(<char*>p, n), raw=False, use_list=False)
    return value_at(p, n)


def check_value(const uint8_t[::1] data):
    """Whether `data` is one value that a state would keep."""
    cdef Cursor c
    if data.shape[0] == 0:
        return False
    c.at, c.end = &data[0], &data[0] + data.shape[0]
    return read_value(&c, VALUE_DEPTH_MAX) and c.at == c.end


def check_key(const uint8_t[::1] data):
    """Whether `data` is one key in its shortest form."""
    cdef Cursor c
    if data.shape[0] == 0:
        return False
    c.at, c.end = &data[0], &data[0] + data.shape[0]
    return read_key(&c, KEY_DEPTH_MAX) and c.at == c.end
