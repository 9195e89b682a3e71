"""agentnet in the roles of bench/peers: a node in each process, an agent per sink."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import cycle, islice
from pathlib import Path

from agentnet import AgentMessage, AgentNetworkManager, NetworkConfig
from bench.peers.requests import measure
from bench.worker import Bench, Task


def config(task: Task, node_id: str, port: int) -> NetworkConfig:
    """Where the node listens; under TLS, with its certificate out of the task's directory."""
    if not task.certificates:
        return NetworkConfig(listen=[f"tcp://127.0.0.1:{port}"])
    folder = Path(task.certificates)
    return NetworkConfig(
        listen=[f"tls://127.0.0.1:{port}"],
        ca=str(folder / "ca.pem"),
        certificate=str(folder / f"{node_id}.pem"),
        private_key=str(folder / f"{node_id}-key.pem"),
    )


async def found_or_join(bench: Bench, node_id: str, *, founder: bool) -> AgentNetworkManager:
    """A node: the founder listens on the task's port, the others go there."""
    task = bench.task
    scheme = "tls" if task.certificates else "tcp"
    net = AgentNetworkManager(node_id, config(task, node_id, task.port if founder else 0))
    await net.join_network([] if founder else [f"{scheme}://127.0.0.1:{task.port}"])
    return net


async def join_as_receiver(bench: Bench) -> AgentNetworkManager:
    return await found_or_join(bench, f"receiver-{bench.task.index}", founder=bench.task.index == 0)


async def join_as_sender(bench: Bench) -> AgentNetworkManager:
    return await found_or_join(bench, "sender", founder=False)


async def receive(bench: Bench) -> None:
    net = await join_as_receiver(bench)
    handler = bench.counter_async()
    for sink in bench.task.sinks:
        await net.register_agent(sink, handler=handler)
    bench.tell("ready")
    await asyncio.Event().wait()


async def send(bench: Bench) -> None:
    net = await join_as_sender(bench)
    agent = await net.register_agent("source")
    payload = bytes(bench.task.size)
    async for count in bench.phases_async():
        for sink in islice(cycle(bench.task.sinks), count):
            await agent.send(sink, payload)


async def echo(message: AgentMessage) -> bytes:
    return message.payload


async def serve(bench: Bench) -> None:
    net = await join_as_receiver(bench)
    for sink in bench.task.sinks:
        await net.register_agent(sink, handler=echo)
    bench.tell("ready")
    await asyncio.Event().wait()


async def call(bench: Bench) -> None:
    net = await join_as_sender(bench)
    agent = await net.register_agent("caller")
    (sink,) = bench.task.sinks
    await measure(bench, lambda payload: agent.request(sink, payload))


async def stream(bench: Bench) -> None:
    net = await join_as_receiver(bench)
    payload = bytes(bench.task.size)

    async def tell(message: AgentMessage) -> AsyncIterator[bytes]:
        for _ in range(int(message.payload)):
            yield payload

    await net.register_agent("teller", handler=tell)
    bench.tell("ready")
    await asyncio.Event().wait()


async def read(bench: Bench) -> None:
    net = await join_as_sender(bench)
    agent = await net.register_agent("reader")
    async for count in bench.phases_async():
        async for _ in agent.stream("teller", b"%d" % count):
            pass


async def gather(bench: Bench) -> None:
    net = await join_as_receiver(bench)

    async def count(message: AgentMessage) -> bytes:
        seen = 0
        async for _ in message.parts():
            seen += 1
        return b"%d" % seen

    await net.register_agent("gatherer", handler=count)
    bench.tell("ready")
    await asyncio.Event().wait()


async def upload(bench: Bench) -> None:
    net = await join_as_sender(bench)
    agent, payload = await net.register_agent("giver"), bytes(bench.task.size)

    async def parts(count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield payload

    async for count in bench.phases_async():
        if await agent.upload("gatherer", parts(count)) != b"%d" % count:
            raise ValueError("not all of the input was read")
