"""Handles of shared states on real nodes: reads, changes that are awaited, word of others' changes."""

from __future__ import annotations

import asyncio

import pytest
from networks import Cluster, soon, until

from agentnet import (
    AgentNetworkManager,
    ConsistencyLevel,
    LimitReached,
    NotRunning,
    StateChange,
    TooFewReplicas,
    UsageError,
)
from agentnet.state import Counter, SharedSet

QUORUM, ALL = ConsistencyLevel.QUORUM, ConsistencyLevel.ALL


async def test_every_kind_of_state_is_on_every_node(cluster: Cluster) -> None:
    one, other = await cluster.start("n1", "n2")
    await one.counter("c").increment(5)
    await other.counter("c").decrement(2)
    await one.set("s").add("x")
    await one.map("m").set("k", {"v": [1, 2]})
    await one.register("r").set(7)
    await one.siblings("b").set("mine")
    await one.flag("f").enable()
    for net in (one, other):
        await until(lambda net=net: net.counter("c").value == 3 and bool(net.flag("f")))
        assert net.set("s").value == {"x"}
        assert "x" in net.set("s")
        assert len(net.map("m")) == 1
        assert net.map("m").get("k") == {"v": [1, 2]}
        assert net.register("r").value == 7
        assert net.siblings("b").value == ["mine"]
        assert int(net.counter("c")) == 3
    await other.set("s").discard("x")
    await other.map("m").delete("k")
    await other.flag("f").disable()
    await other.register("r").clear()
    await other.siblings("b").clear()
    await until(lambda: one.set("s").value == set() and one.map("m").value == {} and not one.flag("f"))
    await until(lambda: one.register("r").value is None and one.siblings("b").value == [])
    assert one.counter("c").clock == other.counter("c").clock != {}


async def test_a_document_has_states_of_any_kind_in_it(cluster: Cluster) -> None:
    one, other = await cluster.start("n1", "n2")
    mine, theirs = one.document("d"), other.document("d")
    await mine.counter("visits").increment()
    await mine.document("settings").register("colour").set("red")
    await mine.set("tags").add("new")
    await until(lambda: len(theirs.value) == 3)
    await theirs.counter("visits").increment()
    await theirs.delete("tags", SharedSet)
    await until(lambda: mine.counter("visits").value == 2)
    await until(lambda: ("tags", "ORSet") not in mine.value)
    assert theirs.document("settings").register("colour").value == "red"
    await theirs.clear()
    await until(lambda: mine.value == {})


async def test_a_node_reads_its_own_writes_at_once(cluster: Cluster) -> None:
    (net,) = await cluster.start("n1")
    for number in range(1, 100):
        net.counter("c").increment()  # noqa: RUF100 - it need not be awaited to be made
        assert net.counter("c").value == number


async def test_who_writes_on_and_on_lets_the_loop_turn(cluster: Cluster) -> None:
    one, other = await cluster.start("n1", "n2")
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        asyncio.get_running_loop().call_soon(turn)

    turn()
    counter = one.counter("c")
    for _ in range(640):
        await counter.increment()
    assert turns >= 10
    await until(lambda: other.counter("c").value == 640)


async def test_a_write_waits_for_those_that_are_wanted(cluster: Cluster) -> None:
    nets = await cluster.start("n1", "n2", "n3")
    counter = nets[0].counter("c")
    await soon(counter.increment(consistency=ALL))
    assert [net.counter("c").value for net in nets] == [1, 1, 1]
    await soon(asyncio.gather(*(counter.increment(consistency=QUORUM) for _ in range(500))))
    assert sum(net.counter("c").value == 501 for net in nets) >= 2
    await soon(counter.increment(consistency=3))
    assert [net.counter("c").value for net in nets] == [502, 502, 502]
    stats = nets[0].stats()
    assert stats["state_waits"] == stats["state_waits_failed"] == 0
    for wrong in (4, 0, True, "all"):
        with pytest.raises(UsageError, match="consistency"):
            counter.increment(consistency=wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="comes with Raft"):
        counter.increment(consistency=ConsistencyLevel.STRONG)
    with pytest.raises(UsageError, match="timeout"):
        counter.increment(consistency=ALL, timeout=0)
    assert counter.value in (502, 503)


async def test_a_quorum_has_a_minimum(cluster: Cluster) -> None:
    nets = await cluster.start("n1", "n2", "n3", state_write_ms_max=300, state_quorum_min=3)
    counter = nets[0].counter("c")
    await soon(counter.increment(consistency=QUORUM))
    assert [net.counter("c").value for net in nets] == [1, 1, 1]
    nets[2].replication.receive = lambda *_: None  # type: ignore[method-assign]
    await soon(counter.increment(consistency=2))
    with pytest.raises(TooFewReplicas, match="2 of 3 replicas have it .n1, n2.; not n3"):
        await soon(counter.increment(consistency=QUORUM))
    with pytest.raises(TooFewReplicas, match="1 of 3 replicas have it .n2.; not n1, n3"):
        nets[0].replication.receive = lambda *_: None  # type: ignore[method-assign]
        await soon(nets[1].get_state("s", consistency=QUORUM))


async def test_a_read_sees_what_a_majority_had_and_mends_the_rest(cluster: Cluster) -> None:
    nets = await cluster.start("n1", "n2", "n3", state_sync_ms=60_000, state_write_ms_max=1_000)
    hear = nets[2].replication.receive
    nets[2].replication.receive = lambda *_: None  # type: ignore[method-assign]
    await soon(nets[0].set("s").add("x", consistency=QUORUM))
    nets[2].replication.receive = hear  # type: ignore[method-assign]
    late = nets[2].set("s")
    assert "x" not in late
    assert await soon(late.read(consistency=ConsistencyLevel.EVENTUAL)) == set()
    assert await soon(late.read()) == {"x"}
    await soon(late.discard("x", consistency=QUORUM))
    assert await soon(nets[1].set("s").read(consistency=2)) == set()
    for wrong in (4, ConsistencyLevel.STRONG, ConsistencyLevel.CAUSAL):
        with pytest.raises(UsageError, match="onsistency|Raft|CAUSAL"):
            await late.read(consistency=wrong)
    nets[2].replication.receive = lambda *_: None  # type: ignore[method-assign]
    with pytest.raises(TooFewReplicas, match="2 of 3 replicas have it"):
        await soon(nets[0].set("s").read(consistency=ALL))
    assert nets[0].stats()["state_waits"] == 0


async def test_what_cannot_be_waited_for_changes_nothing(cluster: Cluster) -> None:
    (net,) = await cluster.start("n1")
    counter = net.counter("c")
    with pytest.raises(UsageError, match="consistancy: expected consistency, on_disk, timeout"):
        counter.increment(consistancy=QUORUM)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="timeout"):
        counter.increment(consistency=QUORUM, timeout=0)
    with pytest.raises(TooFewReplicas, match="no disk that takes states .see data_dir.") as refusal:
        counter.increment(on_disk=True)
    assert refusal.value.definite
    assert counter.value == net.stats()["state_waits"] == 0


async def test_in_a_network_of_fewer_the_minimum_is_all(cluster: Cluster) -> None:
    nets = await cluster.start("n1", "n2", state_write_ms_max=300, state_quorum_min=3)
    await soon(nets[0].counter("c").increment(consistency=QUORUM))
    assert [net.counter("c").value for net in nets] == [1, 1]


async def test_without_enough_replicas_the_error_names_them(cluster: Cluster) -> None:
    nets = await cluster.start("n1", "n2", "n3", state_write_ms_max=300)
    counter = nets[0].counter("c")
    nets[2].replication.receive = lambda *_: None  # type: ignore[method-assign]
    with pytest.raises(TooFewReplicas, match="2 of 3 replicas have it .n1, n2.; not n3") as failure:
        await soon(counter.increment(consistency=ALL))
    assert not failure.value.definite
    assert counter.value == 1


async def test_word_of_changes(cluster: Cluster) -> None:
    one, other = await cluster.start("n1", "n2")
    changes = one.set("s").changes()
    await other.set("s").add(1)
    assert await soon(anext(changes)) == StateChange("s", 1, True)
    await one.set("s").add(2)
    await one.set("s").add(3)
    assert await soon(anext(changes)) == StateChange("s", 2, False)
    await one.set("s").discard("nothing there")
    reader = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0)
    with pytest.raises(UsageError, match="two tasks"):
        await anext(changes)
    await other.set("s").add(4)
    assert (await soon(reader)).by_others
    await changes.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(changes)


async def test_when_the_node_leaves_its_handles_say_so(cluster: Cluster) -> None:
    one, _ = await cluster.start("n1", "n2")
    counter, changes = one.counter("c"), one.counter("c").changes()
    await one.leave_network()
    with pytest.raises(StopAsyncIteration):
        await soon(anext(changes))
    with pytest.raises(NotRunning):
        counter.increment()
    with pytest.raises(NotRunning):
        AgentNetworkManager("n3").counter("c")


async def test_so_many_states_and_no_more(cluster: Cluster) -> None:
    (net,) = await cluster.start("n1", states_max=2)
    net.counter("a"), net.counter("b")
    assert isinstance(net.counter("a"), Counter)
    with pytest.raises(LimitReached, match="states_max=2"):
        net.counter("c")


async def test_what_others_may_not_change_is_refused_and_told(cluster: Cluster) -> None:
    one, other = await cluster.start("n1", "n2")
    watch = cluster.watch(one)
    await other.set("s").add("good")
    await until(lambda: "good" in one.set("s"))
    other.replication.actor  # noqa: B018
    stolen = other.set("s")
    key = stolen._held.key
    from agentnet_core.crdt import ORSet, Site
    from agentnet_core.parts import DELTA, write

    forged = ORSet(Site("n3:1", bytes(16)))
    forged.add("bad")
    other.replication.put("n1", write(DELTA, 0, [(key, forged.delta.encode())]))
    event = await soon(watch.wait("state_refused"))
    assert (event.node_id, event.name) == ("n2", "s")
    assert one.stats()["states_refused"] == 1
    assert one.set("s").value == {"good"}


async def test_a_text_that_two_write(cluster: Cluster) -> None:
    one, other = await cluster.start("n1", "n2")
    mine, theirs = one.text("t"), other.text("t")
    await mine.append("hello")
    await until(lambda: str(theirs) == "hello")
    changes = mine.changes()
    await theirs.insert(5, " world")
    assert (await soon(anext(changes))).by_others
    await mine.replace(0, 5, "bye", consistency=ALL)
    assert theirs.value == mine.value == "bye world"
    await mine.delete(3, 9)
    assert (len(mine), str(mine)) == (3, "bye")
    await one.document("d").text("page").append("nested")
    await until(lambda: other.document("d").value == {("page", "Text"): "nested"})
    await theirs.clear()
    await until(lambda: len(mine) == 0)
    assert mine.clock


async def test_reads_never_go_back(cluster: Cluster) -> None:
    """Whatever others do meanwhile, a node that has seen something sees it from then on."""
    nets = await cluster.start("n1", "n2", "n3")
    counter, texts = nets[0].counter("c"), nets[0].text("t")
    seen, clock, changes = 0, counter.clock, counter.changes()
    for number in range(300):
        nets[1 + number % 2].counter("c").increment()
        nets[1 + number % 2].text("t").append("x")
        if number % 10 == 0:
            nets[0].counter("c").increment()
            assert counter.value > seen
            await asyncio.sleep(0)
        length = len(texts)
        assert counter.value >= seen
        assert all(counter.clock.get(actor, 0) >= number for actor, number in clock.items())
        seen, clock = counter.value, counter.clock
        await asyncio.sleep(0)
        assert len(texts) >= length
    while counter.value < 330:
        before = counter.value
        await soon(anext(changes))
        assert counter.value >= before
