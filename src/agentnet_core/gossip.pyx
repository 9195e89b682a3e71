"""What nodes say to each other of broadcasts: the frames of the tree, and their bodies.

GOSSIP  [origin, incarnation, sequence, hops, age in ms, whether it shapes the tree, payload, {seal}]
IHAVE   [[origin, incarnation, sequence], ...]   announced: ask, if it does not come otherwise
GRAFT   [[origin, incarnation, sequence], ...]   send these, and what comes after them
PRUNE   []                                       announce what comes after this, do not send it
GONE    [[origin, incarnation, sequence], ...]   the answer to a GRAFT of what is kept no more

What is in a frame is checked as it is read; what that means is for `tree`.  A broadcast goes by its id: the
bytes of [origin, incarnation, sequence] as MessagePack, in the shortest form, however a peer wrote them.
What they have before the sequence is the life of the origin that it counts them in.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from agentnet_core.body cimport (
    expect_bool, expect_bytes, expect_fields, expect_int, expect_list, expect_name, is_name_at,
    unpack_checked,
)
from agentnet_core.framing cimport (
    GONE as GONE_KIND, GOSSIP as GOSSIP_KIND, GRAFT as GRAFT_KIND, IHAVE as IHAVE_KIND, PRUNE as PRUNE_KIND,
    Cursor, read_array, read_bin, read_str, read_uint, skip_value,
)
from agentnet_core.packing cimport (
    Buffer, buffer_bytes, buffer_free, buffer_room, put_array, put_raw, put_str, put_uint, put_value,
)

from agentnet_core.body import DEPTH_MAX, U64_MAX, pack, unpack
from agentnet_core.config import BODY_BYTES, BROADCAST_BYTES
from agentnet_core.errors import ProtocolError
from agentnet_core.signing import read_seal, seal_fields

GOSSIP, IHAVE, GRAFT, PRUNE, GONE = range(24, 29)

CHANGES, MESSAGES, STATES = 1, 2, 3

HOPS_MAX = 255
ID_BYTES = 96
IDS_MAX = BODY_BYTES // ID_BYTES

cdef enum:
    HEAD_BYTES = 32             # of a GOSSIP, what is neither id nor payload nor seal

cdef uint64_t hops_max = HOPS_MAX
cdef uint32_t payload_max = BROADCAST_BYTES
cdef int seal_depth_max = DEPTH_MAX - 1


# -- ids

cdef struct Id:
    const uint8_t* origin
    uint32_t size
    uint64_t incarnation, sequence


def pack_id(str origin not None, uint64_t incarnation, uint64_t sequence):
    """The id of that broadcast."""
    cdef Buffer b
    memset(&b, 0, sizeof(Buffer))
    try:
        buffer_room(&b, ID_BYTES)
        put_array(&b, 3)
        put_str(&b, origin)
        buffer_room(&b, 18)
        put_uint(&b, incarnation)
        put_uint(&b, sequence)
        return buffer_bytes(&b)
    finally:
        buffer_free(&b)


cpdef tuple read_id(bytes broadcast):
    """Origin, incarnation and sequence in an id."""
    cdef Cursor c
    cdef Id id
    cdef uint32_t count = 0
    look_at(&c, broadcast)
    if not read_array(&c, &count) or count != 3 or not take_id(&c, &id) or c.at != c.end:
        raise ProtocolError(f"broadcast: expected an id, got {len(broadcast)} other bytes")
    return PyUnicode_DecodeASCII(<const char*>id.origin, id.size, NULL), id.incarnation, id.sequence


cdef bytes life_of(bytes broadcast, uint64_t* sequence):
    """The id less its sequence, which it tells."""
    cdef Cursor c
    cdef const uint8_t* origin = NULL
    cdef const uint8_t* end
    cdef uint32_t size = 0
    cdef uint64_t incarnation = 0
    look_at(&c, broadcast)
    c.at += 1
    read_str(&c, &origin, &size)
    read_uint(&c, &incarnation)
    end = c.at
    read_uint(&c, sequence)
    return PyBytes_FromStringAndSize(PyBytes_AS_STRING(broadcast),
                                     <const char*>end - PyBytes_AS_STRING(broadcast))


cdef inline void look_at(Cursor* c, bytes data) noexcept:
    c.at = <const uint8_t*>PyBytes_AS_STRING(data)
    c.end = c.at + PyBytes_GET_SIZE(data)


cdef inline bint take_id(Cursor* c, Id* id) noexcept nogil:
    """The next three values, if they are those of an id."""
    return (read_str(c, &id.origin, &id.size) and is_name_at(<const char*>id.origin, id.size)
            and read_uint(c, &id.incarnation) and read_uint(c, &id.sequence) and id.sequence > 0)


cdef bytes id_of(const Id* id):
    cdef uint8_t[96] data       # as ID_BYTES
    cdef Buffer b
    b.data, b.used, b.capacity = data, 1, 96
    data[0] = 0x93
    if id.size < 32:
        data[1] = <uint8_t>(0xa0 | id.size)
        b.used = 2
    else:
        data[1], data[2] = 0xd9, <uint8_t>id.size
        b.used = 3
    put_raw(&b, id.origin, id.size)
    put_uint(&b, id.incarnation)
    put_uint(&b, id.sequence)
    return PyBytes_FromStringAndSize(<char*>data, b.used)


# -- frames

cdef class Frame:
    """One of the five. Those of the same bytes are equal."""

    cdef bytes body(self):
        raise NotImplementedError

    def __eq__(self, other):
        return isinstance(other, Frame) and encode(self) == encode(other)

    __hash__ = None

    def __repr__(self):
        kind, body = encode(self)
        return f"{type(self).__name__} {unpack(NAMES[kind], body)}"


@cython.final
@cython.no_gc
cdef class Gossip(Frame):
    def __cinit__(self, bytes broadcast not None, uint64_t hops, uint64_t age_ms, bint shapes,
                  bytes payload not None, seal=None):
        self.kind = GOSSIP_KIND
        self.broadcast, self.hops, self.age_ms, self.shapes = broadcast, hops, age_ms, shapes
        self.payload, self.seal = payload, seal

    @property
    def origin(self):
        return read_id(self.broadcast)[0]

    @property
    def incarnation(self):
        return read_id(self.broadcast)[1]

    @property
    def sequence(self):
        return read_id(self.broadcast)[2]

    cdef Gossip again(self, uint64_t hops, uint64_t age_ms, bint shapes):
        """The same broadcast, as it goes on."""
        return made(self.broadcast, hops, age_ms, shapes, self.payload, self.seal)

    cdef bytes body(self):
        cdef Buffer b
        cdef bytes packed
        cdef Py_ssize_t size = PyBytes_GET_SIZE(self.broadcast)
        memset(&b, 0, sizeof(Buffer))
        try:
            buffer_room(&b, HEAD_BYTES + size + PyBytes_GET_SIZE(self.payload))
            put_array(&b, 7 if self.seal is None else 8)
            put_raw(&b, PyBytes_AS_STRING(self.broadcast) + 1, size - 1)
            put_uint(&b, self.hops)
            put_uint(&b, self.age_ms)
            b.data[b.used] = 0xc3 if self.shapes else 0xc2
            b.used += 1
            put_value(&b, self.payload)
            if self.seal is not None:
                packed = pack(seal_fields(self.seal))
                buffer_room(&b, PyBytes_GET_SIZE(packed))
                put_raw(&b, PyBytes_AS_STRING(packed), PyBytes_GET_SIZE(packed))
            return buffer_bytes(&b)
        finally:
            buffer_free(&b)


cdef inline Gossip made(bytes broadcast, uint64_t hops, uint64_t age_ms, bint shapes, bytes payload, seal):
    return Gossip.__new__(Gossip, broadcast, hops, age_ms, shapes, payload, seal)


@cython.no_gc
cdef class Ids(Frame):
    """A frame of nothing but ids."""

    def __cinit__(self, tuple broadcasts not None):
        self.broadcasts = broadcasts

    cdef bytes body(self):
        cdef Buffer b
        cdef bytes broadcast
        memset(&b, 0, sizeof(Buffer))
        try:
            buffer_room(&b, 5)
            put_array(&b, <uint32_t>len(self.broadcasts))
            for broadcast in self.broadcasts:
                buffer_room(&b, PyBytes_GET_SIZE(broadcast))
                put_raw(&b, PyBytes_AS_STRING(broadcast), PyBytes_GET_SIZE(broadcast))
            return buffer_bytes(&b)
        finally:
            buffer_free(&b)


@cython.final
@cython.no_gc
cdef class Ihave(Ids):
    def __cinit__(self, broadcasts):
        self.kind = IHAVE_KIND


@cython.final
@cython.no_gc
cdef class Graft(Ids):
    def __cinit__(self, broadcasts):
        self.kind = GRAFT_KIND


@cython.final
@cython.no_gc
cdef class Gone(Ids):
    def __cinit__(self, broadcasts):
        self.kind = GONE_KIND


@cython.final
cdef class Prune(Frame):
    def __cinit__(self):
        self.kind = PRUNE_KIND

    cdef bytes body(self):
        return b"\x90"


# -- the wire

cdef dict NAMES = {GOSSIP: "GOSSIP", IHAVE: "IHAVE", GRAFT: "GRAFT", PRUNE: "PRUNE", GONE: "GONE"}


cpdef tuple encode(Frame frame):
    """Kind and body of the frame."""
    return frame.kind, frame.body()


cpdef Frame decode(int kind, bytes body):
    """The frame that a body of one of these kinds is; ProtocolError if it is none."""
    cdef Cursor c
    cdef Frame frame = None
    cdef uint32_t count = 0
    cdef tuple ids
    look_at(&c, body)
    if kind == GOSSIP_KIND:
        frame = read_gossip(&c)
    elif kind == PRUNE_KIND:
        if read_array(&c, &count) and count == 0 and c.at == c.end:
            frame = Prune()
    else:
        ids = read_ids(&c)
        if ids is not None:
            frame = (Ihave if kind == IHAVE_KIND else Graft if kind == GRAFT_KIND else Gone)(ids)
    if frame is None:
        refuse(kind, body)
    return frame


cdef Gossip read_gossip(Cursor* c):
    cdef Id id
    cdef uint32_t count = 0, size = 0
    cdef uint64_t hops = 0, age_ms = 0
    cdef const uint8_t* payload = NULL
    cdef const uint8_t* start
    cdef bint shapes
    cdef object seal = None
    if not read_array(c, &count) or count not in (7, 8) or not take_id(c, &id):
        return None
    if not read_uint(c, &hops) or not 1 <= hops <= hops_max or not read_uint(c, &age_ms):
        return None
    if c.at >= c.end or c.at[0] | 1 != 0xc3:
        return None
    shapes = c.at[0] == 0xc3
    c.at += 1
    if not read_bin(c, &payload, &size) or size > payload_max:
        return None
    if count == 8:
        start = c.at
        if not skip_value(c, seal_depth_max):
            return None
        fields = unpack_checked("GOSSIP", PyBytes_FromStringAndSize(<const char*>start, c.at - start))
        seal = read_seal("GOSSIP", expect_fields("GOSSIP fields", fields))
    if c.at != c.end:
        return None
    return made(id_of(&id), hops, age_ms, shapes, PyBytes_FromStringAndSize(<const char*>payload, size), seal)


cdef tuple read_ids(Cursor* c):
    cdef Id id
    cdef uint32_t count = 0, parts = 0
    cdef list found = []
    if not read_array(c, &count):
        return None
    for _ in range(count):
        if not read_array(c, &parts) or parts != 3 or not take_id(c, &id):
            return None
        found.append(id_of(&id))
    return tuple(found) if c.at == c.end else None


cdef int refuse(int kind, bytes body) except -1:
    """Say what is wrong with a body that is none of its kind."""
    cdef str what = NAMES[kind]
    lengths = {GOSSIP: range(7, 9), PRUNE: range(1)}.get(kind)
    values = expect_list(what, unpack(what, body), lengths)
    if kind == GOSSIP_KIND:
        check_id(what, values[:3])
        expect_int("GOSSIP hops", values[3], 1, HOPS_MAX)
        expect_int("GOSSIP age_ms", values[4], 0, U64_MAX)
        expect_bool("GOSSIP shapes", values[5])
        expect_bytes("GOSSIP payload", values[6], range(BROADCAST_BYTES + 1))
    else:
        for item in values:
            check_id(what, item)
    raise ProtocolError(f"{what}: expected a frame of the tree, got {len(body)} other bytes")


cdef int check_id(str what, item) except -1:
    origin, incarnation, sequence = expect_list(f"{what} broadcast", item, range(3, 4))
    expect_name(f"{what} origin", origin)
    expect_int(f"{what} incarnation", incarnation, 0, U64_MAX)
    expect_int(f"{what} sequence", sequence, 1, U64_MAX)
    return 0
