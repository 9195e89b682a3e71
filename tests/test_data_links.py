"""Links for messages on real sockets: made when something is sent, given up when nothing is."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from apart import keep_only
from networks import Cluster, echo, soon, until

from agentnet import AgentNetworkManager, AgentUnreachable, Congested, Event, NodeStatus

TROUBLE = (Event.LINK_LOST, Event.LINK_REFUSED, Event.LOST, Event.UNDELIVERABLE)


async def apart(cluster: Cluster, *node_ids: str, idle_ms: int = 60) -> list[AgentNetworkManager]:
    """Nodes that have met, each with an agent of its name, and are not linked any more."""
    nodes = await cluster.start(*node_ids, data_idle_ms=idle_ms)
    for net in nodes:
        await net.register_agent(net.node_id, handler=echo)
    for net in nodes:
        keep_only(net)
    await until(lambda: not any(net.engine.links for net in nodes))
    return nodes


async def test_a_message_makes_a_link_that_goes_when_it_is_not_used(cluster: Cluster) -> None:
    one, two = await apart(cluster, "one", "two")
    watches = [cluster.watch(net) for net in (one, two)]
    for _ in range(5):
        assert await soon(one.request("two", b"there?")) == b"there?"
        await until(lambda: not (one.engine.links or two.engine.links))
    for net, watch in zip((one, two), watches, strict=True):
        assert net.stats()["links_lost"] == 0
        assert net.stats()["links_retired"] == 6
        assert {member.status for member in net.members()} == {NodeStatus.ACTIVE}
        assert [event for event in watch.seen if event.kind in TROUBLE] == []


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
async def test_nothing_is_lost_or_fails_whenever_messages_meet_a_link_that_goes(cluster: Cluster) -> None:
    nodes = await apart(cluster, "one", "two", "three", idle_ms=20)
    watches = [cluster.watch(net) for net in nodes]
    rng = Random(1)

    async def work(net: AgentNetworkManager) -> None:
        for i in range(30):
            to = rng.choice([other.node_id for other in nodes if other is not net])
            payload = (b"%d " % i).ljust(rng.choice((8, 8, 200_000)))
            assert await net.request(to, payload) == payload
            link = net.engine.sessions.get(to)
            if link is not None and rng.random() < 0.8:
                await until(lambda link=link: link.held or link.retired or link.closed)

    async with asyncio.TaskGroup() as group:
        for net in nodes:
            group.create_task(soon(work(net)))
    assert sum(net.stats()["links_retired"] for net in nodes) > 10
    for net, watch in zip(nodes, watches, strict=True):
        assert net.stats()["links_lost"] == net.stats()["replies_lost"] == 0
        assert [event for event in watch.seen if event.kind in TROUBLE] == []


async def test_a_node_that_cannot_be_dialled_is_unreachable(cluster: Cluster) -> None:
    one, two = await apart(cluster, "one", "two")
    agent = await one.register_agent("asks")
    with pytest.raises(Congested, match="is not there yet"):
        agent.send_nowait("two", b"now")
    await until(lambda: "two" in one.engine.sessions)
    await until(lambda: not one.engine.links)
    two._doors.close()
    with pytest.raises(AgentUnreachable, match="no link to node two could be made") as caught:
        await soon(agent.send("two", b"?"))
    assert caught.value.definite
