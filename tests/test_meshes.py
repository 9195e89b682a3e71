"""Networks of several shapes: mixed schemes and address families, and nodes that come and go all the time."""

from __future__ import annotations

import asyncio
import random
import socket
from typing import Any

import pytest
from networks import Cluster, Inbox, active, echo, soon, until

from agentnet import AgentNetworkManager, ConfigError, HandshakeRefused, MessageTooLarge, NetworkError


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


async def test_plain_and_tls_in_one_network(cluster: Cluster) -> None:
    """On loopback both are allowed, and each pair finds a way that both can go. Such a network is not signed:
    who speaks TLS alone does not join it."""
    both = {"listen": "tcp://127.0.0.1:0,tls://127.0.0.1:0", **cluster.certificates.of("n1")}
    one = cluster.make("n1", **both)
    await one.join_network([])
    assert [address.partition(":")[0] for address in one.addresses] == ["tcp", "tls"]
    strict = cluster.make("n4", listen="tls://127.0.0.1:0", **cluster.certificates.of("n4"))
    with pytest.raises(HandshakeRefused, match="node 'n1' does not sign"):
        await soon(strict.join_network([one.addresses[1]]))
    cluster.nets.remove(strict)
    two = cluster.make("n2", **{**both, **cluster.certificates.of("n2")})
    await soon(two.join_network([one.addresses[1]]))
    three = cluster.make("n3")
    await soon(three.join_network([one.addresses[0]]))
    await cluster.meshed()
    for net in cluster.nets:
        await net.register_agent(f"echo-{net.node_id}", handler=echo)
    for net in cluster.nets:
        for other in cluster.nets:
            assert await soon(net.request(f"echo-{other.node_id}", b"x")) == b"x"
    plain = {member.node_id: member.plaintext for member in one.members()}
    assert plain == {"n1": True, "n2": True, "n3": True}


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
async def test_ipv6_and_names(cluster: Cluster) -> None:
    one = cluster.make("n1", listen="tcp://[::1]:0")
    await one.join_network([])
    assert one.addresses[0].startswith("tcp://[::1]:")
    two = cluster.make("n2", listen="tcp://localhost:0")
    await soon(two.join_network(one.addresses))
    three = cluster.make("n3", listen=())
    await soon(three.join_network([f"tcp://localhost:{two.addresses[0].rpartition(':')[2]}"]))
    await cluster.meshed()
    await one.register_agent("x", ["c"], echo)
    (agent,) = three.agents("c")
    assert (agent.address, agent.port) == ("::1", int(one.addresses[0].rpartition(":")[2]))
    assert await soon(three.request("x", b"y")) == b"y"


async def test_a_tls_bootstrap_without_certificates(cluster: Cluster) -> None:
    net = cluster.make("n1", join_ms_max=1000)
    with pytest.raises(NetworkError, match="needs certificate, private_key and ca") as caught:
        await soon(net.join_network(["tls://127.0.0.1:1"]), 5)
    assert caught.value.definite


async def test_a_network_without_any_listener(cluster: Cluster) -> None:
    net = cluster.make("n1", listen=())
    await net.join_network([])
    await net.register_agent("x", handler=echo)
    assert await soon(net.request("x", b"alone")) == b"alone"
    assert net.agents()[0].address == ""


async def test_plaintext_beyond_loopback_must_be_asked_for(cluster: Cluster) -> None:
    with pytest.raises(ConfigError, match="plaintext=True"):
        cluster.make("n1", listen="tcp://0.0.0.0:0")


async def test_what_is_registered_is_known_to_all_that_have_joined(cluster: Cluster) -> None:
    """Registrations, joins and leaves all at once: each promise holds when its call returns."""
    (home,) = await cluster.start("home")
    joined: dict[str, AgentNetworkManager] = {}
    over = asyncio.Event()
    rng = random.Random(11)

    async def come_and_go(number: int) -> None:
        while not over.is_set():
            net = cluster.make(f"guest-{number}", redial_ms_min=5, redial_ms_max=50)
            await soon(net.join_network(home.addresses))
            known = {agent.name for agent in net.agents()}
            assert registered <= known, f"{net.node_id} joined without {registered - known}"
            joined[net.node_id] = net
            await asyncio.sleep(rng.random() * 0.05)
            del joined[net.node_id]
            await soon(net.leave_network())
            cluster.nets.remove(net)

    registered: set[str] = set()
    guests = [asyncio.ensure_future(come_and_go(number)) for number in range(4)]
    try:
        for number in range(60):
            name = f"agent-{number}"
            before = dict(joined)
            await soon(home.register_agent(name, handler=echo))
            for node_id, net in before.items():
                if joined.get(node_id) is net:
                    assert name in {agent.name for agent in net.agents()}
                    try:
                        assert await soon(net.request(name, b"x")) == b"x"
                    except NetworkError:
                        assert joined.get(node_id) is not net  # it left meanwhile
            registered.add(name)
            await asyncio.sleep(0)
    finally:
        over.set()
        outcomes = await soon(asyncio.gather(*guests, return_exceptions=True))
    assert [outcome for outcome in outcomes if outcome is not None] == []
    await until(lambda: active(home) == ["home"])


async def test_more_nodes_than_a_mesh(cluster: Cluster) -> None:
    """Each is linked to a few, and a broadcast of each reaches all, once; a flood waits, and gets there."""
    limits: dict[str, Any] = {"mesh_nodes_max": 4, "overlay_rings": 1, "redial_ms_min": 10}
    limits |= {"broadcasts_kept_max": 40, "broadcasts_young_ms": 200}
    (first,) = await cluster.start("n0", **limits)
    for number in range(1, 8):
        await soon(cluster.make(f"n{number}", **limits).join_network(first.addresses))
    nets = cluster.nets
    await until(lambda: all(len(active(net)) == 8 for net in nets))
    boxes = [Inbox() for _ in nets]
    for net, box in zip(nets, boxes, strict=True):
        await soon(net.register_agent(f"box-{net.node_id}", handler=box))
    sent = [b"%d" % number for number in range(30)]
    for payload in sent:
        await soon(nets[3].broadcast_message(payload))
    await soon(asyncio.gather(*(net.broadcast_message(net.node_id.encode()) for net in nets)))
    sent += [net.node_id.encode() for net in nets]
    for box in boxes:
        assert sorted(await box.wait(len(sent))) == sorted(sent)
    with pytest.raises(MessageTooLarge, match="broadcast_bytes_max") as caught:
        await nets[0].broadcast_message(bytes(48 * 1024))
    assert caught.value.definite
    assert all(net.stats()["broadcasts_missed"] == 0 for net in nets)


async def test_twelve_nodes(cluster: Cluster) -> None:
    quick: dict[str, Any] = {"redial_ms_min": 10, "redial_ms_max": 200}
    (first,) = await cluster.start("n0", **quick)
    nets = [cluster.make(f"n{number}", **quick) for number in range(1, 12)]
    box = Inbox()
    for net in nets:
        net.agent(f"box-{net.node_id}")(box)
    await soon(asyncio.gather(*(net.join_network(first.addresses) for net in nets)))
    await cluster.meshed()
    for net in cluster.nets:
        # Of links that two nodes dialled at once, one may still be closing.
        await until(lambda net=net: len(net.engine.links) == 11)
        await until(lambda net=net: len(net.agents()) == 11)
    await nets[0].broadcast_message(b"all")
    await box.wait(11)
    assert len(box.messages) == 11
    assert all(net.stats()["links_lost"] == 0 for net in cluster.nets)
