from agentnet_core.crdt.base cimport Crdt


cdef class LWWMap(Crdt):
    pass
