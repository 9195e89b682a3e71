from libc.stdint cimport int64_t

from agentnet_core.engine cimport Engine
from agentnet_core.gossip cimport Gossip
from agentnet_core.tree cimport Tree


cdef class Broadcasts:
    cdef readonly Engine engine
    cdef public int64_t refused
    cdef readonly int64_t sent
    cdef readonly dict _peers, _takers
    cdef Tree tree
    cdef object seals, certificate_of
    cdef int64_t new_ns, first_link_ns
    cdef Py_ssize_t bytes_max, backlog_max
    cdef object taken_up              # the listeners of now
    cdef Py_ssize_t nodes             # in the network

    cdef int link_up(self, str node_id) except -1
    cdef int deliver(self, str source, Gossip gossip) except -1
    cdef bint is_proven(self, str source, Gossip gossip) except -1
    cdef int flush(self) except -1
