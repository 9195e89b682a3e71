from agentnet_core.crdt.base cimport Crdt


cdef class MVRegister(Crdt):
    pass
