"""agentnet's deliveries as measured processes: a sender that awaits receipts, and an agent that returns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from agentnet import AgentMessage, AgentNetworkManager, Delivery
from bench.agentnet_messages import config, echo
from bench.peers.requests import in_window, measure
from bench.worker import Bench


async def join(bench: Bench, node_id: str, *, founder: bool) -> AgentNetworkManager:
    """A node, with a log in the task's directory if it has one."""
    task = bench.task
    where = str(Path(task.directory) / node_id) if task.directory else None
    net = AgentNetworkManager(
        node_id, replace(config(task, node_id, task.port if founder else 0), data_dir=where)
    )
    await net.join_network([] if founder else [f"tcp://127.0.0.1:{task.port}"])
    return net


async def take(message: AgentMessage) -> None:
    """The receipt is all that its sender wants."""


async def serve(bench: Bench) -> None:
    net = await join(bench, "receiver", founder=True)
    for sink in bench.task.sinks:
        await net.register_agent(sink, handler=take)
    bench.tell("ready")
    await asyncio.Event().wait()


async def make_send(bench: Bench) -> Callable[[bytes], Awaitable[object]]:
    """Acknowledged, and processed; with a directory, durable, and on its disk."""
    net = await join(bench, "sender", founder=False)
    agent = await net.register_agent("source")
    (sink,) = bench.task.sinks
    delivery = Delivery.DURABLE if bench.task.directory else Delivery.ACKNOWLEDGED
    return lambda payload: agent.send(sink, payload, delivery=delivery)


async def call(bench: Bench) -> None:
    """A task for each message in flight, which awaits its receipt."""
    await measure(bench, await make_send(bench))


async def pour(bench: Bench) -> None:
    """One task, which holds the receipts of all that is in flight."""
    send, payload = await make_send(bench), bytes(bench.task.size)
    async for count in bench.phases_async():
        await in_window(send, payload, count, bench.task.flight)


async def keep(bench: Bench) -> None:
    """Keep so many messages for an agent that is away."""
    net = await join(bench, "keeper", founder=True)
    agent, (count,) = await net.register_agent("source"), bench.task.phases
    await in_window(
        lambda payload: agent.send("away", payload, delivery=Delivery.DURABLE),
        bytes(bench.task.size),
        count,
        bench.task.flight,
    )
    bench.tell("kept", letters=net.stats()["letters"])
    await asyncio.Event().wait()


async def restart(bench: Bench) -> None:
    """Tell how long it takes until that node serves again, and has handed over the first of them."""
    await bench.turn_async()
    begin = perf_counter()
    net = await join(bench, "keeper", founder=True)
    agent = await net.register_agent("source")
    await net.register_agent("echo", handler=echo)
    await agent.request("echo", b"x")
    serving, letters = perf_counter() - begin, net.stats()["letters"]
    come = asyncio.Event()

    async def handle(_: AgentMessage) -> None:
        come.set()

    await net.register_agent("away", handler=handle)
    await come.wait()
    bench.tell("restarted", serving=serving, first=perf_counter() - begin, letters=letters)
    await bench.turn_async()
