"""What is on the disk of either side outlives its processes; and what is told when a disk says no."""

from __future__ import annotations

from typing import Any

import pytest
from harness import UUID, Agent, Node, World
from promises import DURABLE, PROCESSED, numbers, send, settled

from agentnet.dead import list_dead
from agentnet_core.config import EngineConfig
from agentnet_core.errors import DeliveryTimeout, StorageBusy, StorageFailed, StorageFull
from agentnet_core.letters import Letter
from agentnet_core.message import AgentMessage
from agentnet_core.records import Reached


def on_disks(world: World) -> tuple[Node, Node, Agent]:
    a, b = world.node("a", disk=True), world.node("b", disk=True)
    a.control.found(UUID)
    world.finish(b.join("a"))
    return a, b, a.agent("source")


def test_receipts_name_the_disks() -> None:
    world = World()
    a, b, source = on_disks(world)
    b.agent("sink", lambda _: None)
    (kept,) = send(source, "sink", b"x", delivery=DURABLE)
    assert not kept.done
    (processed,) = send(source, "sink", b"y", delivery=DURABLE, until="processed")
    (told,) = send(source, "sink", b"z", until="processed")
    assert settled(world, [kept, processed, told]) == [
        (Reached.KEPT, "a", 0, True),
        (PROCESSED, "b", 1, True),
        (PROCESSED, "b", 1, False),
    ]
    a.agent("own", lambda _: None)
    (own,) = send(source, "own", b"x", delivery=DURABLE, until="processed")
    assert settled(world, [own]) == [(PROCESSED, "a", 1, True)]


@pytest.mark.parametrize("power", [False, True])
def test_the_window_outlives_the_receiver(power: bool) -> None:
    """What it processed, and its disk has, is told again after its restart, and not handled again."""
    world = World()
    a, b, source = on_disks(world)
    handled: list[bytes] = []
    b.agent("sink", lambda message: handled.append(message.payload))
    b.link("a").out.mute = True  # what b says does not come
    tokens = send(source, "sink", *numbers(5), delivery=DURABLE, until="processed")
    world.until(lambda: len(handled) == 5)
    world.run(20)
    b.kill(silently=power)
    a.link("b").cut()
    world.run(100)
    b.restart("a")
    b.register(b.make("sink", lambda message: handled.append(message.payload)))
    receipts = settled(world, tokens + send(source, "sink", b"5", delivery=DURABLE, until="processed"))
    assert {receipt.reached for receipt in receipts} == {PROCESSED}
    assert handled == numbers(6)
    assert b.stats["letters_again"] == 5


def test_letters_outlive_the_sender_and_go_on_in_order() -> None:
    world = World()
    a, b, source = on_disks(world)
    kept = send(source, "sink", *numbers(5), delivery=DURABLE)
    settled(world, kept)
    a.kill(silently=True)
    world.run(100)
    a.restart("b")
    source = a.make("source")
    a.register(source)
    send(source, "sink", b"5", b"6", delivery=DURABLE)
    sink = b.agent("sink", lambda _: None)
    world.until(lambda: not a.stats["letters"])
    assert sink.payloads == numbers(7)
    assert a.engine.durable.number == 7


def test_what_is_kept_without_a_message_is_as_what_is_kept_of_one() -> None:
    """Both outlive their sender, in order, and are known where they came before."""
    world = World()
    a, b, source = on_disks(world)
    sink = b.agent("sink", lambda _: None)
    b.link("a").out.mute = True  # what b says does not come
    letters = []
    for options in ({}, {"until": "kept"}, {}, {"until": "kept"}):
        letters += send(source, "sink", b"short", b"long" * 100, delivery=DURABLE, **options)
    assert {receipt.reached for receipt in settled(world, letters)} == {Reached.KEPT}
    world.until(lambda: len(sink.payloads) == 8)
    kept = [(letter.number, letter.message.encode()) for letter in kept_by(a)]
    a.kill(silently=True)
    b.link("a").cut()
    world.run(100)
    a.restart("b")
    a.register(a.make("source"))
    assert [number for number, _ in kept] == [letter.number for letter in kept_by(a)]
    for (_, was), letter in zip(kept, kept_by(a), strict=True):
        before, after = AgentMessage.decode(was), letter.message
        assert (before.payload, before.timestamp) == (after.payload, after.timestamp)
        assert (before.from_agent, before.to_agent) == (after.from_agent, after.to_agent)
    world.until(lambda: not a.stats["letters"])
    assert len(sink.payloads) == 8
    assert b.stats["letters_again"] == 8


@pytest.mark.parametrize("options", [{}, {"until": "kept"}])
def test_as_many_bytes_as_may_wait_for_the_disk_and_one_more(options: dict[str, Any]) -> None:
    """A message counts 500 bytes beside its payload; half of the room is for messages."""
    world = World()
    size = 2 * 3 * (500 + 100)
    a = world.node("a", disk=True, config=EngineConfig(log_waiting_bytes_max=size))
    a.control.found(UUID)
    source, sink = a.agent("source"), a.agent("sink", lambda _: None)
    tokens = send(source, "sink", *[bytes(100)] * 3, delivery=DURABLE, **options)
    (busy,) = send(source, "sink", b"", delivery=DURABLE, **options)
    (error,) = settled(world, [busy])
    assert isinstance(error, StorageBusy)
    assert error.definite
    assert [receipt.reached for receipt in settled(world, tokens)] == [Reached.KEPT] * 3
    (receipt,) = settled(world, send(source, "sink", b"later", delivery=DURABLE, **options))
    assert receipt.reached == Reached.KEPT
    world.until(lambda: len(sink.payloads) == 4)


def kept_by(node: Node) -> list[Letter]:
    return list(node.engine.letters[node.engine.durable.epoch])


def test_a_full_disk_refuses_definitely_and_takes_again() -> None:
    world = World()
    a, b, source = on_disks(world)
    sink = b.agent("sink", lambda _: None)
    assert a.disk is not None
    settled(world, send(source, "sink", b"first", delivery=DURABLE))
    a.disk.files.capacity = 0
    (error,) = settled(world, send(source, "sink", bytes(2_000_000), delivery=DURABLE))
    assert isinstance(error, StorageFull)
    assert error.definite
    a.disk.files.capacity = None
    (receipt,) = settled(world, send(source, "sink", b"again", delivery=DURABLE))
    assert receipt == (Reached.KEPT, "a", 0, True)
    world.until(lambda: not a.stats["letters"])
    assert sink.payloads == [b"first", b"again"]


def test_a_failed_sync_is_final_for_the_sender() -> None:
    world = World()
    a, b, source = on_disks(world)
    b.agent("sink", lambda _: None)
    assert a.disk is not None
    a.disk.files.fail_syncs = 1
    (unknown,) = settled(world, send(source, "sink", b"x", delivery=DURABLE))
    assert isinstance(unknown, StorageFailed)
    assert not unknown.definite
    (refused,) = settled(world, send(source, "sink", b"y", delivery=DURABLE))
    assert isinstance(refused, StorageFailed)
    assert refused.definite
    (receipt,) = settled(world, send(source, "sink", b"z"))
    assert receipt.reached is PROCESSED


def test_a_receiver_whose_disk_failed_says_nothing_more_of_durable_ones() -> None:
    world = World()
    a, b, source = on_disks(world)
    sink = b.agent("sink", lambda _: None)
    assert b.disk is not None
    b.disk.files.fail_syncs = 1
    tokens = send(source, "sink", b"x", delivery=DURABLE, until="processed", timeout=3)
    (error,) = settled(world, tokens)
    assert isinstance(error, DeliveryTimeout)
    assert sink.payloads == [b"x"]
    assert a.stats["letters"] == 1


def test_what_is_released_leaves_the_log_small() -> None:
    world = World()
    config = EngineConfig(log_segment_bytes=4096, log_held_bytes=8192)
    a, b = world.node("a", disk=True, config=config), world.node("b", disk=True, config=config)
    a.control.found(UUID)
    world.finish(b.join("a"))
    source, sink = a.agent("source"), b.agent("sink", lambda _: None)
    send(source, "nobody yet", b"stays", delivery=DURABLE)
    for number in range(300):
        settled(world, send(source, "sink", b"%d" % number + bytes(100), delivery=DURABLE, until="processed"))
    for node in (a, b):
        assert node.disk is not None
        assert sum(node.disk.files.size(name) for name in node.disk.files.names()) < 10 * 8192
    a.kill(silently=True)
    a.restart("b")
    waiting = b.agent("nobody yet", lambda _: None)
    world.until(lambda: waiting.payloads == [b"stays"])
    assert len(sink.received) == 300


# -- dead letters


def failing(world: World, *payloads: bytes, **settings: Any) -> tuple[Node, Node, Agent]:
    """A sender with those payloads among its dead letters, and a receiver whose agent fails."""
    config = EngineConfig(delivery_retry_ms_max=100, delivery_attempts_max=2, **settings)
    a, b = world.node("a", disk=True, config=config), world.node("b", disk=True, config=config)
    a.control.found(UUID)
    world.finish(b.join("a"))
    source = a.agent("source")

    def fail(message: AgentMessage) -> None:
        raise ValueError("no")

    b.agent("sink", fail)
    for payload in payloads:
        settled(world, send(source, "sink", payload, delivery=DURABLE))
        world.until(lambda: not a.stats["letters"])
    return a, b, source


def dead(node: Node) -> list[bytes]:
    return [letter.payload for letter in list_dead(node.engine)]


@pytest.mark.parametrize("power", [False, True])
def test_dead_letters_outlive_their_node_and_are_replayed(power: bool) -> None:
    world = World()
    a, b, _ = failing(world, b"1", b"2", b"3")
    world.run(100)
    assert [letter.reason for letter in list_dead(a.engine)] == ["agent sink: no"] * 3
    assert len(a.told("dead_letter")) == 3
    a.kill(silently=power)
    a.restart("b")
    world.until(lambda: a.control.directory.get("sink") is not None)
    assert dead(a) == [b"1", b"2", b"3"]
    assert a.stats["letters"] == 0
    again = b.make("sink", lambda _: None)
    b.register(again)
    one, two, three = list(a.engine.dead)
    a.do(lambda _: a.engine.replay_dead([three, one]))
    world.until(lambda: again.payloads == [b"3", b"1"])
    a.do(lambda _: a.engine.purge_dead([two]))
    world.run(100)
    a.kill(silently=power)
    a.restart("b")
    world.run(1000)
    assert dead(a) == []
    assert a.stats["letters"] == 0


def test_as_many_dead_letters_as_may_be_and_one_more() -> None:
    world = World()
    a, _, _ = failing(world, b"1", b"2", b"3", dead_letters_max=2)
    assert dead(a) == [b"2", b"3"]
    assert a.stats["dead_letters_dropped"] == 1
    a, _, _ = failing(World(), b"1", bytes(600), b"3", dead_letters_bytes_max=1_200)
    assert dead(a) == [b"3"]


def test_dead_letters_are_written_again_with_what_holds_the_log() -> None:
    world = World()
    a, b, source = failing(world, b"dead", log_segment_bytes=4096, log_held_bytes=8192)
    b.agent("well", lambda _: None)
    for _ in range(300):
        settled(world, send(source, "well", bytes(100), delivery=DURABLE, until="processed"))
    assert a.disk is not None
    assert sum(a.disk.files.size(name) for name in a.disk.files.names()) < 10 * 8192
    a.kill(silently=True)
    a.restart("b")
    assert dead(a) == [b"dead"]


def test_marks_are_written_for_many_at_once_and_soon_where_one_is_waited_for() -> None:
    """Word of what is done goes to the disk once in `delivery_mark_ms`, whatever comes meanwhile."""
    world = World()
    a, b, source = on_disks(world)
    b.agent("sink", lambda _: None)
    assert a.disk is not None
    assert b.disk is not None
    puts: list[int] = []
    b.disk.on_put = puts.append
    mark_ms = EngineConfig().delivery_mark_ms
    for _ in range(40):
        send(source, "sink", b"x", delivery=DURABLE)
        world.run(mark_ms / 8)
    world.until(lambda: not a.stats["letters"])
    assert 2 <= len(puts) <= 8
    for _ in range(10):
        before = world.clock.now_ns
        settled(world, send(source, "sink", b"y", delivery=DURABLE, until="processed"))
    assert len(puts) > 10
    assert world.clock.now_ns - before < 1_000_000 * (mark_ms + 4)


def test_what_is_settled_is_written_with_what_comes_or_after_a_while() -> None:
    world = World()
    a, b, source = on_disks(world)
    b.agent("sink", lambda _: None)
    assert a.disk is not None
    settled(world, send(source, "sink", b"x", delivery=DURABLE))
    world.until(lambda: not a.stats["letters"])
    puts: list[int] = []
    a.disk.on_put = puts.append
    world.run(20 * EngineConfig().delivery_mark_ms)
    assert len(puts) == 1
    a.kill()
    a.restart("b")
    world.run(100)
    assert not a.stats["letters"]
    assert not a.stats["letters_sent_again"]
