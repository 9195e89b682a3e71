"""Nothing grows: what engines hold after ten times the messages is what they held before.

What is counted: every object that the collector knows, by its type; the blocks that Python has in use, which
also holds messages and chunks; and what sessions, lanes and mailboxes say of themselves.
"""

from __future__ import annotations

import gc
import sys
from collections import Counter, deque
from collections.abc import Sized

import pytest
from harness import Agent, Node, World

from agentnet_core.config import EngineConfig
from agentnet_core.errors import NetworkError
from agentnet_core.message import AgentMessage

BATCH = 25
OURS = ("agentnet", "harness")
CONTAINERS = ("collections.deque", "builtins.list", "builtins.dict", "builtins.tuple", "builtins.memoryview")
SLACK = 20
"""Containers that come and go elsewhere, the snapshots of this file among them."""
POOL_CHUNKS_MAX = 4
"""Spare chunks of a lane."""
SMALL = {"fragment_bytes": 4096, "bulk_window_bytes": 16_384, "link_window_bytes": 32_768}


class Pair:
    """Two nodes, an agent that asks and tells, one on each node that answers."""

    def __init__(self) -> None:
        self.world = World(1)
        config = EngineConfig(mailbox_messages_max=16, request_timeout_ms=500, **SMALL)
        self.nodes: list[Node] = self.world.join("a", "b", config=config)
        a, b = self.nodes
        self.asker = a.agent("asker")
        self.sinks = [node.agent(f"sink-{node.name}", self.answer) for node in (a, b)]

    def answer(self, message: AgentMessage) -> bytes:
        if message.payload == b"fails":
            raise ValueError("as asked")
        return message.payload

    def work(self, count: int) -> None:
        """So many messages of every kind, and then quiet; what the harness kept is dropped."""
        rng = self.world.rng
        self.asker.request("sink-b", b"fails")  # a link keeps what it needed for its first error
        while count > 0:
            for _ in range(min(count, BATCH)):
                to: Agent | str = rng.choice(["sink-a", "sink-b", "nobody"])
                payload = rng.choice([b"", b"fails", bytes(300), bytes(20_000)])
                try:
                    if rng.random() < 0.5:
                        self.asker.request(to, payload, priority=rng.randrange(4))
                    else:
                        self.asker.send(to, payload, priority=rng.randrange(4), ttl=rng.choice([0, 0.001]))
                except NetworkError:
                    pass  # nobody is there
            count -= BATCH
            self.world.run(20)
            for sink in self.sinks:
                sink.received.clear()
        self.world.run(1_000)
        for node in self.nodes:
            node.events.clear()

    def held(self) -> dict[str, int]:
        """How many objects of each type there are, of those that count."""
        gc.collect()
        counts = Counter(f"{type(item).__module__}.{type(item).__qualname__}" for item in gc.get_objects())
        return {name: count for name, count in counts.items() if name.startswith((*OURS, *CONTAINERS))}

    def sizes(self) -> str:
        """What the engines say of themselves, and the lengths of all that they refer to directly."""
        found: list[object] = []
        for node in self.nodes:
            found += [node.stats[name] for name in ("links", "requests_pending")]
            held = [node.engine, *node.engine.ports.values(), *node.engine.routes.values()]
            for session in node.engine.links:
                found += [session.outstanding, session.unconfirmed, session.withheld, session.waiting_bytes]
                held += [session, session.decoder, session.share]
                for lane in (session.control, session.data):
                    assert sum(len(part) for part in lists_of(lane)) <= POOL_CHUNKS_MAX
            found += [(type(item).__name__, [len(part) for part in lists_of(item)]) for item in held]
        return "\n".join(map(str, found))


def lists_of(item: object) -> list[Sized]:
    """The containers that it holds itself."""
    return [part for part in gc.get_referents(item) if isinstance(part, (list, dict, deque))]


def grown(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """By how much there is more of what counts."""
    more = {name: count - before.get(name, 0) for name, count in after.items()}
    return {name: count for name, count in more.items() if count > (0 if name.startswith(OURS) else SLACK)}


def test_ten_times_the_messages_leave_what_the_first_left() -> None:
    pair = Pair()
    pair.work(600)  # lanes, pools and tables find their size
    objects, sizes = pair.held(), pair.sizes()
    blocks = sys.getallocatedblocks()
    pair.work(3_000)
    assert grown(objects, pair.held()) == {}
    assert pair.sizes() == sizes
    # A few for numbers that have become large, and for what the interpreter itself keeps.
    assert sys.getallocatedblocks() - blocks < 100


@pytest.mark.parametrize("rounds", [30])
def test_links_that_come_and_go_leave_nothing(rounds: int) -> None:
    pair = Pair()
    world = pair.world

    def cut(count: int) -> None:
        for _ in range(count):
            pair.asker.send("sink-b", bytes(100_000))
            pair.asker.request("sink-b", bytes(300))
            pair.nodes[0].link("b").cut()
            world.until(lambda: all(node.engine.sessions for node in pair.nodes))
            world.run(50)
        pair.work(BATCH)

    cut(3)
    objects = pair.held()
    cut(rounds)
    # Not the sizes: how many spare chunks a link has that is new depends on what came over it.
    assert grown(objects, pair.held()) == {}


def test_agents_that_come_and_go_leave_nothing() -> None:
    pair = Pair()
    a, b = pair.nodes

    def come_and_go(count: int) -> None:
        for number in range(count):
            guest = b.make(f"guest-{number}", pair.answer, capabilities=["guest"])
            b.register(guest)
            pair.world.run(5)
            pair.asker.request(f"guest-{number}", b"x")
            pair.asker.send(f"guest-{number}", b"x")
            assert len(a.control.directory.find("guest")) == 1
            b.unregister(guest)
            pair.world.run(5)
        pair.work(BATCH)

    come_and_go(5)
    objects, sizes = pair.held(), pair.sizes()
    come_and_go(50)
    assert grown(objects, pair.held()) == {}
    assert pair.sizes() == sizes
