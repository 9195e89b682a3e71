from libc.stdint cimport int64_t, uint32_t, uint64_t

from cpython.object cimport PyObject

from agentnet_core.framing cimport Arena, Decoder, Outbox
from agentnet_core.message cimport AgentMessage, Origin


cdef enum:
    PART_OVERHEAD_BYTES = 64    # what a fragment costs beside its bytes


cdef class Assembly:
    """Fragments of one message, in order, until the last is here."""
    cdef AgentMessage first
    cdef PyObject* body             # bytes that nobody else has seen yet, `room` long
    cdef Py_ssize_t size, room
    cdef uint32_t next_index, count
    cdef int add(self, bytes piece) except -1
    cdef int resize(self, Py_ssize_t room) except -1
    cdef bytes end(self)


cdef class Share:
    """How many fragments may be on their way at a time."""
    cdef object ends                # deque of (place in the stream, when it was sent) of each
    cdef int64_t eighths            # of a fragment
    cdef int64_t base_ns            # how long a fragment takes that nothing is ahead of
    cdef bint hindered              # it has once taken longer
    cdef bint has_room(self) noexcept
    cdef int sent(self, int64_t end, int64_t now_ns) except -1
    cdef int credited(self, int64_t taken, int64_t now_ns, int64_t most) except -1


cdef class Session:
    # -- who
    cdef readonly bint dialled
    cdef readonly bint secure
    cdef readonly str address
    cdef readonly str certified
    cdef public object link
    cdef public str relay           # the node that relays it, if it is a tunnel; else empty
    cdef public object hello
    cdef public str node_id
    cdef public uint64_t incarnation
    cdef readonly Origin origin
    cdef public bint welcomed
    cdef public bint delivers       # the peer understands slips, and CANCEL
    cdef public bint closed
    cdef public bint left           # the peer said that it goes for good
    cdef public bint hung_up        # the peer closed the connection, and said nothing
    cdef public bint parting        # this node goes for good, once it has said all
    cdef public bint retired        # both sides have let go of it, and it is closed or soon will be
    cdef public bint held           # no message goes out: it stands for a link to come, or may be let go
    cdef public int64_t opened_ns
    cdef public int64_t heard_ns
    cdef public int64_t pinged_ns
    cdef public int64_t ponged_ns   # when the last PING that was answered had been sent
    cdef readonly int64_t rtt_ns, proven_ns     # how long its answer took, and when it came
    cdef readonly uint64_t load     # messages that waited in the peer's mailboxes then
    cdef readonly bint cordoned     # the peer is in maintenance
    cdef dict shelved               # the routes to its agents meanwhile
    # -- lanes out
    cdef readonly Outbox control
    cdef readonly Outbox data
    cdef public bint paused
    cdef bint dirty
    cdef bint clear                 # welcomed, and nobody waits: a send may go straight in
    cdef readonly object blocked    # deque of Waiting, for room in the window
    cdef readonly dict bulk         # (from, to, priority) -> deque of Waiting, large ones among them
    cdef dict freight               # legs of tunnels with pieces for it, in turn
    cdef bint freight_turn          # the next piece is theirs, not a large message's
    cdef object everyone, answers   # the Routes of broadcasts and of answers to this peer, once needed
    cdef bint stalled               # an answer found no room in time, and none has come since
    cdef readonly Share share
    cdef Py_ssize_t parted          # messages whose first fragment is sent and the last is not
    cdef int64_t parted_bytes
    cdef readonly int64_t message_bytes_max     # the smaller limit of both
    cdef int64_t window, granted, sent, credited, sent_messages, credited_messages
    # -- in
    cdef readonly Decoder decoder
    cdef uint64_t speakers[64]      # agents that were found to be no other node's, by the last six bits
    cdef int64_t handshake_bytes
    cdef int64_t received, received_messages, reported, reported_messages
    cdef uint64_t announced         # data that the peer had sent in all when it answered the last PING
    cdef readonly int64_t withheld  # credit kept back from a peer that does not heed STOP
    cdef list recalls               # (data sent before, agent, correlation) that came before their requests
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
