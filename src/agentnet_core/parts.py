"""What nodes say to each other of states: the STATE frame, its verbs, and bodies that are too large for one.

STATE is a list: a verb, then what belongs to it.  A state is [code of its type, name].

DELTA    serial, [[state, change], ...]          changes of the sender's own; ACK is wanted unless 0
ACK      serial, [[number in the list, error code, text], ...]   taken, but for those
SUMS     sums of the shares, whether the link is new            compare; PRINTS of those that differ
PRINTS   share, after, until, [[state, print], ...]      all of the share between two of them
CONTEXT  state, context, print, asks             what has been seen; `asks`: tell me what you have seen
PART     state, part, print, asks                of a state, and the print of the sender's; `asks`: yours
RANGES   state, [[actor, first, end, sum], ...]  of blocks of dots
FETCH    state, context                          tell me what you know of these dots
READ     serial, state, print                    for a reader
ANSWER   serial, print, part                     the answer; no part if the prints are the same
MORE     number, offset, window                  so much of a large body has come, and so much more may come
LIVE     state, context, context                 of these dots, which I have seen, those live
KEEP     as DELTA                                KEPT is wanted besides ACK
KEPT     as ACK                                  they are on the sender's disk, but for those
ASK      view, body                              a DELTA, KEEP or READ, to be answered by who has that view
VIEWS    view, sums of the shares, asks, [[[[node, incarnation], ...], [[...], ...]], ...], lost
                                                 what old views have that this one has not, and the other
                                                 way round; `asks`: tell me yours; who is lost: [[node,
                                                 incarnation, milliseconds], ...]

A body of more than `BODY_BYTES` goes as STATE_CHUNK frames, [number, offset, size of the whole, bytes], in
the data lane: one body at a time on a link, each chunk only when the receiver has room for it; so messages
pass it, and what waits is bounded on both sides.
Who takes nothing of it says so by a window of nothing.

What is in a frame is checked as it is read; what it means is for others.  ProtocolError: malformed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from agentnet_core.body import (
    U64_MAX,
    expect_bool,
    expect_bytes,
    expect_int,
    expect_list,
    expect_name,
    pack,
    unpack,
    wrong,
)
from agentnet_core.config import (
    ACTOR_BYTES_MAX,
    BODY_BYTES,
    COUNT_MAX,
    MS_MAX,
    STATE_NAME_BYTES_MAX,
    VERSION_MAX,
    EngineConfig,
)
from agentnet_core.errors import LimitReached, NetworkError, ProtocolError
from agentnet_core.states import PRINT_BYTES, SHARES, Key

STATE, STATE_CHUNK = 29, 30
DELTA, ACK, SUMS, PRINTS, CONTEXT, PART, RANGES, FETCH, READ, ANSWER, MORE, LIVE, KEEP, KEPT = range(14)
ASK, VIEWS = 14, 15

CHUNK_BYTES = BODY_BYTES - 64
WINDOW_CHUNKS = 4
"""Chunks that may be on their way at a time."""
CODE_MAX = 127
TEXT_BYTES_MAX = 512
VIEWS_MAX = 64
"""Old views in one body."""
LOST_MAX = 256
"""Lost nodes in one."""
ITEM_BYTES = 64
"""What an item of a list takes beside its name, at most."""
ROWS_MAX = BODY_BYTES // (ACTOR_BYTES_MAX + ITEM_BYTES)

Refusals = list[tuple[int, int, str]]
"""Number in a list of changes, error code, text."""


def write(verb: int, *rest: Any) -> bytes:
    """A body."""
    return pack([verb, *rest])


def read(body: bytes) -> tuple[int, list[Any]]:
    """The verb of a body and what belongs to it, checked."""
    parts = expect_list("STATE", unpack("STATE", body))
    verb = expect_int("STATE verb", parts[0] if parts else None, 0, len(READERS) - 1)
    checks = READERS[verb]
    if len(parts) != len(checks) + 1:
        raise wrong(f"STATE of verb {verb}", f"{len(checks)} values", len(parts) - 1)
    return verb, [check(value) for check, value in zip(checks, parts[1:], strict=True)]


def write_chunk(number: int, offset: int, size: int, data: bytes) -> bytes:
    """A STATE_CHUNK body."""
    return pack((number, offset, size, data))


def read_chunk(body: bytes) -> tuple[int, int, int, bytes]:
    """What `write_chunk` wrote."""
    number, offset, size, data = expect_list("STATE_CHUNK", unpack("STATE_CHUNK", body), range(4, 5))
    return _number(number), _size(offset), _size(size), _data(data)


# -- the values of a body


def _number(value: object) -> int:
    return expect_int("STATE number", value, 0, U64_MAX)


def _flag(value: object) -> bool:
    return expect_bool("STATE flag", value)


def _share(value: object) -> int:
    return expect_int("STATE share", value, 0, SHARES - 1)


def _text(value: object, size: int) -> str:
    if type(value) is not str or len(value.encode()) > size:
        raise wrong("STATE text", f"a text of at most {size} bytes", value)
    return value


def _key(value: object) -> Key:
    code, name = expect_list("STATE name", value, range(2, 3))
    if not _text(name, STATE_NAME_BYTES_MAX):
        raise wrong("STATE name", "a name", name)
    return Key(expect_int("STATE type", code, 0, CODE_MAX), name)


def _data(value: object) -> bytes:
    if type(value) is not bytes:
        raise wrong("STATE data", "bytes", value)
    return value


def _sums(value: object) -> list[int]:
    data = expect_bytes("STATE sums", value, range(SHARES * PRINT_BYTES, SHARES * PRINT_BYTES + 1))
    return [int.from_bytes(data[at : at + PRINT_BYTES], "big") for at in range(0, len(data), PRINT_BYTES)]


def _changes(value: object) -> list[tuple[Key, bytes]]:
    found = []
    for item in expect_list("STATE changes", value):
        key, data = expect_list("STATE change", item, range(2, 3))
        found.append((_key(key), _data(data)))
    return found


def _refusals(value: object) -> Refusals:
    found = []
    for item in expect_list("STATE refusals", value):
        number, code, text = expect_list("STATE refusal", item, range(3, 4))
        found.append((_number(number), _number(code), _text(text, TEXT_BYTES_MAX)))
    return found


def _border(value: object) -> Key | None:
    """A state, or none: the beginning or the end of all."""
    return _key(value) if value is not None else None


def _prints(value: object) -> list[tuple[Key, int]]:
    found = []
    for item in expect_list("STATE prints", value):
        key, number = expect_list("STATE print", item, range(2, 3))
        found.append((_key(key), _number(number)))
    return found


def _rows(value: object) -> list[tuple[str, int, int, int]]:
    found = []
    for item in expect_list("STATE ranges", value, range(ROWS_MAX + 1)):
        actor, first, end, total = expect_list("STATE range", item, range(4, 5))
        low = expect_int("STATE range", first, 0, VERSION_MAX)
        found.append(
            (
                _text(actor, ACTOR_BYTES_MAX),
                low,
                expect_int("STATE range", end, low + 1, VERSION_MAX),
                _number(total),
            )
        )
    return found


def _lives(value: object) -> list[tuple[str, int]]:
    found = []
    for item in expect_list("STATE nodes", value):
        node_id, incarnation = expect_list("STATE node", item, range(2, 3))
        found.append((expect_name("STATE node", node_id), _number(incarnation)))
    return found


def _views(value: object) -> list[tuple[list[tuple[str, int]], list[tuple[str, int]]]]:
    found = []
    for item in expect_list("STATE views", value, range(VIEWS_MAX + 1)):
        more, fewer = expect_list("STATE view", item, range(2, 3))
        found.append((_lives(more), _lives(fewer)))
    return found


def _lost(value: object) -> list[tuple[str, int, int]]:
    found = []
    for item in expect_list("STATE lost", value, range(LOST_MAX + 1)):
        node_id, incarnation, ms = expect_list("STATE lost node", item, range(3, 4))
        name = expect_name("STATE lost node", node_id)
        found.append((name, _number(incarnation), expect_int("STATE lost node", ms, 0, MS_MAX)))
    return found


def _size(value: object) -> int:
    return expect_int("STATE size", value, 0, COUNT_MAX)


READERS: tuple[tuple[Callable[[object], Any], ...], ...] = (
    (_number, _changes),
    (_number, _refusals),
    (_sums, _flag),
    (_share, _border, _border, _prints),
    (_key, _data, _number, _flag),
    (_key, _data, _number, _flag),
    (_key, _rows),
    (_key, _data),
    (_number, _key, _number),
    (_number, _number, _data),
    (_number, _size, _size),
    (_key, _data, _data),
    (_number, _changes),
    (_number, _refusals),
    (_number, _data),
    (_number, _sums, _flag, _views, _lost),
)
"""By verb, what checks each of the values behind it."""


def write_sums(sums: list[int], *, fresh: bool) -> bytes:
    """A SUMS body."""
    return write(SUMS, pack_sums(sums), fresh)


def pack_sums(sums: list[int]) -> bytes:
    """The sums of all shares, as they are in a body."""
    return b"".join(each.to_bytes(PRINT_BYTES, "big") for each in sums)


def write_prints(share: int, prints: list[tuple[Key, int]]) -> list[bytes]:
    """PRINTS bodies for all of a share, in order of key."""
    bodies: list[bytes] = []
    items: list[tuple[Key, int]] = []
    size = 0
    after: Key | None = None
    for key, number in prints:
        items.append((key, number))
        size += len(key.name.encode()) + ITEM_BYTES
        if size > BODY_BYTES - 2 * STATE_NAME_BYTES_MAX - ITEM_BYTES:
            bodies.append(write(PRINTS, share, after, key, items))
            items, size, after = [], 0, key
    return [*bodies, write(PRINTS, share, after, None, items)]


def refusals_of(numbers: Iterable[int], error: NetworkError) -> Refusals:
    """Those changes were refused with that."""
    return [(number, error.code, str(error)[: TEXT_BYTES_MAX // 4]) for number in numbers]


# -- large bodies


class Lanes(Protocol):
    """What carries bodies to a node."""

    def put(self, node_id: str, body: bytes, /) -> None: ...
    def put_chunk(self, node_id: str, body: bytes, /) -> None: ...
    def refuse(self, node_id: str, name: str, error: NetworkError, /) -> None:
        """Count and tell what was not taken."""


class _Out:
    """A body that goes in chunks, of which ``sent`` bytes have gone."""

    __slots__ = ("body", "number", "sent")

    def __init__(self, number: int, body: bytes) -> None:
        self.number, self.body, self.sent = number, body, 0


class _In:
    """A body that comes. ``open``: it has a place, so that the sender may go on."""

    __slots__ = ("data", "number", "open", "size")

    def __init__(self, number: int, size: int) -> None:
        self.number, self.size, self.open = number, size, False
        self.data = bytearray()


class Transfers:
    """Bodies on their way to and from each linked node. ``dropped``: those that found no room to wait."""

    def __init__(self, lanes: Lanes, config: EngineConfig) -> None:
        self._lanes = lanes
        self._open_max = config.state_transfers_max
        self._waiting_max = config.state_transfers_waiting_max
        # Of a state of that size the form is larger, by dots and stamps.
        self._bytes_max = 2 * config.state_bytes_max + 64 * config.state_elements_max
        self._out: dict[str, deque[_Out]] = {}
        self._in: dict[str, _In] = {}
        self._number = 0
        self.dropped = 0

    @property
    def waiting(self) -> tuple[int, int]:
        """Bodies that are to go and that come."""
        return sum(len(queue) for queue in self._out.values()), len(self._in)

    def comes(self, node_id: str) -> bool:
        """Whether a body is on its way from that node."""
        return node_id in self._in

    def send(self, node_id: str, body: bytes) -> bool:
        """Let a body go to a linked node, in one frame or in chunks; False if it found no room to wait."""
        if len(body) <= BODY_BYTES:
            self._lanes.put(node_id, body)
            return True
        queue = self._out.setdefault(node_id, deque())
        if len(queue) > self._waiting_max:
            self.dropped += 1
            return False
        self._number += 1
        queue.append(_Out(self._number, body))
        if len(queue) == 1:
            self._put_chunk(node_id, queue[0])
        return True

    def on_chunk(self, node_id: str, number: int, offset: int, size: int, data: bytes) -> bytes | None:
        """The body if this was its last chunk."""
        coming = self._in.get(node_id)
        if coming is None and offset == 0:
            if not BODY_BYTES < size <= self._bytes_max:
                text = (
                    f"state: a body of {size} bytes: expected {BODY_BYTES + 1} to {self._bytes_max} in chunks"
                )
                self._lanes.refuse(node_id, "", LimitReached(text))
                self._lanes.put(node_id, write(MORE, number, 0, 0))
                return None
            coming = self._in[node_id] = _In(number, size)
        if coming is None or (number, size) != (coming.number, coming.size) or offset != len(coming.data):
            raise ProtocolError(f"STATE chunk at {offset} of {size} bytes of body {number}: out of order")
        if not data or len(coming.data) + len(data) > size:
            raise ProtocolError(f"STATE chunk of {len(data)} bytes at {offset} of {size}")
        coming.data += data
        if len(coming.data) == size:
            del self._in[node_id]
            self._lanes.put(node_id, write(MORE, number, size, size))
            self._open_next()
            return bytes(coming.data)
        if coming.open:
            self._lanes.put(node_id, write(MORE, number, len(coming.data), WINDOW_CHUNKS * CHUNK_BYTES))
        else:
            self._open_next()
        return None

    def on_more(self, node_id: str, number: int, offset: int, window: int) -> None:
        """The receiver has so much of it, and has room for more."""
        queue = self._out.get(node_id)
        if not queue or queue[0].number != number:
            return  # of one that is done
        going = queue[0]
        if offset > going.sent:
            raise ProtocolError(f"STATE: {offset} bytes of body {number} have come, of {going.sent} sent")
        if offset < len(going.body) and window:
            while going.sent < min(len(going.body), offset + window):
                self._put_chunk(node_id, going)
            return
        queue.popleft()
        if queue:
            self._put_chunk(node_id, queue[0])
        else:
            del self._out[node_id]

    def link_down(self, node_id: str) -> None:
        """What was on its way there or from there is lost."""
        self._out.pop(node_id, None)
        if self._in.pop(node_id, None) is not None:
            self._open_next()

    def _put_chunk(self, node_id: str, going: _Out) -> None:
        chunk = going.body[going.sent : going.sent + CHUNK_BYTES]
        offset, going.sent = going.sent, going.sent + len(chunk)
        self._lanes.put_chunk(node_id, write_chunk(going.number, offset, len(going.body), chunk))

    def _open_next(self) -> None:
        """Let those go on for which there is a place."""
        places = self._open_max - sum(coming.open for coming in self._in.values())
        for node_id, coming in self._in.items():
            if places <= 0:
                return
            if not coming.open:
                coming.open, places = True, places - 1
                offset = len(coming.data)
                self._lanes.put(node_id, write(MORE, coming.number, offset, WINDOW_CHUNKS * CHUNK_BYTES))
