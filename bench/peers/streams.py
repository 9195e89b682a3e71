"""asyncio streams with msgpack bodies behind a length: what one writes first, without any feature."""

from __future__ import annotations

import asyncio
from itertools import count as numbers
from struct import Struct

import msgpack

from bench.peers.requests import measure
from bench.worker import Bench

LENGTH = Struct(">I")


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    return await reader.readexactly(length)


def frame(value: object) -> bytes:
    body: bytes = msgpack.packb(value)
    return LENGTH.pack(len(body)) + body


async def receive(bench: Bench) -> None:
    handler = bench.counter()

    async def connected(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        while True:
            handler(msgpack.unpackb(await read_frame(reader)))

    await asyncio.start_server(connected, "127.0.0.1", bench.task.port)
    bench.tell("ready")
    await asyncio.Event().wait()


async def send(bench: Bench) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", bench.task.port)
    payload = bytes(bench.task.size)
    async for count in bench.phases_async():
        for number in range(count):
            writer.write(frame((number, 1, 2, 0, payload)))
            if number % 64 == 0:
                await writer.drain()
        await writer.drain()


async def serve(bench: Bench) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            body = await read_frame(reader)  # not even decoded: the fastest echo that streams can do
            writer.write(LENGTH.pack(len(body)) + body)

    await asyncio.start_server(connected, "127.0.0.1", bench.task.port)
    bench.tell("ready")
    await asyncio.Event().wait()


async def call(bench: Bench) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.task.port)
    waiting: dict[int, asyncio.Future[bytes]] = {}
    ids = numbers()

    async def read_replies() -> None:
        while True:
            request_id, reply = msgpack.unpackb(await read_frame(reader))
            waiting.pop(request_id).set_result(reply)

    async def request(payload: bytes) -> bytes:
        request_id = next(ids)
        reply = waiting[request_id] = asyncio.get_running_loop().create_future()
        writer.write(frame((request_id, payload)))
        return await reply

    replies = asyncio.create_task(read_replies())
    await measure(bench, request)
    replies.cancel()
