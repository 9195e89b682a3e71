"""Nodes that cannot dial each other, on real sockets: what they send goes through one that both can."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from networks import Cluster, echo, soon, until

from agentnet import AgentNetworkManager, AgentUnreachable, Event, LinkLost
from agentnet.link import Link
from agentnet.testing import VirtualNetwork
from agentnet.transport.tcp import TcpTransport
from agentnet_core.session import Session
from agentnet_core.tunnels import Leg, Tunnel, Tunnels


def closed_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def relay_of(net: AgentNetworkManager, node_id: str) -> str:
    return next(member.relay for member in net.members() if member.node_id == node_id)


async def hidden(cluster: Cluster, *others: str, **settings: Any) -> list[AgentNetworkManager]:
    """Two nodes that nobody can dial, and others, which they have dialled. Each has an agent of its name."""
    nodes = await cluster.start(*others)
    seeds = [address for net in nodes for address in net.addresses]
    ends = []
    for name in ("one", "two"):
        nowhere = f"{cluster.scheme}://127.0.0.1:{closed_port()}"
        ends.append(cluster.make(name, advertise=[nowhere], **settings))
        await soon(ends[-1].join_network(seeds))
    for net in cluster.nets:  # who does not know of a node tells it nothing
        await until(lambda net=net: len(net.control.membership) == len(cluster.nets))
    for net in cluster.nets:
        await net.register_agent(net.node_id, handler=echo)
    for net, other in (ends, ends[::-1]):
        await until(lambda net=net, other=other: net.agents(name=other.node_id))
    assert all(len(net.engine.sessions) == len(others) for net in ends)
    return [*ends, *nodes]


async def show(cluster: Cluster, *ends: AgentNetworkManager) -> None:
    """Let them be dialled from now on, and wait until they are linked without a tunnel."""
    for net in ends:
        net.control.set_addresses(tuple(str(address) for address in net._doors.bound))
        net.turn()
    await until(lambda: not any(session.relay for net in cluster.nets for session in net.engine.links), 30)
    await until(
        lambda: all(other.node_id in net.engine.sessions for net in ends for other in ends if net != other)
    )
    counts = ("tunnels", "tunnels_relayed")
    await until(lambda: not any(net.stats()[count] for net in cluster.nets for count in counts))


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
async def test_what_cannot_be_dialled_is_reached_through_another_and_back(cluster: Cluster) -> None:
    one, two, hub = await hidden(cluster, "hub")
    assert await soon(one.request("two", b"there?")) == b"there?"
    big = bytes(range(256)) * 4096 * 2
    assert await soon(asyncio.gather(one.request("two", big), two.request("one", big))) == [big, big]
    assert relay_of(one, "two") == relay_of(two, "one") == "hub"
    session = one.engine.sessions["two"]
    assert session.certified == ("two" if cluster.scheme == "tls" else None)
    assert hub.stats()["tunnels_relayed"] == 1
    assert hub.stats()["bytes_relayed"] > 8 << 20
    assert sum(net.stats()["tunnels_opened"] for net in (one, two)) == 1


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
async def test_a_link_of_its_own_takes_over_while_they_talk(cluster: Cluster) -> None:
    one, two, _ = await hidden(cluster, "hub")
    assert await soon(one.request("two", b"there?")) == b"there?"
    asked = 0
    done = False

    async def ask(net: AgentNetworkManager, to: str) -> None:
        nonlocal asked
        while not done:
            payload = b"%d" % asked + bytes(asked % 7 * 20_000)
            asked += 1
            assert await net.request(to, payload) == payload

    async with asyncio.TaskGroup() as group:
        for net, to in ((one, "two"), (two, "one")) * 2:
            group.create_task(ask(net, to))
        await until(lambda: asked > 50)
        await show(cluster, one, two)
        before = asked
        await until(lambda: asked > before + 50)
        done = True
    assert not any(net.stats()["replies_lost"] or net.stats()["links_lost"] for net in (one, two))


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
async def test_when_the_relay_ends_what_was_under_way_is_unknown_and_another_is_found(
    cluster: Cluster,
) -> None:
    one, two, *hubs = await hidden(cluster, "hub", "hub-2")
    begun = asyncio.Event()

    async def wait(message: Any) -> None:
        begun.set()
        await asyncio.sleep(60)

    await two.register_agent("slow", handler=wait)
    await until(lambda: one.agents(name="slow"))
    asked = one.request("slow", b"")
    await soon(begun.wait())
    first = relay_of(one, "two")
    (gone,) = [net for net in hubs if net.node_id == first]
    await gone.leave_network()
    with pytest.raises(LinkLost) as caught:
        await soon(asked)
    assert not caught.value.definite
    assert await soon(one.request("two", b"again")) == b"again"
    assert relay_of(one, "two") not in ("", first)


async def test_where_nobody_relays_it_fails_and_says_so(cluster: Cluster) -> None:
    (hub,) = [cluster.make("hub", relay=False)]
    await hub.join_network([])
    one, two = [cluster.make(name, advertise=[f"tcp://127.0.0.1:{closed_port()}"]) for name in ("one", "two")]
    for net in (one, two):
        await soon(net.join_network(hub.addresses))
    await until(lambda: all(len(net.control.membership) == 3 for net in (one, two, hub)))
    await two.register_agent("two", handler=echo)
    await until(lambda: one.agents(name="two"))
    with pytest.raises(AgentUnreachable, match=r"node hub does not relay \(relay=False\)") as caught:
        await soon(one.request("two", b"?"))
    assert caught.value.definite


@pytest.mark.parametrize("scheme", ["tls"])
async def test_a_relay_that_alters_what_tls_guards_ends_that_link_only(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _, hub = await hidden(cluster, "hub")
    assert await soon(one.request("two", b"1")) == b"1"
    take, lies = Leg.take, True

    def lie(self: Leg, most: int) -> bytes | None:
        piece = take(self, most)
        return piece[:-1] + bytes([piece[-1] ^ 1]) if piece and lies and self.beyond is not None else piece

    monkeypatch.setattr(Leg, "take", lie)
    with pytest.raises(LinkLost):
        await soon(one.request("two", b"2"))
    assert all(len(net.engine.sessions) == 2 for net in (hub,))
    with pytest.raises(AgentUnreachable, match="TLS"):
        await soon(one.request("two", b"3"))
    lies = False
    assert await soon(one.request("two", b"4")) == b"4"


@pytest.mark.parametrize("scheme", ["tls"])
async def test_who_is_not_the_node_that_was_asked_for_is_refused(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _, hub = await hidden(cluster, "hub")
    on_open = Tunnels._on_open

    def divert(self: Tunnels, session: Session, number: int, source: str, target: str, window: int) -> None:
        """The relay takes the other end's place."""
        here = self is hub.control.tunnels
        on_open(self, session, number, source, "hub" if here else target, window)

    monkeypatch.setattr(Tunnels, "_on_open", divert)
    with pytest.raises(AgentUnreachable, match="node 'hub' is there") as caught:
        await soon(one.request("two", b"?"))
    assert caught.value.definite
    assert len(one.engine.sessions) == 1


@pytest.mark.parametrize("scheme", ["tls"])
async def test_a_tunnel_in_plaintext_is_refused_where_all_speak_tls(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, _ = await hidden(cluster, "hub")

    def plain(tunnel: Tunnel, first: bytes) -> tuple[Link, None]:
        del one._doors._opening[tunnel.handle]
        return Link(one, one.engine, TcpTransport(one.config), tunnel.dial), None

    watch = cluster.watch(two)
    monkeypatch.setattr(one._doors, "_inside", plain)
    with pytest.raises(AgentUnreachable):
        await soon(one.request("two", b"?"))
    text = "relay://hub/one is plaintext: node two speaks TLS alone"
    assert [event.detail for event in watch.seen if event.kind == Event.LINK_REFUSED] == [text]
    assert two.stats()["connections_refused"] == 1
    assert "two" not in one.engine.sessions


async def test_what_only_begins_inside_is_given_up(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, hub = await hidden(cluster, "hub", handshake_ms_max=300)
    monkeypatch.setattr(one._doors, "look", lambda tunnel: None)
    with pytest.raises(AgentUnreachable) as caught:
        await soon(one.request("two", b"?"))
    assert caught.value.definite
    await until(lambda: two.stats()["connections_refused"] == 1)
    await until(lambda: not two.stats()["tunnels"])
    assert "two" not in one.engine.sessions
    assert hub.stats()["tunnels_opened"] == 0


@pytest.mark.parametrize("seed", range(3))
def test_on_virtual_time_too(seed: int) -> None:
    network = VirtualNetwork(seed=seed)

    async def main() -> None:
        for name in ("one", "two", "hub"):
            net = await network.node(name)
            await net.register_agent(name, handler=echo)
        network.block("one", "two")
        network.block("two", "one")
        one, two = network["one"], network["two"]
        await until(lambda: "two" not in one.engine.sessions and "one" not in two.engine.sessions, 60)
        asked = [net.request(to, bytes(500_000)) for net, to in ((one, "two"), (two, "one"))]
        assert await asyncio.gather(*asked) == [bytes(500_000)] * 2
        assert relay_of(one, "two") == "hub"
        network.heal()
        await until(lambda: not any(s.relay for s in one.engine.links) and "two" in one.engine.sessions, 60)
        assert await one.request("two", b"straight") == b"straight"

    try:
        network.run(main())
    finally:
        network.close()
