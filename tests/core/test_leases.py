"""Who has a message that was sent with a promise, for how long, and whose word counts of it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgpack
import pytest
from harness import AGENTS, DONE, MESSAGE, RETURN, UUID, Agent, Node, Token, World
from promises import ACKNOWLEDGED, DURABLE, PROCESSED, Hand, handed, pair, send, settled

from agentnet.dead import list_dead
from agentnet_core.agent_record import AgentRecord
from agentnet_core.durable import DEFECTS
from agentnet_core.errors import (
    ConfigError,
    DeadLettered,
    DeliveryTimeout,
    LeaseExpired,
    Nack,
    StorageFull,
    from_code,
)
from agentnet_core.listing import write_whole
from agentnet_core.message import AgentMessage
from agentnet_core.records import Delivery, Event, agent_id_of

LEASE = {"lease_ms": 1_000, "lease_ms_max": 10_000}


def there(world: World, where: str, **options: Any) -> tuple[Node, Node, Agent]:
    """Two nodes, an agent on the first that sends, and the node that its receiver is to be on."""
    a, b, source, _ = pair(world, **options)
    return a, b if where == "another node" else a, source


class Work:
    """A handler that begins, and ends when it is told to."""

    def __init__(self) -> None:
        self.begun: list[tuple[bytes, Token]] = []

    def __call__(self, message: AgentMessage) -> Token:
        token = Token()
        self.begun.append((message.payload, token))
        return token


everywhere = pytest.mark.parametrize("where", ["another node", "this node"])


# -- again, please


@everywhere
@pytest.mark.parametrize("delivery", [ACKNOWLEDGED, DURABLE])
@pytest.mark.parametrize("delay", [None, 0.0, 3.0])
def test_a_handler_that_wants_it_again_gets_it_later(
    where: str, delivery: Delivery, delay: float | None
) -> None:
    world = World()
    _, node, source = there(world, where)
    at: list[int] = []

    def shy(message: AgentMessage) -> None:
        at.append(world.now_ns)
        if len(at) < 3:
            raise Nack("not yet", delay=delay)

    node.agent("shy", shy)
    (receipt,) = settled(world, send(source, "shy", b"x", delivery=delivery, until="processed"))
    assert (receipt.reached, receipt.attempts) == (PROCESSED, 3)
    gaps = [(after - before) / 1e9 for before, after in pairwise(at)]
    if delay:
        assert all(3.0 <= gap < 3.3 for gap in gaps), gaps
    else:
        assert all(gap < 0.6 for gap in gaps), gaps
    assert node.stats["acks_late"] == source.node.stats["acks_late"] == 0


@everywhere
def test_as_often_as_may_be(where: str) -> None:
    world = World()
    a, node, source = there(world, where, delivery_attempts_max=3, delivery_retry_ms_max=100)
    count = [0]

    def never(message: AgentMessage) -> None:
        count[0] += 1
        raise Nack("no")

    node.agent("never", never)
    one, two = settled(
        world,
        send(source, "never", b"x") + send(source, "never", b"y", delivery=DURABLE, until="processed"),
    )
    assert isinstance(one, Nack)
    assert isinstance(two, DeadLettered)
    assert one.definite
    assert two.definite
    assert count == [6]
    assert [letter.code for letter in list_dead(a.engine)] == [Nack.code]


def test_who_asks_is_told() -> None:
    world = World()
    _, b, source, _ = pair(world)

    def busy(message: AgentMessage) -> None:
        raise Nack("later", delay=5)

    b.agent("busy", busy)
    token = source.request("busy", b"x")
    world.run(50)
    assert isinstance(token.error, Nack)
    assert token.error.definite


@pytest.mark.parametrize("delay", [-1, 86_401, float("nan")])
def test_what_is_no_delay(delay: float) -> None:
    with pytest.raises(ConfigError):
        Nack(delay=delay)
    assert isinstance(from_code(Nack.code, "x"), Nack)


# -- leases


@everywhere
def test_a_handler_that_lives_goes_on(where: str) -> None:
    world = World()
    _, node, source = there(world, where, **LEASE)
    work = Work()
    node.agent("worker", work)
    (token,) = send(source, "worker", b"x", timeout=60)
    world.run(5_500)
    assert node.stats["leases"] == 1
    assert node.stats["leases_extended"] >= 4
    work.begun[0][1].settle(None, None)
    (receipt,) = settled(world, [token])
    assert (receipt.reached, receipt.attempts) == (PROCESSED, 1)
    assert (node.stats["leases"], node.stats["leases_expired"]) == (0, 0)


@everywhere
def test_time_in_the_mailbox_does_not_count(where: str) -> None:
    world = World()
    _, node, source = there(world, where, **LEASE)
    held = node.agent("held")
    (token,) = send(source, "held", b"x", timeout=60)
    world.run(20_000)
    assert (node.stats["leases"], node.stats["leases_expired"]) == (0, 0)
    held.serve(lambda _: None)
    assert settled(world, [token])[0].attempts == 1


@everywhere
@pytest.mark.parametrize("delivery", [ACKNOWLEDGED, DURABLE])
@pytest.mark.parametrize("hung", [False, True])
def test_one_that_is_gone_or_hung_loses_it_and_its_word_is_late(
    where: str, delivery: Delivery, hung: bool
) -> None:
    world = World()
    a, node, source = there(world, where, **LEASE)
    work = Work()
    worker = node.agent("worker", work)
    worker.gone = not hung
    (token,) = send(source, "worker", b"x", delivery=delivery, until="processed", timeout=60)
    world.run(900)
    assert node.stats["leases_expired"] == 0
    world.run(13_000 if hung else 1_500)
    assert node.stats["leases_expired"] == 1
    assert [event.name for event in node.told(Event.LEASE_EXPIRED)] == ["worker"]
    assert isinstance(node.told(Event.LEASE_EXPIRED)[0].error, LeaseExpired)
    worker.gone = False
    work.begun[0][1].settle(None, None)  # which says that it is done, too late
    world.run(2_000)
    assert node.stats["acks_late"] == 1
    assert not token.done
    assert [payload for payload, _ in work.begun] == [b"x", b"x"]
    work.begun[1][1].settle(None, None)
    (receipt,) = settled(world, [token])
    assert (receipt.reached, receipt.attempts) == (PROCESSED, 2)
    assert (a.stats["letters"], node.stats["leases"]) == (0, 0)


def test_the_bug_of_a_late_word_that_counts_is_caught() -> None:
    world = World()
    _, node, source = there(world, "another node", **LEASE)
    node.engine.durable.defect = DEFECTS["late word"]
    work = Work()
    worker = node.agent("worker", work)
    worker.gone = True
    (token,) = send(source, "worker", b"x", delivery=DURABLE, until="processed", timeout=60)
    world.run(2_000)
    work.begun[0][1].settle(None, None)
    world.run(1)
    assert node.stats["acks_late"] == 0  # which the test before does not let pass
    del token


def test_the_lease_ends_as_often_as_it_may_and_then_it_is_a_dead_letter() -> None:
    world = World()
    a, b, source = there(world, "another node", delivery_attempts_max=2, **LEASE)
    worker = b.make("worker", Work())
    worker.gone = True
    b.register(worker)
    tokens = send(source, "worker", b"x", delivery=DURABLE, until="processed", timeout=3)
    (error,) = settled(world, tokens)
    assert isinstance(error, DeliveryTimeout)
    world.run(3_000)
    b.unregister(worker)
    again = b.make("worker", Work())
    again.gone = True
    b.register(again)
    world.until(lambda: list_dead(a.engine))
    assert [letter.code for letter in list_dead(a.engine)] == [LeaseExpired.code]


# -- whose word


def test_what_is_said_of_an_attempt_names_it() -> None:
    hand, sink = handed()
    hand.letter(3, attempt=2)
    hand.letter(3, attempt=5)
    assert hand.done == [[3, 3, 3, 2], [3, 3, 3, 5]]
    sink.serve(None)
    hand.letter(5, attempt=1)
    hand.letter(5, attempt=4)
    sink.serve(lambda _: None)
    hand.world.run(50)
    assert hand.done[2:] == [[3, 5, 5, 4]]


def test_what_is_refused_names_the_attempt_and_the_delay() -> None:
    hand, sink = handed()

    def later(message: AgentMessage) -> None:
        raise Nack("later", delay=1.5)

    sink.serve(later)
    hand.letter(3, attempt=2)
    (body,) = hand.bodies(RETURN)
    assert msgpack.unpackb(body)[4:6] == [3, Nack.code]
    assert msgpack.unpackb(body)[7:] == [2, 1500]


def test_the_word_of_another_attempt_is_late() -> None:
    world = World()
    a, _b, source, _ = pair(world, delivery_retry_ms_max=100)
    hand = Hand(world, a, name="z")
    hand.begin()
    (body,) = write_whole("z", 1, 1, [AgentRecord(agent_id_of("there"), "z", "there")], 4096)
    hand.say(AGENTS, body)
    world.run(50)
    (token,) = send(source, "there", b"x", timeout=60)
    world.run(50)
    number = msgpack.Unpacker()
    number.feed(next(iter(hand.bodies(MESSAGE))))
    line = [a.engine.incarnation, source.agent_id, agent_id_of("there"), 1]
    first = number.unpack()[3]
    hand.say(RETURN, msgpack.packb([*line, first, Nack.code, b"again"]))
    world.run(300)
    assert len(list(hand.bodies(MESSAGE))) == 2
    for late in ([*line, 3, first, first], [*line, 3, first, first, 1], [*line, 3, first, first, 3]):
        hand.say(DONE, msgpack.packb([late]))
    hand.say(RETURN, msgpack.packb([*line, first, Nack.code, b"again", 1, 0]))
    world.run(50)
    assert not token.done
    assert a.stats["acks_late"] == 4
    hand.say(DONE, msgpack.packb([[*line, 3, first, first, 2]]))
    (receipt,) = settled(world, [token])
    assert (receipt.reached, receipt.attempts) == (PROCESSED, 2)


@pytest.mark.parametrize("kind", [DONE, RETURN])
def test_attempts_that_cannot_be_close_the_link(kind: int) -> None:
    hand, _ = handed()
    body: list[Any] = [[1, 2, 3, 1, 3, 1, 1, 0]] if kind == DONE else [1, 2, 3, 1, 5, 7, b"", 0, 0]
    hand.say(kind, msgpack.packb(body))
    hand.world.run(50)
    assert hand.close is not None


@pytest.mark.parametrize("power", [False, True])
def test_a_sender_that_was_restarted_counts_anew(power: bool) -> None:
    """What the receiver is at since its former life is told as of the attempt that came last."""
    world = World()
    a, b = world.node("a", disk=True), world.node("b", disk=True)
    a.control.found(UUID)
    world.finish(b.join("a"))
    source = a.agent("source")
    work = Work()
    b.agent("worker", work)
    send(source, "worker", b"x", delivery=DURABLE)
    world.until(lambda: work.begun)
    for _ in range(3):
        a.link("b").cut()
        world.run(1_000)
    assert len(work.begun) == 1
    a.kill(silently=power)
    world.run(100)
    world.finish(a.restart("b"))
    world.run(2_000)
    work.begun[0][1].settle(None, None)
    world.until(lambda: not a.stats["letters"])
    assert [payload for payload, _ in work.begun] == [b"x"]


@pytest.mark.parametrize("code", ["full", "busy"])
def test_what_a_disk_or_a_limit_refuses_here_brings_nothing_behind_it_twice(code: str) -> None:
    world = World()
    a, _, source, _ = pair(world, operations_max=1, operation_ms=1_000)
    handled: list[bytes] = []
    refused = [False]

    def handle(message: AgentMessage) -> None:
        handled.append(message.payload)
        if code == "full" and message.payload == b"0" and not refused[0]:
            refused[0] = True
            raise StorageFull("no room")

    a.agent("own", handle)
    tokens: list[Token] = []
    for number in range(4):
        options: dict[str, Any] = {"operation_id": f"{number}"} if code == "busy" and number < 2 else {}
        tokens += send(source, "own", b"%d" % number, timeout=30, **options)
    receipts = settled(world, tokens)
    assert {receipt.reached for receipt in receipts} == {PROCESSED}
    assert sorted(handled) == [*([b"0"] if code == "full" else []), b"0", b"1", b"2", b"3"]
