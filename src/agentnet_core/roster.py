"""What nodes tell each other about nodes: one record for each, merged the same way everywhere.

MEMBERS  [[node id, incarnation, version, [address, ...]],
          [node id, incarnation, version, [address, ...], standing, [accuser, ...], [witness, ...]], ...]

The shorter form is of a node in good standing that nobody accuses.  Each may end with one number
more, the version of the node's list of agents, if it has one; and then with a map of numbered fields,
by the law of the Hello: 64 is the node's signature of id, incarnation, version and addresses, of one that
has left that of its leave; 65 its certificate; 66 is [count, digest, signature] of the list of that version.
See `signing`; who passes on what others hold already leaves out 65.

Only the node itself raises its incarnation, once each start, and its version, whenever it has news
or clears itself of an accusation.  What others say (that they cannot hear it, that its process is
gone, that it is lost) is about one version and void in the next: so a falsely accused node refutes
by raising its version, which is what SWIM (Das, Gupta, Motivala, DSN 2002) calls its incarnation;
here that is the identity of a process, and stays for its lifetime.

`merge` is a join: in any order, repeated or not, the same records give the same record.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import msgpack

from agentnet_core.body import (
    DEPTH_MAX,
    U64_MAX,
    expect_addresses,
    expect_bool,
    expect_bytes,
    expect_fields,
    expect_int,
    expect_list,
    expect_name,
    pack,
    unpack,
    unpack_checked,
)
from agentnet_core.config import BODY_BYTES, VERSION_MAX
from agentnet_core.framing import split_msgpack
from agentnet_core.member_record import read_plain
from agentnet_core.signing import Head, Seal, expect_head, read_seal, seal_fields

ACCUSERS_MAX = 8
"""Names that are kept of those who accuse: nobody asks for more."""
SHARES = 128
"""Of all nodes: of each, two nodes can tell whether they hold the same."""
DIGEST_BYTES = 4 * SHARES
HEAD_BYTES = 8
"""What a MEMBERS body holds beside its records, at most."""
HEAD_KEY = 66


class Standing(IntEnum):
    """What is held of a version of a node; the greater of two stands."""

    ALIVE = 0
    LOST = 1
    LEFT = 2


STANDINGS = tuple(Standing)
COUNTS = range(ACCUSERS_MAX + 1)


class NodeRecord(NamedTuple):
    """A node as MEMBERS tells of it. ``accusers`` do not hear it; ``witnesses``, some of them, saw its
    process end: their link was reset and their dial refused. ``listed``: the version of its agents' list.

    ``seal``: its own signature, where the network is signed and it is known; ``head``: that of its list."""

    node_id: str
    incarnation: int
    addresses: tuple[str, ...]
    version: int = 0
    standing: Standing = Standing.ALIVE
    accusers: tuple[str, ...] = ()
    witnesses: tuple[str, ...] = ()
    listed: int = 0
    seal: Seal | None = None
    head: Head | None = None

    def accused(self, by: str, *, witness: bool = False) -> NodeRecord:
        """The record with one more accuser."""
        witnesses = (by,) if witness else ()
        return merge(
            self,
            NodeRecord(
                self.node_id,
                self.incarnation,
                self.addresses,
                self.version,
                accusers=(by,),
                witnesses=witnesses,
            ),
        )

    def standing_as(self, standing: Standing) -> NodeRecord:
        """The record with what is held of it from now on."""
        return self._replace(standing=standing)

    def with_list(self, listed: int, head: Head | None) -> NodeRecord:
        """The record with another version of the node's list."""
        return self._replace(listed=listed, head=head)

    def covers(self, told: NodeRecord) -> bool:
        """Whether all that ``told`` says is in this record, where nothing is signed; False if that takes a
        `merge` to tell."""
        if self.standing is Standing.LOST:
            return told.standing is Standing.LOST and self.ends(told)
        return told[:SAID] == self[:SAID] and told.listed <= self.listed

    def ends(self, told: NodeRecord) -> bool:
        """Whether the node is lost, and what ``told`` says of it is of no later version: who else does not
        hear it matters no more."""
        if self.standing is not Standing.LOST or told.standing is Standing.LEFT:
            return False
        return (told.incarnation, told.version) <= (self.incarnation, self.version)


SAID = NodeRecord._fields.index("listed")
"""The fields before it are what is said of the node itself."""


def merge(one: NodeRecord, other: NodeRecord) -> NodeRecord:
    """What both records of a node say together."""
    if one == other:
        return one
    ages = _age(one), _age(other)
    if ages[0] != ages[1]:
        older, newer = (one, other) if ages[0] < ages[1] else (other, one)
        if older.incarnation != newer.incarnation:
            return newer
        return newer if newer.listed >= older.listed else newer.with_list(older.listed, older.head)
    # Of a linked node the addresses may be known before they are signed; the signed ones count.
    seals = [record for record in (one, other) if record.seal is not None] or [one, other]
    said = max(seals, key=lambda record: (record.addresses, record.seal or ()))
    lists = max((one, other), key=lambda record: (record.listed, record.head or ()))
    return NodeRecord(
        one.node_id,
        one.incarnation,
        said.addresses,
        one.version,
        max(one.standing, other.standing),
        _joined(one.accusers, other.accusers),
        _joined(one.witnesses, other.witnesses),
        lists.listed,
        said.seal,
        lists.head,
    )


def _age(record: NodeRecord) -> tuple[int, bool, int]:
    # Who has left comes back as a new incarnation only.
    return record.incarnation, record.standing is Standing.LEFT, record.version


def _joined(names: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    # The least of all names are the least of those kept on the way.
    if not others or names == others:
        return names
    return tuple(sorted(dict.fromkeys(names + others))[:ACCUSERS_MAX])


# -- MEMBERS


def encode_members(records: Iterable[NodeRecord], max_bytes: int = BODY_BYTES) -> list[bytes]:
    """The records as bodies of MEMBERS frames, at least one, cut at ``max_bytes``."""
    return join_members(map(pack_record, records), max_bytes)


def join_members(packed: Iterable[bytes], max_bytes: int = BODY_BYTES) -> list[bytes]:
    """As `encode_members`, of records that are packed already."""
    parts: list[list[bytes]] = [[]]
    used = HEAD_BYTES
    for record in packed:
        if parts[-1] and used + len(record) > max_bytes:
            parts.append([])
            used = HEAD_BYTES
        parts[-1].append(record)
        used += len(record)
    packer = msgpack.Packer()
    return [b"".join((packer.pack_array_header(len(part)), *part)) for part in parts]


def pack_record(record: NodeRecord, *, certified: bool = True) -> bytes:
    """One record of a MEMBERS body. ``certified``: with the node's certificate, if it has one."""
    form = wire_form(record)
    if certified and record.seal is not None:
        form[-1] = {**_sealed(record), **seal_fields(record.seal)}
    return pack(form)


def wire_form(record: NodeRecord) -> list[object]:
    """One record of a MEMBERS body, unpacked, without a certificate."""
    form: list[object] = [record.node_id, record.incarnation, record.version, list(record.addresses)]
    if record.standing is not Standing.ALIVE or record.accusers:
        form += [int(record.standing), list(record.accusers), list(record.witnesses)]
    if record.listed:
        form.append(record.listed)
    if record.seal is not None:
        form.append(_sealed(record))
    return form


def _sealed(record: NodeRecord) -> dict[int, object]:
    fields = {} if record.seal is None else seal_fields(record.seal._replace(certificate=b""))
    if record.head is not None:
        fields[HEAD_KEY] = list(record.head)
    return fields


def decode_members(body: bytes | memoryview) -> list[NodeRecord]:
    """The records in the body of a MEMBERS frame."""
    return [read_record(item) for item in split_members(body)]


def split_members(body: bytes | memoryview) -> list[bytes]:
    """The records in the body of a MEMBERS frame, unread: as of `pack_record`, if they are sound."""
    items = split_msgpack(body, DEPTH_MAX)
    return expect_list("MEMBERS", unpack("MEMBERS", body)) if items is None else items


def read_record(item: bytes) -> NodeRecord:
    """The record that an item of `split_members` is; ProtocolError if it is none."""
    plain = read_plain(item, ACCUSERS_MAX)
    if plain is not None:
        return NodeRecord(*plain[:4], STANDINGS[plain[4]], *plain[5:])
    values = expect_list("MEMBERS record", unpack_checked("MEMBERS", item))
    fields: dict[int, Any] = {}
    if values and type(values[-1]) is dict:
        fields = expect_fields("MEMBERS record fields", values.pop())
    if len(values) not in (4, 5, 7, 8):
        expect_list("MEMBERS record", values, range(4, 5))
    listed = values.pop() if len(values) in (5, 8) else 0
    node_id, incarnation, version, addresses = values[:4]
    standing, accusers, witnesses = values[4:] or (0, [], [])
    return NodeRecord(
        expect_name("MEMBERS node id", node_id),
        expect_int("MEMBERS incarnation", incarnation, 0, U64_MAX),
        expect_addresses("MEMBERS addresses", addresses),
        expect_int("MEMBERS version", version, 0, VERSION_MAX),
        STANDINGS[expect_int("MEMBERS standing", standing, 0, len(STANDINGS) - 1)],
        _read_names("MEMBERS accusers", accusers),
        _read_names("MEMBERS witnesses", witnesses),
        expect_int("MEMBERS listed", listed, 0, VERSION_MAX),
        read_seal("MEMBERS", fields),
        expect_head("MEMBERS list", fields[HEAD_KEY]) if HEAD_KEY in fields else None,
    )


def _read_names(field: str, value: object) -> tuple[str, ...]:
    names = tuple([expect_name(field, name) for name in expect_list(field, value, COUNTS)])
    return names if len(names) < 2 else tuple(sorted(dict.fromkeys(names)))


# -- PROBE, VOUCH and DIGEST


@dataclass(frozen=True, slots=True)
class Vouch:
    """The answer to a PROBE: how long ago the node was heard, None if it is not heard here."""

    node_id: str
    silent_ms: int | None

    def encode(self) -> bytes:
        return pack([self.node_id, self.silent_ms])

    @classmethod
    def decode(cls, body: bytes | memoryview) -> Vouch:
        node_id, silent_ms = expect_list("VOUCH", unpack("VOUCH", body), range(2, 3))
        if silent_ms is not None:
            expect_int("VOUCH silence", silent_ms, 0, 2**40)
        return cls(expect_name("VOUCH node id", node_id), silent_ms)


def encode_probe(node_id: str) -> bytes:
    """The body of a PROBE frame: do you hear that node?"""
    return pack([node_id])


def decode_probe(body: bytes | memoryview) -> str:
    """The node that a PROBE asks after."""
    (node_id,) = expect_list("PROBE", unpack("PROBE", body), range(1, 2))
    return expect_name("PROBE node id", node_id)


def encode_digest(digest: bytes, asks: bool) -> bytes:
    """The body of a DIGEST frame: what I know comes to this; send what you hold of the shares that differ.
    ``asks``: and your digest, if it differs."""
    return pack([digest, asks])


def decode_digest(body: bytes | memoryview) -> tuple[bytes, bool]:
    """The digest, and whether it asks for another."""
    digest, asks = expect_list("DIGEST", unpack("DIGEST", body), range(2, 3))
    sizes = range(DIGEST_BYTES, DIGEST_BYTES + 1)
    return expect_bytes("DIGEST value", digest, sizes), expect_bool("DIGEST asks", asks)
