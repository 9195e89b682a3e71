from agentnet_core.crdt.base cimport Crdt


cdef class EWFlag(Crdt):
    pass
