"""The bytes of probes and answers, for the thread that runs no Python: BLAKE2s, seal, veil, answer.

`agentnet.liveness.packets` tells what the bytes are, and writes and reads them with Python's own
BLAKE2s; the two must agree.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

cdef enum:
    SALT_BYTES = 16
    NONCE_BYTES = 16
    SEAL_BYTES = 16
    HEAD_BYTES = 36             # of a probe, before its seal
    ANSWER_HEAD_BYTES = 28
    PLAIN_BYTES = 17            # incarnation, lag, state
    FOR_KEY = 0
    FOR_PROBE = 1
    FOR_ANSWER = 2
    FOR_VEIL = 3


# -- BLAKE2s, keyed (RFC 7693)

cdef uint32_t[8] IV = [0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
                       0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19]
cdef uint8_t[10][16] SIGMA = [
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
    [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
    [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
    [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
    [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
    [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
    [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
    [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
    [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
    [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
]


cdef inline uint32_t turn(uint32_t x, int n) noexcept nogil:
    return (x >> n) | (x << (32 - n))


cdef inline void mix(uint32_t* v, int a, int b, int c, int d, uint32_t x, uint32_t y) noexcept nogil:
    v[a] = v[a] + v[b] + x
    v[d] = turn(v[d] ^ v[a], 16)
    v[c] = v[c] + v[d]
    v[b] = turn(v[b] ^ v[c], 12)
    v[a] = v[a] + v[b] + y
    v[d] = turn(v[d] ^ v[a], 8)
    v[c] = v[c] + v[d]
    v[b] = turn(v[b] ^ v[c], 7)


cdef void compress(uint32_t* h, const uint8_t* block, uint32_t count, bint last) noexcept nogil:
    cdef uint32_t v[16]
    cdef uint32_t m[16]
    cdef int i
    cdef uint8_t* s
    for i in range(16):
        m[i] = (<uint32_t>block[4 * i] | <uint32_t>block[4 * i + 1] << 8 | <uint32_t>block[4 * i + 2] << 16
                | <uint32_t>block[4 * i + 3] << 24)
    for i in range(8):
        v[i], v[i + 8] = h[i], IV[i]
    v[12] ^= count
    if last:
        v[14] = ~v[14]
    for i in range(10):
        s = SIGMA[i]
        mix(v, 0, 4, 8, 12, m[s[0]], m[s[1]])
        mix(v, 1, 5, 9, 13, m[s[2]], m[s[3]])
        mix(v, 2, 6, 10, 14, m[s[4]], m[s[5]])
        mix(v, 3, 7, 11, 15, m[s[6]], m[s[7]])
        mix(v, 0, 5, 10, 15, m[s[8]], m[s[9]])
        mix(v, 1, 6, 11, 12, m[s[10]], m[s[11]])
        mix(v, 2, 7, 8, 13, m[s[12]], m[s[13]])
        mix(v, 3, 4, 9, 14, m[s[14]], m[s[15]])
    for i in range(8):
        h[i] ^= v[i] ^ v[i + 8]


cdef void blake2s(uint8_t* out, int out_size, const uint8_t* key, uint8_t purpose,
                  const uint8_t* data, int size) noexcept nogil:
    """Of `purpose`, one byte, and then `data`, under a key of KEY_BYTES."""
    cdef uint32_t h[8]
    cdef uint8_t block[64]
    cdef int i, n, taken = 0
    cdef uint32_t count = 64
    for i in range(8):
        h[i] = IV[i]
    h[0] ^= 0x01010000 ^ (KEY_BYTES << 8) ^ <uint32_t>out_size
    memset(block, 0, 64)
    memcpy(block, key, KEY_BYTES)
    compress(h, block, count, False)        # never the last: `purpose` follows
    block[0] = purpose
    n = 1
    while True:
        i = size - taken if size - taken < 64 - n else 64 - n
        if i:
            memcpy(block + n, data + taken, i)
        memset(block + n + i, 0, 64 - n - i)
        taken += i
        count += n + i
        n = 0
        compress(h, block, count, taken == size)
        if taken == size:
            break
    for i in range(out_size):
        out[i] = <uint8_t>(h[i >> 2] >> (8 * (i & 3)))


cdef bint is_equal(const uint8_t* one, const uint8_t* other, int size) noexcept nogil:
    """In a time that does not tell where they differ."""
    cdef uint8_t differ = 0
    cdef int i
    for i in range(size):
        differ |= one[i] ^ other[i]
    return differ == 0


# -- an answer


cdef void put_u64(uint8_t* at, uint64_t value) noexcept nogil:
    cdef int i
    for i in range(8):
        at[i] = <uint8_t>(value >> (56 - 8 * i))


cdef bint open_probe(const uint8_t* probe, const uint8_t* secret, uint8_t* key) noexcept nogil:
    cdef uint8_t seal[SEAL_BYTES]
    if memcmp(probe, "anp1", 4):
        return False
    blake2s(key, KEY_BYTES, secret, FOR_KEY, probe + 4, SALT_BYTES)
    blake2s(seal, SEAL_BYTES, key, FOR_PROBE, probe, HEAD_BYTES)
    return is_equal(seal, probe + HEAD_BYTES, SEAL_BYTES)


cdef int write_answer(uint8_t* out, const uint8_t* probe, const uint8_t* key, uint64_t count,
                      State* state) noexcept nogil:
    cdef uint8_t veil[32]
    cdef uint8_t place[12]
    cdef uint8_t* plain = out + ANSWER_HEAD_BYTES
    cdef int i, size = PLAIN_BYTES + state.stack_size
    memcpy(out, "ana1", 4)
    memcpy(out + 4, probe + 4 + SALT_BYTES, NONCE_BYTES)
    put_u64(out + 4 + NONCE_BYTES, count)
    put_u64(plain, state.incarnation)
    put_u64(plain + 8, state.lag_ns)
    plain[16] = state.kind
    memcpy(plain + PLAIN_BYTES, state.stack, state.stack_size)
    put_u64(place, count)
    memset(place + 8, 0, 4)
    for i in range(size):
        if i % 32 == 0:
            place[10], place[11] = <uint8_t>(i // 32 >> 8), <uint8_t>(i // 32)
            blake2s(veil, 32, key, FOR_VEIL, place, 12)
        plain[i] ^= veil[i % 32]
    size += ANSWER_HEAD_BYTES
    blake2s(out + size, SEAL_BYTES, key, FOR_ANSWER, out, size)
    return size + SEAL_BYTES
