"""What is done once, however often it is asked for: results that are kept, effects committed with them."""

from __future__ import annotations

from typing import Any

import pytest
from harness import AGENTS, UUID, Agent, Node, Token, World
from promises import ACKNOWLEDGED, DURABLE, PROCESSED, pair, send, settled
from strangers import Stranger

from agentnet_core.agent_record import AgentRecord
from agentnet_core.config import EngineConfig
from agentnet_core.durable import DEFECTS
from agentnet_core.errors import (
    ConfigError,
    Congested,
    DeliveryUnsupported,
    HandlerFailed,
    LeaseExpired,
    LimitReached,
    NetworkError,
    ResultForgotten,
    StorageFailed,
    StorageFull,
    UsageError,
)
from agentnet_core.listing import write_whole
from agentnet_core.message import AgentMessage
from agentnet_core.records import Delivery, agent_id_of

everywhere = pytest.mark.parametrize("where", ["another node", "this node"])
powers = pytest.mark.parametrize("power", [False, True])


def on_disks(world: World, where: str = "another node", **options: Any) -> tuple[Node, Node, Agent]:
    """Two nodes with disks, the one that is to have the receiver, and who asks."""
    config = EngineConfig(delivery_retry_ms_max=200, **options)
    a, b = world.node("a", disk=True, config=config), world.node("b", disk=True, config=config)
    a.control.found(UUID)
    world.finish(b.join("a"))
    return a, b if where == "another node" else a, a.agent("source")


class Bank:
    """A handler that adds to an account with `once`, or, without a store, counts what it did."""

    def __init__(self) -> None:
        self.done: list[bytes] = []
        self.tokens: list[Any] = []

    def plain(self, message: AgentMessage) -> bytes:
        self.done.append(message.payload)
        return b"%d: " % len(self.done) + message.payload

    def __call__(self, message: AgentMessage) -> Any:
        self.done.append(message.payload)
        total = int(message.store.get("total", b"0")) + int(message.payload)
        token = message.once({"total": b"%d" % total}, b"now %d" % total)
        self.tokens.append(token)
        return token


def ask(source: Agent, to: str, payload: bytes = b"1", **options: Any) -> Token:
    source.engine.now_ns = source.node.clock.now_ns
    token = source.request(to, payload, operation_id="op 1", **options)
    source.node.turn()
    return token


def restart(world: World, node: Node, name: str, handle: Any, power: bool, other: str) -> Agent:
    """The node dies, and comes back with its agent."""
    node.kill(silently=power)
    world.run(100)
    for peer in world.nodes.values():
        if peer is not node and node.name in peer.engine.sessions:
            peer.link(node.name).cut()
    world.finish(node.restart(other))
    agent = node.make(name, handle)
    world.finish(node.register(agent))
    return agent


# -- results


@everywhere
@pytest.mark.parametrize("disk", [False, True])
def test_who_asks_again_gets_the_same(where: str, disk: bool) -> None:
    world = World()
    if disk:
        _, node, source = on_disks(world, where)
    else:
        a, b, source, _ = pair(world)
        node = b if where == "another node" else a
    bank = Bank()
    node.agent("bank", bank.plain)
    for _ in range(3):
        token = ask(source, "bank")
        world.until(lambda token=token: token.done)  # type: ignore[misc]
        assert token.answer == b"1: 1"
    other = node.agent("other source")
    token = ask(other, "bank")
    world.until(lambda: token.done)
    assert token.answer == b"2: 1"  # an id is its sender's own
    assert (node.stats["operations_replayed"], node.stats["operations_kept"]) == (2, 2)


@everywhere
def test_who_asks_meanwhile_waits_for_the_same(where: str) -> None:
    world = World()
    _, node, source = on_disks(world, where)
    work: list[Token] = []
    node.agent("slow", lambda message: work.append(Token()) or work[0])
    tokens = [ask(source, "slow") for _ in range(3)]
    world.run(100)
    assert not any(token.done for token in tokens)
    work[0].settle(None, None)
    world.until(lambda: all(token.done for token in tokens))
    assert [token.answer for token in tokens] == [b""] * 3
    assert len(work) == 1
    assert node.stats["operations_joined"] == 2


@everywhere
def test_a_handler_that_failed_has_done_nothing(where: str) -> None:
    world = World()
    _, node, source = on_disks(world, where)
    tries: list[bytes] = []

    def fail_first(message: AgentMessage) -> bytes:
        tries.append(message.payload)
        if len(tries) == 1:
            raise ValueError("no")
        return b"done"

    node.agent("shy", fail_first)
    tokens = [ask(source, "shy") for _ in range(2)]
    world.until(lambda: all(token.done for token in tokens))
    failed = [token.error for token in tokens if token.error is not None]
    assert isinstance(failed[0], HandlerFailed)
    token = ask(source, "shy")
    world.until(lambda: token.done)
    assert token.answer == b"done"
    assert len(tries) == 2


@powers
@pytest.mark.parametrize("committed", [False, True])
def test_the_result_outlives_the_receiver(power: bool, committed: bool) -> None:
    """It dies when its disk has the result, and before it says so."""
    world = World()
    a, b, source = on_disks(world)
    bank = Bank()
    b.agent("bank", bank if committed else bank.plain)
    b.link("a").out.mute = True  # what b says does not come
    token = ask(source, "bank", timeout=1)
    world.until(lambda: token.done)
    assert isinstance(token.error, NetworkError)
    assert not token.error.definite
    again = restart(world, b, "bank", bank if committed else bank.plain, power, "a")
    token = ask(source, "bank")
    world.until(lambda: token.done)
    assert token.answer == (b"now 1" if committed else b"1: 1")
    assert bank.done == [b"1"]
    if committed:
        assert dict(again.store.items()) == {"total": b"1"}
    a.kill(silently=power)
    world.run(100)
    world.finish(a.restart("b"))
    source = a.make("source")
    world.finish(a.register(source))
    world.until(lambda: a.control.directory.get("bank") is not None)
    token = ask(source, "bank")
    world.until(lambda: token.done)
    assert token.answer == (b"now 1" if committed else b"1: 1")
    assert bank.done == [b"1"]


def test_nothing_is_told_before_it_is_on_the_disk() -> None:
    world = World()
    _, b, source = on_disks(world)
    bank = Bank()
    b.agent("bank", bank.plain)
    token = ask(source, "bank")
    world.until(lambda: bank.done)
    b.kill(silently=True)  # in the midst of the write
    world.until(lambda: token.done)
    assert token.error is not None


@everywhere
@pytest.mark.parametrize("delivery", [ACKNOWLEDGED, DURABLE])
@powers
def test_what_is_sent_again_under_its_id_is_handled_once(where: str, delivery: Delivery, power: bool) -> None:
    world = World()
    a, node, source = on_disks(world, where)
    bank = Bank()
    node.agent("bank", bank.plain)
    options: dict[str, Any] = {"delivery": delivery, "until": "processed", "operation_id": "op 1"}
    receipts = settled(world, send(source, "bank", b"1", **options) + send(source, "bank", b"1", **options))
    assert [(receipt.reached, receipt.node_id, receipt.on_disk) for receipt in receipts] == [
        (PROCESSED, node.name, True)
    ] * 2
    if where == "another node":
        restart(world, node, "bank", bank.plain, power, "a")
        (receipt,) = settled(world, send(source, "bank", b"1", **options))
        assert receipt.on_disk
    assert bank.done == [b"1"]
    world.until(lambda: not a.stats["letters"])


def test_without_a_disk_the_receipt_says_so() -> None:
    world = World()
    _, b, source, _ = pair(world)
    bank = Bank()
    b.agent("bank", bank)
    receipts = settled(world, send(source, "bank", b"1", operation_id="x") + send(source, "bank", b"1"))
    assert [receipt.on_disk for receipt in receipts] == [False, False]
    assert bank.done == [b"1", b"1"]


def test_nobody_stops_an_operation_that_is_asked_for_again() -> None:
    """A timeout and a lost link leave its handler at work: the next one that asks gets what it made."""
    world = World()
    a, b, source = on_disks(world)
    work: list[Token] = []
    worker = b.agent("slow", lambda message: work.append(Token()) or work[-1])
    token = ask(source, "slow", timeout=0.2)
    world.until(lambda: token.done)
    a.link("b").cut()
    world.until(lambda: "b" in a.engine.sessions)
    assert worker.recalled == []
    token = ask(source, "slow")
    world.run(100)
    work[0].settle(None, None)
    world.until(lambda: token.done)
    assert token.answer == b""
    assert len(work) == 1


def test_a_node_of_a_former_release_is_not_asked() -> None:
    world = World()
    node = world.node("m")
    node.control.found(UUID)
    source = node.agent("source")
    stranger = Stranger(world, node, name="a")
    stranger.introduce()
    (body,) = write_whole("a", 1, 1, [AgentRecord(agent_id_of("there"), "a", "there")], 4096)
    stranger.say(AGENTS, body)
    world.run(50)
    token = source.request("there", b"x", operation_id="1")
    world.run(1)
    assert isinstance(token.error, DeliveryUnsupported)


@pytest.mark.parametrize("operation", ["", "x" * 129, 7, b"x", "\udc80"])
def test_what_is_no_id(operation: Any) -> None:
    world = World()
    _, _, source, _ = pair(world)
    token = source.request("sink", b"x", operation_id=operation)
    world.run(1)
    assert isinstance(token.error, ConfigError)
    (error,) = settled(world, send(source, "sink", b"x", operation_id=operation))
    assert isinstance(error, ConfigError)
    with pytest.raises(ConfigError):
        source.send("sink", b"x", operation_id="x")  # type: ignore[call-overload]


# -- limits


def test_as_many_as_may_be_kept_and_one_more() -> None:
    world = World()
    _, b, source = on_disks(world, operations_max=2, operation_ms=5_000)
    bank = Bank()
    b.agent("bank", bank.plain)
    tokens = [source.request("bank", b"x", operation_id=name) for name in ("1", "2")]
    world.run(100)
    tokens.append(source.request("bank", b"x", operation_id="3"))
    world.run(100)
    assert [token.error is None for token in tokens] == [True, True, False]
    assert isinstance(tokens[2].error, LimitReached)
    assert tokens[2].error.definite
    letter = send(source, "bank", b"x", operation_id="4", timeout=30)[0]  # this one is tried on
    world.run(5_000)
    world.until(lambda: letter.done)
    assert letter.error is None
    token = source.request("bank", b"x", operation_id="1")
    world.run(100)
    assert token.answer == b"4: x"  # it was forgotten: a new operation
    assert b.stats["operations_refused"] > 1


def test_as_many_bytes_as_may_be_kept_and_one_more() -> None:
    world = World()
    _, b, source = on_disks(world, operations_bytes_max=501 * 2 + 50, operation_result_bytes_max=60)
    b.agent("bank", lambda message: bytes(int(message.payload)))
    for name, size in (("1", 50), ("2", 1)):
        for again in (False, True):
            token = source.request("bank", b"%d" % size, operation_id=name)
            world.run(100)
            if again and name == "2":
                assert isinstance(token.error, ResultForgotten)
                assert not token.error.definite
            else:
                assert len(token.answer) == size
    token = source.request("bank", b"1", operation_id="3")
    world.run(100)
    assert isinstance(token.error, LimitReached)


@powers
@pytest.mark.parametrize(("size", "kept"), [(60, True), (61, False)])
def test_a_result_that_may_be_kept_and_one_byte_more(size: int, kept: bool, power: bool) -> None:
    world = World()
    _, b, source = on_disks(world, operation_result_bytes_max=60)
    count: list[int] = []

    def make(message: AgentMessage) -> bytes:
        count.append(1)
        return bytes(size)

    b.agent("bank", make)
    for number in range(3):
        token = ask(source, "bank")
        world.until(lambda token=token: token.done)  # type: ignore[misc]
        if kept or number == 0:
            assert token.answer == bytes(size)
        else:
            assert isinstance(token.error, ResultForgotten)
        if number == 1:
            restart(world, b, "bank", make, power, "a")
    assert len(count) == 1


def test_as_many_as_may_wait_and_one_more() -> None:
    world = World()
    _, b, source = on_disks(world, operation_waiters_max=2)
    work: list[Token] = []
    b.agent("slow", lambda message: work.append(Token()) or work[-1])
    tokens = [ask(source, "slow") for _ in range(4)]
    world.run(100)
    assert isinstance(tokens[3].error, Congested)
    work[0].settle(None, None)
    world.until(lambda: all(token.done for token in tokens))
    assert [token.error is None for token in tokens] == [True, True, True, False]


@pytest.mark.parametrize(
    ("limits", "fits", "too_much"),
    [
        ({"store_keys_max": 2}, {"a": b"", "b": b""}, {"a": b"", "b": b"", "c": b""}),
        ({"store_bytes_max": 210}, {"a": bytes(9)}, {"a": bytes(10)}),
        ({"store_value_bytes_max": 10}, {"a": bytes(10)}, {"a": bytes(11)}),
    ],
)
def test_a_store_at_its_limits(
    limits: dict[str, int], fits: dict[str, bytes], too_much: dict[str, bytes]
) -> None:
    world = World()
    _, b, source = on_disks(world, **limits)
    what = iter((too_much, fits))
    errors: list[Any] = []

    def handle(message: AgentMessage) -> Any:
        token: Any = message.once(next(what))
        token.then = None
        errors.append(token)
        return token

    agent = b.agent("bank", handle)
    source.request("bank", b"x", operation_id="1")
    world.run(100)
    assert isinstance(errors[0].error, LimitReached)
    assert errors[0].error.definite
    assert dict(agent.store.items()) == {}
    source.request("bank", b"x", operation_id="2")
    world.run(100)
    assert errors[1].error is None
    assert dict(agent.store.items()) == fits


# -- once


@everywhere
@pytest.mark.parametrize("delivery", [ACKNOWLEDGED, DURABLE])
@powers
def test_an_effect_and_that_it_is_done_are_one(where: str, delivery: Delivery, power: bool) -> None:
    """The receiver dies at each moment around the commit; the effect is there once in the end."""
    for steps in range(0, 40, 3):
        world = World(steps)
        a, node, source = on_disks(world, where)
        if where == "this node" and delivery is ACKNOWLEDGED:
            return  # it dies with its sender
        bank = Bank()
        node.agent("bank", bank)
        tokens = send(source, "bank", *[b"1"] * 5, delivery=delivery, until="processed", timeout=60)
        for _ in range(20 + 4 * steps):
            world.step()
        other = "a" if where == "another node" else "b"
        again = restart(world, node, "bank", bank, power, other)
        if where == "another node":
            settled(world, tokens)
        world.until(lambda a=a: not a.stats["letters"])  # type: ignore[misc]
        assert dict(again.store.items()) == {"total": b"5"}, (steps, bank.done)


def test_what_is_committed_stays_though_the_handler_fails() -> None:
    world = World()
    a, b, source = on_disks(world)
    bank = Bank()

    def fail(message: AgentMessage) -> Any:
        bank(message)
        raise ValueError("after all")

    agent = b.agent("bank", fail)
    token = ask(source, "bank")
    world.until(lambda: token.done)
    assert token.answer == b"now 1"
    (receipt,) = settled(world, send(source, "bank", b"1", delivery=DURABLE, until="processed"))
    assert (receipt.reached, receipt.on_disk) == (PROCESSED, True)
    assert dict(agent.store.items()) == {"total": b"2"}
    assert (a.stats["letters_dead"], len(bank.done)) == (0, 2)


def test_a_key_is_removed_and_stays_so() -> None:
    world = World()
    _, b, source = on_disks(world)
    changes = iter(({"a": b"1", "b": b"2"}, {"a": None, "none": None}, {"b": b"3"}))
    agent = b.agent("bank", lambda message: message.once(next(changes)))
    for number in range(3):
        settled(world, send(source, "bank", b"%d" % number))
    assert dict(agent.store.items()) == {"b": b"3"}
    assert ("a" in agent.store, len(agent.store), list(agent.store)) == (False, 1, ["b"])
    again = restart(world, b, "bank", None, True, "a")
    assert dict(again.store.items()) == {"b": b"3"}
    assert (b.stats["store_keys"], b.stats["store_bytes"]) == (1, 202)


@pytest.mark.parametrize("fault", ["full", "failed"])
@everywhere
def test_a_disk_that_says_no_undoes_it(fault: str, where: str) -> None:
    world = World()
    _, node, source = on_disks(world, where)
    bank = Bank()
    agent = node.agent("bank", bank)
    settled(world, send(source, "bank", b"1"))
    assert node.disk is not None
    if fault == "full":
        node.disk.files.capacity = 0
    else:
        node.disk.files.fail_syncs = 1
    padding = message_of(bank, 1_000_000 if fault == "full" else 1)
    agent.serve(padding)
    (token,) = send(source, "bank", b"1", timeout=3, operation_id="y")
    world.until(lambda: len(bank.tokens) >= 2 and bank.tokens[1].done)
    error = bank.tokens[1].error
    assert isinstance(error, StorageFull if fault == "full" else StorageFailed)
    assert error.definite == (fault == "full")
    assert dict(agent.store.items()) == {"total": b"1"}
    if fault == "full":
        node.disk.files.capacity = None
        (receipt,) = settled(world, [token])
        assert receipt.on_disk
        assert agent.store["total"] == b"2"


def message_of(bank: Bank, size: int) -> Any:
    def handle(message: AgentMessage) -> Any:
        total = int(message.store.get("total", b"0")) + 1
        bank.tokens.append(message.once({"total": b"%d" % total, "size": bytes(size)}, bytes(size)))
        return bank.tokens[-1]

    return handle


def test_a_result_that_the_disk_refused_is_told_when_it_takes_it() -> None:
    world = World()
    _, b, source = on_disks(world)
    bank = Bank()
    b.agent("bank", lambda message: bank.plain(message) + bytes(1_000_000))
    assert b.disk is not None
    b.disk.files.capacity = 0
    token = ask(source, "bank", timeout=20)
    world.run(1_000)
    assert bank.done == [b"1"]
    assert not token.done
    b.disk.files.capacity = None
    world.until(lambda: token.done)
    assert token.answer.startswith(b"1: 1")
    assert bank.done == [b"1"]


def test_who_lost_the_lease_commits_nothing() -> None:
    world = World()
    _, b, source = on_disks(world, lease_ms=500, lease_ms_max=500)
    held: list[tuple[AgentMessage, Token]] = []

    def slow(message: AgentMessage) -> Token:
        held.append((message, Token()))
        return held[-1][1]

    agent = b.agent("bank", slow)
    agent.gone = True
    (token,) = send(source, "bank", b"1", timeout=60, operation_id="x")
    world.until(lambda: b.stats["leases_expired"])
    message, work = held[0]
    late: Any = agent.once(message, {"a": b"1"}, b"")
    b.turn()
    assert isinstance(late.error, LeaseExpired)
    assert late.error.definite
    agent.gone = False
    work.settle(None, None)
    world.until(lambda: len(held) == 2)
    again: Any = held[1][0].once({"a": b"2"})
    b.turn()
    world.until(lambda: again.done)
    held[1][1].settle(None, None)
    (receipt,) = settled(world, [token])
    assert receipt.on_disk
    assert dict(agent.store.items()) == {"a": b"2"}


def test_what_cannot_be_committed() -> None:
    world = World()
    _, b, source = on_disks(world)
    said: list[Any] = []

    def handle(message: AgentMessage) -> None:
        if message.payload == b"plain":
            with pytest.raises(UsageError):
                message.once()
            return
        for changes in ({"": b""}, {"x" * 257: b""}, {7: b""}, {"\udc80": b""}, {"a": "text"}, {"a": 7}):
            said.append(message.once(changes))  # type: ignore[arg-type]
        said.append(message.once({"a": b"1"}))
        said.append(message.once({"a": b"2"}))

    agent = b.agent("bank", handle)
    source.send("bank", b"plain")
    settled(world, send(source, "bank", b"x"))
    errors = [type(token.error) for token in said]
    assert errors == [ConfigError] * 6 + [type(None), UsageError]
    assert dict(agent.store.items()) == {"a": b"1"}
    assert b.stats["handlers_failed"] == 0 if "handlers_failed" in b.stats else True


def test_what_is_kept_leaves_the_log_small() -> None:
    world = World()
    _, b, source = on_disks(world, log_segment_bytes=4096, log_held_bytes=8192, operation_ms=2_000)
    bank = Bank()
    agent = b.agent("bank", bank)
    settled(world, send(source, "bank", b"1", operation_id="first"))
    for number in range(300):
        settled(world, send(source, "bank", b"1", operation_id=f"{number}"))
        if number % 100 == 0:
            world.run(2_500)
    assert b.disk is not None
    assert sum(b.disk.files.size(name) for name in b.disk.files.names()) < 20 * 8192
    again = restart(world, b, "bank", bank, True, "a")
    assert again.store["total"] == b"301"
    del agent


# -- planted bugs


@pytest.mark.parametrize(
    "defect", ["results forgotten", "mark without effect", "effect without mark", "answered before the write"]
)
def test_a_planted_bug_is_seen(defect: str) -> None:
    """What the tests above do not let pass."""
    world = World()
    a, b, source = on_disks(world)
    b.engine.durable.defect = b.defect = DEFECTS[defect]
    bank = Bank()
    b.agent("bank", bank)
    token = ask(source, "bank")
    if defect == "answered before the write":
        assert b.disk is not None
        b.disk.files.fail_syncs = 1
    world.until(lambda: token.done)
    if defect == "answered before the write":
        assert token.answer == b"now 1"
        return
    again = restart(world, b, "bank", bank, True, "a")
    token = ask(source, "bank")
    world.until(lambda: token.done)
    assert (token.answer, dict(again.store.items())) != (b"now 1", {"total": b"1"})
    del a
