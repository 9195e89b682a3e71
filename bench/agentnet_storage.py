"""agentnet's log as a measured process: entries that are appended one by one, a log that is reopened."""

from __future__ import annotations

import asyncio
from time import perf_counter

from agentnet.storage import Storage
from agentnet_core.config import EngineConfig
from agentnet_core.entries import Entries
from agentnet_core.errors import StorageFailed, StorageFull
from bench.worker import Bench

OWNER, KIND, NODE = 1, 16, "bench"
FLIGHT = 4_096


class Appender:
    """Appends entries of ``size`` bytes, each a batch of its own, ``flight`` at a time."""

    def __init__(self, size: int) -> None:
        self._body = b"x" * size
        self._index = 0
        self._entries = Entries()
        self._left = self._done = 0
        self._over: asyncio.Future[None] | None = None
        self._since = 0.0
        self.storage: Storage | None = None
        self.delays: list[float] = []

    async def run(self, count: int, flight: int) -> list[float]:
        """Seconds from when entries were appended to when they were told to be on the disk."""
        self.delays, self._left = [], count
        self._over = asyncio.get_running_loop().create_future()
        self._append(min(flight, count))
        await self._over
        return self.delays

    def _append(self, count: int) -> None:
        assert self.storage is not None
        self._since = perf_counter()
        entries, put, append = self._entries, self._entries.put, self.storage.append
        body, index = self._body, self._index
        for _ in range(count):
            index += 1
            put(OWNER, KIND, index, body)
            append(entries)
        self._index = index
        self._left -= count

    def persisted(self, number: int) -> None:
        fresh, self._done = number - self._done, number
        self.delays += [perf_counter() - self._since] * fresh
        if self._left:
            self._append(min(fresh, self._left))
        elif number == self._index and self._over is not None and not self._over.done():
            self._over.set_result(None)

    def refused(self, number: int, error: StorageFull) -> None:
        raise error

    def failed(self, error: StorageFailed) -> None:
        raise error

    def held(self, owner: int, index: int) -> None:
        pass


async def append(bench: Bench) -> None:
    """``flight`` at a time in each phase; tells the delays of the last one, sorted, in seconds."""
    task, appender = bench.task, Appender(bench.task.size)
    appender.storage = await Storage.start(task.directory, EngineConfig(), NODE, appender)
    async for count in bench.phases_async():
        delays = sorted(await appender.run(count, task.flight))
        bench.tell("appended", p50=delays[len(delays) // 2])


async def recover(bench: Bench) -> None:
    """Fill a log with so many live entries, close it, and tell how long it takes to have them again."""
    task, appender = bench.task, Appender(bench.task.size)
    config = EngineConfig()
    appender.storage = await Storage.start(task.directory, config, NODE, appender)
    (count,) = task.phases
    await appender.run(count, FLIGHT)
    await appender.storage.close()
    await bench.turn_async()
    begin = perf_counter()
    storage = await Storage.start(task.directory, config, NODE, Appender(0))
    found = sum(len(body) for _, _, body in storage.found[OWNER].entries) // task.size
    bench.tell("recovered", seconds=perf_counter() - begin, found=found)
    await storage.close()
    await bench.turn_async()
