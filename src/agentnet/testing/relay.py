"""Relays on loopback: what real nodes say to each other passes through them, and they make the faults.

Each node has one Relay, whose address is the one that the others get.  A connection tells by its first
frame, in plaintext, who dials; so each direction between two nodes has faults of its own:

- blocked: bytes wait, and at last the writer, until the way is free again.  The connection stays.
- delay, and a stall now and then: bytes come later.  To lose a few and go on is what TCP never does.
- cut: both ends are reset.
- a hole: one end is reset, or its host is gone; the other is not told, and what it writes vanishes.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import permutations
from random import Random

from agentnet.config import Address
from agentnet.sim.network import Weather
from agentnet_core.errors import NetworkError
from agentnet_core.handshake import Hello

HELLO = 0
HELLO_BYTES_MAX = 65_536
READ_BYTES = 16_384
PIECES_MAX = 32
"""That one direction holds before it reads no more."""
RESET = struct.pack("ii", 1, 0)
"""Of SO_LINGER: closing sends a reset."""
TIMER_S = 0.001
"""A loop's timers may be so early."""


class Ways:
    """Which node reaches which, and how well: of all relays of a network."""

    def __init__(self, rng: Random, weather: Weather) -> None:
        self.rng = rng
        self.weather = weather
        self.weathers: dict[tuple[str, str], Weather] = {}
        self.frozen = False
        """Nothing gets anywhere."""
        self._blocked: set[tuple[str, str]] = set()
        self._waiting: set[asyncio.Future[None]] = set()

    def block(self, source: str, target: str) -> None:
        self._blocked.add((source, target))

    def partition(self, *groups: Iterable[str]) -> None:
        for one, other in permutations([list(group) for group in groups], 2):
            self._blocked |= {(source, target) for source in one for target in other}

    def heal(self) -> None:
        self.frozen = False
        self._blocked.clear()
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    def weather_of(self, source: str, target: str) -> Weather:
        return self.weathers.get((source, target), self.weather)

    async def wait_free(self, source: str, target: str) -> None:
        while self.frozen or (source, target) in self._blocked:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.add(waiter)
            try:
                await waiter
            finally:
                self._waiting.discard(waiter)


class Connection:
    """Two sockets, each for one node, and what goes from each to the other."""

    def __init__(self, ways: Ways, source: str, target: str, near: Stream, far: Stream) -> None:
        self.ways = ways
        self.ends = {source: near, target: far}
        """By node; both ends may be one node's."""
        self.source, self.target = source, target
        self.near, self.far = near, far
        self._hole = False

    def between(self, one: str, other: str) -> bool:
        return {one, other} == {self.source, self.target}

    def cut(self) -> None:
        """Reset both ends."""
        self.near.reset()
        self.far.reset()

    def lose(self, gone: str, *, told: bool) -> None:
        """The end of ``gone`` is reset, if ``told``; the other end stays, and speaks into a hole."""
        self._hole = True
        if told:
            self.ends[gone].reset()

    async def run(self, first: bytes) -> None:
        """Move bytes both ways until it ends."""
        there = asyncio.ensure_future(self._pump(self.source, self.target, self.near, self.far, first))
        back = asyncio.ensure_future(self._pump(self.target, self.source, self.far, self.near, b""))
        try:
            await asyncio.gather(there, back)
        finally:
            there.cancel()
            back.cancel()
            await asyncio.wait([there, back])
            self.near.writer.transport.abort()
            self.far.writer.transport.abort()

    async def _pump(self, source: str, target: str, take: Stream, give: Stream, first: bytes) -> None:
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(PIECES_MAX)
        both = [
            asyncio.ensure_future(self._read(source, target, first, take, pieces)),
            asyncio.ensure_future(self._write(source, target, pieces, give)),
        ]
        try:
            # Neither may wait for the other when that has failed.
            done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_EXCEPTION)
            if any(task.exception() for task in done) and not self._hole:
                self.cut()
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def _read(
        self, source: str, target: str, first: bytes, take: Stream, pieces: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        """Each piece with the time when it is to arrive; an empty one is the end."""
        rng, last = self.ways.rng, 0.0
        data = first or await take.reader.read(READ_BYTES)
        while True:
            weather = self.ways.weather_of(source, target)
            delay_ns = rng.randint(*weather.delay_ns)
            if weather.stall and rng.random() < weather.stall:
                delay_ns += weather.resend_ns
            if weather.cut and data and rng.random() < weather.cut:
                raise ConnectionResetError("cut by the weather")
            last = max(last, time.monotonic() + delay_ns / 1e9)  # the loop's own time is a bit old
            await pieces.put((last, data))
            if not data:
                return
            data = await take.reader.read(READ_BYTES)

    async def _write(
        self, source: str, target: str, pieces: asyncio.Queue[tuple[float, bytes]], give: Stream
    ) -> None:
        while True:
            due, data = await pieces.get()
            early_s = due - time.monotonic()
            await asyncio.sleep(early_s + TIMER_S if early_s > 0 else 0)
            await self.ways.wait_free(source, target)
            if self._hole:
                if data:
                    continue
                return
            if not data:
                give.writer.close()
                return
            give.writer.write(data)
            await give.writer.drain()


class Stream:
    """One socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:  # uvloop has none, or a closed one, of what has ended
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.writer.transport.abort()


class Relay:
    """Where one node is reached. ``refusing``: connections are reset; ``silent``: they lead nowhere."""

    def __init__(self, ways: Ways, name: str = "target", host: str = "127.0.0.1") -> None:
        self.name = name
        self.refusing = self.silent = False
        self.connections: dict[Connection, None] = {}
        self._ways = ways
        self._target = ("", 0)
        self._tasks: set[asyncio.Task[None]] = set()
        self._sock = socket.socket()
        self._sock.bind((host, 0))
        self.port: int = self._sock.getsockname()[1]

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._accept, sock=self._sock)

    def aim(self, address: str) -> None:
        """Forward to an agentnet address."""
        found = Address.parse(address)
        self._target = (found.host, found.port)

    def cut(self) -> None:
        """End every connection, as a crash of the network would."""
        for connection in list(self.connections):
            connection.cut()

    def freeze(self) -> None:
        """Move no more bytes; connections stay open."""
        self._ways.frozen = True

    def thaw(self) -> None:
        self._ways.heal()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        near = Stream(reader, writer)
        try:
            await self._forward(near)
        except (asyncio.CancelledError, ConnectionError, asyncio.IncompleteReadError):
            near.reset()  # the relay closes, or whoever dialled has gone
        finally:
            self._tasks.discard(task)

    async def _forward(self, near: Stream) -> None:
        if self.silent:
            while await near.reader.read(READ_BYTES):
                pass
        if self.refusing or self.silent:
            near.reset()
            return
        source, first = await _who(near.reader)
        try:
            far = Stream(*await asyncio.open_connection(*self._target))
        except OSError:
            near.reset()
            return
        connection = Connection(self._ways, source, self.name, near, far)
        self.connections[connection] = None
        try:
            await connection.run(first)
        finally:
            del self.connections[connection]

    async def close(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._sock.close()


async def _who(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    """The node that dials, and what it has said so far; no name, if that is no HELLO in plaintext."""
    first = await reader.readexactly(6)
    length, kind = struct.unpack(">IB", first[:5])
    if kind != HELLO or not 2 <= length <= HELLO_BYTES_MAX:
        return "", first
    first += await reader.readexactly(length - 2)
    try:
        return Hello.decode(_body(first)).node_id, first
    except NetworkError:
        return "", first


def _body(frame: bytes) -> bytes:
    checksum_bytes = 4 if frame[5] & 2 else 0
    return frame[6 : len(frame) - checksum_bytes]


def reserve_port(host: str = "127.0.0.1") -> tuple[int, Callable[[], None]]:
    """A port that nobody else is given, but that a node may listen at; and what gives it back."""
    sock = socket.socket()
    sock.bind((host, 0))
    # Only now: it keeps the port out of the system's hands, and lets a listener with the same option have it.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return sock.getsockname()[1], sock.close
