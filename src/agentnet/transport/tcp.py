"""tcp://HOST:PORT: bytes as they are, on loopback only unless ``plaintext=True``; peers prove nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import ClassVar

from agentnet.config import Address, NetworkConfig, is_loopback
from agentnet.transport.base import Listener, OnRefused, P
from agentnet.transport.sockets import Opening, SocketListener, bind, connect, finish, why
from agentnet_core.errors import NetworkError, OutageError

log = logging.getLogger("agentnet.transport")


class TcpTransport:
    """Plaintext over TCP."""

    scheme: ClassVar[str] = "tcp"
    secure: ClassVar[bool] = False

    def __init__(self, config: NetworkConfig) -> None:
        self._config = config

    def check_own(self, node_id: str) -> None:
        """Nothing to prove."""

    async def listen(
        self,
        address: Address,
        protocol_factory: Callable[[], asyncio.BufferedProtocol],
        on_refused: OnRefused,
    ) -> Listener:
        sock = await bind(address, self._config)
        host = sock.getsockname()[0]
        if not is_loopback(host):
            log.warning("%s is plaintext beyond loopback: anyone on the way can read and forge it", address)
        return SocketListener(sock, address, self._config, protocol_factory, self._accept, on_refused)

    async def dial(self, address: Address, protocol_factory: Callable[[], P]) -> tuple[asyncio.Transport, P]:
        protocol = protocol_factory()
        opening = await connect(address, self._config)
        try:
            return await finish(self._make(opening, protocol), opening), protocol
        except OSError as error:
            raise OutageError(f"dial {address}: {why(error)}") from error

    async def _accept(self, opening: Opening, protocol: asyncio.BufferedProtocol) -> None:
        try:
            await self._make(opening, protocol)
        except OSError as error:
            raise OutageError(why(error)) from error

    async def _make(self, opening: Opening, protocol: asyncio.BufferedProtocol) -> asyncio.Transport:
        opening.made = True  # there is no handshake
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, opening.sock)
        return transport

    def peer_identity(self, transport: asyncio.Transport) -> str | None:
        return None

    def refusal(self, error: BaseException | None, peer: str) -> NetworkError:
        reason = why(error) if error is not None else "closed by the peer"
        return OutageError(f"{peer}: the connection was lost before it was welcomed: {reason}")


def foreign_protocol(first: bytes) -> str | None:
    """What a peer speaks that sent ``first`` to a plaintext port, if it is TLS or HTTP."""
    if len(first) >= 3 and first[0] in (0x15, 0x16) and first[1] == 3 and first[2] <= 4:
        return "TLS"
    if first.startswith((b"GET ", b"POST ", b"HEAD ", b"PUT ", b"OPTIONS ", b"CONNECT ", b"HTTP/")):
        return "HTTP"
    return None
