"""States on several nodes: what the processes do that hold one of them each, and one that holds two.

The first node founds the network and writes; the others join, and one role of theirs notes how old each
update is when it is seen: the clock is the machine's.
"""

from __future__ import annotations

import asyncio
import time

from agentnet import AgentNetworkManager, ConsistencyLevel, NetworkConfig
from bench.worker import Bench

QUORUM = ConsistencyLevel.QUORUM
APART_SECONDS = 0.005
"""Between two updates whose age is looked at."""
LOOK_SECONDS = 0.0005
WAIT_SECONDS = 60
UPDATES = "updates"


async def start(bench: Bench) -> AgentNetworkManager:
    """The node of this process, linked with all."""
    task = bench.task
    config = NetworkConfig(
        listen=[f"tcp://127.0.0.1:{0 if task.index else task.port}"],
        state_elements_max=2_000_000,
        join_ms_max=60_000,
        data_dir=f"{task.directory}/{task.index}" if task.directory else None,
    )
    net = AgentNetworkManager(f"node-{task.index}", config)
    await net.join_network([f"tcp://127.0.0.1:{task.port}"] if task.index else [])
    return net


async def until_linked(net: AgentNetworkManager, nodes: int) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while len(net.engine.sessions) < nodes - 1:  # noqa: ASYNC110 - nothing tells of links
            await asyncio.sleep(0.01)


async def hold(bench: Bench) -> None:
    """Holds what the first writes; tells the age of each update when it was seen, in nanoseconds."""
    net = await start(bench)
    updates, ages, last = net.register(UPDATES), [], 0
    changes = updates.changes()

    async def look() -> None:
        nonlocal last
        async for _ in changes:
            value = updates.value
            if isinstance(value, int) and value != last:
                last = value
                ages.append(time.monotonic_ns() - value)

    task = asyncio.get_running_loop().create_task(look())
    while not task.done():
        await bench.turn_async()
        bench.tell("seen", ages=ages[:])
        ages.clear()


async def write(bench: Bench) -> None:
    """In turn: updates one by one, majority writes one at a time, and ``flight`` at a time; on disks if there
    is a directory for them."""
    net = await start(bench)
    await bench.turn_async()
    await until_linked(net, len(bench.task.counts))
    updates, counter = net.register(UPDATES), net.counter("counter")
    spaced, single, many = bench.task.phases
    on_disk = bool(bench.task.directory)
    for _ in range(spaced):
        await updates.set(time.monotonic_ns())
        await asyncio.sleep(APART_SECONDS)
    bench.tell("updated")
    await bench.turn_async()
    times = []
    for _ in range(single):
        began = time.monotonic_ns()
        await counter.increment(consistency=QUORUM, on_disk=on_disk)
        times.append(time.monotonic_ns() - began)
    bench.tell("written", times=times)
    await bench.turn_async()
    left = many

    async def go_on() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await counter.increment(consistency=QUORUM, on_disk=on_disk)

    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(bench.task.flight):
            tasks.create_task(go_on())
    bench.tell("flown", seconds=time.monotonic() - began, count=counter.value)
    await bench.turn_async()


async def heal(bench: Bench) -> None:
    """Two nodes of as many keys as the phase says; one hears nothing while the other writes 50 of them anew
    and removes 50; then they compare, as they do each `state_sync_ms`."""
    (keys,) = bench.task.phases
    config = NetworkConfig(state_elements_max=2 * keys, state_sync_ms=10**9)
    nets = [AgentNetworkManager(f"node-{number}", config) for number in range(2)]
    await nets[0].join_network([])
    await nets[1].join_network(nets[0].addresses)
    one, other = (net.map("keys") for net in nets)
    for number in range(keys):
        one.set(f"key-{number}", number)
        if number % 10_000 == 0:
            await asyncio.sleep(0)
    sums = [net.replication.states for net in nets]
    async with asyncio.timeout(WAIT_SECONDS):
        while sums[0].sums() != sums[1].sums():
            nets[0].replication.comparing.start("node-1")
            nets[0].turn()
            await asyncio.sleep(0.5)
    whole = len(one._held.state.encode())
    receive = nets[1].replication.receive
    nets[1].replication.receive = lambda *_: None  # type: ignore[method-assign]
    for number in range(50):
        await one.set(f"key-{number * keys // 100}", -1)
        await one.delete(f"key-{keys // 2 + number * keys // 100}")
    await asyncio.sleep(0.5)
    nets[1].replication.receive = receive  # type: ignore[method-assign]
    before = [net.stats()["bytes_received"] for net in nets]
    began = time.monotonic()
    nets[0].replication.comparing.start("node-1")
    nets[0].turn()
    async with asyncio.timeout(WAIT_SECONDS):
        while sums[0].sums() != sums[1].sums():  # noqa: ASYNC110 - nothing tells of that
            await asyncio.sleep(LOOK_SECONDS)
    seconds = time.monotonic() - began
    moved = sum(net.stats()["bytes_received"] for net in nets) - sum(before)
    assert len(other) == keys - 50
    bench.tell("healed", seconds=seconds, share=100 * moved / whole)
    for net in nets:
        await net.leave_network()
