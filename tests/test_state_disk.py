"""States of real nodes on real disks: kill -9, restarts in order, who has a write on disk, cut links."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from networks import Cluster, soon, until

from agentnet import (
    AgentNetworkManager,
    ConsistencyLevel,
    DistributedState,
    NetworkError,
    TooFewReplicas,
)
from agentnet.testing import RealNetwork

QUORUM, EVENTUAL = ConsistencyLevel.QUORUM, ConsistencyLevel.EVENTUAL
QUICK: dict[str, Any] = {
    "ping_interval_ms": 200,
    "link_silence_ms_max": 1_500,
    "node_silence_ms_max": 1_000,
    "suspicion_ms_min": 500,
    "redial_ms_max": 200,
    "handshake_ms_max": 1_000,
}
APP = """
from agentnet import DistributedState

def setup(net):
    @net.agent(f"keeper-{net.node_id}")
    async def keeper(message):
        number = int(message.payload)
        for each in range(number):
            await net.counter("c").increment()
            await net.set("s").add(each)
        state = DistributedState(state_id="x", data=message.payload)
        receipt = await net.sync_state(state, on_disk=True)
        return [list(receipt.on_disk), net.replication.actor]

    @net.agent(f"teller-{net.node_id}")
    async def teller(message):
        state = await net.get_state("x")
        data = state.data if state else b""
        return [net.counter("c").value, len(net.set("s")), data, net.replication.actor]
"""


WRITER = """
from agentnet import ConsistencyLevel

def setup(net):
    @net.agent(f"writer-{net.node_id}", concurrency=16)
    async def writer(message):
        await net.set("s").add(int(message.payload), consistency=ConsistencyLevel.QUORUM, on_disk=True)
        await net.counter("c").increment(consistency=ConsistencyLevel.QUORUM, on_disk=True)

    @net.agent(f"reader-{net.node_id}")
    async def reader(message):
        return [sorted(net.set("s").value), net.counter("c").value]
"""


@pytest.fixture
def net() -> Iterator[RealNetwork]:
    made = RealNetwork(seed=1)
    yield made
    made.close()


def write(data: bytes, level: Any = EVENTUAL) -> DistributedState:
    return DistributedState(state_id="x", data=data, consistency_level=level)


@pytest.mark.skipif(os.name != "posix", reason="processes are killed by signals")
def test_a_node_that_was_killed_has_its_states_again_and_nobody_told_it(
    net: RealNetwork, tmp_path: Path
) -> None:
    (tmp_path / "keeping_app.py").write_text(APP)

    async def start() -> None:
        await net.process(
            "p", "keeping_app:setup", path=[str(tmp_path)], data_dir=str(tmp_path / "p"), **QUICK
        )

    async def main() -> None:
        await start()
        [a] = await net.nodes("a", **QUICK)
        await net.settled()
        actors = []
        for life in range(1, 4):
            kept, actor = await a.request("keeper-p", b"500")
            assert kept == ["p"]
            actors.append(actor)
            await net.crash("p")
            await net.crash("a")  # with all that it could tell
            await start()
            a = await net.restart("a")
            await net.settled()
            assert a.replication.merged == 0 or a.counter("c").value == 500 * life
            told = await a.request("teller-p", b"")
            assert told[:3] == [500 * life, 500, b"500"]
            actors.append(told[3])
        assert len(set(actors)) == 4, "the disk may lack what others have seen: each life has its own name"

    net.run(main())


@pytest.mark.skipif(os.name != "posix", reason="processes are killed by signals")
def test_what_disks_have_acknowledged_outlives_kills_of_any_process(net: RealNetwork, tmp_path: Path) -> None:
    (tmp_path / "writing_app.py").write_text(WRITER)
    names, told, lost = ("p", "q", "r"), dict[int, None](), 0

    async def start(name: str) -> None:
        folder = str(tmp_path / name)
        more: dict[str, Any] = {
            "log_segment_bytes": 8_000,
            "log_held_bytes": 16_000,
            "state_snapshot_bytes": 1_000,
        }
        await net.process(name, "writing_app:setup", path=[str(tmp_path)], data_dir=folder, **more, **QUICK)

    async def write_one(a: AgentNetworkManager, name: str, number: int) -> None:
        nonlocal lost
        try:
            await a.request(f"writer-{name}", b"%d" % number, timeout=3)
            told[number] = None
        except NetworkError:
            lost += 1

    async def main() -> None:
        for name in names:
            await start(name)
        [a] = await net.nodes("a", **QUICK)
        await net.settled()
        a.replication.receive = lambda *_: None  # type: ignore[method-assign]  # it has no part in this
        for round_ in range(3):
            victim = names[round_ % 3]
            writing = [
                asyncio.ensure_future(write_one(a, names[number % 3], 1000 * round_ + number))
                for number in range(60)
            ]
            while sum(each.done() for each in writing) < 10 + round_:
                await asyncio.sleep(0.005)
            await net.crash(victim)
            await asyncio.gather(*writing)
            await start(victim)
            await net.settled()
        for name in names:
            await net.crash(name)
        for name in names:
            await start(name)
        await net.settled()
        assert len(told) > 20
        for name in names:
            while True:
                elements, count = await a.request(f"reader-{name}", b"", timeout=30)
                if told.keys() <= set(elements) and len(told) <= count:
                    break
                assert net.clock.now < 120, f"{name} lacks {sorted(told.keys() - set(elements))[:9]}, {count}"
                await asyncio.sleep(0.1)

    net.run(main())


async def test_a_node_that_left_goes_on_in_the_same_name(cluster: Cluster, tmp_path: Path) -> None:
    [other] = await cluster.start("n1")
    actors, clocks = [], []
    for number in range(3):
        [net] = await cluster.start("n2", data_dir=str(tmp_path))
        assert net.set("s").value == set(range(number))
        await net.set("s").add(number)
        actors.append(net.replication.actor)
        clocks.append(net.set("s").clock)
        await until(lambda net=net: other.set("s").value == net.set("s").value)
        await net.leave_network()
    assert len(set(actors)) == 1
    assert clocks[-1] == {actors[0]: 3}


async def test_a_receipt_names_the_disks(cluster: Cluster, tmp_path: Path) -> None:
    nets: list[AgentNetworkManager] = []
    for name in ("n1", "n2", "n3"):
        more: dict[str, Any] = {"data_dir": str(tmp_path / name)} if name != "n3" else {}
        nets += await cluster.start(name, **more)
    receipt = await soon(nets[0].sync_state(write(b"one", QUORUM), on_disk=True))
    assert set(receipt.on_disk) == {"n1", "n2"}
    assert set(receipt.on_disk) <= set(receipt.in_memory)
    assert (await soon(nets[0].sync_state(write(b"two"), on_disk=True))).on_disk == ("n1",)
    assert (await soon(nets[0].sync_state(write(b"three", QUORUM)))).on_disk == ()
    assert set((await soon(nets[2].sync_state(write(b"four", QUORUM), on_disk=True))).on_disk) == {"n1", "n2"}
    with pytest.raises(TooFewReplicas, match="of 3 replicas have it on disk .* refused: node n3 has no disk"):
        await soon(nets[0].sync_state(write(b"five", ConsistencyLevel.ALL), on_disk=True))
    with pytest.raises(TooFewReplicas, match="n3 has no disk that takes states"):
        await soon(nets[2].sync_state(write(b"six"), on_disk=True))


async def test_changes_of_handles_wait_for_disks_too(cluster: Cluster, tmp_path: Path) -> None:
    nets: list[AgentNetworkManager] = []
    for name in ("n1", "n2"):
        nets += await cluster.start(name, data_dir=str(tmp_path / name))
    nets += await cluster.start("n3")
    await soon(nets[0].counter("c").increment(3, consistency=QUORUM, on_disk=True))
    await soon(nets[0].map("m").set("k", "v", on_disk=True))
    await soon(nets[2].flag("f").enable(consistency=2, on_disk=True))
    with pytest.raises(TooFewReplicas, match="node n3 has no disk"):
        await soon(nets[2].flag("f").disable(on_disk=True, timeout=5))
    for net in nets[:2]:
        await net.leave_network()
    (net,) = await cluster.start("n1", data_dir=str(tmp_path / "n1"))
    assert (net.counter("c").value, net.map("m").value) == (3, {"k": "v"})


async def test_a_large_state_goes_into_snapshots(cluster: Cluster, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "data_dir": str(tmp_path),
        "state_snapshot_bytes": 4_000,
        "log_segment_bytes": 32_000,
        "log_held_bytes": 64_000,
    }
    [net] = await cluster.start("n1", **settings)
    expected = {}
    for number in range(3_000):
        expected[f"k{number % 500}"] = number
        await net.map("m").set(f"k{number % 500}", number)
        if number % 50 == 0:
            await soon(net.sync_state(write(b"so that the disk is waited for"), on_disk=True))
    await soon(net.sync_state(write(b"over"), on_disk=True))
    await until(lambda: any(tmp_path.glob("log/*.snapshot")))
    await net.leave_network()
    [net] = await cluster.start("n1", **settings)
    assert net.map("m").value == expected
    assert sum(path.stat().st_size for path in tmp_path.glob("log/*")) < 400_000


def test_states_are_equal_again_after_cuts_and_a_partition(net: RealNetwork, tmp_path: Path) -> None:
    async def main() -> None:
        nodes = [
            (await net.nodes(name, data_dir=str(tmp_path / name), state_sync_ms=500, **QUICK))[0]
            for name in ("a", "b", "c")
        ]
        for number in range(30):
            for node in nodes:
                await node.counter("c").increment()
                await node.set("s").add(f"{node.node_id} {number}")
            if number in (5, 15):
                net.cut("a", "b")
            if number == 10:
                net.partition(["a"], ["b", "c"])
        assert nodes[0].counter("c").value < 90
        net.heal()
        await net.settled()
        await net.until(lambda: all(len(node.set("s")) == 90 for node in nodes))
        await net.until(lambda: all(node.counter("c").value == 90 for node in nodes))

    net.run(main())
