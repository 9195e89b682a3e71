from agentnet_core.crdt.base cimport Crdt


cdef class LWWRegister(Crdt):
    pass
