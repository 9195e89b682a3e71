"""Inputs in parts over real links: as fast as they are read, ended by either side, resumed elsewhere."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator
from pathlib import Path
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


class Source:
    """Numbers to give, and how far that came and whether it was closed."""

    def __init__(self, count: int, pause: float = 0.0, size: int = 0) -> None:
        self.count, self.pause, self.size = count, pause, size
        self.given = 0
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            for number in range(self.count):
                if self.pause:
                    await asyncio.sleep(self.pause)
                self.given += 1
                yield b"%d" % number + bytes(self.size)
        finally:
            self.closed = True


class Sink:
    """Handlers of inputs, what they got, and how they ended."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.ended: list[BaseException | None] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def gather(self, message: AgentMessage) -> bytes:
        try:
            async for part in message.parts():
                self.got.append(part)
                await self.gate.wait()
        except BaseException as error:
            self.ended.append(error)
            raise
        self.ended.append(None)
        return message.payload + b"%d" % len(self.got)

    async def double(self, message: AgentMessage) -> AsyncIterator[Any]:
        async for part in message.parts():
            self.got.append(part)
            yield part
            yield part

    async def first(self, message: AgentMessage) -> bytes:
        async for part in message.parts():
            assert isinstance(part, bytes)
            return part
        return b"none"


async def started(cluster: Cluster, **settings: Any) -> tuple[Any, Any, Agent, Sink]:
    one, two = await cluster.start("n1", "n2", **settings)
    sink = Sink()
    for name in ("gather", "double", "first"):
        await two.register_agent(name, handler=getattr(sink, name), concurrency=8)
    await two.register_agent("echo", handler=echo)
    return one, two, await one.register_agent("asker"), sink


def nothing_left(*nets: Any) -> bool:
    return not any(net.engine.readers or net.engine.writers or net.engine.takers for net in nets)


def numbers(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 3000])
async def test_all_parts_come_in_order(cluster: Cluster, count: int, local: bool) -> None:
    one, two, asker, sink = await started(cluster)
    if local:
        asker = await two.register_agent("near")
    source = Source(count)
    assert await soon(asker.upload("gather", source, b"got ")) == b"got %d" % count
    assert sink.got == numbers(count)
    assert sink.ended == [None]
    await until(lambda: nothing_left(one, two) and source.closed)


@pytest.mark.parametrize("local", [False, True])
async def test_both_ways_at_once(cluster: Cluster, local: bool) -> None:
    one, two, asker, _ = await started(cluster, stream_parts_max=8)
    if local:
        asker = await two.register_agent("near")
    got = [part async for part in asker.stream("double", parts=Source(500))]
    assert got == [part for part in numbers(500) for _ in range(2)]
    await until(lambda: nothing_left(one, two))


async def test_values_and_large_parts(cluster: Cluster) -> None:
    one, two, asker, sink = await started(cluster)
    parts = [{"n": 1}, b"", bytes(70_000), [1, "two"], bytes(2_000_000), None]

    async def mixed() -> AsyncIterator[Any]:
        for part in parts:
            yield part

    assert await soon(asker.upload("gather", mixed())) == b"6"
    assert sink.got == parts
    await until(lambda: nothing_left(one, two))


async def test_who_reads_slowly_holds_the_source_up(cluster: Cluster) -> None:
    one, two, asker, sink = await started(cluster, stream_parts_max=10)
    sink.gate.clear()
    source = Source(100)
    uploading = asyncio.create_task(asker.upload("gather", source))
    await until(lambda: len(sink.got) == 1)
    await until(lambda: source.given >= 10)
    await asyncio.sleep(0.1)
    assert source.given == 10
    sink.gate.set()
    assert await soon(uploading) == b"100"
    assert sink.got == numbers(100)
    await until(lambda: nothing_left(one, two))


async def test_bytes_hold_it_up_too(cluster: Cluster) -> None:
    _, _, asker, sink = await started(cluster, stream_bytes_max=100_000)
    sink.gate.clear()
    source = Source(30, size=30_000)
    uploading = asyncio.create_task(asker.upload("gather", source))
    await until(lambda: source.given == 4)
    await asyncio.sleep(0.1)
    assert source.given == 4
    sink.gate.set()
    assert await soon(uploading) == b"30"


async def test_nothing_is_given_before_it_is_asked_for(cluster: Cluster) -> None:
    one, two, asker, _ = await started(cluster)
    source = Source(100)
    assert await soon(asker.upload("echo", source, b"no need")) == b"no need"
    assert source.given <= 1
    await until(lambda: nothing_left(one, two) and (source.closed or not source.given))


async def test_the_handler_may_leave_it_unread(cluster: Cluster) -> None:
    one, two, asker, _ = await started(cluster)
    source = Source(1_000_000, pause=0.001)
    assert await soon(asker.upload("first", source)) == b"0"
    await until(lambda: nothing_left(one, two) and source.closed)
    assert source.given < 100_000


@pytest.mark.parametrize("how", ["aclose", "drop", "cancel"])
async def test_who_asks_may_leave(cluster: Cluster, how: str) -> None:
    one, two, asker, sink = await started(cluster)
    source = Source(1_000_000, pause=0.001)
    if how == "cancel":
        uploading = asyncio.create_task(asker.upload("gather", source))
        await until(lambda: len(sink.got) > 3)
        uploading.cancel()
        await asyncio.wait([uploading])
    else:
        stream = asker.stream("gather", parts=source)
        await until(lambda: len(sink.got) > 3)
        if how == "aclose":
            await stream.aclose()
        del stream
        gc.collect()
    await until(lambda: nothing_left(one, two) and source.closed and bool(sink.ended))
    assert isinstance(sink.ended[0], (asyncio.CancelledError, StreamLost))
    assert await soon(asker.request("echo", b"works")) == b"works"


async def test_what_the_source_raises_ends_it(cluster: Cluster) -> None:
    one, two, asker, sink = await started(cluster)

    async def fails() -> AsyncIterator[bytes]:
        yield b"1"
        await until(lambda: bool(sink.got))
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        await soon(asker.upload("gather", fails()))
    await until(lambda: nothing_left(one, two) and bool(sink.ended))
    assert sink.ended[0] is not None


async def test_what_the_handler_raises_closes_the_source(cluster: Cluster) -> None:
    one, two, asker, _ = await started(cluster)

    async def fails(message: AgentMessage) -> None:
        async for _ in message.parts():
            raise ValueError("no more")

    await two.register_agent("fails", handler=fails)
    source = Source(1_000_000, pause=0.001)
    with pytest.raises(HandlerFailed, match="ValueError: no more"):
        await soon(asker.upload("fails", source))
    with pytest.raises(NoSuchAgent):
        await soon(asker.upload("nobody", Source(3)))
    await until(lambda: nothing_left(one, two) and source.closed)


async def test_no_part_for_too_long(cluster: Cluster) -> None:
    one, two, asker, sink = await started(cluster, stream_idle_ms_max=300)
    with pytest.raises(HandlerFailed, match="no part of the input came for too long; part 0 is the next one"):
        await soon(asker.upload("gather", Source(3, pause=30), idle=10))
    assert isinstance(sink.ended[0], RequestTimeout)
    sink.gate.clear()
    with pytest.raises(RequestTimeout):  # of the answer, for none of the input is taken either
        await soon(asker.upload("gather", Source(3), idle=0.3))
    await until(lambda: nothing_left(one, two))


async def test_an_input_that_moves_is_no_silence(cluster: Cluster) -> None:
    """Its answer comes at the end only, and that is later than a part of it may take."""
    _, _, asker, _ = await started(cluster, stream_parts_max=2)
    assert await soon(asker.upload("gather", Source(30, pause=0.03), idle=0.4)) == b"30"


async def test_what_cannot_be(cluster: Cluster) -> None:
    one, two, asker, _ = await started(cluster, streams_max=2)
    for parts in ([b"1"], b"1", 7):
        with pytest.raises(ConfigError, match="async iterator"):
            asker.stream("gather", parts=parts)  # type: ignore[arg-type]
    with pytest.raises(HandlerFailed, match="no input in parts"):
        await soon(asker.request("gather", b""))
    with pytest.raises(HandlerFailed, match="no input in parts"):
        async for _ in asker.stream("gather"):
            pass

    async def twice(message: AgentMessage) -> bytes:
        async for _ in message.parts():
            break
        async for _ in message.parts():
            break
        return b""

    await two.register_agent("twice", handler=twice)
    with pytest.raises(HandlerFailed, match="read already"):
        await soon(asker.upload("twice", Source(3)))
    await until(lambda: nothing_left(one, two))


async def test_as_many_as_may_be_and_one_more(cluster: Cluster) -> None:
    one, two, asker, sink = await started(cluster, streams_max=2)
    sink.gate.clear()
    uploads = [asyncio.create_task(asker.upload("gather", Source(3))) for _ in range(2)]
    await until(lambda: len(sink.got) == 2)
    with pytest.raises(LimitReached, match="streams_max"):
        asker.stream("gather", parts=Source(3))
    sink.gate.set()
    await soon(asyncio.gather(*uploads))
    await until(lambda: nothing_left(one, two))


@pytest.mark.parametrize("side", [0, 1])
async def test_it_goes_on_by_another_link(cluster: Cluster, side: int) -> None:
    one, two, asker, sink = await started(cluster, stream_parts_max=32)
    uploading = asyncio.create_task(asker.upload("gather", Source(1000, pause=0.0005)))
    for count in (100, 101, 400, 700):
        await until(lambda count=count: len(sink.got) >= count, 30)  # type: ignore[misc]
        net, peer = ((one, "n2"), (two, "n1"))[side]
        if peer in net.engine.sessions:
            net.engine.fail(net.engine.sessions[peer], LinkLost("cut"))
    assert await soon(uploading, 30) == b"1000"
    assert sink.got == numbers(1000)
    assert one.stats()["links_lost"] >= 2
    await until(lambda: nothing_left(one, two))


async def test_one_that_cannot_go_on_is_lost_on_both_sides(cluster: Cluster) -> None:
    one, two, asker, sink = await started(cluster, stream_resume_ms_max=300, leave_ms_max=500)
    source = Source(1_000_000, pause=0.001)
    uploading = asyncio.create_task(asker.upload("gather", source))
    await until(lambda: len(sink.got) > 3)
    await soon(two.leave_network())
    with pytest.raises((StreamLost, HandlerFailed)):
        await soon(uploading)
    await until(lambda: nothing_left(one) and source.closed)
    assert sink.ended


async def test_the_example_shows_it() -> None:
    example = Path(__file__).parents[1] / "examples" / "calls.py"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", str(example)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await soon(process.communicate(), 30)
    assert errors == b""
    assert out.decode().splitlines() == [
        "archive: stopped",
        "Fate(gave_up=True, stopped=True, committed=False)",
        "copy of page 1",
        "copy of page 2",
        "copy of page 3",
        "3 pages bound",
    ]
