"""Who may link with whom: Hello, Welcome and Close on the wire, `judge`, and the table of `arbitrate`."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentnet_core.config import FRAME_BYTES_MIN
from agentnet_core.errors import (
    BY_CODE,
    DuplicateLink,
    HandshakeRefused,
    LinkLost,
    NoSuchAgent,
    PeerError,
    ProtocolError,
)
from agentnet_core.handshake import (
    CHECKSUM_CRC32C,
    Agreed,
    Close,
    Hello,
    LinkView,
    Ruling,
    Welcome,
    arbitrate,
    is_self,
    judge,
)

UUID = bytes(range(16))
OTHER_UUID = bytes(16)

# A slow machine is no finding.
quick = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])

names = st.text("AZaz09._-", min_size=1, max_size=64)
u64 = st.integers(0, 2**64 - 1)
addresses = st.sampled_from(["tcp://127.0.0.1:1", "tls://a.example:7400", "ws://[::1]:80", "wss://x/:65535"])
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers(0, 80), inner, max_size=4),
    max_leaves=12,
)
hellos = st.builds(
    Hello,
    network=names,
    node_id=names,
    incarnation=u64,
    network_uuid=st.sampled_from([b"", UUID]),
    protocol_min=st.just(1),
    protocol_max=st.integers(1, 0xFFFF),
    features_required=u64,
    features_optional=u64,
    frame_bytes_max=st.integers(FRAME_BYTES_MIN, 2**32 - 1),
    message_bytes_max=st.integers(1, 2**63 - 1),
    credit_bytes=st.integers(0, 2**63 - 1),
    checksum=st.integers(0, 1),
    liveness=st.none() | st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.binary(max_size=64)),
    addresses=st.lists(addresses, max_size=16).map(tuple),
    plaintext=st.booleans(),
    extra=st.dictionaries(st.integers(64, 2**64 - 1), st.text(max_size=8), max_size=3),
)


def hello(node_id: str = "b", **fields: Any) -> Hello:
    return Hello(**{"network": "prod", "node_id": node_id, "incarnation": 7, "network_uuid": UUID} | fields)


def edited(*gone: int) -> dict[int, Any]:
    fields = msgpack.unpackb(hello().encode(), strict_map_key=False)
    for key in gone:
        del fields[key]
    return fields


# -- Hello on the wire


@quick
@given(hellos)
def test_hello_reads_what_it_wrote(one: Hello) -> None:
    assert Hello.decode(one.encode()) == one
    assert Hello.decode(memoryview(one.encode())) == one


@quick
@given(st.binary(max_size=200))
def test_garbage_is_a_protocol_error(body: bytes) -> None:
    for decode in (Hello.decode, Welcome.decode, Close.decode):
        with pytest.raises((ProtocolError, HandshakeRefused)):
            decode(body)


@quick
@given(hellos, st.integers(0, 13), values)
def test_any_value_in_any_field_is_read_or_refused(one: Hello, key: int, value: Any) -> None:
    fields = msgpack.unpackb(one.encode(), strict_map_key=False)
    fields[key] = value
    try:
        read = Hello.decode(msgpack.packb(fields))
    except (ProtocolError, HandshakeRefused) as error:
        assert "expected" in str(error) or "version" in str(error)
    else:
        assert Hello.decode(read.encode()) == read


@quick
@given(values)
def test_any_value_is_read_or_refused(value: Any) -> None:
    for decode in (Hello.decode, Welcome.decode, Close.decode):
        try:
            decode(msgpack.packb(value))
        except (ProtocolError, HandshakeRefused):
            continue


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (0, "1", "protocol_min: expected an integer from 1 to 1, got '1'"),
        (1, True, "protocol_max: expected an integer from 1 to 65535, got True"),
        (2, "no such name", "network: expected 1 to 64 of A-Z a-z 0-9 . _ -, got 'no such name'"),
        (3, bytes(15), "network_uuid: expected 16 bytes, or none while joining, got '15 bytes'"),
        (3, bytes(17), "network_uuid: expected a length in 0 to 16 bytes, got 17"),
        (4, "", "node_id: expected 1 to 64 of"),
        (5, -1, "incarnation: expected an integer from 0 to"),
        (5, 1.0, "incarnation: expected an integer from 0 to"),
        (8, {0: 100, 1: 100}, "frame_bytes_max: expected an integer from 65536 to 4294967295, got 100"),
        (8, {0: 65_536}, "message_bytes_max: expected an integer from 1 to 9223372036854775807, got None"),
        (8, {0: 65_536, 1: 9, 2: 1}, "limits: expected limits 0 and 1 or from 64, got 2"),
        (10, 2, "checksum: expected an integer from 0 to 1, got 2"),
        (11, [1, 2], "liveness: expected a list of 3, got '2 elements'"),
        (11, [1, 70000, b""], "liveness TCP port: expected an integer from 0 to 65535, got 70000"),
        (12, ["tcp://x"], "addresses: expected addresses such as 'tcp://host:port', got 'tcp://x'"),
        (12, ["tcp://x:1"] * 17, "addresses: expected a list of 0 to 16, got '17 elements'"),
        (12, ["tcp://\x1b[2J:1"], r"got 'tcp://\x1b[2J:1'"),
        (13, 1, "plaintext: expected true or false, got 1"),
    ],
)
def test_a_wrong_field_is_named_with_expected_and_got(key: int, value: Any, said: str) -> None:
    with pytest.raises((ProtocolError, HandshakeRefused)) as caught:
        Hello.decode(msgpack.packb(edited() | {key: value}))
    assert said in str(caught.value)


@pytest.mark.parametrize("key", [2, 3, 4, 5])
def test_a_missing_field_is_named(key: int) -> None:
    with pytest.raises(ProtocolError, match=rf"number {key}\)"):
        Hello.decode(msgpack.packb(edited(key)))


def test_optional_fields_may_be_missing() -> None:
    assert Hello.decode(msgpack.packb(edited(*range(6, 14)))) == hello()


@pytest.mark.parametrize("key", [14, 63])
def test_an_unknown_field_below_64_is_refused_by_its_number(key: int) -> None:
    with pytest.raises(HandshakeRefused, match=rf"got {key}; .* must be understood"):
        Hello.decode(msgpack.packb(edited() | {key: None}))


def test_an_unknown_field_from_64_is_carried() -> None:
    assert Hello.decode(msgpack.packb(edited() | {64: [1], 99: "x"})).extra == {64: [1], 99: "x"}


def test_another_version_is_refused_before_its_other_fields_are_read() -> None:
    body = msgpack.packb({0: 2, 1: 3, 2: ["whatever"], 40: None})
    with pytest.raises(HandshakeRefused, match="the other side speaks 2 to 3, this one 1 to 1"):
        Hello.decode(body)


def test_deep_and_huge_bodies_are_refused() -> None:
    with pytest.raises(ProtocolError):
        Hello.decode(b"\x91" * 100 + b"\x90")
    with pytest.raises(ProtocolError):
        Hello.decode(b"\xdf\xff\xff\xff\xff")
    with pytest.raises(ProtocolError):
        Hello.decode(b"")
    with pytest.raises(ProtocolError, match="unhashable"):
        Hello.decode(b"\x81\x90\x01")


# -- Welcome and Close on the wire


def test_welcome_reads_what_it_wrote() -> None:
    assert Welcome.decode(Welcome(UUID).encode()) == Welcome(UUID)
    with pytest.raises(ProtocolError, match="a length in 16 bytes, got 3"):
        Welcome.decode(Welcome(b"abc").encode())


@quick
@given(st.sampled_from(sorted(BY_CODE)), st.text(max_size=700))
def test_close_carries_the_class_of_an_error(code: int, text: str) -> None:
    error = BY_CODE[code](text)
    read = Close.decode(Close.of(error).encode())
    assert type(read.error()) is type(error)
    assert len(read.text) <= 512
    assert read.text.isprintable()
    if len(text) <= 512 and text.isprintable():
        assert read.text == text


def test_close_says_what_is_no_error() -> None:
    leave = Close.decode(Close(Close.LEAVE, "bye").encode())
    assert leave.benign
    assert type(leave.error()) is LinkLost
    duplicate = Close.decode(Close.of(DuplicateLink("two links")).encode())
    assert duplicate.benign
    assert duplicate.code == Close.DUPLICATE
    assert not Close.of(NoSuchAgent("x")).benign


def test_close_with_a_newer_code_or_a_bare_surrogate_is_no_defect() -> None:
    assert type(Close(999, "new").error()) is PeerError
    assert Close.decode(Close(1, "a\ud800b").encode()).text == "a?b"


def test_close_escapes_what_a_terminal_would_obey() -> None:
    assert Close.decode(Close(1, "a\x1b[2Jb\n").encode()).text == r"'a\x1b[2Jb\n'"


# -- judge


def test_two_hellos_agree_on_the_lesser_limits() -> None:
    local = hello(
        "a",
        protocol_max=4,
        frame_bytes_max=90_000,
        message_bytes_max=10,
        features_optional=0b110,
        credit_bytes=5,
    )
    remote = hello(
        "b",
        protocol_max=3,
        protocol_min=2,
        frame_bytes_max=80_000,
        message_bytes_max=20,
        features_required=0b10,
        checksum=CHECKSUM_CRC32C,
        credit_bytes=9,
        incarnation=8,
    )
    agreed = judge(local, remote, "b")
    assert agreed == Agreed(
        node_id="b",
        incarnation=8,
        arbiter=False,
        protocol=3,
        features=0b10,
        network_uuid=UUID,
        checksum=CHECKSUM_CRC32C,
        frame_bytes_max=80_000,
        message_bytes_max=10,
        credit_bytes=9,
    )
    mirrored = judge(remote, local)
    assert mirrored.arbiter
    assert replace(mirrored, node_id="b", incarnation=8, arbiter=False, credit_bytes=9) == agreed


@pytest.mark.parametrize("joining", ["a", "b"])
def test_the_joining_node_takes_the_uuid_of_the_other(joining: str) -> None:
    local, remote = (hello(i, network_uuid=b"" if i == joining else UUID) for i in "ab")
    assert judge(local, remote).network_uuid == judge(remote, local).network_uuid == UUID


@pytest.mark.parametrize(
    ("fields", "certified", "said"),
    [
        ({"protocol_min": 2, "protocol_max": 3}, None, "node 'b' speaks 2 to 3, node 'a' 1 to 1"),
        ({"network": "test"}, None, "node 'b' is in network 'test', node 'a' in network 'prod'"),
        ({"network_uuid": OTHER_UUID}, None, f"two networks are named 'prod': .*{'00' * 16}.*{UUID.hex()}"),
        ({"node_id": "a", "incarnation": 9}, None, "node id 'a' is used by two nodes, incarnations 7 and 9"),
        ({}, "c", "the certificate is for node 'c', its Hello says node 'b'"),
        ({"features_required": 0b110}, None, r"node 'b' requires features \[1, 2\] that node 'a' does not"),
        ({"features_required": 0b001}, None, "node 'b' signs what it says .* node 'a' does not sign"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    fields: dict[str, Any], certified: str | None, said: str
) -> None:
    with pytest.raises(HandshakeRefused, match=said) as caught:
        judge(hello("a"), hello(**fields), certified)
    assert caught.value.definite


def test_what_this_side_requires_is_refused_too() -> None:
    with pytest.raises(
        HandshakeRefused, match=r"node 'a' requires features \[3\] that node 'b' does not know"
    ):
        judge(hello("a", features_required=8), hello("b"))


def test_two_joining_nodes_cannot_let_each_other_in() -> None:
    with pytest.raises(HandshakeRefused, match="both still joining network 'prod': one node must found it"):
        judge(hello("a", network_uuid=b""), hello("b", network_uuid=b""))


def test_a_node_knows_itself() -> None:
    assert is_self(hello("a"), hello("a", addresses=("tcp://x:1",)))
    assert not is_self(hello("a"), hello("a", incarnation=8))
    assert not is_self(hello("a"), hello("b"))


def test_a_welcome_into_another_network_is_refused() -> None:
    agreed = judge(hello("a", network_uuid=b""), hello("b"))
    agreed.check(Welcome(UUID))
    with pytest.raises(HandshakeRefused, match=f"expected {UUID.hex()}"):
        agreed.check(Welcome(OTHER_UUID))


plain_hellos = st.builds(
    Hello,
    network=st.sampled_from(["prod", "prod", "test"]),
    node_id=st.sampled_from("abc"),
    incarnation=st.integers(1, 2),
    network_uuid=st.sampled_from([b"", UUID, UUID, OTHER_UUID]),
    protocol_min=st.integers(1, 2),
    protocol_max=st.integers(2, 3),
    features_required=st.integers(0, 3),
    features_optional=st.integers(0, 7),
    frame_bytes_max=st.integers(FRAME_BYTES_MIN, FRAME_BYTES_MIN + 6),
    checksum=st.integers(0, 1),
)


@quick
@given(plain_hellos, plain_hellos)
def test_both_sides_judge_alike(one: Hello, other: Hello) -> None:
    outcomes = []
    for local, remote in ((one, other), (other, one)):
        try:
            agreed = judge(local, remote)
        except HandshakeRefused:
            outcomes.append(None)
        else:
            outcomes.append((agreed.protocol, agreed.features, agreed.checksum, agreed.frame_bytes_max))
    assert outcomes[0] == outcomes[1]


# -- arbitrate: every row of the table at the head of handshake.py

ME, PEER = True, False
SAME_INCARNATION = {
    (ME, PEER): Ruling.DUPLICATE,
    (ME, ME): Ruling.DUPLICATE,
    (PEER, ME): Ruling.DUPLICATE,
    (PEER, PEER): Ruling.REPLACE,
}


@pytest.mark.parametrize(
    ("arbiter", "old_by", "new_by", "new"), list(product((True, False), (ME, PEER), (ME, PEER), (4, 5, 6)))
)
def test_every_row_of_the_table(arbiter: bool, old_by: bool, new_by: bool, new: int) -> None:
    old_link, new_link = LinkView(old_by, 5, welcomed=True), LinkView(new_by, new)
    verdict = arbitrate("x", old_link, new_link, arbiter=arbiter)
    if new > 5:
        assert verdict.ruling is Ruling.PROBE
        assert verdict.close is not None
        assert "node id 'x' is taken by a living node (incarnation 5" in verdict.close.text
        assert "`await net.leave_network()`" in verdict.close.text
        assert "or give the new one an id of its own" in verdict.close.text
        assert type(verdict.close.error()) is HandshakeRefused
    elif new < 5:
        assert verdict.ruling is Ruling.REFUSE
        assert verdict.close is not None
        assert "incarnation 4 of node 'x' is dead, it runs as 5 now" in verdict.close.text
    else:
        assert verdict.ruling is (SAME_INCARNATION[old_by, new_by] if arbiter else Ruling.REPLACE)
        assert verdict.close is not None
        assert verdict.close.benign
        assert "duplicate link" in verdict.close.text


@pytest.mark.parametrize("old", [None, LinkView(ME, 9), LinkView(PEER, 3)])
@pytest.mark.parametrize("arbiter", [True, False])
def test_only_a_welcomed_link_stands_in_the_way(old: LinkView | None, arbiter: bool) -> None:
    for by in (ME, PEER):
        verdict = arbitrate("x", old, LinkView(by, 5), arbiter=arbiter)
        assert verdict.ruling is Ruling.WELCOME
        assert verdict.close is None
