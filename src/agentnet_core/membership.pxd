from libc.stdint cimport int64_t, uint64_t

from agentnet_core.census cimport Census
from agentnet_core.member_record cimport NodeRecord
from agentnet_core.news cimport News
from agentnet_core.node cimport Node, Redial


cdef class Membership(Census):
    cdef readonly object _dials, _detector
    cdef readonly News _news
    cdef readonly int64_t _look_ns      # when to look at the silent next
    cdef object _rng
    cdef int64_t _sync_interval_ns, _dial_ns_max, _look_interval_ns
    cdef int64_t _lost_due_ns, _sync_ns, _looked_ns
    cdef dict _asked_for                # nodes to which messages want a link
    cdef dict _lists                    # see `drain_lists`
    cdef list _probes, _syncs
    cdef dict _watched                  # the neighbours at the last look
    cpdef int64_t next_deadline_ns(self) except? -1
    cdef list to_dial(self)
    cdef int look_soon(self, int64_t now_ns) except -1
    cdef int look(self, int64_t now_ns, heard) except -1
    cdef int accuse(self, Node node, int64_t now_ns, bint witness=*) except -1
    cdef int lose(self, Node node, silent, int64_t now_ns) except -1
    cdef int sync(self, int64_t now_ns) except -1
    cdef int clear_self(self) except -1
    cdef bint take(self, NodeRecord record, str source, int64_t now_ns) except -1
    cdef int take_of_self(self, NodeRecord record, int64_t now_ns) except -1
    cdef int let_go(self, Node node, uint64_t incarnation, seal, str source, int64_t now_ns) except -1
    cdef int take_more(self, Node node, NodeRecord record, str source, int64_t now_ns) except -1
    cdef int replace(self, Node node, NodeRecord record, int64_t now_ns) except -1
    cdef int tell_lost(self, Node node, str detail) except -1
    cdef list dial_node(self, Node node, int64_t now_ns)
    cdef list addresses_of(self, Node node)
    cdef Redial end_dial(self, dial, str node_id)
    cdef int failed(self, dial, Redial redial, str reason, int64_t now_ns) except -1
    cdef int64_t lost_wait_ns(self) except -1
    cdef list dial_lost(self, int64_t now_ns)
