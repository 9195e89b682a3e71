"""Networks of many nodes: what the processes do that hold some of them each.

The nodes of one process share its event loop.  A node's name tells its process and its place there, each
registers one agent of its own name, and the first of each process is the one that others join through.
The processes die in rounds, the last one first.
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

from agentnet import AgentMessage, AgentNetworkManager, Event, NetworkConfig, NetworkError, NodeStatus
from agentnet.handlers import Handler
from agentnet.liveness.packets import ANSWER_BYTES_MIN, PACKET_BYTES
from bench import agentnet_messages
from bench.agentnet_messages import echo
from bench.network import names
from bench.worker import Bench, Task

WAIT_MS_MAX = 120_000
"""For joining and registering: all nodes share the processors."""
JOINING_MAX = 24
"""Nodes of one process that join at a time."""
GARBAGE = 50_000
"""Objects after which garbage is looked for: at the usual 700, each of the nodes of one process would pay for
walking through what all the others hold."""
LOOK_SECONDS = 0.05
ASKING = 16
"""Registrations and requests at a time."""


def config(task: Task, node_id: str, port: int = 0) -> NetworkConfig:
    """For many nodes raised are `nodes_max` and `events_max`, both 1,024 by default, for when many die at
    once; and the deadlines of joining and registering, 10 s."""
    nodes = sum(task.counts)
    settings = {"mesh_nodes_max": task.mesh_nodes_max} if task.mesh_nodes_max else {}
    return replace(
        agentnet_messages.config(task, node_id, port),
        nodes_max=max(1_024, 2 * nodes),
        events_max=max(1_024, 8 * nodes),
        join_ms_max=WAIT_MS_MAX,
        register_ms_max=WAIT_MS_MAX,
        **settings,
    )


def is_known(net: AgentNetworkManager, nodes: int) -> bool:
    """Whether this node shows so many, all active, and an agent of each."""
    stats = net.stats()
    if not stats["nodes"] == stats["agents"] == nodes:  # far cheaper than the lists
        return False
    return all(member.status is NodeStatus.ACTIVE for member in net.members())


class Crowd:
    """The nodes of one process. ``lost``: when each heard of whose loss; ``cut``: with whom it lost its
    link; both since `forget`."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.nodes = sum(task.counts)
        self.nets: list[AgentNetworkManager] = []
        self.lost: list[dict[str, float]] = []
        self.cut: list[dict[str, None]] = []
        self._readers: list[asyncio.Task[None]] = []

    async def start(self, number: int, handler: Handler = echo) -> AgentNetworkManager:
        """A node that joins; the first of all founds the network."""
        task, own_port = self.task, self.task.ports[self.task.index]
        node_id, scheme = names(task, task.index)[number], "tls" if task.certificates else "tcp"
        net = AgentNetworkManager(node_id, config(task, node_id, 0 if number else own_port))
        gates = (own_port,) if number else task.ports[: task.index]
        await net.join_network([f"{scheme}://127.0.0.1:{port}" for port in gates])
        await net.register_agent(net.node_id, handler=handler)
        self.nets.append(net)
        return net

    async def join(self) -> None:
        """All but the first, which is there."""
        room = asyncio.Semaphore(JOINING_MAX)

        async def start(number: int) -> None:
            async with room:
                await self.start(number)

        async with asyncio.TaskGroup() as tasks:
            for number in range(1, self.task.counts[self.task.index]):
                tasks.create_task(start(number))

    async def agree(self) -> None:
        """Returns when each node has shown all nodes, and an agent of each."""
        waiting = list(self.nets)
        while waiting:
            for net in list(waiting):
                if is_known(net, self.nodes):
                    waiting.remove(net)
                await asyncio.sleep(0)
            await asyncio.sleep(LOOK_SECONDS)

    def watch(self) -> None:
        """Note from now on whose loss the nodes hear of, and which links end."""
        for net in self.nets:
            lost, cut = {}, {}
            self.lost.append(lost)
            self.cut.append(cut)
            self._readers.append(asyncio.create_task(self._read(net, lost, cut)))

    async def _read(self, net: AgentNetworkManager, lost: dict[str, float], cut: dict[str, None]) -> None:
        async for event in net.events():
            if event.kind == Event.LOST:
                lost.setdefault(event.node_id, time.monotonic())
            elif event.kind == Event.LINK_LOST:
                cut[event.node_id] = None
            elif event.kind == Event.EVENTS_MISSED:
                raise RuntimeError(f"{net.node_id} missed {event.count} events: raise events_max")

    def forget(self) -> None:
        for each in (*self.lost, *self.cut):
            each.clear()

    async def see_lost(self, dying: Iterable[str], seconds: float) -> None:
        """Returns when every node has heard of all these losses, or that much later."""
        for _ in range(int(seconds / LOOK_SECONDS)):
            if all(dying <= lost.keys() for lost in self.lost):
                return
            await asyncio.sleep(LOOK_SECONDS)

    def bytes_received(self) -> int:
        """Nothing is sent here but what the network needs itself."""
        stats = [net.stats() for net in self.nets]
        probes = PACKET_BYTES * sum(each["probes_answered"] for each in stats)
        answers = ANSWER_BYTES_MIN * sum(each["probes_heard"] for each in stats)
        return probes + answers + sum(each["bytes_received"] for each in stats)


async def crowd(bench: Bench) -> None:
    """Joins and agrees; rests; then tells, for each process that is let die, when its nodes were lost."""
    task, here = bench.task, Crowd(bench.task)
    gc.set_threshold(GARBAGE)
    await here.start(0)
    await bench.turn_async()
    await here.join()
    bench.tell("joined")
    await here.agree()
    bench.tell("agreed")
    here.watch()
    gc.collect()
    gc.freeze()
    await bench.turn_async()
    here.forget()
    bench.tell("resting", bytes=here.bytes_received())
    await bench.turn_async()
    bench.tell("rested", bytes=here.bytes_received(), lost=sum(map(len, here.lost)))
    for age, seconds in enumerate(task.phases, 1):
        await bench.turn_async()
        here.forget()
        bench.tell("watching")
        dying = dict.fromkeys(names(task, len(task.counts) - age)).keys()
        await here.see_lost(dying, seconds)
        now = time.monotonic()
        bench.tell(
            "watched",
            times=[lost.get(node_id, now) for lost in here.lost for node_id in dying],
            missing=sum(len(dying - lost.keys()) for lost in here.lost),
            cut=sum(
                len(dying & (cut.keys() | lost.keys())) for cut, lost in zip(here.cut, here.lost, strict=True)
            ),
            others=sum(len(lost.keys() - dying) for lost in here.lost),
        )
    await bench.turn_async()


async def lone(bench: Bench) -> None:
    """One node in a process of its own; when told to, its event loop stands for so many seconds."""

    async def stand(_: AgentMessage) -> None:
        time.sleep(bench.task.phases[0])  # noqa: ASYNC251 - this is what is looked at

    net = await Crowd(bench.task).start(0, stand)
    await bench.turn_async()
    await net.request(net.node_id, b"")
    bench.tell("stood")
    await bench.turn_async()


async def register_request(bench: Bench) -> None:
    """Registers on one node, requests at once from another, which are drawn each time."""
    await bench.turn_async()
    here = Crowd(bench.task)
    await here.start(0)
    await here.join()
    await here.agree()
    rng, failures = random.Random(1), list[str]()

    async def ask(numbers: Iterator[int]) -> None:
        for number in numbers:
            owner, asker = rng.sample(here.nets, 2)
            agent = await owner.register_agent(f"agent-{number}", handler=echo)
            try:
                await asker.request(agent.id, b"")
            except NetworkError as error:
                failures.append(f"from {asker.node_id} to {owner.node_id}: {error!r}")
            await owner.unregister_agent(agent)

    async for count in bench.phases_async():
        numbers = iter(range(count))
        await asyncio.gather(*(ask(numbers) for _ in range(ASKING)))
        bench.tell("asked", failed=len(failures), first=failures[:1])
