"""The list of agents that a node publishes, as frames, what asks for it, and the answer to it.

AGENTS   [owner node, incarnation, base, version, first, last,
          [[id, name, capabilities, metadata, flags], ...], [removed id, ...]]
PULL     [[owner node, incarnation, version that is held], ...]   send these lists, if you have more
CONFIRM  [owner node, incarnation, version, last, [[id, node that keeps it, or "" for a limit], ...]]

A list is its owner's, and whoever has it may pass it on.  On base 0 an update is the whole list as of
``version``, in parts: ``first`` begins it, ``last`` ends it.  On any other base it is the change from
that version to the next, one frame, and means nothing to who does not hold the base.

A sixth element of a record and a ninth of AGENTS are maps of numbered fields, by the law of the
Hello: 0 to 63 must be understood, from 64 they are ignored where they are not known.  64 of a record is
the health of an agent that is not well, a text of at most 256 bytes; of AGENTS, on the first frame of an
update, it is [count, digest, signature] of that version, where the network is signed.  65 of a record is
a list of the groups that the agent is in: who does not know groups cannot send to one, so may ignore it.

A name has the id that it hashes to, and at most 256 bytes; an agent has at most 64 capabilities, and is
in at most 64 groups, of at most 128 bytes each; metadata are texts.  What breaks this is a ProtocolError
from a peer, a UsageError or LimitReached from here: so the errors are arguments of the checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from agentnet_core.agent_record import AgentRecord
from agentnet_core.body import (
    U64_MAX,
    expect_bool,
    expect_fields,
    expect_int,
    expect_list,
    expect_name,
    pack,
    unpack,
    wrong,
)
from agentnet_core.config import BODY_BYTES, GROUP_BYTES_MAX, VERSION_MAX
from agentnet_core.errors import LimitReached, NetworkError, ProtocolError, UsageError
from agentnet_core.records import agent_id_of, describe
from agentnet_core.signing import Head, expect_head
from agentnet_core.update import Update

NAME_BYTES_MAX = 256
CAPABILITIES_MAX = 64
CAPABILITY_BYTES_MAX = 128
GROUPS_MAX = 64
HEALTH_BYTES_MAX = 256
HEAD_KEY = 64
HEALTH_KEY = 64
GROUPS_KEY = 65

FLAG_BROADCASTS = 1
FLAGS_KNOWN = FLAG_BROADCASTS

HEAD_BYTES = 128
"""What an AGENTS body holds beside its records, ids and signature, at most."""
CONFLICT_BYTES = 80
"""What one id in a CONFIRM takes, at most."""
INTERNED_MAX = 4096
WANTED_BYTES = 96
"""What one list in a PULL takes, at most."""


class _Words:
    """One copy of each tuple of words, because many agents have the same."""

    def __init__(self, one: str, many: str, count_max: int, bytes_max: int) -> None:
        self._one, self._many = one, many
        self._count_max, self._bytes_max = count_max, bytes_max
        self._known: dict[tuple[str, ...], tuple[tuple[str, ...], int]] = {}
        self.by_bytes: dict[bytes, tuple[str, ...]] = {}
        """Tuples that came, by the MessagePack that they came in."""

    def intern(
        self, words: tuple[Any, ...], bad: type[NetworkError], over: type[NetworkError]
    ) -> tuple[tuple[str, ...], int]:
        """The one copy and its size in bytes as MessagePack; checked when first seen."""
        try:
            known = self._known.get(words)
        except TypeError:
            known = None  # holds something without a hash, so no text: refused below
        if known is None:
            self._check(words, bad, over)
            known = words, len(pack(words))
            if len(self._known) >= INTERNED_MAX:
                self._known.clear()
            self._known[words] = known
        return known

    def packed(self, data: bytes) -> tuple[str, ...] | None:
        """The one copy of a list of words as it crosses the wire; None if it is no such list."""
        try:
            words = expect_list(self._many, unpack(self._many, data))
            known, _ = self.intern(tuple(words), ProtocolError, ProtocolError)
        except ProtocolError:
            return None
        if len(self.by_bytes) >= INTERNED_MAX:
            self.by_bytes.clear()
        self.by_bytes[data] = known
        return known

    def _check(self, words: tuple[Any, ...], bad: type[NetworkError], over: type[NetworkError]) -> None:
        if len(words) > self._count_max:
            raise over(f"{self._many}: {len(words)}, expected at most {self._count_max}")
        for word in words:
            if type(word) is not str or not word:
                raise bad(f"{self._one}: expected a text, not empty, got {describe(word)}")
            size = _text_bytes(self._one, word, bad)
            if size > self._bytes_max:
                raise over(f"{self._one} {describe(word)}: {size} bytes, expected at most {self._bytes_max}")


class Capabilities:
    """The capabilities and groups of many agents, and the checks of both."""

    def __init__(self) -> None:
        self.words = _Words("capability", "capabilities", CAPABILITIES_MAX, CAPABILITY_BYTES_MAX)
        self.groups = _Words("group", "groups", GROUPS_MAX, GROUP_BYTES_MAX)

    def record_bytes(self, record: AgentRecord) -> int:
        """The size of a checked record's capabilities, groups and metadata."""
        _, size = self.words.intern(record.capabilities, ProtocolError, ProtocolError)
        if record.groups:
            size += self.groups.intern(record.groups, ProtocolError, ProtocolError)[1]
        return size if record.metadata is None else size + len(pack(record.metadata))

    def check_own(self, record: AgentRecord) -> int:
        """Check a record that this node is about to publish; its capabilities become the one copy.

        Its size as of `record_bytes`.
        """
        agent_id = record.agent_id
        if type(agent_id) is not int or not 0 < agent_id <= U64_MAX:
            raise UsageError(f"agent id: expected an integer from 1 to {U64_MAX}, got {describe(agent_id)}")
        if record.name is not None:
            _check_name(record.name, agent_id, UsageError, LimitReached)
        if record.metadata is not None:
            _check_metadata(record.metadata, UsageError)
        record.capabilities, _ = self.words.intern(tuple(record.capabilities), UsageError, LimitReached)
        record.groups = self.own_groups(record.groups)
        record.metadata = record.metadata or None
        return self.record_bytes(record)

    def own_groups(self, groups: Iterable[str]) -> tuple[str, ...]:
        """The one copy of the groups of an agent of this node, once they are checked."""
        return self.groups.intern(tuple(groups), UsageError, LimitReached)[0]


# -- AGENTS

Part = tuple[list[bytes], list[bytes]]
"""Records and removed ids of one frame, packed."""
HeadOf = Callable[[int, Part], Head | None]
"""Called for each version of a change, in order, with the version and what changed."""


def unsigned(version: int, part: Part) -> None:
    """No head, where nothing is signed."""


def read_update(body: bytes | memoryview, capabilities: Capabilities) -> Update:
    """The update in the body of an AGENTS frame, whatever is in it."""
    values = unpack("AGENTS", body)
    if type(values) is not list or not 8 <= len(values) <= 9:
        raise wrong("AGENTS", "a list of 8 to 9 values", values)
    owner = expect_name("AGENTS owner", values[0])
    incarnation = expect_int("AGENTS incarnation", values[1], 0, U64_MAX)
    base = expect_int("AGENTS base", values[2], 0, VERSION_MAX)
    version = expect_int("AGENTS version", values[3], base, VERSION_MAX)
    first = expect_bool("AGENTS first", values[4])
    last = expect_bool("AGENTS last", values[5])
    if base and not (first and last):
        raise wrong("AGENTS base", "0 where a list comes in parts", base)
    if type(values[6]) is not list:
        raise wrong("AGENTS", "a list of records", values[6])
    records = [_read_record(owner, item, capabilities) for item in values[6]]
    removals = [expect_int("AGENTS removed id", i, 1, U64_MAX) for i in expect_list("AGENTS", values[7])]
    fields = expect_fields("AGENTS fields", values[8]) if len(values) == 9 else {}
    head = expect_head("AGENTS head", fields[HEAD_KEY]) if HEAD_KEY in fields else None
    return Update(owner, incarnation, base, version, first, last, records, removals, head)


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
    interned, _ = known.words.intern(tuple(capabilities), ProtocolError, ProtocolError)
    record = AgentRecord(agent_id, node_id, name, interned, metadata or None, flags == FLAG_BROADCASTS)
    if len(item) == 6:
        expect_fields("AGENTS record fields", item[5])
        record.health = _read_health(item[5].get(HEALTH_KEY, ""))
        groups = item[5].get(GROUPS_KEY, ())
        if type(groups) not in (list, tuple):
            raise wrong("AGENTS groups", "a list", groups)
        record.groups, _ = known.groups.intern(tuple(groups), ProtocolError, ProtocolError)
    return record


def _read_health(health: Any) -> str:
    if type(health) is not str or _text_bytes("AGENTS health", health, ProtocolError) > HEALTH_BYTES_MAX:
        raise wrong("AGENTS health", f"a text of at most {HEALTH_BYTES_MAX} bytes", health)
    return health


def health_text(text: str | None) -> str:
    """What is told of an agent's health: at most ``HEALTH_BYTES_MAX`` bytes, and empty when it is well."""
    return (text or "").encode("utf-8", "replace")[:HEALTH_BYTES_MAX].decode("utf-8", "ignore")


def write_whole(
    owner: str,
    incarnation: int,
    version: int,
    records: Iterable[AgentRecord],
    max_bytes: int,
    head: Head | None = None,
) -> list[bytes]:
    """A list as bodies of AGENTS frames, at least one; a record larger than ``max_bytes`` goes alone."""
    parts = _cut(records, (), max_bytes)
    end = len(parts) - 1
    return [
        _body(owner, incarnation, 0, version, at == 0, at == end, part, head if at == 0 else None)
        for at, part in enumerate(parts)
    ]


def write_change(
    owner: str,
    incarnation: int,
    base: int,
    records: Iterable[AgentRecord],
    removals: Iterable[int],
    max_bytes: int,
    head_of: HeadOf = unsigned,
) -> list[bytes]:
    """A change as bodies of AGENTS frames, cut as a whole list is: each is one version more."""
    parts = enumerate(_cut(records, removals, max_bytes), base)
    return [
        _body(owner, incarnation, at, at + 1, True, True, part, head_of(at + 1, part)) for at, part in parts
    ]


def write_reminder(owner: str, incarnation: int, version: int, head: Head | None = None) -> bytes:
    """That there is this version, as the body of an AGENTS frame: a change that changes nothing."""
    return _body(owner, incarnation, version, version, True, True, ([], []), head)


def _cut(records: Iterable[AgentRecord], removals: Iterable[int], max_bytes: int) -> list[Part]:
    """Records and removals, packed, in parts that each fit a body."""
    packer = msgpack.Packer(use_bin_type=True)
    parts: list[Part] = [([], [])]
    used = HEAD_BYTES
    for half, values in enumerate((map(wire_form, records), removals)):
        for value in values:
            packed = packer.pack(value)
            used += len(packed)
            if used > max_bytes and used > HEAD_BYTES + len(packed):
                parts.append(([], []))
                used = HEAD_BYTES + len(packed)
            parts[-1][half].append(packed)
    return parts


def _body(
    owner: str,
    incarnation: int,
    base: int,
    version: int,
    first: bool,
    last: bool,
    part: Part,
    head: Head | None,
) -> bytes:
    packer = msgpack.Packer(use_bin_type=True)
    size = 8 if head is None else 9
    body = [
        packer.pack_array_header(size),
        *map(packer.pack, (owner, incarnation, base, version, first, last)),
    ]
    records, removals = part
    body += [packer.pack_array_header(len(records)), *records]
    body += [packer.pack_array_header(len(removals)), *removals]
    return b"".join(body if head is None else [*body, packer.pack({HEAD_KEY: head})])


def wire_form(record: AgentRecord) -> tuple[Any, ...]:
    """What of a record crosses the wire; equal for two records that say the same."""
    flags = FLAG_BROADCASTS if record.broadcasts else 0
    plain = record.agent_id, record.name, record.capabilities, record.metadata, flags
    if not (record.health or record.groups):
        return plain
    fields: dict[int, Any] = {HEALTH_KEY: record.health} if record.health else {}
    if record.groups:
        fields[GROUPS_KEY] = record.groups
    return (*plain, fields)


# -- PULL


def write_pulls(wanted: Sequence[tuple[str, int, int]]) -> list[bytes]:
    """Owner, incarnation and version that is held of each list, as bodies of PULL frames."""
    size = BODY_BYTES // WANTED_BYTES
    return [pack(wanted[at : at + size]) for at in range(0, len(wanted), size)]


def read_pull(body: bytes | memoryview) -> list[tuple[str, int, int]]:
    """What the body of a PULL frame asks for."""
    wanted = []
    for item in expect_list("PULL", unpack("PULL", body)):
        owner, incarnation, version = expect_list("PULL list", item, range(3, 4))
        wanted.append(
            (
                expect_name("PULL owner", owner),
                expect_int("PULL incarnation", incarnation, 0, U64_MAX),
                expect_int("PULL version", version, 0, VERSION_MAX),
            )
        )
    return wanted


# -- CONFIRM


@dataclass(frozen=True, slots=True)
class Confirm:
    """A peer's answer to a version of a node's list, for that node.

    ``conflicts``: ids that it did not take, with the node that keeps them, or "" where a limit of
    the peer's config refused them. ``last``: the version is confirmed; before that, there is more.
    """

    owner: str
    incarnation: int
    version: int
    last: bool = True
    conflicts: tuple[tuple[int, str], ...] = ()

    def encode(self) -> bytes:
        """The body of a CONFIRM frame."""
        return pack([self.owner, self.incarnation, self.version, self.last, self.conflicts])

    @classmethod
    def decode(cls, body: bytes | memoryview) -> Confirm:
        """The Confirm in the body of a CONFIRM frame."""
        values = expect_list("CONFIRM", unpack("CONFIRM", body), range(5, 6))
        owner, incarnation, version, last, items = values
        conflicts = []
        for item in expect_list("CONFIRM conflicts", items):
            agent_id, keeper = expect_list("CONFIRM conflict", item, range(2, 3))
            expect_int("CONFIRM agent id", agent_id, 1, U64_MAX)
            conflicts.append((agent_id, keeper if keeper == "" else expect_name("CONFIRM keeper", keeper)))
        return cls(
            expect_name("CONFIRM owner", owner),
            expect_int("CONFIRM incarnation", incarnation, 0, U64_MAX),
            expect_int("CONFIRM version", version, 0, VERSION_MAX),
            expect_bool("CONFIRM last", last),
            tuple(conflicts),
        )


def write_confirms(
    owner: str, incarnation: int, version: int, conflicts: list[tuple[int, str]], max_bytes: int
) -> list[bytes]:
    """The answer to a version of a list as bodies of CONFIRM frames, at least one."""
    size = max(1, max_bytes // CONFLICT_BYTES)
    parts = [tuple(conflicts[at : at + size]) for at in range(0, len(conflicts), size)] or [()]
    end = len(parts) - 1
    return [Confirm(owner, incarnation, version, at == end, part).encode() for at, part in enumerate(parts)]


# -- checks of one value


def _check_name(name: Any, agent_id: int, bad: type[NetworkError], over: type[NetworkError]) -> None:
    if type(name) is not str or not name:
        raise bad(f"agent name: expected a text, not empty, got {describe(name)}")
    size = _text_bytes("agent name", name, bad)
    if size > NAME_BYTES_MAX:
        raise over(f"agent name {describe(name)}: {size} bytes, expected at most {NAME_BYTES_MAX}")
    if agent_id_of(name) != agent_id:
        raise bad(f"agent {describe(name)}: expected the id {agent_id_of(name)}, got {agent_id}")


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
