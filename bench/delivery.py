"""Runs of deliveries: acknowledged ones beside requests of a broker and JetStream in memory; durable ones
beside Redis Streams and JetStream in files, which sync before they answer.

JetStream and Redis acknowledge what is stored; ours is processed by another process as well.  Rates are of
whole runs.  Each keeps its messages in flight in the way that is its fastest: ours and JetStream from one
task that holds what its sends returned, NATS a task for each request, Redis by pipelines of its own client.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from bench import scenes, storage
from bench.processes import Fleet, free_port, wait_listening
from bench.scenes import Sample, Samples, Scale
from bench.systems import AGENTNET, PEERS, System
from bench.worker import Task

DELIVERY = System(AGENTNET.name, "bench.agentnet_delivery", {"flight": 200_000})
TASKS = f"{AGENTNET.name}-tasks"
"""The same from as many tasks as messages are in flight, each of which awaits its own."""
JETSTREAM = "bench.peers.jetstream"
ACKNOWLEDGED_PACE, MEMORY_PACE = 400_000, 20_000
PACE = {1: 1_500, 256: 100_000, 1024: 150_000}
FILE_PACE = {1: 500, 256: 3_000, 1024: 4_000}


def acknowledged(work: str, flight: int, scale: Scale) -> Samples:
    """Messages a second that the other side said it has processed, ``flight`` at a time."""
    nats = PEERS["nats"]
    return {
        DELIVERY.name: run_ours(work, flight, scale.count(ACKNOWLEDGED_PACE)),
        TASKS: scenes.requests_in_flight(DELIVERY, scale, work, flight=flight),
        nats.name: scenes.requests_in_flight(nats, scale, work, flight=flight),
        "jetstream": run_jetstream(work, flight, scale.count(MEMORY_PACE)),
    }


def durable(work: str, flight: int, scale: Scale) -> Samples:
    """Messages a second that are on the sender's disk; the median delay in us if it is one by one."""
    count = scale.count(PACE[flight]) // flight * flight or flight
    redis = storage.benchmark_redis(flight, count)
    return {
        DELIVERY.name: run_ours(work, flight, count, on_disk=True),
        "redis": Sample({work: redis["p50"] * 1e6 if flight == 1 else redis["rate"]}, count),
        "jetstream": run_jetstream(work, flight, scale.count(FILE_PACE[flight]), on_disk=True),
    }


def run_ours(work: str, flight: int, count: int, *, on_disk: bool = False) -> Sample:
    with TemporaryDirectory(dir=Path.cwd()) as directory, Fleet() as fleet:
        phases = (max(count // 8, flight), count)
        task = Task(phases=phases, flight=flight, directory=directory if on_disk else "")
        (task,) = scenes.share(DELIVERY, task, 1, fleet)
        sending = "call" if flight == 1 else "pour"
        return play(work, task, scenes.start_lane(fleet, DELIVERY, task, ("serve", sending)))


def run_jetstream(work: str, flight: int, count: int, *, on_disk: bool = False) -> Sample:
    with TemporaryDirectory(dir=Path.cwd()) as directory, Fleet() as fleet:
        port = free_port()
        fleet.spawn(JETSTREAM, "broker", Task(port=port, directory=directory), ready=False)
        wait_listening(port)
        phases = (max(count // 8, flight), count)
        task = Task(port=port, phases=phases, flight=flight, directory=directory if on_disk else "")
        return play(work, task, scenes.Lane(fleet.spawn(JETSTREAM, "publish", task), ()))


def play(work: str, task: Task, lane: scenes.Lane) -> Sample:
    """Let the sender go through its phases; the rate of the last one, or its median delay in us."""
    p50 = 0.0
    for _ in task.phases:
        lane.sender.go()
        start = lane.sender.wait("sending")
        if task.flight == 1:
            p50 = lane.sender.wait("latency").more["p50"]
        end = lane.sender.wait("sent")
        lane.sender.wait("ready")
    count, elapsed = task.phases[-1], end.at - start.at
    cores = scenes.busiest_cores([(start, end)], elapsed)
    return Sample({work: p50 if task.flight == 1 else count / elapsed}, count, cores)


def restart(work: str, scale: Scale) -> Samples:
    """Seconds until a node that was killed serves again, and until the first of the messages that it keeps
    for an agent is handled by that."""
    count = scale.pick(full=1_000_000, quick=20_000)
    with TemporaryDirectory(dir=Path.cwd()) as directory:
        task = Task(port=free_port(), directory=directory, phases=(count,), flight=1024)
        with Fleet() as fleet:
            fleet.spawn(DELIVERY.module, "keep", task, ready=False).wait("kept", seconds=300)
        with Fleet() as fleet:
            worker = fleet.spawn(DELIVERY.module, "restart", task)
            worker.go()
            told = worker.wait("restarted", seconds=300).more
    if told["letters"] != count:
        raise ValueError(f"{told['letters']} of {count} messages were found again")
    figures = {f"{work}-serving": told["serving"], f"{work}-first": told["first"]}
    return {DELIVERY.name: Sample(figures, count)}
