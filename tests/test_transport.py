"""The contract of transports, held against every scheme on every event loop."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket
from typing import Any

import pytest
from certificates import Authority
from echoes import Echo, Server, connect_and_close, open_files, serving, until, wait_lost

from agentnet.config import Address, NetworkConfig
from agentnet.transport import TRANSPORTS, foreign_protocol, open_transport, sockets
from agentnet_core.errors import ConfigError, OutageError

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])

every_scheme = pytest.mark.parametrize("scheme", sorted(TRANSPORTS))
needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors in /proc")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def config(authority: Authority) -> NetworkConfig:
    return NetworkConfig(**authority.issue("server"))


@pytest.fixture(scope="module")
def client_config(authority: Authority) -> NetworkConfig:
    return NetworkConfig(**authority.issue("client"))


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
    async def test_closing_while_others_dial_leaves_nothing(self, scheme: str, config: NetworkConfig) -> None:
        async with serving(scheme, config) as server:
            await connect_and_close(server)
        before = open_files()
        for turns in range(12):
            async with serving(scheme, config) as server:
                dials = [asyncio.ensure_future(server.transport.dial(server.address, Echo)) for _ in range(3)]
                for _ in range(turns):
                    await asyncio.sleep(0)
            for result in await asyncio.gather(*dials, return_exceptions=True):
                if isinstance(result, tuple):
                    result[0].abort()
                    await wait_lost(result[1])
                else:
                    assert isinstance(result, OutageError)
        await until(lambda: open_files() <= before)
        gc.collect()  # a socket that was forgotten warns, and a warning fails the test

    @needs_proc
    async def test_a_cancelled_dial_leaves_nothing(self, scheme: str, config: NetworkConfig) -> None:
        async with serving(scheme, config) as server:
            await connect_and_close(server)  # loops open a file of their own at the first connection
        before = open_files()
        client = open_transport(scheme, config)
        protocols: list[Echo] = []

        def factory() -> Echo:
            protocols.append(Echo())
            return protocols[-1]

        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = Address(scheme, *silent.getsockname())
            for turns in range(12):
                dialling = asyncio.ensure_future(client.dial(address, factory))
                for _ in range(turns):
                    await asyncio.sleep(0)
                dialling.cancel()
                with pytest.raises(asyncio.CancelledError):
                    transport, _ = await dialling
                    transport.abort()
                    raise asyncio.CancelledError  # a plain connection is made at once
        await until(lambda: open_files() <= before)
        await until(lambda: all(protocol.lost.done() for protocol in protocols if protocol.transport))

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
