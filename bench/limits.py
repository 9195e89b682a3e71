"""Runs at agentnet's own limits, and of its codec; what the workers do is in agentnet_limits and codec.

Each returns Samples: ours, and where the same run measures what ours is held against, that as well.
"""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import median

from agentnet.link import LINGER_S
from agentnet_core.config import OPTIONAL_BYTES_MAX, EngineConfig
from bench.agentnet_limits import FLOOD_BYTES
from bench.processes import Fleet, Worker, free_port
from bench.scenes import Sample, Samples, Scale, certificates, start_lane
from bench.systems import AGENTNET
from bench.worker import Task

LIMITS = "bench.agentnet_limits"
SETTLE_SECONDS = 1.0
"""Between the last message and a look at memory: acknowledgements are on their way."""
CLOSE_SECONDS_MAX = 10.0
"""How long connections may take to close; those that are open then count as residue."""
CHURN_STEPS = 60
"""Turns in which connections come and go, a third of them before the first look at memory."""


def ours(values: dict[str, float], count: int) -> Samples:
    return {AGENTNET.name: Sample(values, count)}


def codec(scale: Scale) -> Samples:
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
    return {
        system: Sample({work: median(systems[system]) for work, systems in rounds.items()}, passes * 1000)
        for system in (AGENTNET.name, "msgspec")
    }


def raced(role: str, scale: Scale, sinks: tuple[str, ...] = ()) -> Samples:
    """What a role of bench.states told of its second phase; the first is the warm-up."""
    count = scale.pick(full=100_000, quick=10_000)
    with Fleet() as fleet:
        racer = fleet.spawn("bench.states", role, Task(phases=(count, count), sinks=sinks))
        for _ in range(2):
            racer.go()
            racer.wait("sending")
            values = racer.wait("raced").more["values"]
            racer.wait("sent")
            racer.wait("ready")
    return {system: Sample(each, count) for system, each in values.items()}


def idle_agents(scale: Scale) -> Samples:
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
    return ours(values, count)


def registered(role: str, task: Task, peers: int = 0) -> dict[str, float]:
    task = replace(task, port=free_port())
    with Fleet() as fleet:
        for index in range(peers):
            fleet.spawn(LIMITS, "node", replace(task, index=index))
        worker = fleet.spawn(LIMITS, role, replace(task, index=peers))
        worker.go()
        return worker.wait("registered").more


def growth(scale: Scale) -> Samples:
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
    return ours(values, 10 * first)


def waiting_bytes_max() -> int:
    """What the config lets a sender hold for one stopped agent: the sends that wait, and one window."""
    config = EngineConfig()
    return config.sends_waiting_max * (FLOOD_BYTES + OPTIONAL_BYTES_MAX) + config.link_window_bytes


def stopped_receiver(scale: Scale) -> Samples:
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
    without = {"stopped-receiver-p99": pressed["without"]}
    return {**ours(with_stopped, count), "agentnet-none-stopped": Sample(without, count)}


def bulk(scale: Scale) -> Samples:
    """Requests while a gigabyte moves between the same two nodes; idle; and while both do nothing but spin.

    Where the machine has other work, two busy processes alone lengthen the tail.  The second baseline tells
    this from what the transfer does; and the median tells of the software, the tail of the machine as well.
    """
    count, chunks = scale.pick(full=10_000, quick=1_000), scale.pick(full=64, quick=8)
    with Fleet() as fleet:
        task = Task(port=free_port(), phases=(count // 8, count, chunks))
        fleet.spawn(LIMITS, "store", task)
        sender = fleet.spawn(LIMITS, "move", task)
        sender.go()
        moved = sender.wait("moved", seconds=600).more
    values = {
        system: {"bulk-p99": told["p99"], "bulk-p50": told["p50"]}
        for system, told in moved["latencies"].items()
    }
    values[AGENTNET.name]["bulk-rate"] = moved["rate"]
    return {system: Sample(each, moved["latencies"][system]["requests"]) for system, each in values.items()}


def tls_churn(scale: Scale) -> Samples:
    """What a node holds more after connections came and went: bytes that it has of malloc, blocks of Python's
    own allocator, open files.  How many bytes are resident depends on how many came at a time, too."""
    count = scale.pick(full=10_000, quick=200)
    step = 3 * count // 2 // CHURN_STEPS
    with Fleet() as fleet, certificates(True) as directory:
        task = Task(port=free_port(), phases=(step,) * CHURN_STEPS, certificates=directory)
        node = fleet.spawn(LIMITS, "weighed_node", task)
        client = fleet.spawn(LIMITS, "churn", task, ready=False)
        held = []
        for number in range(1, CHURN_STEPS + 1):
            come_and_go(client)
            scale.tell(f"{number * step:,} of {CHURN_STEPS * step:,} connections")
            if number in (CHURN_STEPS // 3, CHURN_STEPS):
                wait_closed(node)
                files, rss = node.open_files(), node.rss_bytes()
                node.go()
                told = node.wait("held").more
                node.wait("ready")
                held.append((told["bytes"], told["blocks"], files, rss))
    works = ("tls-churn-held", "tls-churn-blocks", "tls-churn-files", "tls-churn-rss")
    return ours({work: after - before for work, before, after in zip(works, *held, strict=True)}, count)


def come_and_go(client: Worker) -> None:
    client.wait("ready")
    client.go()
    client.wait("sending")
    client.wait("sent", seconds=600)


def wait_closed(node: Worker) -> None:
    """Returns when the node has no connection left and the last one lingers no more."""
    deadline = time.monotonic() + CLOSE_SECONDS_MAX
    while node.connected() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(LINGER_S + 0.5)
