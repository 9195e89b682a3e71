"""What TLS refuses, and what it needs to be had.

Every refusal is checked on both sides: what the listener reports and what the dialler is told.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from certificates import DAY, Authority, uris
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID
from echoes import Echo, connect_and_close, serving, until, wait_lost

from agentnet.config import Address, NetworkConfig
from agentnet.transport import foreign_protocol, open_transport
from agentnet_core.errors import ConfigError, HandshakeRefused, OutageError

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])


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
            await connect_and_close(server)  # nobody else notices

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

    async def test_a_weak_key(self, authority: Authority, config: NetworkConfig) -> None:
        issued = authority.issue("weak", rsa_bits=1024)
        async with serving("tls", config) as server:
            _, protocol = await asyncio.get_running_loop().create_connection(
                Echo,
                "127.0.0.1",
                server.address.port,
                ssl=tls_client(issued, authority, weak=True),
                server_hostname="",
            )
            assert isinstance(await wait_lost(protocol), ssl.SSLError)
            await until(lambda: server.refused)
            assert server.refused[0][0] == "its certificate is refused: EE certificate key too weak"
        with pytest.raises(ConfigError, match="ee key too small"):
            open_transport("tls", NetworkConfig(**issued))

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

    async def test_a_silent_client_is_closed_in_time(
        self, files: dict[str, dict[str, str]], raw: Callable[[Address], socket.socket]
    ) -> None:
        loop = asyncio.get_running_loop()
        config = NetworkConfig(**files["server"], handshake_ms_max=300)
        async with serving("tls", config) as server:
            began = loop.time()
            sock = raw(server.address)
            assert await asyncio.wait_for(loop.sock_recv(sock, 100), 20) == b""
            assert loop.time() - began > 0.25
            peer = "{}:{}".format(*sock.getsockname())
            await until(lambda: server.refused == [("the TLS handshake was not done in time", peer)])
            await until(lambda: server.listener.half_open == 0)

    async def test_a_silent_client_holds_up_nobody(
        self, config: NetworkConfig, raw: Callable[[Address], socket.socket]
    ) -> None:
        async with serving("tls", config) as server:
            raw(server.address)
            await until(lambda: server.listener.half_open == 1)
            await connect_and_close(server)
            assert server.listener.half_open == 1
            assert server.refused == []

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
    issued: dict[str, str] | None,
    authority: Authority,
    alpn: str | None = "agentnet/1",
    weak: bool = False,
) -> ssl.SSLContext:
    """A TLS client that is not ours."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if weak:
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
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
