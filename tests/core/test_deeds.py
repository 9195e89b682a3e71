"""What is kept of what was done once: as much as somebody may ask for again, and no more after a restart."""

from __future__ import annotations

from typing import Any

import pytest
from harness import UUID, Agent, Node, World
from promises import ACKNOWLEDGED, DURABLE, send, settled

from agentnet_core.config import EngineConfig
from agentnet_core.message import AgentMessage

COUNT = 40


def pair(world: World) -> tuple[Node, Node]:
    config = EngineConfig(delivery_retry_ms_max=200)
    a, b = (world.node(name, disk=True, config=config) for name in "ab")
    a.control.found(UUID)
    world.finish(b.join("a"))
    return a, b


def commit(message: AgentMessage) -> Any:
    """The first one leaves what lives at the head of the log: nothing behind it can be released."""
    total = int(message.store.get("total", b"0")) + 1
    name = "first" if total == 1 else "total"
    return message.once({name: b"1", "total": b"%d" % total})


def restart(world: World, node: Node, other: str) -> Agent:
    node.kill(silently=False)
    world.run(100)
    world.finish(node.restart(other))
    agent = node.make("sink", commit)
    world.finish(node.register(agent))
    return agent


@pytest.mark.parametrize("here", [False, True])
@pytest.mark.parametrize("delivery", [DURABLE, ACKNOWLEDGED])
def test_what_its_line_knows_is_not_kept_twice(here: bool, delivery: Any) -> None:
    world = World()
    a, b = pair(world)
    sink = b.agent("sink", commit)
    source = (b if here else a).agent("source")
    for number in range(COUNT):
        settled(world, send(source, "sink", b"%d" % number, delivery=delivery, until="processed"))
    world.run(100)
    again = restart(world, b, "a")
    assert int(again.store["total"]) == COUNT
    # Who was promised less may send again what it was not told of, as long as it lives.
    lives_on = delivery is ACKNOWLEDGED and not here
    assert b.stats["operations_kept"] == (COUNT if lives_on else 0)
    assert len(sink.received) == COUNT
    assert not again.received
