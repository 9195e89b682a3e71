"""Asks the liveness ports of linked nodes, from the event loop and without waiting for any.

In: sessions whose peer is to be asked.  Out: ``hear(session, answer)`` for each answer that a key
of that link sealed and that names a nonce which was drawn for it.  UDP first; TCP as well once that
went unanswered, or if it is what answered last.  A peer is asked at the place that its link comes
from and at the addresses that it advertises, PLACES_MAX at most, until one of them has answered.

Held: two sockets, and for each link NONCES_MAX nonces and one TCP connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from ipaddress import IPv6Address, ip_address
from typing import Any

from agentnet.config import Address, NetworkConfig, is_loopback
from agentnet.link import Link
from agentnet.liveness.packets import (
    NONCE_BYTES,
    PACKET_BYTES,
    Answer,
    is_ticket,
    make_probe,
    nonce_of,
    read_answer,
)
from agentnet_core.errors import ConfigError
from agentnet_core.session import Session

PLACES_MAX = 3
NONCES_MAX = 8
"""Probes of one link that may still be answered; older ones are answered too late."""
READS_MAX = 64
"""Datagrams that are read before the loop turns."""
TCP_S_MAX = 2.0

Place = tuple[str, *tuple[int, ...]]
"""Host, and for IPv6 flow and scope: a socket's name without its port."""


class _Peer:
    """The peer of one link. ``unanswered``: probes since the last answer."""

    def __init__(self, session: Session, offer: tuple[int, int, bytes], places: list[Place]) -> None:
        self.session = session
        self.udp, self.tcp, self.ticket = offer
        self.places = places
        self.nonces: deque[bytes] = deque()
        self.unanswered = 0
        self.by_tcp = False
        self.connecting = False


class Prober:
    """What one node asks."""

    def __init__(
        self,
        config: NetworkConfig,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        hear: Callable[[Session, Answer], None],
    ) -> None:
        self._config = config
        self._spawn = spawn
        self._hear = hear
        self._loop = asyncio.get_running_loop()
        self._sockets: dict[int, socket.socket] = {}
        self._peers: dict[Session, _Peer] = {}
        self._asked: dict[bytes, _Peer] = {}
        self.probes = self.answers = self.forged = 0

    def ask(self, session: Session) -> None:
        """Send a probe to the peer of that link."""
        peer = None if session.closed else self._peers.get(session) or self._meet(session)
        if peer is None:
            return
        nonce = secrets.token_bytes(NONCE_BYTES)
        self._asked[nonce] = peer
        peer.nonces.append(nonce)
        if len(peer.nonces) > NONCES_MAX:
            self._asked.pop(peer.nonces.popleft(), None)
        probe = make_probe(peer.ticket, nonce)
        self.probes += 1
        if peer.udp:
            for place in peer.places:
                self._send(place, peer.udp, probe)
        if peer.tcp and (peer.by_tcp or peer.unanswered or not peer.udp) and not peer.connecting:
            peer.connecting = True
            self._spawn(self._ask_tcp(peer, peer.tcp, probe))
        peer.unanswered += 1

    def close(self) -> None:
        """Ask nobody any more."""
        for sock in self._sockets.values():
            self._loop.remove_reader(sock)
            sock.close()
        self._sockets.clear()
        self._peers.clear()
        self._asked.clear()

    # -- peers

    def _meet(self, session: Session) -> _Peer | None:
        for old in [old for old in self._peers if old.closed]:
            for nonce in self._peers.pop(old).nonces:
                self._asked.pop(nonce, None)
        offer = session.hello.liveness
        if offer is None or not is_ticket(offer[2]):
            return None
        peer = self._peers[session] = _Peer(session, offer, self._places(session))
        return peer

    def _places(self, session: Session) -> list[Place]:
        link: Link = session.link
        name = link.peer
        places: list[Place] = [] if name is None else [(name[0], *name[2:])]
        for text in session.hello.addresses:
            with contextlib.suppress(ConfigError, ValueError):  # of another scheme, or a host name
                host = ip_address(Address.parse(text).host)
                # What is plaintext stays on loopback, and so does what is asked of it.
                allowed = session.secure or self._config.plaintext or is_loopback(str(host))
                place: Place = (str(host), 0, 0) if isinstance(host, IPv6Address) else (str(host),)
                if allowed and not host.is_unspecified and place not in places:
                    places.append(place)
        return places[:PLACES_MAX]

    # -- UDP

    def _send(self, place: Place, port: int, probe: bytes) -> None:
        family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
        # What cannot be sent is a probe without an answer.
        with contextlib.suppress(OSError):
            sock = self._sockets.get(family) or self._open(family)
            sock.sendto(probe, (place[0], port, *place[1:]))

    def _open(self, family: int) -> socket.socket:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.setblocking(False)
        self._sockets[family] = sock
        self._loop.add_reader(sock, self._read, sock)
        return sock

    def _read(self, sock: socket.socket) -> None:
        for _ in range(READS_MAX):
            try:
                data, name = sock.recvfrom(PACKET_BYTES + 1)
            except OSError:  # there is no more, or an earlier probe found nobody
                return
            peer = self._take(data)
            if peer is not None:
                peer.by_tcp = False
                peer.places = [(name[0], *name[2:])]

    # -- TCP

    async def _ask_tcp(self, peer: _Peer, port: int, probe: bytes) -> None:
        try:
            for place in list(peer.places):
                with contextlib.suppress(OSError):  # a TimeoutError is one
                    async with asyncio.timeout(TCP_S_MAX / len(peer.places)):
                        data = await self._exchange(place, port, probe)
                    if self._take(data) is not None:
                        peer.by_tcp = True
                        peer.places = [place]
                        return
        finally:
            peer.connecting = False

    async def _exchange(self, place: Place, port: int, probe: bytes) -> bytes:
        with socket.socket(socket.AF_INET6 if ":" in place[0] else socket.AF_INET) as sock:
            sock.setblocking(False)
            await self._loop.sock_connect(sock, (place[0], port, *place[1:]))
            await self._loop.sock_sendall(sock, probe)
            data = b""
            while len(data) <= PACKET_BYTES:
                more = await self._loop.sock_recv(sock, PACKET_BYTES + 1 - len(data))
                if not more:
                    break
                data += more
            return data

    # -- answers

    def _take(self, data: bytes) -> _Peer | None:
        """Whose answer it is, which is told then; None if it is nobody's."""
        peer = self._asked.get(nonce_of(data))
        answer = read_answer(peer.ticket, data) if peer is not None else None
        if peer is None or answer is None or answer.incarnation != peer.session.incarnation:
            self.forged += bool(data)
            return None
        self._asked.pop(nonce_of(data), None)
        self.answers += 1
        peer.unanswered = 0
        if not peer.session.closed:
            self._hear(peer.session, answer)
        return peer
