"""What finds no room waits, within bounds, and holds up nobody else: answers, sends, large messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from harness import CREDIT, MESSAGE, Agent, Node, World
from strangers import Stranger

from agentnet_core import admission
from agentnet_core.config import EngineConfig
from agentnet_core.errors import AgentUnreachable, Congested, DeliveryUnsupported, LinkLost
from agentnet_core.handshake import FEATURE_DELIVERY
from agentnet_core.message import AgentMessage, MessageType
from agentnet_core.records import Event

WINDOW = 70_000
ANSWER = bytes(30_000)
IN_WINDOW = 2
"""Answers that fit the window."""


class Miser(Stranger):
    """Asks and takes nothing: it gives no credit but by `pay`."""

    def __init__(self, world: World, node: Node) -> None:
        super().__init__(world, node, name="miser")
        self.introduce(credit_bytes=WINDOW)
        self.asked = 0

    def ask(self, agent: Agent, times: int) -> None:
        for _ in range(times):
            self.asked += 1
            fields = [7, agent.agent_id, self.asked, self.asked, MessageType.QUERY, 1, 0, 1, b"?"]
            self.say(MESSAGE, msgpack.packb(fields))

    def pay(self) -> None:
        """Credit for all that has come."""
        bodies = [body for kind, _, body in self.heard if kind == MESSAGE]
        self.credit(sum(len(body) + 10 for body in bodies), len(bodies))

    def credit(self, taken: int, messages: int) -> None:
        self.say(CREDIT, msgpack.packb([taken, messages]))

    @property
    def answers(self) -> int:
        return len([*self.bodies(MESSAGE)])


def asked(
    world: World, handle: Callable[[AgentMessage], Any], **config: Any
) -> tuple[Node, Agent, Miser, Agent]:
    """A node with an agent, who asks it and takes nothing, and who asks it from another node."""
    node, other = world.join("a", "b", config=EngineConfig(**config))
    agent = node.agent("busy", handle)
    return node, agent, Miser(world, node), other.agent("other")


def large(_: AgentMessage) -> bytes:
    return ANSWER


def failing(_: AgentMessage) -> bytes:
    raise ValueError("x" * 900)


@pytest.mark.parametrize(("waiting", "held_up"), [(5, False), (6, True)])
def test_an_agent_goes_on_while_few_answers_wait(waiting: int, held_up: bool) -> None:
    world = World()
    node, agent, miser, other = asked(world, large, sends_waiting_max=5)
    miser.ask(agent, IN_WINDOW + waiting)
    world.run(10)
    assert (len(agent.received), miser.answers) == (IN_WINDOW + waiting, IN_WINDOW)
    answer = other.request("busy", b"")
    world.run(10)
    assert answer.done is not held_up
    for _ in range(4):
        miser.pay()
        world.run(10)
    assert (answer.done, miser.answers) == (True, IN_WINDOW + waiting)
    assert node.stats["replies_lost"] == 0


def test_answers_that_wait_are_bounded_in_bytes() -> None:
    world = World()
    bounds = {"sends_waiting_bytes_max": 4 * len(ANSWER), "message_bytes_max": 100_000}
    _, agent, miser, _ = asked(world, large, **bounds)
    miser.ask(agent, 100)
    world.run(10)
    assert len(agent.received) == IN_WINDOW + 4 + 1


@pytest.mark.parametrize("handle", [large, failing])
def test_a_node_that_takes_nothing_holds_an_agent_up_once(handle: Callable[[AgentMessage], Any]) -> None:
    world = World()
    node, agent, miser, other = asked(world, handle, sends_waiting_max=5, answer_wait_ms_max=500)
    miser.ask(agent, 1000)
    world.run(5)
    answer = other.request("busy", b"")
    world.run(490)
    assert not answer.done
    world.run(50)
    assert answer.done
    assert len(agent.received) == 1001
    assert node.stats["replies_lost"] == 1000 - miser.answers - 5
    (event,) = node.told(Event.UNDELIVERABLE)
    assert event.node_id == "miser"
    assert isinstance(event.error, Congested)
    # It takes again: it is answered again.
    miser.pay()
    world.run(10)
    before = miser.answers
    miser.pay()
    miser.ask(agent, 1)
    world.run(10)
    assert miser.answers > before


def test_credit_for_nothing_does_not_hold_an_agent_up_again() -> None:
    world = World()
    _, agent, miser, other = asked(world, large, sends_waiting_max=5, answer_wait_ms_max=500)
    miser.ask(agent, 100)
    world.run(600)
    miser.credit(0, 0)
    world.run(1)
    miser.ask(agent, 100)
    world.run(1)
    answer = other.request("busy", b"")
    world.run(20)
    assert answer.done


def test_answers_that_wait_too_long_are_dropped_and_told() -> None:
    world = World()
    node, agent, miser, _ = asked(world, large, send_wait_ms_max=1000, link_silence_ms_max=60_000)
    miser.ask(agent, 10)
    world.run(900)
    assert node.stats["replies_lost"] == 0
    world.run(200)
    assert node.stats["replies_lost"] == 10 - IN_WINDOW
    assert len(node.told(Event.UNDELIVERABLE)) == 1


def test_answers_go_out_in_order() -> None:
    world = World()
    _, agent, miser, _ = asked(world, large, sends_waiting_max=3)
    miser.ask(agent, 20)
    for _ in range(20):
        world.run(10)
        miser.pay()
    world.run(10)
    assert [msgpack.unpackb(body)[3] for body in miser.bodies(MESSAGE)] == list(range(1, 21))


# -- a large message that nobody waits for


def test_send_nowait_takes_one_large_message_at_a_time() -> None:
    world = World()
    a, b = world.join("a", "b")
    sink, source = b.agent("sink"), a.agent("source")
    payload = bytes(1_000_000)
    for _ in range(3):
        source.send_nowait("sink", payload)
        with pytest.raises(Congested):
            source.send_nowait("sink", payload)
        world.until(lambda: sink.pending_messages == 1)
        assert sink.take_all()[0].payload == payload


@pytest.mark.parametrize("begun", [False, True])
def test_a_large_message_that_nobody_waited_for_is_lost_aloud(begun: bool) -> None:
    world = World()
    a, b = world.join("a", "b")
    b.agent("sink")
    a.agent("source").send_nowait("sink", bytes(1_000_000))
    if begun:
        a.turn()
    a.link("b").cut()
    world.run(10)
    (event,) = [event for event in a.told(Event.UNDELIVERABLE) if event.agent_id]
    assert isinstance(event.error, LinkLost if begun else AgentUnreachable)
    assert a.stats["messages_undeliverable"] == 1


# -- sends


def test_sends_that_wait_are_bounded_in_bytes() -> None:
    world = World()
    config = EngineConfig(mailbox_messages_max=1, message_bytes_max=5000, sends_waiting_bytes_max=10_000)
    a, b = world.join("a", "b", config=config)
    sink, source = b.agent("sink"), a.agent("source")
    source.send("sink", b"fills it")
    world.run(50)
    tokens = [source.send("sink", bytes(5000)) for _ in range(2)]
    with pytest.raises(Congested, match="2 sends of 10000 bytes to agent sink wait already"):
        source.send("sink", b"1")
    source.send("sink", b"")
    tokens[0].cancel()
    source.send("sink", b"1")
    sink.serve(lambda _: None)
    world.until(lambda: len(sink.received) == 4)


# -- sends that wait while their agent is replaced


@pytest.mark.parametrize("capabilities", [["a"], ["b"]])
@pytest.mark.parametrize("local", [False, True])
def test_what_waits_goes_to_the_agent_that_takes_its_place(local: bool, capabilities: list[str]) -> None:
    world = World()
    a, b = world.join("a", "b", config=EngineConfig(mailbox_messages_max=4))
    old = b.agent("x", capabilities=["a"])
    source = (b if local else a).agent("source")
    for _ in range(3):
        source.send("x", b"fill")
        world.run(10)
    tokens = [source.send("x", b"small"), source.send("x", bytes(200_000)), source.request("x", b"asked")]
    world.run(10)
    assert not any(token.done for token in tokens)
    new = b.make("x", lambda message: message.payload, capabilities=capabilities)
    b.register(new)
    world.until(lambda: all(token.done for token in tokens))
    assert [token.error for token in tokens] == [None] * 3
    assert tokens[2].answer == b"asked"
    assert sorted(len(payload) for payload in new.payloads) == [5, 5, 200_000]
    assert old.received == []
    assert source.send("x", b"after")


@pytest.mark.parametrize("features", [0, FEATURE_DELIVERY])
def test_a_link_that_comes_later_may_be_to_a_former_release(
    features: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has waited for it goes there as far as that release knows what it is."""
    world = World()
    a, b = world.join("a", "b")
    sink = b.agent("sink", lambda message: message.payload)
    source = a.agent("source")
    assert world.finish(source.request("sink", b"1", operation_id="1")).answer == b"1"
    monkeypatch.setattr(admission, "FEATURE_DELIVERY", features)
    a.link("b").cut()
    world.until(lambda: not a.engine.sessions)
    asked = source.request("sink", b"2", operation_id="2", timeout=30)
    plain = source.request("sink", b"3", timeout=30)
    stream = a.engine.stream(source, "sink", b"4", 30)
    assert not any((asked.done, plain.done, stream.over))
    assert world.finish(plain).answer == b"3"
    if features:
        assert world.finish(asked).answer == b"2"
        return
    assert isinstance(asked.error, DeliveryUnsupported)
    assert asked.error.definite
    with pytest.raises(DeliveryUnsupported):
        stream.take()
    with pytest.raises(DeliveryUnsupported):
        a.engine.stream(source, "sink", b"4", 30)
    assert [message.payload for message in sink.received] == [b"1", b"3"]
