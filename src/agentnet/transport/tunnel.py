"""A connection inside of a tunnel: bytes as they are, or TLS 1.3 both ways, from end to end.

In: an end of a tunnel of the core, and a look at it when the engine says so.  Out: what `base` promises of
any transport.  TLS runs in memory: what the relay passes on it can neither read nor forge, and the node
id is that of the certificate at the far end.  Who has opened the tunnel is the client, and begins; the
other one sees by the first byte what is spoken.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from agentnet_core.errors import LinkLost, OutageError
from agentnet_core.tunnels import Tunnel

UNSENT_BYTES = 128 * 1024
"""What waits in a tunnel when its writer has to pause."""
READ_BYTES = 64 * 1024
TLS_HANDSHAKE = b"\x16"

Inside = Callable[[bytes], tuple[asyncio.BufferedProtocol, ssl.SSLContext | None]]
"""Given the first byte that came, if the far end has begun: the protocol, and the TLS to speak. What it
raises ends the connection."""


def is_tls(first: bytes) -> bool:
    """Whether who sent that first byte begins with TLS; a frame of ours would be of 352 MB."""
    return first[:1] == TLS_HANDSHAKE


class TunnelTransport(asyncio.Transport):
    """One end of a connection. ``failed(error)``: it came to nothing before its protocol heard of it."""

    def __init__(
        self,
        tunnel: Tunnel,
        inside: Inside,
        failed: Callable[[Exception], None],
        *,
        handshake_s: float,
        handshake_bytes_max: int,
    ) -> None:
        super().__init__({"tunnel": tunnel})
        self._tunnel = tunnel
        self._inside = inside
        self._failed = failed
        self._bytes_left = handshake_bytes_max
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(handshake_s, self._give_up)
        self._protocol: asyncio.BufferedProtocol | None = None
        self._tls: ssl.SSLObject | None = None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._made = self._closing = False

    # -- from the tunnel

    def look(self) -> None:
        """There may be something to read, or room to write, or the end."""
        tunnel = self._tunnel
        data = tunnel.read()
        if self._closing:
            return
        if self._protocol is None and (data or tunnel.dial is not None):
            self._begin(data[:1])
        if self._tls is not None:
            self._take_sealed(data)
        elif self._made:
            self._feed(data)
        if tunnel.ended:
            self._end(ConnectionResetError(tunnel.lost) if tunnel.lost is not None else None)
        elif tunnel.paused and tunnel.waiting <= UNSENT_BYTES // 2:
            tunnel.paused = False
            if self._protocol is not None:
                self._protocol.resume_writing()

    def _begin(self, first: bytes) -> None:
        """It is known what is spoken."""
        try:
            self._protocol, context = self._inside(first)
        except Exception as error:  # noqa: BLE001 - told to whoever waits for the connection
            self._end(error)
            return
        if context is None:
            self._make()
            return
        server = self._tunnel.dial is None
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server)
        self._extra["ssl_object"] = self._tls  # type: ignore[attr-defined]

    def _make(self) -> None:
        self._timer.cancel()
        self._made = True
        assert self._protocol is not None
        self._protocol.connection_made(self)

    def _take_sealed(self, data: bytes) -> None:
        assert self._tls is not None
        self._incoming.write(data)
        try:
            if not self._made:
                self._bytes_left -= len(data)
                self._tls.do_handshake()
                self._flush()
                self._make()
            while not self._closing:
                plain = self._tls.read(READ_BYTES)
                if not plain:
                    raise ssl.SSLZeroReturnError
                self._feed(plain)
        except ssl.SSLWantReadError:
            self._flush()
            if not self._made and self._bytes_left < 0:
                self._end(ssl.SSLError("the handshake is over handshake_bytes_max"))
        except ssl.SSLZeroReturnError:
            self._end(None)
        except ssl.SSLError as error:
            self._flush()  # the alert that says why
            self._end(error)

    def _feed(self, data: bytes) -> None:
        assert self._protocol is not None
        while data and not self._closing:
            view = self._protocol.get_buffer(-1)
            size = min(len(view), len(data))  # type: ignore[arg-type]
            view[:size] = data[:size]  # type: ignore[index]
            self._protocol.buffer_updated(size)
            data = data[size:]

    def _give_up(self) -> None:
        self._end(OutageError(f"{self._tunnel.address}: the handshake was not done in time"))

    def _end(self, error: Exception | None) -> None:
        """The connection is over, by the far end or for a fault; what was written still goes."""
        if self._closing:
            return
        self._closing = True
        self._timer.cancel()
        self._tunnel.close()
        if self._made and self._protocol is not None:
            self._loop.call_soon(self._protocol.connection_lost, error)
        else:
            self._failed(error or LinkLost(f"{self._tunnel.address}: closed during the handshake"))

    # -- from the protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing:
            return
        if self._tls is None:
            self._tunnel.write(data)
        else:
            self._tls.write(data)
            self._flush()
        if self._tunnel.waiting > UNSENT_BYTES and not self._tunnel.paused and self._protocol is not None:
            self._tunnel.paused = True
            self._protocol.pause_writing()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._tunnel.write(self._outgoing.read())

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if self._closing:
            return
        if self._tls is not None and self._made:
            try:
                self._tls.unwrap()
            except ssl.SSLError:  # the far end has not said so yet, and need not
                self._flush()
        self._end(None)

    def abort(self) -> None:
        self._tunnel.abort()
        self._end(None)

    def get_write_buffer_size(self) -> int:
        return self._tunnel.waiting
