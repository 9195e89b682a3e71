"""Runs of deliveries: acknowledged ones beside requests of a broker, durable ones beside Redis Streams."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import scenes, storage
from bench.processes import Fleet
from bench.scenes import Sample, Samples, Scale
from bench.systems import AGENTNET, PEERS, System

DELIVERY = System(AGENTNET.name, "bench.agentnet_delivery", {"flight": 200_000})
PACE = {1: 1_500, 256: 60_000, 1024: 80_000}


def acknowledged(work: str, flight: int, scale: Scale) -> Samples:
    """Messages a second that the other side said it has processed, ``flight`` at a time."""
    nats = PEERS["nats"]
    return {
        DELIVERY.name: scenes.requests_in_flight(DELIVERY, scale, work, flight=flight),
        nats.name: scenes.requests_in_flight(nats, scale, work, flight=flight),
    }


def durable(work: str, flight: int, scale: Scale) -> Samples:
    """Messages a second that are on the sender's disk; the median delay in us if it is one by one."""
    ours = run_ours(work, flight, scale)
    seconds = storage.run_redis(flight, ours.n)
    redis = seconds * 1e6 if flight == 1 else flight / seconds
    return {DELIVERY.name: ours, "redis": Sample({work: redis}, ours.n)}


def run_ours(work: str, flight: int, scale: Scale) -> Sample:
    system = replace(DELIVERY, pace={"flight": PACE[flight], "request": PACE[flight]})
    with TemporaryDirectory(dir=Path.cwd()) as directory, Fleet() as fleet:
        count = scale.count(PACE[flight]) // flight * flight or flight
        task = scenes.Task(phases=(count // 8 or 1, count), flight=flight, directory=directory)
        (task,) = scenes.share(system, task, 1, fleet)
        lane = scenes.start_lane(fleet, system, task, ("serve", "call"))
        for _ in task.phases:
            lane.sender.go()
            start = lane.sender.wait("sending")
            p50 = lane.sender.wait("latency").more["p50"] if flight == 1 else 0.0
            end = lane.sender.wait("sent")
            lane.sender.wait("ready")
    return Sample({work: p50 if flight == 1 else count / (end.at - start.at)}, count)
