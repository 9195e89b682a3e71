"""Requests that were given up: who works on them stops, and who gave up learns what became of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgpack
import pytest
from harness import CANCEL, MESSAGE, MS, REFUSED, UUID, Agent, Node, Token, Weather, World
from strangers import Stranger

from agentnet_core.config import EngineConfig
from agentnet_core.errors import HandlerFailed, LinkLost, ProtocolError, Recalled, RequestTimeout
from agentnet_core.message import AgentMessage
from agentnet_core.recalls import DEFECTS


def pair(world: World, defect: str | None = None, **config: Any) -> tuple[Node, Node, Agent]:
    a, b = world.join("a", "b", config=EngineConfig(**config))
    for node in (a, b):
        node.engine.recall_defect = DEFECTS[defect] if defect is not None else 0
    return a, b, a.agent("asker")


def never(message: AgentMessage) -> Token:
    return Token()


def begun(agent: Agent, count: int = 1) -> bool:
    return len(agent.received) >= count


@pytest.mark.parametrize("local", [False, True])
def test_the_handler_stops_within_a_round_trip(local: bool) -> None:
    stops(local)


def stops(local: bool, defect: str | None = None) -> None:
    world = World()
    a, b, asker = pair(world, defect)
    slow = (a if local else b).agent("slow", never)
    token = asker.request("slow", b"x")
    world.until(lambda: begun(slow))
    gave_up_ns = world.now_ns
    token.cancel()
    world.until(lambda: token.fate)
    assert world.now_ns - gave_up_ns <= 2 * world.network.weather.delay_ns[1] + MS
    assert [message.payload for message in slow.recalled] == [b"x"]
    assert isinstance(token.fate[0], Recalled)
    assert not token.fate[0].definite
    assert a.stats["requests_pending"] == len(a.engine.recalled) == 0
    assert a.stats["requests_recalled"] == 1


@pytest.mark.parametrize("local", [False, True])
def test_what_is_in_the_mailbox_is_taken_out(local: bool) -> None:
    world = World()
    a, b, asker = pair(world, mailbox_messages_max=4)
    there = a if local else b
    sink = there.agent("sink")
    tokens = [asker.request("sink", b"%d" % number) for number in range(3)]
    world.until(lambda: sink.pending_messages == 3)
    waiting = asker.request("sink", b"3")
    tokens[1].cancel()
    world.until(lambda: tokens[1].fate)
    fate = tokens[1].fate[0]
    assert isinstance(fate, Recalled)
    assert fate.definite
    tokens[0].cancel()  # there is room again for who was told to stop
    world.until(lambda: sink.pending_messages == 2)
    assert [message.payload for message in sink.take_all()] == [b"2", b"3"]
    assert there.stats["requests_withdrawn"] == 2
    assert not any((waiting.done, tokens[2].done))


def test_what_was_not_sent_yet_never_is() -> None:
    not_sent()


def not_sent(defect: str | None = None) -> None:
    world = World()
    _, b, asker = pair(world, defect, mailbox_messages_max=1)
    sink = b.agent("sink")
    asker.send("sink", b"fills it")
    world.run(50)
    token = asker.request("sink", b"waits")
    token.cancel()
    world.run(1)
    assert isinstance(token.fate[0], Recalled)
    assert token.fate[0].definite
    sink.take_all()
    world.run(300)
    assert sink.take_all() == []


@pytest.mark.parametrize("after_ms", [0, 0.1, 0.4, 1])
def test_a_large_request_that_is_on_its_way_is_not_begun(after_ms: float) -> None:
    on_its_way(after_ms)


def on_its_way(after_ms: float, defect: str | None = None) -> None:
    world = World(weather=Weather(room_bytes=32 * 1024))
    _, b, asker = pair(world, defect)
    sink = b.agent("sink", lambda message: b"")
    token = asker.request("sink", bytes(2_000_000))
    world.run(after_ms)
    token.cancel()
    world.until(lambda: token.fate)
    assert isinstance(token.fate[0], Recalled)
    assert token.fate[0].definite
    assert sink.received == []


def test_who_had_finished_has_committed() -> None:
    world = World()
    a, b, asker = pair(world)
    sink = b.agent("sink", lambda message: b"done")
    token = asker.request("sink", b"x")
    world.until(lambda: begun(sink))
    token.cancel()
    world.until(lambda: token.fate)
    assert isinstance(token.fate[0], AgentMessage)
    assert token.fate[0].payload == b"done"
    assert not token.done
    assert a.stats["replies_late"] == 1


def test_a_timeout_is_told_once_and_its_fate_later() -> None:
    world = World()
    _, b, asker = pair(world)
    slow = b.agent("slow", never)
    token = asker.request("slow", b"x", timeout=0.1)
    world.until(lambda: token.done)
    assert isinstance(token.error, RequestTimeout)
    world.until(lambda: token.fate)
    assert isinstance(token.fate[0], Recalled)
    assert len(slow.recalled) == 1


def test_without_a_link_nobody_is_left_working_and_the_fate_is_unknown() -> None:
    without_a_link()


def without_a_link(defect: str | None = None) -> None:
    world = World()
    a, b, asker = pair(world, defect)
    slow, full = b.agent("slow", never), b.agent("full")
    tokens = [asker.request(name, b"x") for name in ("slow", "full")]
    asker.send("full", b"stays")
    world.until(lambda: begun(slow) and full.pending_messages == 2)
    tokens.append(asker.request("slow", b"given up"))
    world.run(1)
    tokens[2].cancel()
    a.link("b").cut()
    world.until(lambda: all(token.done for token in tokens[:2]) and tokens[2].fate)
    assert all(isinstance(token.error, LinkLost) for token in tokens[:2])
    world.until(lambda: slow.recalled)
    assert [message.payload for message in full.take_all()] == [b"stays"]
    assert tokens[2].fate == [None] or isinstance(tokens[2].fate[0], Recalled)
    assert not a.engine.recalled


def test_no_word_in_time_is_an_unknown_fate() -> None:
    no_word()


def no_word(defect: str | None = None) -> None:
    world = World()
    a, b, asker = pair(world, defect, recall_ms_max=300)
    sink = b.agent("sink")
    token = asker.request("sink", b"x")
    world.until(lambda: sink.pending_messages)
    sink.take_all()  # by who does not heed it
    token.cancel()
    began_ns = world.now_ns
    world.until(lambda: token.fate, ms=2_000)
    assert token.fate == [None]
    assert world.now_ns - began_ns == pytest.approx(300 * MS, abs=260 * MS)
    assert not a.engine.recalled


def test_as_many_as_may_be_pending_are_remembered_and_the_oldest_goes_first() -> None:
    world = World()
    a, b, asker = pair(world, requests_pending_max=3)
    sink = b.agent("sink")
    tokens = []
    for number in range(4):
        tokens.append(asker.request("sink", b"%d" % number))
        world.until(lambda: sink.pending_messages)
        sink.take_all()
        tokens[-1].cancel()
        assert len(a.engine.recalled) == min(number + 1, 3)
    world.run(1)
    assert [token.fate for token in tokens] == [[None], [], [], []]


def test_a_recall_that_is_there_before_its_request_waits_for_it() -> None:
    world = World()
    node = world.node("m")
    node.control.found(UUID)
    stranger = Stranger(world, node)
    stranger.introduce()
    sink = node.make("sink")
    node.register(sink)
    world.run(50)
    body = msgpack.packb([7, sink.agent_id, 1, 5, 2, 1, 0, 0, b"x"])
    stranger.say(CANCEL, msgpack.packb([5, sink.agent_id, len(body) + 10]))
    stranger.say(CANCEL, msgpack.packb([6, sink.agent_id, 10_000]))
    world.run(50)
    assert not any(stranger.bodies(REFUSED))
    stranger.say(MESSAGE, body)
    world.run(50)
    assert sink.take_all() == []
    (refused,) = stranger.bodies(REFUSED)
    assert msgpack.unpackb(refused)[1:4] == [5, sink.agent_id, Recalled.code]
    assert node.stats["requests_withdrawn"] == 1
    assert stranger.close is None


@pytest.mark.parametrize("body", [7, [], [1, 2], [0, 2, 3], [1, 2, 3, 4], [1, 2, -3], ["1", 2, 3]])
def test_a_malformed_recall_closes_its_link_alone(body: Any) -> None:
    world = World()
    node = world.node("m")
    node.control.found(UUID)
    stranger = Stranger(world, node)
    stranger.introduce()
    stranger.say(CANCEL, msgpack.packb(body))
    world.run(50)
    assert stranger.close is not None
    assert stranger.close.code == ProtocolError.code


# -- down the chain


@pytest.mark.parametrize("how", ["given up", "timed out", "link cut"])
def test_what_a_handler_asked_is_given_up_with_it(how: str) -> None:
    world = World()
    a, b, c = world.join("a", "b", "c")
    last = c.agent("last", never)
    middle = b.agent("middle", lambda message: middle.request("last", b"deeper"))
    asker = a.agent("asker")
    token = asker.request("middle", b"x", timeout=0.2 if how == "timed out" else None)
    world.until(lambda: begun(last))
    if how == "given up":
        token.cancel()
    elif how == "link cut":
        a.link("b").cut()
    world.until(lambda: last.recalled, ms=1_000)
    world.run(50)
    assert middle.recalled or how == "timed out"  # what it asked is late at the same time, so it may be over
    assert not any((b.engine.pending, b.engine.recalled, a.engine.pending, a.engine.recalled))


# -- storms


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_each_is_told_once_and_no_fate_lies(seed: int) -> None:
    storm(seed)


def storm(seed: int, defect: str | None = None) -> None:
    """Requests, small and large, some given up at any time; links are cut, or bring bytes twice, which ends
    them too; a fate that is told is true."""
    cut, repeat = (0.002 if seed % 2 else 0.0), (0.001 if seed % 4 == 3 else 0.0)
    weather = Weather(cut=cut, repeat=repeat, stall=0.02, resend_ns=3 * MS, piece_bytes=4_000)
    world = World(seed, weather)
    a, b, asker = pair(world, defect, mailbox_messages_max=8, recall_ms_max=400)
    finished: dict[bytes, int] = {}
    rng = world.rng

    def work(message: AgentMessage) -> Any:
        name = message.payload[:4]
        result = Token()

        def finish() -> None:
            if result.then is not None:  # else it was recalled
                finished[name] = finished.get(name, 0) + 1
                result.settle(None, None)

        world.after(rng.random() * 3, b.act, finish)
        return result

    b.agent("worker", work)
    asked: dict[bytes, Token] = {}
    for number in range(80):
        name = b"%04d" % number
        size = rng.choice((0, 0, 0, 100_000))
        token = asked[name] = asker.request("worker", name + bytes(size), timeout=rng.choice((0.005, 5)))
        if rng.random() < 0.5:
            world.after(rng.random() * 8, a.act, token.cancel)
        world.run(rng.random() * 3)
    world.network.weather = Weather()
    world.run(8_000)
    assert not any((a.engine.pending, a.engine.recalled))
    told = 0
    for name, token in asked.items():
        assert token.done or token.cancelled()
        assert finished.get(name, 0) <= 1
        outcome = token.fate[0] if token.fate else token.outcome
        if not cut and token.cancelled():
            assert token.fate != [None], "no word of what was given up, and no link was lost"
        if isinstance(outcome, AgentMessage):
            assert finished[name] == 1
        elif isinstance(outcome, Recalled) or getattr(outcome, "definite", False):
            assert name not in finished
            told += 1
        else:
            assert outcome is None or isinstance(outcome, (LinkLost, RequestTimeout, HandlerFailed))
    assert told > 5


PLAYS: dict[str, Callable[[str], None]] = {
    "never told": lambda defect: stops(False, defect),
    "not awaited": lambda defect: on_its_way(0.4, defect),
    "told and sent": not_sent,
    "never forgotten": no_word,
    "works on": without_a_link,
}
"""What finds the bugs that a storm need not meet."""


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_planted_bug_is_caught(defect: str) -> None:
    plays = [PLAYS[defect]] if defect in PLAYS else [partial(storm, seed) for seed in range(0, 12, 2)]
    with pytest.raises(AssertionError):
        for play in plays:
            play(defect)
