from libc.stdint cimport int64_t, uint8_t, uint64_t

from agentnet_core.durable cimport Durable
from agentnet_core.message cimport AgentMessage

cdef enum:
    RESULT_OVERHEAD_BYTES = 500     # what keeping one costs beside its id and payload
    VALUE_OVERHEAD_BYTES = 200


cdef class Kept:
    """The result of an operation, or one value of a store."""
    cdef readonly tuple key         # of a result what it is of; of a value (agent id, key)
    cdef readonly bytes payload
    cdef readonly uint8_t content
    cdef uint8_t kind
    cdef readonly bint whole        # else the result was too large, and only that there was one is kept
    cdef readonly int64_t when_ns   # by the clock on the wall
    cdef uint64_t index             # in the log
    cdef uint64_t batch             # that it is to get to the disk with, 0 once it is there
    cdef bint gone                  # nobody needs it any more
    cdef bint firm                  # it stays, whether the disk takes it or not: its handler has returned
    cdef readonly AgentMessage owner    # until it is on the disk: the message whose handler committed it
    cdef list told                  # and who waits to hear of it


cdef class Deeds:
    cdef Durable durable
    cdef readonly dict results      # key -> Kept, the oldest first
    cdef readonly dict stores       # agent id -> {key: Kept}
    cdef readonly int64_t results_bytes, store_bytes, store_keys
    cdef readonly int64_t writing_bytes
    cdef uint64_t index
    cdef object order               # deque of Kept, as in the log
    cdef object undo                # deque of (batch, Kept or None, before: Kept or None)
    cdef object moved               # deque of (batch, index, Kept) that were taken out of the order
    cdef object writing             # deque of results on their way to the disk
    cdef list refused_results
    cdef object spent               # deque of (batch, Kept): what else says that it is done is in that batch
    cdef list unspent               # of those that it was refused
    cdef int write(self, Kept kept) except -1
    cdef int put_body(self, uint8_t kind, bytes body) except -1
    cdef int change(self, uint64_t agent_id, str key, bytes value) except -1
    cdef Kept add(self, tuple key, bytes payload, uint8_t content, bint whole, int64_t when_ns, bint firm)
    cdef int drop(self, Kept kept) except -1
    cdef int spend(self, Kept kept) except -1
    cdef int forget_payload(self, Kept kept) except -1
    cdef int sweep(self) except -1
    cdef int release(self) except -1
    cdef int place(self, Kept kept, Kept before) except -1
    cdef list persisted(self, uint64_t batch)
    cdef list refused(self)
    cdef int write_again(self) except -1
    cdef int relieve(self, uint64_t index) except -1


cdef class Store:
    cdef Deeds deeds
    cdef uint64_t agent_id

cdef int64_t value_size(str key, Py_ssize_t value) except -1
cdef int64_t size_of(tuple key, Py_ssize_t payload) except -1
