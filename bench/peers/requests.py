"""How requests are measured, the same for every system: ``call`` is its own way to make one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from time import perf_counter_ns

from bench.worker import Bench


def percentile(latencies_ns: list[int], share: float) -> float:
    """Microseconds that ``share`` of the latencies do not exceed; sorts the list."""
    latencies_ns.sort()
    return latencies_ns[min(len(latencies_ns) - 1, int(len(latencies_ns) * share))] / 1e3


def tell_latency(bench: Bench, latencies_ns: list[int]) -> None:
    bench.tell("latency", p50=percentile(latencies_ns, 0.50), p99=percentile(latencies_ns, 0.99))


async def measure(bench: Bench, call: Callable[[bytes], Awaitable[object]]) -> None:
    """``flight`` requests at a time; one at a time, their latency is told too."""
    payload = bytes(bench.task.size)
    async for count in bench.phases_async():
        if bench.task.flight == 1:
            await measure_one_by_one(bench, call, payload, count)
        else:
            await in_flight(call, payload, count, bench.task.flight)


async def measure_one_by_one(
    bench: Bench, call: Callable[[bytes], Awaitable[object]], payload: bytes, count: int
) -> None:
    latencies = []
    for _ in range(count):
        start = perf_counter_ns()
        await call(payload)
        latencies.append(perf_counter_ns() - start)
    tell_latency(bench, latencies)


async def in_window(
    send: Callable[[bytes], Awaitable[object]], payload: bytes, count: int, flight: int
) -> None:
    """As `in_flight`, from one task: it holds what its sends returned, and awaits the oldest."""
    waiting: deque[Awaitable[object]] = deque()
    for _ in range(count):
        if len(waiting) == flight:
            await waiting.popleft()
        waiting.append(send(payload))
    for each in waiting:
        await each


async def in_flight(
    call: Callable[[bytes], Awaitable[object]], payload: bytes, count: int, flight: int
) -> None:
    """``count`` requests, ``flight`` at a time."""
    left = count

    async def caller() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await call(payload)

    async with asyncio.TaskGroup() as callers:
        for _ in range(flight):
            callers.create_task(caller())


def measure_blocking(bench: Bench, call: Callable[[bytes], object]) -> None:
    """One at a time, for systems that block."""
    payload = bytes(bench.task.size)
    for count in bench.phases():
        latencies = []
        for _ in range(count):
            start = perf_counter_ns()
            call(payload)
            latencies.append(perf_counter_ns() - start)
        tell_latency(bench, latencies)
