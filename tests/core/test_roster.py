"""What nodes tell of nodes: whatever comes first, and however often, all come to hold the same."""

from __future__ import annotations

from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memberships import membership

from agentnet_core.body import pack
from agentnet_core.errors import ProtocolError
from agentnet_core.framing import check_msgpack
from agentnet_core.member_record import (
    ACCUSERS_MAX,
    NodeRecord,
    Standing,
    merge,
    pack_record,
    read_any,
    read_plain,
    read_record,
    wire_form,
)
from agentnet_core.roster import (
    DIGEST_BYTES,
    Vouch,
    decode_digest,
    decode_members,
    decode_probe,
    encode_digest,
    encode_members,
    encode_probe,
)

names = st.text("abcdefghijkl", min_size=1, max_size=1)
some_names = st.lists(names, max_size=ACCUSERS_MAX, unique=True).map(lambda found: tuple(sorted(found)))
records = st.builds(
    NodeRecord,
    st.just("x"),
    st.integers(0, 2),
    st.sampled_from([(), ("tcp://x:1",), ("tcp://x:2",)]),
    st.integers(0, 2),
    st.sampled_from(Standing),
    some_names,
    some_names,
    st.just(0),
    st.none(),
    st.none(),
)


@given(records, records, records)
def test_merging_is_a_join(a: NodeRecord, b: NodeRecord, c: NodeRecord) -> None:
    assert merge(a, a) == a
    assert merge(a, b) == merge(b, a)
    assert merge(merge(a, b), c) == merge(a, merge(b, c))
    assert merge(merge(a, b), b) == merge(a, b)


@given(st.lists(records, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_any_order_gives_the_same(told: list[NodeRecord], rng: object) -> None:
    again = list(told)
    rng.shuffle(again)  # type: ignore[attr-defined]
    assert reduce(merge, told) == reduce(merge, again + told)


@given(records, records)
def test_what_is_said_of_the_lost_ends_unless_it_lives_or_left(held: NodeRecord, told: NodeRecord) -> None:
    both = merge(held, told)
    if held.ends(told):
        assert (both.standing, both.incarnation, both.version) == (
            held.standing,
            held.incarnation,
            held.version,
        )
    elif held.standing is Standing.LOST:
        assert told.standing is Standing.LEFT or (both.incarnation, both.version) > (
            held.incarnation,
            held.version,
        )


@given(records, records)
def test_only_the_node_itself_undoes_what_is_said_of_it(a: NodeRecord, b: NodeRecord) -> None:
    both = merge(a, b)
    same_life = a.incarnation == b.incarnation and a.version == b.version
    if same_life and Standing.LEFT not in (a.standing, b.standing):
        assert both.standing == max(a.standing, b.standing)
        assert set(both.accusers) <= {*a.accusers, *b.accusers}
    if Standing.LEFT in (a.standing, b.standing) and a.incarnation == b.incarnation:
        assert both.standing is Standing.LEFT, "who has left comes back as another incarnation"


@given(st.lists(records, max_size=20))
def test_what_is_told_is_read(told: list[NodeRecord]) -> None:
    assert [record for body in encode_members(told, 200) for record in decode_members(body)] == [
        record
        if record.accusers or record.standing
        else NodeRecord(record.node_id, record.incarnation, record.addresses, record.version)
        for record in told
    ]


def test_questions_and_answers_are_read() -> None:
    assert decode_probe(encode_probe("n1")) == "n1"
    for vouch in (Vouch("n1", None), Vouch("n1", 250)):
        assert Vouch.decode(vouch.encode()) == vouch
    assert decode_digest(encode_digest(bytes(DIGEST_BYTES), True)) == (bytes(DIGEST_BYTES), True)


# -- what is plain is read at once, and else as all is


def slowly(item: bytes) -> NodeRecord | None:
    """The record, read value by value; None if it is none."""
    try:
        return read_any(item)
    except ProtocolError:
        return None


@given(records)
def test_plain_records_are_read_as_all_others_are(record: NodeRecord) -> None:
    item = pack_record(record)
    assert read_record(item) == slowly(item) is not None
    assert (read_plain(item) is None) == (record.standing is Standing.LEFT)


@given(records)
def test_plain_records_are_packed_as_all_others_are(record: NodeRecord) -> None:
    assert pack_record(record) == pack(wire_form(record))


@given(records, st.data())
def test_what_is_not_plain_is_never_read_as_if_it_was(record: NodeRecord, data: st.DataObject) -> None:
    item = bytearray(pack_record(record.replace(listed=1)))
    for _ in range(data.draw(st.integers(1, 3))):
        item[data.draw(st.integers(0, len(item) - 1))] = data.draw(st.integers(0, 255))
    plain = read_plain(bytes(item))
    if plain is not None:
        check_msgpack(item)
        assert slowly(bytes(item)) == plain


@given(records, records)
def test_what_is_held_already_is_seen_in_the_bytes(held: NodeRecord, told: NodeRecord) -> None:
    one, item = membership(), pack_record(told)
    one.learn(encode_members([held])[0], 0, "a")
    (now,) = [record for record in one.records() if record.node_id == "x"] or [None]
    learned = one.learn(encode_members([told])[0], 0, "a")
    assert learned == (now is None or not now.covers(read_record(item)))


@pytest.mark.parametrize(
    "values",
    [
        ["x", 1, 0, ["tcp://x:1"] * 17],
        ["x", 1, 2**63, []],
        ["x", 1, 0, ["http://"]],
        ["\u00e9", 1, 0, []],
        ["x", 1, 0, [], 0, ["b", "a"], []],
        ["x", 1, 0, [], 0, ["a", "a"], []],
        ["x", 1, 0, [], 0, list("abcdefghi"), []],
        ["x", 1, 0, [], 2, [], []],
        ["x", 1, 0, [], {64: b""}],
        ["x", -1, 0, []],
        ["x", 1, 0],
        [],
        "x",
    ],
)
def test_such_records_are_not_plain(values: object) -> None:
    assert read_plain(pack(values)) is None


def test_bytes_that_end_early_or_late_are_not_plain() -> None:
    item = pack_record(NodeRecord("x", 1, ("tcp://x:1",), 3, Standing.LOST, ("a", "b"), ("a",), 7))
    assert read_plain(item) is not None
    assert all(read_plain(item[:end]) is None for end in range(len(item)))
    assert read_plain(item + b"\x00") is None
