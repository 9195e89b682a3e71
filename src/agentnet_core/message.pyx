"""AgentMessage and its MessagePack form.

The form is an array `[from, to, seq, correlation, type, priority, ttl_ms, timestamp, payload]`;
a map of numbered optional fields may follow it.  The plain message has no map, costs nothing for
later features, and is written and read as fixed offsets.  An optional field below 64 must be
understood by whoever reads it: an unknown one refuses the frame.  From 64 on it passes through.

In: any bytes. Out: a message, or ProtocolError with the field that is wrong. A message id that
the user gave travels as field 1; a generated one is `node:incarnation:seq`, made when read.  A message
to a group has no receiver, and field 8, which is kept encoded: no other message pays for it.  Fields
3, 4, 9 and 13 are the envelope's.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.long cimport PyLong_AsLongLongAndOverflow
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeUTF8
from libc.math cimport INFINITY
from libc.string cimport memcpy

cimport cython

from agentnet_core.envelope cimport Envelope, is_enveloped, parts_of, taker_of
from agentnet_core.framing cimport (
    Cursor, get_u32, get_u64, pack_bin_head, pack_u64, put_u32, put_u64,
    read_array, read_bin, read_int, read_map, read_str, read_uint, skip_value,
)
from agentnet_core.slip cimport SLIP_BYTES, read_slip, write_slip

import msgpack

from agentnet_core.config import GROUP_BYTES_MAX
from agentnet_core.errors import ConfigError, ProtocolError
from agentnet_core.framing import check_msgpack
from agentnet_core.records import MessagePriority, MessageType, agent_id_of, describe

cdef enum:
    DEPTH_MAX = 64
    ID_BYTES_MAX = 1024
    OPTIONAL_FIELDS_MAX = 64
    FIELDS_BYTES_MAX = 1024
    FIELDS_CARRIED_MAX = OPTIONAL_FIELDS_MAX - 4

cdef uint32_t group_bytes_max = GROUP_BYTES_MAX     # the config's, for C
cdef tuple TYPES = tuple(MessageType)
cdef tuple PRIORITIES = tuple(MessagePriority)

# What field 1..15 are for; those that nothing here reads yet are carried as they are.
FIELDS = {
    1: "message id", 2: "origin", 3: "hops left", 4: "call chain", 5: "delivery", 6: "sealing",
    7: "authorisation token", 8: "group", 9: "operation id", 10: "vector clock",
    11: "deadline of the chain", 12: "fragment", 13: "stream", 14: "content type", 15: "failure",
    64: "traceparent",
}


cdef class Origin:
    def __init__(self, str node_id, uint64_t incarnation):
        self.node_id, self.incarnation = node_id, incarnation


NOWHERE = Origin("", 0)
cdef Origin _nowhere = NOWHERE


@cython.freelist(2048)
@cython.no_gc
cdef class AgentMessage:
    """One message between agents.

    `to_agent`: id or name of the receiver, None for all agents (a broadcast), or for those of `group`
    (a multicast). `ttl`: seconds until it is no longer worth executing, 0 never. `timestamp`:
    nanoseconds since the epoch, 0 to have it stamped when sent. `message_id`: any string, or None
    to have one generated when it is read.

    >>> AgentMessage(b"hi", to_agent=7).priority
    <MessagePriority.NORMAL: 1>
    """

    def __cinit__(self):
        # C code takes both for granted, whatever a subclass does in its __init__.
        self.payload = b""
        self.origin = _nowhere

    def __init__(self, bytes payload not None=b"", *, to_agent=None, from_agent=0, message_type=1,
                 priority=1, ttl=0.0, message_id=None, timestamp=0, group=None):
        cdef int kind = small(message_type), level = small(priority)
        cdef double seconds = real(ttl)
        if not 0 <= kind < len(TYPES):
            raise ConfigError(f"message_type={describe(message_type)}: expected a MessageType, "
                              f"0 to {len(TYPES) - 1}")
        if not 0 <= level < len(PRIORITIES):
            raise ConfigError(f"priority={describe(priority)}: expected a MessagePriority, "
                              f"0 to {len(PRIORITIES) - 1}")
        if not 0 <= seconds <= 4_294_967:
            raise ConfigError(f"ttl={describe(ttl)}: expected 0 (never expires) to 4294967 seconds")
        self.payload = payload
        self.to_all = to_agent is None
        self.to_id = 0 if to_agent is None else _agent_id("to_agent", to_agent)
        self.from_agent = _agent_id("from_agent", from_agent)
        self.type, self.level = <uint8_t>kind, <uint8_t>level
        self.ttl_ms = <uint32_t>(seconds * 1000)
        if seconds > 0 and self.ttl_ms == 0:
            self.ttl_ms = 1             # 0 would be never
        self.id = None if message_id is None else _checked_id(message_id)
        self.timestamp = _nanoseconds(timestamp)
        if group is not None:
            if to_agent is not None:
                raise ConfigError(f"group={describe(group)}: expected None for a message to agent "
                                  f"{to_agent!r}: it goes to one agent or to a group")
            self.extras, self.extras_count = _group_pair(check_group(group)), 1

    # -- what users read

    @property
    def to_agent(self):
        """Id of the receiver; None for a broadcast, and for a message to a group."""
        return None if self.to_all else self.to_id

    @property
    def group(self):
        """Name of the group of agents that it goes to; None if it goes to one agent, or to all."""
        return None if self.extras is None else _find_group(self.extras)

    @property
    def message_type(self):
        return TYPES[self.type] if self.type < len(TYPES) else self.type

    @property
    def priority(self):
        return PRIORITIES[self.level]

    @property
    def ttl(self):
        """Seconds that were left when it was sent on to this node; 0 never expires."""
        return self.ttl_ms / 1000.0

    @property
    def message_id(self):
        if self.id is not None:
            return self.id
        return f"{self.origin.node_id}:{self.origin.incarnation}:{self.seq}"

    @property
    def from_node(self):
        """Id of the node that it came from; empty before it is sent."""
        return self.origin.node_id

    @property
    def sequence(self):
        """Number of the message at its node: rises with each message that the node sends."""
        return self.seq

    @property
    def is_value(self):
        """Whether the payload is the MessagePack form of a value."""
        return self.content == CONTENT_MSGPACK

    @property
    def value(self):
        """The payload as it was given: bytes, or the value that was sent."""
        if self.content == CONTENT_BYTES:
            return self.payload
        return unpack_value(self.payload)

    @property
    def error(self):
        """(code, text) if this is the answer of a request that failed, else None."""
        return self.failure

    @property
    def operation_id(self):
        """Its sender's name for what it asks, under which that is done once; None if it has none."""
        return None if self.envelope is None else self.envelope.operation

    def once(self, changes=None, result=b""):
        """Commit that it is done, with `changes` to its agent's store: see `Operations.once`."""
        return taker_of(self.taker).once(self, changes, result)

    @property
    def store(self):
        """The store of the agent that handles it."""
        return taker_of(self.taker).store

    @property
    def fields(self):
        """Optional fields that this version carries and does not read, by number."""
        cdef Cursor c
        cdef uint64_t key = 0
        cdef const uint8_t* start
        found = {}
        if self.extras is not None:
            c.at = <const uint8_t*>PyBytes_AS_STRING(self.extras)
            c.end = c.at + PyBytes_GET_SIZE(self.extras)
            while c.at < c.end:
                read_uint(&c, &key)
                start = c.at
                skip_value(&c, DEPTH_MAX)
                if key != FIELD_GROUP:
                    found[key] = unpack_value(PyBytes_FromStringAndSize(<const char*>start, c.at - start))
        return found

    def parts(self):
        """Its input, `async for part in message.parts()`; ConfigError if it has none, see `Agent.stream`."""
        return parts_of(self, self.envelope)

    def with_fields(self, dict fields not None):
        """The same message carrying optional `fields` {number: MessagePack value}; itself returned."""
        pairs = []
        for key, value in fields.items():
            if type(key) is not int or not is_carried(key) or key >> 64:
                raise ConfigError(f"optional field {key!r}: expected a reserved number that agentnet does "
                                  f"not read")
            try:
                packed = msgpack.packb(value)
                check_msgpack(packed, DEPTH_MAX)
            except (ProtocolError, TypeError, ValueError, OverflowError) as error:
                raise ConfigError(f"optional field {key}: {error}") from None
            pairs.append((key, msgpack.packb(key) + packed))
        if self.group is not None:
            pairs.append((FIELD_GROUP, _group_pair(self.group)))
        extras = b"".join([pair for _, pair in sorted(pairs)])
        if len(extras) > FIELDS_BYTES_MAX or len(pairs) > FIELDS_CARRIED_MAX:
            raise ConfigError(f"{len(pairs)} optional fields of {len(extras)} bytes: expected at most "
                              f"{FIELDS_CARRIED_MAX} of {FIELDS_BYTES_MAX}")
        self.extras, self.extras_count = extras or None, <uint32_t>len(pairs)
        return self

    def __repr__(self):
        to = "all" if self.to_all else self.to_id
        kind = TYPES[self.type].name if self.type < len(TYPES) else f"type {self.type}"
        return (f"<AgentMessage {kind} {self.message_id} from {self.from_agent} to {to}, "
                f"{len(self.payload)} bytes>")

    # -- the wire

    cdef bint has_optional(self) noexcept:
        return (self.id is not None or self.content or self.failure is not None
                or self.extras is not None or self.envelope is not None
                or self.slip is not None)

    cdef Py_ssize_t encoded_size(self, Py_ssize_t payload_size) noexcept:
        """An upper bound, exact for what is counted in it; `write` tells the end."""
        cdef Py_ssize_t n = PLAIN_HEAD_BYTES + payload_size, id_size = 0
        if self.has_optional() or self.fragments or payload_size != PyBytes_GET_SIZE(self.payload):
            n += 5 + 12
            if self.id is not None:
                PyUnicode_AsUTF8AndSize(self.id, &id_size)
                n += 6 + id_size
            if self.slip is not None:
                n += SLIP_BYTES
            if self.content:
                n += 2
            if self.failure is not None:
                n += 2 + 3 + 5 + PyBytes_GET_SIZE(<bytes>self.failure[1])
            if self.extras is not None:
                n += PyBytes_GET_SIZE(self.extras)
            if self.envelope is not None:
                n += self.envelope.size()
        return n

    cdef uint8_t* write(self, uint8_t* p, const uint8_t* payload, Py_ssize_t size,
                        uint32_t fragment, uint32_t fragments) noexcept:
        """Write the body with this piece of the payload; fragment k of n where n is not 0."""
        cdef uint8_t* head = p
        cdef Py_ssize_t n = 0
        cdef const char* text
        cdef uint32_t count
        cdef bint first = fragment == 0
        if self.to_all:
            p = write_plain(p, self.from_agent, 0, self.seq, self.correlation, self.type, self.level,
                            self.ttl_ms, self.timestamp, NULL, 0)
            p = _drop_receiver(head, payload, <uint32_t>size)
        else:
            p = write_plain(p, self.from_agent, self.to_id, self.seq, self.correlation, self.type,
                            self.level, self.ttl_ms, self.timestamp, payload, <uint32_t>size)
        if not fragments and not self.has_optional():
            return p
        count = 1 if fragments else 0
        if first:
            count += (self.id is not None) + (self.content != 0) + (self.failure is not None)
            count += self.extras_count + (self.slip is not None)
            if self.envelope is not None:
                count += self.envelope.count()
        p[0], p[1], p[2] = 0xde, <uint8_t>(count >> 8), <uint8_t>count
        p += 3
        if first and self.id is not None:
            text = PyUnicode_AsUTF8AndSize(self.id, &n)
            p[0], p[1], p[2], p[3] = FIELD_MESSAGE_ID, 0xda, <uint8_t>(n >> 8), <uint8_t>n
            memcpy(p + 4, text, n)
            p += 4 + n
        if first and self.envelope is not None:
            p = self.envelope.write(p)
        if first and self.slip is not None:
            p = write_slip(p, FIELD_DELIVERY, self.slip)
        if fragments:
            p[0], p[1], p[2] = FIELD_FRAGMENT, 0x92, 0xce
            p = put_u32(p + 3, fragment)
            p[0] = 0xce
            p = put_u32(p + 1, fragments)
        if first and self.content:
            p[0], p[1] = FIELD_CONTENT_TYPE, self.content
            p += 2
        if first and self.failure is not None:
            n = PyBytes_GET_SIZE(<bytes>self.failure[1])
            p[0], p[1], p[2] = FIELD_FAILURE, 0x92, 0xcd
            p[3], p[4] = <uint8_t>(<int>self.failure[0] >> 8), <uint8_t>(<int>self.failure[0])
            p = pack_bin_head(p + 5, <uint32_t>n)
            memcpy(p, PyBytes_AS_STRING(<bytes>self.failure[1]), n)
            p += n
        if first and self.extras is not None:
            n = PyBytes_GET_SIZE(self.extras)
            memcpy(p, PyBytes_AS_STRING(self.extras), n)
            p += n
        return p

    def encode(self):
        """The MessagePack form, alone: any MessagePack library reads it."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(self.payload)
        cdef Py_ssize_t bound = self.encoded_size(size), used
        cdef bytes body
        cdef uint8_t stack[512]
        cdef uint8_t* p
        if bound <= 512:
            p = self.write(stack, <const uint8_t*>PyBytes_AS_STRING(self.payload), size, 0, 0)
            return PyBytes_FromStringAndSize(<const char*>stack, p - stack)
        body = PyBytes_FromStringAndSize(NULL, bound)
        p = <uint8_t*>PyBytes_AS_STRING(body)
        used = self.write(p, <const uint8_t*>PyBytes_AS_STRING(self.payload), size, 0, 0) - p
        return body if used == bound else body[:used]

    @staticmethod
    def decode(bytes data not None, Origin origin not None=NOWHERE):
        """The message in `data`, as `encode` or another MessagePack library wrote it; ProtocolError."""
        return read_message(<const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), True, origin)


cdef double convert_real(value) except? -1:
    try:
        return value
    except OverflowError:           # of an int
        return INFINITY if value > 0 else -INFINITY


cdef int64_t _nanoseconds(timestamp) except? -1:
    cdef int beyond = 0
    cdef int64_t number = PyLong_AsLongLongAndOverflow(timestamp, &beyond)
    if beyond:
        raise ConfigError(f"timestamp={describe(timestamp)}: expected nanoseconds since the epoch, 64 bits")
    return number


cdef uint64_t _agent_id(str what, agent) except? 0:
    if type(agent) is not str and (type(agent) is not int or not 0 <= agent < 2**64):
        raise ConfigError(f"{what}={agent!r}: expected a name (str) or an id of 0 to 2**64-1")
    return agent_id_of(agent)


cdef uint8_t* write_plain(uint8_t* p, uint64_t from_agent, uint64_t to_agent, uint64_t seq,
                          uint64_t correlation, uint8_t type, uint8_t level, uint32_t ttl_ms,
                          int64_t timestamp, const uint8_t* payload, uint32_t size) noexcept:
    p[0] = 0x99
    p = pack_u64(p + 1, from_agent)
    p = pack_u64(p, to_agent)
    p = pack_u64(p, seq)
    p = pack_u64(p, correlation)
    p[0], p[1], p[2] = type, level, 0xce
    p = put_u32(p + 3, ttl_ms)
    p[0] = 0xd3
    p = put_u64(p + 1, <uint64_t>timestamp)
    p = pack_bin_head(p, size)
    if size:
        memcpy(p, payload, size)
    return p + size


cdef uint8_t* _drop_receiver(uint8_t* head, const uint8_t* payload, uint32_t size) noexcept:
    """Turn a plain head (without payload) into a broadcast's: `to` is nil, eight bytes shorter."""
    cdef Py_ssize_t after = PLAIN_HEAD_BYTES - 5 - 19
    cdef uint8_t moved[PLAIN_HEAD_BYTES]
    cdef uint8_t* p
    memcpy(moved, head + 19, after)
    head[10] = 0xc0
    memcpy(head + 11, moved, after)
    p = pack_bin_head(head + 11 + after, size)
    memcpy(p, payload, size)
    return p + size


cdef str _checked_id(message_id):
    try:
        if isinstance(message_id, str) and len(message_id.encode()) <= ID_BYTES_MAX:
            return str(message_id)
    except UnicodeEncodeError:
        pass
    raise ConfigError(f"message_id: expected a text of at most {ID_BYTES_MAX} bytes as UTF-8, "
                      f"got {describe(message_id)}")


def check_group(group):
    """The name of a group, if it can be one; ConfigError otherwise."""
    try:
        if isinstance(group, str) and 0 < len(group.encode()) <= GROUP_BYTES_MAX:
            return str(group)
    except UnicodeEncodeError:
        pass
    raise ConfigError(f"group {describe(group)}: expected a text of 1 to {GROUP_BYTES_MAX} bytes as UTF-8")


cdef bytes _group_pair(str group):
    return msgpack.packb(FIELD_GROUP) + msgpack.packb(group)


cdef str _find_group(bytes extras):
    cdef Cursor c
    cdef uint64_t key = 0
    cdef const uint8_t* data = NULL
    cdef uint32_t n = 0
    c.at = <const uint8_t*>PyBytes_AS_STRING(extras)
    c.end = c.at + PyBytes_GET_SIZE(extras)
    while c.at < c.end:     # was checked when it was made or read
        read_uint(&c, &key)
        if key == FIELD_GROUP:
            read_str(&c, &data, &n)
            return PyUnicode_DecodeUTF8(<char*>data, n, NULL)
        skip_value(&c, DEPTH_MAX)
    return None


cdef inline AgentMessage blank(Origin origin):
    cdef AgentMessage message = AgentMessage.__new__(AgentMessage)
    message.origin = origin
    return message


cdef AgentMessage read_message(const uint8_t* p, Py_ssize_t size, bint optional, Origin origin):
    cdef AgentMessage message = blank(origin)
    cdef uint32_t n
    cdef Cursor c
    c.at, c.end = p, p + size
    if (size >= PLAIN_HEAD_BYTES and p[0] == 0x99 and p[1] == 0xcf and p[10] == 0xcf and p[19] == 0xcf
            and p[28] == 0xcf and p[37] < 0x80 and p[38] < 4 and p[39] == 0xce and p[44] == 0xd3
            and p[53] == 0xc6):
        n = get_u32(p + 54)
        if <Py_ssize_t>n > size - PLAIN_HEAD_BYTES:
            raise ProtocolError(f"message payload of {n} bytes: the frame has {size - PLAIN_HEAD_BYTES}")
        message.from_agent, message.to_id = get_u64(p + 2), get_u64(p + 11)
        message.seq, message.correlation = get_u64(p + 20), get_u64(p + 29)
        message.type, message.level = p[37], p[38]
        message.ttl_ms, message.timestamp = get_u32(p + 40), <int64_t>get_u64(p + 45)
        message.payload = PyBytes_FromStringAndSize(<const char*>p + PLAIN_HEAD_BYTES, n)
        c.at = p + PLAIN_HEAD_BYTES + n
    else:
        read_any_width(message, &c)
    if c.at != c.end:
        if not optional:
            raise ProtocolError(f"message: {c.end - c.at} bytes too many after its array")
        read_optional(message, &c)
    return message


cdef int read_any_width(AgentMessage message, Cursor* c) except -1:
    cdef uint32_t n = 0
    cdef const uint8_t* data = NULL
    cdef uint64_t value = 0
    cdef const uint8_t* start = c.at
    cdef str field = "array of 9"
    while True:     # left by break at the first field that is wrong
        if not read_array(c, &n) or n != 9:
            break
        field = "from"
        if not read_uint(c, &message.from_agent):
            break
        field = "to"
        if c.at < c.end and c.at[0] == 0xc0:
            message.to_all = True
            c.at += 1
        elif not read_uint(c, &message.to_id):
            break
        field = "seq"
        if not read_uint(c, &message.seq):
            break
        field = "correlation"
        if not read_uint(c, &message.correlation):
            break
        field = "type"
        if not read_uint(c, &value) or value > 127:
            break
        message.type = <uint8_t>value
        field = "priority"
        if not read_uint(c, &value) or value > 3:
            break
        message.level = <uint8_t>value
        field = "ttl_ms"
        if not read_uint(c, &value) or value > 0xffffffff:
            break
        message.ttl_ms = <uint32_t>value
        field = "timestamp"
        if not read_int(c, &message.timestamp):
            break
        field = "payload"
        if not read_bin(c, &data, &n):
            break
        message.payload = PyBytes_FromStringAndSize(<const char*>data, n)
        return 0
    raise ProtocolError(f"message: {field} is missing, out of range or of another type, near byte "
                        f"{c.at - start}")


cdef inline bint is_carried(key):
    return ((1 <= key <= FIELD_RESERVED_MAX and key not in (1, 5, 8, 12, 14, 15) and not is_enveloped(key))
            or key >= FIELD_IGNORABLE_MIN)


cdef int read_optional(AgentMessage message, Cursor* c) except -1:
    cdef uint32_t count = 0, n = 0
    cdef uint64_t key = 0, value = 0
    cdef const uint8_t* data = NULL
    cdef const uint8_t* pair
    cdef const uint8_t* start = c.at
    cdef bint ok = read_map(c, &count) and count <= OPTIONAL_FIELDS_MAX
    cdef list carried = None
    while ok and count:
        count -= 1
        pair = c.at
        ok = read_uint(c, &key)
        if not ok:
            break
        if key == FIELD_MESSAGE_ID:
            ok = read_str(c, &data, &n) and n <= ID_BYTES_MAX
            if ok:
                message.id = _text("id", data, n)
        elif key == FIELD_DELIVERY:
            message.slip = read_slip(c)
            ok = (message.slip is not None and message.slip.prior < message.correlation and not message.to_all
                  and message.type != TYPE_QUERY and message.type != TYPE_RESPONSE)
        elif key == FIELD_FRAGMENT:
            ok = read_array(c, &n) and n == 2 and read_uint(c, &value) and value < 0xffffffff
            message.fragment = <uint32_t>value
            ok = ok and read_uint(c, &value) and message.fragment < value <= 0xffffffff
            message.fragments = <uint32_t>value
        elif key == FIELD_CONTENT_TYPE:
            ok = read_uint(c, &value) and value <= CONTENT_MSGPACK
            message.content = <uint8_t>value
        elif key == FIELD_FAILURE:
            ok = read_array(c, &n) and n == 2 and read_uint(c, &value) and value < 65536
            ok = ok and read_bin(c, &data, &n)
            if ok:
                message.failure = (<int>value, PyBytes_FromStringAndSize(<const char*>data, n))
        elif is_enveloped(key):
            if message.envelope is None:
                message.envelope = Envelope()
            ok = message.envelope.read(key, c)
        elif key == FIELD_GROUP or is_carried(key):
            if key == FIELD_GROUP:
                ok = message.to_all and read_str(c, &data, &n) and 0 < n <= group_bytes_max
                ok = ok and _text("group", data, n) is not None
            else:
                ok = skip_value(c, DEPTH_MAX)
            if ok:
                carried = carried or []
                carried.append(PyBytes_FromStringAndSize(<const char*>pair, c.at - pair))
        else:
            raise ProtocolError(f"message: optional field {key} is unknown to this version and must be "
                                f"understood")
    if not ok or c.at != c.end:
        raise ProtocolError(f"message: optional fields malformed near byte {c.at - start} (field {key})")
    if carried is not None:
        message.extras = b"".join(carried)
        if len(carried) > FIELDS_CARRIED_MAX or PyBytes_GET_SIZE(message.extras) > FIELDS_BYTES_MAX:
            raise ProtocolError(f"message: {len(carried)} optional fields of {len(message.extras)} bytes to "
                                f"carry: expected at most {FIELDS_CARRIED_MAX} of {FIELDS_BYTES_MAX}")
        message.extras_count = <uint32_t>len(carried)
    return 0


cdef AgentMessage copy_message(AgentMessage message):
    """The same message, not yet stamped."""
    cdef AgentMessage other = AgentMessage.__new__(AgentMessage)
    other.from_agent, other.to_id, other.to_all = message.from_agent, message.to_id, message.to_all
    other.type, other.level, other.content = message.type, message.level, message.content
    other.ttl_ms, other.deadline_ns, other.timestamp = message.ttl_ms, message.deadline_ns, message.timestamp
    other.payload, other.id, other.origin = message.payload, message.id, message.origin
    other.extras, other.extras_count, other.envelope = message.extras, message.extras_count, message.envelope
    return other


cdef str _text(str what, const uint8_t* data, uint32_t n):
    try:
        return PyUnicode_DecodeUTF8(<char*>data, n, NULL)
    except UnicodeDecodeError as error:
        raise ProtocolError(f"message: its {what} is not UTF-8 at byte {error.start}") from None


def unpack_value(bytes data not None):
    """The value in `data`; ProtocolError if it is malformed, too deep or claims more than is there."""
    check_msgpack(data)
    try:
        return msgpack.unpackb(data, strict_map_key=False, raw=False)
    except (ValueError, TypeError) as error:
        raise ProtocolError(f"value: {error}") from None
