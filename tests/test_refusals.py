"""A link that cannot be: both nodes count it, an event tells each of them why, and so does a failed join."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from certificates import DAY, Authority, uris
from networks import CLOSE, HELLO, Cluster, FakePeer, Impostor, Watch, soon, until

from agentnet import AgentNetworkManager, Event, HandshakeRefused, JoinFailed, NetworkError
from agentnet_core.handshake import Close

every_scheme = pytest.mark.parametrize("scheme", ["tcp", "tls"])
tls = pytest.mark.parametrize("scheme", ["tls"])


def refusals(net: AgentNetworkManager) -> int:
    stats = net.stats()
    return stats["links_refused"] + stats["connections_refused"]


def told(watch: Watch, text: str) -> list[Event]:
    """Events that a link was not made, or did not last, for that reason."""
    return [e for e in watch.seen if e.kind in (Event.LINK_REFUSED, Event.LINK_LOST) and text in e.detail]


class Meeting:
    """A node that is in its network, and one that wants to join it and may not."""

    def __init__(self, cluster: Cluster, here: AgentNetworkManager, newcomer: AgentNetworkManager) -> None:
        self.here, self.newcomer = here, newcomer
        self.watches = [cluster.watch(here), cluster.watch(newcomer)]

    async def fails(self, here: str, newcomer: str | None = None) -> NetworkError:
        """The error of the join; what the events of each side say is given."""
        before = refusals(self.here)
        with pytest.raises((HandshakeRefused, JoinFailed)) as caught:
            await soon(self.newcomer.join_network(self.here.addresses))
        assert caught.value.definite
        assert (newcomer or here) in str(caught.value)
        sides = zip(self.watches, (here, newcomer or here), (self.newcomer, self.here), strict=True)
        for watch, text, other in sides:
            await until(lambda watch=watch, text=text: told(watch, text), 5)
            assert not watch.of(Event.JOINED, detail=f"incarnation {other.control.engine.incarnation}")
        assert refusals(self.here) > before
        assert self.newcomer.stats()["links_refused"] >= 1
        return caught.value


@every_scheme
class TestTwoNodes:
    @pytest.mark.parametrize("names", [("n1", "n2"), ("n2", "n1")])
    async def test_of_two_networks_with_one_name(self, cluster: Cluster, names: tuple[str, str]) -> None:
        (here,) = await cluster.start(names[0])
        newcomer = cluster.make(names[1], join_ms_max=5000)
        watches = [cluster.watch(here), cluster.watch(newcomer)]
        await soon(newcomer.join_network([]))
        counted = [refusals(net) for net in (here, newcomer)]
        newcomer.control.membership.bootstrap(here.addresses, newcomer.engine.now_ns)
        newcomer.control.tick(newcomer.engine.now_ns)
        newcomer.turn()
        for watch in watches:
            await until(lambda watch=watch: told(watch, "two networks are named 'default'"), 5)
        assert all(refusals(net) > before for net, before in zip((here, newcomer), counted, strict=True))

    @pytest.mark.parametrize("names", [("n1", "n2"), ("n2", "n1")])
    async def test_of_two_versions(self, cluster: Cluster, names: tuple[str, str]) -> None:
        (here,) = await cluster.start(names[0])
        newcomer = cluster.make(names[1], join_ms_max=5000)
        of_today = AgentNetworkManager._start

        def of_tomorrow() -> Any:
            identity = of_today(newcomer)
            admission = newcomer.control.admission
            hello = admission._hello
            admission._hello = lambda secure: replace(hello(secure), protocol_min=2, protocol_max=3)  # type: ignore[method-assign]
            return identity

        newcomer._start = of_tomorrow  # type: ignore[method-assign]
        await Meeting(cluster, here, newcomer).fails("no common protocol version")

    @pytest.mark.parametrize("other", ["a", "z"])
    async def test_of_one_id(self, cluster: Cluster, other: str) -> None:
        quick = {"redial_ms_max": 200, "join_ms_max": 15_000}
        here, _ = await cluster.start(other, "twin", **quick)
        error = await Meeting(cluster, here, cluster.make("twin", **quick)).fails(
            "is taken by a living node", "'twin'"
        )
        # What to do, for who ran a notebook's cell twice: by whichever node of that id it was refused.
        assert "`await net.leave_network()`" in str(error)

    @pytest.mark.parametrize("names", [("n1", "n2"), ("n2", "n1")])
    async def test_of_which_one_knows_enough(self, cluster: Cluster, names: tuple[str, str]) -> None:
        (here,) = await cluster.start(names[0], nodes_max=1)
        newcomer = cluster.make(names[1], join_ms_max=3000)
        await Meeting(cluster, here, newcomer).fails("one too many for nodes_max=1")


async def test_two_nodes_of_other_networks(cluster: Cluster) -> None:
    """Under TLS their certificates say it first."""
    (here,) = await cluster.start("n1")
    newcomer = cluster.make("n2", network="staging", join_ms_max=5000)
    await Meeting(cluster, here, newcomer).fails("is in network 'staging'", "in network 'default'")


@tls
class TestCertificates:
    @pytest.mark.parametrize("what", ["expired", "not yet", "foreign"])
    async def test_of_the_newcomer(
        self, cluster: Cluster, authority: Authority, stranger: Authority, what: str
    ) -> None:
        (here,) = await cluster.start("n1", **authority.issue("n1"))
        issued = {
            "expired": lambda: authority.issue("late", uris("agentnet://default/n2"), ends=-DAY / 2),
            "not yet": lambda: authority.issue("early", uris("agentnet://default/n2"), begins=DAY / 2),
            "foreign": lambda: stranger.issue("n2") | {"ca": str(authority.ca)},
        }[what]()
        newcomer = cluster.make("n2", join_ms_max=3000, **issued)
        await Meeting(cluster, here, newcomer).fails("certificate is", "refuses our certificate")

    async def test_of_the_node_that_is_there(
        self, cluster: Cluster, authority: Authority, stranger: Authority
    ) -> None:
        (here,) = await cluster.start("n1", **stranger.issue("n1"))
        newcomer = cluster.make("n2", join_ms_max=3000, **authority.issue("n2"))
        await Meeting(cluster, here, newcomer).fails("refuses our certificate", "its certificate is refused")

    async def test_of_another_network(self, cluster: Cluster, authority: Authority) -> None:
        (here,) = await cluster.start("n1", **authority.issue("n1"))
        elsewhere = authority.issue("n2-staging", uris("agentnet://staging/n2"))
        newcomer = cluster.make("n2", network="staging", join_ms_max=3000, **elsewhere)
        await Meeting(cluster, here, newcomer).fails(
            "agentnet://staging/n2, expected network 'default'", "network"
        )


def _says(kind: int, body: bytes) -> Callable[[FakePeer], Awaitable[None]]:
    async def behave(peer: FakePeer) -> None:
        peer.send(kind, body)
        await peer.reader.read()

    return behave


def _writes(data: bytes) -> Callable[[FakePeer], Awaitable[None]]:
    async def behave(peer: FakePeer) -> None:
        peer.write(data)
        await peer.reader.read()

    return behave


async def _hangs_up(peer: FakePeer) -> None:
    return


BAD_NODES: dict[str, tuple[Callable[[FakePeer], Awaitable[None]], str]] = {
    "garbage": (_writes(b"\xff" + os.urandom(200)), "bytes at byte 0: expected"),
    "over the limit": (_writes(struct.pack(">I", 128 * 1024 + 1) + b"\0\0"), "frame of 131073 bytes"),
    "deep nesting": (_says(HELLO, b"\x91" * 30_000 + b"\0"), "nested deeper than"),
    "bomb": (_says(HELLO, b"\xdd\xff\xff\xff\xff"), "malformed, cut short"),
    "another version": (_says(HELLO, msgpack.packb({0: 5, 1: 6})), "the other side speaks 5 to 6"),
    "much too soon": (_writes(struct.pack(">IBB", 100_000, 0, 0) + bytes(65_600)), "handshake_bytes_max"),
    "silence": (_writes(b""), "said nothing for 300 ms"),
    "http": (_writes(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "speaks HTTP"),
    "a refusal": (
        _says(CLOSE, Close(HandshakeRefused.code, "we are closed\nfor today").encode()),
        "we are closed\\nfor today",
    ),
    "an end": (_hangs_up, "closed the connection"),
}


@pytest.mark.parametrize("what", BAD_NODES)
async def test_a_bad_node_that_is_dialled(cluster: Cluster, what: str) -> None:
    behave, text = BAD_NODES[what]
    # Short only where the silence is what is waited for: a slow machine may seem silent, too.
    silent = {"handshake_ms_max": 300} if what == "silence" else {}
    net = cluster.make("n1", join_ms_max=3000, **silent)
    watch = cluster.watch(net)
    async with Impostor(behave) as address:
        with pytest.raises((JoinFailed, HandshakeRefused), match=re.escape(text)) as caught:
            await soon(net.join_network([address]))
    assert caught.value.definite
    event = (await until(lambda: told(watch, text), 5))[0]
    assert event.node_id == address
    assert net.stats()["links_refused"] == len(told(watch, text))


async def test_a_dial_that_finds_nobody_is_no_refusal(cluster: Cluster) -> None:
    net = cluster.make("n1", join_ms_max=300)
    watch = cluster.watch(net)
    with pytest.raises(JoinFailed):
        await soon(net.join_network(["tcp://127.0.0.1:1"]))
    assert net.stats()["links_refused"] == 0
    assert not watch.of(Event.LINK_REFUSED)
