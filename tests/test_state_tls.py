"""Shared states of real nodes under TLS: written, acknowledged by a majority, cut off and healed, taken by
who comes later from those that are left; and a node that lies."""

from __future__ import annotations

from typing import Any

import pytest
from networks import Cluster, relay, soon, until

from agentnet import AgentNetworkManager, ConsistencyLevel, Event
from agentnet_core.crdt import ORSet, Site
from agentnet_core.parts import PART, STATE, write
from agentnet_core.states import Key

QUORUM, ALL = ConsistencyLevel.QUORUM, ConsistencyLevel.ALL
pytestmark = [pytest.mark.parametrize("scheme", ["tls"])]


def alike(*nets: AgentNetworkManager) -> bool:
    """Whether all hold the same, and doubt nothing of it."""
    sums = [list(net.control.replication.states.sums()) for net in nets]
    return all(each == sums[0] for each in sums) and not any(net.stats()["states_doubted"] for net in nets)


def nothing_wrong(*nets: AgentNetworkManager) -> bool:
    names = ("states_refused", "states_forged", "states_contradicted", "states_unheard")
    return not any(net.stats()[name] for net in nets for name in names)


async def test_a_majority_has_what_it_acknowledges_and_a_newcomer_takes_it(cluster: Cluster) -> None:
    one, two, three = await cluster.start("n1", "n2", "n3", state_sync_ms=200, state_doubt_ms=200)
    for number, net in enumerate((one, two, three)):
        await soon(net.set("s").add(f"of {number}", consistency=QUORUM))
        await soon(net.counter("c").increment(1, consistency=ALL))
    await soon(three.map("m").set("last", 1, consistency=QUORUM))
    assert await soon(one.counter("c").read(consistency=QUORUM)) == 3
    await soon(three.leave_network())
    await until(lambda: "n3" not in one.control.membership.alive())
    (late,) = await cluster.start("n4", state_sync_ms=200, state_doubt_ms=200)
    await until(lambda: alike(one, two, late))
    assert late.set("s").value == {"of 0", "of 1", "of 2"}
    assert late.counter("c").value == 3
    assert late.map("m").value == {"last": 1}
    assert await soon(late.counter("c").read(consistency=ALL)) == 3
    assert nothing_wrong(one, two, late)


async def test_what_is_written_on_both_sides_of_a_cut_is_on_both_afterwards(cluster: Cluster) -> None:
    async with relay() as wire:
        address = f"tls://127.0.0.1:{wire.port}"
        quick: dict[str, Any] = {"redial_ms_min": 10, "redial_ms_max": 50, "state_sync_ms": 200}
        (one,) = await cluster.start("n1", advertise=[address], **quick)
        wire.aim(str(one._doors.bound[0]))
        two = cluster.make("n2", listen=(), **quick)
        await soon(two.join_network([address]))
        for round_ in range(5):
            wire.cut()
            await one.set("s").add(f"one {round_}")
            await two.set("s").add(f"two {round_}")
            await until(lambda: alike(one, two))
        assert one.set("s").value == {f"{name} {round_}" for name in ("one", "two") for round_ in range(5)}
        assert nothing_wrong(one, two)


async def test_what_a_node_makes_up_of_another_is_not_taken(cluster: Cluster) -> None:
    one, liar, three = await cluster.start("n1", "n2", "n3", state_sync_ms=200, state_doubt_ms=200)
    await soon(one.set("s").add("true", consistency=ALL))
    watch = cluster.watch(three)
    twin = ORSet(Site(one.control.replication.actor, bytes(16)))
    for element in ("true", "forged"):
        twin.add(element)
    body = write(PART, Key(twin.type_code, "s"), twin.encode(), 1, False)
    liar.engine.put_control(liar.engine.sessions["n3"], STATE, body)
    await until(lambda: three.stats()["states_forged"])
    (event,) = await until(lambda: watch.of(Event.FORGED))
    assert event.node_id == "n2"
    assert three.set("s").value == {"true"}
    await soon(one.set("s").add("next", consistency=ALL))
    await until(lambda: alike(one, liar, three))
    assert three.set("s").value == {"true", "next"}
