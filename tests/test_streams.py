"""Streams over real links: answers in parts, as fast as they are read, left and resumed at any time."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest
from networks import Cluster, echo, soon, until

from agentnet import (
    Agent,
    AgentMessage,
    ConfigError,
    HandlerFailed,
    LimitReached,
    LinkLost,
    NoSuchAgent,
    RequestTimeout,
    StreamLost,
)

pytestmark = pytest.mark.asyncio


class Counter:
    """A handler that yields numbers, and keeps how far it came and whether it was closed."""

    def __init__(self, pause: float = 0.0) -> None:
        self.pause = pause
        self.yielded = 0
        self.open = 0
        self.closed = 0

    async def __call__(self, message: AgentMessage) -> AsyncIterator[Any]:
        self.open += 1
        try:
            for number in range(int(message.payload)):
                if self.pause:
                    await asyncio.sleep(self.pause)
                self.yielded += 1
                yield b"%d" % number
        finally:
            self.open -= 1
            self.closed += 1


async def started(cluster: Cluster, pause: float = 0.0, **settings: Any) -> tuple[Any, Any, Agent, Counter]:
    one, two = await cluster.start("n1", "n2", **settings)
    counter = Counter(pause)
    await two.register_agent("counter", handler=counter, concurrency=64)
    await two.register_agent("echo", handler=echo)
    return one, two, await one.register_agent("asker"), counter


def nothing_left(*nets: Any) -> bool:
    return not any(net.engine.readers or net.engine.writers for net in nets)


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 5000])
async def test_all_parts_come_in_order(cluster: Cluster, count: int, local: bool) -> None:
    one, two, asker, counter = await started(cluster)
    if local:
        asker = await two.register_agent("near")
    got = [part async for part in asker.stream("counter", b"%d" % count)]
    assert got == [b"%d" % number for number in range(count)]
    await until(lambda: nothing_left(one, two) and counter.closed == 1)


async def test_values_and_large_parts(cluster: Cluster) -> None:
    one, two, asker, _ = await started(cluster)
    sizes = [0, 1, 70_000, 3, 2_000_000, 5]

    async def mixed(message: AgentMessage) -> AsyncIterator[Any]:
        yield {"n": 1}
        for size in sizes:
            yield bytes(size)

    await two.register_agent("mixed", handler=mixed)
    got = [part async for part in asker.stream("mixed", None)]
    assert got == [{"n": 1}, *(bytes(size) for size in sizes)]
    assert [part async for part in asker.stream("echo", b"one part")] == [b"one part"]
    await until(lambda: nothing_left(one, two))


async def test_who_reads_slowly_holds_the_generator_up(cluster: Cluster) -> None:
    _, _, asker, counter = await started(cluster, stream_parts_max=10)
    stream = asker.stream("counter", b"1000")
    await until(lambda: counter.yielded >= 10)
    await asyncio.sleep(0.1)
    assert counter.yielded == 10
    assert [await anext(stream) for _ in range(6)] == [b"%d" % number for number in range(6)]
    await until(lambda: counter.yielded > 10)
    await asyncio.sleep(0.05)
    assert counter.yielded <= 16
    assert len([part async for part in stream]) == 994


async def test_bytes_hold_it_up_too(cluster: Cluster) -> None:
    _, two, asker, _ = await started(cluster, stream_bytes_max=100_000)
    yielded: list[int] = []

    async def large(message: AgentMessage) -> AsyncIterator[bytes]:
        for number in range(50):
            yielded.append(number)
            yield bytes(30_000)

    await two.register_agent("large", handler=large)
    stream = asker.stream("large", b"")
    await until(lambda: len(yielded) == 4)
    await asyncio.sleep(0.1)
    assert len(yielded) == 4
    assert len([part async for part in stream]) == 50


@pytest.mark.parametrize("how", ["aclose", "with", "drop", "cancel", "unread"])
async def test_who_leaves_leaves_nothing_behind(cluster: Cluster, how: str) -> None:
    one, two, asker, counter = await started(cluster, pause=0.001)
    for _ in range(5):
        if how == "with":
            async with asker.stream("counter", b"100000") as stream:
                await anext(stream)
        elif how == "cancel":

            async def read() -> None:
                async for _ in asker.stream("counter", b"100000"):
                    pass

            task = asyncio.create_task(read())
            await until(lambda: counter.open)
            task.cancel()
            await asyncio.wait([task])
            del task
        else:
            stream = asker.stream("counter", b"100000")
            if how != "unread":
                await anext(stream)
            if how == "aclose":
                await stream.aclose()
            del stream
    gc.collect()
    await until(lambda: nothing_left(one, two) and not counter.open)
    assert not one.engine.pending
    assert await soon(asker.request("echo", b"works")) == b"works"


async def test_what_the_generator_raises_comes_after_its_parts(cluster: Cluster) -> None:
    one, two, asker, _ = await started(cluster)

    async def fails(message: AgentMessage) -> AsyncIterator[bytes]:
        yield b"1"
        raise ValueError("no more")

    await two.register_agent("fails", handler=fails)
    stream = asker.stream("fails", b"")
    assert await anext(stream) == b"1"
    with pytest.raises(HandlerFailed, match="ValueError: no more"):
        await anext(stream)
    with pytest.raises(NoSuchAgent):
        async for _ in asker.stream("nobody", b""):
            pass
    with pytest.raises(ConfigError, match="stream"):
        await soon(asker.request("counter", b"3"))
    await until(lambda: nothing_left(one, two))


async def test_no_part_for_too_long(cluster: Cluster) -> None:
    one, two, asker, counter = await started(cluster, pause=30)
    stream = asker.stream("counter", b"3", idle=0.2)
    with pytest.raises(RequestTimeout, match="part 0 is the next one"):
        await soon(anext(stream))
    await until(lambda: nothing_left(one, two) and counter.closed)


async def test_none_is_taken_for_too_long(cluster: Cluster) -> None:
    one, two, asker, counter = await started(cluster, stream_idle_ms_max=300, stream_parts_max=4)
    stream = asker.stream("counter", b"100")
    await until(lambda: counter.closed)
    assert [await anext(stream) for _ in range(4)] == [b"0", b"1", b"2", b"3"]
    with pytest.raises((StreamLost, RequestTimeout)):
        await soon(anext(stream))
    await until(lambda: nothing_left(one, two))


async def test_as_many_streams_as_may_be_and_one_more(cluster: Cluster) -> None:
    one, two, asker, counter = await started(cluster, pause=0.01, streams_max=3)
    other = (await cluster.start("n3"))[0]
    far = await other.register_agent("far")
    streams = [asker.stream("counter", b"100000") for _ in range(3)]
    with pytest.raises(LimitReached, match="streams_max"):
        asker.stream("counter", b"1")
    await until(lambda: counter.open == 3)
    with pytest.raises(LimitReached, match="streams_max"):
        async for _ in far.stream("counter", b"1"):
            pass
    for stream in streams:
        await stream.aclose()
    await until(lambda: nothing_left(one, two))
    assert [part async for part in far.stream("counter", b"2")] == [b"0", b"1"]


@pytest.mark.parametrize("side", [0, 1])
async def test_a_stream_goes_on_by_another_link(cluster: Cluster, side: int) -> None:
    one, two, asker, counter = await started(cluster, pause=0.0005, stream_parts_max=32)
    got: list[bytes] = []
    stream = asker.stream("counter", b"1000")
    async with asyncio.timeout(30):
        async for part in stream:
            got.append(part)
            if len(got) in (100, 101, 400, 700):
                net, peer = ((one, "n2"), (two, "n1"))[side]
                if peer in net.engine.sessions:
                    net.engine.fail(net.engine.sessions[peer], LinkLost("cut"))
    assert got == [b"%d" % number for number in range(1000)]
    assert counter.closed == 1
    assert one.stats()["links_lost"] >= 2
    await until(lambda: nothing_left(one, two))


async def test_a_stream_that_cannot_go_on_is_lost(cluster: Cluster) -> None:
    one, two, asker, counter = await started(cluster, pause=0.01, stream_resume_ms_max=300)
    stream = asker.stream("counter", b"100000")
    await anext(stream)
    await two.leave_network()
    with pytest.raises((StreamLost, HandlerFailed)):
        async with asyncio.timeout(10):
            async for _ in stream:
                pass
    assert counter.open == 0
    assert nothing_left(one)


async def test_what_a_handler_streams_ends_with_it(cluster: Cluster) -> None:
    one, two, asker, counter = await started(cluster, pause=0.001)

    async def pass_on(message: AgentMessage) -> AsyncIterator[Any]:
        async for part in between.stream("counter", message.payload):
            yield part

    async def gather(message: AgentMessage) -> bytes:
        return b"".join([part async for part in reader.stream("counter", message.payload)])

    between = await two.register_agent("pass_on", handler=pass_on)
    reader = await one.register_agent("gather", handler=gather)
    assert [part async for part in asker.stream("pass_on", b"3")] == [b"0", b"1", b"2"]
    async with asker.stream("pass_on", b"100000") as stream:
        assert await anext(stream) == b"0"
    await until(lambda: counter.closed == 2)
    assert await soon(asker.request("gather", b"4")) == b"0123"
    call = asker.request("gather", b"100000")
    await until(lambda: counter.open)
    await soon(call.give_up())
    await until(lambda: nothing_left(one, two) and not counter.open)
    assert counter.closed == 4


async def test_a_cycle_of_streams_is_refused(cluster: Cluster) -> None:
    one, _, asker, _ = await started(cluster)

    async def again(_: AgentMessage) -> AsyncIterator[Any]:
        async for part in ring.stream("ring", b""):
            yield part

    ring = await one.register_agent("ring", handler=again)
    with pytest.raises(HandlerFailed, match="ring -> ring"):
        await soon(anext(asker.stream("ring", b"")))
