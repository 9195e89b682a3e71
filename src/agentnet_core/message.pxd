from cpython.float cimport PyFloat_AS_DOUBLE
from cpython.long cimport PyLong_AsLongAndOverflow
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from agentnet_core.envelope cimport Envelope
from agentnet_core.framing cimport Outbox
from agentnet_core.slip cimport Slip


cdef enum:
    # The plain body: fixarray(9), four u64, two small ints, u32, i64, bin32, then the payload.
    PLAIN_HEAD_BYTES = 58
    TYPE_COMMAND = 1
    TYPE_RESPONSE = 3
    TYPE_QUERY = 2
    LEVELS = 4              # of priority
    MESSAGE_OVERHEAD_BYTES = 200

cdef enum Field:
    FIELD_MESSAGE_ID = 1
    FIELD_DELIVERY = 5
    FIELD_GROUP = 8
    FIELD_FRAGMENT = 12
    FIELD_CONTENT_TYPE = 14
    FIELD_FAILURE = 15
    FIELD_RESERVED_MAX = 15
    FIELD_IGNORABLE_MIN = 64

cdef enum Content:
    CONTENT_BYTES = 0
    CONTENT_MSGPACK = 1


cdef class Origin:
    """The node that messages come from; shared by all of them."""
    cdef readonly str node_id
    cdef readonly uint64_t incarnation
    cdef public object session      # engine's Session while there is a link, else None


cdef class AgentMessage:
    cdef readonly uint64_t from_agent
    cdef uint64_t to_id
    cdef bint to_all
    cdef uint8_t type, level
    cdef uint8_t content
    cdef uint32_t ttl_ms
    cdef public int64_t timestamp
    cdef uint64_t seq
    cdef readonly uint64_t correlation      # of a request and its answer; 0 of what wants none
    cdef readonly bytes payload
    cdef object id                  # str given by a user, else None
    cdef bytes extras               # other optional fields as they came, key and value pairs
    cdef uint32_t extras_count
    cdef readonly Envelope envelope         # of a call or a stream, else None
    cdef object failure             # (code, text) of a RESPONSE that is an error
    cdef uint32_t fragment, fragments
    cdef readonly Origin origin
    cdef readonly Slip slip         # of a delivery, else None
    cdef int64_t deadline_ns        # on this node's monotonic clock; 0 never
    cdef object taker               # the Port whose handler has it, if that can commit it with `once`
    cdef uint64_t arrival           # order of entry into the mailbox
    cdef Py_ssize_t encoded_size(self, Py_ssize_t payload_size) noexcept
    cdef bint has_optional(self) noexcept
    cdef uint8_t* write(self, uint8_t* p, const uint8_t* payload, Py_ssize_t size,
                        uint32_t fragment, uint32_t fragments) noexcept


cdef inline int small(value) except -2:
    """An int of 0 to 255; -1 if it is another one, however large: C would raise what is no error of ours."""
    cdef int beyond = 0
    cdef long number = PyLong_AsLongAndOverflow(value, &beyond)
    return <int>number if not beyond and 0 <= number < 256 else -1

cdef inline double real(value) except? -1:
    """A number of seconds, infinite where a float cannot hold it."""
    return PyFloat_AS_DOUBLE(value) if type(value) is float else convert_real(value)

cdef double convert_real(value) except? -1

cdef inline uint32_t charge(AgentMessage message) noexcept:
    """What a message counts for in a mailbox: its payload and what holding it costs."""
    return <uint32_t>len(message.payload) + MESSAGE_OVERHEAD_BYTES

cdef uint8_t* write_plain(uint8_t* p, uint64_t from_agent, uint64_t to_agent, uint64_t seq,
                          uint64_t correlation, uint8_t type, uint8_t level, uint32_t ttl_ms,
                          int64_t timestamp, const uint8_t* payload, uint32_t size) noexcept
cdef AgentMessage read_message(const uint8_t* p, Py_ssize_t size, bint optional, Origin origin)
cdef AgentMessage copy_message(AgentMessage message)
