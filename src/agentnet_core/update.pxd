from libc.stdint cimport uint64_t

cdef class Update:
    cdef readonly str owner
    cdef readonly uint64_t incarnation, base, version
    cdef readonly bint first, last
    cdef readonly list records, removals
    cdef public object head, tally, over
    cdef public str source
    cdef bytes body             # if it is a whole plain list


cpdef Update read_plain(bytes body, words_of, dict known)
