from agentnet_core.agent_record cimport AgentRecord

cdef class Index:
    cdef readonly dict _winners     # AgentRecord by id
    cdef dict _found                # _Found by capability
    cdef dict _groups               # by group, by node id: AgentRecord by id
    cdef int _crown(self, object agent_id, AgentRecord record) except -1
    cdef int _meet(self, AgentRecord record) except -1
    cdef int _part(self, AgentRecord record) except -1
    cdef int _refind(self, capability, AgentRecord record) except -1
