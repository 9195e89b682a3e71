"""Runs at agentnet's own limits, and of its codec; what the workers do is in agentnet_limits and codec.

Each returns Samples as scenes does; two of them where one process measures both sides of a pair.
"""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import median

from bench.processes import Fleet, free_port
from bench.scenes import Sample, Scale, certificates, start_lane
from bench.systems import AGENTNET
from bench.worker import Task

LIMITS = "bench.agentnet_limits"
SETTLE_SECONDS = 1.0
"""Between the last message and a look at memory: acknowledgements and closed sockets are on their way."""


def codec(scale: Scale) -> tuple[Sample, Sample]:
    """Nanoseconds a message, ours and msgspec's."""
    passes = scale.pick(full=50, quick=10)
    with Fleet() as fleet:
        racer = fleet.spawn("bench.codec", "race", Task(phases=(2, passes)))
        for _ in range(2):
            racer.go()
            racer.wait("sending")
            rounds = racer.wait("raced").more["rounds"]
            racer.wait("sent")
            racer.wait("ready")
    ours, theirs = (
        Sample({work: median(systems[system]) for work, systems in rounds.items()}, passes * 1000)
        for system in ("agentnet", "msgspec")
    )
    return ours, theirs


def idle_agents(scale: Scale) -> Sample:
    """Seconds to register, bytes that each holds; alone, then with four peers that have to learn of them."""
    count = scale.pick(full=100_000, quick=10_000)
    task = Task(phases=(count,))
    alone = registered("register", task)
    traced = registered("register_traced", task)
    beside = registered("register", task, peers=4)
    values = {
        "idle-agents": alone["seconds"],
        "idle-agents-4-peers": beside["seconds"],
        "idle-agents-rss": alone["bytes_each"],
        "idle-agents-traced": traced["bytes_each"],
    }
    return Sample(values, count)


def registered(role: str, task: Task, peers: int = 0) -> dict[str, float]:
    task = replace(task, port=free_port())
    with Fleet() as fleet:
        for index in range(peers):
            fleet.spawn(LIMITS, "node", replace(task, index=index))
        worker = fleet.spawn(LIMITS, role, replace(task, index=peers))
        worker.go()
        return worker.wait("registered").more


def growth(scale: Scale) -> Sample:
    """What both processes of a pair hold more after ten times as many messages."""
    first = scale.pick(full=1_000_000, quick=100_000)
    with Fleet() as fleet:
        task = Task(port=free_port(), phases=(first, 9 * first))
        lane = start_lane(fleet, AGENTNET, task, ("receive", "send"))
        held = []
        for _ in task.phases:
            lane.sender.go()
            lane.sender.wait("sending")
            lane.receivers[0].wait("received")
            lane.sender.wait("sent")
            lane.sender.wait("ready")
            time.sleep(SETTLE_SECONDS)
            held.append((lane.sender.rss_bytes(), lane.receivers[0].rss_bytes()))
    (sender_before, receiver_before), (sender_after, receiver_after) = held
    values = {
        "growth-sender": sender_after - sender_before,
        "growth-receiver": receiver_after - receiver_before,
    }
    return Sample(values, 10 * first)


def stopped_receiver(scale: Scale) -> tuple[Sample, Sample]:
    """p99 of 99 neighbours behind the link of a stopped agent, and without one; what its sender holds."""
    count = scale.pick(full=20_000, quick=2_000)
    with Fleet() as fleet:
        task = Task(port=free_port(), phases=(count // 8, count))
        for index in range(2):
            fleet.spawn(LIMITS, "stop_one", replace(task, index=index))
        sender = fleet.spawn(LIMITS, "press", task)
        sender.go()
        pressed = sender.wait("pressed").more
    with_stopped = {"stopped-receiver-p99": pressed["with_stopped"], "stopped-receiver-rss": pressed["held"]}
    return Sample(with_stopped, count), Sample({"stopped-receiver-p99": pressed["without"]}, count)


def bulk(scale: Scale) -> tuple[Sample, Sample]:
    """p99 of requests while a gigabyte moves between the same two nodes, and idle."""
    count, chunks = scale.pick(full=10_000, quick=1_000), scale.pick(full=64, quick=8)
    with Fleet() as fleet:
        task = Task(port=free_port(), phases=(count // 8, count, chunks))
        fleet.spawn(LIMITS, "store", task)
        sender = fleet.spawn(LIMITS, "move", task)
        sender.go()
        moved = sender.wait("moved").more
    busy = {"bulk-p99": moved["beside"], "bulk-rate": moved["rate"] / 1e6}
    return Sample(busy, moved["requests"]), Sample({"bulk-p99": moved["idle"]}, count)


def tls_churn(scale: Scale) -> Sample:
    """What a node holds more, in bytes and open files, after connections came and went."""
    count = scale.pick(full=10_000, quick=300)
    with Fleet() as fleet, certificates(True) as directory:
        task = Task(port=free_port(), phases=(count // 4, count), certificates=directory)
        node = fleet.spawn(LIMITS, "node", task)
        client = fleet.spawn(LIMITS, "churn", task, ready=False)
        held = []
        for _ in task.phases:
            client.wait("ready")
            client.go()
            client.wait("sending")
            client.wait("sent", seconds=600)
            time.sleep(SETTLE_SECONDS)
            held.append((node.rss_bytes(), node.open_files()))
    (bytes_before, files_before), (bytes_after, files_after) = held
    values = {"tls-churn-rss": bytes_after - bytes_before, "tls-churn-files": files_after - files_before}
    return Sample(values, count)
