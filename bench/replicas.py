"""Runs of states on several nodes; what the workers do is in agentnet_states."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory

from bench.processes import Fleet, free_port
from bench.scenes import Sample, Samples, Scale
from bench.systems import AGENTNET
from bench.worker import Task

STATES = "bench.agentnet_states"
NODES = 5


def writes(scale: Scale) -> Samples:
    """Five nodes, each in a process: how old an update is on the others, and writes that a majority has."""
    phases = (scale.pick(1000, 200), scale.pick(3000, 500), scale.pick(60_000, 10_000))
    ages, times, rate = written(phases, "")
    values = {
        "state-eventual-p50": median(ages) / 1e6,
        "state-eventual-p99": quantiles(ages, n=100)[98] / 1e6,
        "state-quorum-p50": median(times) / 1e6,
        "state-quorum-256": rate,
    }
    return {AGENTNET.name: Sample(values, phases[2])}


def kept(scale: Scale) -> Samples:
    """Likewise of writes that a majority has on disk."""
    phases = (1, scale.pick(2000, 200), scale.pick(40_000, 2_000))
    with TemporaryDirectory(dir=Path.cwd()) as directory:
        _, times, rate = written(phases, directory)
    values = {"state-disk-p50": median(times) / 1e6, "state-disk-256": rate}
    return {AGENTNET.name: Sample(values, phases[2])}


def written(phases: tuple[int, int, int], directory: str) -> tuple[list[int], list[int], float]:
    """Ages of updates and times of writes in nanoseconds, and writes a second with 256 of them in flight."""
    task = Task(port=free_port(), counts=(1,) * NODES, flight=256, phases=phases, directory=directory)
    with Fleet() as fleet:
        writer = fleet.spawn(STATES, "write", task)
        holders = [fleet.spawn(STATES, "hold", replace(task, index=index)) for index in range(1, NODES)]
        writer.go()
        writer.wait("updated")
        ages: list[int] = []
        for holder in holders:
            holder.go()
            ages += holder.wait("seen").more["ages"]
        writer.wait("ready")
        writer.go()
        times = writer.wait("written").more["times"]
        writer.wait("ready")
        writer.go()
        flown = writer.wait("flown")
    return ages, times, phases[2] / flown.more["seconds"]


def heal(scale: Scale) -> Samples:
    """Two nodes of very many keys that differ in a hundred."""
    keys = scale.pick(1_000_000, 100_000)
    with Fleet() as fleet:
        healer = fleet.spawn(STATES, "heal", Task(phases=(keys,)), ready=False)
        healed = healer.wait("healed")
    values = {"state-heal": healed.more["seconds"], "state-heal-bytes": healed.more["share"]}
    return {AGENTNET.name: Sample(values, keys)}
