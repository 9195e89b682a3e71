from libc.stdint cimport uint64_t

from agentnet_core.agent_record cimport AgentRecord
from agentnet_core.update cimport Update


cdef class Applied:
    cdef readonly uint64_t version
    cdef public bint lacks
    cdef readonly list added, changed, removed, lost_mine, conflicts, refused
    cdef readonly tuple answer


cdef class Claims:
    cdef readonly str node_id
    cdef readonly uint64_t incarnation, version
    cdef AgentRecord one            # or None
    cdef dict many                  # AgentRecord by id, or None
    cdef dict stale                 # likewise
    cdef str source                 # the link that a whole list comes over, or None
    cdef uint64_t coming            # the version of that list
    cdef list untaken               # of that list, or None: (id, owner or "")
    cdef object tally, head
    cdef readonly bint whole, partial
    cdef bytes body
    cdef int begin(self, str source, Update update) except -1
    cdef int hold(self, Update update) except -1
    cdef int keep(self, bytes body) except -1
    cdef list all(self)
    cdef AgentRecord get(self, agent_id)
    cdef int put(self, AgentRecord record) except -1
    cdef AgentRecord pop(self, agent_id)
    cdef AgentRecord pop_stale(self, agent_id)


cdef class Early:
    cdef Py_ssize_t _count_max, _count
    cdef dict _updates
    cpdef int keep(self, str owner, str source, Update update) except -1
    cpdef list take(self, str owner)
