"""An echo over any transport: what the tests of transports are made of."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

from agentnet.config import Address, NetworkConfig
from agentnet.transport import Transport, open_transport


class Echo(asyncio.BufferedProtocol):
    """Sends back what it gets (a listener's) or keeps it (a dialler's)."""

    def __init__(self, made: list[Echo] | None = None) -> None:
        self.made = made
        self.transport: asyncio.Transport | None = None
        self.got = bytearray()
        self.heard = asyncio.Event()
        self.lost: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        self._buffer = memoryview(bytearray(32 * 1024))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are of no such class
        if self.made is not None:
            self.made.append(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(self._buffer[:nbytes])
        if self.made is None:
            self.got += data
            self.heard.set()
        else:
            assert self.transport is not None
            self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        assert self.transport is not None, "lost, but never made"
        self.lost.set_result(exc)


class Server:
    """A listener that echoes, and all that it was told."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.connections: list[Echo] = []
        self.refused: list[tuple[str, str]] = []

    def on_refused(self, reason: str, peer: str) -> None:
        self.refused.append((reason, peer))

    def factory(self) -> Echo:
        return Echo(self.connections)


@asynccontextmanager
async def serving(scheme: str, config: NetworkConfig) -> AsyncIterator[Server]:
    server = Server(open_transport(scheme, config))
    server.listener = await server.transport.listen(
        Address(scheme, "127.0.0.1", 0), server.factory, server.on_refused
    )
    server.address = server.listener.address
    try:
        yield server
    finally:
        server.listener.close()
        await server.listener.wait_closed()
        for connection in server.connections:
            connection.transport.abort()
            await connection.lost


async def until(condition: Callable[[], Any], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def connect_and_close(server: Server, *, abort: bool = False) -> None:
    count = len(server.connections)
    transport, protocol = await server.transport.dial(server.address, Echo)
    transport.write(b"x")
    await asyncio.wait_for(protocol.heard.wait(), 20)
    assert protocol.got == b"x"
    (accepted,) = server.connections[count:]
    if abort:
        transport.abort()
    else:
        transport.close()
    await asyncio.wait_for(asyncio.gather(protocol.lost, accepted.lost), 20)


async def wait_lost(protocol: Echo) -> BaseException | None:
    return await asyncio.wait_for(protocol.lost, 20)
