from agentnet_core.crdt.base cimport Crdt


cdef class ORSet(Crdt):
    pass
