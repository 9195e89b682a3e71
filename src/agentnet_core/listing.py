"""The list of agents that a node publishes, as frames, and the answer to it.

AGENTS   [version, first, last, [[id, name, capabilities, metadata, flags], ...], [removed id, ...]]
CONFIRM  [version, last, [[id, owner node, or "" if a limit refused it], ...]]

``first`` begins a whole list, ``last`` ends an update; a body is filled to a limit, then the next
one begins.  A sixth element of a record is a map of numbered fields, by the law of the Hello:
0 to 63 must be understood, from 64 they are ignored where they are not known.  64 is the health of an
agent that is not well, a text of at most 256 bytes.

A name has the id that it hashes to, and at most 256 bytes; an agent has at most 64 capabilities of
at most 128 bytes each; metadata are texts.  What breaks this is a ProtocolError from a peer, a
UsageError or LimitReached from here: so the errors are arguments of the checks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgpack

from agentnet_core.body import (
    U64_MAX,
    Reader,
    expect_bool,
    expect_int,
    expect_list,
    expect_map,
    expect_name,
    pack,
    unpack,
    wrong,
)
from agentnet_core.errors import LimitReached, NetworkError, ProtocolError, UsageError
from agentnet_core.records import AgentRecord, agent_id_of, describe

NAME_BYTES_MAX = 256
CAPABILITIES_MAX = 64
CAPABILITY_BYTES_MAX = 128
HEALTH_BYTES_MAX = 256
KEY_MUST_KNOW_MAX = 63
HEALTH_KEY = 64

FLAG_BROADCASTS = 1
FLAGS_KNOWN = FLAG_BROADCASTS

HEAD_BYTES = 32
"""What an AGENTS body holds beside its records and ids, at most."""
CONFLICT_BYTES = 80
"""What one id in a CONFIRM takes, at most."""
INTERNED_MAX = 4096


class Capabilities:
    """One copy of each tuple of capabilities, because many agents have the same."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], tuple[tuple[str, ...], int]] = {}

    def intern(
        self, capabilities: tuple[Any, ...], bad: type[NetworkError], over: type[NetworkError]
    ) -> tuple[tuple[str, ...], int]:
        """The one copy and its size in bytes as MessagePack; checked when first seen."""
        try:
            known = self._known.get(capabilities)
        except TypeError:
            known = None  # holds something without a hash, so no text: refused below
        if known is None:
            _check_capabilities(capabilities, bad, over)
            known = capabilities, len(pack(capabilities))
            if len(self._known) >= INTERNED_MAX:
                self._known.clear()
            self._known[capabilities] = known
        return known

    def record_bytes(self, record: AgentRecord) -> int:
        """The size of a checked record's capabilities and metadata."""
        _, size = self.intern(record.capabilities, ProtocolError, ProtocolError)
        return size if record.metadata is None else size + len(pack(record.metadata))

    def check_own(self, record: AgentRecord) -> int:
        """Check a record that this node is about to publish; its capabilities become the one copy.

        The size of its capabilities and metadata, as of `record_bytes`.
        """
        agent_id = record.agent_id
        if type(agent_id) is not int or not 0 < agent_id <= U64_MAX:
            raise UsageError(f"agent id: expected an integer from 1 to {U64_MAX}, got {describe(agent_id)}")
        if record.name is not None:
            _check_name(record.name, agent_id, UsageError, LimitReached)
        if record.metadata is not None:
            _check_metadata(record.metadata, UsageError)
        record.capabilities, size = self.intern(tuple(record.capabilities), UsageError, LimitReached)
        record.metadata = record.metadata or None
        return size if record.metadata is None else size + len(pack(record.metadata))


# -- AGENTS


@dataclass(slots=True)
class Update:
    """What one AGENTS frame says of its node's list."""

    version: int
    first: bool
    last: bool
    records: list[AgentRecord]
    removals: list[int]


def read_update(node_id: str, body: bytes | memoryview, capabilities: Capabilities) -> Update:
    """The update in the body of an AGENTS frame of ``node_id``."""
    reader = Reader("AGENTS", body)
    if reader.count("5 values") != 5:
        raise ProtocolError("AGENTS: expected a list of 5 values")
    version = expect_int("AGENTS version", reader.value(), 0, U64_MAX)
    first = expect_bool("AGENTS first", reader.value())
    last = expect_bool("AGENTS last", reader.value())
    records = [_read_record(node_id, reader.value(), capabilities) for _ in range(reader.count("records"))]
    removals = [expect_int("AGENTS removed id", i, 1, U64_MAX) for i in expect_list("AGENTS", reader.value())]
    return Update(version, first, last, records, removals)


def _read_record(node_id: str, item: Any, known: Capabilities) -> AgentRecord:
    if type(item) is not list or not 5 <= len(item) <= 6:
        raise wrong("AGENTS record", "a list of 5 to 6", item)
    agent_id, name, capabilities, metadata, flags = item[:5]
    if type(agent_id) is not int or not 0 < agent_id <= U64_MAX:
        raise wrong("AGENTS id", f"an integer from 1 to {U64_MAX}", agent_id)
    if name is not None:
        _check_name(name, agent_id, ProtocolError, ProtocolError)
    if type(capabilities) is not list:
        raise wrong("AGENTS capabilities", "a list", capabilities)
    if metadata is not None:
        _check_metadata(metadata, ProtocolError)
    if type(flags) is not int or not 0 <= flags <= FLAGS_KNOWN:
        raise wrong("AGENTS flags", f"an integer from 0 to {FLAGS_KNOWN}", flags)
    health = _read_health(item[5]) if len(item) == 6 else ""
    interned, _ = known.intern(tuple(capabilities), ProtocolError, ProtocolError)
    return AgentRecord(agent_id, node_id, name, interned, metadata or None, flags == FLAG_BROADCASTS, health)


def _read_health(item: Any) -> str:
    fields = expect_map("AGENTS record fields", item)
    for key in fields:
        if key <= KEY_MUST_KNOW_MAX:
            raise wrong("AGENTS record fields", f"only numbers from {KEY_MUST_KNOW_MAX + 1}", key)
    health = fields.get(HEALTH_KEY, "")
    if type(health) is not str or _text_bytes("AGENTS health", health, ProtocolError) > HEALTH_BYTES_MAX:
        raise wrong("AGENTS health", f"a text of at most {HEALTH_BYTES_MAX} bytes", health)
    return health


def health_text(text: str | None) -> str:
    """What is told of an agent's health: at most ``HEALTH_BYTES_MAX`` bytes, and empty when it is well."""
    return (text or "").encode("utf-8", "replace")[:HEALTH_BYTES_MAX].decode("utf-8", "ignore")


def write_update(
    version: int, whole: bool, records: Iterable[AgentRecord], removals: Iterable[int], max_bytes: int
) -> list[bytes]:
    """An update as bodies of AGENTS frames; a record that is larger than ``max_bytes`` goes alone."""
    packer = msgpack.Packer(use_bin_type=True)
    lists: list[tuple[list[bytes], list[bytes]]] = [([], [])]
    used = HEAD_BYTES
    for half, values in enumerate((map(wire_form, records), removals)):
        for value in values:
            packed = packer.pack(value)
            used += len(packed)
            if used > max_bytes and used > HEAD_BYTES + len(packed):
                lists.append(([], []))
                used = HEAD_BYTES + len(packed)
            lists[-1][half].append(packed)
    bodies = []
    for at, (upserts, removed) in enumerate(lists):
        head = [packer.pack_array_header(5), packer.pack(version)]
        head += [packer.pack(whole and at == 0), packer.pack(at == len(lists) - 1)]
        head += [packer.pack_array_header(len(upserts)), *upserts]
        bodies.append(b"".join([*head, packer.pack_array_header(len(removed)), *removed]))
    return bodies


def wire_form(record: AgentRecord) -> tuple[Any, ...]:
    """What of a record crosses the wire; equal for two records that say the same."""
    flags = FLAG_BROADCASTS if record.broadcasts else 0
    plain = record.agent_id, record.name, record.capabilities, record.metadata, flags
    return (*plain, {HEALTH_KEY: record.health}) if record.health else plain


# -- CONFIRM


@dataclass(frozen=True, slots=True)
class Confirm:
    """A peer's answer to a version of this node's list.

    ``conflicts``: ids that it did not take, with the node that keeps them, or "" where a limit of
    the peer's config refused them. ``last``: the version is confirmed; before that, there is more.
    """

    version: int
    last: bool = True
    conflicts: tuple[tuple[int, str], ...] = ()

    def encode(self) -> bytes:
        """The body of a CONFIRM frame."""
        return pack([self.version, self.last, self.conflicts])

    @classmethod
    def decode(cls, body: bytes | memoryview) -> Confirm:
        """The Confirm in the body of a CONFIRM frame."""
        version, last, items = expect_list("CONFIRM", unpack("CONFIRM", body), range(3, 4))
        conflicts = []
        for item in expect_list("CONFIRM conflicts", items):
            agent_id, owner = expect_list("CONFIRM conflict", item, range(2, 3))
            expect_int("CONFIRM agent id", agent_id, 1, U64_MAX)
            conflicts.append((agent_id, owner if owner == "" else expect_name("CONFIRM owner", owner)))
        expect_int("CONFIRM version", version, 0, U64_MAX)
        return cls(version, expect_bool("CONFIRM last", last), tuple(conflicts))


def write_confirms(version: int, last: bool, conflicts: list[tuple[int, str]], max_bytes: int) -> list[bytes]:
    """The answer to one AGENTS frame as bodies of CONFIRM frames: none if it says nothing."""
    size = max(1, max_bytes // CONFLICT_BYTES)
    parts = [tuple(conflicts[at : at + size]) for at in range(0, len(conflicts), size)]
    if last and not parts:
        parts = [()]
    end = len(parts) - 1
    return [Confirm(version, last and at == end, part).encode() for at, part in enumerate(parts)]


# -- checks of one value


def _check_name(name: Any, agent_id: int, bad: type[NetworkError], over: type[NetworkError]) -> None:
    if type(name) is not str or not name:
        raise bad(f"agent name: expected a text, not empty, got {describe(name)}")
    size = _text_bytes("agent name", name, bad)
    if size > NAME_BYTES_MAX:
        raise over(f"agent name {describe(name)}: {size} bytes, expected at most {NAME_BYTES_MAX}")
    if agent_id_of(name) != agent_id:
        raise bad(f"agent {describe(name)}: expected the id {agent_id_of(name)}, got {agent_id}")


def _check_capabilities(
    capabilities: tuple[Any, ...], bad: type[NetworkError], over: type[NetworkError]
) -> None:
    if len(capabilities) > CAPABILITIES_MAX:
        raise over(f"capabilities: {len(capabilities)}, expected at most {CAPABILITIES_MAX}")
    for capability in capabilities:
        if type(capability) is not str or not capability:
            raise bad(f"capability: expected a text, not empty, got {describe(capability)}")
        size = _text_bytes("capability", capability, bad)
        if size > CAPABILITY_BYTES_MAX:
            text = describe(capability)
            raise over(f"capability {text}: {size} bytes, expected at most {CAPABILITY_BYTES_MAX}")


def _check_metadata(metadata: Any, bad: type[NetworkError]) -> None:
    if type(metadata) is not dict:
        raise bad(f"agent metadata: expected a map of texts, got {describe(metadata)}")
    for pair in metadata.items():
        for text in pair:
            if type(text) is not str:
                raise bad(f"agent metadata: expected texts, got {describe(text)}")
            _text_bytes("agent metadata", text, bad)


def _text_bytes(what: str, text: str, bad: type[NetworkError]) -> int:
    try:
        return len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        raise bad(f"{what}: expected text that UTF-8 can hold, got {describe(text)}") from None
