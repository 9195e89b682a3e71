from agentnet_core.crdt.base cimport Crdt


cdef class ORMap(Crdt):
    pass
