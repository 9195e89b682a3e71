"""Agents: registered where everybody can see it, handled message by message, awaited as asyncio means it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgpack
import pytest
from networks import (
    AGENTS,
    CONFIRM,
    CONTINUE_SIGNAL,
    STOP_SIGNAL,
    Cluster,
    Inbox,
    answered,
    echo,
    node_process,
    soon,
    until,
)

from agentnet import (
    Agent,
    AgentExists,
    AgentMessage,
    AgentSpec,
    ConfigError,
    Event,
    LimitReached,
    MessagePriority,
    MessageType,
    NetworkError,
    NoSuchAgent,
    NotRunning,
    Unconfirmed,
)

both_loops = pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])


class TestRegister:
    @both_loops
    async def test_every_node_can_use_it_at_once(self, cluster: Cluster) -> None:
        nets = await cluster.start("n1", "n2", "n3", "n4")
        for number in range(5):
            for net in nets:
                name = f"{net.node_id}-{number}"
                agent = await soon(net.register_agent(name, ["echo", name], echo))
                assert (agent.name, agent.id) == (name, agent.agent_id)
                for other in nets:
                    assert [a.agent_id for a in other.agents(name)] == [agent.id]
                    assert await soon(other.request(name, b"x")) == b"x"
        assert all(len(net.agents("echo")) == 20 for net in nets)

    async def test_by_id(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2")
        agent = await two.register_agent(2**64 - 1, handler=echo)
        assert (agent.id, agent.name) == (2**64 - 1, None)
        assert await one.request(2**64 - 1, b"x") == b"x"
        with pytest.raises(NoSuchAgent):
            await one.request(2**64 - 2, b"x")

    async def test_again_replaces_it(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2")
        old = Inbox()
        first = await two.register_agent("x", ["a"], old)
        assert await one.request("x", b"1") == 1
        second = await two.register_agent("x", ["b"], echo, broadcasts=False)
        assert (await one.request("x", b"2"), old.payloads) == (b"2", [b"1"])
        for net in (one, two):
            assert net.agents("a") == []
            assert [a.agent_id for a in net.agents("b")] == [second.id] == [first.id]
        await one.broadcast_message(b"all")
        assert await one.request("x", b"3") == b"3"
        assert old.payloads == [b"1"]

    async def test_what_a_replaced_one_had_not_handled_is_refused(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2")
        begun = asyncio.Event()

        async def hangs(message: AgentMessage) -> None:
            begun.set()
            await asyncio.Event().wait()

        await two.register_agent("x", handler=hangs)
        first, second = one.request("x", b"1"), one.request("x", b"2")
        await soon(begun.wait())
        await two.register_agent("x", handler=echo)
        with pytest.raises(NetworkError) as caught:
            await soon(first)
        assert not caught.value.definite
        with pytest.raises(NetworkError) as caught:
            await soon(second)
        assert caught.value.definite
        assert await one.request("x", b"3") == b"3"

    async def test_another_nodes_is_refused(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2")
        await one.register_agent("x", handler=echo)
        with pytest.raises(AgentExists, match="agent x is registered on node 'n1' already") as caught:
            await two.register_agent("x", handler=echo)
        assert caught.value.definite
        with pytest.raises(AgentExists):
            await two.register_agents(["y", "x"])
        assert [agent.name for agent in two.agents()] == ["x"]
        assert await two.request("x", b"still") == b"still"
        await one.unregister_agent("x")
        await until(lambda: not two.agents())
        await two.register_agent("x", handler=echo)
        assert await one.request("x", b"moved") == b"moved"

    async def test_two_nodes_at_once(self, cluster: Cluster) -> None:
        nets = await cluster.start("n1", "n2", "n3")
        outcomes = await soon(
            asyncio.gather(*(net.register_agent("x", handler=echo) for net in nets), return_exceptions=True)
        )
        assert isinstance(outcomes[0], Agent)
        for outcome in outcomes[1:]:
            assert isinstance(outcome, AgentExists)
        for net in nets:
            assert [(agent.name, agent.node_id) for agent in net.agents()] == [("x", "n1")]
            assert await soon(net.request("x", b"1")) == b"1"

    async def test_a_peer_that_never_confirms_is_named(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2")
        peer = await cluster.peer(one)
        await peer.join("0-mute", network_uuid=one.control.network_uuid)
        with pytest.raises(Unconfirmed, match="nodes 0-mute have not confirmed") as caught:
            await one.register_agent("x", handler=echo, timeout=0.2)
        assert not caught.value.definite
        assert await two.request("x", b"registered all the same") == b"registered all the same"
        waiting = asyncio.ensure_future(one.register_agent("y", handler=echo))
        await peer.expect(AGENTS)
        assert not waiting.done()
        await peer.close()
        # Nobody waits for a node without a link.
        assert (await soon(waiting)).name == "y"

    @pytest.mark.parametrize("confirms", [True, False])
    async def test_the_deadline_is_that_of_the_config(self, cluster: Cluster, confirms: bool) -> None:
        loop = asyncio.get_running_loop()
        (one,) = await cluster.start("n1", register_ms_max=20_000 if confirms else 300)
        peer = await cluster.peer(one)
        await peer.join("0-slow", network_uuid=one.control.network_uuid)
        began = loop.time()
        registering = asyncio.ensure_future(one.register_agent("x", handler=echo))
        owner, incarnation, _, version = msgpack.unpackb(await peer.expect(AGENTS))[:4]
        if confirms:
            assert not registering.done()
            peer.send(CONFIRM, msgpack.packb([owner, incarnation, version, True, []]))
            assert (await soon(registering)).name == "x"
        else:
            with pytest.raises(Unconfirmed, match="nodes 0-slow have not confirmed it in time"):
                await soon(registering)
            assert loop.time() - began >= 0.3

    async def test_a_peer_that_is_stopped_is_named(self, cluster: Cluster) -> None:
        (one,) = await cluster.start("n1")
        async with node_process("n2", one.addresses, listen="tcp://127.0.0.1:0") as process:
            assert await answered(one, "echo-n2", b"x") == b"x"
            process.signal(STOP_SIGNAL)
            with pytest.raises(Unconfirmed, match="nodes n2 have not confirmed"):
                await soon(one.register_agent("x", handler=echo, timeout=0.3))
            process.signal(CONTINUE_SIGNAL)
            await soon(one.register_agent("y", handler=echo))
            assert await one.request("echo-n2", b"x") == b"x"

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ({"agent": 0}, "0 is the node itself"),
            ({"agent": 2**64}, r"1 to 2\*\*64-1"),
            ({"agent": -1}, "expected an id"),
            ({"agent": True}, "expected an id .int. or a name"),
            ({"agent": None}, "expected an id .int. or a name"),
            ({"agent": ""}, "not empty"),
            ({"agent": "x", "concurrency": 0}, "concurrency=0"),
            ({"agent": "x", "handler": "no"}, "not callable"),
            ({"agent": "x", "capabilities": [""]}, "not empty"),
            ({"agent": "x", "capabilities": "read"}, "capabilities"),
            ({"agent": "x", "capabilities": [1]}, "capability: expected a text"),
            ({"agent": "x", "metadata": {"k": 1}}, "expected texts"),
        ],
    )
    async def test_what_cannot_be_registered(
        self, cluster: Cluster, arguments: dict[str, Any], text: str
    ) -> None:
        (net,) = await cluster.start("n1")
        with pytest.raises(NetworkError, match=text) as caught:
            await net.register_agent(**arguments)
        assert caught.value.definite
        assert net.agents() == []

    @pytest.mark.parametrize("size", [0, 2])
    async def test_a_handler_takes_one_message(self, cluster: Cluster, size: int) -> None:
        (net,) = await cluster.start("n1")

        async def none() -> None: ...

        async def two(one: Any, other: Any) -> None: ...

        with pytest.raises(ConfigError, match="agent x: .*one argument"):
            await net.register_agent("x", handler=two if size else none)

    async def test_over_a_limit(self, cluster: Cluster) -> None:
        (net,) = await cluster.start("n1", agents_max=10)
        with pytest.raises(LimitReached, match="agents_max=10"):
            await net.register_agents(list(range(1, 12)))
        with pytest.raises(LimitReached, match="metadata_bytes_max"):
            await net.register_agent("x", metadata={"k": "v" * 5000})
        assert len(await net.register_agents(list(range(1, 11)))) == 10

    async def test_none_at_once_beside_others_that_wait(self, cluster: Cluster) -> None:
        (one,) = await cluster.start("n1")
        assert await one.register_agents([]) == []
        peer = await cluster.peer(one)
        await peer.join("0-mute", network_uuid=one.control.network_uuid)
        waiting = asyncio.ensure_future(one.register_agent("x", handler=echo, timeout=2))
        await peer.expect(AGENTS)
        assert await soon(one.register_agents([]), 1) == []
        assert not waiting.done()
        with pytest.raises(Unconfirmed):
            await soon(waiting)
        await one.leave_network()
        with pytest.raises(NotRunning):
            await one.register_agents([])

    async def test_many_at_once(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2")
        specs = [AgentSpec(agent=f"bulk-{n}", capabilities=("bulk",), handler=echo) for n in range(5000)]
        agents = await soon(one.register_agents(specs))
        assert len(two.agents("bulk")) == len(agents) == 5000
        assert await two.request("bulk-4999", b"x") == b"x"
        three = cluster.make("n3")
        await soon(three.join_network(two.addresses))
        assert len(three.agents("bulk")) == 5000
        await two.register_agents([1, "named", AgentSpec(agent="spec", broadcasts=False)])
        assert len(one.agents()) == 5003

    async def test_unregister(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2")
        agent = await two.register_agent("x", handler=echo)
        watch = cluster.watch(one)
        for handle in (agent, "x", agent.id):
            await two.unregister_agent(handle)
            await watch.wait(Event.AGENT_GONE, name="x", node_id="n2")
            watch.seen.clear()
            with pytest.raises(NoSuchAgent):
                await one.request("x", b"")
            agent = await two.register_agent("x", handler=echo)
            assert await one.request("x", b"1") == b"1"
        with pytest.raises(NoSuchAgent, match="'n1'"):
            await one.unregister_agent("x")
        with pytest.raises(NoSuchAgent):
            await one.unregister_agent("never")


class TestDecorator:
    async def test_before_and_after_the_join(self, cluster: Cluster) -> None:
        (one,) = await cluster.start("n1")
        two = cluster.make("n2")

        @two.agent("early", ["a"], concurrency=2)
        async def early(message: AgentMessage) -> bytes:
            return b"early"

        await soon(two.join_network(one.addresses))
        assert await one.request("early", b"") == b"early"

        @two.agent("late", ["a"], metadata={"k": "v"})
        async def late(message: AgentMessage) -> bytes:
            return b"late"

        assert await answered(one, "late") == b"late"
        assert [agent.metadata for agent in one.agents("a") if agent.name == "late"] == [{"k": "v"}]
        assert await early(AgentMessage(b"")) == b"early"  # it stays a function

    @pytest.mark.parametrize("joined", [False, True])
    async def test_a_cell_that_runs_twice(self, cluster: Cluster, joined: bool) -> None:
        net = cluster.make("n1")
        if joined:
            await net.join_network([])
        for version in range(3):

            @net.agent("reader", ["read"])
            async def reader(message: AgentMessage, version: int = version) -> int:
                return version

            if joined:
                await until(lambda: net.agents("read"))
        if not joined:
            await net.join_network([])
        async with asyncio.timeout(10):
            while await answered(net, "reader") != 2:
                await asyncio.sleep(0.01)
        assert len(net.agents()) == 1

    async def test_after_the_leave_it_is_refused_at_once(self, cluster: Cluster) -> None:
        (joined,) = await cluster.start("n1")
        for net in (joined, cluster.make("n2")):
            await net.leave_network()
            with pytest.raises(NotRunning, match=f"agent late: node {net.node_id} has left") as caught:
                net.agent("late")(echo)
            assert caught.value.definite

    async def test_a_late_failure_is_logged_and_an_event(
        self, cluster: Cluster, caplog: pytest.LogCaptureFixture
    ) -> None:
        one, two = await cluster.start("n1", "n2")
        await one.register_agent("x", handler=echo)
        watch = cluster.watch(two)
        two.agent("x")(echo)
        event = await watch.wait(Event.AGENT_CONFLICT, name="x")
        assert isinstance(event.error, AgentExists)
        assert "agent x was not registered: agent x is registered on node 'n1'" in caplog.text


class TestMessage:
    async def test_what_a_handler_sees(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2")
        box = Inbox()
        await two.register_agent("box", handler=box)
        sender = await one.register_agent("sender")
        await sender.send("box", b"full", priority=MessagePriority.HIGH, ttl=60, message_id="mine, ü")
        await sender.send("box", b"plain")
        await box.wait(2)
        full, plain = box.messages
        assert (full.message_id, full.priority, full.message_type) == (
            "mine, ü",
            MessagePriority.HIGH,
            MessageType.COMMAND,
        )
        assert 59 < full.ttl <= 60
        assert (plain.ttl, plain.priority) == (0, MessagePriority.NORMAL)
        for message in (full, plain):
            assert (message.from_agent, message.from_node) == (sender.id, "n1")
            assert message.to_agent is not None
            assert abs(message.timestamp - full.timestamp) < 60e9
        node, incarnation, sequence = plain.message_id.rsplit(":", 2)
        assert (node, int(sequence)) == ("n1", plain.sequence)
        assert int(incarnation) == next(m.incarnation for m in two.members() if m.node_id == "n1")

    async def test_send_message_carries_any_type(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2")
        box = Inbox()
        await two.register_agent("box", handler=box)
        for kind in MessageType:
            await one.send_message(AgentMessage(b"x", to_agent="box", message_type=kind))
        await box.wait(len(MessageType))
        assert [message.message_type for message in box.messages] == list(MessageType)

    async def test_who_it_comes_from(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2")
        box = Inbox()
        await two.register_agent("box", handler=box)

        async def send(**options: Any) -> int:
            await one.send_message(AgentMessage(b"", to_agent="box", **options.pop("fields", {})), **options)
            count = len(box.messages)
            await box.wait(count + 1)
            return box.messages[-1].from_agent

        assert await send() == 0
        assert await one.request("box", b"from the node itself") == 2
        first = await one.register_agent("first")
        second = await one.register_agent("second")
        assert await send() == first.id
        assert await send(sender="second") == second.id
        assert await send(sender=second) == second.id
        assert await send(fields={"from_agent": "second"}) == second.id
        with pytest.raises(ConfigError, match="'box' is not an agent of node n1"):
            await send(sender="box")


@both_loops
async def test_messages_on_one_node_never_touch_the_wire(cluster: Cluster) -> None:
    one, _ = await cluster.start("n1", "n2")
    box = Inbox()
    await one.register_agent("box", handler=box)
    await one.register_agent("echo", handler=echo)
    before = one.stats()
    sender = await one.register_agent("sender")
    for _ in range(10):
        await sender.send("box", b"x" * 100_000)
        assert await sender.request("echo", b"y") == b"y"
    await box.wait(10)
    after = one.stats()
    assert after["messages_sent"] == before["messages_sent"]
    assert after["messages_local"] == before["messages_local"] + 20
    # Values are encoded all the same: agents share no object.
    value = {"a": [1]}
    await sender.send("box", value)
    await box.wait(11)
    assert box.messages[-1].value == value
    assert box.messages[-1].value is not value


async def test_20000_agents_cost_no_task(cluster: Cluster) -> None:
    (net,) = await cluster.start("n1")
    before = len(asyncio.all_tasks())
    await soon(net.register_agents([AgentSpec(agent=n, handler=echo) for n in range(1, 20_001)]))
    assert len(asyncio.all_tasks()) == before
    assert len(net.agents()) == 20_000
    assert await net.request(17_777, b"x") == b"x"


@pytest.mark.parametrize("timeout", [-1, float("nan")])
async def test_a_timeout_that_is_no_time_registers_nothing(cluster: Cluster, timeout: float) -> None:
    (net,) = await cluster.start("n1")
    with pytest.raises(ConfigError, match="expected seconds, 0 or more"):
        await net.register_agent("x", handler=echo, timeout=timeout)
    assert net.agents() == []
    assert (await net.register_agent("x", handler=echo, timeout=float("inf"))).name == "x"


LARGE = [2**31, 2**40, -(2**40), 2**64, 10**400]


class TestNumbersThatCHasNoRoomFor:
    """They are wrong like any other that is out of range, whatever C would make of them."""

    @pytest.mark.parametrize("value", [-1, 256, 257, 2**32 + 1, *LARGE])
    @pytest.mark.parametrize("name", ["priority", "message_type"])
    async def test_of_a_send(self, cluster: Cluster, name: str, value: int) -> None:
        one, two = await cluster.start("n1", "n2")
        await two.register_agent("x", handler=echo)
        for net in (one, two):
            sender = await net.register_agent(f"sender-{net.node_id}")
            for send in (sender.send, sender.send_nowait):
                with pytest.raises(ConfigError, match=f"{name}="):
                    send("x", b"", **{name: value})
            if name == "priority":
                with pytest.raises(ConfigError, match="priority="):
                    await sender.request("x", b"", priority=value)
        with pytest.raises(ConfigError, match=f"{name}="):
            AgentMessage(b"", to_agent="x", **{name: value})
        assert two.stats()["messages_received"] == 0

    @pytest.mark.parametrize("ttl", [*LARGE, 1e300, float("inf"), float("nan"), -0.1])
    async def test_of_a_ttl(self, cluster: Cluster, ttl: float) -> None:
        (one,) = await cluster.start("n1")
        agent = await one.register_agent("x")
        for send in (agent.send, agent.send_nowait, AgentMessage):
            with pytest.raises(ConfigError, match="ttl="):
                send(*(("x", b"") if send is not AgentMessage else ()), ttl=ttl)
        assert AgentMessage(b"", ttl=4_294_967).ttl == 4_294_967

    async def test_of_a_timeout(self, cluster: Cluster) -> None:
        """More than anybody waits for is for ever, as other large numbers are."""
        (one,) = await cluster.start("n1")
        await one.register_agent("x", handler=echo)
        for large in (10**400, 1e300, float("inf")):
            assert await soon(one.request("x", b"1", timeout=large)) == b"1"
            await soon(one.register_agent("y", timeout=large))
        for small in (-(10**400), -1, float("nan")):
            with pytest.raises(ConfigError, match="timeout="):
                await one.request("x", b"1", timeout=small)

    def test_of_a_timestamp(self) -> None:
        assert AgentMessage(timestamp=2**63 - 1).timestamp == 2**63 - 1
        assert AgentMessage(timestamp=-(2**63)).timestamp == -(2**63)
        for large in (2**63, -(2**63) - 1, 10**400):
            with pytest.raises(ConfigError, match="timestamp="):
                AgentMessage(timestamp=large)

    async def test_what_is_no_number(self, cluster: Cluster) -> None:
        (one,) = await cluster.start("n1")
        agent = await one.register_agent("x")
        for wrong in ({"priority": "high"}, {"priority": 1.5}, {"message_type": None}, {"ttl": "1"}):
            with pytest.raises(TypeError):
                agent.send_nowait("x", b"", **wrong)
