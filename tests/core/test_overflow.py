"""Full mailboxes of agents that hold nobody up: what is dropped, at which limit, and who is told."""

from __future__ import annotations

from typing import Any

import pytest
from harness import UUID, Agent, Node, Token, World
from promises import ACKNOWLEDGED, DURABLE, send

from agentnet.dead import list_dead
from agentnet_core.errors import ConfigError, DeadLettered, MailboxFull
from agentnet_core.message import AgentMessage
from agentnet_core.records import Delivery, Event


def made(
    policy: str, *, local: bool = False, messages: int | None = 4, size: int | None = None
) -> tuple[World, Agent, Agent, Node]:
    world = World()
    a, b = world.join("a", "b")
    node = a if local else b
    sink = node.make("sink")
    sink.bound(policy, messages, size)
    world.finish(node.register(sink))
    return world, a.agent("source"), sink, node


def payloads(sink: Agent) -> list[bytes]:
    return [message.payload for message in sink.take_all()]


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        ("drop-oldest", [b"2", b"3", b"4", b"5"]),
        ("drop-newest", [b"0", b"1", b"2", b"3"]),
        ("dead-letter", [b"0", b"1", b"2", b"3"]),
    ],
)
def test_at_the_limit_and_beyond_it(policy: str, kept: list[bytes], local: bool) -> None:
    world, source, sink, node = made(policy, local=local)
    for number in range(4):
        source.send("sink", b"%d" % number)
    world.run(50)
    assert (sink.pending_messages, node.stats["mailbox_dropped"]) == (4, 0)
    for number in (4, 5):
        source.send("sink", b"%d" % number)
    world.run(500)
    assert node.stats["mailbox_dropped"] == 2
    assert payloads(sink) == kept
    told = node.told(Event.MAILBOX_FULL)
    assert (sum(event.count for event in told), {event.name for event in told}) == (2, {"sink"})
    assert source.node.stats["links_lost"] == 0


def test_nobody_is_held_up() -> None:
    world, source, sink, node = made("drop-oldest")
    sent = [source.send("sink", b"%d" % number) for number in range(5000)]
    world.run(2_000)
    assert not [token for token in sent if isinstance(token, Token) and not token.done]
    assert node.stats["mailbox_dropped"] == 4996
    assert payloads(sink) == [b"4996", b"4997", b"4998", b"4999"]
    assert 0 < len(node.told(Event.MAILBOX_FULL)) < 20


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("policy", ["drop-oldest", "drop-newest", "dead-letter"])
def test_a_request_that_is_dropped_is_refused_at_once(policy: str, local: bool) -> None:
    world, source, sink, _ = made(policy, local=local, messages=1)
    first, second = source.request("sink", b"1"), source.request("sink", b"2")
    world.run(20)
    lost, kept = (first, second) if policy == "drop-oldest" else (second, first)
    assert isinstance(lost.error, MailboxFull)
    assert lost.error.definite
    assert "sink" in str(lost.error)
    assert not kept.done
    assert sink.pending_messages == 1


def test_the_oldest_of_the_lowest_priority_goes_first() -> None:
    world, source, sink, _ = made("drop-oldest", messages=3)
    for number, priority in enumerate((1, 3, 0, 3, 3)):
        source.send("sink", b"%d" % number, priority=priority)
    world.run(50)
    assert payloads(sink) == [b"1", b"3", b"4"]
    source.send("sink", b"a", priority=3)
    source.send("sink", b"b", priority=3)
    source.send("sink", b"c", priority=3)
    source.send("sink", b"low", priority=0)
    world.run(50)
    assert payloads(sink) == [b"a", b"b", b"c"]


@pytest.mark.parametrize(("policy", "kept"), [("drop-oldest", [b"y" * 300]), ("drop-newest", [b"x" * 300])])
def test_bytes_are_a_limit_too(policy: str, kept: list[bytes]) -> None:
    world, source, sink, _ = made(policy, messages=None, size=999)
    source.send("sink", b"x" * 300)
    source.send("sink", b"y" * 299)
    world.run(50)
    assert sink.pending_messages == 2  # 200 are counted for each: 999 in all
    sink.take_all()
    source.send("sink", b"x" * 300)
    source.send("sink", b"y" * 300)
    world.run(50)
    assert payloads(sink) == kept
    source.send("sink", bytes(2000))
    world.run(50)
    assert payloads(sink) == []


@pytest.mark.parametrize("local", [False, True])
def test_what_is_too_much_is_a_dead_letter_of_this_node(local: bool) -> None:
    world, source, sink, node = made("dead-letter", local=local, messages=1)
    source.send("sink", b"kept")
    source.send("sink", b"dead", message_id="7")
    world.run(50)
    source.node.engine.broadcast(AgentMessage(b"to all", message_type=5), source.agent_id)
    world.run(50)
    assert [(letter.payload, letter.to_agent) for letter in list_dead(node.engine)] == [
        (b"dead", sink.agent_id),
        (b"to all", sink.agent_id),
    ]
    first = list_dead(node.engine)[0]
    assert (first.from_agent, first.message_id, first.code) == (source.agent_id, "7", MailboxFull.code)
    assert payloads(sink) == [b"kept"]
    assert node.stats["mailbox_dropped"] == 2
    node.do(lambda _: node.engine.replay_dead(list(node.engine.dead)))
    world.run(50)
    assert payloads(sink) == [b"dead"]


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("delivery", [ACKNOWLEDGED, DURABLE])
def test_of_what_was_promised_it_is_the_senders(local: bool, delivery: Delivery) -> None:
    world, source, sink, node = made("dead-letter", local=local, messages=1)
    first, second = send(source, "sink", b"kept", b"dead", delivery=delivery, until="processed")
    world.run(500)
    assert isinstance(second.outcome, DeadLettered)
    assert second.outcome.definite
    assert not first.done
    assert payloads(sink) == [b"kept"]
    assert [letter.payload for letter in list_dead(source.node.engine)] == [b"dead"]
    assert local or not list_dead(node.engine)
    sink.serve(lambda _: None)
    source.node.do(lambda _: source.node.engine.replay_dead(list(source.node.engine.dead)))
    world.until(lambda: sink.payloads == [b"dead"])


@pytest.mark.parametrize("power", [False, True])
def test_they_outlive_their_node(power: bool) -> None:
    world = World()
    a, b = world.node("a", disk=True), world.node("b", disk=True)
    a.control.found(UUID)
    world.finish(b.join("a"))
    sink = b.make("sink")
    sink.bound("dead-letter", 1, None)
    world.finish(b.register(sink))
    source = a.agent("source")
    source.send("sink", b"kept")
    source.send("sink", b"dead")
    send(source, "sink", b"promised")
    world.run(100)
    for node, payload in ((b, b"dead"), (a, b"promised")):
        node.kill(silently=power)
        world.run(100)
        node.restart("a" if node is b else "b")
        assert [letter.payload for letter in list_dead(node.engine)] == [payload]


def test_an_agent_that_blocks_has_its_own_limits() -> None:
    world, source, sink, node = made("block", messages=2)
    sent = [source.send("sink", b"%d" % number) for number in range(3)]
    world.run(50)
    held = [token for token in sent if isinstance(token, Token) and not token.done]
    assert sink.stopped
    assert node.stats["mailbox_dropped"] == 0
    assert payloads(sink)[:2] == [b"0", b"1"]
    world.until(lambda: all(token.done for token in held))


@pytest.mark.parametrize(
    ("policy", "messages", "size"), [("drop", 1, 1), ("block", 0, 1), ("block", 1, -1), ("block", "x", 1)]
)
def test_what_is_no_policy_and_no_limit(policy: str, messages: Any, size: int) -> None:
    world = World()
    (a,) = world.join("a")
    with pytest.raises((ConfigError, ValueError)):
        a.make("x").bound(policy, messages, size)
