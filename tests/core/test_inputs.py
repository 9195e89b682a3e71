"""Inputs in the simulator: whatever becomes of links or either side, no part is lost, repeated or left."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import msgpack
import pytest
from harness import MESSAGE, MS, OPTIONAL_FIELDS, TAKE, UUID, Node, Token, Weather, World
from strangers import Stranger

from agentnet_core.config import EngineConfig
from agentnet_core.errors import ConfigError, NetworkError, ProtocolError, StreamLost
from agentnet_core.message import AgentMessage
from agentnet_core.streams import Reader

ASKED_WITH_INPUT, GIVEN, LAST = 1 | 2, 8, 16


class Eater:
    """Reads the input of each request, a part whenever the world lets it, and answers how many came."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.got: list[bytes] = []
        self.ended: list[BaseException | None] = []
        self.results: list[Token] = []
        self.readers: list[Any] = []

    def __call__(self, message: AgentMessage) -> Token:
        self.node.engine.open_input(message)
        (key,) = [key for key in self.node.engine.takers if key[2] == message.correlation]
        taker = self.node.engine.takers[key]
        self.readers.append(taker)
        result = Token()
        self.results.append(result)
        taker.wait()  # which asks for the first
        return result

    def eat(self, most: int) -> bool:
        """Take so many; whether it has ended."""
        if not self.readers or self.ended:
            return bool(self.ended)
        taker = self.readers[0]
        self.node.engine.now_ns = self.node.clock.now_ns
        try:
            for _ in range(most):
                part = taker.take()
                if part is None:
                    taker.wait()
                    break
                self.got.append(part.payload)
        except StopIteration:
            self.ended.append(None)
            self.results[0].settle(None, None)
        except NetworkError as error:
            self.ended.append(error)
        self.node.turn()
        return bool(self.ended)


class Feeder:
    """Gives numbered parts, as many as it is let to at a time."""

    def __init__(self, node: Node, reader: Reader, count: int) -> None:
        self.node, self.giver, self.count = node, reader.giver, count
        self.number = 0
        self.ended: list[BaseException | None] = []
        self.go()

    def go(self) -> None:
        assert self.giver is not None
        try:
            while self.number < self.count:
                token = self.giver.put(b"%d" % self.number)
                self.number += 1
                if token is not None:
                    token.then = self.go
                    return
            self.giver.put(b"", 0, True)
            self.ended.append(None)
        except NetworkError as error:
            self.ended.append(error)


def nothing_left(*nodes: Node) -> bool:
    return not any(n.engine.readers or n.engine.writers or n.engine.takers for n in nodes)


def begun(world: World, count: int, **options: Any) -> tuple[Node, Node, Reader, Feeder, Eater]:
    a, b = world.join("a", "b", config=EngineConfig(**options))
    eater = Eater(b)
    b.agent("eater", eater)
    asker = a.agent("asker")
    reader = a.engine.stream(asker, "eater", b"", 50, gives=True)
    reader.wait()
    feeder = Feeder(a, reader, count)
    a.turn()
    return a, b, reader, feeder, eater


@pytest.mark.parametrize("seed", range(30))
def test_every_part_once_and_in_order_whatever_becomes_of_the_links(seed: int) -> None:
    world = World(seed)
    a, b, reader, feeder, eater = begun(world, 300, stream_parts_max=16, stream_resume_ms_max=20_000)
    world.until(lambda: bool(eater.readers))
    world.network.weather = Weather(cut=0.004, stall=0.02, resend_ns=3 * MS, piece_bytes=2_000)
    for _ in range(20_000):
        world.run(world.rng.random() * 2)
        if eater.eat(world.rng.randrange(6)):
            break
    assert eater.ended == [None]
    assert eater.got == [b"%d" % number for number in range(300)]
    assert feeder.ended == [None]
    world.network.weather = Weather()
    world.until(lambda: nothing_left(a, b), ms=70_000)
    assert reader.over


def test_nothing_is_given_before_it_is_taken_and_at_most_a_window_after() -> None:
    world = World()
    a, b, _, feeder, eater = begun(world, 100, stream_parts_max=4)
    assert feeder.number == 1  # it waits for the handler
    world.run(100)
    assert eater.readers[0].position == feeder.number == 4
    eater.eat(1)
    world.run(100)
    assert feeder.number == 4  # too little to tell of
    eater.eat(1)
    world.run(100)
    assert eater.readers[0].position == feeder.number == 6
    assert not nothing_left(a, b)


def test_who_asked_leaves_and_nothing_stays() -> None:
    world = World()
    a, b, reader, feeder, eater = begun(world, 100, stream_parts_max=4)
    world.run(50)
    reader.close()
    a.turn()
    world.run(50)
    assert nothing_left(a, b)
    assert isinstance(feeder.ended[0], StreamLost)
    while not eater.eat(10):
        world.run(1)
    assert isinstance(eater.ended[0], StreamLost)


def test_a_link_that_does_not_come_back_ends_both_sides() -> None:
    world = World()
    a, b, _, feeder, eater = begun(world, 100, stream_parts_max=4, stream_resume_ms_max=500)
    world.run(50)
    world.partition(["a"], ["b"])
    a.link("b").cut()
    world.until(lambda: nothing_left(a, b))
    while not eater.eat(10):
        world.run(1)
    assert isinstance(eater.ended[0], StreamLost)
    assert isinstance(feeder.ended[0], StreamLost)


def asked(world: World) -> tuple[Node, Stranger, Eater]:
    """A stranger has asked with an input, and the handler reads it."""
    node = world.node("m")
    node.control.found(UUID)
    stranger = Stranger(world, node)
    stranger.introduce()
    eater = Eater(node)
    agent = node.make("eater", eater)
    node.register(agent)
    world.run(50)
    head = msgpack.packb([7, agent.agent_id, 1, 1, 2, 1, 0, 0, b"x"])
    stranger.say(MESSAGE, head + msgpack.packb({13: [ASKED_WITH_INPUT, 4]}), OPTIONAL_FIELDS)
    world.run(50)
    (body,) = stranger.bodies(TAKE)
    assert msgpack.unpackb(body) == [1, 0, node.config.stream_parts_max]
    return node, stranger, eater


def part(stranger: Stranger, position: int, what: int = GIVEN, sender: int = 7) -> None:
    head = msgpack.packb([sender, 55, 9, 1, 3, 1, 0, 0, b"%d" % position])
    stranger.say(MESSAGE, head + msgpack.packb({13: [what, position]}), OPTIONAL_FIELDS)
    stranger.world.run(20)


def test_parts_that_come_twice_or_of_another_are_passed_over() -> None:
    world = World()
    node, stranger, eater = asked(world)
    part(stranger, 0)
    part(stranger, 0)
    part(stranger, 1, sender=8)
    part(stranger, 1)
    part(stranger, 2, GIVEN | LAST)
    part(stranger, 3)
    while not eater.eat(1):
        pass
    assert (eater.got, eater.ended) == ([b"0", b"1"], [None])
    assert node.stats["replies_late"] == 3
    assert stranger.close is None


@pytest.mark.parametrize("position", [1, 300])
def test_a_part_out_of_its_place_ends_the_input_alone(position: int) -> None:
    world = World()
    _, stranger, eater = asked(world)
    part(stranger, position)
    assert eater.eat(1)
    assert isinstance(eater.ended[0], StreamLost)
    assert stranger.close is None


@pytest.mark.parametrize("body", [[1, 300], ["1", 2, 3], 7, [1, 2, 3, 4]])
def test_a_take_that_is_none_closes_its_link_alone(body: Any) -> None:
    world = World()
    _, stranger, _ = asked(world)
    stranger.say(TAKE, msgpack.packb([99, 0, 5]))  # of what it was never asked
    world.run(50)
    assert stranger.close is None
    stranger.say(TAKE, msgpack.packb(body))
    world.run(50)
    assert stranger.close is not None
    assert stranger.close.code == ProtocolError.code


def asked_here(take: bool) -> tuple[weakref.ref[Any], list[AgentMessage]]:
    """The engine of a node that is gone, where a request was that has an input, and the request if taken."""
    world = World()
    (node,) = world.join("a")
    sink = node.agent("sink")
    node.engine.stream(node.agent("asker"), "sink", b"", 50, gives=True)
    node.turn()
    assert sink.pending_messages == 1
    taken = sink.take_all() if take else []
    sink.received += taken
    return weakref.ref(node.engine), taken


@pytest.mark.parametrize("take", [False, True])
def test_an_input_that_nobody_reads_keeps_no_engine(take: bool) -> None:
    """Messages are not looked at for cycles: one that held its engine would keep it for ever."""
    engine, taken = asked_here(take)
    gc.collect()
    assert engine() is None
    for message in taken:
        with pytest.raises(ConfigError, match="no input in parts"):
            message.parts()
