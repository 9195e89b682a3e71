"""Messages and control frames for nodes without a link: they wait, go in order, or fail and say so."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from apart import apart, in_order, keep_only, linked, part, tokens
from harness import HELLO, MEMBERS, MS, UUID, WELCOME, Node, Token, Weather, World
from memberships import told
from strangers import Stranger

from agentnet_core.config import EngineConfig
from agentnet_core.errors import (
    AgentUnreachable,
    Congested,
    Expired,
    MessageTooLarge,
    NetworkError,
    NoSuchAgent,
)
from agentnet_core.handshake import Hello, Welcome
from agentnet_core.message import AgentMessage
from agentnet_core.records import Event, NodeStatus

READ_BYTES = 128 * 1024
"""The most that one read takes."""


def echo(message: AgentMessage) -> bytes:
    return message.payload


def status(node: Node, of: str) -> NodeStatus:
    return next(member.status for member in node.control.members() if member.node_id == of)


def knows(node: Node, of: str) -> bool:
    return any(member.node_id == of for member in node.control.members())


# -- a link is made


def test_a_node_without_a_link_is_linked_when_something_is_sent() -> None:
    world = World()
    a, b = apart(world, "a", "b")
    sink, source = b.agent("sink", echo), a.agent("source")
    part(world, a, b)
    assert status(a, "b") is NodeStatus.ACTIVE
    sent = source.send("sink", b"1")
    asked = source.request("sink", b"2")
    posted = a.engine.send_message(AgentMessage(b"3", to_agent="sink"), source.agent_id)
    assert tokens([sent, asked, posted]) == [sent, asked, posted]
    world.until(lambda: asked.done)
    assert asked.answer == b"2"
    assert sink.payloads == [b"1", b"2", b"3"]
    assert [token.error for token in (sent, posted)] == [None, None]
    assert a.told(Event.LOST) == a.told(Event.LINK_LOST) == a.told(Event.UNDELIVERABLE) == []


def test_it_is_dialled_once_and_at_once() -> None:
    world = World(weather=Weather(delay_ns=(MS, MS)))
    a, b = apart(world, "a", "b")
    sink, source = b.agent("sink", echo), a.agent("source")
    part(world, a, b)
    began = world.now_ns
    for i in range(100):
        source.send("sink", b"%d" % i)
        world.run(0.01)
    world.until(lambda: len(sink.received) == 100)
    assert world.now_ns - began < 20 * MS
    assert in_order(sink)
    assert len(a.engine.links) == len(b.engine.links) == 1


@pytest.mark.parametrize("seed", range(20))
def test_order_holds_across_the_moment_when_the_link_comes_up(seed: int) -> None:
    world = World(seed)
    a, b = apart(world, "a", "b", sends_waiting_max=10_000)
    sink = b.agent("sink", echo)
    sources = [a.agent(name) for name in ("one", "two")]
    part(world, a, b)
    sent: list[Any] = []
    for i in range(300):
        for source in sources:
            size = 200_000 if world.rng.random() < 0.02 else 10
            payload = (b"%d " % i).ljust(size)
            priority = world.rng.randrange(4)
            if world.rng.random() < 0.2:
                sent.append(source.request("sink", payload, priority=priority))
            else:
                sent.append(source.send("sink", payload, priority=priority))
        world.run(world.rng.random() * 0.1)
    world.until(lambda: len(sink.received) == 600)
    world.until(lambda: all(token.done for token in tokens(sent)))
    assert in_order(sink)
    assert not [token.error for token in tokens(sent) if token.error is not None]


def test_what_comes_right_behind_welcome_does_not_count_as_part_of_the_handshake() -> None:
    world = World()
    node = world.node("m")
    node.control.found(UUID)
    stranger = Stranger(world, node, name="z")
    hello = Hello(
        network="default", node_id="z", incarnation=1, network_uuid=UUID, credit_bytes=512 * 1024, checksum=1
    )
    stranger.say(HELLO, hello.encode())
    frames = [stranger.sealed(WELCOME, Welcome(UUID).encode())]
    frames += [stranger.sealed(MEMBERS, told("x")) for _ in range(3_000)]
    data = b"".join(frames)
    assert node.config.handshake_bytes_max < len(data) < READ_BYTES
    stranger.say_bytes(data)
    world.run(50)
    assert stranger.close is None
    assert "z" in node.engine.sessions


@pytest.mark.parametrize("seed", range(30))
def test_two_nodes_that_want_each_other_at_once_make_one_link(seed: int) -> None:
    world = World(seed)
    a, b = apart(world, "a", "b")
    one, other = a.agent("one", echo), b.agent("other", echo)
    part(world, a, b)
    asked = []
    for i in range(20):
        asked += [one.request("other", b"%d" % i), other.request("one", b"%d" % i)]
        world.run(world.rng.random())
    world.until(lambda: all(token.done for token in asked), ms=4_000)
    assert [token.answer for token in asked] == [b"%d" % (i // 2) for i in range(40)]
    assert in_order(one)
    assert in_order(other)
    world.until(lambda: len(a.engine.links) <= 1 and len(b.engine.links) <= 1)


def test_a_payload_that_the_peer_does_not_take_fails_when_that_is_known() -> None:
    world = World()
    small = EngineConfig(data_idle_ms=400, message_bytes_max=100_000)
    a = world.node("a", config=EngineConfig(data_idle_ms=400))
    b = world.node("b", config=small)
    b.control.found(bytes(16))
    world.finish(a.join("b"))
    for node in (a, b):
        keep_only(node)
    sink, source = b.agent("sink", echo), a.agent("source")
    part(world, a, b)
    sent = [source.send("sink", b"1"), source.send("sink", bytes(100_001)), source.send("sink", b"2")]
    asked = source.request("sink", bytes(100_001))
    world.until(lambda: all(token.done for token in tokens([*sent, asked])))
    for token in (sent[1], asked):
        assert isinstance(token.error, MessageTooLarge)
        assert token.error.definite
    world.until(lambda: len(sink.received) == 2)
    assert sink.payloads == [b"1", b"2"]


def test_a_link_that_is_lost_is_made_again_for_the_next_send() -> None:
    world = World()
    a, b, c = apart(world, "a", "b", "c", kept=["ac", "bc"])
    sink, source = b.agent("sink", echo), a.agent("source")
    world.finish(source.request("sink", b"there"))
    a.link("b").cut()
    world.until(lambda: not linked(a, b))
    token = source.request("sink", b"again")
    assert world.finish(token).answer == b"again"
    assert sink.payloads == [b"there", b"again"]
    assert not a.told(Event.LOST)
    assert linked(a, c)


# -- no link can be made


@pytest.mark.parametrize("how", ["refused", "silent"])
def test_a_node_that_cannot_be_linked_fails_what_waited_and_surely_nothing_was_sent(how: str) -> None:
    world = World()
    a, b = apart(world, "a", "b", link_wait_ms_max=1_000)
    b.agent("sink")
    source = a.agent("source")
    part(world, a, b)
    if how == "refused":
        b.kill()
    else:
        world.block("a", "b")
    began = world.now_ns
    waits = [source.send("sink", b"x"), source.send("sink", bytes(200_000)), source.request("sink", b"y")]
    world.until(lambda: all(token.done for token in waits))
    for token in waits:
        assert isinstance(token.error, AgentUnreachable)
        assert token.error.definite
        assert "no link to node b could be made: " in str(token.error)
        assert str(token.error).endswith("nothing was sent")
    passed = world.now_ns - began
    assert passed < 20 * MS if how == "refused" else 1_000 * MS <= passed < 1_100 * MS
    assert a.stats["requests_pending"] == a.stats["links_awaited"] == 0
    again = source.send("sink", b"z")
    world.until(lambda: again.done)
    assert isinstance(again.error, AgentUnreachable)


def test_each_address_is_tried_before_it_fails() -> None:
    world = World()
    a, b = apart(world, "a", "b")
    sink, source = b.agent("sink", echo), a.agent("source")
    b.control.set_addresses(("sim://nowhere:1", "sim://elsewhere:1", "sim://b:1"))
    b.turn()
    part(world, a, b)
    asked = source.request("sink", b"found")
    assert world.finish(asked).answer == b"found"
    assert sink.payloads == [b"found"]


def test_a_node_that_is_lost_while_it_is_dialled_fails_what_waited() -> None:
    world = World()
    a, b, c, _ = apart(world, "a", "b", "c", "d", kept=["ac", "bc", "bd", "cd"], link_wait_ms_max=60_000)
    b.agent("sink")
    source = a.agent("source")
    part(world, a, b)
    b.kill(silently=True)
    world.partition("b", "acd")
    token = source.send("sink", b"x")
    world.until(lambda: token.done, ms=30_000)
    assert isinstance(token.error, AgentUnreachable)
    assert a.told(Event.LOST)
    token = source.send("sink", b"y")
    world.until(lambda: token.done)
    assert isinstance(token.error, NoSuchAgent)
    assert linked(a, c)


def test_a_node_that_leaves_fails_what_waited() -> None:
    world = World()
    a, b = apart(world, "a", "b")
    b.agent("sink")
    source = a.agent("source")
    part(world, a, b)
    waits = [source.send("sink", b"x"), source.request("sink", b"y")]
    a.leave()
    for token in waits:
        assert isinstance(token.error, AgentUnreachable)
        assert token.error.definite


# -- what waits is bounded


def test_sends_that_wait_for_a_link_at_the_limit_and_one_past() -> None:
    world = World()
    a, b = apart(world, "a", "b", sends_waiting_max=5)
    sink, source = b.agent("sink", echo), a.agent("source")
    part(world, a, b)
    sent = [source.send("sink", b"%d" % i) for i in range(5)]
    with pytest.raises(Congested, match="5 sends of 5 bytes to agent sink wait already"):
        source.send("sink", b"one more")
    asked = source.request("sink", b"one more")
    a.turn()
    assert isinstance(asked.error, Congested)
    world.until(lambda: all(token.done for token in sent))
    world.until(lambda: len(sink.received) == 5)


def test_bytes_that_wait_for_a_link_at_the_limit_and_one_past() -> None:
    world = World()
    a, b = apart(world, "a", "b", sends_waiting_bytes_max=100_000, message_bytes_max=60_000)
    sink, source = b.agent("sink", echo), a.agent("source")
    part(world, a, b)
    source.send("sink", bytes(60_000))
    source.send("sink", bytes(40_000))
    with pytest.raises(Congested, match="sends_waiting_bytes_max"):
        source.send("sink", b"1")
    world.until(lambda: len(sink.received) == 2)


@pytest.mark.parametrize("how", ["cancelled", "timed out", "expired", "congested"])
def test_what_is_over_before_the_link_is_there_is_not_sent_and_holds_no_memory(how: str) -> None:
    world = World()
    a, b = apart(world, "a", "b", send_wait_ms_max=300 if how == "congested" else 30_000)
    sink, source = b.agent("sink", echo), a.agent("source")
    part(world, a, b)
    world.block("a", "b")
    payload = bytes(1000)
    before = sys.getrefcount(payload)
    sent: list[Any] = []
    for _ in range(10):
        if how == "timed out":
            sent.append(source.request("sink", payload, timeout=0.3))
        else:
            sent.append(source.send("sink", payload, ttl=0.3 if how == "expired" else 0))
    assert sys.getrefcount(payload) >= before + 10
    if how == "cancelled":
        for token in sent:
            token.cancel()
    world.run(800)
    assert sys.getrefcount(payload) == before
    kinds = {"expired": Expired, "congested": Congested, "timed out": Congested}
    for token in sent if how in kinds else ():
        assert isinstance(token.error, kinds[how])
        assert token.error.definite
    world.heal()
    world.run(10_000)
    assert sink.received == []
    world.finish(source.request("sink", b"works"))
    assert sink.payloads == [b"works"]


@pytest.mark.parametrize("size", [10, 200_000])
def test_send_nowait_raises_while_there_is_no_link_and_has_one_made(size: int) -> None:
    world = World()
    a, b = apart(world, "a", "b")
    sink, source = b.agent("sink", echo), a.agent("source")
    part(world, a, b)
    with pytest.raises(Congested, match="the link to node b is not there yet; nothing was sent") as caught:
        source.send_nowait("sink", bytes(size))
    assert caught.value.definite
    world.until(lambda: linked(a, b))
    source.send_nowait("sink", bytes(size))
    world.until(lambda: len(sink.received) == 1)


def test_an_agent_that_is_gone_when_its_node_is_linked_refuses_what_waited() -> None:
    world = World()
    a, b = apart(world, "a", "b")
    sink, source = b.agent("sink", echo), a.agent("source")
    part(world, a, b)
    b.unregister(sink)
    asked = source.request("sink", b"x")
    world.until(lambda: asked.done)
    assert isinstance(asked.error, NetworkError)
    assert asked.error.definite


# -- control frames


def unsaid(errors: list[NetworkError]) -> Any:
    return errors.append


def test_a_control_frame_goes_on_the_link_or_on_the_one_that_is_made_for_it() -> None:
    world = World()
    a, b = apart(world, "a", "b")
    errors: list[NetworkError] = []
    a.control.say("b", MEMBERS, told("x"), unsaid(errors))
    a.turn()
    world.until(lambda: knows(b, "x"), ms=100)
    part(world, a, b)
    a.control.say("b", MEMBERS, told("y"), unsaid(errors))
    a.control.say("b", MEMBERS, told("z"), unsaid(errors))
    assert not linked(a, b)
    world.until(lambda: knows(b, "z"), ms=1_000)
    assert knows(b, "y")
    assert errors == []
    part(world, a, b)


def test_a_control_frame_that_cannot_be_said_is_told_once() -> None:
    world = World()
    a, b = apart(world, "a", "b")
    part(world, a, b)
    b.kill()
    errors: list[NetworkError] = []
    a.control.say("b", MEMBERS, told("x"), unsaid(errors))
    a.control.say("nobody", MEMBERS, told("x"), unsaid(errors))
    assert [str(error) for error in errors] == [
        "no link to node nobody could be made: it is lost, has left or has no address that is known; "
        "nothing was sent"
    ]
    world.run(10_000)
    assert len(errors) == 2
    for error in errors:
        assert isinstance(error, AgentUnreachable)
        assert error.definite


@pytest.mark.parametrize("limit", ["count", "bytes"])
def test_control_frames_that_wait_at_the_limit_and_one_past(limit: str) -> None:
    world = World()
    size = len(told("y"))
    limits = {"control_kept_max": 2} if limit == "count" else {"control_kept_bytes_max": 2 * size}
    a, b, c = apart(world, "a", "b", "c", **limits)
    part(world, a, b, c)
    errors: list[NetworkError] = []
    a.control.say("b", MEMBERS, told("x"), unsaid(errors))
    a.control.say("c", MEMBERS, told("y"), unsaid(errors))
    assert errors == []
    a.control.say("c", MEMBERS, told("z"), unsaid(errors))
    (error,) = errors
    assert isinstance(error, Congested)
    assert f"control_kept_{'max' if limit == 'count' else 'bytes_max'}" in str(error)
    world.until(lambda: knows(b, "x") and knows(c, "y"))
    part(world, a, b, c)
    a.control.say("c", MEMBERS, told("w"), unsaid(errors))
    world.until(lambda: knows(c, "w"))
    assert len(errors) == 1


def test_a_stand_in_is_seen_in_the_stats_while_it_stands() -> None:
    world = World()
    a, b = apart(world, "a", "b")
    b.agent("sink", echo)
    source = a.agent("source")
    part(world, a, b)
    token = source.request("sink", b"x")
    assert a.stats["links_awaited"] == 1
    assert "held" in repr(a.engine.awaited["b"])
    assert isinstance(world.finish(token), Token)
    assert a.stats["links_awaited"] == 0
