"""Groups of agents on real nodes: who is in them, what reaches them, and what the sender is told."""

from __future__ import annotations

from typing import Any

import pytest
from networks import AGENTS, Cluster, Inbox, soon, until

from agentnet import (
    AgentMessage,
    AgentSpec,
    ConfigError,
    Congested,
    LimitReached,
    MessagePriority,
    MessageType,
    NoSuchAgent,
    NotRunning,
    Unconfirmed,
)
from agentnet_core.agent_record import AgentRecord
from agentnet_core.listing import write_whole


async def test_a_group_over_several_nodes(cluster: Cluster) -> None:
    one, two, three = nets = await cluster.start("n1", "n2", "n3")
    boxes = [Inbox() for _ in range(4)]
    first = await one.register_agent("a", handler=boxes[0], groups=["readers"])
    second = await two.register_agent("b", handler=boxes[1], groups=("readers", "others"))
    (third,) = await three.register_agents([AgentSpec(agent="c", handler=boxes[2])])
    await three.register_agent("d", handler=boxes[3])
    await third.join_group("readers")
    for net in nets:  # each knows it already
        assert sorted(str(agent.name) for agent in net.agents(group="readers")) == ["a", "b", "c"]
        await soon(net.multicast("readers", {"from": net.node_id}))
    for box in boxes[:3]:
        await box.wait(3)
        assert sorted(message.value["from"] for message in box.messages) == ["n1", "n2", "n3"]
        assert {message.group for message in box.messages} == {"readers"}
        assert {message.message_type for message in box.messages} == {MessageType.BROADCAST}
    (shown,) = two.agents(group="others")
    assert shown.groups == ["readers", "others"]
    assert second.groups == ("readers", "others")
    await second.leave_group("others")
    await second.leave_group("others")
    await first.join_group("readers")
    assert (first.groups, second.groups) == (("readers",), ("readers",))
    for net in nets:
        assert net.agents(group="others") == []
        with pytest.raises(NoSuchAgent, match="no agent is in group 'others'") as caught:
            await net.multicast("others", b"x")
        assert caught.value.definite
    assert not boxes[3].messages


async def test_a_message_of_any_type_to_a_group(cluster: Cluster) -> None:
    one, two = await cluster.start("n1", "n2")
    box = Inbox()
    await two.register_agent("box", handler=box, groups=["g"])
    await one.register_agent("source")
    message = AgentMessage(
        b"x" * 200_000, group="g", message_type=MessageType.COMMAND, priority=MessagePriority.HIGH, ttl=60
    )
    await soon(one.send_message(message, sender="source"))
    await box.wait(1)
    (got,) = box.messages
    assert (got.message_type, got.priority, got.payload) == (MessageType.COMMAND, 2, b"x" * 200_000)
    assert (got.group, got.to_agent, got.from_node) == ("g", None, "n1")
    assert 0 < got.ttl <= 60


@pytest.mark.parametrize("group", [None, "", 7, "x" * 129])
async def test_a_name_that_cannot_be(cluster: Cluster, group: Any) -> None:
    (one,) = await cluster.start("n1")
    agent = await one.register_agent("a")
    for call in (one.multicast(group, b""), agent.join_group(group), agent.leave_group(group)):
        with pytest.raises(ConfigError, match="group .*: expected a text of 1 to 128 bytes"):
            await call
    with pytest.raises(ConfigError, match=r"groups='g': expected a list, write \[...\]"):
        await one.register_agent("b", groups="g")
    assert agent.groups == ()


async def test_too_many_groups(cluster: Cluster) -> None:
    (one,) = await cluster.start("n1")
    agent = await one.register_agent("a", groups=[str(i) for i in range(64)])
    with pytest.raises(LimitReached, match="groups: 65, expected at most 64"):
        await agent.join_group("more")
    await agent.leave_group("7")
    await agent.join_group("more")
    assert len(agent.groups) == 64


async def test_who_is_gone_joins_nothing(cluster: Cluster) -> None:
    (one,) = await cluster.start("n1")
    agent, other = await one.register_agent("a"), await one.register_agent("b")
    await one.unregister_agent(agent)
    with pytest.raises(NoSuchAgent, match="agent a is not registered any more"):
        await agent.join_group("g")
    await one.leave_network()
    with pytest.raises(NotRunning):
        await other.join_group("g")


async def test_a_node_that_does_not_confirm(cluster: Cluster) -> None:
    (one,) = await cluster.start("n1")
    agent = await one.register_agent("a")
    peer = await cluster.peer(one)
    await peer.join("0-mute", network_uuid=one.control.network_uuid)
    await until(lambda: len(one.members()) == 2)
    with pytest.raises(Unconfirmed, match="0-mute") as caught:
        await agent.join_group("g", timeout=0.1)
    assert not caught.value.definite
    assert agent.groups == ("g",)


async def test_when_no_node_got_it_that_is_sure(cluster: Cluster) -> None:
    (one,) = await cluster.start("n1", send_wait_ms_max=200)
    peer = await cluster.peer(one)
    await peer.join("0-miser", network_uuid=one.control.network_uuid, credit_bytes=70_000)
    (body,) = write_whole("0-miser", 1, 1, [AgentRecord(7, "0-miser", groups=("g",))], 4096)
    peer.send(AGENTS, body)
    await until(lambda: one.agents(group="g"))
    with pytest.raises(Congested, match="no node got the message: .* of node 0-miser") as caught:
        for _ in range(1000):
            await soon(one.multicast("g", bytes(1000)))
    assert caught.value.definite
    box = Inbox()
    with pytest.raises(Unconfirmed):
        await one.register_agent("box", handler=box, groups=["g"], timeout=0.1)
    with pytest.raises(Congested, match="some nodes did not get the broadcast: .* of node 0-miser") as caught:
        await soon(one.multicast("g", bytes(1000)))
    assert not caught.value.definite
    await box.wait(1)
