from libc.stdint cimport int32_t, uint64_t


cdef enum:
    RINGS_MAX = 8           # as in `config`


cdef class Rings:
    cdef int rings
    cdef Py_ssize_t mesh_nodes_max, capacity
    cdef dict slots             # of each node: where it is in the tables
    cdef list names             # by slot
    cdef list free_slots
    cdef uint64_t* places       # by slot and ring
    cdef int32_t* order         # by ring, of room for `capacity`: the slots, by place
    cpdef add(self, str node_id)
    cpdef remove(self, str node_id)
    cpdef bint are_beside(self, str node_id, str other) except -1
    cpdef bint is_mesh(self, str node_id) except -1
    cdef int place(self, str node_id, uint64_t* places) except -1
    cdef Py_ssize_t find(
        self, int number, uint64_t place, str node_id, Py_ssize_t count, bint after
    ) except -1
    cdef int grow(self) except -1
    cdef int places_of(self, str node_id, uint64_t* places) except -1
    cdef tuple all_others(self, str node_id, unreachable)
    cdef tuple nearest(self, str node_id, unreachable, bint both)
