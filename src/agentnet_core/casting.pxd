from libc.stdint cimport int64_t

from agentnet_core.links cimport Links
from agentnet_core.message cimport AgentMessage
from agentnet_core.route cimport Route
from agentnet_core.session cimport Session


cdef class Casting(Links):
    cdef readonly dict groups        # name -> {id: Port} of the agents of this node in it
    cdef Session crowd               # where broadcasts wait for room on the tree, once one has to
    cdef int64_t born_ns
    cdef bint linked_to_all
    cdef public bint mesh_known      # that, until nodes or links come or go: the control says when
    cdef int64_t messages_received

    cdef Session gather(self)
    cdef tuple send_to_nodes(self, list nodes, AgentMessage message, bint reached)
    cdef object send_to_node(self, str node_id, AgentMessage message)
    cdef object send_there(self, Session session, AgentMessage message)
    cdef tuple send_on_tree(self, AgentMessage message)
    cdef int64_t publish(self, AgentMessage message) except -1
    cdef int drain_crowd(self) except -1
    cdef Route everyone(self, Session session)
    cdef int spread(self, AgentMessage message) except -1
