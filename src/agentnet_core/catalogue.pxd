from libc.stdint cimport int64_t, uint64_t

from agentnet_core.agent_record cimport AgentRecord
from agentnet_core.claims cimport Applied, Early
from agentnet_core.directory cimport Directory
from agentnet_core.membership cimport Membership
from agentnet_core.outflow cimport Outflow
from agentnet_core.pulls cimport Pulls
from agentnet_core.update cimport Update


cdef class Catalogue:
    cdef readonly Outflow engine
    cdef readonly Directory directory
    cdef readonly object registrations
    cdef public bint watched            # whether anybody reads events of single agents: they may be many
    cdef readonly object _lookups
    cdef readonly dict _met             # whether a linked node has told which nodes and lists it knows
    cdef readonly Pulls _pulls
    cdef Early _early
    cdef Membership _membership
    cdef object _broadcasts, _keepers, _say_to, _network
    cdef bint _is_signed, _ended
    cdef int64_t _delay_ns, _patience_ns, _sync_ns, _lookup_ns
    cdef int64_t _remind_ns, _newcomers_ns
    # Until then a node may come that has not heard of what was told to links alone, nor will.
    cdef int64_t _unheard_until_ns
    cdef dict _newcomers
    cdef Py_ssize_t _mesh_nodes_max
    cdef dict _sought                   # Questions after the agents, by id or name, that messages wait for
    cdef int take(self, str source, Update update) except -1
    cdef bint may_take(self, Update update) except -1
    cdef int compare(self, str owner, str teller) except -1
    cdef int drop(self, str owner) except -1
    cdef int tell_newcomers(self) except -1
    cdef int want(self, str owner, uint64_t incarnation, uint64_t listed, str teller) except -1
    cdef int pull(self) except -1
    cdef bint is_large(self) except -1
    cdef bint is_linked_to_all(self) except -1
    cdef int remind(self, node_ids) except -1
    cdef int close(self, question) except -1
    cdef int give_up(self, agent, question, error) except -1
    cdef int confirm(self, uint64_t version, list ids, token, int64_t deadline_ns) except -1
    cdef int appeared(self, AgentRecord record) except -1
    cdef int report(self, Applied applied) except -1
    cdef int report_lost(self, Applied applied) except -1
    cdef int agent_event(self, str kind, AgentRecord record) except -1
    cdef int publish(self) except -1
    cdef int say(self, str node_id, int kind, bodies) except -1
    cdef int settle(self, told) except -1
