"""Busy is not dead: real processes whose loops block or that are stopped, as other nodes see them."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
import socket
import sys
import time
from typing import Any

import pytest
from click.testing import CliRunner
from networks import (
    CONTINUE_SIGNAL,
    STOP_SIGNAL,
    Cluster,
    Watch,
    answered,
    node_process,
    until,
)

from agentnet import AgentNetworkManager, Event, LinkLost, Member, NodeStatus
from agentnet.cli import main
from agentnet.liveness.packets import LOCKED_TEXT, make_probe, make_ticket
from agentnet.liveness.prober import Prober
from agentnet_core.config import EngineConfig
from agentnet_core.errors import OutageError
from agentnet_core.handshake import Hello

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no thread answers there")

ACTIVE, INACTIVE, DISCONNECTED = NodeStatus.ACTIVE, NodeStatus.INACTIVE, NodeStatus.DISCONNECTED
QUICK: dict[str, Any] = {
    "ping_interval_ms": 1_000,
    "link_silence_ms_max": 3_000,
    "node_silence_ms_max": 2_000,
    "suspicion_ms_min": 500,
    "probe_interval_ms": 200,
    "inactive_lag_ms": 800,
    "unreachable_ms_max": 1_500,
}
BLOCK_S = 7.0
"""Twice as long as a silent link is kept."""
STARVED_S = 100.0
"""On a machine that is starved itself, suspicion takes up to nine times as long: by design."""


def member(net: AgentNetworkManager, node_id: str) -> Member:
    return next(member for member in net.members() if member.node_id == node_id)


async def linked_by(net: AgentNetworkManager, node_id: str, means: str) -> None:
    await until(lambda: member(net, node_id).liveness == means)


def block(net: AgentNetworkManager, how: str) -> asyncio.Future[Any]:
    """Let the busy node block its loop; the answer comes when it turns again."""
    return net.request("block-busy", f"{how} {BLOCK_S}".encode(), timeout=40)


async def sees_it_busy(net: AgentNetworkManager, watch: Watch, how: str) -> str:
    """What the event says of a node that blocks, is INACTIVE meanwhile, and comes back."""
    seen = []
    answer = block(net, how)
    while not answer.done():
        seen.append(member(net, "busy"))
        await asyncio.sleep(0.01)
    assert await answer is None
    assert DISCONNECTED not in {now.status for now in seen}
    assert max(now.lag_ms for now in seen if now.status is INACTIVE) > QUICK["link_silence_ms_max"]
    back = await watch.wait(Event.ACTIVE, node_id="busy")
    assert "turns again" in back.detail
    await until(lambda: member(net, "busy").status is ACTIVE)
    assert not watch.of(Event.LINK_LOST)
    assert not watch.of(Event.LOST)
    # A busy machine may have held it up before.
    return max((event.detail for event in watch.of(Event.INACTIVE, node_id="busy")), key=len)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "scheme"), [("sleep", "tcp"), ("sleep", "tls"), ("spin", "tcp"), ("hold", "tcp")]
)
async def test_a_handler_that_blocks_is_busy_and_not_dead(cluster: Cluster, how: str) -> None:
    [net] = await cluster.start("a", **QUICK)
    watch = cluster.watch(net)
    settings = vars(cluster.config("busy", **QUICK))
    async with node_process("busy", net.addresses, **settings):
        await linked_by(net, "busy", "port")
        detail = await sees_it_busy(net, watch, how)
    if how == "hold":
        assert detail.endswith(LOCKED_TEXT)
    else:
        assert "node_process.py:" in detail.splitlines()[-1]
        assert detail.endswith(f" in {how}")
        assert "in main.<locals>.block" in detail


@pytest.mark.slow
async def test_where_udp_does_not_pass_tcp_tells(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Prober, "_send", lambda *_: None)
    [net] = await cluster.start("a", **QUICK)
    watch = cluster.watch(net)
    async with node_process("busy", net.addresses, **QUICK):
        await linked_by(net, "busy", "port")
        assert "in sleep" in await sees_it_busy(net, watch, "sleep")


@pytest.mark.slow
@pytest.mark.parametrize("shut", ["not offered", "filtered"])
async def test_where_no_port_is_open_the_link_decides(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, shut: str
) -> None:
    if shut == "filtered":
        monkeypatch.setattr(Prober, "_send", lambda *_: None)
        monkeypatch.setattr(Prober, "_exchange", lambda *_: asyncio.sleep(0, b""))
    [net] = await cluster.start("a", **QUICK)
    watch = cluster.watch(net)
    async with node_process("busy", net.addresses, liveness_ports=shut == "filtered", **QUICK):
        await linked_by(net, "busy", "link")
        answer = block(net, "sleep")
        await until(lambda: member(net, "busy").status is DISCONNECTED)
        assert member(net, "busy").liveness == "link"
        assert "it may be busy or dead" in (await watch.wait(Event.LINK_LOST)).detail
        with pytest.raises(LinkLost, match="it may be busy or dead"):
            await answer
        await until(lambda: member(net, "busy").status is ACTIVE)
        assert not watch.of(Event.INACTIVE)


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_stopped_process_is_disconnected_in_time_and_comes_back(cluster: Cluster) -> None:
    long = {**QUICK, "link_silence_ms_max": 50_000}
    nets = await cluster.start("a", "c", "d", **long)
    watches = [cluster.watch(net) for net in nets]
    async with node_process("busy", nets[0].addresses, **long) as process:
        for net in nets:
            await linked_by(net, "busy", "port")
        process.signal(STOP_SIGNAL)
        for net, watch in zip(nets, watches, strict=True):
            await until(lambda net=net: member(net, "busy").status is DISCONNECTED)
            lost = await watch.wait(Event.LINK_LOST)
            assert "silent for" in lost.detail
            assert member(net, "busy").liveness == "port"
            await watch.wait(Event.LOST, STARVED_S, node_id="busy")
        process.signal(CONTINUE_SIGNAL)
        for net in nets:
            await until(lambda net=net: member(net, "busy").status is ACTIVE)
            assert await answered(net, "echo-busy", b"back") == b"back"


async def test_a_node_tells_that_it_was_blocked_itself(cluster: Cluster) -> None:
    [net] = await cluster.start("a", **QUICK)
    watch = cluster.watch(net)
    await asyncio.sleep(0)  # the watch has begun to read
    time.sleep(2.5)  # noqa: ASYNC251 - this is what blocks
    here = "in test_a_node_tells_that_it_was_blocked_itself"
    await until(lambda: [event for event in watch.of(Event.BLOCKED, node_id="a") if here in event.detail])


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
async def test_ports_are_known_and_asked_over_ipv6_too(cluster: Cluster, scheme: str) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    one, two = await cluster.start("a", "b", listen=f"{scheme}://[::1]:0")
    await linked_by(one, "b", "port")
    await linked_by(two, "a", "port")
    assert one.stats()["probes_heard"] >= 1
    assert two.stats()["probes_answered"] >= 1


async def test_a_node_that_does_not_listen_has_no_port(cluster: Cluster) -> None:
    [one] = await cluster.start("a")
    [two] = await cluster.start("b", listen=())
    await linked_by(two, "a", "port")
    assert member(one, "b").liveness == "link"


async def test_a_port_may_be_chosen(cluster: Cluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OutageError, match="liveness port"):
            await cluster.start("a", liveness_at=port)
    [one, two] = await cluster.start("b", "c")
    await linked_by(one, "c", "port")
    del two


def prober_of(net: AgentNetworkManager) -> Any:
    return net._vitals._prober


async def test_answers_that_nobody_asked_for_are_counted_and_dropped(cluster: Cluster) -> None:
    one, _ = await cluster.start("a", "b", **QUICK)
    await linked_by(one, "b", "port")
    prober = prober_of(one)
    [peer] = prober._peers.values()
    [sock] = prober._sockets.values()
    place = ("127.0.0.1", sock.getsockname()[1])
    nonce = os.urandom(16)
    prober._asked[nonce] = peer  # as if it had just been asked for
    before, heard = one.stats()["probes_dropped"], one.stats()["probes_heard"]
    bad = [b"?", os.urandom(80), b"ana1" + nonce + os.urandom(60), make_probe(peer.ticket, nonce)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as forger:
        for data in bad:
            forger.sendto(data, place)
        await until(lambda: one.stats()["probes_dropped"] == before + len(bad))
    assert one.stats()["probes_heard"] == heard
    assert prober._asked[nonce] is peer
    assert member(one, "b").status is ACTIVE


async def test_probes_that_a_stranger_makes_get_no_answer(cluster: Cluster) -> None:
    one, _ = await cluster.start("a", "b")
    udp, tcp, ticket = one._vitals.offer() or (0, 0, b"")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:

        def dropped() -> bool:
            """Packets that are too many for a busy machine are lost before they are counted."""
            probe = make_probe(make_ticket(os.urandom(32), os.urandom(16)), bytes(16))
            stranger.sendto(probe, ("127.0.0.1", udp))
            return one.stats()["probes_dropped"] >= 100

        await until(dropped)
        stranger.setblocking(False)
        with pytest.raises(BlockingIOError):
            stranger.recv(2000)
    assert tcp
    assert ticket


async def test_many_silent_links_ask_little(cluster: Cluster) -> None:
    """Links that speak are asked once when they come up, and then seldom."""
    nets = await cluster.start(*(f"n{number}" for number in range(5)))
    for net in nets:
        for other in nets:
            if other is not net:
                await linked_by(net, other.node_id, "port")
        assert net.stats()["probes_sent"] <= 8


def test_the_table_of_members_shows_the_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    row = dataclasses.asdict(Member("n1", 1, (), INACTIVE, lag_ms=3_217, liveness="port"))
    monkeypatch.setattr("agentnet.cli._observe", lambda *_: [row])
    told = CliRunner().invoke(main, ["members", "--join", "tcp://127.0.0.1:1"]).stdout
    assert "lag_ms" in told
    assert re.search(r"n1 .*inactive .*3217 .*port", told)
    row["lag_ms"] = 0
    assert "lag_ms" not in CliRunner().invoke(main, ["members", "--join", "tcp://127.0.0.1:1"]).stdout


def test_the_key_is_not_shown() -> None:
    ticket = os.urandom(48)
    hello = Hello(network="n", node_id="a", incarnation=1, liveness=(1, 2, ticket))
    assert str(ticket)[2:20] not in repr(hello)
    assert "liveness" not in repr(hello)
    assert Hello.decode(hello.encode()).liveness == (1, 2, ticket)


def test_the_defaults_keep_the_promise() -> None:
    """A stopped process within six seconds: pinged late, asked often, looked at four times a second."""
    config = EngineConfig()
    assert config.ping_interval_ms + config.unreachable_ms_max + config.probe_interval_ms <= 5_750
