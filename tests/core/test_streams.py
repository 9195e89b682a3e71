"""Streams in the simulator: whatever becomes of links and of who reads, no part is lost, repeated or left."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgpack
import pytest
from harness import GRANT, MESSAGE, MS, OPTIONAL_FIELDS, UUID, Agent, Node, Token, Weather, World
from strangers import Stranger

from agentnet_core.config import EngineConfig
from agentnet_core.errors import NetworkError, ProtocolError, StreamLost
from agentnet_core.message import AgentMessage
from agentnet_core.streams import Reader


class Producer:
    """Answers each stream with numbered parts, as many as it is let to at a time."""

    def __init__(self, node: Node, count: int) -> None:
        self.node, self.count = node, count
        self.ended: list[BaseException | None] = []

    def __call__(self, message: AgentMessage) -> Token:
        writer = self.node.engine.open_writer(message)
        result = Token()

        def go(number: int = 0) -> None:
            while number < self.count:
                try:
                    token = writer.put(b"%d" % number)
                except NetworkError as error:
                    self.ended.append(error)
                    return
                number += 1
                if token is not None:
                    token.then = partial(go, number)
                    return
            self.ended.append(None)
            if result.then is not None:
                result.settle(None, None)

        self.node.clock.at(self.node.clock.now_ns, self.node.act, go)
        return result


def drain(reader: Reader, got: list[bytes], limit: int = 1 << 30) -> bool:
    """Take what is there; whether it has ended."""
    try:
        while len(got) < limit and (part := reader.take()) is not None:
            got.append(part.payload)
    except StopIteration:
        return True
    return False


def nothing_left(*nodes: Node) -> bool:
    return not any(node.engine.readers or node.engine.writers for node in nodes)


@pytest.mark.parametrize("seed", range(30))
def test_every_part_once_and_in_order_whatever_becomes_of_the_links(seed: int) -> None:
    weather = Weather(cut=0.004, stall=0.02, resend_ns=3 * MS, piece_bytes=2_000)
    world = World(seed, weather)
    config = EngineConfig(stream_parts_max=16, stream_resume_ms_max=20_000)
    a, b = world.join("a", "b", config=config)
    producer = Producer(b, 300)
    b.agent("teller", producer)
    reader = a.engine.stream(a.agent("asker"), "teller", b"", 50)
    got: list[bytes] = []
    over = False
    for _ in range(20_000):
        world.run(world.rng.random() * 2)
        a.engine.now_ns = world.now_ns
        over = drain(reader, got, len(got) + world.rng.randrange(6))
        a.turn()
        if over:
            break
    assert over
    assert got == [b"%d" % number for number in range(300)]
    assert producer.ended == [None]
    world.network.weather = Weather()
    world.until(lambda: nothing_left(a, b), ms=70_000)


def test_at_most_a_window_is_ahead() -> None:
    world = World()
    a, b = world.join("a", "b", config=EngineConfig(stream_parts_max=4))
    teller = b.agent("teller", Producer(b, 100))
    reader = a.engine.stream(a.agent("asker"), "teller", b"", None)
    world.run(100)
    assert (reader.position, len(teller.received)) == (4, 1)
    got: list[bytes] = []
    assert not drain(reader, got, 1)
    a.turn()
    world.run(100)
    assert reader.position == 4  # too little to tell of
    assert not drain(reader, got, 2)
    a.turn()
    world.run(100)
    assert reader.position == 6


def test_who_leaves_is_told_and_nothing_stays() -> None:
    world = World()
    a, b = world.join("a", "b", config=EngineConfig(stream_parts_max=4))
    producer = Producer(b, 100)
    teller = b.agent("teller", producer)
    reader = a.engine.stream(a.agent("asker"), "teller", b"", None)
    world.run(50)
    reader.close()
    world.run(50)
    assert nothing_left(a, b)
    assert len(teller.recalled) == 1
    assert isinstance(producer.ended[0], StreamLost)


def test_a_link_that_does_not_come_back_ends_both_sides() -> None:
    world = World()
    a, b = world.join("a", "b", config=EngineConfig(stream_parts_max=4, stream_resume_ms_max=500))
    producer = Producer(b, 100)
    b.agent("teller", producer)
    reader = a.engine.stream(a.agent("asker"), "teller", b"", None)
    world.run(50)
    world.partition(["a"], ["b"])
    a.link("b").cut()
    world.run(2_000)
    got: list[bytes] = []
    with pytest.raises(StreamLost, match="part 4 is the next one"):
        drain(reader, got)
    assert len(got) == 4
    world.until(lambda: nothing_left(a, b))  # the other side hears only silence
    assert isinstance(producer.ended[0], StreamLost)
    assert b.stats["streams_lost"] == a.stats["streams_lost"] == 1


def started(world: World, handle: Any) -> tuple[Node, Stranger, Agent]:
    node = world.node("m")
    node.control.found(UUID)
    stranger = Stranger(world, node)
    stranger.introduce()
    agent = node.make("teller", handle)
    node.register(agent)
    world.run(50)
    return node, stranger, agent


@pytest.mark.parametrize("body", [[1, 300, 400], [1, 2], ["1", 2, 3], 7])
def test_a_grant_that_cannot_be_closes_its_link_alone(body: Any) -> None:
    world = World()
    node, stranger, agent = started(world, None)
    agent.serve(Producer(node, 1000))
    head = msgpack.packb([7, agent.agent_id, 1, 1, 2, 1, 0, 0, b"x"])
    stranger.say(MESSAGE, head + msgpack.packb({13: [1, 4]}), OPTIONAL_FIELDS)
    world.run(50)
    stranger.say(GRANT, msgpack.packb(body))
    world.run(50)
    assert stranger.close is not None
    assert stranger.close.code == ProtocolError.code
