"""The frames of the broadcast tree: read as they were written, and nothing else is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentnet_core.body import pack
from agentnet_core.errors import ProtocolError
from agentnet_core.gossip import (
    GONE,
    GOSSIP,
    GRAFT,
    HOPS_MAX,
    IHAVE,
    PRUNE,
    Frame,
    Gone,
    Gossip,
    Graft,
    Ihave,
    Prune,
    decode,
    encode,
    pack_id,
    read_id,
)

ids = st.builds(
    pack_id, st.sampled_from(["a", "b.c", "n" * 64]), st.integers(0, 2**64 - 1), st.integers(1, 2**64 - 1)
)
id_tuples = st.lists(ids, max_size=5).map(tuple)
frames = st.one_of(
    st.builds(
        Gossip,
        ids,
        st.integers(1, HOPS_MAX),
        st.integers(0, 2**64 - 1),
        st.booleans(),
        st.binary(max_size=100),
        st.none(),
    ),
    st.builds(Ihave, id_tuples),
    st.builds(Graft, id_tuples),
    st.builds(Gone, id_tuples),
    st.just(Prune()),
)


@given(frames)
def test_a_frame_is_read_as_it_was_written(frame: Frame) -> None:
    assert decode(*encode(frame)) == frame


def test_an_id_is_the_same_however_wide_a_peer_writes_it() -> None:
    wide = (
        b"\xdc\x00\x03" + b"\xd9\x01o" + b"\xcf" + (1).to_bytes(8, "big") + b"\xd3" + (300).to_bytes(8, "big")
    )
    broadcast = pack_id("o", 1, 300)
    assert broadcast == pack(["o", 1, 300])
    for kind, frame in ((IHAVE, Ihave), (GRAFT, Graft), (GONE, Gone)):
        assert decode(kind, b"\xdd\x00\x00\x00\x01" + wide) == frame((broadcast,))
    heard = decode(GOSSIP, b"\x97" + wide[3:] + pack(2) + pack(7) + b"\xc3" + b"\xc6\x00\x00\x00\x01x")
    assert heard == Gossip(broadcast, 2, 7, True, b"x")
    assert isinstance(heard, Gossip)
    assert (heard.origin, heard.incarnation, heard.sequence) == read_id(broadcast) == ("o", 1, 300)


@pytest.mark.parametrize(
    "other", [b"", b"\x93", pack(["o", 1]), pack(["o o", 1, 1]), pack(["o", 1, 1]) + b"\x01"]
)
def test_bytes_that_are_no_id_name_no_broadcast(other: bytes) -> None:
    with pytest.raises(ProtocolError, match="expected an id"):
        read_id(other)


ID = ["o", 1, 1]


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (GOSSIP, 1, "GOSSIP: expected a list"),
        (GOSSIP, [*ID, 1, 0, b""], "GOSSIP: expected a list of 7"),
        (GOSSIP, ["", 1, 1, 1, 0, True, b""], "GOSSIP origin"),
        (GOSSIP, ["o", -1, 1, 1, 0, True, b""], "GOSSIP incarnation"),
        (GOSSIP, ["o", 1, 0, 1, 0, True, b""], "GOSSIP sequence"),
        (GOSSIP, [*ID, 0, 0, True, b""], "GOSSIP hops"),
        (GOSSIP, [*ID, 256, 0, True, b""], "GOSSIP hops"),
        (GOSSIP, [*ID, 1, -1, True, b""], "GOSSIP age_ms"),
        (GOSSIP, [*ID, 1, 0, 1, b""], "GOSSIP shapes"),
        (GOSSIP, [*ID, 1, 0, True, "text"], "GOSSIP payload"),
        (IHAVE, {}, "IHAVE: expected a list"),
        (IHAVE, [1], "IHAVE broadcast: expected a list"),
        (IHAVE, [[*ID, 1]], "IHAVE broadcast: expected a list of 3"),
        (GRAFT, [["o", True, 1]], "GRAFT incarnation"),
        (GONE, [["o o", 1, 1]], "GONE origin"),
        (IHAVE, [ID, ["n" * 65, 1, 1]], "IHAVE origin"),
        (GOSSIP, [*ID, 1, 0, True, b"", 1], "GOSSIP fields"),
        (PRUNE, [1], "PRUNE: expected a list of 0"),
    ],
)
def test_what_is_no_frame_is_refused(kind: int, value: object, said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        decode(kind, pack(value))


@given(st.sampled_from([GOSSIP, IHAVE, GRAFT, PRUNE, GONE]), st.binary(max_size=60))
def test_garbage_is_refused_or_a_frame(kind: int, body: bytes) -> None:
    try:
        frame = decode(kind, body)
    except ProtocolError:
        return
    assert decode(*encode(frame)) == frame
