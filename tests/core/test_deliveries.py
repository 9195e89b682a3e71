"""What a send promises: in order, once, and told; across links that are lost; and in what limits."""

from __future__ import annotations

import gc
from typing import Any

import msgpack
import pytest
from harness import AGENTS, DONE, MESSAGE, RETURN, UUID, Agent, Token, Weather, World
from promises import ACKNOWLEDGED, DURABLE, MAILBOXED, PROCESSED, Hand, handed, numbers, pair, send, settled
from strangers import Stranger

from agentnet_core.agent_record import AgentRecord
from agentnet_core.config import EngineConfig
from agentnet_core.durable import DEFECTS
from agentnet_core.errors import (
    AgentStopped,
    ConfigError,
    DeadLettered,
    DeliveryForgotten,
    DeliveryTimeout,
    DeliveryUnsupported,
    Expired,
    HandlerFailed,
    LimitReached,
    NoSuchAgent,
)
from agentnet_core.letters import Letter
from agentnet_core.listing import write_whole
from agentnet_core.message import AgentMessage
from agentnet_core.records import Delivery, Reached, agent_id_of

# -- what is told


@pytest.mark.parametrize("delivery", [ACKNOWLEDGED, DURABLE])
@pytest.mark.parametrize("until", ["mailboxed", "processed"])
@pytest.mark.parametrize("there", ["another node", "this node"])
def test_the_receipt_names_what_was_reached(delivery: Delivery, until: str, there: str) -> None:
    world = World()
    a, b, source, _sink = pair(world)
    gate: list[Any] = []
    node = b if there == "another node" else a
    held = node.agent("held")
    (token,) = send(source, "held", b"x", delivery=delivery, until=until)
    world.run(100)
    assert token.done == (until == "mailboxed")
    held.serve(gate.append)
    (receipt,) = settled(world, [token])
    reached = MAILBOXED if until == "mailboxed" else PROCESSED
    assert receipt == (reached, node.name, 1, False)
    world.until(lambda: gate and not a.stats["letters"])
    assert [message.payload for message in gate] == [b"x"]


def test_a_durable_one_is_kept_at_once_and_goes_on() -> None:
    world = World()
    a, _, source, sink = pair(world)
    (token,) = send(source, "sink", b"x", delivery=DURABLE)
    assert token.outcome == (Reached.KEPT, "a", 0, False)
    world.until(lambda: sink.payloads == [b"x"] and not a.stats["letters"])


def test_at_most_once_is_what_it_was() -> None:
    world = World()
    _, _, source, sink = pair(world)
    assert source.send("sink", b"x", delivery=Delivery.AT_MOST_ONCE) is source.send("sink", b"y")
    world.until(lambda: sink.payloads == [b"x", b"y"])


@pytest.mark.parametrize(
    "options",
    [
        {"delivery": 3},
        {"delivery": ACKNOWLEDGED, "until": "kept"},
        {"delivery": DURABLE, "until": "seen"},
        {"delivery": DURABLE, "message_type": 2},
        {"delivery": DURABLE, "message_type": 3},
        {"delivery": ACKNOWLEDGED, "timeout": -1},
        {"delivery": ACKNOWLEDGED, "timeout": 24 * 3600 + 0.001},
    ],
)
def test_what_cannot_be_asked_for(options: dict[str, Any]) -> None:
    world = World()
    a, _, source, _ = pair(world)
    (error,) = settled(world, send(source, "sink", b"x", **options))
    assert isinstance(error, ConfigError)
    assert a.stats["letters"] == 0


def test_as_long_as_its_number_is_remembered() -> None:
    world = World()
    _, _, source, _ = pair(world)
    (receipt,) = settled(world, send(source, "sink", b"x", timeout=24 * 3600))
    assert receipt.reached is PROCESSED
    (receipt,) = settled(world, send(source, "sink", b"x", delivery=DURABLE, until="processed", timeout=1e6))
    assert receipt.reached is PROCESSED


# -- what fails


def test_nobody_is_known_of_that_name() -> None:
    world = World()
    a, _, source, _ = pair(world)
    (error,) = settled(world, send(source, "nobody", b"x"))
    assert isinstance(error, NoSuchAgent)
    assert error.definite
    assert a.stats["letters"] == 0


def test_a_handler_that_fails() -> None:
    world = World()
    a, b, source, _ = pair(world)
    tried: list[bytes] = []

    def fail(message: AgentMessage) -> None:
        tried.append(message.payload)
        raise ValueError("no")

    b.agent("broken", fail)
    (error,) = settled(world, send(source, "broken", b"x"))
    assert isinstance(error, HandlerFailed)
    assert not error.definite
    assert tried == [b"x"]
    (error,) = settled(world, send(source, "broken", b"y", delivery=DURABLE, until="processed"))
    assert isinstance(error, DeadLettered)
    assert not error.definite
    assert tried == [b"x", *[b"y"] * a.config.delivery_attempts_max]
    assert (a.stats["letters"], a.stats["letters_dead"]) == (0, 1)


def test_one_that_a_handler_failed_once_is_processed_later_and_holds_up_nobody() -> None:
    world = World()
    _a, b, source, _ = pair(world)
    done: list[bytes] = []

    def fail_first(message: AgentMessage) -> None:
        if message.payload == b"0" and message.slip is not None and message.slip.attempt == 1:
            raise ValueError("no")
        done.append(message.payload)

    b.agent("shy", fail_first)
    receipts = settled(world, send(source, "shy", *numbers(4), delivery=DURABLE, until="processed"))
    assert done == [b"1", b"2", b"3", b"0"]
    assert [receipt.attempts for receipt in receipts] == [2, 1, 1, 1]


def test_time_runs_out() -> None:
    world = World()
    a, b, source, _ = pair(world)
    b.agent("slow")  # handles nothing
    sent, kept = send(source, "slow", b"x", timeout=1)[0], send(source, "slow", b"y", delivery=DURABLE)[0]
    (late,) = send(source, "slow", b"z", delivery=DURABLE, until="processed", timeout=1)
    errors = settled(world, [sent, late])
    assert all(isinstance(error, DeliveryTimeout) and not error.definite for error in errors)
    assert kept.outcome.reached is Reached.KEPT  # type: ignore[union-attr]
    assert a.stats["letters"] == 2  # the durable ones are tried on
    world.partition(["a"], ["b"])
    world.until(lambda: "b" not in a.engine.sessions)
    (never,) = send(source, "slow", b"never sent", timeout=0.2)
    (error,) = settled(world, [never])
    assert isinstance(error, (DeliveryTimeout, NoSuchAgent))
    assert error.definite


def test_the_ttl_runs_out_in_the_mailbox() -> None:
    world = World()
    a, b, source, _ = pair(world)
    held = b.agent("held")
    tokens = send(source, "held", b"x", ttl=0.1) + send(
        source, "held", b"y", ttl=0.1, delivery=DURABLE, until="processed"
    )
    world.run(500)
    held.serve(lambda _: None)
    one, two = settled(world, tokens)
    assert isinstance(one, Expired)
    assert isinstance(two, DeadLettered)
    assert one.definite
    assert two.definite
    assert held.received == []
    assert a.stats["letters"] == 0


def test_an_agent_that_was_unregistered_is_waited_for() -> None:
    world = World()
    _, b, source, _sink = pair(world)
    held = b.agent("held")
    tokens = send(source, "held", *numbers(3), timeout=20)
    world.run(50)
    b.unregister(held)
    world.run(500)
    again = b.agent("held", lambda _: None)
    receipts = settled(world, tokens)
    assert {receipt.reached for receipt in receipts} == {PROCESSED}
    assert again.payloads == numbers(3)


def test_an_agent_that_comes_back_elsewhere_gets_what_is_kept_in_order() -> None:
    world = World()
    a, b, c = world.join("a", "b", "c")
    source, held = a.agent("source"), b.agent("held")
    send(source, "held", *numbers(5), delivery=DURABLE)
    world.run(50)
    b.kill()
    world.until(lambda: a.told("lost"))
    send(source, "held", b"5", b"6", delivery=DURABLE)
    world.run(5_000)
    assert held.received == []
    again = c.agent("held", lambda _: None)
    world.until(lambda: not a.stats["letters"])
    assert again.payloads == numbers(7)


def test_a_peer_that_makes_no_such_promise() -> None:
    source, stranger = written_to(Stranger)
    stranger.introduce()
    tell_of_there(stranger)
    (error,) = settled(stranger.world, send(source, "there", b"x"))
    assert isinstance(error, DeliveryUnsupported)
    assert error.definite
    assert list(stranger.bodies(MESSAGE)) == []


def written_to(kind: type[Any]) -> tuple[Agent, Any]:
    """An agent, and a peer of its node that answers for itself."""
    world = World()
    node = world.node("m")
    node.control.found(UUID)
    return node.agent("source"), kind(world, node, name="a")


def tell_of_there(stranger: Stranger) -> None:
    (body,) = write_whole("a", 1, 1, [AgentRecord(agent_id_of("there"), "a", "there")], 4096)
    stranger.say(AGENTS, body)
    stranger.world.run(50)


def test_the_short_way_says_what_the_long_one_says() -> None:
    """Most letters are written without a message: the same bytes, but for what is of each alone."""
    source, hand = written_to(Hand)
    hand.begin()
    tell_of_there(hand)
    for options in (
        *({"until": "processed"}, {}, {"until": "processed", "priority": 3}, {"priority": 3}),
        *({"until": "kept", "delivery": DURABLE}, {"delivery": DURABLE}),
    ):
        send(source, "there", b"first", **options)
        send(source, "there", b"second" * 50, **options)
    hand.world.run(50)
    bodies = list(hand.bodies(MESSAGE))
    for at in (0, 1, 4, 5, 8, 9):
        (long, fields), (short, others) = map(unpacked, (bodies[at], bodies[at + 2]))
        assert (long[:2], long[4:7], long[8]) == (short[:2], short[4:7], short[8])
        assert (short[2] - long[2], short[3] - long[3]) == (2, 2)  # sequence and number
        assert others == {5: [*fields[5][:3], short[3] - 1]}
    assert [AgentMessage.decode(body).encode() for body in bodies] == bodies


def unpacked(body: bytes) -> list[Any]:
    unpacker = msgpack.Unpacker(strict_map_key=False)
    unpacker.feed(body)
    return list(unpacker)


def test_letters_are_found_by_their_numbers_however_many() -> None:
    source, hand = written_to(Hand)
    hand.begin()
    tell_of_there(hand)
    engine = source.node.engine
    (book,) = (each for epoch, each in engine.letters.items() if epoch == engine.incarnation)
    tokens = send(source, "there", *numbers(5000))
    hand.world.run(50)
    assert [letter.number for letter in book] == list(range(1, 5001))
    left = list(range(1, 5001))
    hand.world.rng.shuffle(left)
    ends = [engine.incarnation, source.agent_id, agent_id_of("there"), 1]
    for at in range(0, 5000, 50):
        some = left[at : at + 50]
        hand.say(RETURN, msgpack.packb([*ends, some[0], HandlerFailed.code, b"no"]))
        hand.say(DONE, msgpack.packb([[*ends, 3, number, number] for number in some[1:]]))
        hand.world.run(20)
        rest = sorted(left[at + 50 :])
        assert [letter.number for letter in book] == rest
        assert (len(book), engine.letters_awaited) == (len(rest), len(rest))
        assert all((number in book) == (number not in some) for number in (*some, *rest[:3]))
    outcomes = settled(hand.world, tokens)
    assert sum(isinstance(outcome, HandlerFailed) for outcome in outcomes) == 100
    assert source.node.stats["letters_bytes"] == 0


# -- links and order


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("options", [{"until": "processed"}, {}, {"until": "processed", "delivery": DURABLE}])
def test_links_that_break_lose_nothing_and_bring_nothing_twice(seed: int, options: dict[str, Any]) -> None:
    world = World(seed, Weather(delay_ns=(10_000, 3_000_000)))
    a, _b, source, sink = pair(world, mailbox_messages_max=16)
    tokens: list[Token] = []
    for number in range(300):
        size = 70_000 if number % 50 == 49 else 10
        tokens += send(source, "sink", b"%d " % number + bytes(size), **options)
        if number % 10 == 0:
            world.run(world.rng.random() * 3)
        if world.rng.random() < 0.05 and "b" in a.engine.sessions:
            a.link("b").cut()
    receipts = settled(world, tokens)
    assert {receipt.reached for receipt in receipts} == {PROCESSED}
    assert [int(payload.split()[0]) for payload in sink.payloads] == list(range(300))
    assert a.stats["letters"] == 0
    assert a.stats["letters_sent_again"] > 0


def test_priorities_and_levels_are_lines_of_their_own() -> None:
    world = World()
    _, b, source, sink = pair(world)
    tokens = []
    for number in range(20):
        tokens += send(source, "sink", b"%d" % number, priority=number % 4, delivery=1 + number % 2)
    settled(world, tokens)
    world.until(lambda: len(sink.received) == 20)
    assert b.stats["lines"] == 4
    for priority in range(4):
        got = [int(m.payload) for m in sink.received if m.priority == priority]
        assert got == sorted(got)


def test_a_restarted_sender_begins_anew_and_its_old_lines_go() -> None:
    world = World()
    a, b, source, sink = pair(world)
    settled(world, send(source, "sink", b"1", b"2"))
    a.kill()
    a.restart("b")
    world.until(lambda: a.control.directory.get("sink") is not None)
    (receipt,) = settled(world, send(a.agent("source"), "sink", b"3"))
    assert receipt.reached is PROCESSED
    assert sink.payloads == [b"1", b"2", b"3"]
    assert (b.stats["lines"], b.stats["lines_dropped"]) == (1, 1)


# -- limits


def test_as_many_as_may_wait_and_one_more() -> None:
    world = World()
    _a, b, source, _ = pair(world, deliveries_max=4)
    held = b.agent("held")
    tokens = send(source, "held", *numbers(5))
    assert isinstance(tokens[4].outcome, LimitReached)
    assert not any(token.done for token in tokens[:4])
    held.serve(lambda _: None)
    settled(world, tokens)
    assert held.payloads == numbers(4)
    (receipt,) = settled(world, send(source, "held", b"again"))
    assert receipt.reached is PROCESSED


def test_as_many_bytes_as_may_wait_and_one_more() -> None:
    world = World()
    _, b, source, _ = pair(world, deliveries_bytes_max=1100)
    b.agent("held")
    one, two, three = send(source, "held", bytes(50), bytes(50), b"")
    assert not one.done
    assert not two.done
    assert isinstance(three.outcome, LimitReached)


def test_as_many_lines_as_may_be_and_one_more() -> None:
    world = World()
    config = EngineConfig(delivery_lines_max=2, delivery_timeout_ms=3_000, delivery_window_ms=3_000)
    a, b = world.node("a"), world.node("b", config=config)
    a.control.found(UUID)
    world.finish(b.join("a"))
    source, _sink = a.agent("source"), b.agent("sink", lambda _: None)
    tokens = [send(source, "sink", b"%d" % level, priority=level, timeout=20)[0] for level in range(3)]
    world.run(1_000)
    assert [token.done for token in tokens] == [True, True, False]  # the third is tried again
    receipts = settled(world, tokens)
    assert receipts[2].attempts > 1
    assert (b.stats["lines"], b.stats["lines_dropped"]) == (1, 2)


def test_what_is_settled_is_let_go_though_an_older_one_waits() -> None:
    def count() -> int:
        gc.collect()
        return sum(type(each) is Letter for each in gc.get_objects())

    world = World()
    a, b, source, _ = pair(world)
    b.agent("held")
    before = count()
    (waits,) = send(source, "held", b"x")
    for _ in range(50):
        settled(world, send(source, "sink", *numbers(10)))
    assert not waits.done
    assert a.stats["letters"] == 1
    assert count() - before == 1


def test_refusals_beyond_the_limit_are_not_told_for_processing() -> None:
    world = World()
    _, b, source, _ = pair(world, delivery_refusals_max=2)

    def fail(message: AgentMessage) -> None:
        raise ValueError(message.payload.decode())

    held = b.agent("held")
    tokens = send(source, "held", *numbers(5))
    world.run(50)
    world.partition(["b"], ["a"])  # what b says does not come
    held.serve(fail)
    world.run(200)
    source.node.link("b").cut()
    world.heal()
    errors = settled(world, tokens)
    assert [type(error) for error in errors] == [DeliveryForgotten] * 3 + [HandlerFailed] * 2


# -- a peer that speaks by hand


def test_each_number_is_let_in_once_and_told_again() -> None:
    hand, sink = handed()
    for number, prior in ((3, 0), (5, 3), (3, 0), (5, 0), (9, 5), (9, 3)):
        hand.letter(number, prior)
    assert sink.payloads == [b"3", b"5", b"9"]
    assert hand.done == [[3, 3, 3], [3, 5, 5], [3, 3, 3], [3, 5, 5], [3, 9, 9], [3, 9, 9]]


def test_what_lies_behind_a_gap_is_not_taken_and_that_is_said_once() -> None:
    hand, sink = handed()
    hand.letter(3)
    hand.letter(5, prior=4)
    hand.letter(6, prior=5)
    assert hand.returned == [(3, 0)]
    hand.letter(4, prior=3)
    hand.letter(5, prior=4)
    assert sink.payloads == [b"3", b"4", b"5"]
    hand.letter(8, prior=7)
    assert hand.returned == [(3, 0), (5, 0)]


def test_epochs_are_lines_of_their_own() -> None:
    hand, sink = handed()
    hand.letter(3, epoch=7)
    hand.letter(3, epoch=8)
    assert sink.payloads == [b"3", b"3"]


def test_nobody_there_is_told_by_number() -> None:
    hand, sink = handed()
    sink.node.unregister(sink)
    hand.letter(3)
    assert hand.returned == [(3, NoSuchAgent.code)]


def test_one_that_was_in_the_mailbox_of_an_agent_that_went_may_come_again() -> None:
    hand, sink = handed()
    sink.serve(None)
    hand.letter(3)
    sink.node.unregister(sink)
    hand.world.run(50)
    assert hand.returned == [(3, AgentStopped.code)]
    again = sink.node.make("sink", lambda _: None)
    sink.node.register(again)
    hand.letter(3, attempt=2)
    assert again.payloads == [b"3"]
    assert hand.done == [[3, 3, 3, 2]]


@pytest.mark.parametrize("kind", [DONE, RETURN])
@pytest.mark.parametrize(
    "body", [b"", b"\x90\x90", msgpack.packb([[1, 2]]), msgpack.packb([1, 2, 3, 4, 5, 0, 7])]
)
def test_frames_that_are_none_close_the_link(kind: int, body: bytes) -> None:
    hand, _ = handed()
    hand.say(kind, body)
    hand.world.run(50)
    assert hand.close is not None


def test_what_nobody_sent_is_passed_over() -> None:
    hand, sink = handed()
    hand.say(DONE, msgpack.packb([[1, 2, 3, 1, 3, 1, 2**63], [sink.engine.incarnation, 2, 3, 1, 3, 1, 9]]))
    hand.say(RETURN, msgpack.packb([1, 2, 3, 1, 5, 0, b""]))
    hand.say(RETURN, msgpack.packb([sink.engine.incarnation, 2, 3, 1, 5, 102, b""]))
    hand.letter(3)
    assert hand.close is None
    assert sink.payloads == [b"3"]


def test_a_peer_settles_only_what_went_to_it() -> None:
    world = World()
    a, b, source, _ = pair(world)
    b.agent("held")
    (token,) = send(source, "held", b"x")
    world.run(50)
    liar = Hand(world, a, name="z")
    liar.begin()
    line = [a.engine.incarnation, source.agent_id, agent_id_of("held"), 1]
    liar.say(DONE, msgpack.packb([[*line, 3, 1, 2**62]]))
    liar.say(RETURN, msgpack.packb([*line, 1, 203, b"no"]))
    world.run(50)
    assert not token.done


def test_the_bug_of_no_order_is_caught() -> None:
    hand, sink = handed()
    sink.engine.durable.defect = DEFECTS["no order"]
    hand.letter(3)
    hand.letter(5, prior=4)
    assert sink.payloads == [b"3", b"5"]  # which `test_what_lies_behind_a_gap...` does not let pass


@pytest.mark.parametrize("there", ["another node", "this node"])
def test_a_mailbox_that_drops_is_tried_again_for_what_is_durable(there: str) -> None:
    world = World()
    a, b, source, _ = pair(world)
    held = (b if there == "another node" else a).make("held")
    held.bound("drop-newest", 2, None)
    settled(world, [held.node.register(held)])
    told = send(source, "held", *numbers(5), until="mailboxed")
    world.run(100)
    assert [type(token.outcome).__name__ for token in told] == ["Receipt"] * 2 + ["MailboxFull"] * 3
    tokens = send(source, "held", b"5", b"6", delivery=DURABLE, until="processed")
    world.run(500)
    assert not any(token.done for token in tokens)
    held.serve(lambda _: None)
    settled(world, tokens)
    assert held.payloads == [b"0", b"1", b"5", b"6"]
