"""gRPC aio without protobuf: a client stream one way, unary calls for requests; bodies are bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from bench.peers.requests import measure
from bench.worker import Bench


async def serve_method(bench: Bench, method: grpc.RpcMethodHandler) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Bench", {"Do": method}),))
    server.add_insecure_port(f"127.0.0.1:{bench.task.port}")
    await server.start()
    bench.tell("ready")
    await server.wait_for_termination()


def channel(bench: Bench) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"127.0.0.1:{bench.task.port}")


async def receive(bench: Bench) -> None:
    handler = bench.counter()

    async def take(messages: AsyncIterator[bytes], _: Any) -> bytes:
        async for message in messages:
            handler(message)
        return b""

    await serve_method(bench, grpc.stream_unary_rpc_method_handler(take))


async def send(bench: Bench) -> None:
    async with channel(bench) as link:
        stream = link.stream_unary("/Bench/Do")()
        payload = bytes(bench.task.size)
        async for count in bench.phases_async():
            for _ in range(count):
                await stream.write(payload)


async def serve(bench: Bench) -> None:
    async def echo(request: bytes, _: Any) -> bytes:
        return request

    await serve_method(bench, grpc.unary_unary_rpc_method_handler(echo))


async def call(bench: Bench) -> None:
    async with channel(bench) as link:
        await measure(bench, link.unary_unary("/Bench/Do"))


async def stream(bench: Bench) -> None:
    payload = bytes(bench.task.size)

    async def tell(request: bytes, context: Any) -> AsyncIterator[bytes]:
        for _ in range(int(request)):
            yield payload

    await serve_method(bench, grpc.unary_stream_rpc_method_handler(tell))


async def read(bench: Bench) -> None:
    async with channel(bench) as link:
        async for count in bench.phases_async():
            async for _ in link.unary_stream("/Bench/Do")(b"%d" % count):
                pass


async def gather(bench: Bench) -> None:
    async def count(parts: AsyncIterator[bytes], _: Any) -> bytes:
        seen = 0
        async for _ in parts:
            seen += 1
        return b"%d" % seen

    await serve_method(bench, grpc.stream_unary_rpc_method_handler(count))


async def upload(bench: Bench) -> None:
    payload = bytes(bench.task.size)

    async def parts(count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield payload

    async with channel(bench) as link:
        async for count in bench.phases_async():
            if await link.stream_unary("/Bench/Do")(parts(count)) != b"%d" % count:
                raise ValueError("not all of the input was read")
