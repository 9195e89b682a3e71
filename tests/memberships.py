"""One membership alone, without a link or a clock: the test says who is linked, and who is heard."""

from __future__ import annotations

from collections.abc import Callable

from agentnet_core.config import EngineConfig
from agentnet_core.dials import Dial
from agentnet_core.member_record import NodeRecord
from agentnet_core.membership import Membership
from agentnet_core.records import NodeStatus
from agentnet_core.roster import encode_members

MS = 1_000_000
CONFIG = EngineConfig()


class Fixed:
    """Jitter without chance."""

    def __init__(self, value: float = 0.0) -> None:
        self.value = value

    def random(self) -> float:
        return self.value


class Alone(Membership):
    """Hears all that are linked, unless told otherwise, and never compares notes."""

    def tick(self, now_ns: int, heard: Callable[[str], int] | None = None) -> list[Dial]:
        return super().tick(now_ns, heard or (lambda _: now_ns))


def membership(node_id: str = "m", rng: Fixed | None = None, **limits: int) -> Alone:
    config = EngineConfig(**{"sync_interval_ms": 10**9, **limits})
    return Alone(node_id, 5, [f"tcp://{node_id}:1"], config, rng or Fixed())


def told(*node_ids: str, incarnation: int = 1) -> bytes:
    return encode_members([NodeRecord(i, incarnation, (f"tcp://{i}:1",)) for i in node_ids])[0]


def up(one: Alone, node_id: str, now_ns: int = 0, incarnation: int = 1, dial: Dial | None = None) -> None:
    one.link_up(node_id, incarnation, [f"tcp://{node_id}:1"], now_ns, dial=dial)


def next_dial_ns(one: Alone) -> int:
    """When the only node that is dialled will be, whatever else is due before."""
    (node,) = one._nodes.values()
    return node.redial.next_ns


def next_look(one: Alone) -> int:
    """When the silent are looked at again."""
    return one._look_ns


def kinds(one: Alone) -> list[tuple[str, str]]:
    return [(event.kind, event.node_id) for event in one.drain_events()]


def status(one: Alone) -> dict[str, NodeStatus]:
    return {member.node_id: member.status for member in one.members()}


def news(one: Alone) -> dict[str | None, list[NodeRecord]]:
    """What it would pass on, by who told it."""
    told: dict[str | None, list[NodeRecord]] = {}
    for node_id, tellers in one._news.tellers.items():
        told.setdefault(next(iter(tellers), None), []).append(one._record(node_id))
    one.drain_news((), 0)
    return told


def told_version(node_id: str, version: int) -> bytes:
    return encode_members([NodeRecord(node_id, 1, (f"tcp://{node_id}:1",), version)])[0]


def silence(one: Alone, *silent: str, since_ns: int = 0) -> Callable[[int], list[Dial]]:
    """A tick at which all are heard but these."""
    return lambda now: one.tick(now, lambda node_id: since_ns if node_id in silent else now)
