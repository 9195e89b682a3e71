"""agentnet.testing on real time: each fault between nodes on loopback, in this process and in others."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from networks import Inbox, echo

from agentnet import (
    AgentNetworkManager,
    ConfigError,
    Event,
    NetworkError,
    NodeStatus,
    NotRunning,
    RequestTimeout,
)
from agentnet.testing import RealNetwork, Weather
from agentnet.testing.relay import Stream, reserve_port

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes are stopped by signals")

# A lost node is noticed in a second, and still not by a machine that is only slow for a moment.
QUICK: dict[str, Any] = {
    "ping_interval_ms": 200,
    "link_silence_ms_max": 1_500,
    "node_silence_ms_max": 1_000,
    "suspicion_ms_min": 500,
    "redial_ms_min": 50,
    "redial_ms_max": 200,
    "handshake_ms_max": 1_000,
}
APP = """
import asyncio
import os

def setup(net):
    @net.agent(f"pid-{net.node_id}")
    async def pid(message):
        return os.getpid()
"""


@pytest.fixture
def net() -> Iterator[RealNetwork]:
    made = RealNetwork(seed=1)
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Holds a module of an app."""
    (tmp_path / "pids.py").write_text(APP)
    return str(tmp_path)


def reaches(node: AgentNetworkManager) -> list[str]:
    return [member.node_id for member in node.members() if member.status is NodeStatus.ACTIVE]


async def lost(node: AgentNetworkManager, other: str) -> None:
    """Return when that node has lost its link to the other."""
    async for event in node.events():
        if event.kind == Event.LINK_LOST and event.node_id == other:
            return


class TestFaults:
    def test_a_partition_heals(self, net: RealNetwork) -> None:
        async def main() -> None:
            a, b, c = await net.nodes("a", "b", "c", **QUICK)
            await b.register_agent("echo", handler=echo)
            assert await a.request("echo", b"1") == b"1"
            net.partition(["a"], ["b", "c"])
            with pytest.raises(NetworkError):
                await a.request("echo", b"2", timeout=0.2)
            assert await c.request("echo", b"3") == b"3"
            await net.until(lambda: reaches(a) == ["a"] and reaches(b) == reaches(c) == ["b", "c"])
            net.heal()
            await net.settled()
            assert await a.request("echo", b"4") == b"4"

        net.run(main())

    def test_one_way(self, net: RealNetwork) -> None:
        async def main() -> None:
            a, b = await net.nodes("a", "b")
            inbox = Inbox()
            await b.register_agent("inbox", handler=inbox)
            net.block("b", "a")
            answer = a.request("inbox", b"there, and not back", timeout=60)
            await inbox.wait(1)
            assert not answer.done()
            net.heal()
            assert await answer == 1  # as with TCP, what was held comes now

        net.run(main())

    def test_half_open(self, net: RealNetwork) -> None:
        async def main() -> None:
            a, b = await net.nodes("a", "b", **QUICK)
            await b.register_agent("echo", handler=echo)
            losing = asyncio.ensure_future(lost(b, "a"))
            await asyncio.sleep(0)
            net.half_open("a", "b")
            await losing
            await net.settled()
            assert await a.request("echo", b"") == b""

        net.run(main())

    def test_cut(self, net: RealNetwork) -> None:
        async def main() -> None:
            a, b = await net.nodes("a", "b", **QUICK)
            losing = [asyncio.ensure_future(lost(a, "b")), asyncio.ensure_future(lost(b, "a"))]
            await asyncio.sleep(0)
            net.cut("b", "a")
            await asyncio.gather(*losing)
            await net.settled()

        net.run(main())

    def test_delay_and_stalls(self, net: RealNetwork) -> None:
        async def main() -> None:
            a, b = await net.nodes("a", "b")
            await b.register_agent("echo", handler=echo)

            async def took() -> float:
                began = net.clock.now
                await a.request("echo", b"")
                return net.clock.now - began

            net.set_weather(Weather(delay_ns=(300_000_000, 300_000_000)), "a", "b")
            assert await took() >= 0.3
            net.set_weather(Weather(delay_ns=(0, 0), stall=1.0))
            assert await took() >= 0.4
            net.set_weather(Weather(delay_ns=(0, 0), cut=1.0))
            with pytest.raises(NetworkError):
                await a.request("echo", b"")
            with pytest.raises(ConfigError, match="lose, flip: TCP never does that"):
                net.set_weather(Weather(lose=0.1, flip=0.1))

        net.run(main())

    @pytest.mark.parametrize("silently", [False, True])
    def test_a_crash_and_a_restart(self, net: RealNetwork, silently: bool) -> None:
        def app(node: AgentNetworkManager) -> None:
            node.agent(f"echo-{node.node_id}")(echo)

        async def main() -> None:
            a, b = await net.nodes("a", "b", app=app, **QUICK)
            address = b.addresses
            await net.crash("b", silently=silently)
            with pytest.raises(NotRunning):
                b.members()
            await net.until(lambda: reaches(a) == ["a"])
            b = await net.restart("b")
            assert b.addresses == address
            await net.settled()
            assert await a.request("echo-b", b"") == b""
            with pytest.raises(ConfigError, match="only one of process"):
                net.pause("b")
            with pytest.raises(ConfigError, match="is for the network to choose"):
                await net.node("c", listen="tcp://127.0.0.1:0")

        net.run(main())


class TestProcesses:
    def test_they_are_linked_stopped_killed_and_started_again(self, net: RealNetwork, folder: str) -> None:
        async def main() -> None:
            [a] = await net.nodes("a", **QUICK)
            first = await net.process("p", "pids:setup", path=[folder], **QUICK)
            await net.settled()
            assert await a.request("pid-p", b"") == first.pid
            net.pause("p")
            with pytest.raises(RequestTimeout):
                await a.request("pid-p", b"", timeout=0.2)
            net.resume("p")
            await net.settled()
            net.partition(["a"], ["p"])
            await net.until(lambda: reaches(a) == ["a"])
            net.heal()
            await net.settled()
            await net.crash("p")
            assert first.pid is not None
            with pytest.raises(ProcessLookupError):
                os.kill(first.pid, 0)
            await net.until(lambda: reaches(a) == ["a"])
            second = await net.process("p", "pids:setup", path=[folder])
            assert second.addresses == first.addresses
            await net.settled()
            assert await a.request("pid-p", b"") == second.pid != first.pid

        net.run(main())

    def test_one_that_cannot_start_says_why(self, net: RealNetwork, folder: str) -> None:
        with pytest.raises(AssertionError, match=r"node p ended with exit code 2(.|\n)*no 'set_up' in it"):
            net.run(net.process("p", "pids:set_up", path=[folder]))

    def test_nothing_is_left(self, folder: str) -> None:
        net = RealNetwork()

        async def main() -> int | None:
            await net.nodes("a")
            child = await net.process("p", "pids:setup", path=[folder])
            net.pause("p")
            return child.pid

        pid = net.run(main())
        folder_of_output = Path(net._folder.name)
        assert "node p; the end of its stderr" in net.report()
        net.close()
        assert pid is not None
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert not folder_of_output.exists()


def test_a_reserved_port_is_for_a_listener_only() -> None:
    import socket

    port, give_back = reserve_port()
    with socket.socket() as other:
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
    give_back()


async def test_what_has_ended_already_can_be_reset() -> None:
    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    async with server:
        stream = Stream(*await asyncio.open_connection(*server.sockets[0].getsockname()))
        for _ in range(5):
            stream.reset()
            await asyncio.sleep(0)
