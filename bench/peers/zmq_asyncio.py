"""ZeroMQ's asyncio sockets: PUSH/PULL one way; DEALER/ROUTER, so that requests can be in flight together."""

from __future__ import annotations

import asyncio
from itertools import count as numbers

import zmq
import zmq.asyncio

from bench.peers.requests import measure
from bench.worker import Bench


def bound(kind: int, port: int) -> zmq.asyncio.Socket:
    socket = zmq.asyncio.Context.instance().socket(kind)
    socket.set_hwm(0)
    socket.bind(f"tcp://127.0.0.1:{port}")
    return socket


def connected(kind: int, port: int) -> zmq.asyncio.Socket:
    socket = zmq.asyncio.Context.instance().socket(kind)
    socket.set_hwm(0)
    socket.connect(f"tcp://127.0.0.1:{port}")
    return socket


async def receive(bench: Bench) -> None:
    socket = bound(zmq.PULL, bench.task.port)
    handler = bench.counter()
    bench.tell("ready")
    while True:
        handler(await socket.recv())


async def send(bench: Bench) -> None:
    socket = connected(zmq.PUSH, bench.task.port)
    payload = bytes(bench.task.size)
    async for count in bench.phases_async():
        for _ in range(count):
            await socket.send(payload)


async def serve(bench: Bench) -> None:
    socket = bound(zmq.ROUTER, bench.task.port)
    bench.tell("ready")
    while True:
        await socket.send_multipart(await socket.recv_multipart())


async def call(bench: Bench) -> None:
    socket = connected(zmq.DEALER, bench.task.port)
    waiting: dict[bytes, asyncio.Future[bytes]] = {}
    ids = numbers()

    async def read_replies() -> None:
        while True:
            request_id, reply = await socket.recv_multipart()
            waiting.pop(request_id).set_result(reply)

    async def request(payload: bytes) -> bytes:
        request_id = next(ids).to_bytes(8)
        reply = waiting[request_id] = asyncio.get_running_loop().create_future()
        await socket.send_multipart((request_id, payload))
        return await reply

    reader = asyncio.create_task(read_replies())
    await measure(bench, request)
    reader.cancel()
