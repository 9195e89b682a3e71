"""Handlers: awaited message by message, in one task, as asyncio means it; and mail without a handler."""

from __future__ import annotations

import asyncio
import gc
import threading
from functools import partial
from typing import Any

import pytest
from networks import Cluster, Inbox, echo, soon, until

from agentnet import Agent, AgentMessage, ConfigError, MessageType, PayloadMismatch
from agentnet.runner import settle
from agentnet_core.mailbox import Mailbox

both_loops = pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])


class TestHandlers:
    async def test_a_plain_function_runs_in_a_thread(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2", handler_threads=2)
        inside: list[str] = []
        gate = threading.Semaphore(0)

        def blocks(message: AgentMessage) -> str:
            inside.append(threading.current_thread().name)
            assert gate.acquire(timeout=20)
            return threading.current_thread().name

        await two.register_agent("blocks", handler=blocks, concurrency=10)
        await two.register_agent("echo", handler=echo)
        answers = [one.request("blocks", b"") for _ in range(5)]
        await until(lambda: len(inside) == 2)
        assert await soon(one.request("echo", b"meanwhile")) == b"meanwhile"
        assert len(inside) == 2
        gate.release(5)
        names = await soon(asyncio.gather(*answers))
        assert len(set(names)) == 2
        assert all(name.startswith("agentnet-n2") for name in names)

    async def test_a_plain_function_may_return_an_awaitable(self, cluster: Cluster) -> None:
        (net,) = await cluster.start("n1")
        await net.register_agent("x", handler=lambda message: asyncio.sleep(0, message.payload))
        assert await soon(net.request("x", b"y")) == b"y"

    async def test_objects_methods_and_partials(self, cluster: Cluster) -> None:
        (net,) = await cluster.start("n1")

        class Counter:
            def __init__(self) -> None:
                self.seen = 0

            async def count(self, message: AgentMessage) -> int:
                self.seen += 1
                return self.seen

        async def with_option(option: str, message: AgentMessage) -> str:
            return option

        await net.register_agent("object", handler=Inbox())
        await net.register_agent("method", handler=Counter().count)
        await net.register_agent("partial", handler=partial(with_option, "given"))
        assert await net.request("object", b"") == 1
        assert await net.request("method", b"") == 1
        assert await net.request("partial", b"") == "given"

    async def test_concurrency(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2")
        inside, most = 0, 0
        gate = asyncio.Event()

        async def handle(message: AgentMessage) -> bytes:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            await gate.wait()
            inside -= 1
            return message.payload

        await two.register_agent("three", handler=handle, concurrency=3)
        answers = [one.request("three", b"%d" % n) for n in range(10)]
        await until(lambda: inside == 3)
        await asyncio.sleep(0.02)
        assert inside == 3
        gate.set()
        assert await soon(asyncio.gather(*answers)) == [b"%d" % n for n in range(10)]
        assert most == 3
        gate.clear()
        inside = 0
        answers = [one.request("three", b"%d" % n) for n in range(4)]
        await until(lambda: inside == 3)
        gate.set()
        await soon(asyncio.gather(*answers))

    @both_loops
    async def test_one_at_a_time_and_in_its_own_task(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2")
        tasks = []
        inside = 0

        async def handle(message: AgentMessage) -> int:
            nonlocal inside
            inside += 1
            tasks.append(asyncio.current_task())
            if message.payload == b"await":
                await asyncio.sleep(0)
            tasks.append(asyncio.current_task())
            assert inside == 1
            inside -= 1
            return len(tasks)

        await two.register_agent("x", handler=handle)
        payloads = [b"await", b"at once"] * 20
        await soon(asyncio.gather(*(one.request("x", payload) for payload in payloads)))
        assert len(tasks) == 80
        assert len(set(tasks)) == 1
        assert tasks[0] is not None
        assert tasks[0].get_name() == "agent x"

    @both_loops
    async def test_timeouts_and_task_groups_inside(self, cluster: Cluster) -> None:
        (net,) = await cluster.start("n1")

        async def handle(message: AgentMessage) -> str:
            if message.payload == b"timeout":
                try:
                    async with asyncio.timeout(0.01):
                        await asyncio.Event().wait()
                except TimeoutError:
                    return "timed out"
            if message.payload == b"wait_for":
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(asyncio.sleep(10), 0.01)
                return "waited"
            async with asyncio.TaskGroup() as group:
                parts = [group.create_task(asyncio.sleep(0, n)) for n in range(3)]
            return str([part.result() for part in parts])

        await net.register_agent("x", handler=handle)
        assert await soon(net.request("x", b"timeout")) == "timed out"
        assert await soon(net.request("x", b"wait_for")) == "waited"
        assert await soon(net.request("x", b"group")) == "[0, 1, 2]"

    async def test_a_handler_that_calls_another_agent(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2")
        await one.register_agent("leaf", handler=echo)

        async def relays(message: AgentMessage) -> bytes:
            answer: bytes = await two.request("leaf", message.payload + b"!")
            return answer

        await two.register_agent("relays", handler=relays)
        assert await one.request("relays", b"x") == b"x!"


class TestMessages:
    @both_loops
    async def test_instead_of_a_handler(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2")
        agent = await two.register_agent("box")

        async def read() -> list[bytes]:
            got = []
            async for message in agent.messages():
                got.append(message.payload)
                if message.message_type is MessageType.QUERY:
                    await agent.reply(message, {"seen": len(got)})
            return got

        sender = await one.register_agent("sender")
        await sender.send("box", b"before anybody reads")
        reading = asyncio.ensure_future(read())
        assert await soon(sender.request("box", b"question")) == {"seen": 2}
        before = two.stats()["messages_received"]
        await sender.send("box", b"last")
        await until(lambda: two.stats()["messages_received"] > before and agent.pending_messages == 0)
        await two.unregister_agent(agent)
        assert await soon(reading) == [b"before anybody reads", b"question", b"last"]

    async def test_it_ends_when_the_node_leaves_or_the_agent_is_replaced(self, cluster: Cluster) -> None:
        (net,) = await cluster.start("n1")

        async def read(agent: Agent) -> int:
            return len([message async for message in agent.messages()])

        first = asyncio.ensure_future(read(await net.register_agent("x")))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(read(await net.register_agent("x")))
        assert await soon(first) == 0
        await asyncio.sleep(0)
        await net.leave_network()
        assert await soon(second) == 0

    async def test_two_readers_share_the_mail(self, cluster: Cluster) -> None:
        (net,) = await cluster.start("n1")
        agent = await net.register_agent("x")
        got: list[bytes] = []

        async def read() -> None:
            async for message in agent.messages():
                got.append(message.payload)
                await asyncio.sleep(0)

        readers = [asyncio.ensure_future(read()) for _ in range(2)]
        await asyncio.sleep(0)
        for number in range(10):
            await agent.send("x", b"%d" % number)
            await asyncio.sleep(0)
        await until(lambda: len(got) == 10)
        await net.unregister_agent(agent)
        await soon(asyncio.gather(*readers))

    async def test_not_beside_a_handler(self, cluster: Cluster) -> None:
        (net,) = await cluster.start("n1")
        agent = await net.register_agent("x", handler=echo)
        with pytest.raises(ConfigError, match="agent x has a handler"):
            await anext(aiter(agent.messages()))


async def test_idle_agents_give_their_task_back(cluster: Cluster) -> None:
    one, two = await cluster.start("n1", "n2", agent_idle_ms=50)
    await two.register_agent("x", handler=echo)
    await two.register_agent("many", handler=echo, concurrency=4)

    def running() -> list[str]:
        return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("agent ")]

    assert running() == []
    for _ in range(2):
        assert await one.request("x", b"1") == b"1"
        await soon(asyncio.gather(*(one.request("many", b"") for _ in range(8))))
        assert "agent x" in running()
        await until(lambda: not running() and not two.busy)


@pytest.mark.parametrize("last", ["read on", "stop reading"])
async def test_idle_agents_without_a_handler_hold_no_ring(cluster: Cluster, last: str) -> None:
    one, two = await cluster.start("n1", "n2", agent_idle_ms=50)
    agent = await two.register_agent("box")
    mail = agent.messages()

    def holds_ring() -> bool:
        return any(isinstance(held, Mailbox) for held in gc.get_referents(agent))

    for _ in range(2):
        assert not holds_ring()
        assert not two.busy
        sender = one._sender(None)
        await sender.send("box", b"1")
        await sender.send("box", b"2")
        await until(lambda: agent.pending_messages == 2)
        await asyncio.sleep(0.6)
        assert holds_ring(), "what nobody has read yet is kept"
        assert [(await soon(anext(mail))).payload for _ in range(2)] == [b"1", b"2"]
        waiting = asyncio.ensure_future(anext(mail)) if last == "read on" else None
        await until(lambda: not two.busy)
        assert not holds_ring()
        await sender.send("box", b"3")
        assert (await soon(waiting if waiting is not None else anext(mail))).payload == b"3"
        await until(lambda: not two.busy)
    await sender.send("box", b"4")
    await until(lambda: two.busy)
    await two.unregister_agent(agent)
    assert not holds_ring()
    assert not two.busy
    with pytest.raises(StopAsyncIteration):
        await anext(mail)


async def test_a_busy_agent_is_not_idle(cluster: Cluster) -> None:
    (net,) = await cluster.start("n1", agent_idle_ms=20)
    gate = asyncio.Event()

    async def waits(message: AgentMessage) -> bytes:
        await gate.wait()
        return b"done"

    await net.register_agent("x", handler=waits, concurrency=2)
    answer = net.request("x", b"")
    second = asyncio.get_running_loop().call_later(0.6, gate.set)
    assert await soon(answer) == b"done"
    assert second.when() <= asyncio.get_running_loop().time()
    assert await soon(net.request("x", b"")) == b"done"


async def test_an_answer_that_fits_no_type_comes_too_late() -> None:
    """It is nobody's, and those behind it get theirs."""
    loop = asyncio.get_running_loop()
    given_up, waiting = loop.create_future(), loop.create_future()
    given_up.cancel()

    def decode(message: AgentMessage, hint: Any) -> Any:
        raise PayloadMismatch("no such type")

    settle([(given_up, AgentMessage(b""), int), (waiting, None, None)], decode)
    assert waiting.done()
