"""The transport of virtual time: connections are simulated pipes, addresses are names in a table.

Each end of a connection belongs to a process, and what arrives is one of its callbacks: a process that is
stopped leaves it lying, and a killed one has its connections reset, by the system that outlives it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from zlib import crc32

from agentnet.config import Address, NetworkConfig
from agentnet.sim.network import READ_BYTES, Network, Pipe
from agentnet.testing.loop import Process, Upkeep, VirtualLoop
from agentnet.transport import Listener, OnRefused
from agentnet.transport.base import P
from agentnet.transport.tcp import TcpTransport
from agentnet_core.errors import ConfigError, OutageError

PORT_MIN = 7400
"""What the first of those gets that listen at port 0."""
RESET = "Connection reset by peer"


class Wires:
    """Who listens where, and every connection there is."""

    def __init__(self, loop: VirtualLoop, network: Network) -> None:
        self.loop = loop
        self.network = network
        self.listeners: dict[tuple[str, int], VirtualListener] = {}
        self.down: dict[tuple[str, int], Process] = {}
        """Where hosts are gone without a word: nothing there answers, not even with a refusal."""
        self.wires: dict[Wire, None] = {}
        self._port = PORT_MIN

    def next_port(self) -> int:
        self._port += 1
        return self._port - 1

    def between(self, one: str, other: str) -> list[Wire]:
        """The ends at ``one`` of its connections with ``other``."""
        return [wire for wire in self.wires if wire.process.name == one and wire.far.process.name == other]

    def kill(self, process: Process, silently: bool) -> None:
        """What the network sees of its end: resets and refusals, or nothing at all."""
        for place, listener in list(self.listeners.items()):
            if listener.process is process:
                listener.close()
                if silently:
                    self.down[place] = process
        for wire in [wire for wire in self.wires if wire.process is process]:
            if silently:
                wire.out.mute = wire.far.out.mute = True
            else:
                wire.abort()

    def connect(
        self,
        process: Process,
        address: Address,
        listener: VirtualListener,
        protocol: asyncio.BufferedProtocol,
    ) -> Wire:
        source, target = process.name, listener.process.name
        out, back = Pipe(self.network, source, target), Pipe(self.network, target, source)
        near = Wire(self, process, out, back, protocol, (address.host, address.port))
        far = Wire(self, listener.process, back, out, listener.factory(), ("127.0.0.1", self.next_port()))
        near.far, far.far = far, near
        near.begin()
        self.loop.call_soon(far.begin)
        return near


class VirtualListener(Upkeep):
    """A place that takes connections until it is closed."""

    def __init__(
        self,
        wires: Wires,
        process: Process,
        address: Address,
        factory: Callable[[], asyncio.BufferedProtocol],
    ) -> None:
        self._wires = wires
        self.process = process
        self.address = address
        self.factory = factory
        self.half_open = 0
        """A connection is made at once, or not at all."""
        wires.listeners[address.host, address.port] = self

    def close(self) -> None:
        place = self.address.host, self.address.port
        if self._wires.listeners.get(place) is self:
            del self._wires.listeners[place]

    async def wait_closed(self) -> None:
        """It is."""
        self.close()


class VirtualTransport(TcpTransport):
    """tcp:// between simulated processes: any host and port will do, none is looked up."""

    def __init__(self, wires: Wires, process: Process, config: NetworkConfig) -> None:
        super().__init__(config)
        self._wires = wires
        self._process = process

    async def listen(
        self,
        address: Address,
        protocol_factory: Callable[[], asyncio.BufferedProtocol],
        on_refused: OnRefused,
    ) -> Listener:
        if address.port == 0:
            address = address.with_port(self._wires.next_port())
        if (address.host, address.port) in self._wires.listeners:
            raise OutageError(f"cannot listen at {address}: Address already in use")
        self._wires.down.pop((address.host, address.port), None)
        return VirtualListener(self._wires, self._process, address, protocol_factory)

    async def dial(self, address: Address, protocol_factory: Callable[[], P]) -> tuple[asyncio.Transport, P]:
        if address.port == 0:
            raise ConfigError(f"dial {address}: expected a port above 0; 0 only means something in listen")
        wires, place = self._wires, (address.host, address.port)
        await self._pass(wires.network.delay(self._process.name))
        gone = wires.down.get(place)
        listener = wires.listeners.get(place)
        there = gone or (listener.process if listener is not None else None)
        if gone is not None or (there is not None and not self._answers(there)):
            await self._pass(self._config.handshake_ms_max * 1_000_000)
            raise OutageError(f"dial {address}: no answer in time")
        if listener is None:
            raise OutageError(f"dial {address}: Connection refused")
        wires.network.clock.note("dial", self._process.name, str(address))
        protocol = protocol_factory()
        return wires.connect(self._process, address, listener, protocol), protocol

    def _answers(self, there: Process) -> bool:
        network, here = self._wires.network, self._process.name
        return network.passes(here, there.name) and network.passes(there.name, here)

    async def _pass(self, time_ns: int) -> None:
        clock, over = self._wires.network.clock, self._wires.loop.create_future()
        clock.at(clock.now_ns + time_ns, lambda: None if over.done() else over.set_result(None))
        await over


class Wire(asyncio.Transport, Upkeep):
    """One end of a connection: a transport to its protocol, and an End to the two pipes."""

    far: Wire

    def __init__(
        self,
        wires: Wires,
        process: Process,
        out: Pipe,
        back: Pipe,
        protocol: asyncio.BufferedProtocol,
        peername: tuple[str, int],
    ) -> None:
        super().__init__({"peername": peername})
        self.process = process
        self.out = out
        out.writer, back.reader = self, self
        self._wires = wires
        self._protocol = protocol
        self._paused = self._begun = self._closing = self._gone = False
        wires.wires[self] = None

    # -- to the protocol

    def begin(self) -> None:
        self._begun = True
        if not self._gone:
            self._protocol.connection_made(self)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self.out.ended:
            self.out.write(memoryview(data))

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        """The peer reads what was written, and then the end."""
        self._close("end of stream", None)

    def abort(self) -> None:
        self._close(RESET, None)

    def _close(self, told: str, error: Exception | None) -> None:
        if not self._closing:
            self._closing = True
            self.out.end(told)
            self._wires.loop.call_soon(self._end, error)

    def break_off(self) -> None:
        """The connection ends here, whatever the other end knows."""
        self._close(RESET, ConnectionResetError(RESET))

    def _end(self, error: Exception | None) -> None:
        self._gone = True
        self._wires.wires.pop(self, None)
        if self._begun:
            self._protocol.connection_lost(error)

    # -- from the pipes

    def later(self, pipe: Pipe) -> None:
        self._wires.loop.call_soon(self._take, pipe)

    def _take(self, pipe: Pipe) -> None:
        pipe.deliver()

    def received(self, data: bytes | memoryview) -> None:
        if self._closing:
            return
        self._wires.network.clock.note("read", self.process.name, len(data), crc32(data))
        view = memoryview(data)
        while view and not self._closing:
            buffer = memoryview(self._protocol.get_buffer(min(len(view), READ_BYTES)))
            size = min(len(buffer), len(view))
            buffer[:size] = view[:size]
            self._protocol.buffer_updated(size)
            view = view[size:]

    def lost(self, reason: str) -> None:
        self._close("end of stream", None if reason == "end of stream" else ConnectionResetError(reason))

    def pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._wires.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if not (self._paused or self._gone):
            self._protocol.resume_writing()
