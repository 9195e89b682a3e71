cdef class AgentRecord:
    cdef public object agent_id, node_id, name, capabilities, metadata, health, groups
    cdef public bint broadcasts
