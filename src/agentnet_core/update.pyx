"""What one AGENTS frame says, and the plain ones, read at once: most of what many nodes say.

In: the body of a frame, as `listing` describes it.  Out: an Update, every value of it checked, or None for
whatever else it may be: `listing.read_update` reads that value by value, and says what is wrong with it.
Plain is a list without a signature, of agents without metadata, groups or a health, whose names are ASCII.
"""

from hashlib import blake2b

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from agentnet_core.agent_record cimport AgentRecord
from agentnet_core.body cimport is_name
from agentnet_core.config import VERSION_MAX
from agentnet_core.framing cimport Cursor, get_u64, read_array, read_str, read_uint, skip_value

cdef enum:
    FIELDS = 8              # of AGENTS
    RECORD_FIELDS = 5
    NAME_BYTES_MAX = 256
    FLAG_BROADCASTS = 1
    NIL = 0xc0
    FALSE = 0xc2
    TRUE = 0xc3

cdef uint64_t versions = VERSION_MAX


@cython.no_gc       # nothing that it holds can hold it
cdef class Update:
    """What one AGENTS frame says of its owner's list: all of it on base 0, else a change.

    For the `ledger`: ``source``, who brought it; ``tally``, what the list comes to with it; ``over``, what of
    it there was no room for. ``body``: of a plain list that is whole, what it was read from.
    """

    def __init__(self, str owner, uint64_t incarnation, uint64_t base, uint64_t version, bint first,
                 bint last, list records, list removals, head=None):
        self.owner, self.incarnation, self.base, self.version = owner, incarnation, base, version
        self.first, self.last, self.records, self.removals = first, last, records, removals
        self.head, self.source, self.tally, self.over = head, "", None, ()


cpdef Update read_plain(bytes body, words_of, dict known):
    """The update in the body of an AGENTS frame; None if it is not plain.

    ``known``: tuples of words by their bytes; ``words_of``: gives that of others, once it is checked.
    """
    cdef Cursor c
    cdef uint32_t count = 0
    cdef uint64_t removed = 0
    cdef AgentRecord record
    cdef Update update
    c.at = <const uint8_t*>PyBytes_AS_STRING(body)
    c.end = c.at + PyBytes_GET_SIZE(body)
    update = read_head(&c)
    if update is None or not read_array(&c, &count):
        return None
    for _ in range(count):
        record = read_record(&c, update.owner, words_of, known)
        if record is None:
            return None
        update.records.append(record)
    if not read_array(&c, &count):
        return None
    for _ in range(count):
        if not read_uint(&c, &removed) or not removed:
            return None
        update.removals.append(removed)
    if c.at != c.end:
        return None
    if not update.base and update.first and update.last:
        update.body = body
    return update


cdef Update read_head(Cursor* c):
    cdef const uint8_t* data = NULL
    cdef uint32_t count = 0, size = 0
    cdef uint64_t incarnation = 0, base = 0, version = 0
    cdef bint first = False, last = False
    cdef str owner
    if not read_array(c, &count) or count != FIELDS or not read_str(c, &data, &size):
        return None
    owner = ascii_text(data, size)
    if owner is None or not is_name(owner):
        return None
    if not (read_uint(c, &incarnation) and read_uint(c, &base) and read_uint(c, &version)):
        return None
    if not base <= version <= versions or not (read_bool(c, &first) and read_bool(c, &last)):
        return None
    if base and not (first and last):
        return None
    return Update(owner, incarnation, base, version, first, last, [], [])


cdef AgentRecord read_record(Cursor* c, str owner, words_of, dict known):
    cdef const uint8_t* data = NULL
    cdef uint32_t count = 0, size = 0
    cdef uint64_t agent_id = 0, flags = 0
    cdef AgentRecord record
    cdef bytes packed
    cdef str name = None
    if not read_array(c, &count) or count != RECORD_FIELDS or not read_uint(c, &agent_id) or not agent_id:
        return None
    if c.at < c.end and c.at[0] == NIL:
        c.at += 1
    else:
        if not read_str(c, &data, &size) or not 0 < size <= NAME_BYTES_MAX:
            return None
        name = ascii_text(data, size)
        if name is None or id_of(data, size) != agent_id:
            return None
    data = c.at
    if not skip_value(c, 2):
        return None
    packed = PyBytes_FromStringAndSize(<const char*>data, c.at - data)
    words = known.get(packed)
    if words is None:
        words = words_of(packed)
    if words is None or c.at == c.end or c.at[0] != NIL:
        return None
    c.at += 1
    if not read_uint(c, &flags) or flags > FLAG_BROADCASTS:
        return None
    record = AgentRecord.__new__(AgentRecord)
    record.agent_id, record.node_id, record.name, record.capabilities = agent_id, owner, name, words
    record.broadcasts, record.health, record.groups = flags == FLAG_BROADCASTS, "", ()
    return record


cdef uint64_t id_of(const uint8_t* name, uint32_t size) except? 0:
    """As `records.agent_id_of`."""
    cdef bytes digest = blake2b(PyBytes_FromStringAndSize(<const char*>name, size), digest_size=8).digest()
    return get_u64(<const uint8_t*>PyBytes_AS_STRING(digest)) or 1


cdef str ascii_text(const uint8_t* data, uint32_t size):
    """The text, if it is of ASCII; else None."""
    cdef uint32_t at
    for at in range(size):
        if data[at] >= 0x80:
            return None
    return PyUnicode_DecodeASCII(<const char*>data, size, NULL)


cdef bint read_bool(Cursor* c, bint* value) noexcept:
    if c.at == c.end or not FALSE <= c.at[0] <= TRUE:
        return False
    value[0] = c.at[0] == TRUE
    c.at += 1
    return True
