"""What all socket transports share: look up, bind, accept, connect.

Accepting is done here and not by ``create_server``, because event loops report a failed
handshake to nobody: here each one runs in a task of its own, fails into ``on_refused``, and
holds up no other.  At most ``2 * nodes_max`` are half-open; one more drops the oldest, because
an honest handshake takes milliseconds and a silent one would wait for its deadline.

Both sides enter the loop by ``connect_accepted_socket``, diallers too.  ``create_connection(sock=)``
of uvloop takes the socket over one turn late: if the peer has closed by then, the descriptor is
closed twice, and the second time it may be another connection's.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from agentnet.config import Address, NetworkConfig, is_loopback, refuse_plaintext
from agentnet.transport.base import OnRefused
from agentnet_core.errors import ConfigError, NetworkError, OutageError

BACKLOG = 1024
"""Connections that the kernel holds for us; many nodes may come back at once."""
UNSENT_BYTES = 128 * 1024
"""What the kernel takes beyond what it can send; more would be a queue that no priority reaches."""
KEEPIDLE_S_MAX = 32_767
"""What Linux takes."""
ACCEPT_PAUSE_S = 1.0
"""After accept failed for want of descriptors or memory."""
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
FAMILIES = (socket.AF_INET, socket.AF_INET6)


class Opening:
    """A connected socket on its way to being a connection."""

    __slots__ = ("dropped", "handed_over", "made", "peer", "sock")

    def __init__(self, sock: socket.socket, peer: str) -> None:
        self.sock = sock
        self.peer = peer
        self.handed_over = False  # a transport owns the socket
        self.made = False  # no handshake is under way any more
        self.dropped = False

    def hang_up(self) -> None:
        """End the connection from outside: its transport, or its handshake, sees the end.

        Cancelling what makes the connection may instead close it between ``connection_made`` and
        the return, and then uvloop never calls ``connection_lost``.
        """
        with contextlib.suppress(OSError):  # it has ended already
            self.sock.shutdown(socket.SHUT_RDWR)


Opener = Callable[[Opening, asyncio.BufferedProtocol], Awaitable[None]]
"""Makes the connection, and owns the socket; a NetworkError says why it could not."""


def show_peer(name: Any) -> str:
    """Host and port of a socket name as Python gives it; empty if it has none."""
    if not isinstance(name, tuple) or len(name) < 2:
        return ""
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


def why(error: BaseException) -> str:
    """The reason in an error of the system, without its number."""
    if isinstance(error, OSError) and not isinstance(error, socket.gaierror) and error.errno:
        return os.strerror(error.errno)
    text = getattr(error, "strerror", None) or str(error)
    return text or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)


async def look_up(address: Address, config: NetworkConfig, what: str) -> list[tuple[int, Any]]:
    """(family, socket address) of all that ``address`` stands for; ConfigError unless all are allowed."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise OutageError(f"{what} {address}: the host name cannot be looked up: {why(error)}") from error
    places = [(int(family), place) for family, _, _, _, place in found if family in FAMILIES]
    if not places:
        raise OutageError(f"{what} {address}: the host name has no IP address")
    if not address.secure and not config.plaintext:
        for _, place in places:
            if not is_loopback(str(place[0])):
                raise refuse_plaintext(address, what)
    return places


def tune(sock: socket.socket, config: NetworkConfig) -> None:
    """Send at once, keep little unsent in the kernel, notice a dead peer even while nobody pings."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    silence_s = min(max(1, config.link_silence_ms_max // 1000), KEEPIDLE_S_MAX)
    options = (("TCP_NOTSENT_LOWAT", UNSENT_BYTES), ("TCP_KEEPIDLE", silence_s), ("TCP_KEEPINTVL", 5))
    for name, value in options:
        option = getattr(socket, name, None)  # not on every platform
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


async def bind(address: Address, config: NetworkConfig) -> socket.socket:
    """A listening socket at the first place of ``address`` that can be had."""
    failure: OSError | None = None
    for family, place in await look_up(address, config, "listen"):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            if sys.platform != "win32":  # there it would let another process take the port over
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(place)
            sock.listen(BACKLOG)
            sock.setblocking(False)
        except OSError as error:
            sock.close()
            failure = error
        else:
            return sock
    assert failure is not None  # look_up gives at least one place
    raise OutageError(f"cannot listen at {address}: {why(failure)}") from failure


async def connect(address: Address, config: NetworkConfig) -> Opening:
    """A socket connected to the first place of ``address`` that answers."""
    if address.port == 0:
        raise ConfigError(f"dial {address}: expected a port above 0; 0 only means something in listen")
    loop = asyncio.get_running_loop()
    places = await look_up(address, config, "dial")
    share_s = config.handshake_ms_max / 1000 / len(places)  # one dead place must not use up all the time
    failure: OSError | None = None
    for family, place in places:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            tune(sock, config)
            async with asyncio.timeout(share_s):
                await loop.sock_connect(sock, place)
        except OSError as error:  # a TimeoutError is one
            sock.close()
            failure = error
        except BaseException:  # cancelled
            sock.close()
            raise
        else:
            return Opening(sock, show_peer(place))
    assert failure is not None  # look_up gives at least one place
    raise OutageError(f"dial {address}: {why(failure)}") from failure


async def finish(making: Coroutine[Any, Any, asyncio.Transport], opening: Opening) -> asyncio.Transport:
    """What ``making`` gives; if the wait is cancelled, it is ended and its connection closed."""
    task = asyncio.get_running_loop().create_task(making, name=f"dial {opening.peer}")
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        opening.hang_up()
        task.add_done_callback(_abandon)
        raise


def _abandon(task: asyncio.Task[asyncio.Transport]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().abort()


class SocketListener:
    """Accepts at one socket, in a task; each connection is opened in a task of its own."""

    def __init__(
        self,
        sock: socket.socket,
        address: Address,
        config: NetworkConfig,
        protocol_factory: Callable[[], asyncio.BufferedProtocol],
        opener: Opener,
        on_refused: OnRefused,
    ) -> None:
        self.address = address.with_port(sock.getsockname()[1])
        self._config = config
        self._protocol_factory = protocol_factory
        self._opener = opener
        self._on_refused = on_refused
        self._half_open_max = 2 * config.nodes_max
        self._half_open: dict[asyncio.Task[None], Opening] = {}  # the oldest first
        self._dropped: set[asyncio.Task[None]] = set()
        self._sock = sock
        self._closing = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._accepting = loop.create_task(self._accept(sock), name=f"accept {self.address}")
        # Closed only when the task has ended: until then the loop watches its descriptor, and
        # closing would hand that number to whoever opens the next file.
        self._accepting.add_done_callback(lambda _: sock.close())

    @property
    def half_open(self) -> int:
        return len(self._half_open)

    def close(self) -> None:
        if not self._closing.is_set():
            self._closing.set()
            try:
                self._sock.shutdown(socket.SHUT_RDWR)  # ends accept, on Linux
            except OSError:
                # Elsewhere. A connection that was accepted in this very turn is closed unheard.
                self._accepting.cancel()
        for task in list(self._half_open):
            self._drop(task)

    async def wait_closed(self) -> None:
        self.close()
        await asyncio.wait([self._accepting])
        self.close()  # what was accepted last
        if self._dropped:
            await asyncio.wait(self._dropped)

    async def _accept(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while not self._closing.is_set():
            try:
                accepted, name = await loop.sock_accept(sock)
            except OSError as error:
                if not self._closing.is_set():
                    self._on_refused(f"cannot accept: {why(error)}", "")
                    await self._pause(ACCEPT_PAUSE_S if error.errno in EXHAUSTED else 0)
            else:
                self._begin(Opening(accepted, show_peer(name)))

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    def _begin(self, opening: Opening) -> None:
        if len(self._half_open) >= self._half_open_max:
            task, oldest = next(iter(self._half_open.items()))
            self._drop(task)
            if oldest.dropped:
                bound = f"{self._half_open_max} half-open connections (2 * nodes_max)"
                self._on_refused(f"dropped as the oldest of {bound}", oldest.peer)
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._open(opening), name=f"open {opening.peer}")
        self._half_open[task] = opening
        task.add_done_callback(lambda done: self._ended(done, opening))

    async def _open(self, opening: Opening) -> None:
        try:
            tune(opening.sock, self._config)
        except OSError as error:  # the peer is gone already
            self._on_refused(why(error), opening.peer)
            return
        protocol = self._protocol_factory()
        opening.handed_over = True
        try:
            await self._opener(opening, protocol)
        except NetworkError as error:
            if not opening.dropped:
                self._on_refused(str(error), opening.peer)

    def _drop(self, task: asyncio.Task[None]) -> None:
        opening = self._half_open.pop(task)
        self._dropped.add(task)
        if not opening.made:
            opening.dropped = True
            opening.hang_up()

    def _ended(self, task: asyncio.Task[None], opening: Opening) -> None:
        self._half_open.pop(task, None)
        self._dropped.discard(task)
        if not opening.handed_over:
            opening.sock.close()
        error = None if task.cancelled() else task.exception()
        if error is not None:  # a defect here or in the factory: the loop's handler shows it
            message = f"agentnet: opening a connection from {opening.peer} failed"
            task.get_loop().call_exception_handler({"message": message, "exception": error, "task": task})
