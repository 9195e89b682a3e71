"""agentnet's deliveries as measured processes: a sender that awaits receipts, and an agent that returns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path

from agentnet import AgentMessage, AgentNetworkManager, Delivery
from bench.agentnet_messages import config
from bench.peers.requests import measure
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


async def call(bench: Bench) -> None:
    """Acknowledged, and processed; with a directory, durable, and on its disk."""
    net = await join(bench, "sender", founder=False)
    agent = await net.register_agent("source")
    (sink,) = bench.task.sinks

    def send(payload: bytes) -> Awaitable[object]:
        if bench.task.directory:
            return agent.send(sink, payload, delivery=Delivery.DURABLE)
        return agent.send(sink, payload, delivery=Delivery.ACKNOWLEDGED)

    await measure(bench, send)
