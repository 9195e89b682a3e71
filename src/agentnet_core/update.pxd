from libc.stdint cimport uint64_t

cdef class Update:
    cdef readonly str owner
    cdef readonly uint64_t incarnation, base, version
    cdef readonly bint first, last
    cdef readonly list records, removals
    cdef public object head, tally, over
    cdef public str source
