"""What users write, as a type checker must see it: checked by mypy --strict in `make check`, never run.

`assert_type` holds what each call gives; `type: ignore[...]` marks what must be an error, and is one
itself where it is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, assert_type

from agentnet import (
    Agent,
    AgentMessage,
    AgentNetworkManager,
    AgentNode,
    AgentSpec,
    Event,
    Member,
    MessagePriority,
    MessageType,
    NetworkConfig,
    NetworkError,
    RequestTimeout,
    run,
)
from agentnet.testing import Network, NodeProcess, Weather


@dataclass
class Count:
    words: int


async def count(text: str) -> Count:
    return Count(len(text.split()))


def shout(message: AgentMessage) -> bytes:
    return message.payload.upper()


def message_fields() -> None:
    message = AgentMessage(
        b"hello",
        to_agent="reader",
        message_type=MessageType.COMMAND,
        priority=MessagePriority.HIGH,
        ttl=1.5,
        message_id="mine",
    )
    assert_type(message.payload, bytes)
    assert_type(message.to_agent, int | None)
    assert_type(message.from_agent, int)
    assert_type(message.message_id, str)
    assert_type(message.message_type, MessageType | int)
    assert_type(message.priority, MessagePriority)
    assert_type(message.ttl, float)
    assert_type(message.timestamp, int)
    assert_type(message.value, Any)
    assert_type(message.encode(), bytes)
    assert_type(AgentMessage.decode(message.encode()), AgentMessage)
    AgentMessage(to_agent=None, payload=b"to all")
    AgentMessage("text")  # type: ignore[arg-type]
    AgentMessage(b"", "reader")  # type: ignore[call-arg]
    message.payload = b""  # type: ignore[misc]
    message.note = 1  # type: ignore[attr-defined]


async def talk(agent: Agent) -> None:
    assert_type(agent.id, int)
    assert_type(agent.name, str | None)
    assert_type(agent.send("reader", b"bytes"), Awaitable[None])
    await agent.send(7, {"any": "value"}, message_type=MessageType.QUERY, priority=MessagePriority.LOW, ttl=2)
    agent.send_nowait("reader", Count(1), message_id="mine")

    reply = await agent.request("reader", b"..")
    assert_type(reply, Any)
    assert_type(await agent.request("reader", b"..", reply=Count, timeout=0.5), Count)
    assert_type(await agent.request("reader", b"..", reply=list[int]), list[int])
    assert_type(await agent.request("reader", b"..", reply=Count | None), Any)
    future = agent.request("reader", b"..", reply=str)
    future.add_done_callback(print)
    assert_type(await asyncio.gather(future, agent.request(7, b"", reply=int)), tuple[str, int])
    async with asyncio.timeout(1):
        await agent.request("reader", b"..", priority=MessagePriority.CRITICAL)

    async for message in agent.messages():
        assert_type(message, AgentMessage)
        await agent.reply(message, {"bytes": len(message.payload)})

    await agent.send(None, b"")  # type: ignore[call-overload]
    await agent.send("reader", b"", MessageType.QUERY)  # type: ignore[call-overload]
    agent.request("reader")  # type: ignore[call-overload]
    agent.request("reader", b"", timeout="soon")  # type: ignore[call-overload]


async def register(net: AgentNetworkManager) -> None:
    @net.agent("counter", capabilities=["count"])
    async def counter(message: AgentMessage) -> dict[str, int]:
        return {"words": len(message.payload.split())}

    kept: Callable[[AgentMessage], Coroutine[Any, Any, dict[str, int]]] = counter
    net.agent("shouter")(shout)
    net.agent(7, concurrency=4, broadcasts=False, groups=["even"])(count)
    net.agent("counter", concurency=4)(count)  # type: ignore[call-arg]

    assert_type(await net.register_agent("reader", ["read"], kept, metadata={"model": "small"}), Agent)
    assert_type(
        await net.register_agents([AgentSpec(agent="a", capabilities=["read"], handler=count), 8, "b"]),
        list[Agent],
    )
    await net.register_agent(1.5)  # type: ignore[arg-type]
    agent = await net.register_agent("reader", groups=["readers"])
    assert_type(await agent.join_group("others", timeout=1), None)
    await agent.leave_group("others")
    await agent.join_group(7)  # type: ignore[arg-type]
    assert_type(agent.groups, tuple[str, ...])
    await net.unregister_agent("reader")


async def use() -> str:
    config = NetworkConfig(listen=["tcp://127.0.0.1:0"], mailbox_messages_max=100)
    async with AgentNetworkManager("node-1", config) as net:
        await net.join_network([])
        await register(net)
        assert_type(net.addresses, list[str])
        assert_type(net.members(), list[Member])
        assert_type(net.agents(), list[AgentNode])
        assert_type(net.agents(capability="read"), list[AgentNode])
        assert_type(net.agents("read", name="a", metadata={"k": "v"}, healthy=True), list[AgentNode])
        assert_type(net.stats(), dict[str, int])
        assert_type(net.events(), AsyncIterator[Event])
        await net.send_message(AgentMessage(b"", to_agent="reader"), sender="a")
        await net.broadcast_message({"any": "value"})
        await net.multicast("readers", {"any": "value"}, sender="a")
        assert_type(AgentMessage(b"", group="readers").group, str | None)
        assert_type(net.agents(group="readers")[0].groups, list[str])
        assert_type(await net.request("reader", b"", timeout=1), Any)
        net.request("reader", b"", timout=1)  # type: ignore[call-arg]
        await net.join_network(8)  # type: ignore[arg-type]
        try:
            await net.request("reader", b"")
        except RequestTimeout as error:
            assert_type(error.definite, bool)
        except NetworkError as error:
            assert_type(error.code, int)
        return net.node_id


async def test_survives(network: Network) -> None:
    assert_type(await network.nodes("a", "b", suspicion_ms_min=1_000), list[AgentNetworkManager])
    assert_type(await network.process("p", "module:app"), NodeProcess)
    assert_type(await network.restart("a"), AgentNetworkManager)
    assert_type(await network.until(lambda: 7), int)
    assert_type(network.clock.now, float)
    network.set_weather(Weather(cut=0.01), "a", "b")
    network.partition(["a"], ["b"], 7)  # type: ignore[arg-type]
    network.heel()  # type: ignore[attr-defined]


def main() -> None:
    assert_type(run(use()), str)
