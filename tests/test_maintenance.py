"""Maintenance as users see it: a node that takes no new work, and goes on with what it has."""

from __future__ import annotations

import asyncio

import pytest
from commands import called
from networks import Cluster, Inbox, active, answered, echo, soon, until

from agentnet import (
    AgentMessage,
    AgentNetworkManager,
    AgentUnreachable,
    NodeStatus,
    NotRunning,
)


def statuses(net: AgentNetworkManager) -> dict[str, NodeStatus]:
    return {member.node_id: member.status for member in net.members()}


async def shown(nets: list[AgentNetworkManager], node_id: str, status: NodeStatus) -> None:
    """All nodes show it, of the node and of its agents."""
    await until(lambda: all(statuses(net)[node_id] is status for net in nets))
    for net in nets:
        assert {agent.status for agent in net.agents() if agent.node_id == node_id} <= {status}


async def test_it_takes_no_new_work_and_finishes_what_it_has(cluster: Cluster) -> None:
    nets = one, two, three = await cluster.start("n1", "n2", "n3")
    go_on, begun = asyncio.Event(), asyncio.Event()

    async def slow(message: AgentMessage) -> bytes:
        begun.set()
        await go_on.wait()
        answer: bytes = await two.request("other", message.payload)
        return answer

    await two.register_agent("slow", ["work"], slow)
    await three.register_agent("other", ["work"], echo)
    inbox = Inbox()
    await two.register_agent("inbox", handler=inbox)
    asking = one.request("slow", b"begun")
    await soon(begun.wait())
    await two.set_maintenance(True)
    await shown(nets, "n2", NodeStatus.MAINTENANCE)
    for net in (one, three):
        with pytest.raises(AgentUnreachable, match="in maintenance") as caught:
            await net.request("slow", b"new")
        assert caught.value.definite
        with pytest.raises(AgentUnreachable, match="in maintenance"):
            await net.send_message(AgentMessage(b"new", to_agent="inbox"))
    await two.send_message(AgentMessage(b"own", to_agent="inbox"))
    await one.broadcast_message(b"all")
    go_on.set()
    assert await soon(asking) == b"begun"
    assert sorted(await inbox.wait(2)) == [b"all", b"own"]
    (left,) = [agent for agent in one.agents("work") if agent.status is NodeStatus.ACTIVE]
    assert left.node_id == "n3"
    await two.set_maintenance(False)
    await shown(nets, "n2", NodeStatus.ACTIVE)
    assert await answered(one, "slow", b"again") == b"again"


async def test_a_node_that_comes_later_is_told(cluster: Cluster) -> None:
    one, _ = await cluster.start("n1", "n2")
    await one.register_agent("x", handler=echo)
    await one.set_maintenance(True)
    three = cluster.make("n3")
    await three.join_network(one.addresses)
    await until(lambda: statuses(three)["n1"] is NodeStatus.MAINTENANCE)
    assert active(three) == ["n2", "n3"]
    await one.set_maintenance(False)
    assert await answered(three, "x", b"x") == b"x"


async def test_members_and_agents_show_what_is_proven(cluster: Cluster) -> None:
    one, two = await cluster.start("n1", "n2", ping_interval_ms=50)
    await two.register_agent("box")
    for _ in range(3):
        await one.send_message(AgentMessage(b"x", to_agent="box"))
    await until(lambda: [member.load for member in one.members()] == [0, 3])
    (box,) = one.agents()
    (itself, other) = one.members()
    assert other.rtt_ms is not None
    assert 0 < other.rtt_ms < 10_000
    assert abs(other.proven - other.last_heartbeat) < 60_000_000_000
    assert (itself.rtt_ms, itself.proven) == (None, 0)
    assert (box.load, box.rtt_ms is not None) == (3, True)
    assert two.members()[1].load == 3


async def test_the_command_shows_it(cluster: Cluster) -> None:
    (one,) = await cluster.start("n1")
    await one.set_maintenance(True)
    (row,) = (await called("members", "--join", one.addresses[0], "--json")).document
    assert (row["node_id"], row["status"], row["load"]) == ("n1", "maintenance", 0)
    assert row["rtt_ms"] > 0
    table = (await called("members", "--join", one.addresses[0])).out
    assert all(word in table for word in ("rtt_ms", "load", "maintenance"))


async def test_only_a_node_that_runs_has_it(cluster: Cluster) -> None:
    net = cluster.make("n1")
    with pytest.raises(NotRunning):
        await net.set_maintenance(True)
    await net.join_network()
    await net.set_maintenance(True)
    await net.set_maintenance(True)
    assert statuses(net) == {"n1": NodeStatus.MAINTENANCE}
    await net.leave_network()
    with pytest.raises(NotRunning):
        await net.set_maintenance(False)
