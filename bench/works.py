"""The table of all that is measured: figures, the runs that give them, and what they are held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Literal

from bench import delivery, limits, network, replicas, scenes, storage
from bench.scenes import Sample, Samples, Scale
from bench.systems import AGENTNET, PEERS, System, find_program

GROWTH_BYTES_MAX = 2 * 1024 * 1024
CHURN_BYTES_MAX = 64 * 1024
CHURN_BLOCKS_MAX = 1_000
"""Ten thousand connections that left one object each would be ten times as many."""
"""What a process may hold more after ten times the messages, or after connections came and went."""


@dataclass(frozen=True)
class Figure:
    """One number. ``goals``: how many times as good as that system it should be; ``limit``: or, by itself,
    what it should not pass.  Both are shown beside it and nothing fails by them."""

    work: str
    unit: str
    better: Literal["higher", "lower"]
    goals: Mapping[str, float] = field(default_factory=dict)
    limit: float | None = None


@dataclass(frozen=True)
class Match:
    """What gives one pair: ours, and the peer's after it or several baselines; or ours alone.

    ``doubled``: the same with the peer driven from two processes, for when its client is the bottleneck.
    """

    name: str
    pair: Callable[[Scale], Samples]
    doubled: Match | None = None
    missing: str | None = None


@dataclass(frozen=True)
class Scene:
    """Figures that come out of the same runs. ``pairs_max``: fewer of them than are asked for, as one takes
    minutes and looks at many nodes already."""

    figures: tuple[Figure, ...]
    matches: tuple[Match, ...]
    pairs_max: int | None = None


def beside(play: Callable[..., Sample], kind: str, *, doubled: bool = True) -> tuple[Match, ...]:
    """A match with every system that has this kind of work."""

    def pair(name: str, peer: System, lanes: Mapping[str, int], scale: Scale) -> Samples:
        return {AGENTNET.name: play(AGENTNET, scale), name: play(peer, scale, **lanes)}

    def match(peer: System) -> Match:
        name, twice = peer.name, f"{peer.name}-2p"
        both = Match(twice, partial(pair, twice, peer, {"lanes": 2})) if doubled else None
        return Match(name, partial(pair, name, peer, {}), both, peer.missing())

    return tuple(match(peer) for peer in PEERS.values() if kind in peer.pace)


def oneway(work: str, goals: Mapping[str, float], *, size: int = 64) -> Scene:
    play = partial(scenes.oneway, work=work, size=size)
    return Scene((Figure(work, "msg/s", "higher", goals),), beside(play, "oneway"))


def fanout(work: str, goals: Mapping[str, float], *, sinks: int, receivers: int) -> Scene:
    kind = "fanout"
    play = partial(scenes.oneway, work=work, kind=kind, sinks=sinks, receivers=receivers)
    return Scene((Figure(work, "msg/s", "higher", goals),), beside(play, kind))


def oneway_tls() -> Scene:
    work = "oneway-tls"

    def pair(scale: Scale) -> Samples:
        tls = scenes.oneway(AGENTNET, scale, work, tls=True)
        return {AGENTNET.name: tls, "agentnet-plain": scenes.oneway(AGENTNET, scale, work)}

    return own(pair, Figure(work, "msg/s", "higher", {"agentnet-plain": 0.75}))


def in_flight(work: str, flight: int, goals: Mapping[str, float]) -> Scene:
    play = partial(scenes.requests_in_flight, work=work, flight=flight)
    return Scene((Figure(work, "req/s", "higher", goals),), beside(play, "flight"))


def in_parts(work: str, goals: Mapping[str, float], ends: tuple[str, str]) -> Scene:
    play = partial(scenes.parts, work=work, ends=ends)
    return Scene((Figure(work, "parts/s", "higher", goals),), beside(play, "parts"))


def one_by_one() -> Scene:
    p50, p99 = "request-p50", "request-p99"
    figures = (Figure(p50, "us", "lower", {"asyncio": 1 / 1.2}), Figure(p99, "us", "lower"))
    play = partial(scenes.requests_one_by_one, p50=p50, p99=p99)
    return Scene(figures, beside(play, "request", doubled=False))


def own(pair: Callable[[Scale], Samples], *figures: Figure) -> Scene:
    """Of runs that bring what they are held against, if anything, themselves."""
    return Scene(figures, (Match(AGENTNET.name, pair),))


def once(pair: Callable[[Scale], Samples], *figures: Figure) -> Scene:
    return Scene(figures, (Match(AGENTNET.name, pair),), pairs_max=1)


def durable(flight: int, goal: float) -> Scene:
    """Entries that are on the disk before they are told to be."""
    work = f"append-durable-{flight}"
    unit, better = ("us", "lower") if flight == 1 else ("entries/s", "higher")
    missing = None if find_program("redis-benchmark") and find_program("redis-server") else "redis-server"
    match = Match("redis", partial(storage.append, work, flight), missing=missing)
    return Scene((Figure(work, unit, better, {"redis": goal}),), (match,))


def acknowledged(flight: int) -> Scene:
    """Messages that their receiver said it has processed."""
    work = f"acknowledged-{flight}"
    match = Match("nats", partial(delivery.acknowledged, work, flight), missing=PEERS["nats"].missing())
    goals = {"nats": 5.0, "jetstream": 5.0}
    return Scene((Figure(work, "msg/s", "higher", goals, limit=1_000_000),), (match,))


def kept(flight: int, goal: float) -> Scene:
    """Messages that are on their sender's disk before the send returns."""
    work = f"durable-{flight}"
    unit, better = ("us", "lower") if flight == 1 else ("msg/s", "higher")
    missing = None if find_program("redis-benchmark") and find_program("redis-server") else "redis-server"
    missing = missing or PEERS["nats"].missing()
    match = Match("redis", partial(delivery.durable, work, flight), missing=missing)
    goals = {"redis": goal} if flight == 1 else {"redis": goal, "jetstream": 10}
    return Scene((Figure(work, unit, better, goals),), (match,))


def large(work: str, nodes: int, *, tls: bool = False) -> Scene:
    """Where a node is linked to a few others."""
    return once(
        partial(network.large, work, nodes, tls),
        Figure(f"{work}-join", "s", "lower", limit=60),
        Figure(f"{work}-lost-falsely", "events", "lower", limit=0),
        Figure(f"{work}-control", "B/s a node", "lower", limit=2_000),
        Figure(f"{work}-cpu", "ms/s a node", "lower"),
        Figure(f"{work}-kill-p50", "s", "lower"),
        Figure(f"{work}-kill-p99", "s", "lower", limit=10),
        Figure(f"{work}-kill-max", "s", "lower"),
        Figure(f"{work}-kill-falsely", "events", "lower", limit=0),
    )


def small(nodes: int) -> Scene:
    """Where every node is linked to every other, or nearly."""
    work = f"network-{nodes}"
    return once(
        partial(network.small, work, nodes),
        Figure(f"{work}-kill-p99", "s", "lower", limit=1),
        Figure(f"{work}-stop-p99", "s", "lower", limit=6),
        Figure(f"{work}-blocked-cut", "events", "lower", limit=0),
        Figure(f"{work}-lost-falsely", "events", "lower", limit=0),
    )


def states() -> Scene:
    """Mergeable state beside libraries that do the same on the same keys."""
    figures = [
        figure
        for kind in ("map", "set")
        for figure in (
            Figure(f"crdt-{kind}-local", "op/s", "higher", {"loro": 2}),
            Figure(f"crdt-{kind}-merge", "el/s", "higher", {"loro": 4}),
            Figure(f"crdt-{kind}-delta", "ms", "lower", {"loro": 2}),
            Figure(f"crdt-{kind}-bytes", "B/el", "lower", {"loro": 11 / 12}, limit=12),
        )
    ]
    matches = [
        Match(peer, partial(limits.raced, "race", sinks=(peer,)), missing=None if find_spec(peer) else peer)
        for peer in ("loro", "pycrdt")
    ]
    return Scene(tuple(figures), tuple(matches))


GROUPS: dict[str, tuple[Scene, ...]] = {
    "streams": (
        in_parts("stream-parts", {"grpc": 5}, ("stream", "read")),
        in_parts("upload-parts", {"grpc": 5}, ("gather", "upload")),
    ),
    "messages": (
        oneway("oneway-64", {"zmq": 3}),
        oneway("oneway-1k", {"zmq": 2}, size=1024),
        oneway("oneway-64k", {"zmq": 1}, size=64 * 1024),
        oneway_tls(),
        one_by_one(),
        in_flight("request-64", 64, {"asyncio": 3}),
        in_flight("request-256", 256, {"asyncio": 5}),
        fanout("fanout-16", {"nats": 2}, sinks=16, receivers=4),
        own(
            limits.codec,
            Figure("codec-encode", "ns", "lower", {"msgspec": 1}),
            Figure("codec-decode", "ns", "lower", {"msgspec": 1}),
            Figure("codec-decode-read", "ns", "lower"),
        ),
        own(
            limits.idle_agents,
            Figure("idle-agents", "s", "lower", limit=1),
            Figure("idle-agents-4-peers", "s", "lower", limit=5),
            Figure("idle-agents-rss", "B", "lower", limit=700),
            Figure("idle-agents-traced", "B", "lower", limit=700),
        ),
        own(
            limits.growth,
            Figure("growth-sender", "B", "lower", limit=GROWTH_BYTES_MAX),
            Figure("growth-receiver", "B", "lower", limit=GROWTH_BYTES_MAX),
        ),
        own(
            limits.stopped_receiver,
            Figure("stopped-receiver-p99", "us", "lower", {"agentnet-none-stopped": 1 / 1.5}),
            Figure("stopped-receiver-rss", "B", "lower", limit=limits.waiting_bytes_max()),
        ),
        own(
            limits.bulk,
            Figure("bulk-p99", "us", "lower", {"agentnet-idle": 1 / 3}),
            Figure("bulk-p50", "us", "lower"),
            Figure("bulk-rate", "MB/s", "higher"),
        ),
        own(
            limits.tls_churn,
            Figure("tls-churn-held", "B", "lower", limit=CHURN_BYTES_MAX),
            Figure("tls-churn-blocks", "blocks", "lower", limit=CHURN_BLOCKS_MAX),
            Figure("tls-churn-files", "files", "lower", limit=0),
            Figure("tls-churn-rss", "B", "lower"),
        ),
    ),
    "clock": (
        own(
            partial(limits.raced, "race_clocks"),
            Figure("clock-compare", "op/s", "higher", limit=5_000_000),
            Figure("clock-merge", "op/s", "higher", limit=5_000_000),
            Figure("clock-compare-many", "clocks/s", "higher", {"dict": 20}),
        ),
        own(
            partial(limits.raced, "loop_clocks"),
            Figure("clock-compare-loop", "op/s", "higher", limit=10_000_000),
            Figure("clock-merge-loop", "op/s", "higher", limit=10_000_000),
        ),
    ),
    "crdt": (
        states(),
        own(
            partial(limits.raced, "memory"),
            Figure("crdt-map-memory", "B/el", "lower", {"dict": 0.5}),
        ),
        own(partial(limits.raced, "emptied"), Figure("crdt-map-emptied", "x empty", "lower", limit=2)),
    ),
    "network": (
        large("network", 1000),
        large("network-tls", 200, tls=True),
        small(20),
        small(100),
        own(
            partial(network.register_request, "mesh", 4, 50),
            Figure("register-request-mesh", "failures", "lower", limit=0),
        ),
        own(
            partial(network.register_request, "rings", 60, 9),
            Figure("register-request-rings", "failures", "lower", limit=0),
        ),
    ),
    "state": (
        own(
            replicas.writes,
            Figure("state-eventual-p50", "ms", "lower"),
            Figure("state-eventual-p99", "ms", "lower", limit=10),
            Figure("state-quorum-p50", "ms", "lower", limit=1),
            Figure("state-quorum-256", "writes/s", "higher", limit=20_000),
        ),
        own(
            replicas.kept,
            Figure("state-disk-p50", "ms", "lower"),
            Figure("state-disk-256", "writes/s", "higher"),
        ),
        once(
            replicas.heal,
            Figure("state-heal", "s", "lower", limit=2),
            Figure("state-heal-bytes", "% of all", "lower", limit=1),
        ),
    ),
    "delivery": (
        acknowledged(1024),
        kept(1, 1),
        kept(256, 2),
        kept(1024, 1.5),
        own(
            partial(delivery.restart, "restart-1m"),
            Figure("restart-1m-serving", "s", "lower", limit=10),
            Figure("restart-1m-first", "s", "lower", limit=10),
        ),
    ),
    "storage": (
        durable(1, 1),
        durable(256, 2),
        durable(1024, 1.5),
        own(partial(storage.recover, "recover-1m"), Figure("recover-1m", "s", "lower", limit=10)),
    ),
}
