from libc.stdint cimport int64_t, uint32_t, uint64_t

from agentnet_core.framing cimport Arena, Decoder, Outbox
from agentnet_core.message cimport AgentMessage, Origin


cdef enum:
    PART_OVERHEAD_BYTES = 64    # what a fragment costs beside its bytes


cdef class Assembly:
    """Fragments of one message, in order, until the last is here."""
    cdef AgentMessage first
    cdef list pieces
    cdef int64_t size
    cdef uint32_t next_index, count


cdef class Session:
    # -- who
    cdef readonly bint dialled
    cdef readonly bint secure
    cdef readonly str address
    cdef readonly str certified
    cdef public object link
    cdef public object hello
    cdef public str node_id
    cdef public uint64_t incarnation
    cdef readonly Origin origin
    cdef public bint welcomed
    cdef public bint closed
    cdef public bint left           # the peer said that it goes for good
    cdef public bint parting        # this node goes for good, once it has said all
    cdef public int64_t opened_ns
    cdef public int64_t heard_ns
    cdef public int64_t pinged_ns
    cdef public int64_t ponged_ns   # when the last PING that was answered had been sent
    # -- lanes out
    cdef readonly Outbox control
    cdef readonly Outbox data
    cdef public bint paused
    cdef bint dirty
    cdef bint clear                 # welcomed, and nobody waits: a send may go straight in
    cdef readonly object blocked    # deque of Waiting, for room in the window
    cdef readonly dict bulk         # (from, to, priority) -> deque of Waiting, large ones among them
    cdef object everyone            # the Route of broadcasts to this peer, once there was one
    cdef Py_ssize_t parted          # messages whose first fragment is sent and the last is not
    cdef int64_t parted_bytes
    cdef readonly int64_t message_bytes_max     # the smaller limit of both
    cdef int64_t window, granted, sent, credited, sent_messages, credited_messages
    # -- in
    cdef readonly Decoder decoder
    cdef int64_t handshake_bytes
    cdef int64_t received, received_messages, reported, reported_messages
    cdef readonly int64_t withheld  # credit kept back from a peer that does not heed STOP
    cdef bint parts_came            # since the last look at the credit
    cdef dict assemblies
    cdef int64_t assembly_bytes

    cdef inline int64_t room(self) noexcept:
        """Bytes of data that the peer has room for."""
        return self.window - (self.sent - self.credited)

    cdef int64_t owed(self) noexcept
    cdef AgentMessage assemble(self, AgentMessage piece, int64_t bytes_max, int64_t total_max,
                               Py_ssize_t open_max)
    cpdef object take(self)
