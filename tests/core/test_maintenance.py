"""A node in maintenance takes no new work, definitely, and finishes what it has; and what PONG says."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from harness import MESSAGE, MS, PING, PONG, STATUS, UUID, Agent, Node, Token, World
from strangers import Stranger

from agentnet_core.config import EngineConfig
from agentnet_core.errors import AgentUnreachable, NetworkError, NoSuchAgent
from agentnet_core.message import AgentMessage
from agentnet_core.records import Event, NodeStatus


def echo(message: AgentMessage) -> bytes:
    return message.payload


def pair(world: World, **config: Any) -> tuple[Node, Node]:
    a, b = world.join("a", "b", config=EngineConfig(**config))
    return a, b


def statuses(node: Node) -> dict[str, str]:
    return {member.node_id: member.status.value for member in node.control.members()}


def refused(world: World, token: Token) -> bool:
    world.until(lambda: token.done)
    error = token.error
    return isinstance(error, AgentUnreachable) and error.definite and "in maintenance" in str(error)


def test_new_work_is_refused_at_the_sender_and_every_node_shows_it() -> None:
    world = World()
    a, b, c = world.join("a", "b", "c")
    worker = b.agent("worker", echo)
    asker = a.agent("asker")
    world.finish(asker.request("worker", b"before"))
    b.engine.set_maintenance(True)
    world.until(lambda: all(statuses(node)["b"] == "maintenance" for node in (a, b, c)))
    sent = a.stats["messages_sent"]
    for to in ("worker", worker.agent_id):
        with pytest.raises(AgentUnreachable, match="on node b, which is in maintenance") as caught:
            asker.send(to, b"x")
        assert caught.value.definite
        assert refused(world, asker.request(to, b"x"))
    assert a.stats["messages_sent"] == sent
    assert a.control.members()[1].status is NodeStatus.MAINTENANCE
    b.engine.set_maintenance(False)
    world.until(lambda: all(set(statuses(node).values()) == {"active"} for node in (a, b, c)))
    assert world.finish(asker.request("worker", b"again")).answer == b"again"
    asker.send("worker", b"by name")
    world.until(lambda: worker.payloads[-1] == b"by name")


def test_what_it_has_is_done_and_what_it_asks_is_answered() -> None:
    world = World()
    a, b = pair(world)
    worker = b.agent("worker", echo, service_ns=50 * MS)
    helper = b.agent("helper", echo)
    other = a.agent("other", echo)
    before = [other.request("worker", bytes([n])) for n in range(5)]
    world.run(5)
    b.engine.set_maintenance(True)
    world.run(5)
    assert refused(world, other.request("worker", b"new"))
    assert world.finish(worker.request("other", b"mine")).answer == b"mine"
    assert world.finish(worker.request("helper", b"ours")).answer == b"ours"
    assert [world.finish(token).answer for token in before] == [bytes([n]) for n in range(5)]
    assert helper.payloads == [b"ours"]


def test_what_is_on_its_way_is_refused_by_the_node() -> None:
    world = World()
    a, b = pair(world, fragment_bytes=1024)
    worker, other = b.agent("worker", echo), a.agent("other")
    world.finish(other.request("worker", b"before"))
    other.send("worker", b"one way")
    crossing = [other.request("worker", b"x"), other.request("worker", bytes(5000))]
    b.engine.set_maintenance(True)
    assert all(refused(world, token) for token in crossing)
    world.until(lambda: a.told(Event.UNDELIVERABLE))
    (event,) = a.told(Event.UNDELIVERABLE)
    assert isinstance(event.error, AgentUnreachable)
    assert event.error.definite
    assert worker.payloads == [b"before"]


def test_sends_that_wait_fail_and_a_stop_is_not_forgotten() -> None:
    world = World()
    a, b = pair(world, mailbox_messages_max=4)
    worker, other = b.agent("worker"), a.agent("other")
    for _ in range(4):
        other.send("worker", b"x")
    world.run(50)
    waiting, asking = other.send("worker", b"waits"), other.request("worker", b"waits")
    assert isinstance(waiting, Token)
    b.engine.set_maintenance(True)
    assert refused(world, waiting)
    assert refused(world, asking)
    b.engine.set_maintenance(False)
    world.run(50)
    again = other.send("worker", b"waits for GO")
    world.run(50)
    assert isinstance(again, Token)
    assert not again.done
    worker.serve(lambda message: None)
    assert world.finish(again).error is None
    world.until(lambda: worker.payloads == [b"x"] * 4 + [b"waits for GO"])


def test_an_agent_that_went_meanwhile_is_not_found_after_it() -> None:
    world = World()
    a, b = pair(world)
    worker, other = b.agent("worker", echo), a.agent("other")
    world.finish(other.request("worker", b"x"))
    b.engine.set_maintenance(True)
    world.run(50)
    b.unregister(worker)
    world.run(50)
    b.engine.set_maintenance(False)
    world.run(50)
    with pytest.raises(NoSuchAgent):
        world.finish(other.request("worker", b"x"))


def test_a_new_link_is_told_and_refused_before_it_can_know() -> None:
    world = World()
    (a,) = world.join("a")
    a.agent("worker", echo)
    a.engine.set_maintenance(True)
    b = world.node("b")
    assert world.finish(b.join("a")).error is None
    world.until(lambda: statuses(b)["a"] == "maintenance")
    stranger = Stranger(world, a, name="0")
    stranger.introduce()
    world.until(lambda: [*stranger.bodies(STATUS)] == [b"\xcf" + bytes(7) + b"\x01"])


def test_broadcasts_reach_it() -> None:
    world = World()
    a, b = pair(world)
    worker = b.agent("worker", echo)
    b.engine.set_maintenance(True)
    world.run(50)
    assert a.engine.broadcast(AgentMessage(b"all", message_type=5), 0) == ([], True)
    world.until(lambda: worker.payloads == [b"all"])


def test_one_that_is_not_there_is_still_nobody() -> None:
    world = World()
    a = world.node("m")
    a.control.found(UUID)
    stranger = Stranger(world, a, name="a")
    stranger.introduce()
    a.engine.set_maintenance(True)
    stranger.say(MESSAGE, msgpack.packb([1, 12345, 1, 9, 2, 1, 0, 0, b"x"]))
    world.until(lambda: any(b"is not registered on node m" in body for _, _, body in stranger.heard))


# -- PONG


def stranger_of(world: World) -> tuple[Node, Stranger, Agent]:
    node = world.node("m")
    node.control.found(UUID)
    agent = node.agent("sink")
    stranger = Stranger(world, node, name="a")
    stranger.introduce()
    return node, stranger, agent


def test_a_link_that_is_never_silent_is_pinged_as_well() -> None:
    world = World()
    a, b = pair(world, refresh_interval_ms=3_000)
    worker, other = b.agent("worker", echo), a.agent("other")
    session = a.link("b").session
    world.run(1)
    for _ in range(100):
        b.engine.load = len(worker.received)
        world.finish(other.request("worker", b"x"))
        world.run(200)
        assert world.now_ns - session.proven_ns < 3_400 * MS
    assert session.load > 80
    (_, member) = a.control.members()
    assert member.rtt_ms is not None
    assert 0 < member.rtt_ms < 10
    assert member.load == session.load
    assert member.last_heartbeat >= member.proven > member.last_heartbeat - 4_000 * MS


def test_a_pong_says_load_status_and_what_was_sent() -> None:
    world = World()
    node, stranger, _ = stranger_of(world)
    node.engine.load = 7
    stranger.say(PING, b"\x05")
    world.until(lambda: any(stranger.bodies(PONG)))
    assert msgpack.unpackb([*stranger.bodies(PONG)][-1]) == [5, 7, 0, 0]
    node.engine.set_maintenance(True)
    node.engine.broadcast(AgentMessage(b"all", message_type=5), 0)
    stranger.say(PING, b"\x06")
    world.until(lambda: len([*stranger.bodies(PONG)]) == 2)
    sent = sum(len(body) + 10 for body in stranger.bodies(MESSAGE))
    assert msgpack.unpackb([*stranger.bodies(PONG)][-1]) == [6, 7, 1, sent]


@pytest.mark.parametrize("more", [[], ["later", {"k": [1]}]])
def test_a_pong_is_believed(more: list[Any]) -> None:
    world = World()
    node, stranger, _ = stranger_of(world)
    session = stranger.session
    world.run(10)
    node.engine.ping(session)
    asked_ns = session.pinged_ns
    world.run(3)
    stranger.say(PONG, msgpack.packb([asked_ns, 12, 1, 0, *more]))
    world.until(lambda: session.ponged_ns == asked_ns)
    assert (session.load, session.cordoned) == (12, True)
    assert session.rtt_ns == session.proven_ns - asked_ns > 3 * MS
    assert session.has_all_since(asked_ns)
    assert not session.has_all_since(asked_ns + 1)
    stranger.say(PONG, msgpack.packb([asked_ns, 0, 0, 1, *more]))
    world.until(lambda: not session.cordoned)
    assert not session.has_all_since(asked_ns)  # a byte is on its way
    stranger.say(PONG, msgpack.packb(asked_ns))  # as older nodes say it
    world.run(5)
    assert session.has_all_since(asked_ns)


@pytest.mark.parametrize("body", [b"", b"\x91\x05", b"\x93\x05\x05\x05", b"\x94\x05\x05\x05\xa1x", b"\xc0"])
def test_a_wrong_pong_ends_the_link(body: bytes) -> None:
    world = World()
    _, stranger, _ = stranger_of(world)
    stranger.say(PONG, body)
    world.until(lambda: stranger.close)
    assert stranger.close is not None
    assert isinstance(stranger.close.error(), NetworkError)
    assert "PONG frame: expected [time, load, status, bytes sent]" in str(stranger.close.error())
