from libc.stdint cimport uint8_t, uint64_t


cdef enum:
    PACKET_BYTES = 1200
    KEY_BYTES = 32
    STACK_BYTES = 1024
    FREE = 0
    STACK = 1
    ASKED = 2
    LOCKED = 3
    STILL = 4


cdef struct State:              # what an answer tells
    uint64_t incarnation, lag_ns
    uint8_t kind                # one of the five above
    int stack_size
    const char* stack


# Whether `probe`, PACKET_BYTES long, is sealed by a key that `secret` made; then that is in `key`.
cdef bint open_probe(const uint8_t* probe, const uint8_t* secret, uint8_t* key) noexcept nogil
# The size of the answer in `out`, which has room for PACKET_BYTES. `count` may serve one answer only.
cdef int write_answer(uint8_t* out, const uint8_t* probe, const uint8_t* key, uint64_t count,
                      State* state) noexcept nogil
