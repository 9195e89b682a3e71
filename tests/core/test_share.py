"""How many fragments are on their way: one where a second would wait behind it, many on a long way."""

from __future__ import annotations

import pytest
from harness import AGENTS, CREDIT, MESSAGE, MS, UUID, Weather, World
from strangers import Stranger

from agentnet_core.agent_record import AgentRecord
from agentnet_core.config import EngineConfig
from agentnet_core.listing import write_whole

FRAGMENT = 64 * 1024


def packed(*numbers: int) -> bytes:
    """An array of unsigned integers as MessagePack, each in eight bytes."""
    return bytes([0x90 + len(numbers)]) + b"".join(b"\xcf" + number.to_bytes(8, "big") for number in numbers)


def test_a_long_way_is_filled() -> None:
    world = World(weather=Weather(delay_ns=(50 * MS, 51 * MS), room_bytes=1 << 20))
    a, b = world.join("a", "b")
    sink = b.agent("sink")
    began = world.now_ns
    a.agent("source").send("sink", bytes(64 * FRAGMENT))
    world.until(lambda: sink.pending_messages)
    rounds = (world.now_ns - began) / (100 * MS)
    # One at a time would take 64 rounds, bulk_window_bytes allows four.
    assert 16 <= rounds < 24


@pytest.mark.parametrize("most", [1, 4, 7])
def test_a_slow_reader_is_sent_little_ahead(most: int) -> None:
    """It takes a fragment every 10 ms; what is sent ahead of that only lies in its buffers."""
    world = World()
    node = world.node("m", config=EngineConfig(bulk_window_bytes=most * FRAGMENT))
    node.control.found(UUID)
    stranger = Stranger(world, node, name="a")
    stranger.introduce()
    (body,) = write_whole("a", 1, 1, [AgentRecord(77, "a")], 4096)
    stranger.say(AGENTS, body)
    world.run(10)
    source = node.make("source")
    node.register(source)
    source.send(77, bytes(100 * FRAGMENT))
    ahead = []
    for taken in range(90):
        world.run(10)
        parts = list(stranger.bodies(MESSAGE))
        assert len(parts) > taken, "the link stands idle"
        ahead.append(len(parts) - taken)
        size = sum(len(part) + 10 for part in parts[: taken + 1])
        stranger.say(CREDIT, packed(size, 0))
    assert max(ahead) <= most
    assert ahead[40:].count(1) >= 30
    assert max(ahead[40:]) <= 2
