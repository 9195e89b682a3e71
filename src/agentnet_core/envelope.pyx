"""What few messages carry beside the plain head: an object of its own, so that the others pay a pointer.

Field 3, hops left: how many calls may follow one another below this one.  Field 4, `[budget, [agent, ...]]`:
how many may be open below it at a time, and the ids of the agents that asked, the first one first.
Field 9, a text: the id of the operation that the message asks for, of its sender's choice.
Field 13, `[what, position]`: what the message is to a stream, and how many of its parts went before.

In: what this node wants to say, or bytes of a message.  Out: the same as MessagePack, fixed-width; of
bytes that are malformed, that they are.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeUTF8
from libc.stdint cimport uint16_t
from libc.string cimport memcpy

from agentnet_core.framing cimport get_u64, pack_u64, put_u16, read_array, read_str, read_uint

from agentnet_core.config import OPERATION_BYTES_MAX
from agentnet_core.errors import ConfigError, UsageError
from agentnet_core.records import describe

cdef enum:
    HOPS_BYTES = 2              # key, a small int
    CHAIN_HEAD_BYTES = 1 + 1 + 9 + 3
    STREAM_BYTES = 1 + 1 + 1 + 9
    HOPS_FIELD_MAX = 127

cdef uint32_t operation_bytes_max = OPERATION_BYTES_MAX     # the config's, for C


cdef class Envelope:
    def __cinit__(self):
        self.passed_by = b""

    @property
    def hops_left(self):
        """How many calls may still follow one another below this message; None if it is not told."""
        return self.hops if self.held & 1 << FIELD_HOPS else None

    @property
    def calls_left(self):
        """How many calls may be open below this message at a time."""
        return self.budget if self.held & 1 << FIELD_CHAIN else None

    @property
    def path(self):
        """Ids of the agents that asked each other, and at last for this."""
        return self.agents()

    @property
    def stream(self):
        """(what it is to a stream, how many of its parts went before), else None."""
        return (self.part, self.position) if self.held & 1 << FIELD_STREAM else None

    @property
    def streams(self):
        """Whether it is answered in parts, which outlive its link."""
        return self.answered

    cdef uint32_t count(self) noexcept:
        cdef uint32_t n = 0, left = self.held
        while left:
            left &= left - 1
            n += 1
        return n

    cdef Py_ssize_t size(self) noexcept:
        """An upper bound."""
        cdef Py_ssize_t n = 0
        if self.operation is not None:
            n = 4 + operation_bytes_max
        return n + HOPS_BYTES + CHAIN_HEAD_BYTES + PyBytes_GET_SIZE(self.passed_by) + STREAM_BYTES

    cdef uint8_t* write(self, uint8_t* p) noexcept:
        """The pairs of key and value, in the order of the keys."""
        cdef Py_ssize_t n = 0
        cdef const char* text
        if self.held & 1 << FIELD_HOPS:
            p[0], p[1] = FIELD_HOPS, <uint8_t>self.hops
            p += 2
        if self.held & 1 << FIELD_CHAIN:
            n = PyBytes_GET_SIZE(self.passed_by)
            p[0], p[1] = FIELD_CHAIN, 0x92
            p = pack_u64(p + 2, self.budget)
            p[0] = 0xdc
            p = put_u16(p + 1, <uint16_t>(n // AGENT_BYTES))
            memcpy(p, PyBytes_AS_STRING(self.passed_by), n)
            p += n
        if self.operation is not None:
            text = PyUnicode_AsUTF8AndSize(self.operation, &n)
            p[0], p[1] = FIELD_OPERATION, 0xda
            p = put_u16(p + 2, <uint16_t>n)
            memcpy(p, text, n)
            p += n
        if self.held & 1 << FIELD_STREAM:
            p[0], p[1], p[2] = FIELD_STREAM, 0x92, self.part
            p = pack_u64(p + 3, self.position)
        return p

    cdef bint read(self, uint64_t key, Cursor* c) except -1:
        """Take the value of a field that `is_enveloped`; False if it is malformed."""
        cdef uint64_t value = 0
        cdef uint32_t n = 0, k
        cdef const uint8_t* data = NULL
        cdef uint8_t path[PATH_AGENTS_MAX * AGENT_BYTES]
        if key == FIELD_HOPS:
            if not read_uint(c, &value) or value > HOPS_FIELD_MAX:
                return False
            self.hops = <uint32_t>value
        elif key == FIELD_CHAIN:
            if not (read_array(c, &n) and n == 2 and read_uint(c, &self.budget) and read_array(c, &n)
                    and n <= PATH_AGENTS_MAX):
                return False
            for k in range(n):
                if not read_uint(c, &value):
                    return False
                pack_u64(path + k * AGENT_BYTES, value)
            self.passed_by = PyBytes_FromStringAndSize(<const char*>path, n * AGENT_BYTES)
        elif key == FIELD_OPERATION:
            if not (read_str(c, &data, &n) and 0 < n <= operation_bytes_max):
                return False
            try:
                self.operation = PyUnicode_DecodeUTF8(<char*>data, n, NULL)
            except UnicodeDecodeError:
                return False
        else:
            if not (read_array(c, &n) and n == 2 and read_uint(c, &value) and 0 < value <= STREAM_KNOWN
                    and read_uint(c, &self.position)):
                return False
            self.part = <uint8_t>value
        self.held |= <uint32_t>1 << key
        return True

    cdef int put_chain(self, uint32_t hops, uint64_t budget, bytes path) except -1:
        self.hops, self.budget, self.passed_by = hops, budget, path
        self.held |= 1 << FIELD_HOPS | 1 << FIELD_CHAIN
        return 0

    cdef int put_operation(self, str operation) except -1:
        self.operation = operation
        self.held |= 1 << FIELD_OPERATION
        return 0

    cdef int put_stream(self, uint8_t part, uint64_t position) except -1:
        self.part, self.position = part, position
        self.held |= 1 << FIELD_STREAM
        return 0

    cdef bint passed(self, uint64_t agent_id) noexcept:
        """Whether that agent is on the path: it waits for what this message asks."""
        cdef const uint8_t* p = <const uint8_t*>PyBytes_AS_STRING(self.passed_by)
        cdef Py_ssize_t at
        for at in range(0, PyBytes_GET_SIZE(self.passed_by), AGENT_BYTES):
            if get_u64(p + at + 1) == agent_id:
                return True
        return False

    cdef list agents(self):
        """The ids on the path."""
        cdef const uint8_t* p = <const uint8_t*>PyBytes_AS_STRING(self.passed_by)
        cdef Py_ssize_t at
        return [get_u64(p + at + 1) for at in range(0, PyBytes_GET_SIZE(self.passed_by), AGENT_BYTES)]


cdef str check_operation(operation):
    """The id of an operation, if it can be one; ConfigError otherwise."""
    try:
        if isinstance(operation, str) and 0 < len(operation.encode()) <= OPERATION_BYTES_MAX:
            return str(operation)
    except UnicodeEncodeError:
        pass
    raise ConfigError(f"operation_id={describe(operation)}: expected a text of 1 to {OPERATION_BYTES_MAX} "
                      f"bytes as UTF-8")


cdef bytes extend_path(bytes path, uint64_t agent_id):
    """The path, and that agent at its end."""
    cdef uint8_t last[AGENT_BYTES]
    pack_u64(last, agent_id)
    return path + PyBytes_FromStringAndSize(<const char*>last, AGENT_BYTES)


cdef object parts_of(message, Envelope envelope):
    """The input of that message, whose envelope this is."""
    engine = envelope.inputs() if envelope is not None and envelope.inputs is not None else None
    if engine is None:
        raise ConfigError("this message has no input in parts: who asks calls `stream` with `parts`")
    return engine.open_input(message)


cdef object taker_of(port):
    """The agent whose handler has a message; UsageError if none has, or nobody would send it again."""
    if port is None:
        raise UsageError("once: for a message at its handler, sent with a promise or an operation id")
    return port
