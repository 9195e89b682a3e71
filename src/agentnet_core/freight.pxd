from agentnet_core.framing cimport Frame
from agentnet_core.operations cimport Operations
from agentnet_core.session cimport Session


cdef class Freight(Operations):
    cdef int count_data(self, Session session, Frame* frame) except -1
    cdef int on_carry(self, Session session, Frame* frame) except -1
