"""MessagePack bodies of control frames: unpacked within bounds, then checked value by value.

In: the body of one frame, as long as the frame limit lets it be.  Out: plain Python values, or a
ProtocolError that says field, expected and got.  ``check_msgpack`` walks the bytes before
anything is built from them, so a short body cannot ask for a deep or a huge value.  Every value
that a peer sent goes through one of the ``expect_`` functions; bool is no integer here.
"""

import re

import msgpack

from cpython.unicode cimport PyUnicode_AsUTF8AndSize

from agentnet_core.errors import ProtocolError
from agentnet_core.framing import check_msgpack
from agentnet_core.records import describe

DEPTH_MAX = 8
KEY_MUST_KNOW_MAX = 63
"""Of numbered fields, those up to this must be understood; others are ignored where they are not known."""
U64_MAX = 2**64 - 1

cdef object is_address = re.compile(r"[a-z][a-z0-9+]{0,15}://[!-~]{1,200}:[0-9]{1,5}\Z").match
ADDRESSES_MAX = 16


cdef object packb = msgpack.packb
cdef object unpackb = msgpack.unpackb
cdef object fails = (ValueError, TypeError, OverflowError, msgpack.UnpackException)
cdef Py_ssize_t NAME_BYTES_MAX = 64


def pack(value):
    """``value`` as MessagePack."""
    return packb(value, use_bin_type=True)


def unpack(str what, body):
    """The one value that ``body`` is; ``what`` names the frame in the error."""
    check_msgpack(body, DEPTH_MAX)
    return unpack_checked(what, body)


cpdef object unpack_checked(str what, body):
    """As `unpack`, where `check_msgpack` has passed the bytes, or those that they are from."""
    try:
        return unpackb(body, raw=False, strict_map_key=False)
    except fails as error:
        # TypeError: a map key that cannot be one, such as a list.
        text = describe(str(error))
        raise ProtocolError(f"{what}: expected a MessagePack value, got other bytes: {text}") from None


def wrong(str field, str expected, got):
    """The error for a value that is not what the wire's law says."""
    return ProtocolError(f"{field}: expected {expected}, got {describe(got)}")


cpdef object expect_int(str field, value, low, high):
    """``value``, an integer from ``low`` to ``high``."""
    if type(value) is not int or not low <= value <= high:
        raise wrong(field, f"an integer from {low} to {high}", value)
    return value


cpdef object expect_bool(str field, value):
    """``value``, true or false."""
    if type(value) is not bool:
        raise wrong(field, "true or false", value)
    return value


cpdef object expect_bytes(str field, value, sizes):
    """``value``, bytes of a length in ``sizes``."""
    if type(value) is not bytes:
        raise wrong(field, "bytes", value)
    if len(value) not in sizes:
        raise wrong(field, f"a length in {_span(sizes)} bytes", len(value))
    return value


cpdef object expect_name(str field, value):
    """``value``, the name of a node or a network."""
    if type(value) is not str or not is_name(<str>value):
        raise wrong(field, "1 to 64 of A-Z a-z 0-9 . _ -", value)
    return value


cdef bint is_name(str value) except -1:
    cdef Py_ssize_t size
    cdef const char* chars
    if not value.isascii():
        return False
    chars = PyUnicode_AsUTF8AndSize(value, &size)
    return is_name_at(chars, size)


cdef bint is_name_at(const char* chars, Py_ssize_t size) noexcept nogil:
    # As `config.NAME`, which a user's are checked by.
    cdef Py_ssize_t at
    cdef char c
    if not 0 < size <= NAME_BYTES_MAX:
        return False
    for at in range(size):
        c = chars[at]
        if not (c'a' <= c <= c'z' or c'A' <= c <= c'Z' or c'0' <= c <= c'9' or c in b"._-"):
            return False
    return True


cpdef list expect_list(str field, value, lengths=None):
    """``value``, a list whose length is in ``lengths``."""
    if type(value) is not list:
        raise wrong(field, "a list", value)
    if lengths is not None and len(<list>value) not in lengths:
        raise wrong(field, f"a list of {_span(lengths)}", f"{len(value)} elements")
    return value


cpdef dict expect_map(str field, value):
    """``value``, a map whose keys are integers from 0."""
    if type(value) is not dict:
        raise wrong(field, "a map", value)
    for key in value:
        expect_int(f"{field} key", key, 0, U64_MAX)
    return value


cpdef dict expect_fields(str field, value):
    """``value``, a map of numbered fields, of which none must be understood here that is not."""
    fields = expect_map(field, value)
    for key in fields:
        if key <= KEY_MUST_KNOW_MAX:
            raise wrong(field, f"only numbers from {KEY_MUST_KNOW_MAX + 1}", key)
    return fields


cpdef tuple expect_addresses(str field, value):
    """``value``, a list of at most 16 addresses such as ``tcp://host:port``."""
    cdef list addresses = expect_list(field, value)
    if len(addresses) > ADDRESSES_MAX:
        expect_list(field, value, range(ADDRESSES_MAX + 1))
    for address in addresses:
        if type(address) is not str or not is_address(address):
            raise wrong(field, "addresses such as 'tcp://host:port'", address)
    return tuple(addresses)


cdef str _span(sizes):
    low, high = sizes[0], sizes[len(sizes) - 1]
    return str(low) if low == high else f"{low} to {high}"
