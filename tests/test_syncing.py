"""`sync_state`, `get_state`, `watch_state`: levels, siblings, policies, and what depends on what."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from networks import Cluster, Watch, soon, until

from agentnet import (
    AgentNetworkManager,
    CausalGap,
    ConsistencyLevel,
    DistributedState,
    LimitReached,
    StateConflict,
    TooFewReplicas,
    UsageError,
)
from agentnet_core.crdt import GCounter, MVRegister, ORSet, Site

EVENTUAL, CAUSAL, QUORUM, ALL = (
    ConsistencyLevel.EVENTUAL,
    ConsistencyLevel.CAUSAL,
    ConsistencyLevel.QUORUM,
    ConsistencyLevel.ALL,
)


def state(data: bytes, level: Any = EVENTUAL, **more: Any) -> DistributedState:
    return DistributedState(state_id=more.pop("state_id", "s"), data=data, consistency_level=level, **more)


def deaf(net: AgentNetworkManager) -> Any:
    """From now on the node hears nothing of states; what is returned ends that."""
    receive = net.replication.receive
    net.replication.receive = lambda *_: None  # type: ignore[method-assign]

    def hear() -> None:
        net.replication.receive = receive  # type: ignore[method-assign]
        net.replication.compare_all()
        for other in net.engine.sessions:
            net.replication.comparing.start(other)

    return hear


async def get(net: AgentNetworkManager, **more: Any) -> bytes | None:
    found = await soon(net.get_state("s", **more))
    return found.data if found is not None else None


async def concurrently(cluster: Cluster, *data: bytes) -> list[AgentNetworkManager]:
    """Nodes that each write one of these without having seen the others, and then have all."""
    nets = await cluster.start(*(f"n{number}" for number in range(len(data))))
    hearing = [deaf(net) for net in nets]
    for net, each in zip(nets, data, strict=True):
        await net.sync_state(state(each))
    for hear in hearing:
        hear()

    async def all_have_all() -> bool:
        found = [await net.get_state("s") for net in nets]
        return all(each is not None and len(each.siblings) == len(data) for each in found)

    async with asyncio.timeout(20):
        while not await all_have_all():
            await asyncio.sleep(0.01)
    return nets


async def test_what_is_written_is_read_on_every_node(cluster: Cluster) -> None:
    nets = await cluster.start("n1", "n2", "n3")
    assert await nets[0].get_state("s") is None
    receipt = await soon(nets[0].sync_state(state(b"one", ALL, agent_id=7)))
    assert set(receipt.in_memory) == {"n1", "n2", "n3"}
    assert receipt.on_disk == ()
    for net in nets:
        found = await net.get_state("s")
        assert found is not None
        assert (found.data, found.agent_id, found.version) == (b"one", 7, receipt.version)
        assert found.vector_clock == receipt.vector_clock
        assert found.siblings == (b"one",)
    second = await soon(nets[1].sync_state(state(b"two", 2)))
    assert second.version > receipt.version
    assert len(second.in_memory) >= 2
    await until(lambda: nets[2].replication.merged >= 2)
    assert await get(nets[2], consistency=QUORUM) == b"two"
    assert (await soon(nets[0].sync_state(state(b"three")))).in_memory == ("n1",)


async def test_a_write_with_an_old_clock_is_a_sibling(cluster: Cluster) -> None:
    one, other = await cluster.start("n1", "n2")
    await soon(one.sync_state(state(b"first", ALL)))
    seen = await other.get_state("s")
    assert seen is not None
    await soon(one.sync_state(state(b"second", ALL, vector_clock=seen.vector_clock)))
    await soon(other.sync_state(state(b"from what was old", ALL, vector_clock=seen.vector_clock)))
    for net in (one, other):
        found = await net.get_state("s")
        assert found is not None
        assert found.siblings == (b"from what was old", b"second")
        assert found.data in found.siblings
    await soon(one.sync_state(state(b"both", ALL, vector_clock=found.vector_clock)))
    assert (await other.get_state("s")).siblings == (b"both",)  # type: ignore[union-attr]


async def test_of_concurrent_writes_the_last_writer_is_the_same_everywhere(cluster: Cluster) -> None:
    nets = await concurrently(cluster, b"a", b"b", b"c")
    found = [await net.get_state("s") for net in nets]
    assert len({each.data for each in found if each}) == 1
    assert {each.siblings for each in found if each} == {(b"a", b"b", b"c")}


async def test_a_function_merges_siblings(cluster: Cluster) -> None:
    nets = await concurrently(cluster, b"a", b"bb", b"ccc")
    for net in nets:
        net.set_state_policy("s", max)
        assert await get(net) == b"ccc"
        net.set_state_policy("s", max)
        with pytest.raises(StateConflict):
            net.set_state_policy("s", min)
        with pytest.raises(UsageError):
            net.set_state_policy("t", "first writer")


def broken(one: bytes, other: bytes) -> bytes:
    raise ValueError("no idea")


def concatenate(one: bytes, other: bytes) -> bytes:
    return one + other


def measure(one: bytes, other: bytes) -> Any:
    return len(one) + len(other)


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (broken, "ValueError: no idea"),
        (concatenate, "not commutative"),
        (measure, "gave int"),
        (ORSet, "malformed"),
    ],
)
async def test_a_policy_that_fails_keeps_the_siblings_and_is_told(
    cluster: Cluster, function: Any, why: str
) -> None:
    nets = await concurrently(cluster, b"a", b"bb")
    watch: Watch = cluster.watch(nets[0])
    nets[0].set_state_policy("s", function)
    found = await nets[0].get_state("s")
    assert found is not None
    assert found.siblings == (b"a", b"bb")
    assert found.data in found.siblings
    event = await soon(watch.wait("state_conflict"))
    assert event.name == "s"
    assert why in event.detail
    assert nets[0].stats()["state_conflicts"] == 1


async def test_a_version_from_the_future_is_not_the_last_writers(cluster: Cluster) -> None:
    nets = await cluster.start("n1", "n2")
    watch: Watch = cluster.watch(nets[0])
    hear = deaf(nets[0])
    await nets[0].sync_state(state(b"now"))
    held = nets[1].replication.hold(MVRegister, "sync/s")
    ten_years = 10 * 365 * 86_400 * 1000 << 16
    held.state.set([b"future", 0, nets[1].replication.stamp() + ten_years, {}])  # type: ignore[attr-defined]
    nets[1].replication.changed(held)
    hear()
    for net in nets:
        async with asyncio.timeout(20):
            while (found := await net.get_state("s")) is None or len(found.siblings) < 2:
                await asyncio.sleep(0.01)
        assert found.data == b"now"
    assert "from the future" in (await soon(watch.wait("state_conflict"))).detail
    await soon(nets[0].sync_state(state(b"later", ALL)))
    assert await get(nets[1]) == b"later"
    assert nets[0].replication.stamp() < nets[1].replication.stamp() + ten_years // 2


async def test_a_type_merges_siblings(cluster: Cluster) -> None:
    made = []
    for number in range(2):
        counter = GCounter(Site(f"writer {number}", bytes(16)))
        counter.increment(number + 1)
        made.append(counter.encode())
    nets = await concurrently(cluster, *made)
    for net in nets:
        net.set_state_policy("s", GCounter)
        data = await get(net)
        assert data is not None
        assert GCounter.decode(data, Site(None, bytes(16))).value == 3


async def test_a_majority_read_sees_what_a_majority_had_and_mends_the_rest(cluster: Cluster) -> None:
    nets = await cluster.start("n1", "n2", "n3", state_sync_ms=60_000)
    hear = deaf(nets[2])
    receipt = await soon(nets[0].sync_state(state(b"one", QUORUM)))
    assert set(receipt.in_memory) == {"n1", "n2"}
    assert await get(nets[2]) is None
    hear()
    assert await get(nets[2], consistency=QUORUM) == b"one"
    hear = deaf(nets[1])
    await soon(nets[0].sync_state(state(b"two", QUORUM)))
    hear()
    assert await get(nets[1], consistency=ALL) == b"two"


async def test_only_named_replicas_count(cluster: Cluster) -> None:
    nets = await cluster.start("n1", "n2", "n3", state_write_ms_max=300)
    deaf(nets[1])
    receipt = await soon(nets[0].sync_state(state(b"one", ALL, replicas=["n1", "n3"])))
    assert receipt.in_memory == ("n1", "n3")
    with pytest.raises(TooFewReplicas, match="not n2"):
        await soon(nets[0].sync_state(state(b"two", ALL, replicas=["n2", "n3"])))
    with pytest.raises(TooFewReplicas, match="nothing was done") as refusal:
        await soon(nets[0].sync_state(state(b"three", ALL, replicas=["n1", "nowhere"])))
    assert refusal.value.definite
    with pytest.raises(TooFewReplicas, match="not n2"):
        await soon(nets[0].get_state("s", consistency=ALL, replicas=["n2"]))
    assert await get(nets[0]) == b"two"


async def test_what_cannot_be(cluster: Cluster) -> None:
    (net,) = await cluster.start("n1", state_value_bytes_max=1000)
    with pytest.raises(UsageError, match="Raft"):
        await net.sync_state(state(b"", ConsistencyLevel.STRONG))
    with pytest.raises(UsageError, match="Raft"):
        await net.get_state("s", consistency=ConsistencyLevel.STRONG)
    with pytest.raises(UsageError, match="expected bytes"):
        await net.sync_state(state("text"))  # type: ignore[arg-type]
    with pytest.raises(LimitReached, match="state_value_bytes_max=1000"):
        await net.sync_state(state(bytes(1000), QUORUM))
    assert net.stats()["state_waits"] == 0
    for timeout in (0, -1):
        with pytest.raises(UsageError, match="timeout"):
            await net.sync_state(state(b"late", QUORUM), timeout=timeout)
        with pytest.raises(UsageError, match="timeout"):
            await net.get_state("s", consistency=QUORUM, timeout=timeout)
    with pytest.raises(TooFewReplicas, match="no disk that takes states") as refusal:
        await net.sync_state(state(b"kept"), on_disk=True)
    assert refusal.value.definite
    with pytest.raises(UsageError, match=r"such as \['n1'\]"):
        await net.sync_state(state(b"named", QUORUM, replicas="n1"))
    with pytest.raises(UsageError, match=r"such as \['n1'\]"):
        await net.get_state("s", consistency=QUORUM, replicas="n1")
    with pytest.raises(UsageError, match="agent_id -1: expected 0 to"):
        await net.sync_state(DistributedState(state_id="s", data=b"", agent_id=-1))
    with pytest.raises(UsageError, match="state_id '': expected a name"):
        await net.sync_state(DistributedState(state_id="", data=b""))
    with pytest.raises(UsageError, match="consistency=2: there are 1 replicas"):
        await net.get_state("s", consistency=2)
    assert net.stats()["state_waits"] == 0
    with pytest.raises(UsageError, match="EVENTUAL or CAUSAL"):
        await anext(net.watch_state("s", consistency=QUORUM))
    assert await net.get_state("s") is None


async def test_asking_for_what_nobody_wrote_takes_no_room(cluster: Cluster) -> None:
    (net,) = await cluster.start("n1", states_max=1)
    for number in range(3):
        assert await net.get_state(f"s{number}") is None
    assert net.stats()["states"] == 0
    for number in range(3):
        assert await net.get_state(f"s{number}", consistency=QUORUM) is None
        with pytest.raises(LimitReached, match="state_value_bytes_max"):
            await net.sync_state(state(bytes(2_000_000), state_id=f"s{number}"))
        with pytest.raises(TooFewReplicas):
            await net.sync_state(state(b"", ALL, state_id=f"s{number}", replicas=["nowhere"]))
    assert net.stats()["states"] == net.stats()["state_waits"] == 0


async def test_two_who_ask_for_what_nobody_has_and_one_who_watches(cluster: Cluster) -> None:
    one, other = await cluster.start("n1", "n2")
    watched: list[bytes] = []

    async def watch() -> None:
        async for found in one.watch_state("s"):
            watched.append(found.data)

    watching = asyncio.create_task(watch())
    asked = [one.get_state("s", consistency=QUORUM) for _ in range(5)]
    assert await soon(asyncio.gather(*asked)) == [None] * 5
    await soon(other.sync_state(state(b"now")))
    while watched != [b"now"]:
        await asyncio.sleep(0.01)
    watching.cancel()


@pytest.mark.parametrize(
    "value",
    [
        ["no", "version"],
        [b"data", 0, 1, {5: {"a": 1}}],
        [b"data", 0, 1, {"sync/q": 7}],
        [b"data", 0, 1, {"sync/q": {5: 1}}],
        [b"data", 0, 1, {"sync/q": {"a": "one"}}],
        [b"data", 0, 1, {"sync/q": {"a": 0}}],
        [b"data", 0, 1, {"sync/q": {"a": 2**63}}],
    ],
)
async def test_what_another_wrote_in_its_place_is_not_read(cluster: Cluster, value: list[Any]) -> None:
    (net,) = await cluster.start("n1")
    await net.siblings("sync/s").set(value)
    assert await net.get_state("s") is None
    assert await net.get_state("s", consistency=CAUSAL) is None
    assert net.replication.get(MVRegister, "sync/s") is not None


# -- what depends on what


async def test_a_causal_reader_gets_nothing_before_what_it_depends_on(cluster: Cluster) -> None:
    one, two, three = await cluster.start("n1", "n2", "n3", state_sync_ms=60_000)
    hear = deaf(three)
    await soon(one.sync_state(state(b"question", CAUSAL, state_id="q")))
    await until(lambda: two.replication.merged)
    assert (await soon(two.get_state("q", consistency=CAUSAL))) is not None
    await soon(two.sync_state(state(b"answer", CAUSAL, state_id="a")))
    # The answer reaches the third node, the question does not.
    held = two.replication.get(MVRegister, "sync/a")
    assert held is not None
    three.replication.states.merge(held.key, held.state.encode(), author=None, stamp_max=2**62 - 1)
    found = await soon(three.get_state("a"))
    assert found is not None
    with pytest.raises(
        CausalGap, match="'a' depends on event 1 of n1:.* in state 'q', which has not come"
    ) as gap:
        await soon(three.get_state("a", consistency=CAUSAL, timeout=0.05))
    assert gap.value.definite
    reading = asyncio.ensure_future(three.get_state("a", consistency=CAUSAL))
    await asyncio.sleep(0.01)
    assert not reading.done()
    hear()
    answer = await soon(reading)
    assert answer is not None
    assert answer.data == b"answer"
    question = await three.get_state("q")
    assert question is not None
    assert question.data == b"question"


async def test_watching(cluster: Cluster) -> None:
    one, other = await cluster.start("n1", "n2")
    watching = one.watch_state("s", consistency=CAUSAL)
    await other.sync_state(state(b"one"))
    assert (await soon(anext(watching))).data == b"one"
    await other.sync_state(state(b"two"))
    assert (await soon(anext(watching))).data == b"two"
    await watching.aclose()  # type: ignore[attr-defined]
    last = one.watch_state("s")
    assert (await soon(anext(last))).data == b"two"
    await one.leave_network()
    with pytest.raises(StopAsyncIteration):
        await soon(anext(last))


@pytest.mark.checkout
def test_the_example() -> None:
    example = Path(__file__).parent.parent / "examples" / "shared.py"
    done = subprocess.run(
        [sys.executable, "-W", "error", example], capture_output=True, text=True, timeout=50, check=False
    )
    said = "beta: 1 {'a.txt'}\nin memory of: ['alpha', 'beta']\nbeta: b'read'\n"
    assert (done.stdout, done.stderr, done.returncode) == (said, "", 0)
