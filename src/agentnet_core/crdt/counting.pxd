from libc.stdint cimport uint32_t, uint64_t

from agentnet_core.crdt.table cimport Table

cdef uint64_t amount_of(object amount) except 0
cdef uint32_t own_entry(Table table, uint32_t first) noexcept
cdef int total_of(Table table, uint32_t i, uint64_t* added, uint64_t* taken) except -1
cdef list latest(Table table, list rows)
