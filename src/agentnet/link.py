"""One live connection: the asyncio protocol between a transport and the engine.

In: bytes, read straight into the engine's arena.  Out: the session's lanes, one write per loop
turn and lane, while the transport takes them; when it does not, they wait in the session, bounded
by the peer's window.  It holds no protocol: what the bytes mean is the engine's business.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, cast

from agentnet.transport import foreign_protocol
from agentnet_core.errors import HandshakeRefused, LinkLost, NetworkError, ProtocolError

if TYPE_CHECKING:
    from agentnet.config import NetworkConfig
    from agentnet.host import Host
    from agentnet.transport import Transport
    from agentnet_core.dials import Dial
    from agentnet_core.engine import Engine
    from agentnet_core.session import Session
    from agentnet_core.tunnels import Tunnel

    class _Node(Protocol):
        """What a link asks of its node; the manager is one."""

        config: NetworkConfig
        host: Host

        def turn(self) -> None: ...


LINGER_S = 2.0
"""A closed link may take this long to write what it still holds."""


class Link(asyncio.BufferedProtocol):
    """Made by a transport's factory, for a dial or for an accepted connection."""

    __slots__ = (
        *("_dial", "_engine", "_fresh", "_gone", "_kind", "_monotonic_ns", "_net", "_transport", "_view"),
        "session",
    )

    def __init__(self, net: _Node, engine: Engine, kind: Transport, dial: Dial | None) -> None:
        self._net = net
        self._monotonic_ns = net.host.monotonic_ns
        self._engine = engine
        self._kind = kind
        self._dial = dial
        self._view = engine.arena.view
        self._fresh = True
        self._transport: asyncio.Transport | None = None
        self._gone: asyncio.Future[None] | None = None
        self.session: Session | None = None

    # -- from the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        tunnel: Tunnel | None = transport.get_extra_info("tunnel")
        if self._dial is not None:
            address = self._dial.address
        elif tunnel is not None:
            address = tunnel.address
        else:
            address = f"{self._kind.scheme}://{_show(transport.get_extra_info('peername'))}"
        engine = self._engine
        engine.now_ns = self._monotonic_ns()
        certified, refusal = None, None
        try:
            certified = self._kind.peer_identity(self._transport)
        except NetworkError as error:
            refusal = error
        self.session = engine.open(
            secure=self._kind.secure,
            address=address,
            certified=certified,
            dial=self._dial,
            relay=tunnel.relay if tunnel is not None else "",
        )
        self.session.link = self
        if refusal is not None:
            engine.fail(self.session, refusal)
        elif self._dial is None:
            self._make_room()

    def _make_room(self) -> None:
        """A connection was accepted: drop the oldest not welcomed yet, if there are too many.

        An honest handshake takes milliseconds; only the silent grow old.
        """
        waiting = [link for link in self._engine.links if not (link.welcomed or link.dialled)]
        limit = 2 * self._net.config.nodes_max
        if len(waiting) > limit:
            text = (
                f"dropped, the oldest of over {limit} connections that are not welcomed yet (2 * nodes_max)"
            )
            self._engine.fail(waiting[0], HandshakeRefused(f"{waiting[0].address}: {text}"))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        engine, session = self._engine, self.session
        if session is None:
            return
        engine.now_ns = self._monotonic_ns()
        if self._fresh:
            self._fresh = False
            spoken = None if session.secure else foreign_protocol(bytes(self._view[: min(nbytes, 16)]))
            if spoken is not None:
                text = f"{session.address} speaks {spoken} here, expected agentnet in plaintext"
                hint = "; tcp:// on one side and tls:// on the other?" if spoken == "TLS" else ""
                engine.fail(session, ProtocolError(text + hint))
        engine.receive(session, nbytes)
        if engine.has_mail:
            self._net.turn()

    def pause_writing(self) -> None:
        if self.session is not None:
            self.session.paused = True

    def resume_writing(self) -> None:
        if self.session is not None:
            self._engine.resume(self.session)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)
        if self.session is not None and not self.session.closed:
            self._engine.now_ns = self._monotonic_ns()
            if exc is not None and not self.session.welcomed:
                error = self._kind.refusal(exc, self.session.address)
            else:
                error = LinkLost(
                    f"{self.session.address} closed the connection" + (f": {exc}" if exc else "")
                )
            self._engine.down(self.session, error, hung_up=True)

    # -- from the manager

    @property
    def peer(self) -> tuple[str, int, *tuple[int, ...]] | None:
        """The other end of its socket, as the socket names it; None once it is gone."""
        name = self._transport.get_extra_info("peername") if self._transport is not None else None
        return name if isinstance(name, tuple) and len(name) >= 2 else None

    def flush(self) -> None:
        """Write what the session holds, as far as the transport takes it."""
        session, transport = self.session, self._transport
        if session is None or transport is None:
            return
        while not session.paused:
            piece = session.take()
            if piece is None:
                return
            transport.write(piece)

    def shut(self) -> None:
        """Close once everything is written, or soon after in any case."""
        session, transport = self.session, self._transport
        if transport is not None:
            if session is not None:
                session.paused = False
                self.flush()
            transport.close()
            asyncio.get_running_loop().call_later(LINGER_S, self.abort)
        if session is not None:
            self._engine.forget_session(session)

    def abort(self) -> None:
        """Close at once, whatever is unwritten."""
        if self._transport is not None:
            self._transport.abort()

    async def wait_closed(self, deadline: float) -> None:
        """Close, and return when the connection is gone; aborted after ``deadline`` (of the loop)."""
        self.shut()
        if self._transport is None:
            return
        loop = asyncio.get_running_loop()
        self._gone = self._gone or loop.create_future()
        timer = loop.call_later(max(0.0, deadline - loop.time()), self.abort)
        try:
            await asyncio.wait([self._gone])  # several may wait, and one of them be cancelled
        finally:
            timer.cancel()


def _show(peer: object) -> str:
    """Host and port of a socket's peer name."""
    if isinstance(peer, tuple) and len(peer) >= 2:
        host = f"[{peer[0]}]" if ":" in str(peer[0]) else peer[0]
        return f"{host}:{peer[1]}"
    return "unknown"
