cpdef object unpack_checked(str what, body)
cpdef object expect_int(str field, value, low, high)
cpdef object expect_bool(str field, value)
cpdef object expect_bytes(str field, value, sizes)
cpdef object expect_name(str field, value)
cpdef list expect_list(str field, value, lengths=*)
cpdef dict expect_map(str field, value)
cpdef dict expect_fields(str field, value)
cpdef tuple expect_addresses(str field, value)

cdef object is_address      # of a text: a match, or None

cdef bint is_name(str value) except -1
cdef bint is_name_at(const char* chars, Py_ssize_t size) noexcept nogil
