"""What nodes say to each other of broadcasts: the frames of the tree, and their bodies.

GOSSIP  [origin, incarnation, sequence, hops, age in ms, whether it shapes the tree, payload, {seal}]
IHAVE   [[origin, incarnation, sequence], ...]   announced: ask, if it does not come otherwise
GRAFT   [[origin, incarnation, sequence], ...]   send these, and what comes after them
PRUNE   []                                       announce what comes after this, do not send it
GONE    [[origin, incarnation, sequence], ...]   the answer to a GRAFT of what is kept no more

What is in a frame is checked as it is read; what that means is for `tree`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from agentnet_core.body import (
    DEPTH_MAX,
    U64_MAX,
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
from agentnet_core.config import BODY_BYTES, BROADCAST_BYTES
from agentnet_core.framing import split_msgpack
from agentnet_core.signing import Seal, read_seal, seal_fields

GOSSIP, IHAVE, GRAFT, PRUNE, GONE = range(24, 29)

CHANGES, MESSAGES, STATES = 1, 2, 3
"""What the first byte of a payload says: a change of a list of agents, as in an AGENTS frame; a user's
message, as in a MESSAGE frame; changes of states, as in a STATE frame."""

HOPS_MAX = 255
"""Where hops are counted no further."""
ID_BYTES = 96
"""What an id takes in a body, at most."""
IDS_MAX = BODY_BYTES // ID_BYTES
"""Ids in one frame; the rest goes into the next."""


class BroadcastId(NamedTuple):
    """``sequence``: the origin's broadcasts in that incarnation, from 1."""

    origin: str
    incarnation: int
    sequence: int


class Gossip(NamedTuple):
    """A broadcast. ``hops``: links that it has crossed when it arrives. ``age_ms``: how long it has rested
    on nodes, for its time to live. ``shapes``: whether it may prune links. ``seal``: its origin's, if any."""

    broadcast: BroadcastId
    hops: int
    age_ms: int
    shapes: bool
    payload: bytes
    seal: Seal | None = None


@dataclass(frozen=True, slots=True)
class Ihave:
    broadcasts: tuple[BroadcastId, ...]


@dataclass(frozen=True, slots=True)
class Graft:
    broadcasts: tuple[BroadcastId, ...]


@dataclass(frozen=True, slots=True)
class Prune:
    pass


@dataclass(frozen=True, slots=True)
class Gone:
    broadcasts: tuple[BroadcastId, ...]


Frame = Gossip | Ihave | Graft | Prune | Gone


# -- the wire

NONE_KNOWN: Mapping[bytes, BroadcastId] = MappingProxyType({})


def encode(frame: Frame) -> tuple[int, bytes]:
    """Kind and body of the frame."""
    match frame:
        case Gossip(broadcast, hops, age_ms, shapes, payload, seal):
            said = [*broadcast, hops, age_ms, shapes, payload]
            return GOSSIP, pack(said if seal is None else [*said, seal_fields(seal)])
        case Ihave(broadcasts):
            return IHAVE, pack(broadcasts)
        case Graft(broadcasts):
            return GRAFT, pack(broadcasts)
        case Gone(broadcasts):
            return GONE, pack(broadcasts)
        case Prune():
            return PRUNE, pack([])


def decode(kind: int, body: bytes | memoryview, known: Mapping[bytes, BroadcastId] = NONE_KNOWN) -> Frame:
    """The frame that a body of one of these kinds is; ProtocolError if it is none.

    ``known``: ids by their bytes, as of `pack_id`, that need not be read.
    """
    if kind == GOSSIP:
        values = expect_list("GOSSIP", unpack("GOSSIP", body), range(7, 9))
        *broadcast, hops, age_ms, shapes, payload = values[:7]
        return Gossip(
            _read_id("GOSSIP", broadcast),
            expect_int("GOSSIP hops", hops, 1, HOPS_MAX),
            expect_int("GOSSIP age_ms", age_ms, 0, U64_MAX),
            expect_bool("GOSSIP shapes", shapes),
            expect_bytes("GOSSIP payload", payload, range(BROADCAST_BYTES + 1)),
            read_seal("GOSSIP", expect_fields("GOSSIP fields", values[7])) if values[7:] else None,
        )
    if kind == PRUNE:
        expect_list("PRUNE", unpack("PRUNE", body), range(1))
        return Prune()
    what, build = _LISTS[kind]
    items = split_msgpack(body, DEPTH_MAX)
    if items is None:
        items = expect_list(what, unpack(what, body))
    frame: Frame = build(tuple(known.get(i) or _read_id(what, unpack_checked(what, i)) for i in items))
    return frame


def pack_id(broadcast: BroadcastId) -> bytes:
    """The id as it is in the body of a frame of ids."""
    return pack(broadcast)


_LISTS: dict[int, tuple[str, Any]] = {IHAVE: ("IHAVE", Ihave), GRAFT: ("GRAFT", Graft), GONE: ("GONE", Gone)}


def _read_id(what: str, item: object) -> BroadcastId:
    origin, incarnation, sequence = expect_list(f"{what} broadcast", item, range(3, 4))
    return BroadcastId(
        expect_name(f"{what} origin", origin),
        expect_int(f"{what} incarnation", incarnation, 0, U64_MAX),
        expect_int(f"{what} sequence", sequence, 1, U64_MAX),
    )
