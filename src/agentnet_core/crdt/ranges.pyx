"""What two replicas compare instead of their entries: sums of the entries' marks, kept as these come and go.

A mark is 64 bits that its dot and all of its content decide.  The dots of an actor are cut into blocks, and
each block with entries has the sum of their marks; a range of blocks has the sum of theirs.  So equal
sums mean equal entries, and where two differ, halves of the range tell where: what that costs
depends on how much differs.  A block takes 32 bytes for up to 32 entries.

Nothing here can fail: without memory for a block the sums of ranges are given up, and that of all stays.
"""

from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free

cdef extern from "agentnet_siphash.h":
    uint64_t agentnet_siphash13(uint64_t, uint64_t, const uint8_t*, size_t) noexcept nogil

cdef enum:
    SLOTS_MIN = 8


cdef inline size_t slot_of(const Sums* sums, uint32_t actor, uint64_t number) noexcept nogil:
    cdef uint64_t[2] words
    words[0], words[1] = number, actor
    return agentnet_siphash13(sums.key0, sums.key1, <const uint8_t*>words, 16) & sums.mask


cdef inline size_t find(const Sums* sums, uint32_t actor, uint64_t number) noexcept nogil:
    """The slot of the block, or the empty one where it would be."""
    cdef size_t at = slot_of(sums, actor, number)
    while sums.slots[at].count and (sums.slots[at].number != number or sums.slots[at].actor != actor):
        at = (at + 1) & sums.mask
    return at


cdef bint grow(Sums* sums) noexcept nogil:
    cdef Sums wider = sums[0]
    cdef size_t i
    wider.mask = 2 * sums.mask + 1 if sums.slots != NULL else SLOTS_MIN - 1
    wider.slots = <Block*>calloc(wider.mask + 1, sizeof(Block))
    if wider.slots == NULL:
        return False
    if sums.slots != NULL:
        for i in range(sums.mask + 1):
            if sums.slots[i].count:
                wider.slots[find(&wider, sums.slots[i].actor, sums.slots[i].number)] = sums.slots[i]
        free(sums.slots)
    sums[0] = wider
    return True


cdef void sums_add(Sums* sums, uint32_t actor, uint64_t dot, uint64_t mark) noexcept nogil:
    """An entry came."""
    cdef Block* block
    sums.total += mark
    if sums.lost:
        return
    if (sums.slots == NULL or 3 * (sums.used + 1) > 2 * (sums.mask + 1)) and not grow(sums):
        free(sums.slots)
        sums.slots = NULL
        sums.lost = True
        return
    block = &sums.slots[find(sums, actor, dot // BLOCK)]
    if not block.count:
        block.actor, block.number, block.sum = actor, dot // BLOCK, 0
        sums.used += 1
    block.count += 1
    block.sum += mark


cdef void sums_drop(Sums* sums, uint32_t actor, uint64_t dot, uint64_t mark) noexcept nogil:
    """An entry went that had come."""
    cdef size_t at, hole, home
    sums.total -= mark
    if sums.lost:
        return
    at = find(sums, actor, dot // BLOCK)
    sums.slots[at].sum -= mark
    sums.slots[at].count -= 1
    if sums.slots[at].count:
        return
    sums.used -= 1
    hole = at
    while True:     # what was pushed behind it moves up
        at = (at + 1) & sums.mask
        if not sums.slots[at].count:
            return
        home = slot_of(sums, sums.slots[at].actor, sums.slots[at].number)
        if ((at - home) & sums.mask) >= ((at - hole) & sums.mask):
            sums.slots[hole] = sums.slots[at]
            sums.slots[at].count = 0
            hole = at


cdef uint64_t sums_of(const Sums* sums, uint32_t actor, uint64_t first, uint64_t end) noexcept nogil:
    """The sum of the actor's blocks from `first` up to, not with, `end`."""
    cdef uint64_t total = 0, number
    cdef size_t i
    if sums.slots == NULL:
        return 0
    if end - first <= sums.mask:
        for number in range(first, end):
            i = find(sums, actor, number)
            if sums.slots[i].count:
                total += sums.slots[i].sum
        return total
    for i in range(sums.mask + 1):
        if sums.slots[i].count and sums.slots[i].actor == actor and first <= sums.slots[i].number < end:
            total += sums.slots[i].sum
    return total


cdef void sums_clear(Sums* sums) noexcept nogil:
    """All entries are gone."""
    free(sums.slots)
    sums.slots = NULL
    sums.mask = sums.used = 0
    sums.total = 0
    sums.lost = False
