"""The records of a MEMBERS body, read at once where nothing is signed: most of what many nodes say.

In: the bytes of one record, as `roster` describes it.  Out: its fields, each checked, or None for whatever
else it may be: `roster.read_record` reads that value by value, and says what is wrong with it.
"""

from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from agentnet_core.body cimport is_address, is_name
from agentnet_core.body import ADDRESSES_MAX
from agentnet_core.config import VERSION_MAX
from agentnet_core.framing cimport Cursor, read_array, read_str, read_uint

cdef uint64_t versions = VERSION_MAX
cdef uint32_t addresses_max = ADDRESSES_MAX
cdef uint32_t LOST = 1


def read_plain(const uint8_t[::1] item not None, uint32_t names_max):
    """(node id, incarnation, addresses, version, standing, accusers, witnesses, listed); None if it is not
    plain. ``names_max``: accusers, and witnesses, at most."""
    cdef Cursor c
    cdef uint32_t count = 0
    cdef uint64_t incarnation = 0, version = 0, standing = 0, listed = 0
    cdef str node_id
    cdef tuple addresses, accusers = (), witnesses = ()
    if item.shape[0] == 0:
        return None
    c.at, c.end = &item[0], &item[0] + item.shape[0]
    if not read_array(&c, &count) or count not in (4, 5, 7, 8):
        return None
    node_id = text(&c)
    if node_id is None or not is_name(node_id):
        return None
    if not read_uint(&c, &incarnation) or not read_uint(&c, &version) or version > versions:
        return None
    addresses = read_addresses(&c)
    if addresses is None:
        return None
    if count >= 7:
        if not read_uint(&c, &standing) or standing > LOST:
            return None
        accusers, witnesses = read_names(&c, names_max), read_names(&c, names_max)
        if accusers is None or witnesses is None:
            return None
    if count in (5, 8) and (not read_uint(&c, &listed) or listed > versions):
        return None
    if c.at != c.end:
        return None
    return node_id, incarnation, addresses, version, standing, accusers, witnesses, listed


cdef str text(Cursor* c):
    """The next value, if that is a text of ASCII; else None."""
    cdef const uint8_t* data = NULL
    cdef uint32_t size = 0, at
    if not read_str(c, &data, &size):
        return None
    for at in range(size):
        if data[at] >= 0x80:
            return None
    return PyUnicode_DecodeASCII(<const char*>data, size, NULL)


cdef tuple read_addresses(Cursor* c):
    cdef uint32_t count = 0
    cdef list found = []
    cdef str address
    if not read_array(c, &count) or count > addresses_max:
        return None
    for _ in range(count):
        address = text(c)
        if address is None or is_address(address) is None:
            return None
        found.append(address)
    return tuple(found)


cdef tuple read_names(Cursor* c, uint32_t names_max):
    """In order, each once, as they are sent; None if they are not."""
    cdef uint32_t count = 0
    cdef list found = []
    cdef str name, before = ""
    if not read_array(c, &count) or count > names_max:
        return None
    for _ in range(count):
        name = text(c)
        if name is None or name <= before or not is_name(name):
            return None
        found.append(name)
        before = name
    return tuple(found)
