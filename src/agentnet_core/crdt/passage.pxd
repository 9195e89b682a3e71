from agentnet_core.framing cimport Cursor


cdef bint read_passage_key(Cursor* c) noexcept nogil
cdef bint read_passage(Cursor* c) noexcept nogil
