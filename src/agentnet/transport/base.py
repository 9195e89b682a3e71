"""The contract of every transport: bytes between two processes, and who the other one is.

A transport listens and dials; each connection is an ``asyncio.Transport`` that feeds the
``BufferedProtocol`` which the caller's factory made.  It knows nothing of frames or of agents.

- The factory is called before the connection is ready.  If the handshake below fails, no method
  of that protocol is ever called: there is nothing to undo.
- ``connection_made`` comes after the whole handshake of the transport, so every byte behind it
  is from the peer that ``peer_identity`` names.  ``connection_lost`` follows it in every case,
  also where a dial was cancelled.
- Under TLS 1.3 a dialler is ready before the listener has judged its certificate.  A refusal
  reaches it as ``connection_lost(error)``; ``refusal(error, peer)`` says what it means.
- ``get_buffer`` must return a memoryview: asyncio's TLS writes to a slice of it, and a slice of a
  bytearray is a copy, so that bytes would be lost without a word.
- uvloop's transports are no subclasses of ``asyncio.Transport``: never ask with isinstance.
- Bytes that wait at ``close()`` are lost if the peer does not take them soon: drain first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ClassVar, Protocol, TypeVar

from agentnet.config import Address, NetworkConfig
from agentnet_core.errors import NetworkError

P = TypeVar("P", bound=asyncio.BufferedProtocol)

OnRefused = Callable[[str, str], None]
"""``on_refused(reason, peer)``: a connection ended before its protocol heard of it; count it.
``peer`` is its host and port, or empty where there is none."""


class Listener(Protocol):
    """A place that takes connections until it is closed."""

    @property
    def address(self) -> Address:
        """Where it listens, with the real port."""

    @property
    def half_open(self) -> int:
        """Connections whose handshake is under way."""

    def close(self) -> None:
        """Take no more and drop what is half-open; connections that were made stay."""

    async def wait_closed(self) -> None:
        """Return when the port is free again and nothing half-open is left."""


class Transport(Protocol):
    """One scheme, opened once for one node."""

    scheme: ClassVar[str]
    """As in ``agentnet.config.SCHEMES``."""
    secure: ClassVar[bool]
    """Whether it encrypts, and peers prove who they are."""

    def __init__(self, config: NetworkConfig) -> None:
        """Read what it needs (certificates); ConfigError if that is missing or of no use."""

    def check_own(self, node_id: str) -> None:
        """ConfigError if this node could not prove to others that it is ``node_id``."""

    async def listen(
        self,
        address: Address,
        protocol_factory: Callable[[], asyncio.BufferedProtocol],
        on_refused: OnRefused,
    ) -> Listener:
        """Take connections at ``address``; port 0 picks a free one.

        ConfigError: plaintext beyond loopback.  OutageError: the address cannot be had.
        """

    async def dial(self, address: Address, protocol_factory: Callable[[], P]) -> tuple[asyncio.Transport, P]:
        """Connect to ``address``; connecting and a handshake each take ``handshake_ms_max`` at most.

        ConfigError: plaintext beyond loopback.  OutageError: nobody there, or too late.
        HandshakeRefused: somebody there, but not one that we would link to.  All definite.
        """

    def peer_identity(self, transport: asyncio.Transport) -> str | None:
        """Node id that the peer has proved; None where the transport proves nothing.

        HandshakeRefused, which says what was found, if it proved something else.
        """

    def refusal(self, error: BaseException | None, peer: str) -> NetworkError:
        """What ``connection_lost(error)`` means for a connection that was not welcomed yet.

        HandshakeRefused if the peer would not have us, OutageError otherwise; both definite.
        """
