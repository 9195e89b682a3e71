"""STATE frames, and bodies that are too large for one."""

from __future__ import annotations

from collections import deque
from random import Random
from typing import Any

import msgpack
import pytest

from agentnet_core.config import BODY_BYTES, EngineConfig
from agentnet_core.errors import NetworkError, ProtocolError
from agentnet_core.parts import (
    ACK,
    CHUNK_BYTES,
    CONTEXT,
    DELTA,
    MORE,
    PART,
    PRINTS,
    RANGES,
    ROWS_MAX,
    Transfers,
    read,
    read_chunk,
    write,
    write_chunk,
    write_prints,
    write_sums,
)
from agentnet_core.states import SHARES, Key

KEY = Key(1, "s")


@pytest.mark.parametrize(
    "said",
    [
        (DELTA, 0, [(KEY, b"d")]),
        (ACK, 7, [(0, 107, "full")]),
        (PRINTS, 3, None, KEY, [(KEY, 2**64 - 1)]),
        (CONTEXT, KEY, b"\x80", 5, True),
        (PART, KEY, b"p", 5, False),
        (RANGES, KEY, [("a", 0, 64, 5)]),
        (MORE, 1, 2, 3),
    ],
)
def test_what_is_written_is_read(said: tuple[Any, ...]) -> None:
    verb, parts = read(write(*said))
    assert (verb, *parts) == said


def test_sums_are_read() -> None:
    sums = [2**64 - 1 - number for number in range(SHARES)]
    assert read(write_sums(sums, fresh=True)) == (2, [sums, True])


@pytest.mark.parametrize(
    "said",
    [
        None,
        [],
        [12],
        [-1],
        ["DELTA", 0, []],
        [DELTA, 0],
        [DELTA, 0, [], 0],
        [DELTA, -1, []],
        [DELTA, 0, [[["1", "s"], b""]]],
        [DELTA, 0, [[[1, ""], b""]]],
        [DELTA, 0, [[[1, "n" * 257], b""]]],
        [DELTA, 0, [[[128, "n"], b""]]],
        [DELTA, 0, [[[1, "s"], "text"]]],
        [ACK, 0, [[0, 1, "t" * 513]]],
        [2, b"short", True],
        [PRINTS, SHARES, None, None, []],
        [CONTEXT, [1, "s"], b"", 0, 1],
        [RANGES, [1, "s"], [["a", 5, 5, 0]]],
        [RANGES, [1, "s"], [["a", 0, 1, 0]] * (ROWS_MAX + 1)],
        [MORE, 0, -1, 0],
    ],
)
def test_what_is_malformed_is_not_read(said: Any) -> None:
    with pytest.raises(ProtocolError):
        read(msgpack.packb(said))


def test_as_many_ranges_as_may_be_fit_a_frame() -> None:
    body = write(RANGES, Key(1, "n" * 256), [("a" * 128, 2**52, 2**52 + 1, 2**64 - 1)] * ROWS_MAX)
    assert len(body) <= BODY_BYTES
    read(body)


def test_prints_are_cut_into_frames_that_leave_no_hole() -> None:
    keys = sorted(Key(number % 3, f"{number} " + "n" * (number % 250)) for number in range(2000))
    found, last = [], None
    bodies = write_prints(5, [(key, 7) for key in keys])
    for body in bodies:
        assert len(body) <= BODY_BYTES
        _, (share, after, until, prints) = read(body)
        assert share == 5
        assert after == last
        assert all((after is None or key > after) and (until is None or key <= until) for key, _ in prints)
        found += [key for key, _ in prints]
        last = until
    assert last is None
    assert found == keys
    assert len(bodies) > 3
    assert [read(body)[1] for body in write_prints(5, [])] == [[5, None, None, []]]


# -- large bodies


class Side:
    """A node's transfers, and the two lanes out of it."""

    def __init__(self, **limits: int) -> None:
        self.config = EngineConfig(**limits)
        self.transfers = Transfers(self, self.config)
        self.out: deque[tuple[str, bytes, bool]] = deque()
        self.refused: list[NetworkError] = []

    def put(self, node_id: str, body: bytes) -> None:
        self.out.append((node_id, body, False))

    def put_chunk(self, node_id: str, body: bytes) -> None:
        self.out.append((node_id, body, True))

    def refuse(self, node_id: str, name: str, error: NetworkError) -> None:
        self.refused.append(error)


def carry(sides: dict[str, Side], rng: Random | None = None) -> dict[str, list[bytes]]:
    """Until nothing is on its way: the whole bodies that each got."""
    got: dict[str, list[bytes]] = {name: [] for name in sides}
    while any(side.out for side in sides.values()):
        names = [name for name, side in sides.items() if side.out]
        source = rng.choice(names) if rng is not None else names[0]
        target, body, chunk = sides[source].out.popleft()
        there = sides[target].transfers
        if chunk:
            whole = there.on_chunk(source, *read_chunk(body))
            if whole is not None:
                got[target].append(whole)
            continue
        verb, parts = read(body)
        if verb == MORE:
            there.on_more(source, *parts)
        else:
            got[target].append(body)
    return got


@pytest.mark.parametrize("seed", range(10))
def test_bodies_of_any_size_arrive_whole(seed: int) -> None:
    rng = Random(seed)
    sides = {name: Side(state_transfers_max=2, state_transfers_waiting_max=50) for name in "abcd"}
    sent: dict[str, list[bytes]] = {name: [] for name in sides}
    for _ in range(20):
        source, target = rng.sample(sorted(sides), 2)
        body = write(PART, KEY, rng.randbytes(rng.choice((10, BODY_BYTES - 50, 60_000, 1_000_000))), 0, False)
        assert sides[source].transfers.send(target, body)
        sent[target].append(body)
    got = carry(sides, rng)
    assert {name: sorted(bodies) for name, bodies in got.items()} == {
        name: sorted(bodies) for name, bodies in sent.items()
    }
    assert all(side.transfers.waiting == (0, 0) for side in sides.values())


def test_what_waits_for_its_turn_is_bounded() -> None:
    side = Side(state_transfers_waiting_max=2)
    body = bytes(BODY_BYTES + 1)
    assert [side.transfers.send("b", body) for _ in range(4)] == [True, True, True, False]
    assert side.transfers.dropped == 1
    assert side.transfers.send("c", body)
    side.transfers.link_down("b")
    assert side.transfers.waiting == (1, 0)


def test_no_more_come_at_a_time_than_may() -> None:
    sides = {"a": Side(state_transfers_max=1), "b": Side(), "c": Side()}
    for name in "bc":
        sides[name].transfers.send("a", bytes(10 * BODY_BYTES))
    here = sides["a"].transfers
    for name in "bc":
        here.on_chunk(name, *read_chunk(sides[name].out.popleft()[1]))
    asked = [(node_id, read(body)[1]) for node_id, body, _ in sides["a"].out]
    assert [node_id for node_id, _ in asked] == ["b"]
    assert asked[0][1][1:] == [CHUNK_BYTES, 4 * CHUNK_BYTES]
    here.link_down("b")
    assert sides["a"].out[-1][0] == "c"


def test_a_body_that_is_too_large_is_not_taken() -> None:
    limits = {"state_bytes_max": 100_000, "state_elements_max": 1}
    sides = {"a": Side(**limits), "b": Side()}
    most = 2 * 100_000 + 64
    sides["b"].transfers.send("a", bytes(most))
    sides["b"].transfers.send("a", bytes(most + 1))
    sides["b"].transfers.send("a", bytes(most - 1))
    got = carry(sides)
    assert [len(body) for body in got["a"]] == [most, most - 1]
    assert len(sides["a"].refused) == 1


@pytest.mark.parametrize(
    "chunks",
    [
        [(1, 5, 60_000, b"x")],
        [(1, 0, 60_000, b"")],
        [(1, 0, 60_000, b"x"), (1, 2, 60_000, b"x")],
        [(1, 0, 60_000, b"x"), (2, 1, 60_000, b"x")],
        [(1, 0, 60_000, b"x"), (1, 1, 60_001, b"x")],
        [(1, 0, 60_000, b"x"), (1, 1, 60_000, bytes(60_000))],
    ],
)
def test_chunks_out_of_order_are_refused(chunks: list[tuple[int, int, int, bytes]]) -> None:
    side = Side()
    *first, last = chunks
    for chunk in first:
        assert side.transfers.on_chunk("b", *chunk) is None
    with pytest.raises(ProtocolError):
        side.transfers.on_chunk("b", *read_chunk(write_chunk(*last)))


def test_more_than_was_sent_cannot_have_come() -> None:
    side = Side()
    side.transfers.send("b", bytes(BODY_BYTES * 3))
    with pytest.raises(ProtocolError, match="have come"):
        side.transfers.on_more("b", 1, BODY_BYTES * 2, 1)
    side.transfers.on_more("b", 99, 0, 0)
    assert side.transfers.waiting == (1, 0)
