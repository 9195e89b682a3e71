"""What counters have in common: one entry by actor with totals that only grow, of which the latest counts.

An older entry of the same actor may still be there when a change between the two got lost.  The reserved
actor `*` (see `renaming`) has what several have counted: in it each entry counts.
"""

from libc.stdint cimport uint8_t

from agentnet_core.crdt.table cimport NONE, Entry, content_of
from agentnet_core.framing cimport Cursor, read_array, read_uint

from agentnet_core.errors import LimitReached, UsageError
from agentnet_core.records import describe

cdef enum:
    TOTAL_BITS = 62


cdef uint64_t amount_of(object amount) except 0:
    """`amount`, or a total, if a counter can hold it."""
    if type(amount) is not int or amount < 1:
        raise UsageError(f"amount {describe(amount)}: expected an integer of at least 1")
    if amount >> TOTAL_BITS:
        raise LimitReached(f"counter at {describe(amount)}: expected below 2^{TOTAL_BITS} for each actor")
    return amount


cdef uint32_t own_entry(Table table, uint32_t first) noexcept:
    """The latest entry of the own actor, of `first` and those that follow it; or NONE."""
    cdef uint32_t found = NONE
    while first != NONE:
        if table.entries[first].actor == table.own and (
                found == NONE or table.entries[first].number > table.entries[found].number):
            found = first
        first = table.entries[first].next
    return found


cdef int total_of(Table table, uint32_t i, uint64_t* added, uint64_t* taken) except -1:
    """What the entry says was added, and where `taken` is asked for, taken away."""
    cdef Cursor c
    cdef uint32_t n = 0
    c.at = content_of(table, i)
    c.end = c.at + table.entries[i].value_size
    if taken != NULL:
        read_array(&c, &n)
    read_uint(&c, added)
    if taken != NULL:
        read_uint(&c, taken)
    return 0


cdef list latest(Table table, list rows):
    """Of `rows`, the latest of each actor, and all of `*`."""
    cdef Entry* entry
    cdef uint32_t rank = 0, star = table.find_actor(<const uint8_t*>"*", 1, &rank)
    best = {}
    kept = []
    for row in rows:
        entry = &table.entries[<uint32_t>row]
        if entry.actor == star:
            kept.append(row)
            continue
        other = best.get(entry.actor)
        if other is None or entry.number > table.entries[<uint32_t>other].number:
            best[entry.actor] = row
    return kept + list(best.values())
