"""Runs of logs on the disk of this machine: ours beside Redis Streams, which answers when it has synced too.

A rate is the entries in flight over the median of their delays: disks stall, and what others do to the same
disk would decide a rate over a whole run.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.limits import ours
from bench.processes import Fleet, free_port, wait_listening
from bench.scenes import Sample, Samples, Scale
from bench.systems import AGENTNET
from bench.worker import Task

STORAGE, REDIS = "bench.agentnet_storage", "bench.peers.redis_streams"
PACE = {1: 1_000, 256: 20_000, 1024: 60_000}
"""Entries a second on a busy small machine, by how many are in flight: it sizes a run, nothing else."""
SIZE = 64


def append(work: str, flight: int, scale: Scale) -> Samples:
    """Entries a second that are on the disk, ``flight`` at a time; the median of their delays in us if 1."""
    count = scale.count(PACE[flight]) // flight * flight or flight
    values = {AGENTNET.name: run_ours(flight, count), "redis": benchmark_redis(flight, count)["p50"]}
    return {
        system: Sample({work: seconds * 1e6 if flight == 1 else flight / seconds}, count)
        for system, seconds in values.items()
    }


def run_ours(flight: int, count: int) -> float:
    with TemporaryDirectory(dir=Path.cwd()) as directory, Fleet() as fleet:
        return append_all(fleet, STORAGE, Task(directory=directory, flight=flight), count)["p50"]


def benchmark_redis(flight: int, count: int) -> dict[str, float]:
    """``p50`` of the delays in seconds, and the ``rate`` of the whole run, a second."""
    with TemporaryDirectory(dir=Path.cwd()) as directory, Fleet() as fleet:
        task = Task(port=free_port(), directory=directory, flight=flight)
        fleet.spawn(REDIS, "broker", task, ready=False)
        wait_listening(task.port)
        return append_all(fleet, REDIS, task, count)


def append_all(fleet: Fleet, module: str, task: Task, count: int) -> dict[str, float]:
    """What the appender tells of its last phase."""
    told: dict[str, float] = {}
    phases = (count // 8 // task.flight * task.flight or task.flight, count)
    worker = fleet.spawn(module, "append", replace(task, phases=phases))
    for _ in phases:
        worker.go()
        worker.wait("sending")
        told = worker.wait("appended").more
        worker.wait("sent")
        worker.wait("ready")
    return told


def recover(work: str, scale: Scale) -> Samples:
    """Seconds until a log is open and every live entry of it was read."""
    count = scale.pick(full=1_000_000, quick=50_000)
    with TemporaryDirectory(dir=Path.cwd()) as directory, Fleet() as fleet:
        task = Task(directory=directory, phases=(count,), size=SIZE)
        worker = fleet.spawn(STORAGE, "recover", task, ready=False)
        worker.wait("ready", seconds=300)
        worker.go()
        told = worker.wait("recovered").more
    if told["found"] != count:
        raise ValueError(f"{told['found']} of {count} entries were found again")
    return ours({work: told["seconds"]}, count)
