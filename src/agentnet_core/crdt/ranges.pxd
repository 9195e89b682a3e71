from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    BLOCK = 32              # dots of one actor that have one sum


cdef struct Block:
    uint64_t number         # its dots begin at number * BLOCK
    uint64_t sum
    uint32_t actor
    uint32_t count          # entries; none: the slot is empty


cdef struct Sums:
    Block* slots
    size_t mask, used
    uint64_t total          # of all entries
    uint64_t key0, key1
    bint lost               # there was no memory for a block: only `total` is right


cdef void sums_add(Sums* sums, uint32_t actor, uint64_t dot, uint64_t mark) noexcept nogil
cdef void sums_drop(Sums* sums, uint32_t actor, uint64_t dot, uint64_t mark) noexcept nogil
cdef uint64_t sums_of(const Sums* sums, uint32_t actor, uint64_t first, uint64_t end) noexcept nogil
cdef void sums_clear(Sums* sums) noexcept nogil
