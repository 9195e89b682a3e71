"""What is known of one node, and how two records of it become one.

[node id, incarnation, version, [address, ...]]
[node id, incarnation, version, [address, ...], standing, [accuser, ...], [witness, ...]]

The shorter form is of a node in good standing that nobody accuses.  Each may end with one number
more, the version of the node's list of agents, if it has one; and then with a map of numbered fields,
by the law of the Hello: 64 is the node's signature of id, incarnation, version and addresses, of one that
has left that of its leave; 65 its certificate; 66 is [count, digest, signature] of the list of that version.
See `signing`; who passes on what others hold already leaves out 65.

Only the node itself raises its incarnation, once each start, and its version, whenever it has news
or clears itself of an accusation.  What others say (that they cannot hear it, that its process is
gone, that it is lost) is about one version and void in the next: so a falsely accused node refutes
by raising its version, which is what SWIM (Das, Gupta, Motivala, DSN 2002) calls its incarnation;
here that is the identity of a process, and stays for its lifetime.

`merge` is a join: in any order, repeated or not, the same records give the same record.

A record is plain that bears no signature and is of ASCII alone.  In a network of many nodes most are, and
most are told more than once: so whether a plain one says anything new is seen in its bytes.
"""

cimport cython
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeASCII
from libc.string cimport memcmp

from agentnet_core.body cimport is_address, is_name
from agentnet_core.framing cimport read_array, read_str, read_uint
from agentnet_core.packing cimport (
    Buffer,
    buffer_bytes,
    buffer_free,
    buffer_room,
    put_array,
    put_str,
    put_uint,
)

from enum import IntEnum

from agentnet_core.body import (
    ADDRESSES_MAX,
    U64_MAX,
    expect_addresses,
    expect_fields,
    expect_int,
    expect_list,
    expect_name,
    pack,
    unpack_checked,
)
from agentnet_core.config import VERSION_MAX
from agentnet_core.signing import expect_head, read_seal, seal_fields

ACCUSERS_MAX = 8
"""Names that are kept of those who accuse: nobody asks for more."""
HEAD_KEY = 66

cdef uint64_t versions = VERSION_MAX
cdef uint32_t addresses_max = ADDRESSES_MAX
cdef uint32_t names_max = ACCUSERS_MAX


class Standing(IntEnum):
    """What is held of a version of a node; the greater of two stands."""

    ALIVE = 0
    LOST = 1
    LEFT = 2


cdef tuple STANDINGS = tuple(Standing)
COUNTS = range(ACCUSERS_MAX + 1)


@cython.final
@cython.no_gc
cdef class NodeRecord:
    """A node as MEMBERS tells of it. ``accusers`` do not hear it; ``witnesses``, some of them, saw its
    process end: their link was reset and their dial refused. ``listed``: the version of its agents' list.

    ``seal``: its own signature, where the network is signed and it is known; ``head``: that of its list."""

    def __init__(
        self,
        str node_id not None,
        uint64_t incarnation,
        tuple addresses not None,
        uint64_t version=0,
        int standing=ALIVE,
        tuple accusers not None=(),
        tuple witnesses not None=(),
        uint64_t listed=0,
        seal=None,
        head=None,
    ):
        self.node_id, self.incarnation, self.addresses = node_id, incarnation, addresses
        self.version, self.rank = version, standing
        self.accusers, self.witnesses = accusers, witnesses
        self.listed, self.seal, self.head = listed, seal, head

    @property
    def standing(self):
        return STANDINGS[self.rank]

    def __eq__(self, other):
        return isinstance(other, NodeRecord) and self.is_as(<NodeRecord>other)

    def __repr__(self):
        said = ", ".join(f"{name}={getattr(self, name)!r}" for name in FIELDS)
        return f"NodeRecord({said})"

    def replace(self, **changes):
        """The record with other values in these fields."""
        return NodeRecord(**{name: getattr(self, name) for name in FIELDS} | changes)

    cdef bint is_as(self, NodeRecord other) except -1:
        return self.says_as(other) and (
            self.listed == other.listed and self.seal == other.seal and self.head == other.head
        )

    cdef bint says_as(self, NodeRecord other) except -1:
        """Whether the same is said of the node itself."""
        return self.incarnation == other.incarnation and self.version == other.version and (
            self.rank == other.rank
            and self.node_id == other.node_id
            and self.addresses == other.addresses
            and self.accusers == other.accusers
            and self.witnesses == other.witnesses
        )

    cdef NodeRecord copied(self):
        cdef NodeRecord copy = NodeRecord.__new__(NodeRecord)
        copy.node_id, copy.incarnation, copy.addresses = self.node_id, self.incarnation, self.addresses
        copy.version, copy.rank, copy.accusers = self.version, self.rank, self.accusers
        copy.witnesses, copy.listed, copy.seal, copy.head = self.witnesses, self.listed, self.seal, self.head
        return copy

    cpdef NodeRecord accused(self, str by, bint witness=False):
        """The record with one more accuser."""
        cdef NodeRecord record = self.copied()
        record.accusers = joined(self.accusers, (by,))
        if witness:
            record.witnesses = joined(self.witnesses, (by,))
        return record

    cpdef NodeRecord standing_as(self, int standing):
        """The record with what is held of it from now on."""
        cdef NodeRecord record = self.copied()
        record.rank = standing
        return record

    cpdef NodeRecord with_list(self, uint64_t listed, head):
        """The record with another version of the node's list."""
        cdef NodeRecord record = self.copied()
        record.listed, record.head = listed, head
        return record

    cpdef bint covers(self, NodeRecord told) except -1:
        """Whether all that ``told`` says is in this record, where nothing is signed; False if that takes a
        `merge` to tell."""
        if self.rank == LOST:
            return told.rank == LOST and self.ends(told)
        return told.listed <= self.listed and self.says_as(told)

    cpdef bint ends(self, NodeRecord told) except -1:
        """Whether the node is lost, and what ``told`` says of it is of no later version: who else does not
        hear it matters no more."""
        if self.rank != LOST or told.rank == LEFT:
            return False
        if told.incarnation != self.incarnation:
            return told.incarnation < self.incarnation
        return told.version <= self.version


FIELDS = (
    *("node_id", "incarnation", "addresses", "version", "standing", "accusers", "witnesses"),
    *("listed", "seal", "head"),
)


cpdef NodeRecord merge(NodeRecord one, NodeRecord other):
    """What both records of a node say together."""
    cdef NodeRecord both, older, newer, said, lists
    cdef int order = older_first(one, other)
    if order:
        older, newer = (one, other) if order < 0 else (other, one)
        if older.incarnation != newer.incarnation or newer.listed >= older.listed:
            return newer
        return newer.with_list(older.listed, older.head)
    if one.is_as(other):
        return one
    # Of a linked node the addresses may be known before they are signed; the signed ones count.
    said, lists = one, one
    if one.seal is None or other.seal is None:
        if one.seal is None and (other.seal is not None or other.addresses > one.addresses):
            said = other
    elif (other.addresses, other.seal) > (one.addresses, one.seal):
        said = other
    if (other.listed, other.head or ()) > (one.listed, one.head or ()):
        lists = other
    both = one.copied()
    both.addresses, both.seal = said.addresses, said.seal
    both.rank = max(one.rank, other.rank)
    both.accusers = joined(one.accusers, other.accusers)
    both.witnesses = joined(one.witnesses, other.witnesses)
    both.listed, both.head = lists.listed, lists.head
    return both


cdef int older_first(NodeRecord one, NodeRecord other) noexcept:
    """Less than 0 if the other is the later word of the node, 0 if both are of the same."""
    if one.incarnation != other.incarnation:
        return -1 if one.incarnation < other.incarnation else 1
    # Who has left comes back as a new incarnation only.
    if (one.rank == LEFT) != (other.rank == LEFT):
        return -1 if other.rank == LEFT else 1
    if one.version != other.version:
        return -1 if one.version < other.version else 1
    return 0


cdef tuple joined(tuple names, tuple others):
    # The least of all names are the least of those kept on the way.
    if not others or names == others:
        return names
    return tuple(sorted(dict.fromkeys(names + others))[:ACCUSERS_MAX])


# -- out


def pack_record(NodeRecord record not None, *, bint certified=True):
    """One record of a MEMBERS body. ``certified``: with the node's certificate, if it has one."""
    cdef Buffer b
    cdef bint judged = record.rank != ALIVE or record.accusers
    if record.seal is not None or record.head is not None:
        form = wire_form(record)
        if certified and record.seal is not None:
            form[len(form) - 1] = {**sealed(record), **seal_fields(record.seal)}
        return pack(form)
    b.data, b.used, b.capacity = NULL, 0, 0
    try:
        buffer_room(&b, 32)
        put_array(&b, (7 if judged else 4) + (record.listed > 0))
        put_str(&b, record.node_id)
        buffer_room(&b, 32)
        put_uint(&b, record.incarnation)
        put_uint(&b, record.version)
        put_names(&b, record.addresses)
        if judged:
            buffer_room(&b, 9)
            put_uint(&b, record.rank)
            put_names(&b, record.accusers)
            put_names(&b, record.witnesses)
        if record.listed:
            buffer_room(&b, 9)
            put_uint(&b, record.listed)
        return buffer_bytes(&b)
    finally:
        buffer_free(&b)


cdef int put_names(Buffer* b, tuple names) except -1:
    cdef str name
    buffer_room(b, 5)
    put_array(b, len(names))
    for name in names:
        put_str(b, name)
    return 0


def wire_form(NodeRecord record not None):
    """One record of a MEMBERS body, unpacked, without a certificate."""
    form = [record.node_id, record.incarnation, record.version, list(record.addresses)]
    if record.rank != ALIVE or record.accusers:
        form += [record.rank, list(record.accusers), list(record.witnesses)]
    if record.listed:
        form.append(record.listed)
    if record.seal is not None:
        form.append(sealed(record))
    return form


cdef dict sealed(NodeRecord record):
    fields = {} if record.seal is None else seal_fields(record.seal._replace(certificate=b""))
    if record.head is not None:
        fields[HEAD_KEY] = list(record.head)
    return fields


# -- in


cpdef NodeRecord read_record(bytes item):
    """The record that an item of `split_members` is; ProtocolError if it is none."""
    cdef NodeRecord plain = read_plain(item)
    return plain if plain is not None else read_any(item)


def read_any(bytes item not None):
    """As `read_record`, value by value, whatever it is."""
    values = expect_list("MEMBERS record", unpack_checked("MEMBERS", item))
    fields = {}
    if values and type(values[len(values) - 1]) is dict:
        fields = expect_fields("MEMBERS record fields", values.pop())
    if len(values) not in (4, 5, 7, 8):
        expect_list("MEMBERS record", values, range(4, 5))
    listed = values.pop() if len(values) in (5, 8) else 0
    node_id, incarnation, version, addresses = values[:4]
    standing, accusers, witnesses = values[4:] or (0, [], [])
    return NodeRecord(
        expect_name("MEMBERS node id", node_id),
        expect_int("MEMBERS incarnation", incarnation, 0, U64_MAX),
        expect_addresses("MEMBERS addresses", addresses),
        expect_int("MEMBERS version", version, 0, VERSION_MAX),
        expect_int("MEMBERS standing", standing, 0, len(STANDINGS) - 1),
        expect_names("MEMBERS accusers", accusers),
        expect_names("MEMBERS witnesses", witnesses),
        expect_int("MEMBERS listed", listed, 0, VERSION_MAX),
        read_seal("MEMBERS", fields),
        expect_head("MEMBERS list", fields[HEAD_KEY]) if HEAD_KEY in fields else None,
    )


cdef tuple expect_names(str field, value):
    names = tuple([expect_name(field, name) for name in expect_list(field, value, COUNTS)])
    return names if len(names) < 2 else tuple(sorted(dict.fromkeys(names)))


cpdef NodeRecord read_plain(bytes item):
    """The record, if it is plain; None if it is not, or none at all."""
    cdef Plain plain
    if not find_plain(item, &plain):
        return None
    return plain_record(&plain, text(plain.name, plain.name_size))


cdef bint find_plain(bytes item, Plain* plain) noexcept:
    """Where the parts of a plain record are; False if it is none. What is in the names is not looked at."""
    cdef Cursor c
    cdef uint32_t count = 0
    c.at = <const uint8_t*>item
    c.end = c.at + len(item)
    if not read_array(&c, &count) or count not in (4, 5, 7, 8):
        return False
    if not read_str(&c, &plain.name, &plain.name_size):
        return False
    if not read_uint(&c, &plain.incarnation) or not read_uint(&c, &plain.version) or plain.version > versions:
        return False
    plain.standing = plain.listed = 0
    plain.is_judged = count >= 7
    if not list_at(&c, &plain.addresses):
        return False
    if plain.is_judged:
        if not read_uint(&c, &plain.standing) or plain.standing > LOST:
            return False
        if not list_at(&c, &plain.accusers) or not list_at(&c, &plain.witnesses):
            return False
    if count in (5, 8) and (not read_uint(&c, &plain.listed) or plain.listed > versions):
        return False
    return c.at == c.end


cdef bint list_at(Cursor* c, Cursor* found) noexcept:
    """A list of texts is next: it is passed over."""
    cdef uint32_t count = 0, size = 0
    cdef const uint8_t* data = NULL
    found.at = c.at
    if not read_array(c, &count):
        return False
    for _ in range(count):
        if not read_str(c, &data, &size):
            return False
    found.end = c.at
    return True


cdef bint covers_plain(NodeRecord held, Plain* told) except -1:
    """As `NodeRecord.covers`, of a record that is not read yet."""
    if held.rank == LOST:
        if told.standing != LOST:
            return False
        if told.incarnation != held.incarnation:
            return told.incarnation < held.incarnation
        return told.version <= held.version
    if told.incarnation != held.incarnation or told.version != held.version or told.listed > held.listed:
        return False
    if <int>told.standing != held.rank or held.seal is not None or held.head is not None:
        return False
    if not are_texts(told.addresses, held.addresses):
        return False
    if not told.is_judged:
        return not held.accusers and not held.witnesses
    return are_texts(told.accusers, held.accusers) and are_texts(told.witnesses, held.witnesses)


cdef bint are_texts(Cursor c, tuple texts) except -1:
    cdef uint32_t count = 0, size = 0
    cdef const uint8_t* data = NULL
    cdef Py_ssize_t its_size
    cdef const char* its
    read_array(&c, &count)
    if <Py_ssize_t>count != len(texts):
        return False
    for held in texts:
        read_str(&c, &data, &size)
        its = PyUnicode_AsUTF8AndSize(held, &its_size)
        if <Py_ssize_t>size != its_size or memcmp(its, data, size) != 0:
            return False
    return True


cdef NodeRecord plain_record(Plain* plain, str node_id):
    """The record of that node; None if its texts are not such as a plain one has."""
    cdef NodeRecord record
    cdef tuple addresses, accusers = (), witnesses = ()
    if node_id is None or not is_name(node_id):
        return None
    addresses = read_addresses(plain.addresses)
    if addresses is None:
        return None
    if plain.is_judged:
        accusers, witnesses = read_names(plain.accusers), read_names(plain.witnesses)
        if accusers is None or witnesses is None:
            return None
    record = NodeRecord.__new__(NodeRecord)
    record.node_id, record.incarnation, record.version = node_id, plain.incarnation, plain.version
    record.rank, record.listed = <int>plain.standing, plain.listed
    record.addresses, record.accusers, record.witnesses = addresses, accusers, witnesses
    return record


cdef str text(const uint8_t* data, uint32_t size):
    """As a str, if it is ASCII; else None."""
    cdef uint32_t at
    for at in range(size):
        if data[at] >= 0x80:
            return None
    return PyUnicode_DecodeASCII(<const char*>data, size, NULL)


cdef str next_text(Cursor* c):
    cdef const uint8_t* data = NULL
    cdef uint32_t size = 0
    read_str(c, &data, &size)
    return text(data, size)


cdef tuple read_addresses(Cursor c):
    cdef uint32_t count = 0
    cdef list found = []
    cdef str address
    read_array(&c, &count)
    if count > addresses_max:
        return None
    for _ in range(count):
        address = next_text(&c)
        if address is None or is_address(address) is None:
            return None
        found.append(address)
    return tuple(found)


cdef tuple read_names(Cursor c):
    """In order, each once, as they are sent; None if they are not."""
    cdef uint32_t count = 0
    cdef list found = []
    cdef str name, before = ""
    read_array(&c, &count)
    if count > names_max:
        return None
    for _ in range(count):
        name = next_text(&c)
        if name is None or name <= before or not is_name(name):
            return None
        found.append(name)
        before = name
    return tuple(found)
