from libc.stdint cimport int64_t


cdef class News:
    cdef readonly dict tellers      # of each node of whom there is news: who told it
    cdef int64_t told_ns
    cdef bint urgent
    cpdef note(self, str node_id, str source=*, bint urgent=*)
    cpdef echoed(self, str node_id, str source)
    cpdef int64_t due_ns(self, Py_ssize_t nodes, bint along=*) except? -1
