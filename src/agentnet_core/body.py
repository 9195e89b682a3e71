"""MessagePack bodies of control frames: unpacked within bounds, then checked value by value.

In: the body of one frame, as long as the frame limit lets it be.  Out: plain Python values, or a
ProtocolError that says field, expected and got.  ``check_msgpack`` walks the bytes before
anything is built from them, so a short body cannot ask for a deep or a huge value.  Every value
that a peer sent goes through one of the ``expect_`` functions; bool is no integer here.
"""

from __future__ import annotations

import re
from typing import Any

import msgpack

from agentnet_core.config import NAME
from agentnet_core.errors import ProtocolError
from agentnet_core.framing import check_msgpack
from agentnet_core.records import describe

DEPTH_MAX = 8
KEY_MUST_KNOW_MAX = 63
"""Of numbered fields, those up to this must be understood; others are ignored where they are not known."""
U64_MAX = 2**64 - 1

ADDRESS = re.compile(r"[a-z][a-z0-9+]{0,15}://[!-~]{1,200}:[0-9]{1,5}\Z")
ADDRESSES_MAX = 16


def pack(value: Any) -> bytes:
    """``value`` as MessagePack."""
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def unpack(what: str, body: bytes | memoryview) -> Any:
    """The one value that ``body`` is; ``what`` names the frame in the error."""
    check_msgpack(body, DEPTH_MAX)
    return unpack_checked(what, body)


def unpack_checked(what: str, body: bytes | memoryview) -> Any:
    """As `unpack`, where `check_msgpack` has passed the bytes, or those that they are from."""
    try:
        return msgpack.unpackb(body, raw=False, strict_map_key=False)
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        # TypeError: a map key that cannot be one, such as a list.
        text = describe(str(error))
        raise ProtocolError(f"{what}: expected a MessagePack value, got other bytes: {text}") from None


def wrong(field: str, expected: str, got: object) -> ProtocolError:
    """The error for a value that is not what the wire's law says."""
    return ProtocolError(f"{field}: expected {expected}, got {describe(got)}")


def expect_int(field: str, value: object, low: int, high: int) -> int:
    """``value``, an integer from ``low`` to ``high``."""
    if type(value) is not int or not low <= value <= high:
        raise wrong(field, f"an integer from {low} to {high}", value)
    return value


def expect_bool(field: str, value: object) -> bool:
    """``value``, true or false."""
    if type(value) is not bool:
        raise wrong(field, "true or false", value)
    return value


def expect_bytes(field: str, value: object, sizes: range) -> bytes:
    """``value``, bytes of a length in ``sizes``."""
    if type(value) is not bytes:
        raise wrong(field, "bytes", value)
    if len(value) not in sizes:
        raise wrong(field, f"a length in {_span(sizes)} bytes", len(value))
    return value


def expect_name(field: str, value: object) -> str:
    """``value``, the name of a node or a network."""
    if type(value) is not str or not NAME.match(value):
        raise wrong(field, "1 to 64 of A-Z a-z 0-9 . _ -", value)
    return value


def expect_list(field: str, value: object, lengths: range | None = None) -> list[Any]:
    """``value``, a list whose length is in ``lengths``."""
    if type(value) is not list:
        raise wrong(field, "a list", value)
    if lengths is not None and len(value) not in lengths:
        raise wrong(field, f"a list of {_span(lengths)}", f"{len(value)} elements")
    return value


def expect_map(field: str, value: object) -> dict[int, Any]:
    """``value``, a map whose keys are integers from 0."""
    if type(value) is not dict:
        raise wrong(field, "a map", value)
    for key in value:
        expect_int(f"{field} key", key, 0, U64_MAX)
    return value


def expect_fields(field: str, value: object) -> dict[int, Any]:
    """``value``, a map of numbered fields, of which none must be understood here that is not."""
    fields = expect_map(field, value)
    for key in fields:
        if key <= KEY_MUST_KNOW_MAX:
            raise wrong(field, f"only numbers from {KEY_MUST_KNOW_MAX + 1}", key)
    return fields


def expect_addresses(field: str, value: object) -> tuple[str, ...]:
    """``value``, a list of at most 16 addresses such as ``tcp://host:port``."""
    addresses = expect_list(field, value, range(ADDRESSES_MAX + 1))
    for address in addresses:
        if type(address) is not str or not ADDRESS.match(address):
            raise wrong(field, "addresses such as 'tcp://host:port'", address)
    return tuple(addresses)


def _span(sizes: range) -> str:
    low, high = sizes[0], sizes[-1]
    return str(low) if low == high else f"{low} to {high}"
