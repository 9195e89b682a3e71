"""One run of one system at one work: start its processes, time them, stop them.

A Sample is what came of it, Samples what came of systems that are compared.  Rates run from just before
the first send to the last message's handler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory

from bench.processes import Fleet, Note, Worker, free_port, wait_listening
from bench.systems import System
from bench.worker import Task

RUN_BYTES_MAX = 2_000_000_000
"""A sender without a bound queues what it sends in memory, so a run of large messages is cut here."""


def tell_nobody(_: str) -> None:
    pass


@dataclass(frozen=True)
class Scale:
    """How much is measured in one run; ``tell`` hears which run it is, and how far a long one has come."""

    quick: bool
    tell: Callable[[str], object] = tell_nobody

    def count(self, pace: int, size: int = 64) -> int:
        """Operations that take about a second and a half, a quarter of one if quick."""
        seconds = 0.25 if self.quick else 1.5
        return max(1, int(min(pace * seconds, RUN_BYTES_MAX * seconds / size))) // 256 * 256 + 256

    def pick(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def of(self, run: str) -> Scale:
        """The same for one run, whose name goes before what it tells."""
        self.tell(run)
        return replace(self, tell=lambda text: self.tell(f"{run}: {text}"))


@dataclass(frozen=True)
class Sample:
    """``values`` by work; ``n`` operations measured; ``cores``: CPU of the busiest client process."""

    values: Mapping[str, float]
    n: int
    cores: float = 0.0


Samples = Mapping[str, Sample]
"""Of the same works, by system, in one run: ours first, then what it is held against."""


@dataclass(frozen=True)
class Lane:
    """One client and those that it talks to."""

    sender: Worker
    receivers: tuple[Worker, ...]


@contextmanager
def certificates(wanted: bool, node_ids: Iterable[str] = ("receiver-0", "sender")) -> Iterator[str]:
    """A directory with an authority and certificates of the nodes that take part; "" for plain TCP."""
    if not wanted:
        yield ""
        return
    from agentnet.certs import init_authority, issue_certificate

    with TemporaryDirectory() as directory:
        init_authority(directory, "default")
        for node_id in node_ids:
            issue_certificate(directory, "default", node_id, ["127.0.0.1"])
        yield directory


def start_lane(fleet: Fleet, system: System, task: Task, roles: tuple[str, str], receivers: int = 1) -> Lane:
    """``receivers`` processes in the first role, which share the sinks and the count; then the client."""
    part = replace(task, phases=tuple(count // receivers for count in task.phases))
    parts = [replace(part, index=index, sinks=task.sinks[index::receivers]) for index in range(receivers)]
    return Lane(
        receivers=tuple(fleet.spawn(system.module, roles[0], part) for part in parts),
        sender=fleet.spawn(system.module, roles[1], task),
    )


def share(system: System, task: Task, lanes: int, fleet: Fleet) -> list[Task]:
    """The task in ``lanes`` equal parts, each with names of its own; behind one broker if it needs one."""
    broker_port = start_broker(fleet, system) if system.broker else None
    part = replace(
        task, phases=tuple(count // lanes for count in task.phases), flight=max(1, task.flight // lanes)
    )
    return [
        replace(
            part, port=broker_port or free_port(), sinks=tuple(f"{sink}-lane-{lane}" for sink in task.sinks)
        )
        for lane in range(lanes)
    ]


def start_broker(fleet: Fleet, system: System) -> int:
    port = free_port()
    fleet.spawn(system.module, "broker", Task(port=port), ready=False)
    wait_listening(port)
    return port


def busiest_cores(spans: Iterable[tuple[Note, Note]], seconds: float) -> float:
    """CPU seconds a second of the process that spent the most between its two notes; 0 if none tells."""
    return max(
        (end.cpu - start.cpu) / seconds if start.cpu is not None and end.cpu is not None else 0.0
        for start, end in spans
    )


def oneway(
    system: System,
    scale: Scale,
    work: str,
    *,
    kind: str = "oneway",
    lanes: int = 1,
    size: int = 64,
    sinks: int = 1,
    receivers: int = 1,
    tls: bool = False,
) -> Sample:
    """Messages a second that arrive at the handlers."""
    count = scale.count(system.pace[kind], size)
    with Fleet() as fleet, certificates(tls) as directory:
        task = Task(
            size=size,
            sinks=tuple(f"sink-{number}" for number in range(sinks)),
            phases=(count // 8, count),
            certificates=directory,
        )
        started = [
            start_lane(fleet, system, part, ("receive", "send"), receivers)
            for part in share(system, task, lanes, fleet)
        ]
        arrivals: list[Note] = []
        for _ in task.phases:
            arrivals_before = arrivals
            for lane in started:
                lane.sender.go()
            starts = [lane.sender.wait("sending") for lane in started]
            arrivals = [receiver.wait("received") for lane in started for receiver in lane.receivers]
            ends = [lane.sender.wait("sent") for lane in started]
            for lane in started:
                lane.sender.wait("ready")
    elapsed = max(note.at for note in arrivals) - min(note.at for note in starts)
    spans = [*zip(starts, ends, strict=True), *zip(arrivals_before, arrivals, strict=True)]
    return Sample({work: count / elapsed}, count, busiest_cores(spans, elapsed))


def requests_in_flight(system: System, scale: Scale, work: str, *, lanes: int = 1, flight: int) -> Sample:
    """Requests answered a second, ``flight`` of them at a time."""
    count = scale.count(system.pace["flight"])
    with Fleet() as fleet:
        task = Task(phases=(count // 8, count), flight=flight)
        started = [
            start_lane(fleet, system, part, ("serve", "call")) for part in share(system, task, lanes, fleet)
        ]
        for _ in task.phases:
            for lane in started:
                lane.sender.go()
            starts = [lane.sender.wait("sending") for lane in started]
            ends = [lane.sender.wait("sent") for lane in started]
            for lane in started:
                lane.sender.wait("ready")
    elapsed = max(note.at for note in ends) - min(note.at for note in starts)
    return Sample({work: count / elapsed}, count, busiest_cores(zip(starts, ends, strict=True), elapsed))


def parts(system: System, scale: Scale, work: str, *, ends: tuple[str, str], lanes: int = 1) -> Sample:
    """Parts of one answer or one input that are read a second; ``ends``: the roles of both sides."""
    count = scale.count(system.pace["parts"])
    with Fleet() as fleet:
        task = Task(phases=(count // 8, count))
        started = [start_lane(fleet, system, part, ends) for part in share(system, task, lanes, fleet)]
        for _ in task.phases:
            for lane in started:
                lane.sender.go()
            starts = [lane.sender.wait("sending") for lane in started]
            ends = [lane.sender.wait("sent") for lane in started]
            for lane in started:
                lane.sender.wait("ready")
    elapsed = max(note.at for note in ends) - min(note.at for note in starts)
    return Sample({work: count / elapsed}, count, busiest_cores(zip(starts, ends, strict=True), elapsed))


def requests_one_by_one(system: System, scale: Scale, p50: str, p99: str) -> Sample:
    """Latency of requests, one at a time, in microseconds."""
    count = scale.count(system.pace["request"])
    with Fleet() as fleet:
        task = Task(phases=(count // 8, count))
        (task,) = share(system, task, 1, fleet)
        lane = start_lane(fleet, system, task, ("serve", "call"))
        for _ in task.phases:
            lane.sender.go()
            lane.sender.wait("sending")
            latency = lane.sender.wait("latency")
            lane.sender.wait("sent")
            lane.sender.wait("ready")
    return Sample({p50: latency.more["p50"], p99: latency.more["p99"]}, count)
