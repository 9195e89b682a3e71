from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from agentnet_core.framing cimport Frame
from agentnet_core.message cimport AgentMessage, Origin
from agentnet_core.route cimport Route, Waiting
from agentnet_core.session cimport Session

cdef enum:
    FLUSH_BYTES = 131072         # a sender lets the loop turn after this much
    FRAME_OVERHEAD_BYTES = 10   # head and checksum

cdef Py_ssize_t optional_bytes_max  # the config's, for C


cdef enum:
    ACTIVE = 0                  # what STATUS and PONG say of a node
    MAINTENANCE = 1


cdef class Ready:
    cdef readonly list send
    cdef readonly list close
    cdef readonly list dial
    cdef readonly list probe
    cdef readonly list tunnels
    cdef readonly list deliver
    cdef readonly list stop
    cdef readonly list settle
    cdef readonly list recall
    cdef readonly list learn
    cdef readonly list events
    cdef public object persist
    cdef public uint64_t batch


cdef class Outflow:
    cdef readonly object config
    cdef readonly str node_id
    cdef readonly uint64_t incarnation
    cdef readonly Origin origin
    cdef public int64_t now_ns
    cdef public int64_t wall_offset_ns
    cdef public int64_t wake_ns
    cdef readonly object make_token, to_bytes, wake     # what the driver lends
    cdef public object control       # network control: handshake, members, directory
    cdef object last_words          # called once, before the next Ready is drained
    cdef bint awake
    cdef Ready now_ready, spare_ready
    cdef readonly dict routes        # id or name -> Route
    cdef readonly dict sessions      # node id -> welcomed Session
    cdef readonly dict awaited       # node id, or agent sought -> Session that stands in for a link
    cdef list stamped, waits         # with a ttl, and waiting, since the driver set the clock last
    cdef dict stuck                  # routes of which some wait for room, or did: what waits
    cdef uint64_t seq
    cdef readonly int64_t unflushed
    cdef int sends
    cdef int64_t fragment_bytes, bulk_window, message_bytes_max, send_wait_ns
    cdef Py_ssize_t waiting_max, parted_max
    cdef int64_t parted_bytes_max, waiting_bytes_max
    cdef int64_t messages_sent, messages_local, messages_expired

    cdef int limit(self, config) except -1
    cdef int rouse(self) except -1
    cpdef object settle(self, token, outcome, hint=*)
    cdef int mark(self, Session session) except -1
    cdef int put_control_u64(self, Session session, uint8_t kind, uint64_t value) except -1
    cdef int give_credit(self, Session session) except -1
    cdef int put_credit(self, Session session) except -1
    cdef int on_credit(self, Session session, Frame* frame) except -1
    cdef Route resolve(self, to)
    cdef Route seek(self, to)
    cdef Session await_link(self, record)
    cdef int put_plain(self, Session session, uint64_t from_id, uint64_t to_id, uint64_t correlation,
                       uint8_t type, uint8_t level, uint32_t ttl_ms, bytes payload) except -1
    cdef int account(self, Session session, Py_ssize_t size) except -1
    cdef int stamp(self, AgentMessage message) except -1
    cdef int age(self, AgentMessage message) except -1
    cdef object post(self, Route route, AgentMessage message, bint may_wait)
    cdef bint offer(self, Route route, AgentMessage message) except -1
    cdef int check_size(self, AgentMessage message, Session session) except -1
    cdef bint admit(self, Route route, AgentMessage message) except -1
    cdef int deliver_here(self, Route route, AgentMessage message) except -1
    cdef int encode(self, Session session, AgentMessage message) except -1
    cdef bint may_follow(self, Route route, AgentMessage message) except -1
    cdef bint is_full(self, Route route, Py_ssize_t size) noexcept
    cdef Waiting queue(self, Route route, AgentMessage message, token, int64_t wait_ns)
    cdef int line_up(self, Waiting waiting) except -1
    cdef Waiting wait(self, Route route, AgentMessage message, token)
    cdef bint settled(self, Waiting waiting) except -1
    cdef int finish_waiting(self, Waiting waiting) except -1
    cdef int fail_waiting(self, Waiting waiting, error) except -1
    cdef int drain(self, Session session) except -1
    cdef int drain_local(self, Route port) except -1
    cdef int queue_bulk(self, Session session, Waiting waiting) except -1
    cdef int pump(self, Session session) except -1
    cdef bint put_freight(self, Session session) except -1
    cdef bint may_start(self, Session session, Waiting waiting) except -1
    cdef int put_piece(self, Session session, Waiting waiting) except -1
    cdef int wake_for(self, Waiting waiting) except -1
    cdef int date(self) except -1
    cdef int expire_waiting(self, queue) except -1
