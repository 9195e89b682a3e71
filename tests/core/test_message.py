"""AgentMessage and its MessagePack form, held against the `msgpack` library in both directions."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentnet_core.errors import ConfigError, ProtocolError
from agentnet_core.message import FIELDS, AgentMessage, Origin, unpack_value
from agentnet_core.records import MessagePriority, MessageType, agent_id_of

# A slow machine is no finding.
quick = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])

HERE = Origin("node-1", 7)
PLAIN = [1, 2, 3, 4, 1, 2, 5000, 1_700_000_000_000_000_000, b"payload"]
TO_ALL = [1, None, *PLAIN[2:]]

u64 = st.integers(0, 2**64 - 1)
i64 = st.integers(-(2**63), 2**63 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
carried = st.dictionaries(
    st.sampled_from([n for n in range(2, 13) if n not in (3, 4, 5, 8, 9, 12)]) | st.integers(64, 2**64 - 1),
    st.recursive(
        st.none() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=20) | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers(0, 99), inner, max_size=4),
        max_leaves=8,
    ),
    max_size=5,
)
enveloped = st.fixed_dictionaries(
    {},
    optional={
        3: st.integers(0, 127),
        4: st.tuples(u64, st.lists(u64, max_size=64)).map(list),
        9: st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=32),
        13: st.tuples(st.integers(1, 31), u64).map(list),
    },
)
arrays = st.tuples(
    u64, u64 | st.none(), u64, u64, st.integers(0, 127), st.integers(0, 3), st.integers(0, 2**32 - 1), i64,
    st.binary(max_size=100),
)  # fmt: skip


def read(array: Any, fields: Any = None) -> AgentMessage:
    data = msgpack.packb(array)
    return AgentMessage.decode(data if fields is None else data + msgpack.packb(fields), HERE)


def parts(message: AgentMessage) -> list[Any]:
    """A message as another library reads it: the array, then perhaps the map of optional fields."""
    unpacker = msgpack.Unpacker(strict_map_key=False)
    unpacker.feed(message.encode())
    return list(unpacker)


# -- both directions


@quick
@given(arrays)
def test_what_the_library_writes_is_read(array: tuple[Any, ...]) -> None:
    message = read(array)
    sender, to, seq, _, kind, priority, ttl_ms, timestamp, payload = array
    assert (message.from_agent, message.to_agent, message.sequence) == (sender, to, seq)
    assert (int(message.message_type), int(message.priority)) == (kind, priority)
    assert (message.ttl, message.timestamp, message.payload) == (ttl_ms / 1000, timestamp, payload)
    assert (message.from_node, message.message_id) == ("node-1", f"node-1:7:{seq}")
    assert repr(message).startswith("<AgentMessage ")


@quick
@given(arrays, carried, enveloped, texts | st.none(), st.sampled_from([0, 1]))
def test_what_is_written_the_library_reads_and_so_do_we(
    array: tuple[Any, ...],
    fields: dict[int, Any],
    envelope: dict[int, Any],
    message_id: str | None,
    content: int,
) -> None:
    optional = fields | envelope
    if message_id is not None:
        optional[1] = message_id
    if content:
        optional[14] = content
    message = read(array, optional or None)
    wanted = [list(array), optional] if optional else [list(array)]
    assert parts(message) == wanted
    again = AgentMessage.decode(message.encode(), HERE)
    assert again.encode() == message.encode()
    assert again.fields == message.fields == fields
    assert again.message_id == (f"node-1:7:{array[2]}" if message_id is None else message_id)
    assert again.is_value is message.is_value is bool(content)


def widths(value: int) -> list[bytes]:
    """Every MessagePack form of a number that is not negative."""
    forms = [bytes([value])] if value < 128 else []
    for bits, unsigned, signed in ((8, 0xCC, 0xD0), (16, 0xCD, 0xD1), (32, 0xCE, 0xD2), (64, 0xCF, 0xD3)):
        if value < 1 << bits:
            forms.append(bytes([unsigned]) + value.to_bytes(bits // 8, "big"))
        if value < 1 << (bits - 1):
            forms.append(bytes([signed]) + value.to_bytes(bits // 8, "big"))
    return forms


@pytest.mark.parametrize(
    "value", [0, 3, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**63, 2**64 - 1]
)
def test_a_number_is_read_in_every_width(value: int) -> None:
    for form in widths(value):
        for place in (0, 1, 2, 3):
            items = [msgpack.packb(item) for item in PLAIN]
            items[place] = form
            message = AgentMessage.decode(b"\x99" + b"".join(items))
            assert [message.from_agent, message.to_agent, message.sequence, None][place] in (value, None)
            assert msgpack.unpackb(message.encode())[place] == value


@pytest.mark.parametrize("value", [0, -1, -32, -33, -128, -129, -(2**15), -(2**31), -(2**63), 2**63 - 1, 200])
def test_a_timestamp_may_be_negative_and_of_any_width(value: int) -> None:
    assert read([*PLAIN[:7], value, b""]).timestamp == value


def test_every_form_of_a_payload_and_of_the_array_itself() -> None:
    head = b"".join(msgpack.packb(item) for item in PLAIN[:8])
    for tag in (b"\xc4\x03", b"\xc5\x00\x03", b"\xc6\x00\x00\x00\x03"):
        for array in (b"\x99", b"\xdc\x00\x09", b"\xdd\x00\x00\x00\x09"):
            assert AgentMessage.decode(array + head + tag + b"abc").payload == b"abc"


@pytest.mark.parametrize("size", [0, 1, 255, 256, 453, 454, 455, 65535, 65536, 300_000])
@pytest.mark.parametrize("to", [5, None])
@pytest.mark.parametrize("message_id", [None, "id"])
def test_payloads_of_any_size(size: int, to: int | None, message_id: str | None) -> None:
    payload = bytes(i % 251 for i in range(size))
    message = AgentMessage(payload, to_agent=to, message_id=message_id)
    assert parts(message)[0][1] == to
    assert parts(message)[0][8] == AgentMessage.decode(message.encode()).payload == payload


def test_a_given_id_is_any_text_and_travels() -> None:
    for text in ("", "x", "order 7/ä\U0001f600\x00\n", "x" * 1024, "ä" * 512):
        message = AgentMessage(b"", message_id=text)
        assert parts(message)[1] == {1: text}
        assert AgentMessage.decode(message.encode()).message_id == text


# -- what must be refused

BAD_ARRAYS: list[tuple[Any, str]] = [
    ([], "array of 9"),
    (PLAIN[:8], "array of 9"),
    ([*PLAIN, 0], "array of 9"),
    ({}, "array of 9"),
    (7, "array of 9"),
    ([-1, *PLAIN[1:]], "from"),
    (["a", *PLAIN[1:]], "from"),
    ([1, -2, *PLAIN[2:]], "to"),
    ([1, "b", *PLAIN[2:]], "to"),
    ([1, 2, None, *PLAIN[3:]], "seq"),
    ([1, 2, 3, 1.5, *PLAIN[4:]], "correlation"),
    ([*PLAIN[:4], 128, *PLAIN[5:]], "type"),
    ([*PLAIN[:4], -1, *PLAIN[5:]], "type"),
    ([*PLAIN[:5], 4, *PLAIN[6:]], "priority"),
    ([*PLAIN[:5], True, *PLAIN[6:]], "priority"),
    ([*PLAIN[:6], 2**32, *PLAIN[7:]], "ttl_ms"),
    ([*PLAIN[:7], 2**63, b""], "timestamp"),
    ([*PLAIN[:7], 1.0, b""], "timestamp"),
    ([*PLAIN[:8], "text"], "payload"),
    ([*PLAIN[:8], None], "payload"),
]


@pytest.mark.parametrize(("array", "field"), BAD_ARRAYS)
def test_a_wrong_field_is_named(array: Any, field: str) -> None:
    with pytest.raises(ProtocolError, match=f"message: {field} is missing, out of range or of another type"):
        read(array)


BAD_FIELDS: list[tuple[Any, str]] = [
    ({1: 5}, "field 1"),
    ({1: "x" * 1025}, "field 1"),
    *(({3: value}, "field 3") for value in (-1, 128, "x", None)),
    *(({4: value}, "field 4") for value in (7, [1], [1, 2], [-1, []], [1, [-1]], [1, [2**64 - 1] * 65])),
    *(({13: value}, "field 13") for value in (7, [1], [0, 1], [32, 1], [1, -1], [1, 2, 3])),
    ({8: "group"}, "field 8"),  # of a message to one agent
    ({12: [0]}, "field 12"),
    ({12: [2, 2]}, "field 12"),
    ({12: [0, 0]}, "field 12"),
    ({12: [0, 2**32]}, "field 12"),
    ({12: [-1, 2]}, "field 12"),
    ({14: 2}, "field 14"),
    ({14: b""}, "field 14"),
    ({5: [9, 1, 1, 2**63]}, "field 5"),  # prior to itself
    ({5: [9, 1, 1]}, "field 5"),
    ({5: 9}, "field 5"),
    ({9: ""}, "field 9"),
    ({9: "x" * 129}, "field 9"),
    ({9: b"x"}, "field 9"),
    ({15: [1, "text"]}, "field 15"),
    ({15: [65536, b""]}, "field 15"),
    ({15: 5}, "field 15"),
    ({"a": 1}, "malformed"),
    ({-1: 1}, "malformed"),
    ([], "malformed"),
    (7, "malformed"),
    ({64 + i: i for i in range(65)}, "malformed"),
    ({64: "x" * 5000}, "optional fields"),
]


@pytest.mark.parametrize(("fields", "text"), BAD_FIELDS)
def test_a_wrong_optional_field_is_named(fields: Any, text: str) -> None:
    with pytest.raises(ProtocolError, match=text):
        read(PLAIN, fields)


def test_an_id_that_is_not_utf8() -> None:
    with pytest.raises(ProtocolError, match="not UTF-8 at byte 1"):
        AgentMessage.decode(msgpack.packb(PLAIN) + b"\x81\x01\xa2a\xff")


@pytest.mark.parametrize("number", [0, *range(16, 64)])
def test_an_unknown_field_below_64_is_refused(number: int) -> None:
    with pytest.raises(ProtocolError, match=f"optional field {number} is unknown to this version"):
        read(PLAIN, {number: None})
    with pytest.raises(ConfigError, match=f"optional field {number}"):
        AgentMessage(b"").with_fields({number: None})


def test_reserved_fields_are_carried_and_those_from_64_pass_untouched() -> None:
    # Written in an odd width, which must stay as it is: a signature may cover it.
    odd = b"\x82\x02\x92\xd9\x02n1\xcf" + bytes(7) + b"\x07" + b"\xcd\x10\x00\xc7\x01\x05z"
    body = msgpack.packb(PLAIN) + odd
    message = AgentMessage.decode(body)
    assert message.fields == {2: ["n1", 7], 4096: msgpack.ExtType(5, b"z")}
    assert message.encode().endswith(odd[1:])
    for number in FIELDS:
        if number not in (1, 3, 4, 5, 8, 9, 12, 13, 14, 15):
            assert read(PLAIN, {number: [1, {2: b"x"}]}).fields == {number: [1, {2: b"x"}]}


def test_what_a_message_is_to_a_chain_of_calls_and_to_a_stream() -> None:
    agents = [7, 2**64 - 1, *range(62)]
    fields = {1: "7", 3: 127, 4: [2**64 - 1, agents], 13: [31, 2**64 - 1], 64: "t"}
    message = read(PLAIN, fields)
    assert message.envelope is not None
    assert (message.envelope.hops_left, message.envelope.calls_left) == (127, 2**64 - 1)
    assert (message.envelope.path, message.envelope.stream) == (agents, (31, 2**64 - 1))
    assert (message.fields, parts(message)[1]) == ({64: "t"}, fields)
    alone = read(PLAIN, {13: [1, 0]}).envelope
    assert alone is not None
    assert (alone.hops_left, alone.calls_left, alone.path, alone.stream) == (None, None, [], (1, 0))
    assert read(PLAIN, {64: "t"}).envelope is None
    for number in (3, 4, 13):
        with pytest.raises(ConfigError, match=f"optional field {number}"):
            AgentMessage(b"").with_fields({number: 1})


def test_a_message_to_a_group_has_no_other_receiver() -> None:
    message = AgentMessage(b"x", group="g\u00fc", message_id="7")
    assert (message.group, message.to_agent, message.fields) == ("g\u00fc", None, {})
    assert parts(message) == [[0, None, 0, 0, 1, 1, 0, 0, b"x"], {1: "7", 8: "g\u00fc"}]
    again = AgentMessage.decode(message.encode(), HERE)
    assert (again.group, again.encode()) == (message.group, message.encode())
    assert AgentMessage(b"x").group is AgentMessage(b"x", to_agent=7).group is None
    for to_agent in (0, 7, "name"):
        with pytest.raises(ConfigError, match="group='g': expected None for a message to agent"):
            AgentMessage(b"x", to_agent=to_agent, group="g")


@pytest.mark.parametrize("group", ["", 7, b"g", "x" * 129, "\u00fc" * 65, "\udc80", ["g"]])
def test_what_is_no_name_of_a_group(group: Any) -> None:
    with pytest.raises(ConfigError, match=r"group .*: expected a text of 1 to 128 bytes"):
        AgentMessage(b"x", group=group)
    if group != "\udc80":
        with pytest.raises(ProtocolError, match="field 8"):
            read(TO_ALL, {8: group})
    with pytest.raises(ProtocolError, match="its group is not UTF-8 at byte 1"):
        AgentMessage.decode(msgpack.packb(TO_ALL) + b"\x81\x08\xa2g\xff")


@pytest.mark.parametrize("group", ["x" * 128, "\u00fc" * 64])
def test_the_longest_name_of_a_group(group: str) -> None:
    assert read(TO_ALL, {8: group}).group == AgentMessage(b"", group=group).group == group


def test_the_group_stays_beside_other_fields() -> None:
    message = AgentMessage(b"x", group="g").with_fields({2: 5, 64: "t"})
    assert (message.group, message.fields) == ("g", {2: 5, 64: "t"})
    assert parts(message)[1] == {2: 5, 8: "g", 64: "t"}
    assert message.with_fields({}).group == "g"
    again = read(TO_ALL, {64: "t", 8: "g", 2: 5})
    assert (again.group, again.fields) == ("g", {64: "t", 2: 5})
    with pytest.raises(ConfigError, match="optional field 8"):
        AgentMessage(b"x").with_fields({8: "g"})


def test_nothing_may_follow() -> None:
    with pytest.raises(ProtocolError, match="optional fields malformed"):
        AgentMessage.decode(msgpack.packb(PLAIN) + b"\x80\x00")


def test_the_map_is_read_to_its_end() -> None:
    whole = msgpack.packb(PLAIN) + msgpack.packb({1: "id", 64: [1, 2, {3: b"four"}]})
    AgentMessage.decode(whole)
    for end in range(len(whole)):
        if end != len(msgpack.packb(PLAIN)):
            with pytest.raises(ProtocolError):
                AgentMessage.decode(whole[:end])


@quick
@given(st.binary(max_size=300))
def test_garbage_gives_a_message_or_a_protocol_error(data: bytes) -> None:
    for body in (data, b"\x99" + data, AgentMessage(b"x", to_agent=1).encode() + data):
        try:
            message = AgentMessage.decode(body)
        except ProtocolError:
            continue
        repr(message)
        message.encode()


@quick
@given(arrays, carried, enveloped, st.integers(0), st.integers(0, 255))
def test_one_wrong_byte_gives_a_message_or_a_protocol_error(
    array: tuple[Any, ...], fields: dict[int, Any], envelope: dict[int, Any], place: int, byte: int
) -> None:
    body = bytearray(read(array, (fields | envelope) or None).encode())
    body[place % len(body)] = byte
    try:
        message = AgentMessage.decode(bytes(body))
    except ProtocolError:
        return
    with contextlib.suppress(ProtocolError):  # a value that is carried is looked into only when it is read
        repr((message, message.fields))


@pytest.mark.parametrize(
    "bomb",
    [
        b"\xdf\xff\xff\xff\xff",
        b"\xde\x00\x01\x40\xdd\xff\xff\xff\xff",
        b"\x81\x40" + b"\x91" * 100_000 + b"\xc0",
        b"\x81\x40\xc6\xff\xff\xff\xff",
        b"\x81\x01\xdb\xff\xff\xff\xff",
        b"\x81\x0f\x92\x01\xc6\xff\xff\xff\xff",
    ],
)
def test_bombs_among_the_optional_fields(bomb: bytes) -> None:
    with pytest.raises(ProtocolError):
        AgentMessage.decode(msgpack.packb(PLAIN) + bomb)


@pytest.mark.parametrize("claimed", [100, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_payload_that_claims_more_than_is_there(claimed: int) -> None:
    for body in (AgentMessage(b"x" * 99, to_agent=1).encode(), msgpack.packb([*PLAIN[:8], b"x" * 99])):
        at = body.index(b"x" * 99)
        lying = body[: at - 5] + b"\xc6" + claimed.to_bytes(4, "big") + body[at:]
        with pytest.raises(ProtocolError):
            AgentMessage.decode(lying)


# -- values


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "no bytes"),
        (b"\x01\x02", "1 bytes too many"),
        (b"\x91" * 65 + b"\xc0", "nested deeper than 64"),
        (b"\xdd\xff\xff\xff\xff", "malformed"),
        (b"\xa1\xff", "value: "),
        (b"\x81\x90\x01", "value: "),
        (b"\xd5\xff\x00\x00", "value: "),
    ],
)
def test_a_bad_value_is_a_protocol_error(body: bytes, text: str) -> None:
    with pytest.raises(ProtocolError, match=text):
        unpack_value(body)


def test_value_is_the_payload_or_what_it_holds() -> None:
    assert read(PLAIN).value == b"payload"
    message = read([*PLAIN[:8], msgpack.packb({1: [b"two", None]})], {14: 1})
    assert (message.is_value, message.value) == (True, {1: [b"two", None]})


# -- what a user makes


def test_defaults_and_views() -> None:
    message = AgentMessage(b"hi", to_agent="reader", priority=3, ttl=1.5, message_type=MessageType.QUERY)
    assert message.to_agent == agent_id_of("reader")
    assert (message.from_agent, message.timestamp, message.sequence, message.from_node) == (0, 0, 0, "")
    assert message.message_type is MessageType.QUERY
    assert message.priority is MessagePriority.CRITICAL
    assert (message.ttl, message.error, message.fields, message.value) == (1.5, None, {}, b"hi")
    assert AgentMessage().to_agent is None
    assert AgentMessage().priority is MessagePriority.NORMAL
    assert AgentMessage().message_type is MessageType.COMMAND
    assert repr(AgentMessage(b"abc")) == "<AgentMessage COMMAND :0:0 from 0 to all, 3 bytes>"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"message_type": 6}, "message_type=6"),
        ({"message_type": -1}, "message_type=-1"),
        ({"priority": 4}, "priority=4"),
        ({"priority": -1}, "priority=-1"),
        ({"ttl": -1}, "ttl=-1"),
        ({"ttl": math.nan}, "ttl=nan"),
        ({"ttl": math.inf}, "ttl=inf"),
        ({"ttl": 4_294_968}, "ttl=4294968"),
        ({"message_id": 7}, "message_id"),
        ({"message_id": "x" * 1025}, "message_id"),
        ({"message_id": "\ud800"}, "message_id"),
        ({"to_agent": -1}, "to_agent"),
        ({"to_agent": 2**64}, "to_agent"),
        ({"to_agent": 1.5}, "to_agent"),
        ({"to_agent": b"name"}, "to_agent"),
        ({"from_agent": -1}, "from_agent"),
        ({"from_agent": None}, "from_agent"),
    ],
)
def test_a_bad_argument_is_named(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        AgentMessage(b"", **arguments)


@pytest.mark.parametrize("payload", ["text", None, bytearray(b"x"), 5])
def test_a_payload_is_bytes(payload: Any) -> None:
    with pytest.raises(TypeError):
        AgentMessage(payload)


def test_numbers_may_be_plain_or_enum_members() -> None:
    assert (
        AgentMessage(b"", message_type=5, priority=MessagePriority.LOW).message_type is MessageType.BROADCAST
    )
    assert AgentMessage(b"", to_agent=2**64 - 1).to_agent == 2**64 - 1
    # An agent of a name that no text can hold is registered nowhere; it is no reason to fail here.
    assert AgentMessage(b"", to_agent="\ud800").to_agent == agent_id_of("\ud800")


def test_a_ttl_above_zero_is_never_never() -> None:
    assert AgentMessage(b"", ttl=0.0001).ttl > 0
    assert AgentMessage(b"", ttl=4_294_967).ttl == 4_294_967
    assert AgentMessage(b"", ttl=0).ttl == 0


def test_optional_fields_that_no_peer_would_take_are_refused_here() -> None:
    fine = {64: "00-trace", 2: 5, 11: 2**40}
    assert AgentMessage(b"x").with_fields(fine).fields == fine
    assert AgentMessage(b"x").with_fields({}).fields == {}
    for fields in (
        {64: "x" * 5000},
        {64 + i: 0 for i in range(70)},
        {"64": 1},
        {64: eval("[" * 70 + "]" * 70)},  # the shortest way to say it
        {2**64: 1},
        {64: object()},
        {True: 1},
    ):
        with pytest.raises(ConfigError, match="optional field"):
            AgentMessage(b"x").with_fields(fields)


def test_an_unknown_type_of_a_later_version_can_be_looked_at() -> None:
    message = read([*PLAIN[:4], 99, *PLAIN[5:]])
    assert message.message_type == 99
    assert "type 99" in repr(message)
