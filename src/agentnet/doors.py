"""The ways in and out of a node: what it listens on, and what it dials.

In: the addresses of the config, and the engine's dials.  Out: links, each made by the transport of its
address' scheme; a dial that fails is told to the control, with whether the other end refused it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol

from agentnet.config import Address, NetworkConfig
from agentnet.host import Host
from agentnet.link import Link
from agentnet.liveness import Vitals
from agentnet.transport import Listener, Transport
from agentnet_core.control import Control
from agentnet_core.dials import Dial
from agentnet_core.errors import NetworkError, OutageError
from agentnet_core.records import Event

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
            refused = isinstance(error.__cause__, ConnectionRefusedError)
            self._engine.now_ns = self._net.host.monotonic_ns()
            self._net.control.dial_failed(dial, why, refused=refused)

    def close(self) -> None:
        """Let nobody in any more."""
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
