"""The contract of transports, held against every scheme on every event loop; then what TLS refuses.

Every refusal is checked on both sides: what the listener reports and what the dialler is told.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from certificates import DAY, Authority, uris
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from agentnet.config import Address, NetworkConfig
from agentnet.transport import TRANSPORTS, Transport, foreign_protocol, open_transport, sockets
from agentnet_core.errors import ConfigError, HandshakeRefused, OutageError

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])

every_scheme = pytest.mark.parametrize("scheme", sorted(TRANSPORTS))


class Echo(asyncio.BufferedProtocol):
    """Sends back what it gets (a listener's) or keeps it (a dialler's)."""

    def __init__(self, made: list[Echo] | None = None) -> None:
        self.made = made
        self.transport: asyncio.Transport | None = None
        self.got = bytearray()
        self.heard = asyncio.Event()
        self.lost: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        self._buffer = memoryview(bytearray(32 * 1024))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are of no such class
        if self.made is not None:
            self.made.append(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(self._buffer[:nbytes])
        if self.made is None:
            self.got += data
            self.heard.set()
        else:
            assert self.transport is not None
            self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        assert self.transport is not None, "lost, but never made"
        self.lost.set_result(exc)


class Server:
    """A listener that echoes, and all that it was told."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.connections: list[Echo] = []
        self.refused: list[tuple[str, str]] = []

    def on_refused(self, reason: str, peer: str) -> None:
        self.refused.append((reason, peer))

    def factory(self) -> Echo:
        return Echo(self.connections)


@asynccontextmanager
async def serving(scheme: str, config: NetworkConfig) -> AsyncIterator[Server]:
    server = Server(open_transport(scheme, config))
    server.listener = await server.transport.listen(
        Address(scheme, "127.0.0.1", 0), server.factory, server.on_refused
    )
    server.address = server.listener.address
    try:
        yield server
    finally:
        server.listener.close()
        await server.listener.wait_closed()
        for connection in server.connections:
            connection.transport.abort()
            await connection.lost


async def until(condition: Callable[[], Any], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors in /proc")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


@pytest.fixture(scope="module")
def files(authority: Authority) -> dict[str, dict[str, str]]:
    return {name: authority.issue(name) for name in ("server", "client")}


@pytest.fixture
def config(files: dict[str, dict[str, str]]) -> NetworkConfig:
    return NetworkConfig(**files["server"])


@pytest.fixture
def client_config(files: dict[str, dict[str, str]]) -> NetworkConfig:
    return NetworkConfig(**files["client"])


@pytest.fixture
def raw() -> Iterator[Callable[[Address], socket.socket]]:
    """Connects plain, non-blocking sockets."""
    opened: list[socket.socket] = []

    def connect(address: Address) -> socket.socket:
        sock = socket.create_connection((address.host, address.port))
        sock.setblocking(False)
        opened.append(sock)
        return sock

    yield connect
    for sock in opened:
        sock.close()


@every_scheme
class TestEveryTransport:
    async def test_bytes_cross_and_each_knows_the_other(
        self, scheme: str, config: NetworkConfig, client_config: NetworkConfig
    ) -> None:
        client = open_transport(scheme, client_config)
        async with serving(scheme, config) as server:
            transport, protocol = await client.dial(server.address, Echo)
            assert protocol.transport is transport
            data = os.urandom(1_000_000)
            for start in range(0, len(data), 10_000):
                transport.write(data[start : start + 10_000])
            await until(lambda: len(protocol.got) == len(data))
            assert protocol.got == data
            (accepted,) = server.connections
            assert accepted.transport is not None
            expected = ("server", "client") if client.secure else (None, None)
            found = client.peer_identity(transport), server.transport.peer_identity(accepted.transport)
            assert found == expected
            transport.close()
            await asyncio.wait_for(accepted.lost, 20)
            await asyncio.wait_for(protocol.lost, 20)
            assert server.refused == []

    async def test_sockets_are_tuned(self, scheme: str, config: NetworkConfig) -> None:
        async with serving(scheme, config) as server:
            transport, _ = await server.transport.dial(server.address, Echo)
            await until(lambda: server.connections)
            for end in (transport, server.connections[0].transport):
                sock = end.get_extra_info("socket")
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                    unsent = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
                    assert unsent == sockets.UNSENT_BYTES
            transport.abort()

    async def test_closing_frees_the_port_and_keeps_connections(
        self, scheme: str, config: NetworkConfig
    ) -> None:
        async with serving(scheme, config) as server:
            assert server.address.port > 0
            transport, protocol = await server.transport.dial(server.address, Echo)
            await until(lambda: server.connections)
            server.listener.close()
            await server.listener.wait_closed()
            await server.listener.wait_closed()
            with pytest.raises(OutageError, match=r"Connection refused|refused"):
                await server.transport.dial(server.address, Echo)
            again = await server.transport.listen(server.address, server.factory, server.on_refused)
            assert again.address == server.address
            again.close()
            await again.wait_closed()
            transport.write(b"still here")
            await until(lambda: protocol.got == b"still here")
            transport.abort()

    async def test_nobody_there(self, scheme: str, config: NetworkConfig) -> None:
        async with serving(scheme, config) as server:
            pass
        with pytest.raises(OutageError, match=f"dial {server.address}: .*refused") as caught:
            await server.transport.dial(server.address, Echo)
        assert caught.value.definite

    async def test_a_port_that_is_taken(self, scheme: str, config: NetworkConfig) -> None:
        async with serving(scheme, config) as server:
            with pytest.raises(OutageError, match=f"cannot listen at {server.address}: .*in use"):
                await server.transport.listen(server.address, server.factory, server.on_refused)

    async def test_port_0_is_no_place_to_dial(self, scheme: str, config: NetworkConfig) -> None:
        with pytest.raises(ConfigError, match="expected a port above 0"):
            await open_transport(scheme, config).dial(Address(scheme, "127.0.0.1", 0), Echo)

    async def test_a_host_name_nobody_knows(
        self, scheme: str, config: NetworkConfig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def getaddrinfo(*_: Any, **__: Any) -> Any:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
        with pytest.raises(OutageError, match="looked up: Name or service not known"):
            await open_transport(scheme, config).dial(Address(scheme, "nobody", 1), Echo)

    async def test_every_address_of_a_host_is_tried(
        self, scheme: str, config: NetworkConfig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with serving(scheme, config) as server:
            places = [("127.0.0.2", server.address.port), ("127.0.0.1", server.address.port)]
            resolve(monkeypatch, "several", places)
            address = Address(scheme, "several", server.address.port)
            transport, _ = await server.transport.dial(address, Echo)
            assert transport.get_extra_info("peername") == places[1]
            transport.abort()

    @needs_proc
    @pytest.mark.timeout(300)  # takes two seconds, on a machine that has nothing else to do
    async def test_200_connections_leave_nothing(self, scheme: str, config: NetworkConfig) -> None:
        async with serving(scheme, config) as server:
            await connect_and_close(server)
            before = open_files()
            for number in range(200):
                await connect_and_close(server, abort=number % 3 == 0)
            await until(lambda: open_files() <= before)
            assert server.listener.half_open == 0
            assert server.refused == []

    @needs_proc
    async def test_a_cancelled_dial_leaves_nothing(self, scheme: str, config: NetworkConfig) -> None:
        async with serving(scheme, config) as server:
            await connect_and_close(server)  # loops open a file of their own at the first connection
        before = open_files()
        client = open_transport(scheme, config)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = Address(scheme, *silent.getsockname())
            for turns in range(12):
                dialling = asyncio.ensure_future(client.dial(address, Echo))
                for _ in range(turns):
                    await asyncio.sleep(0)
                dialling.cancel()
                with pytest.raises(asyncio.CancelledError):
                    transport, _ = await dialling
                    transport.abort()
                    raise asyncio.CancelledError  # a plain connection is made at once
        await until(lambda: open_files() <= before)

    async def test_accept_survives_a_lack_of_descriptors(
        self, scheme: str, config: NetworkConfig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loop = asyncio.get_running_loop()
        accept = loop.sock_accept
        failures = [OSError(code, os.strerror(code)) for code in (errno.EMFILE, errno.ECONNABORTED)]

        async def sock_accept(sock: socket.socket) -> Any:
            if failures:
                raise failures.pop(0)
            return await accept(sock)

        monkeypatch.setattr(loop, "sock_accept", sock_accept)
        monkeypatch.setattr(sockets, "ACCEPT_PAUSE_S", 0.01)
        async with serving(scheme, config) as server:
            await connect_and_close(server)
            assert [reason for reason, _ in server.refused] == [
                f"cannot accept: {os.strerror(errno.EMFILE)}",
                f"cannot accept: {os.strerror(errno.ECONNABORTED)}",
            ]

    async def test_a_factory_that_fails_stops_nobody_else(self, scheme: str, config: NetworkConfig) -> None:
        shown: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: shown.append(context))
        async with serving(scheme, config) as server:
            works, broken = server.listener._protocol_factory, [True]

            def factory() -> Echo:
                if broken:
                    broken.clear()
                    raise ZeroDivisionError
                return works()

            server.listener._protocol_factory = factory
            if server.transport.secure:
                with pytest.raises(OutageError, match="closed during the TLS handshake"):
                    await server.transport.dial(server.address, Echo)
            else:
                _, protocol = await server.transport.dial(server.address, Echo)
                await asyncio.wait_for(protocol.lost, 20)
            await connect_and_close(server)
        assert [type(context["exception"]) for context in shown] == [ZeroDivisionError]


async def connect_and_close(server: Server, *, abort: bool = False) -> None:
    count = len(server.connections)
    transport, protocol = await server.transport.dial(server.address, Echo)
    transport.write(b"x")
    await asyncio.wait_for(protocol.heard.wait(), 20)
    assert protocol.got == b"x"
    (accepted,) = server.connections[count:]
    if abort:
        transport.abort()
    else:
        transport.close()
    await asyncio.wait_for(asyncio.gather(protocol.lost, accepted.lost), 20)


def resolve(monkeypatch: pytest.MonkeyPatch, name: str, places: list[tuple[str, int]]) -> None:
    """Let the running loop find ``name`` at ``places``."""
    loop = asyncio.get_running_loop()
    real = loop.getaddrinfo

    async def getaddrinfo(host: str, *arguments: Any, **options: Any) -> Any:
        if host == name:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in places]
        return await real(host, *arguments, **options)

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)


class TestPlaintext:
    async def test_stays_on_loopback(self) -> None:
        transport = open_transport("tcp", NetworkConfig())
        for host in ("192.0.2.1", "2001:db8::1", "0.0.0.0"):
            address = Address("tcp", host, 7400)
            with pytest.raises(ConfigError, match="plaintext=True"):
                await transport.dial(address, Echo)
            with pytest.raises(ConfigError, match=r"'tls://.*:7400' with certificate"):
                await transport.listen(address, Echo, lambda *_: None)

    async def test_a_name_counts_as_its_worst_address(self, monkeypatch: pytest.MonkeyPatch) -> None:
        transport = open_transport("tcp", NetworkConfig())
        resolve(monkeypatch, "db.example.org", [("127.0.0.1", 7400), ("192.0.2.1", 7400)])
        with pytest.raises(ConfigError, match="plaintext=True"):
            await transport.dial(Address("tcp", "db.example.org", 7400), Echo)
        allowed = NetworkConfig(plaintext=True)
        places = await sockets.look_up(Address("tcp", "db.example.org", 7400), allowed, "dial")
        assert [place for _, place in places] == [("127.0.0.1", 7400), ("192.0.2.1", 7400)]

    async def test_localhost_is_loopback(self) -> None:
        server = Server(open_transport("tcp", NetworkConfig()))
        server.listener = await server.transport.listen(
            Address("tcp", "localhost", 0), server.factory, server.on_refused
        )
        server.address = server.listener.address
        assert server.address.host == "localhost"
        await connect_and_close(server)
        server.listener.close()
        await server.listener.wait_closed()

    async def test_what_a_stranger_speaks(self) -> None:
        assert foreign_protocol(bytes.fromhex("160301020001")) == "TLS"
        assert foreign_protocol(b"GET / HTTP/1.1\r\n") == "HTTP"
        assert foreign_protocol(b"\0\0\0\x10") is None
        assert foreign_protocol(b"") is None


async def wait_lost(protocol: Echo) -> BaseException | None:
    return await asyncio.wait_for(protocol.lost, 20)


class TestTlsRefuses:
    """A listener that refuses says why to both sides; no protocol of its own hears of it."""

    @pytest.mark.parametrize(
        ("options", "listener_says", "dialler_is_told"),
        [
            (
                {"begins": -2 * DAY, "ends": -DAY},
                "certificate has expired",
                "refuses our certificate: expired",
            ),
            (
                {"begins": DAY, "ends": 2 * DAY},
                "certificate is not yet valid",
                "refuses our certificate: bad, or not valid yet",
            ),
            (
                {"uses": [ExtendedKeyUsageOID.SERVER_AUTH]},
                "unsupported certificate purpose|unsuitable certificate purpose",
                "refuses our certificate",
            ),
        ],
        ids=["expired", "not-yet-valid", "wrong-use"],
    )
    async def test_a_diallers_bad_certificate(
        self,
        authority: Authority,
        config: NetworkConfig,
        options: Any,
        listener_says: str,
        dialler_is_told: str,
    ) -> None:
        bad = NetworkConfig(**authority.issue("bad", **options))
        await self._refused_by_listener(config, bad, listener_says, dialler_is_told)

    async def test_a_diallers_foreign_certificate(
        self, authority: Authority, stranger: Authority, config: NetworkConfig
    ) -> None:
        bad = NetworkConfig(**{**stranger.issue("client"), "ca": str(authority.ca)})
        await self._refused_by_listener(
            config, bad, "unable to get local issuer certificate", "an authority that it does not know"
        )

    async def _refused_by_listener(
        self, config: NetworkConfig, bad: NetworkConfig, listener_says: str, dialler_is_told: str
    ) -> None:
        async with serving("tls", config) as server:
            client = open_transport("tls", bad)
            _, protocol = await client.dial(server.address, Echo)
            told = client.refusal(await wait_lost(protocol), "server")
            with pytest.raises(HandshakeRefused, match=f"server: it .*{dialler_is_told}"):
                raise told
            assert told.definite
            await until(lambda: server.refused)
            ((reason, peer),) = server.refused
            assert re.fullmatch(f"its certificate is refused: ({listener_says})", reason)
            assert re.fullmatch(r"127\.0\.0\.1:[0-9]+", peer)
            assert server.connections == []
            await self._others_notice_nothing(server)

    async def _others_notice_nothing(self, server: Server) -> None:
        await connect_and_close(server)

    @pytest.mark.parametrize(
        ("options", "dialler_says", "listener_is_told"),
        [
            ({"ends": -timedelta(seconds=1)}, "certificate has expired", "refuses our certificate: expired"),
            ({"uses": [ExtendedKeyUsageOID.CLIENT_AUTH]}, "purpose", "refuses our certificate"),
        ],
        ids=["expired", "wrong-use"],
    )
    async def test_a_listeners_bad_certificate(
        self,
        authority: Authority,
        client_config: NetworkConfig,
        options: Any,
        dialler_says: str,
        listener_is_told: str,
    ) -> None:
        bad = NetworkConfig(**authority.issue("bad", **options))
        await self._refused_by_dialler(bad, client_config, dialler_says, listener_is_told)

    async def test_a_listeners_foreign_certificate(
        self, stranger: Authority, client_config: NetworkConfig
    ) -> None:
        bad = NetworkConfig(**stranger.issue("server"))
        await self._refused_by_dialler(
            bad,
            client_config,
            "self-signed certificate in certificate chain",
            "an authority that it does not know",
        )

    async def _refused_by_dialler(
        self, bad: NetworkConfig, client_config: NetworkConfig, dialler_says: str, listener_is_told: str
    ) -> None:
        async with serving("tls", bad) as server:
            client = open_transport("tls", client_config)
            said = f"dial {server.address}: its certificate is refused: .*{dialler_says}"
            with pytest.raises(HandshakeRefused, match=said) as caught:
                await client.dial(server.address, Echo)
            assert caught.value.definite
            await until(lambda: server.refused)
            assert listener_is_told in server.refused[0][0]
            assert server.connections == []

    @pytest.mark.parametrize(
        ("names", "said"),
        [
            (uris("agentnet://default/a", "agentnet://default/b"), "exactly one URI.*agentnet://default/b"),
            ((), "exactly one URI.*found none"),
            (uris("agentnet://other/client"), "is agentnet://other/client, expected network 'default'"),
        ],
        ids=["two-uris", "none", "other-network"],
    )
    async def test_identities(
        self, authority: Authority, config: NetworkConfig, client_config: NetworkConfig, names: Any, said: str
    ) -> None:
        issued = authority.issue("odd", names)
        async with serving("tls", config) as server:
            client = tls_client(issued, authority)
            await asyncio.get_running_loop().create_connection(
                Echo, "127.0.0.1", server.address.port, ssl=client, server_hostname=""
            )
            await until(lambda: server.connections)
            with pytest.raises(HandshakeRefused, match=said):
                server.transport.peer_identity(server.connections[0].transport)

    async def test_a_stranger_with_a_good_certificate_but_no_alpn(
        self, authority: Authority, config: NetworkConfig, files: dict[str, dict[str, str]]
    ) -> None:
        async with serving("tls", config) as server:
            client = tls_client(files["client"], authority, alpn=None)
            await asyncio.get_running_loop().create_connection(
                Echo, "127.0.0.1", server.address.port, ssl=client, server_hostname=""
            )
            await until(lambda: server.connections)
            with pytest.raises(HandshakeRefused, match="no named protocol in TLS, expected ALPN agentnet/1"):
                server.transport.peer_identity(server.connections[0].transport)

    async def test_no_client_certificate(self, authority: Authority, config: NetworkConfig) -> None:
        async with serving("tls", config) as server:
            _, protocol = await asyncio.get_running_loop().create_connection(
                Echo, "127.0.0.1", server.address.port, ssl=tls_client(None, authority), server_hostname=""
            )
            error = await wait_lost(protocol)
            assert isinstance(error, ssl.SSLError)
            assert error.reason == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
            assert str(server.transport.refusal(error, "x")) == "x: it demands a certificate and got none"
            await until(lambda: server.refused)
            assert server.refused[0][0] == "it shows no certificate"
            assert server.connections == []

    async def test_tls_1_2_only(
        self, authority: Authority, config: NetworkConfig, files: dict[str, dict[str, str]]
    ) -> None:
        client = tls_client(files["client"], authority)
        client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_2
        async with serving("tls", config) as server:
            with pytest.raises(ssl.SSLError) as caught:
                await asyncio.get_running_loop().create_connection(
                    Echo, "127.0.0.1", server.address.port, ssl=client, server_hostname=""
                )
            assert caught.value.reason == "TLSV1_ALERT_PROTOCOL_VERSION"
            await until(lambda: server.refused)
            assert server.refused[0][0] == "it does not offer TLS 1.3"

    @pytest.mark.parametrize(
        "first", [b"\0\0\0\x10plaintext frame", b"GET / HTTP/1.1\r\n\r\n", bytes(range(256))]
    )
    async def test_plaintext(
        self, config: NetworkConfig, raw: Callable[[Address], socket.socket], first: bytes
    ) -> None:
        loop = asyncio.get_running_loop()
        async with serving("tls", config) as server:
            sock = raw(server.address)
            await loop.sock_sendall(sock, first)
            answer = await asyncio.wait_for(loop.sock_recv(sock, 100), 20)
            assert foreign_protocol(answer) == "TLS"
            await until(lambda: server.refused)
            assert "does not speak TLS" in server.refused[0][0] or "HTTP" in server.refused[0][0]
            assert server.connections == []

    async def test_a_silent_client_is_closed_in_time_and_holds_up_nobody(
        self, files: dict[str, dict[str, str]], raw: Callable[[Address], socket.socket]
    ) -> None:
        loop = asyncio.get_running_loop()
        config = NetworkConfig(**files["server"], handshake_ms_max=1_500)
        async with serving("tls", config) as server:
            began = loop.time()
            sock = raw(server.address)
            await until(lambda: server.listener.half_open == 1)
            await connect_and_close(server)
            assert await asyncio.wait_for(loop.sock_recv(sock, 100), 20) == b""
            assert 1.4 < loop.time() - began < 10
            await until(lambda: server.refused)
            assert server.refused[0][0] == "the TLS handshake was not done in time"
            assert server.refused[0][1] == "{}:{}".format(*sock.getsockname())
            assert server.listener.half_open == 0

    async def test_too_many_half_open_drop_the_oldest(
        self, files: dict[str, dict[str, str]], raw: Callable[[Address], socket.socket]
    ) -> None:
        config = NetworkConfig(**files["server"], nodes_max=2)
        async with serving("tls", config) as server:
            silent = [raw(server.address) for _ in range(7)]
            await until(lambda: len(server.refused) == 3)
            assert server.listener.half_open == 4
            assert [peer for _, peer in server.refused] == [
                "{}:{}".format(*sock.getsockname()) for sock in silent[:3]
            ]
            assert "the oldest of 4 half-open connections" in server.refused[0][0]
            assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(silent[0], 100), 20) == b""
            await connect_and_close(server)

    async def test_a_client_that_goes_away_in_the_middle(
        self, config: NetworkConfig, raw: Callable[[Address], socket.socket]
    ) -> None:
        async with serving("tls", config) as server:
            raw(server.address).close()
            await until(lambda: server.refused)
            assert "closed during the TLS handshake" in server.refused[0][0]

    async def test_a_handshake_over_the_limit(
        self, files: dict[str, dict[str, str]], authority: Authority
    ) -> None:
        config = NetworkConfig(**files["server"], handshake_bytes_max=400)
        async with serving("tls", config) as server:
            client = open_transport("tls", NetworkConfig(**files["client"]))
            _, protocol = await client.dial(server.address, Echo)
            told = client.refusal(await wait_lost(protocol), "server")
            assert isinstance(told, OutageError)
            await until(lambda: server.refused)
            assert "the handshake is over handshake_bytes_max" in server.refused[0][0]

    async def test_dialling_what_is_not_tls(self, client_config: NetworkConfig) -> None:
        async with serving("tcp", NetworkConfig()) as server:  # echoes the greeting
            address = Address("tls", server.address.host, server.address.port)
            with pytest.raises(HandshakeRefused, match=f"dial {address}: "):
                await open_transport("tls", client_config).dial(address, Echo)

    async def test_dialling_who_says_nothing(self, files: dict[str, dict[str, str]]) -> None:
        client = open_transport("tls", NetworkConfig(**files["client"], handshake_ms_max=200))
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = Address("tls", *silent.getsockname())
            with pytest.raises(OutageError, match="was not done in time") as caught:
                await client.dial(address, Echo)
            assert caught.value.definite

    async def test_no_tickets(self, config: NetworkConfig, client_config: NetworkConfig) -> None:
        async with serving("tls", config) as server:
            transport, protocol = await open_transport("tls", client_config).dial(server.address, Echo)
            transport.write(b"x")
            await until(lambda: protocol.got)
            tls = transport.get_extra_info("ssl_object")
            assert tls.version() == "TLSv1.3"
            assert not tls.session.has_ticket
            transport.abort()


def tls_client(
    issued: dict[str, str] | None, authority: Authority, alpn: str | None = "agentnet/1"
) -> ssl.SSLContext:
    """A TLS client that is not ours."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(authority.ca)
    if issued is not None:
        context.load_cert_chain(issued["certificate"], issued["private_key"])
    if alpn is not None:
        context.set_alpn_protocols([alpn])
    return context


class TestTlsConfig:
    async def test_own_identity(self, config: NetworkConfig) -> None:
        transport = open_transport("tls", config)
        transport.check_own("server")
        with pytest.raises(ConfigError, match=r"is that of agentnet://default/server, this node is .*/other"):
            transport.check_own("other")
        open_transport("tcp", config).check_own("other")

    async def test_no_certificates(self) -> None:
        with pytest.raises(ConfigError, match="needs certificate, private_key and ca"):
            open_transport("tls", NetworkConfig())

    async def test_unknown_scheme(self) -> None:
        with pytest.raises(ConfigError, match="unknown scheme 'udp', expected one of tcp, tls"):
            open_transport("udp", NetworkConfig())

    @pytest.mark.parametrize("name", ["certificate", "private_key", "ca"])
    async def test_a_file_that_is_missing_or_garbage(
        self, files: dict[str, dict[str, str]], tmp_path: Path, name: str
    ) -> None:
        missing = tmp_path / "missing.pem"
        with pytest.raises(ConfigError, match=f"{name} .*missing.pem"):
            open_transport("tls", NetworkConfig(**{**files["server"], name: str(missing)}))
        missing.write_text("garbage")
        with pytest.raises(ConfigError, match=f"{name} .*missing.pem"):
            open_transport("tls", NetworkConfig(**{**files["server"], name: str(missing)}))

    async def test_a_key_of_another_certificate(self, files: dict[str, dict[str, str]]) -> None:
        mixed = {**files["server"], "private_key": files["client"]["private_key"]}
        with pytest.raises(ConfigError, match="key values mismatch"):
            open_transport("tls", NetworkConfig(**mixed))

    async def test_an_encrypted_key(self, files: dict[str, dict[str, str]], tmp_path: Path) -> None:
        key = load_pem_private_key(Path(files["server"]["private_key"]).read_bytes(), None)
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word"))
        (tmp_path / "key.pem").write_bytes(secret)
        with pytest.raises(ConfigError, match="private_key is encrypted"):
            open_transport(
                "tls", NetworkConfig(**{**files["server"], "private_key": str(tmp_path / "key.pem")})
            )
