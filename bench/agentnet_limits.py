"""agentnet's own limits: what idle agents cost, a stopped receiver, bulk beside requests, TLS churn."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import socket
import ssl
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from itertools import cycle, islice
from pathlib import Path

import psutil

from agentnet import AgentMessage, AgentSpec, Congested
from agentnet_core.config import EngineConfig
from bench.agentnet_messages import echo, join_as_receiver, join_as_sender
from bench.peers.requests import percentile
from bench.worker import Bench

FLOODS = EngineConfig().sends_waiting_max
"""Sends that wait for the stopped agent: all that may, for it is the bound that is measured."""
FLOOD_BYTES = 1024
BLOCKS = 8
REST_SECONDS = 0.05
"""Between blocks of bulk, so that none pays for what the one before has left behind."""
CHUNK_BYTES = 16 * 1024 * 1024
SPIN_SECONDS = 40e-6
"""How long one turn of a spinning loop takes, about as long as one that moves a fragment."""


def rss_bytes() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def traced_bytes() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


async def node(bench: Bench) -> None:
    """A peer without agents of its own."""
    await join_as_receiver(bench)
    bench.tell("ready")
    await asyncio.Event().wait()


class _MallInfo(ctypes.Structure):
    """glibc's struct mallinfo2, malloc(3)."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in ("arena", "free", "fast", "maps", "mapped", "peak", "fast_bytes", "used", "unused", "top")
    )


def held_bytes() -> int:
    """What malloc has given out and not got back, however much it was once; the resident size, where the C
    library does not tell."""
    try:
        tell = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return rss_bytes()
    tell.restype = _MallInfo
    gc.collect()
    info = tell()
    return int(info.used + info.mapped)


async def weighed_node(bench: Bench) -> None:
    """As `node`; tells at each turn what it holds."""
    await join_as_receiver(bench)
    while True:
        await bench.turn_async()
        gc.collect()
        bench.tell("held", bytes=held_bytes(), blocks=sys.getallocatedblocks())


# -- idle agents


async def register(bench: Bench) -> None:
    """As many agents as the phase says, at once."""
    await register_measured(bench, rss_bytes)


async def register_traced(bench: Bench) -> None:
    tracemalloc.start()
    await register_measured(bench, traced_bytes)


async def register_measured(bench: Bench, held_bytes: Callable[[], int]) -> None:
    net = await (join_as_receiver if bench.task.index == 0 else join_as_sender)(bench)
    (count,) = bench.task.phases
    specs = [AgentSpec(agent=number, handler=echo) for number in range(1, count + 1)]
    await bench.turn_async()
    before = held_bytes()
    start = time.monotonic()
    agents = await net.register_agents(specs)
    seconds = time.monotonic() - start
    bench.tell("registered", seconds=seconds, bytes_each=(held_bytes() - before) / len(agents))
    await bench.turn_async()


# -- a stopped receiver behind the same link as busy neighbours


async def stop_one(bench: Bench) -> None:
    """Answers as every neighbour; the agent "stopped-N" takes one message and never returns."""
    net = await join_as_receiver(bench)

    async def never(_: AgentMessage) -> None:
        await asyncio.Event().wait()

    for name in neighbours(bench.task.index):
        await net.register_agent(name, handler=echo)
    await net.register_agent(f"stopped-{bench.task.index}", handler=never)
    bench.tell("ready")
    await asyncio.Event().wait()


def neighbours(index: int) -> list[str]:
    return [f"neighbour-{index}-{number}" for number in range(99)]


async def press(bench: Bench) -> None:
    """p99 of requests to the neighbours of a stopped agent, whose senders wait, and to others.

    The two are behind links of their own and asked in blocks by turns: what the machine does to one
    it does to the other.
    """
    net = await join_as_sender(bench)
    agent = await net.register_agent("caller")
    warmup, count = bench.task.phases
    payload = bytes(bench.task.size)
    names = [cycle(neighbours(index)) for index in range(2)]
    latencies: list[list[int]] = [[], []]

    async def ask(index: int, requests: int) -> None:
        for name in islice(names[index], requests):
            start = time.perf_counter_ns()
            await agent.request(name, payload)
            latencies[index].append(time.perf_counter_ns() - start)

    await bench.turn_async()
    await ask(0, warmup)
    await ask(1, warmup)
    rss_before = rss_bytes()
    sent = 0

    async def flood() -> None:
        nonlocal sent
        while True:
            try:
                await agent.send("stopped-0", bytes(FLOOD_BYTES))
            except Congested:
                continue  # it waited for as long as the config allows
            sent += 1

    async with background(flood, FLOODS):
        await until_still(lambda: sent)
        held = rss_bytes() - rss_before
        latencies = [[], []]
        for _ in range(BLOCKS):
            await ask(0, count // BLOCKS)
            await ask(1, count // BLOCKS)
        with_stopped, without = (percentile(each, 0.99) for each in latencies)
        bench.tell("pressed", without=without, with_stopped=with_stopped, held=held, sent=sent)
    await bench.turn_async()


@asynccontextmanager
async def background(work: Callable[[], Awaitable[None]], copies: int) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(work()) for _ in range(copies)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until_still(value: Callable[[], int], seconds: float = 0.5) -> None:
    """Returns when ``value`` has not changed for ``seconds``."""
    last = -1
    while value() != last:
        last = value()
        await asyncio.sleep(seconds)


# -- bulk beside requests


async def store(bench: Bench) -> None:
    """An echo, an agent that takes chunks and answers a request once it has them, a switch for spinning."""
    net = await join_as_receiver(bench)
    spinning = asyncio.Event()

    async def take(_: AgentMessage) -> bytes:
        return b""

    async def switch(message: AgentMessage) -> bytes:
        (spinning.set if message.payload else spinning.clear)()
        return b""

    for name, handler in (("echo", echo), ("store", take), ("spinner", switch)):
        await net.register_agent(name, handler=handler)
    bench.tell("ready")
    await spin(spinning)


async def spin(wanted: asyncio.Event) -> None:
    """Keeps the processor busy while it is wanted, and lets the loop turn as a busy node's does."""
    while True:
        await wanted.wait()
        end = time.perf_counter() + SPIN_SECONDS
        while time.perf_counter() < end:
            pass
        await asyncio.sleep(0)


async def move(bench: Bench) -> None:
    """Latency of requests by turns: alone, while chunks move beside them, while both processes spin.

    The last phase says how many chunks.
    """
    net = await join_as_sender(bench)
    caller = await net.register_agent("caller")
    mover = await net.register_agent("mover")
    warmup, count, chunks = bench.task.phases
    blocks = min(BLOCKS, chunks)
    payload, chunk = bytes(bench.task.size), bytes(CHUNK_BYTES)
    spinning = asyncio.Event()
    latencies: dict[str, list[int]] = {"agentnet": [], "agentnet-idle": [], "agentnet-spinning": []}
    seconds = 0.0

    async def ask(requests: int, times: list[int]) -> None:
        for _ in range(requests):
            start = time.perf_counter_ns()
            await caller.request("echo", payload)
            times.append(time.perf_counter_ns() - start)

    async def move_some(chunks: int) -> None:
        nonlocal seconds
        start = time.monotonic()
        for _ in range(chunks):
            await mover.send("store", chunk)
        await mover.request("store", b"")
        seconds += time.monotonic() - start

    await bench.turn_async()
    await ask(warmup, [])
    async with background(lambda: spin(spinning), 1):
        for _ in range(blocks):
            await ask(count // blocks, latencies["agentnet-idle"])
            moving = asyncio.create_task(move_some(chunks // blocks))
            while not moving.done():
                await ask(1, latencies["agentnet"])
            await moving
            await asyncio.sleep(REST_SECONDS)
            await caller.request("spinner", b"on")
            spinning.set()
            await ask(count // blocks, latencies["agentnet-spinning"])
            spinning.clear()
            await caller.request("spinner", b"")
            await asyncio.sleep(REST_SECONDS)
    told = {
        system: {"p50": percentile(times, 0.50), "p99": percentile(times, 0.99), "requests": len(times)}
        for system, times in latencies.items()
    }
    bench.tell("moved", latencies=told, rate=chunks // blocks * blocks * CHUNK_BYTES / seconds / 1e6)
    await bench.turn_async()


# -- TLS connections that come and go


def churn(bench: Bench) -> None:
    """Opens and closes connections to a node, one after another, each with a full mutual handshake."""
    folder = Path(bench.task.certificates)
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(folder / "sender.pem", folder / "sender-key.pem")
    for count in bench.phases():
        for _ in range(count):
            with (
                socket.create_connection(("127.0.0.1", bench.task.port)) as plain,
                context.wrap_socket(plain, server_hostname="127.0.0.1") as link,
                suppress(ConnectionResetError, ssl.SSLError),  # the node may speak or close first
            ):
                link.unwrap()
