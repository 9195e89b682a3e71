from agentnet_core.agent_record cimport AgentRecord
from agentnet_core.claims cimport Applied, Claims
from agentnet_core.index cimport Index
from agentnet_core.update cimport Update
from libc.stdint cimport uint64_t


cdef class Directory(Index):
    cdef readonly str node_id
    cdef readonly uint64_t incarnation, version
    cdef public Py_ssize_t body_bytes
    cdef readonly dict _claims      # Claims by node id
    cdef readonly dict _early       # Update by owner, incarnation and base
    cdef dict _rivals               # lists of AgentRecord by id
    cdef object _ledger, _capabilities, _words
    cdef Claims _mine
    cdef dict _own                  # its records
    cdef list _changes
    cdef Py_ssize_t _held, _agents_max, _metadata_bytes_max, _early_max, _capabilities_fit
    cdef Py_ssize_t _coming         # lists of which the last part has not come
    cpdef tuple held(self, str node_id)
    cpdef uint64_t held_as(self, str node_id, uint64_t incarnation) except? 0
    cpdef Update read(self, bytes body)
    cpdef Applied apply(self, str source, Update update)
    cpdef int give_up(self, str node_id) except -1
    cpdef bint is_of(self, str node_id, uint64_t incarnation) except -1
    cpdef Applied forget(self, str node_id, below=*)
    cdef bint _is_old(self, Update update) except -1
    cdef int _apply(self, str source, Update update, Applied applied) except -1
    cdef dict _checked(self, records)
    cdef int _check_mine(self, AgentRecord record) except -1
    cdef bint _is_plain(self, AgentRecord record) except -1
    cdef str _over_limit(self, Py_ssize_t size)
    cdef int _check_echo(self, str source, Update update) except -1
    cdef bint _is_next(self, Claims claims, str source, Update update, Applied applied) except -1
    cdef int _answer_old(self, Claims claims, Update update, Applied applied) except -1
    cdef int _keep_early(self, Update update, Applied applied) except -1
    cdef int _drop_early(self, node_id, incarnation, version) except -1
    cdef Claims _begin(self, Claims claims, str source, Update update)
    cdef int _finish(self, Claims claims, Update update, Applied applied) except -1
    cdef int _answer(self, Claims claims, list untaken, Applied applied) except -1
    cdef bint _adds_up(self, Claims claims, Update update, Applied applied) except -1
    cdef int _take_all(self, Claims claims, Update update, Applied applied) except -1
    cdef int _take(self, Claims claims, AgentRecord record, Applied applied) except -1
    cdef int _compete(self, AgentRecord record, AgentRecord old, Applied applied) except -1
    cdef int _drop(self, Claims claims, agent_id, Applied applied) except -1
    cdef int _release(self, AgentRecord record, Applied applied) except -1
    cdef AgentRecord _withdraw(self, agent_id, owner, Applied applied)
    cdef int _mine_changed(self, Applied applied) except -1
    cdef uint64_t _changed(self, agent_ids) except? 0
    cdef int _before(self, AgentRecord record) except -1
