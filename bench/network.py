"""Runs of networks of many nodes, in few processes on loopback; what those do is in agentnet_network.

Each returns Samples.  Seconds run from when a process was killed, stopped, or told to begin, to when the
last node knew; a share of them is taken over all pairs of a node that lives and one that does not.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from bench.limits import ours
from bench.processes import Fleet, Note, RunFailed, Worker, free_port
from bench.scenes import Samples, Scale, certificates
from bench.worker import Task

NETWORK = "bench.agentnet_network"
PROCESSES = 4
FILES_A_NODE = 40
"""Its listener, its liveness ports, and its ends of links: to neighbours on the rings, and for a while to
those that keep its agents."""
START_SECONDS_MAX = 300.0
ASK_SECONDS_MAX = 1_800.0
WATCH_SECONDS = 60
"""A node that was not known to be lost by then counts as if it became known then."""


def large(work: str, nodes: int, tls: bool, scale: Scale) -> Samples:
    """Of so many nodes that none is linked to all: how long until all have joined and agree; what they cost
    while nothing happens, and whom they take for lost then; how long until a quarter that died is known to
    all others. Under TLS each has a certificate and signs its records."""
    nodes, seconds = scale.pick(full=nodes, quick=60), scale.pick(full=300, quick=10)
    files(nodes)
    counts = tuple(len(range(index, nodes, PROCESSES)) for index in range(PROCESSES))
    task = Task(counts=counts, phases=(WATCH_SECONDS,), mesh_nodes_max=min(50, nodes // 2))
    node_ids = [node_id for index in range(PROCESSES) for node_id in names(task, index)]
    with Fleet() as fleet, certificates(tls, node_ids) as directory:
        workers = start(fleet, with_ports(replace(task, certificates=directory)), PROCESSES)
        joined = join(scale, workers)
        calm = rest(scale, workers, nodes, seconds)
        scale.tell("one process in four dies")
        died = watch(workers[:-1], workers[-1].stop)
    values = {
        "join": joined,
        **calm,
        "kill-p50": share(died.seconds, 0.5),
        "kill-p99": share(died.seconds, 0.99),
        "kill-max": share(died.seconds, 1),
        "kill-falsely": died.others,
    }
    return ours({f"{work}-{what}": value for what, value in values.items()}, nodes)


def small(work: str, nodes: int, scale: Scale) -> Samples:
    """Of so many nodes, some alone in their process: those are killed, stopped, or stand for a while."""
    kills, stops, seconds = scale.pick(5, 1), scale.pick(3, 1), scale.pick(20, 5)
    alone = kills + stops + 1
    crowded = max(2, (nodes if not scale.quick else min(nodes, 20)) - alone)
    files(crowded)
    counts = (math.ceil(crowded / 2), crowded // 2, *(1,) * alone)
    rounds = (WATCH_SECONDS,) * (kills + stops) + (seconds + 3,)
    with Fleet() as fleet:
        task = with_ports(Task(counts=counts, phases=rounds))
        crowds = start(fleet, task, 2)
        lone = [
            fleet.spawn(NETWORK, "lone", replace(task, index=index, phases=(seconds,)))
            for index in range(2, len(counts))
        ]
        join(scale, crowds)
        calm = rest(scale, crowds, nodes, 1)
        killed, stopped = [], []
        for number in range(kills):
            scale.tell(f"{number + 1} of {kills} dies")
            killed.append(watch(crowds, lone.pop().stop))
        for number in range(stops):
            scale.tell(f"{number + 1} of {stops} is stopped")
            stopped.append(watch(crowds, lone.pop().pause))
        scale.tell("one stands")
        stood = watch(crowds, lone.pop().go)
    values = {
        f"{work}-kill-p99": share([s for each in killed for s in each.seconds], 0.99),
        f"{work}-stop-p99": share([s for each in stopped for s in each.seconds], 0.99),
        f"{work}-blocked-cut": stood.cut,
        f"{work}-lost-falsely": calm["lost-falsely"]
        + sum(each.others for each in (*killed, *stopped, stood)),
    }
    return ours(values, crowded + alone)


def register_request(kind: str, nodes: int, mesh_nodes_max: int, scale: Scale) -> Samples:
    """Failures of requests that another node makes as soon as an agent is registered."""
    count, work = scale.pick(full=10_000, quick=50), f"register-request-{kind}"
    nodes = max(4, scale.pick(full=nodes, quick=nodes))
    with Fleet() as fleet:
        task = with_ports(Task(counts=(nodes,), phases=(count,), mesh_nodes_max=mesh_nodes_max))
        (worker,) = start(fleet, task, 1, "register_request")
        worker.go()
        worker.wait("ready", START_SECONDS_MAX)
        worker.go()
        worker.wait("sending")
        asked = worker.wait("asked", ASK_SECONDS_MAX).more
    for failure in asked["first"]:
        scale.tell(f"the first of {asked['failed']} failures: {failure}")
    return ours({work: asked["failed"]}, count)


# -- steps


def files(nodes: int) -> None:
    """Let each process open as many files as its share of the nodes may need."""
    needed = FILES_A_NODE * math.ceil(nodes / PROCESSES) + 100
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise RunFailed(NETWORK, f"{hard} open files a process: {nodes} nodes need {needed} (ulimit -Hn)")
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def names(task: Task, index: int) -> list[str]:
    """Of the nodes of that process."""
    return [f"node-{index}-{number}" for number in range(task.counts[index])]


def with_ports(task: Task) -> Task:
    return replace(task, ports=tuple(free_port() for _ in task.counts))


def start(fleet: Fleet, task: Task, processes: int, role: str = "crowd") -> list[Worker]:
    """The first of the task's processes, each with its first node."""
    return [fleet.spawn(NETWORK, role, replace(task, index=index)) for index in range(processes)]


def join(scale: Scale, workers: Sequence[Worker]) -> float:
    """Seconds until all nodes have joined and agree."""
    begin = time.monotonic()
    for worker in workers:
        worker.go()
    for number, worker in enumerate(workers, 1):
        worker.wait("joined", START_SECONDS_MAX)
        scale.tell(f"{number} of {len(workers)} processes have joined")
    agreed = [worker.wait("agreed", START_SECONDS_MAX).at for worker in workers]
    return max(agreed) - begin


def rest(scale: Scale, workers: Sequence[Worker], nodes: int, seconds: int) -> dict[str, float]:
    """What the nodes receive and compute while nothing happens, and how many they take for lost."""
    starts = step(workers, "resting")
    for passed in range(seconds):
        scale.tell(f"{passed} of {seconds} s of rest")
        time.sleep(1)
    ends = step(workers, "rested")
    elapsed = max(note.at for note in ends) - max(note.at for note in starts)
    received = sum(note.more["bytes"] for note in ends) - sum(note.more["bytes"] for note in starts)
    cpu = sum(note.cpu or 0 for note in ends) - sum(note.cpu or 0 for note in starts)
    return {
        "lost-falsely": sum(note.more["lost"] for note in ends),
        "control": received / elapsed / nodes,
        "cpu": 1000 * cpu / elapsed / nodes,
    }


def step(workers: Sequence[Worker], what: str) -> list[Note]:
    for worker in workers:
        worker.wait("ready", START_SECONDS_MAX)
        worker.go()
    return [worker.wait(what) for worker in workers]


class Watched:
    """What the nodes of some processes saw: ``seconds`` until each knew who was lost, sorted; how many had
    a link ``cut`` or said that they were lost; how many ``others`` they took for lost."""

    def __init__(self, notes: Sequence[Note], since: float) -> None:
        self.seconds = sorted(at - since for note in notes for at in note.more["times"])
        self.cut: int = sum(note.more["cut"] for note in notes)
        self.others: int = sum(note.more["others"] for note in notes)


def watch(workers: Sequence[Worker], harm: Callable[[], object]) -> Watched:
    """Do something to a process; what the others see of it."""
    step(workers, "watching")
    since = time.monotonic()
    harm()
    return Watched([worker.wait("watched", WATCH_SECONDS + 60) for worker in workers], since)


def share(seconds: Sequence[float], of: float) -> float:
    """What that share of them does not exceed."""
    return sorted(seconds)[min(len(seconds) - 1, int(len(seconds) * of))]
