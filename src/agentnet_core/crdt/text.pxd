from libc.stdint cimport uint64_t

from agentnet_core.crdt.base cimport Crdt


cdef class Text(Crdt):
    cdef object sequence        # of what the table held when its sum was `sum_then`, or None
    cdef uint64_t sum_then
    cdef object order(self)
    cdef object order_of(self, list rows, size_t skip)
    cdef int put(self, passage, size_t* path_size) except -1
    cdef int check_room(self, list passages, size_t made) except -1
