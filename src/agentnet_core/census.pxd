from libc.stdint cimport int64_t, uint32_t, uint64_t

from agentnet_core.member_record cimport NodeRecord
from agentnet_core.node cimport Node
from agentnet_core.overlay cimport Rings


cpdef uint32_t mark_of(NodeRecord record) except? 0
cdef NodeRecord bare(NodeRecord record)


cdef class Census:
    cdef readonly str node_id
    cdef readonly uint64_t incarnation
    cdef readonly uint64_t version
    cdef readonly uint64_t changes      # how often a node has come, gone, or was lost
    cdef public uint64_t listed         # the version of its list of agents
    cdef public object list_head        # a call: the Head of that version, where the network is signed
    cdef public tuple addresses
    cdef object _proofs, _courtesy_ns
    cdef Py_ssize_t _nodes_max
    cdef readonly dict _nodes
    cdef public Rings _rings
    cdef int _share
    cdef list _sums                     # of the marks of each share
    cdef dict _unmarked                 # those whose mark may be another by now
    cdef dict _said                     # of which node a record is that need not be read again: one of each
    cdef dict _found                    # the neighbours, as they were found last
    cdef dict _listeners                # who is told what is new here; None if others may be by now
    cdef bint _passed_by                # one is dialled in vain, so that who is further on the rings counts
    cdef public int64_t _moved_ns       # when they changed since
    cdef dict _linked
    cdef dict _accused                  # not lost here, and somebody says so, or does not hear it
    cdef dict _lost
    cdef dict _untold                   # the living whose JOINED may have to be told without a link
    cdef dict _left
    cdef dict _farewells                # what they signed when they left, where the network is signed
    cdef object _events
    cdef int64_t _events_missed
    cpdef incarnation_of(self, str node_id)
    cpdef NodeRecord living(self, str node_id)
    cpdef bint is_gone(self, str node_id, uint64_t incarnation) except -1
    cpdef dict neighbours(self)
    cpdef dict listeners(self)
    cpdef bint is_mesh(self) except -1
    cpdef NodeRecord _me(self)
    cdef NodeRecord proven(self, NodeRecord record, str source)
    cpdef NodeRecord _record(self, str node_id)
    cdef object known_or_read(self, bytes item)
    cdef int note_said(self, NodeRecord record, bytes item) except -1
    cdef bint holds(self, NodeRecord record, bytes item) except -1
    cdef Node admit(self, NodeRecord record, int64_t now_ns)
    cdef int hold(self, Node node, NodeRecord record) except -1
    cdef int place(self, Node node, int64_t now_ns) except -1
    cdef int take_off(self, Node node, int64_t now_ns) except -1
    cdef int put_back(self, Node node, int64_t now_ns) except -1
    cdef int forget(self, Node node, int64_t now_ns) except -1
    cdef int leave_rings(self, str node_id, int64_t now_ns) except -1
    cdef int bury(self, str node_id, uint64_t incarnation, seal) except -1
    cdef int exhume(self, str node_id) except -1
    cdef bint has_left(self, str node_id, uint64_t incarnation) except -1
    cdef int link(self, Node node) except -1
    cdef int unlink(self, str node_id) except -1
    cdef bint has_room(self) except -1
    cdef int move(self, int64_t now_ns) except -1
    cdef int was_reached(self, Node node, int64_t now_ns) except -1
    cdef int64_t courtesy_ns(self, str node_id) except? -1
    cdef int count_mark(self, Node node, uint32_t mark) except -1
    cdef int tell_far(self) except -1
    cdef int tell_joined(self, Node node) except -1
    cdef int tell(self, event) except -1
