from agentnet_core.crdt.base cimport Crdt


cdef class GCounter(Crdt):
    pass
