from libc.stdint cimport uint8_t, uint64_t

cpdef tuple read_id(bytes broadcast)
cdef bytes life_of(bytes broadcast, uint64_t* sequence)


cdef class Frame:
    cdef readonly int kind
    cdef bytes body(self)


cdef class Gossip(Frame):
    cdef readonly bytes broadcast, payload
    cdef readonly uint64_t hops, age_ms
    cdef readonly bint shapes
    cdef readonly object seal
    cdef Gossip again(self, uint64_t hops, uint64_t age_ms, bint shapes)


cdef class Ids(Frame):
    cdef readonly tuple broadcasts


cdef class Ihave(Ids):
    pass


cdef class Graft(Ids):
    pass


cdef class Gone(Ids):
    pass


cdef class Prune(Frame):
    pass


cpdef tuple encode(Frame frame)
cpdef Frame decode(int kind, bytes body)
