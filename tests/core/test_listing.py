"""AGENTS and CONFIRM on the wire: what a directory makes of what others send."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentnet_core.agent_record import AgentRecord
from agentnet_core.body import pack
from agentnet_core.config import BODY_BYTES, EngineConfig
from agentnet_core.directory import Directory
from agentnet_core.errors import ProtocolError
from agentnet_core.listing import (
    INTERNED_MAX,
    WANTED_BYTES,
    Capabilities,
    Confirm,
    health_text,
    read_pull,
    read_update,
    wire_form,
    write_pulls,
)
from agentnet_core.records import agent_id_of
from agentnet_core.update import Update, read_plain


def directory(node_id: str, *agent_ids: int) -> Directory:
    made = Directory(node_id, 1, EngineConfig())
    made.register([AgentRecord(agent_id, node_id) for agent_id in agent_ids])
    return made


def feed(to: Directory, body: bytes) -> None:
    to.apply("a", to.read(body))


def body(
    *records: Any,
    owner: Any = "a",
    base: Any = 0,
    version: Any = 2,
    first: Any = True,
    last: Any = True,
    removals: Any = (),
    more: Any = (),
) -> bytes:
    return pack([owner, 1, base, version, first, last, records, removals, *more])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (body(owner=""), "AGENTS owner: expected 1 to 64 of A-Z"),
        (body(base=-1), "AGENTS base: expected an integer from 0"),
        (body(base=3), "AGENTS version: expected an integer from 3"),
        (body(base=1, last=False), "AGENTS base: expected 0 where a list comes in parts, got 1"),
        (body(base=1, first=False), "AGENTS base: expected 0 where a list comes in parts, got 1"),
        (body(more=({63: 0},)), "AGENTS fields: expected only numbers from 64, got 63"),
        (body(first=1), "AGENTS first: expected true or false, got 1"),
        (body(last=None), "AGENTS last: expected true or false, got None"),
        (body(removals=[0]), "AGENTS removed id: expected an integer from 1"),
        (body(removals=7), "expected a list, got 7"),
        (body(7), "AGENTS record: expected a list of 5 to 6, got 7"),
        (body([1, None, [], None]), "AGENTS record: expected a list of 5 to 6"),
        (body([0, None, [], None, 1]), "AGENTS id: expected an integer from 1"),
        (body([1, "reader", [], None, 1]), f"agent 'reader': expected the id {agent_id_of('reader')}, got 1"),
        (body([1, 5, [], None, 1]), "agent name: expected a text, not empty, got 5"),
        (body([1, None, None, None, 1]), "AGENTS capabilities: expected a list, got None"),
        (body([1, None, [[]], None, 1]), r"capability: expected a text, not empty, got \[\]"),
        (body([1, None, ["x" * 129], None, 1]), "129 bytes, expected at most 128"),
        (body([1, None, ["x"] * 65, None, 1]), "capabilities: 65, expected at most 64"),
        (body([1, None, [], [], 1]), "agent metadata: expected a map of texts"),
        (body([1, None, [], {"a": 1}, 1]), "agent metadata: expected texts, got 1"),
        (body([1, None, [], None, 2]), "AGENTS flags: expected an integer from 0 to 1, got 2"),
        (body([1, None, [], None, 1, {5: 0}]), "AGENTS record fields: expected only numbers from 64, got 5"),
        (
            body([1, None, [], None, 1, {64: None}]),
            "AGENTS health: expected a text of at most 256 bytes, got",
        ),
        (
            body([1, None, [], None, 1, {64: "x" * 257}]),
            "AGENTS health: expected a text of at most 256 bytes",
        ),
        (b"\x90", "AGENTS: expected a list of 8 to 9 values"),
        (b"\x05", "AGENTS: expected a list of 8 to 9 values"),
        (b"\x98\xa1a\x01\x00\x02\xc3\xc3\x05\x90", "AGENTS: expected a list of records"),
    ],
)
def test_a_wrong_list_is_refused_and_changes_nothing(wrong: bytes, said: str) -> None:
    b = directory("b")
    feed(b, directory("a", 5).whole_list("a")[0])
    with pytest.raises(ProtocolError, match=said):
        feed(b, wrong)
    assert [record.agent_id for record in b.agents()] == [5]


def test_a_later_release_may_say_more_of_an_agent() -> None:
    b = directory("b")
    feed(b, body([1, None, ["x"], {"k": "v"}, 0, {66: "more"}], more=({65: b"signed"},)))
    record = b.get(1)
    assert record is not None
    assert wire_form(record) == (1, None, ("x",), {"k": "v"}, 0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, ""),
        ("", ""),
        ("quota gone", "quota gone"),
        ("x" * 256, "x" * 256),
        ("x" * 257, "x" * 256),
        ("x" * 255 + "\u00e9", "x" * 255),
        ("a\udcffb", "a?b"),
    ],
)
def test_a_health_is_cut_to_what_fits(text: str | None, told: str) -> None:
    assert health_text(text) == told
    a, b = directory("a", 5), directory("b")
    assert a.say_health(5, told) is bool(told)
    feed(b, a.whole_list("a")[0])
    (record,) = b.agents()
    assert record.health == told
    assert len(wire_form(record)) == 5 + bool(told)


values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.integers(0, 9), inner, max_size=2),
    max_leaves=20,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    values
    | st.tuples(
        *(st.sampled_from("ab"), st.integers(0, 2), st.integers(0, 3), st.integers(0, 3)),
        *(st.booleans(), st.booleans(), values, values),
    ),
    st.binary(),
)
def test_garbage_is_taken_or_a_protocol_error(value: Any, tail: bytes) -> None:
    for bytes_in in (pack(value), tail, pack(value) + tail):
        for read in (lambda b: feed(directory("b", 1), b), Confirm.decode, read_pull):
            try:
                read(bytes_in)
            except ProtocolError:
                continue


names = st.text(min_size=1, max_size=20).filter(lambda name: len(name.encode()) <= 256)
published = st.builds(
    lambda name, agent_id, capabilities, metadata, broadcasts: AgentRecord(
        agent_id_of(name) if name else agent_id, "a", name, tuple(capabilities), metadata or None, broadcasts
    ),
    st.none() | names,
    st.integers(1, 2**64 - 1),
    st.lists(st.text(min_size=1, max_size=20), max_size=4),
    st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=3),
    st.booleans(),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(published, max_size=12, unique_by=lambda record: record.agent_id), st.integers(40, 400))
def test_a_directory_reads_what_another_wrote(records: list[AgentRecord], max_bytes: int) -> None:
    a, b = directory("a"), directory("b")
    a.register(records)
    a.body_bytes = max_bytes
    for part in a.whole_list("a"):
        feed(b, part)
    assert list(map(wire_form, b.agents())) == list(map(wire_form, a.agents()))


def said(update: Update) -> tuple[Any, ...]:
    """All that an update holds."""
    head = update.owner, update.incarnation, update.base, update.version, update.first, update.last
    return *head, list(map(wire_form, update.records)), update.removals, update.head


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(published, max_size=3),
    st.lists(st.integers(1, 2**64 - 1), max_size=2),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=2),
)
def test_what_is_read_at_once_is_what_is_read_value_by_value(
    records: list[AgentRecord], removals: list[int], damage: list[tuple[int, int]]
) -> None:
    data = bytearray(body(*map(wire_form, records), removals=removals))
    for at, byte in damage:
        data[at % len(data)] = byte
    known = Capabilities()
    plain = read_plain(bytes(data), known.words.packed, known.words.by_bytes)
    if plain is not None:
        assert said(plain) == said(read_update(bytes(data), Capabilities()))


def test_a_plain_list_is_read_at_once() -> None:
    known = Capabilities()
    for record in ([7, None, [], None, 0], [agent_id_of("reader"), "reader", ["x", "y"], None, 1]):
        for removals in ([], [1, 2**64 - 1]):
            plain = read_plain(body(record, removals=removals), known.words.packed, known.words.by_bytes)
            assert plain is not None
            assert said(plain)[-3:] == ([tuple(map(kept, record))], removals, None)


def kept(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@pytest.mark.parametrize("at_once", [False, True])
def test_equal_capabilities_are_held_once(at_once: bool) -> None:
    known = Capabilities()

    def read(*records: Any) -> list[AgentRecord]:
        words = known.words
        update = read_plain(body(*records), words.packed, words.by_bytes) if at_once else None
        return (update or read_update(body(*records), known)).records

    first, second = read([1, None, ["x", "y"], None, 1], [2, None, ["x", "y"], None, 1])
    assert first.capabilities is second.capabilities
    for i in range(INTERNED_MAX + 1):
        read([1, None, [str(i)], None, 1])
    assert len(known.words._known) <= INTERNED_MAX
    assert len(known.words.by_bytes) <= INTERNED_MAX


def test_what_is_asked_for_is_read() -> None:
    wanted = [(f"{i:064}", 2**64 - 1, 2**53) for i in range(1000)]
    bodies = write_pulls(wanted)
    assert max(map(len, bodies)) <= BODY_BYTES
    assert [item for body in bodies for item in read_pull(body)] == wanted
    assert write_pulls(wanted[: BODY_BYTES // WANTED_BYTES]) == bodies[:1]
    assert write_pulls([]) == []
