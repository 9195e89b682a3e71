"""Joining, leaving and knowing each other: what `join_network` and `leave_network` promise."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
import weakref
from dataclasses import fields
from typing import Any

import pytest
from networks import (
    Cluster,
    FakePeer,
    Impostor,
    Inbox,
    active,
    answered,
    echo,
    node_process,
    relay,
    soon,
    until,
)

from agentnet import (
    AgentMessage,
    AgentNetworkManager,
    AgentUnreachable,
    ConfigError,
    Event,
    HandshakeRefused,
    JoinFailed,
    NetworkConfig,
    NetworkError,
    NodeStatus,
    NotRunning,
)
from agentnet_core.config import MS_MAX, EngineConfig
from agentnet_core.errors import OutageError

both_loops = pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])
every_scheme = pytest.mark.parametrize("scheme", ["tcp", "tls"])


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago; all held at once, so that they differ."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in held]
    for sock in held:
        sock.close()
    return ports


class TestJoin:
    @both_loops
    @every_scheme
    async def test_it_returns_when_peers_and_their_agents_are_known(self, cluster: Cluster) -> None:
        nets = []
        for number in range(4):
            net = cluster.make(f"n{number}")
            net.agent(f"agent-{number}", ["work"])(echo)
            # Each by another way in: one address is enough to find all.
            await soon(net.join_network(nets[-1].addresses if nets else []))
            nets.append(net)
            names = {f"n{known}" for known in range(number + 1)}
            assert {member.node_id for member in net.members()} == names
            assert {agent.node_id for agent in net.agents("work")} == names
            for known in range(number + 1):
                answer = await soon(net.request(f"agent-{known}", b"hi"))
                assert answer == b"hi"
            for other in nets:
                assert set(active(other)) == names
                assert await soon(other.request(f"agent-{number}", b"back")) == b"back"

    @both_loops
    async def test_all_at_once_with_the_same_list(self, cluster: Cluster) -> None:
        ports = free_ports(5)
        addresses = [f"tcp://127.0.0.1:{port}" for port in ports]
        nets = [
            cluster.make(f"n{number}", listen=address, redial_ms_min=10, redial_ms_max=200)
            for number, address in zip((3, 1, 4, 0, 2), addresses, strict=True)
        ]
        await soon(asyncio.gather(*(net.join_network(addresses) for net in nets)))
        for net in nets[1:]:
            assert len(net.members()) > 1
        await cluster.meshed()
        assert all(len(net.members()) == 5 for net in nets)

    async def test_founding_alone_with_a_list_of_oneself(self, cluster: Cluster) -> None:
        (port,) = free_ports(1)
        net = cluster.make("n1", listen=f"tcp://127.0.0.1:{port}")
        await soon(net.join_network([f"tcp://127.0.0.1:{port}"]), 5)
        assert [member.node_id for member in net.members()] == ["n1"]

    async def test_own_address_in_the_middle_of_the_list(self, cluster: Cluster) -> None:
        (first,) = await cluster.start("n1")
        (port,) = free_ports(1)
        own = f"tcp://127.0.0.1:{port}"
        net = cluster.make("n2", listen=own)
        await soon(net.join_network([*first.addresses, own]), 5)
        assert set(active(net)) == {"n1", "n2"}

    async def test_the_founder_of_a_shared_list_comes_back_into_the_network(self, cluster: Cluster) -> None:
        ports = free_ports(2)
        addresses = [f"tcp://127.0.0.1:{port}" for port in ports]
        quick: dict[str, Any] = {"redial_ms_min": 10, "redial_ms_max": 100}
        nets = [cluster.make(f"n{i}", listen=addresses[i], **quick) for i in range(2)]
        await soon(asyncio.gather(*(net.join_network(addresses) for net in nets)))
        await nets[0].leave_network()
        again = cluster.make("n0", listen=addresses[0], **quick)
        await soon(again.join_network(addresses))
        await until(lambda: set(active(again)) == set(active(nets[1])) == {"n0", "n1"})

    async def test_a_node_that_only_dials(self, cluster: Cluster) -> None:
        (first,) = await cluster.start("n2")
        await first.register_agent("echo", handler=echo)
        net = cluster.make("n1", listen=())
        await soon(net.join_network(first.addresses))
        assert net.addresses == []
        assert await net.request("echo", b"x") == b"x"
        await net.register_agent("mine", handler=echo)
        assert await first.request("mine", b"y") == b"y"

    async def test_it_waits_for_a_first_node_that_starts_later(self, cluster: Cluster) -> None:
        (port,) = free_ports(1)
        net = cluster.make("n2", redial_ms_min=10, redial_ms_max=50)
        joining = asyncio.ensure_future(net.join_network([f"tcp://127.0.0.1:{port}"]))
        await asyncio.sleep(0.05)
        assert not joining.done()
        await cluster.make("n1", listen=f"tcp://127.0.0.1:{port}").join_network([])
        await soon(joining)
        await cluster.meshed()

    async def test_members_tell_where_and_when(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2")
        members = {member.node_id: member for member in one.members()}
        assert members["n2"].addresses == tuple(two.addresses)
        assert members["n2"].plaintext
        assert members["n2"].incarnation > 0
        agent = await two.register_agent("x", ["c"], metadata={"k": "v"})
        (node,) = one.agents("c")
        assert (node.agent_id, node.name, node.node_id) == (agent.id, "x", "n2")
        assert f"tcp://{node.address}:{node.port}" == two.addresses[0]
        assert node.metadata == {"k": "v"}
        assert node.status is NodeStatus.ACTIVE
        before = members["n2"].last_heartbeat
        await until(lambda: next(m for m in one.members() if m.node_id == "n2").last_heartbeat > before)


class TestJoinFails:
    async def test_nobody_there(self, cluster: Cluster) -> None:
        (port,) = free_ports(1)
        net = cluster.make("n1", join_ms_max=1000)
        with pytest.raises(JoinFailed, match=f"(?s)127.0.0.1:{port}.*refused.*join_network") as caught:
            await soon(net.join_network([f"tcp://127.0.0.1:{port}"]), 5)
        assert caught.value.definite

    async def test_every_address_has_its_reason(self, cluster: Cluster) -> None:
        async def silent(peer: FakePeer) -> None:
            await peer.reader.read()

        (port,) = free_ports(1)
        # A loop that stands gives a handshake that time back, but not the join.
        net = cluster.make("n1", join_ms_max=3_000, handshake_ms_max=200)
        async with Impostor(silent) as quiet:
            with pytest.raises(JoinFailed) as caught:
                await soon(net.join_network([f"tcp://127.0.0.1:{port}", quiet]))
        assert f"127.0.0.1:{port}: " in str(caught.value)
        assert "refused" in str(caught.value)
        assert "said nothing for 200 ms (handshake_ms_max)" in str(caught.value)

    @every_scheme
    async def test_another_networks_node(self, cluster: Cluster) -> None:
        (first,) = await cluster.start("n1")
        if cluster.scheme == "tls":
            # Same authority, another network's name in the certificate and the config.
            net = cluster.make("n2", network="staging")
            with pytest.raises(ConfigError, match="staging"):
                await soon(net.join_network(first.addresses), 5)
            return
        net = cluster.make("n2", network="staging")
        with pytest.raises(
            HandshakeRefused, match="'n1' is in network 'default', node 'n2' in network 'stag"
        ):
            await soon(net.join_network(first.addresses), 5)
        await until(lambda: first.stats()["links_refused"] == 1)

    async def test_two_networks_of_one_name(self, cluster: Cluster) -> None:
        (first,) = await cluster.start("n1")
        other = cluster.make("n2")
        await other.join_network([])
        joiner = cluster.make("n3", join_ms_max=2000)
        await soon(joiner.join_network([first.addresses[0], other.addresses[0]]))
        assert len(active(joiner)) == 2

    async def test_both_still_joining(self, cluster: Cluster) -> None:
        ports = free_ports(2)
        addresses = [f"tcp://127.0.0.1:{port}" for port in ports]
        nets = [cluster.make(f"n{i}", listen=addresses[i], join_ms_max=600) for i in range(2)]
        joins = (nets[i].join_network([addresses[1 - i]]) for i in range(2))
        outcomes = await soon(asyncio.gather(*joins, return_exceptions=True), 5)
        assert all(isinstance(outcome, JoinFailed) for outcome in outcomes)
        assert any("still joining" in str(outcome) for outcome in outcomes), "one may end before the other"

    @pytest.mark.parametrize(
        ("bootstrap", "text"),
        [
            (["http://127.0.0.1:1"], "unknown scheme"),
            (["127.0.0.1:7400"], "expected SCHEME://HOST:PORT"),
            (["tcp://127.0.0.1"], "port is missing"),
            ("tcp://127.0.0.1:7400", "expected a list of addresses"),
        ],
    )
    async def test_no_address(self, cluster: Cluster, bootstrap: Any, text: str) -> None:
        net = cluster.make("n1")
        with pytest.raises(ConfigError, match=text):
            await soon(net.join_network(bootstrap), 2)

    async def test_plaintext_beyond_loopback_is_refused_by_name(self, cluster: Cluster) -> None:
        net = cluster.make("n1", join_ms_max=500)
        with pytest.raises(NetworkError, match="plaintext=True"):
            await soon(net.join_network(["tcp://192.0.2.1:7400"]), 5)

    async def test_own_port_is_taken(self, cluster: Cluster) -> None:
        (first,) = await cluster.start("n1")
        net = cluster.make("n2", listen=first.addresses[0])
        with pytest.raises(OutageError, match=f"cannot listen at {first.addresses[0]}: .*in use"):
            await soon(net.join_network([]), 5)

    async def test_leaving_while_joining_ends_the_join(self, cluster: Cluster) -> None:
        (port,) = free_ports(1)
        net = cluster.make("n1")
        joining = asyncio.ensure_future(net.join_network([f"tcp://127.0.0.1:{port}"]))
        await asyncio.sleep(0.05)
        await soon(net.leave_network())
        with pytest.raises(NotRunning):
            await soon(joining, 2)

    async def test_a_cancelled_join_leaves_nothing(self, cluster: Cluster) -> None:
        (port,) = free_ports(1)
        net = cluster.make("n1")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await net.join_network([f"tcp://127.0.0.1:{port}"])
        # `cluster` looks for what is left.
        with pytest.raises(NotRunning, match="left"):
            await net.join_network([])

    async def test_joining_twice(self, cluster: Cluster) -> None:
        (net,) = await cluster.start("n1")
        with pytest.raises(NotRunning, match="has joined already"):
            await net.join_network([])
        assert len(net.addresses) == 1

    async def test_before_the_join(self, cluster: Cluster) -> None:
        net = cluster.make("n1")
        with pytest.raises(NotRunning, match="has not joined"):
            await net.register_agent("x", handler=echo)
        with pytest.raises(NotRunning, match="has not joined"):
            net.request("x", b"")
        assert net.addresses == []
        await net.leave_network()


class TestLeave:
    @both_loops
    @every_scheme
    async def test_the_others_are_told_and_nothing_is_left(self, cluster: Cluster) -> None:
        one, two, three = await cluster.start("n1", "n2", "n3")
        for net in (one, two, three):
            await net.register_agent(f"echo-{net.node_id}", handler=echo)
        watch = cluster.watch(one)
        assert await soon(one.request("echo-n2", b"")) == b""
        await soon(two.leave_network(), 5)
        await watch.wait(Event.LEFT, node_id="n2")
        await watch.wait(Event.AGENT_GONE, node_id="n2", name="echo-n2")
        assert not watch.of(Event.LOST)
        assert set(active(one)) == {"n1", "n3"}
        assert await soon(one.request("echo-n3", b"on")) == b"on"
        assert [agent.name for agent in one.agents() if agent.node_id == "n2"] == []

    @both_loops
    async def test_a_node_that_left_is_garbage(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2")
        await two.register_agent("x", handler=echo)
        await soon(one.request("x", b""))
        gone = weakref.ref(two)
        await two.leave_network()
        cluster.nets.remove(two)
        del two

        def collected() -> bool:
            gc.collect()
            return gone() is None

        await until(collected, 10)

    async def test_what_is_in_the_mailboxes_is_finished(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2", leave_ms_max=20_000)
        done = []

        async def slow(message: AgentMessage) -> bytes:
            await asyncio.sleep(0.01)
            done.append(message.payload)
            return b"done"

        await two.register_agent("slow", handler=slow)
        me = await one.register_agent("me")
        answers = [me.request("slow", b"%d" % number) for number in range(10)]
        await until(lambda: done)
        await soon(two.leave_network())
        assert await soon(asyncio.gather(*answers)) == [b"done"] * 10
        assert done == [b"%d" % number for number in range(10)]

    async def test_it_has_a_deadline(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2", leave_ms_max=200)
        started = asyncio.Event()
        ended = []

        async def hangs(message: AgentMessage) -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(message.payload)

        await two.register_agent("hangs", handler=hangs)
        answer = one.request("hangs", b"now")
        queued = one.request("hangs", b"later")
        await soon(started.wait())
        before = asyncio.get_running_loop().time()
        await soon(two.leave_network(), 5)
        assert asyncio.get_running_loop().time() - before < 2
        assert ended == [b"now"]
        with pytest.raises(NetworkError) as caught:
            await soon(answer)
        assert not caught.value.definite
        with pytest.raises(NetworkError, match="hangs") as caught:
            await soon(queued)
        assert caught.value.definite

    @both_loops
    @every_scheme
    async def test_under_fire(self, cluster: Cluster) -> None:
        """Bytes that are on their way to the leaving node must not cost the others its word."""
        (one,) = await cluster.start("n1")
        sender = await one.register_agent("sender")
        watch = cluster.watch(one)

        async def fire() -> None:
            while True:
                try:
                    await asyncio.gather(*(sender.send("target", bytes(60_000)) for _ in range(20)))
                except NetworkError:
                    await asyncio.sleep(0)

        firing = asyncio.ensure_future(fire())
        for round_ in range(1, 5):
            net = cluster.make("n2")
            await soon(net.join_network(one.addresses))
            box = Inbox()
            await net.register_agent("target", handler=box)
            await box.wait(50)
            await soon(net.leave_network())
            await until(lambda: active(one) == ["n1"])
            assert len(watch.of(Event.LEFT)) == round_
        firing.cancel()
        assert not watch.of(Event.LINK_LOST)

    async def test_twice_and_at_once(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2")
        await soon(asyncio.gather(two.leave_network(), two.leave_network()))
        await two.leave_network()
        await until(lambda: active(one) == ["n1"])

    async def test_from_inside_a_handler(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2")
        left = asyncio.Event()

        async def stop(message: AgentMessage) -> bytes:
            await two.leave_network()
            left.set()
            return b"bye"

        await two.register_agent("stop", handler=stop)
        sending = one.request("stop", b"")
        await soon(left.wait(), 5)
        with pytest.raises(NetworkError):
            await soon(sending)
        await until(lambda: active(one) == ["n1"])

    async def test_afterwards_everything_says_so(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2")
        await one.register_agent("far", handler=echo)
        agent = await two.register_agent("x", handler=echo)
        await two.leave_network()
        with pytest.raises(NotRunning, match="left"):
            await two.register_agent("y")
        with pytest.raises(NotRunning, match="left"):
            await two.broadcast_message(b"")
        for to in ("far", "x", "nobody"):
            with pytest.raises(NetworkError) as caught:
                await agent.send(to, b"")
            assert caught.value.definite
            with pytest.raises(NetworkError) as caught:
                await soon(agent.request(to, b""))
            assert caught.value.definite
        with pytest.raises(NotRunning):
            await two.join_network(one.addresses)

    async def test_async_with_leaves_also_after_an_error(self, cluster: Cluster) -> None:
        (one,) = await cluster.start("n1")
        with pytest.raises(ValueError, match="mine"):
            async with cluster.make("n2") as two:
                await two.join_network(one.addresses)
                raise ValueError("mine")
        await until(lambda: active(one) == ["n1"])

    async def test_streams_of_events_end(self, cluster: Cluster) -> None:
        (net,) = await cluster.start("n1")
        stream = net.events()
        await net.leave_network()
        assert await soon(_all(stream)) == []

    async def test_a_peer_that_does_not_read_does_not_hold_it_up(self, cluster: Cluster) -> None:
        (net,) = await cluster.start("n1", leave_ms_max=300)
        peer = await cluster.peer(net)
        await peer.join("0-deaf", network_uuid=net.control.network_uuid)
        await until(lambda: len(active(net)) == 2)
        await soon(net.leave_network(), 4)
        assert await peer.closing() is not None

    async def test_its_id_can_be_taken_at_once(self, cluster: Cluster) -> None:
        (one,) = await cluster.start("n1")
        for round_ in range(3):
            net = cluster.make("n2")
            await soon(net.join_network(one.addresses))
            await net.register_agent("x", handler=echo)
            assert await soon(one.request("x", b"%d" % round_)) == b"%d" % round_
            await net.leave_network()


async def _all(stream: Any) -> list[Any]:
    return [item async for item in stream]


class TestLosing:
    async def test_a_killed_process_is_lost_and_may_come_back(self, cluster: Cluster) -> None:
        (net,) = await cluster.start("n1", redial_ms_max=200)
        watch = cluster.watch(net)
        settings = {"listen": "tcp://127.0.0.1:0"}
        async with node_process("n2", net.addresses, **settings) as process:
            await watch.wait(Event.JOINED, node_id="n2")
            stuck = net.request("stuck-n2", b"", timeout=30)
            assert await soon(net.request("echo-n2", b"x")) == b"x"
            process.process.kill()
            await watch.wait(Event.LINK_LOST, node_id="n2")
            with pytest.raises(NetworkError, match="n2") as caught:
                await soon(stuck)
            assert not caught.value.definite
            with pytest.raises((AgentUnreachable, NetworkError)) as caught:
                await soon(net.request("echo-n2", b"x"))
            assert caught.value.definite
            lost = await watch.wait(Event.LOST, node_id="n2")
            assert "its process ended, as n1 saw" in lost.detail
            await watch.wait(Event.AGENT_GONE, name="echo-n2")
        async with node_process("n2", net.addresses, **settings):
            await until(lambda: len(watch.of(Event.JOINED, node_id="n2")) == 2)
            assert await soon(net.request("echo-n2", b"again")) == b"again"

    @both_loops
    @every_scheme
    async def test_a_cut_link_is_made_again(self, cluster: Cluster) -> None:
        async with relay() as wire:
            address = f"{cluster.scheme}://127.0.0.1:{wire.port}"
            (one,) = await cluster.start("n1", advertise=[address], redial_ms_min=10, redial_ms_max=100)
            bound = str(one._doors.bound[0])
            wire.aim(bound)
            two = cluster.make("n2", listen=(), redial_ms_min=10, redial_ms_max=100)
            await soon(two.join_network([address]))
            await one.register_agent("echo", handler=echo)
            await two.register_agent("there", handler=echo)
            watch = cluster.watch(two)
            for round_ in range(3):
                assert await soon(two.request("echo", b"x")) == b"x"
                wire.cut()
                await until(lambda seen=round_: len(watch.of(Event.LINK_LOST, node_id="n1")) > seen)
                await until(lambda: len(active(two)) == 2 and len(active(one)) == 2)
                # The agents are known again at once: a link brings them.
                await until(lambda: two.agents() and one.agents())
                assert await soon(one.request("there", b"y")) == b"y"
            assert not watch.of(Event.LOST)
            assert two.stats()["links_lost"] == 3

    async def test_a_silent_link_is_given_up(self, cluster: Cluster) -> None:
        settings = {"ping_interval_ms": 100, "node_silence_ms_max": 900, "link_silence_ms_max": 600}
        async with relay() as wire:
            address = f"tcp://127.0.0.1:{wire.port}"
            (one,) = await cluster.start("n1", advertise=[address], **settings)
            wire.aim(str(one._doors.bound[0]))
            two = cluster.make("n2", listen=(), **settings)
            await soon(two.join_network([address]))
            await one.register_agent("echo", handler=echo)
            watch = cluster.watch(two)
            wire.freeze()
            hanging = two.request("echo", b"", timeout=60)
            lost = await watch.wait(Event.LINK_LOST, node_id="n1")
            assert "silent for 600 ms" in lost.detail
            with pytest.raises(NetworkError, match="n1") as caught:
                await soon(hanging)
            assert not caught.value.definite
            await watch.wait(Event.LOST, node_id="n1")
            wire.thaw()
            await watch.wait(Event.JOINED, node_id="n1")
            assert await answered(two, "echo", b"back") == b"back"

    async def test_a_link_that_only_idles_is_kept(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2", ping_interval_ms=20, link_silence_ms_max=2000)
        watch = cluster.watch(one)

        def heard() -> int:
            return next(member.last_heartbeat for member in one.members() if member.node_id == "n2")

        before = heard()
        await until(lambda: heard() > before + 2_500_000_000)
        assert not watch.of(Event.LINK_LOST)
        assert len(active(two)) == 2

    async def test_a_pause_of_this_process_is_not_the_peers_silence(self, cluster: Cluster) -> None:
        # The peer's process may not get a turn for half a second, where others want the machine, too.
        settings = {"ping_interval_ms": 50, "link_silence_ms_max": 1500}
        (one,) = await cluster.start("n1", **settings)
        async with node_process("n2", one.addresses, listen="tcp://127.0.0.1:0", ping_interval_ms=50):
            watch = cluster.watch(one)
            await until(lambda: len(active(one)) == 2)
            time.sleep(2)  # noqa: ASYNC251 - the pause that is meant
            before = one.engine.now_ns
            await until(lambda: one.engine.now_ns > before + 100_000_000)
            assert not watch.of(Event.LINK_LOST)


async def test_a_config_is_optional_and_the_node_id_is_checked() -> None:
    assert AgentNetworkManager("n1").config == NetworkConfig()
    with pytest.raises(ConfigError, match="node"):
        AgentNetworkManager("no spaces")


@both_loops
@pytest.mark.parametrize("scheme", ["tcp", "tls"])
async def test_nodes_to_which_every_time_is_for_ever(cluster: Cluster) -> None:
    """Its limit is what clocks and timers, the loop's and the kernel's, can be given."""
    times = {field.name: MS_MAX for field in fields(EngineConfig) if "_ms" in field.name}
    assert len(times) > 10
    one, two = await cluster.start("n1", "n2", **times, message_bytes_max=100_000)
    await two.register_agent("x", handler=echo)
    for size in (1, 100_000):
        assert await soon(one.request("x", bytes(size))) == bytes(size)
    one._tick()
    waiting = one.request("x", b"", timeout=1e300)
    assert await soon(waiting) == b""
    await soon(two.leave_network())
    await until(lambda: not one.agents())
