"""The ways in and out of a node: what it listens on, and what it dials.

In: the addresses of the config, and the engine's dials.  Out: links, each made by the transport of its
address' scheme; a dial that fails is told to the control, with whether the other end refused it.  A tunnel
through another node is a way in or out, too: what runs inside is what the far end listens with.
"""

from __future__ import annotations

import asyncio
import ssl
from functools import partial
from typing import TYPE_CHECKING, Protocol

from agentnet.config import Address, NetworkConfig
from agentnet.host import Host
from agentnet.link import Link
from agentnet.liveness import Vitals
from agentnet.transport import Listener, TlsTransport, Transport, TunnelTransport, is_tls
from agentnet_core.control import Control
from agentnet_core.dials import Dial
from agentnet_core.errors import HandshakeRefused, NetworkError, OutageError
from agentnet_core.records import Event
from agentnet_core.tunnels import Tunnel

if TYPE_CHECKING:
    from agentnet_core.engine import Engine

    class _Node(Protocol):
        """What they ask of their node; the manager is one."""

        node_id: str
        config: NetworkConfig
        control: Control
        host: Host

        def turn(self) -> None: ...


class Doors:
    """``refused``: connections that a transport refused before there was a link."""

    def __init__(self, net: _Node, engine: Engine) -> None:
        self.refused = 0
        self._net = net
        self._engine = engine
        self._transports: dict[str, Transport] = {}
        self._listeners: list[Listener] = []
        self._opening: dict[TunnelTransport, None] = {}

    async def open(self, vitals: Vitals) -> tuple[str, ...]:
        """Listen, for the liveness of this node too; returns the addresses to tell to others."""
        config = self._net.config
        for address in config.listen_addresses:
            kind = self._transport(address.scheme)
            kind.check_own(self._net.node_id)
            link = partial(Link, self._net, self._engine, kind, None)
            self._listeners.append(await kind.listen(address, link, self._on_refused))
        await vitals.open(self.bound)
        return tuple(str(address) for address in config.advertise_addresses or self.bound)

    @property
    def bound(self) -> list[Address]:
        """Where this node listens, whatever it advertises."""
        return [listener.address for listener in self._listeners]

    async def dial(self, dial: Dial) -> None:
        """Make a link, or tell the control why there is none."""
        try:
            address = Address.parse(dial.address)
            kind = self._transport(address.scheme)
            await kind.dial(address, partial(Link, self._net, self._engine, kind, dial))
        except (NetworkError, OSError) as error:
            why = error if isinstance(error, NetworkError) else OutageError(f"{dial.address}: {error}")
            self._fail(dial, why, refused=isinstance(error.__cause__, ConnectionRefusedError))

    def look(self, tunnel: Tunnel) -> None:
        """A tunnel that ends here has something for this side; the first time it is that it is there."""
        if tunnel.handle is None:
            config = self._net.config
            tunnel.handle = made = TunnelTransport(
                tunnel,
                partial(self._inside, tunnel),
                partial(self._tunnel_failed, tunnel),
                handshake_s=config.handshake_ms_max / 1000,
                handshake_bytes_max=config.handshake_bytes_max,
            )
            self._opening[made] = None
        asyncio.get_running_loop().call_soon(tunnel.handle.look)

    def _inside(self, tunnel: Tunnel, first: bytes) -> tuple[Link, ssl.SSLContext | None]:
        """The link inside of a tunnel, and the TLS, as whoever opened it began or the far end listens."""
        del self._opening[tunnel.handle]
        config = self._net.config
        secure = self._is_secure(tunnel.peer) if tunnel.dial is not None else is_tls(first)
        if not secure and config.listen_addresses and all(each.secure for each in config.listen_addresses):
            raise HandshakeRefused(
                f"{tunnel.address} is plaintext: node {self._net.node_id} speaks TLS alone"
            )
        kind = self._transport("tls" if secure else "tcp")
        link = Link(self._net, self._engine, kind, tunnel.dial)
        if not isinstance(kind, TlsTransport):
            return link, None
        kind.check_own(self._net.node_id)
        return link, kind.inside_tunnel(server=tunnel.dial is None)

    def _is_secure(self, node_id: str) -> bool:
        if self._net.config.certificate is None:
            return False
        record = self._net.control.membership.living(node_id)
        there = record.addresses if record is not None else ()
        return not there or any(address.startswith("tls://") for address in there)

    def _tunnel_failed(self, tunnel: Tunnel, error: Exception) -> None:
        self._opening.pop(tunnel.handle, None)
        if isinstance(error, ssl.SSLError):
            error = self._transport("tls").refusal(error, tunnel.address)
        why = error if isinstance(error, NetworkError) else OutageError(f"{tunnel.address}: {error}")
        if tunnel.dial is not None:
            self._fail(tunnel.dial, why)
        else:
            self._on_refused(str(why), tunnel.address)

    def _fail(self, dial: Dial, why: NetworkError, *, refused: bool = False) -> None:
        self._engine.now_ns = self._net.host.monotonic_ns()
        self._net.control.dial_failed(dial, why, refused=refused)

    def close(self) -> None:
        """Let nobody in any more."""
        for opening in list(self._opening):
            opening.abort()
        for listener in self._listeners:
            listener.close()

    async def wait_closed(self) -> None:
        for listener in self._listeners:
            await listener.wait_closed()

    def _transport(self, scheme: str) -> Transport:
        if scheme not in self._transports:
            self._transports[scheme] = self._net.host.open_transport(scheme, self._net.config)
        return self._transports[scheme]

    def _on_refused(self, reason: str, peer: str) -> None:
        self.refused += 1
        self._engine.event(Event(Event.LINK_REFUSED, peer, detail=reason))
