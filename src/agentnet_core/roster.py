"""What nodes tell each other about nodes: the bodies of their frames.

MEMBERS  [record, ...]             as `member_record` describes each
PROBE    [node id]                 do you hear that node?
VOUCH    [node id, ms or nil]      it was heard so long ago; not at all
DIGEST   [digest, whether it asks] what I know comes to this
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgpack

from agentnet_core.body import (
    DEPTH_MAX,
    expect_bool,
    expect_bytes,
    expect_int,
    expect_list,
    expect_name,
    pack,
    unpack,
)
from agentnet_core.config import BODY_BYTES
from agentnet_core.framing import split_msgpack
from agentnet_core.member_record import NodeRecord, pack_record, read_record

SHARES = 128
"""Of all nodes: of each, two nodes can tell whether they hold the same."""
DIGEST_BYTES = 4 * SHARES
HEAD_BYTES = 8
"""What a MEMBERS body holds beside its records, at most."""


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


def decode_members(body: bytes | memoryview) -> list[NodeRecord]:
    """The records in the body of a MEMBERS frame."""
    return [read_record(item) for item in split_members(body)]


def split_members(body: bytes | memoryview) -> list[bytes]:
    """The records in the body of a MEMBERS frame, unread: as of `pack_record`, if they are sound."""
    items = split_msgpack(body, DEPTH_MAX)
    return expect_list("MEMBERS", unpack("MEMBERS", body)) if items is None else items


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
