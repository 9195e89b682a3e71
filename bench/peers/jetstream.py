"""NATS JetStream: what is published is acknowledged once it is in a stream, in memory or in synced files.

Its publisher has no task for each message: it holds the futures of those in flight, and awaits the oldest.
"""

from __future__ import annotations

import os
import tempfile
from asyncio import Future
from collections import deque
from pathlib import Path
from typing import Any

from nats.js import JetStreamContext
from nats.js.api import StorageType, StreamConfig

from bench.peers.nats_core import connect, server_program
from bench.peers.requests import measure_one_by_one
from bench.worker import Bench

SUBJECT = "sink"


def broker(bench: Bench) -> None:
    """A server with a store in the task's directory, which it syncs at each message; there are no others."""
    server, directory = server_program(), bench.task.directory
    store = directory or tempfile.mkdtemp()
    config = Path(store) / "nats.conf"
    config.write_text(f'jetstream {{ store_dir: "{store}", sync_interval: always }}\n')
    os.execv(server, [server, "-a", "127.0.0.1", "-p", str(bench.task.port), "-c", str(config)])


async def publish(bench: Bench) -> None:
    """To a stream in memory; with a directory, to one in files."""
    client = await connect(bench)
    stream = client.jetstream(timeout=60, publish_async_max_pending=bench.task.flight + 1)
    storage = StorageType.FILE if bench.task.directory else StorageType.MEMORY
    await stream.add_stream(StreamConfig(name="stream", subjects=[SUBJECT], storage=storage))
    payload = bytes(bench.task.size)
    async for count in bench.phases_async():
        if bench.task.flight == 1:
            await measure_one_by_one(bench, lambda body: stream.publish(SUBJECT, body), payload, count)
        else:
            await in_flight(stream, payload, count, bench.task.flight)


async def in_flight(stream: JetStreamContext, payload: bytes, count: int, flight: int) -> None:
    waiting: deque[Future[Any]] = deque()
    for _ in range(count):
        if len(waiting) == flight:
            await waiting.popleft()
        waiting.append(await stream.publish_async(SUBJECT, payload))
    for future in waiting:
        await future
