from agentnet_core.framing cimport Cursor

cdef str text(Cursor* c)
cdef tuple read_addresses(Cursor* c)
cdef tuple read_names(Cursor* c, unsigned int names_max)
