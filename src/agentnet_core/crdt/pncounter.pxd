from agentnet_core.crdt.base cimport Crdt, Delta


cdef class PNCounter(Crdt):
    cdef Delta change(self, object added, object taken)
