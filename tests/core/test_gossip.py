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
    BroadcastId,
    Frame,
    Gone,
    Gossip,
    Graft,
    Ihave,
    Prune,
    decode,
    encode,
)

ids = st.builds(
    BroadcastId, st.sampled_from(["a", "b.c", "n" * 64]), st.integers(0, 2**64 - 1), st.integers(1, 2**64 - 1)
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
