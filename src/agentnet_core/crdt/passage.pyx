"""What a passage of a text is on the wire: False for all that `sequence` could not read.

Its key is `[actor, number]`; its value `[key of its parent or nil, place, [gap, length, ...], text]`, where
the gaps are characters of the text and the lengths those that were deleted behind each.  All in all it has 1
to `PASSAGE_MAX` characters, so that no passage takes more memory than its bytes say.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from agentnet_core.framing cimport Cursor, read_array, read_str, read_uint
from agentnet_core.packing cimport KEY_DEPTH_MAX, is_utf8, read_key

from agentnet_core.config import ACTOR_BYTES_MAX
from agentnet_core.crdt.sequence import PASSAGE_MAX

cdef uint32_t actor_bytes_max = ACTOR_BYTES_MAX
cdef uint64_t passage_max = PASSAGE_MAX


cdef bint read_passage_key(Cursor* c) noexcept nogil:
    cdef Cursor inner = c[0]
    cdef const uint8_t* name = NULL
    cdef uint32_t n = 0
    cdef uint64_t number = 0
    return read_key(c, KEY_DEPTH_MAX) and read_array(&inner, &n) and n == 2 and (
        read_str(&inner, &name, &n)) and 0 < n <= actor_bytes_max and (
        read_uint(&inner, &number)) and number > 0 and inner.at == c.at


cdef bint read_passage(Cursor* c) noexcept nogil:
    cdef const uint8_t* text = NULL
    cdef uint32_t n = 0, i
    cdef uint64_t place = 0, gap = 0, length = 0, living = 0, dead = 0, size = 0
    if not read_array(c, &n) or n != 4 or c.at >= c.end:
        return False
    if c.at[0] == 0xc0:
        c.at += 1
        if not read_uint(c, &place) or place != 0:
            return False
    elif not read_passage_key(c) or not read_uint(c, &place) or place >= 2 * passage_max:
        return False
    if not read_array(c, &n) or n % 2:
        return False
    for i in range(0, n, 2):
        if not read_uint(c, &gap) or not read_uint(c, &length) or length == 0 or (i > 0 and gap == 0) or (
                gap > passage_max or length > passage_max):
            return False
        living += gap
        dead += length
        if living + dead > passage_max:
            return False
    if not read_str(c, &text, &n) or not is_utf8(text, n):
        return False
    for i in range(n):
        size += (text[i] & 0xc0) != 0x80
    return living <= size and 0 < size + dead <= passage_max
