"""Frames: the stream cut anywhere, damaged anywhere, garbage; the chunks of lanes; MessagePack in bounds."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import msgpack
import pytest
from harness import CARRY, CHECKED, MESSAGE, STATE_CHUNK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strangers import frame

from agentnet_core.errors import ProtocolError
from agentnet_core.framing import KINDS, Arena, Decoder, Outbox, check_msgpack, crc32c, split_msgpack

FRAME_MAX = 4096
Frames = list[tuple[int, int, bytes]]

# A slow machine is no finding.
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

kinds = st.sampled_from(sorted(KINDS)) | st.integers(0, 255)
bodies = st.lists(st.tuples(kinds, st.binary(max_size=300)), max_size=12)


def encoded(frames: list[tuple[int, bytes]], checksum: bool = True) -> bytes:
    lanes = [Outbox(checksum), Outbox(checksum)]
    data = b""
    for kind, body in frames:
        box = lanes[kind in (MESSAGE, STATE_CHUNK, CARRY)]
        box.put(kind, body)
        data += drained(box)
    return data


def drained(box: Outbox) -> bytes:
    return b"".join(bytes(piece) for piece in iter(box.take, None))


def decoder(checksum: bool = True) -> Decoder:
    return Decoder(Arena(FRAME_MAX), checksum)


def fed(reader: Decoder, data: bytes, cuts: list[int]) -> Frames:
    frames: Frames = []
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        frames += reader.feed(data[start:end])
    return frames


# -- in


@quick
@given(bodies, st.booleans(), st.lists(st.integers(0, 4000), max_size=20))
def test_frames_come_out_as_they_went_in_wherever_the_stream_is_cut(
    frames: list[tuple[int, bytes]], checksum: bool, cuts: list[int]
) -> None:
    data = encoded(frames, checksum)
    reader = decoder(checksum)
    assert fed(reader, data, cuts) == [(kind, 0, body) for kind, body in frames]
    assert reader.offset == len(data)


@pytest.mark.parametrize("checksum", [True, False])
def test_byte_by_byte(checksum: bool) -> None:
    frames = [(0, b""), (16, b"x"), (17, bytes(FRAME_MAX - 2 - 4 * checksum))]
    reader = decoder(checksum)
    found = [one for byte in encoded(frames, checksum) for one in reader.feed(bytes([byte]))]
    assert found == [(kind, 0, body) for kind, body in frames]


def test_a_tail_waits_for_the_rest_of_its_frame() -> None:
    data = encoded([(1, b"whole"), (2, b"in two")])
    reader = decoder()
    assert reader.feed(data[:-1]) == [(1, 0, b"whole")]
    assert reader.offset == len(encoded([(1, b"whole")]))
    assert reader.feed(b"") == []
    assert reader.feed(data[-1:]) == [(2, 0, b"in two")]


def test_a_stream_longer_than_one_read_of_the_arena() -> None:
    frames = [(16, bytes([i]) * 1000) for i in range(200)]
    data = encoded(frames)
    assert len(data) > 6 * 32768
    assert decoder().feed(data) == [(kind, 0, body) for kind, body in frames]


def test_several_decoders_share_one_arena_read_by_read() -> None:
    arena = Arena(FRAME_MAX)
    readers = [Decoder(arena, True) for _ in range(3)]
    streams = [encoded([(i, bytes([i]) * (100 * n)) for n in range(20)]) for i in range(3)]
    found: list[Frames] = [[], [], []]
    for at in range(0, max(map(len, streams)), 37):
        for i, reader in enumerate(readers):
            found[i] += reader.feed(streams[i][at : at + 37])
    assert found == [[(i, 0, bytes([i]) * (100 * n)) for n in range(20)] for i in range(3)]


def test_flags_and_unknown_kinds_are_handed_on() -> None:
    assert decoder().feed(frame(200, b"body", flags=0xA5)) == [(200, 0xA5 & ~CHECKED, b"body")]


def test_a_frame_may_have_a_checksum_where_none_is_needed_and_must_where_one_is() -> None:
    plain = encoded([(16, b"plain")], checksum=False)
    checked = encoded([(16, b"checked")])
    assert decoder(False).feed(plain + checked + plain) == [
        (16, 0, b"plain"),
        (16, 0, b"checked"),
        (16, 0, b"plain"),
    ]
    with pytest.raises(ProtocolError, match="checksum"):
        decoder(False).feed(checked[:-1] + b"!")
    with pytest.raises(ProtocolError, match="checksum"):
        decoder(True).feed(encoded([(16, b"long enough")], checksum=False))
    with pytest.raises(ProtocolError, match="too short for its checksum"):
        decoder(False).feed(b"\x00\x00\x00\x03\x10\x02!")


def test_the_form_of_a_frame() -> None:
    assert encoded([(16, b"body")], checksum=False) == b"\x00\x00\x00\x06\x10\x00body"
    assert encoded([(16, b"body")]) == frame(16, b"body")
    assert frame(16, b"body").hex() == "0000000a1002626f6479" + f"{crc32c(bytes([16, 2]) + b'body'):08x}"


# -- limits and damage


@pytest.mark.parametrize("checksum", [True, False])
def test_a_frame_at_the_limit_passes_and_one_past_it_is_refused(checksum: bool) -> None:
    room = FRAME_MAX - 2 - 4 * checksum
    assert decoder(checksum).feed(encoded([(16, bytes(room))], checksum)) == [(16, 0, bytes(room))]
    with pytest.raises(ProtocolError, match=r"frame of 4097 bytes at byte 0: expected . to 4096"):
        decoder(checksum).feed(encoded([(16, bytes(room + 1))], checksum))


@pytest.mark.parametrize("length", [0, 1, 5, FRAME_MAX + 1, 2**31 - 1, 2**31, 2**32 - 1])
def test_an_impossible_length_is_refused_by_its_four_bytes_alone(length: int) -> None:
    # Nothing of the frame itself is there yet, so nothing can have been held for it.
    reader = decoder()
    assert reader.feed(frame(3, b"")) == [(3, 0, b"")]
    with pytest.raises(ProtocolError, match=f"frame of {length} bytes at byte 10"):
        reader.feed(struct.pack(">I", length))


@quick
@given(st.binary(max_size=2000), st.booleans(), st.lists(st.integers(0, 2000), max_size=5))
def test_garbage_gives_frames_or_a_protocol_error(data: bytes, checksum: bool, cuts: list[int]) -> None:
    reader = decoder(checksum)
    try:
        fed(reader, data, cuts)
    except ProtocolError as error:
        assert "at byte" in str(error)


@quick
@given(bodies, st.integers(0), st.integers(0, 7), st.lists(st.integers(0, 4000), max_size=5))
def test_one_flipped_bit_never_gives_a_wrong_frame(
    frames: list[tuple[int, bytes]], place: int, bit: int, cuts: list[int]
) -> None:
    data = bytearray(encoded([*frames, (3, b"last")]))
    data[place % len(data)] ^= 1 << bit
    reader = decoder()
    found: Frames = []
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        try:
            found += reader.feed(bytes(data[start:end]))
        except ProtocolError:
            break
    assert found == [(kind, 0, body) for kind, body in frames][: len(found)]


def test_damage_is_told_with_its_place() -> None:
    data = frame(3, b"good") + frame(16, b"bad")[:-1] + b"!"  # the first of each lane
    with pytest.raises(ProtocolError, match="frame at byte 14: its checksum does not match"):
        decoder().feed(data)


@pytest.mark.parametrize("edit", ["lost", "swapped", "repeated"])
@pytest.mark.parametrize("kind", [16, 8])
def test_whole_frames_that_are_lost_swapped_or_repeated_are_noticed(edit: str, kind: int) -> None:
    """The pieces of a stream may end where frames end, so each frame alone may be sound."""
    box = Outbox(True)
    frames = []
    for i in range(5):
        box.put(kind, b"frame %d" % i)
        frames.append(drained(box))
    assert decoder().feed(b"".join(frames)) == [(kind, 0, b"frame %d" % i) for i in range(5)]
    if edit == "lost":
        del frames[2]
    elif edit == "swapped":
        frames[2:4] = frames[3:1:-1]
    else:
        frames.insert(2, frames[2])
    with pytest.raises(ProtocolError, match="checksum"):
        decoder().feed(b"".join(frames))


# -- out


def test_little_comes_as_bytes_and_much_as_a_view() -> None:
    box = Outbox(False)
    assert box.take() is None
    box.put(16, b"small")
    assert box.waiting == 11
    assert box.take() == b"\x00\x00\x00\x07\x10\x00small"
    assert (box.waiting, box.take()) == (0, None)
    box.put(16, bytes(5000))
    piece = box.take()
    assert isinstance(piece, memoryview)
    assert (len(piece), box.waiting, box.take()) == (5006, 0, None)


def test_a_chunk_is_not_written_again_while_somebody_holds_it() -> None:
    box = Outbox(False)
    held, wanted = [], []
    for i in range(40):
        body = bytes([i]) * 3000
        box.put(16, body)
        piece = box.take()
        if i % 3:  # the others are let go, and may be used again
            held.append(piece)
            wanted.append((16, 0, body))
    assert [one for piece in held for one in decoder(False).feed(piece)] == wanted


def test_frames_larger_than_a_chunk_and_many_chunks() -> None:
    box = Outbox(True, 1000)
    frames = [(MESSAGE, bytes([i]) * (i * 97)) for i in range(40)]
    for kind, body in frames:
        box.put(kind, body)
    assert box.waiting == sum(len(body) + 10 for _, body in frames)
    assert decoder().feed(drained(box)) == [(kind, 0, body) for kind, body in frames]
    assert box.waiting == 0


def test_clear_forgets_what_waits() -> None:
    box = Outbox(True, 1000)
    for _ in range(5):
        box.put(16, bytes(700))
    box.clear()
    assert (box.waiting, box.take()) == (0, None)
    box.put(16, b"after")
    assert box.waiting == 15


@quick
@given(st.lists(st.tuples(st.sampled_from([0, 1, 9, 500, 990, 3000]), st.booleans()), max_size=40))
def test_any_mix_of_put_and_take_keeps_the_stream(steps: list[tuple[int, bool]]) -> None:
    box, held, wanted = Outbox(True, 1000), [], []
    for number, (size, take) in enumerate(steps):
        body = bytes([number % 256]) * size
        box.put(16, body)
        wanted.append((16, 0, body))
        if take:
            held.append(box.take())
    held += list(iter(box.take, None))
    assert decoder().feed(b"".join(bytes(piece) for piece in held if piece is not None)) == wanted
    assert box.waiting == 0


# -- the checksum


def test_crc32c_is_the_one_of_rfc_3720() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"") == 0


def crc32c_by_bits(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@quick
@given(
    st.binary(max_size=40),
    st.sampled_from([0, 64, 3071, 3072, 3073, 7000]),
    st.binary(max_size=40),
    st.integers(0),
)
def test_crc32c_of_any_length_and_in_parts(head: bytes, middle: int, tail: bytes, cut: int) -> None:
    data = head + bytes(i * 7 % 256 for i in range(middle)) + tail
    at = cut % (len(data) + 1)
    assert crc32c(data) == crc32c_by_bits(data) == crc32c(data[at:], crc32c(data[:at]))


# -- MessagePack within bounds

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, width=32)
    | st.text(max_size=40)
    | st.binary(max_size=40)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=20))
    | st.datetimes().map(lambda when: msgpack.Timestamp(when.toordinal(), when.microsecond)),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=8), inner, max_size=20),
    max_leaves=40,
)


@quick
@given(values, st.booleans())
def test_what_the_library_packs_passes(value: Any, single_float: bool) -> None:
    body = msgpack.packb(value, use_single_float=single_float)
    check_msgpack(body)
    with pytest.raises(ProtocolError, match="1 bytes too many"):
        check_msgpack(body + b"\xc0")
    for end in range(0, len(body), len(body) // 20 + 1):
        with pytest.raises(ProtocolError, match="MessagePack"):
            check_msgpack(body[:end])


@quick
@given(st.lists(values, max_size=6))
def test_a_list_is_split_into_its_elements(items: list[Any]) -> None:
    body = msgpack.packb(items)
    assert split_msgpack(body) == [msgpack.packb(item) for item in items]
    assert split_msgpack(body + b"\xc0") is None
    assert all(split_msgpack(body[:end]) is None for end in range(0, len(body), len(body) // 20 + 1))
    assert split_msgpack(msgpack.packb({1: items})) is None


def test_a_list_that_is_nested_too_deep_is_not_split() -> None:
    for depth in (1, 5):
        assert split_msgpack(b"\x91" * (depth - 1) + b"\x90", depth) is not None
        assert split_msgpack(b"\x91" * depth + b"\x90", depth) is None


@quick
@given(st.binary(max_size=200))
def test_what_passes_the_library_reads(body: bytes) -> None:
    try:
        check_msgpack(body)
    except ProtocolError:
        return
    try:
        msgpack.unpackb(body, strict_map_key=False, raw=True)
    except TypeError:
        pass  # a key that has no hash
    except ValueError:
        assert any(tag in body for tag in range(0xC7, 0xD9))  # an ext of a number that it keeps for itself


@pytest.mark.parametrize(
    "bomb",
    [
        b"\xdd\xff\xff\xff\xff" + b"\xc0" * 100,
        b"\xdf\xff\xff\xff\xff" + b"\xc0" * 100,
        b"\xdf\x80\x00\x00\x00" + b"\xc0" * 100,
        b"\xdc\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff" + bytes(10),
        b"\xc9\xff\xff\xff\xff\x01",
        b"\xc9\x7f\xff\xff\xff\x01" + bytes(100),
        b"\x9f" * 200,
        b"\x91" * 100_000,
        b"\x81\xc0" * 100_000 + b"\xc0",
        b"\xc1",
        b"",
    ],
)
def test_bombs_are_refused_before_anything_is_built(bomb: bytes) -> None:
    with pytest.raises(ProtocolError, match="MessagePack"):
        check_msgpack(bomb)


def test_depth_at_the_limit_and_one_past() -> None:
    for depth in (1, 2, 8, 64):
        check_msgpack(b"\x91" * (depth - 1) + b"\x90", depth)
        with pytest.raises(ProtocolError, match=f"nested deeper than {depth} near byte"):
            check_msgpack(b"\x91" * depth + b"\x90", depth)


def test_several_values() -> None:
    check_msgpack(b"\x01\xa1x\xc0", 64, 3)
    with pytest.raises(ProtocolError):
        check_msgpack(b"\x01\xa1x\xc0", 64, 2)
