"""Links that nobody uses are given up by both sides, and nothing is lost by it, whenever anybody sends."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from apart import IDLE_MS, agents_apart, apart, in_order, keep_only, linked, part, tokens
from harness import CLOSE, MEMBERS, MESSAGE, MS, PING, RETIRE, STAY, UUID, Agent, Node, Weather, World
from memberships import told
from strangers import Stranger

from agentnet_core.config import EngineConfig
from agentnet_core.errors import AgentUnreachable, LinkLost, NetworkError
from agentnet_core.handshake import Close
from agentnet_core.message import AgentMessage
from agentnet_core.records import Event, NodeStatus

NOTHING = msgpack.packb([])
TROUBLE = (Event.LINK_LOST, Event.LOST, Event.UNDELIVERABLE, Event.LINK_REFUSED, Event.LEFT)


def echo(message: AgentMessage) -> bytes:
    return message.payload


def calm(*nodes: Node) -> None:
    """Nobody was told of any trouble."""
    for node in nodes:
        assert [event for event in node.events if event.kind in TROUBLE] == []
        assert node.stats["links_lost"] == node.stats["replies_lost"] == 0


# -- what is not used goes


def test_a_link_that_is_not_used_is_retired_and_its_node_counts_as_active() -> None:
    world = World()
    a, b = apart(world, "a", "b")
    sink, source = b.agent("sink", echo), a.agent("source")
    world.finish(source.request("sink", b"x"))
    used_ns = world.now_ns
    part(world, a, b)
    assert IDLE_MS * 0.9 <= (world.now_ns - used_ns) / MS <= IDLE_MS * 1.5
    world.run(60_000)
    assert not a.engine.links
    assert not b.engine.links
    for node in (a, b):
        assert [member.status for member in node.control.members()] == [NodeStatus.ACTIVE] * 2
        assert node.stats["links_retired"] == 1
        assert len(node.control.directory) == 2
    calm(a, b)
    assert world.finish(source.request("sink", b"y")).answer == b"y"
    assert len(sink.received) == 2


def test_a_link_that_one_side_keeps_stays() -> None:
    world = World()
    a, b = apart(world, "a", "b")
    keep_only(b, "a")
    b.agent("sink", echo)
    source = a.agent("source")
    link = a.link("b")
    for _ in range(20):
        world.run(IDLE_MS)
        world.finish(source.request("sink", b"x"))
    world.run(20 * IDLE_MS)
    assert a.link("b") is link
    assert a.stats["links_retired"] == b.stats["links_retired"] == 0
    calm(a, b)


def test_a_link_of_the_overlay_is_never_retired() -> None:
    world = World()
    config = EngineConfig(data_idle_ms=100, data_links_max=1)
    a, b, c = world.join("a", "b", "c", config=config)
    world.run(60_000)
    assert all(len(node.engine.sessions) == 2 for node in (a, b, c))
    assert not any(node.stats["links_retired"] for node in (a, b, c))
    calm(a, b, c)


def test_a_link_that_never_carried_anything_is_retired_sooner() -> None:
    world = World()
    a, b = world.join("a", "b", config=EngineConfig(data_idle_ms=8_000))
    for node in (a, b):
        keep_only(node)
    world.run(500)
    assert linked(a, b)
    world.until(lambda: not linked(a, b), ms=3_000)
    calm(a, b)


def test_a_request_that_is_worked_on_keeps_its_link() -> None:
    world = World()
    a, b = apart(world, "a", "b")
    sink, source = b.agent("sink"), a.agent("source")
    asked = source.request("sink", b"x", timeout=100)
    world.run(20 * IDLE_MS)
    assert linked(a, b)
    sink.serve(echo)
    assert world.finish(asked).answer == b"x"
    part(world, a, b)
    calm(a, b)


def test_a_send_that_waits_for_a_full_mailbox_keeps_its_link() -> None:
    world = World()
    a, b = apart(world, "a", "b", mailbox_messages_max=4)
    sink, source = b.agent("sink"), a.agent("source")
    sent = []
    for i in range(20):
        sent.append(source.send("sink", b"%d" % i))
        world.run(10)
    world.run(20 * IDLE_MS)
    assert linked(a, b)
    sink.serve(echo)
    world.until(lambda: len(sink.received) == 20)
    assert in_order(sink)
    part(world, a, b)
    calm(a, b)


def test_an_agent_that_was_full_when_its_link_went_stops_senders_again() -> None:
    world = World()
    a, b = apart(world, "a", "b", mailbox_messages_max=40)
    sink, source = b.agent("sink"), a.agent("source")
    for i in range(30):
        source.send("sink", b"%d" % i)
    part(world, a, b)
    assert sink.pending_messages == 30
    sent: list[Any] = []
    for i in range(30, 60):
        sent.append(source.send("sink", b"%d" % i))
        world.run(1)
    assert sink.pending_messages <= 40
    assert any(not token.done for token in tokens(sent))
    sink.serve(echo)
    world.until(lambda: len(sink.received) == 60)
    assert in_order(sink)
    calm(a, b)


def test_who_has_let_go_learns_when_the_node_is_lost() -> None:
    world = World()
    a, b, c, d = apart(world, "a", "b", "c", "d", kept=["ac", "bc", "bd", "cd"])
    b.agent("sink")
    part(world, a, b)
    part(world, a, d)
    b.kill()
    world.until(lambda: a.told(Event.LOST), ms=30_000)
    assert a.control.directory.get("sink") is None
    assert linked(a, c)
    assert not linked(a, d)


# -- at every moment


def play(seed: int, side: str, kind: str, steps: int) -> bool:
    """Two nodes whose link is about to be retired; after so many steps somebody sends. False: it was over."""
    world = World(seed, Weather(delay_ns=(MS, 3 * MS)))
    a, b = apart(world, "a", "b")
    one, other = a.agent("one", echo), b.agent("other", echo)
    if side == "b":
        keep_only(a, "b")  # so that it is b that asks
        world.until(lambda: b.link("a").session.held)
        keep_only(a)
    else:
        world.until(lambda: a.link("b").session.held or b.link("a").session.held)
    for _ in range(steps):
        world.step()
    over = not (a.engine.links or b.engine.links)
    both = [(a, one, other), (b, other, one)]
    senders = {"a": both[:1], "b": both[1:], "both": both}[side]
    waits = []
    for node, sender, receiver in senders:
        node.engine.now_ns = world.now_ns
        waits += send(node, sender, receiver, kind)
        node.turn()
    for _, _, receiver in senders:
        if kind == "frame":
            there = receiver.node
            world.until(lambda there=there: len(there.control.members()) == 3, ms=3_000)
        else:
            world.until(lambda receiver=receiver: len(receiver.received) == 3, ms=3_000)
            assert in_order(receiver)
    world.until(lambda: all(token.done for token in waits), ms=3_000)
    assert [token.error for token in waits] == [None] * len(waits)
    part(world, a, b)
    world.run(1_000)
    calm(a, b)
    assert [*a.engine.links, *b.engine.links, *a.engine.awaited, *b.engine.awaited] == []
    return not over


def send(node: Node, sender: Agent, receiver: Agent, kind: str) -> list[Any]:
    to, errors = receiver.agent_id, []
    if kind == "frame":
        node.control.say(receiver.node.name, MEMBERS, told("x"), errors.append)
        return []
    if kind == "request":
        asked = [sender.request(to, b"%d" % i) for i in range(3)]
        for number, token in enumerate(asked):
            token.then = lambda number=number, token=token: errors.append(token.answer == b"%d" % number)
        return asked
    size = 100_000 if kind == "large" else 5
    return tokens([sender.send(to, (b"%d " % i).ljust(size)) for i in range(3)])


@pytest.mark.parametrize("kind", ["small", "large", "request", "frame"])
@pytest.mark.parametrize("side", ["a", "b", "both"])
def test_whoever_sends_at_any_step_of_a_retirement_loses_nothing(side: str, kind: str) -> None:
    for seed in range(4):
        steps = 0
        while play(seed, side, kind, steps):
            steps += 1
        assert steps >= 6, "that was no retirement"


@pytest.mark.parametrize("seed", range(12))
def test_nodes_that_send_around_the_time_of_each_retirement_lose_nothing(seed: int) -> None:
    world = World(seed, Weather(delay_ns=(MS // 10, 4 * MS)))
    nodes, agents = agents_apart(world, "a", "b", "c", handle=echo, data_idle_ms=40, sync_interval_ms=10**6)
    numbers = dict.fromkeys([agent.agent_id for agent in agents], 0)
    waits: list[Any] = []
    for _ in range(120):
        for _ in range(world.rng.randrange(1, 4)):
            sender, receiver = world.rng.sample(agents, 2)
            number = numbers[sender.agent_id] = numbers[sender.agent_id] + 1
            payload = (b"%d " % number).ljust(world.rng.choice((5, 5, 5, 300_000)))
            if world.rng.random() < 0.5:
                waits.append(sender.request(receiver.agent_id, payload))
            else:
                waits += tokens([sender.send(receiver.agent_id, payload)])
            world.run(world.rng.choice((0, 0.01, 1)))
        world.run(world.rng.choice((1, 10, world.rng.uniform(38, 60), 45)))
    world.until(lambda: all(token.done for token in waits))
    assert [token.error for token in waits if token.error is not None] == []
    part(world, *nodes)
    assert sum(len(agent.received) for agent in agents) == sum(numbers.values())
    assert all(in_order(agent) for agent in agents)
    assert sum(node.stats["links_retired"] for node in nodes) > 40
    calm(*nodes)


@pytest.mark.parametrize("seed", range(12))
def test_links_that_break_at_any_time_lose_nothing_that_is_said_to_be_definite(seed: int) -> None:
    world = World(seed, Weather(delay_ns=(MS // 10, 4 * MS)))
    limits = {"data_idle_ms": 40, "data_links_max": 1, "link_wait_ms_max": 500, "redial_ms_max": 100}
    hub = {"kept": ["ah", "bh", "ch"], "node_silence_ms_max": 600_000}  # it hears those who are not linked
    everybody, agents = agents_apart(world, "a", "b", "c", "h", handle=echo, **hub, **limits)
    nodes, agents = everybody[:3], agents[:3]
    part(world, *nodes)
    numbers = dict.fromkeys([agent.agent_id for agent in agents], 0)
    outcomes: list[tuple[bytes, Any]] = []
    for _ in range(150):
        sender, receiver = world.rng.sample(agents, 2)
        number = numbers[sender.agent_id] = numbers[sender.agent_id] + 1
        payload = (b"%d of %d " % (number, sender.agent_id)).ljust(world.rng.choice((5, 5, 5, 300_000)))
        if world.rng.random() < 0.5:
            outcomes.append((payload, sender.request(receiver.agent_id, payload)))
        else:
            outcomes += [(payload, token) for token in tokens([sender.send(receiver.agent_id, payload)])]
        world.run(world.rng.choice((0, 1, 5, world.rng.uniform(38, 60))))
        one, other = world.rng.sample(nodes, 2)
        if linked(one, other) and world.rng.random() < 0.2:
            one.link(other.name).cut()
    world.until(lambda: all(token.done for _, token in outcomes))
    world.run(2_000)
    got = [message.payload for agent in agents for message in agent.received]
    assert len(got) == len(set(got))
    assert all(in_order(agent) for agent in agents)
    for payload, token in outcomes:
        assert not (isinstance(token.error, NetworkError) and token.error.definite and payload in got)
        assert payload in got or token.error is not None or token.outcome is None
    for node in nodes:
        assert sorted(node.engine.sessions) == ["h"]
        assert len(node.engine.links) == 1
        assert not node.engine.awaited
        assert not node.told(Event.LOST)


# -- a place for one more


def star(world: World, *others: str, **limits: Any) -> tuple[Node, Agent, list[Agent]]:
    """A node and its agent, and an agent of each of the others."""
    nodes = apart(world, "hub", *others, data_idle_ms=2_000, **limits)
    for node in nodes[1:]:
        keep_only(node)
    sinks = [node.agent(f"of {node.name}", echo) for node in nodes[1:]]
    source = nodes[0].agent("source")
    part(world, *nodes)
    return nodes[0], source, sinks


def test_for_one_link_too_many_the_one_used_least_recently_goes() -> None:
    world = World()
    hub, source, sinks = star(world, "p", "q", "r", data_links_max=2)
    for name in ("of p", "of q", "of p"):
        world.finish(source.request(name, b"0"))
        world.run(300)
    began = world.now_ns
    assert world.finish(source.request("of r", b"1")).answer == b"1"
    assert world.now_ns - began < 500 * MS
    assert sorted(hub.engine.sessions) == ["p", "r"]
    world.finish(source.request("of q", b"2"))
    assert sorted(hub.engine.sessions) == ["q", "r"]
    assert [len(sink.received) for sink in sinks] == [2, 2, 1]
    calm(hub)


def test_where_no_link_can_go_the_new_one_waits_and_then_fails() -> None:
    world = World()
    hub, source, sinks = star(world, "p", "q", data_links_max=1, link_wait_ms_max=1_000)
    sinks[0].serve(None)
    busy = source.request("of p", b"0", timeout=100)
    world.run(100)
    token = source.send("of q", b"1")
    began = world.now_ns
    world.until(lambda: token.done)
    assert world.now_ns - began >= 1_000 * MS
    assert isinstance(token.error, AgentUnreachable)
    assert token.error.definite
    assert "1 others are in use (data_links_max)" in str(token.error)
    assert sorted(hub.engine.sessions) == ["p"]
    again = source.send("of q", b"2")
    world.run(300)
    sinks[0].serve(echo)
    world.finish(busy)
    world.finish(again)
    world.until(lambda: sinks[1].received)
    assert sinks[1].payloads == [b"2"]
    calm(hub)


def test_links_that_others_make_are_brought_back_to_the_limit() -> None:
    world = World()
    hub, _, sinks = star(world, "p", "q", "r", "s", data_links_max=2)
    asked = [sink.request("source", b"x", timeout=100) for sink in sinks]
    source = hub.engine.ports[next(iter(hub.engine.ports))]
    assert isinstance(source, Agent)
    world.run(200)
    assert len(hub.engine.sessions) == 4
    source.serve(echo)
    for token in asked:
        world.finish(token)
    world.until(lambda: len(hub.engine.sessions) == 2, ms=1_500)
    calm(hub)


# -- peers that do not keep to it


def meet(world: World, **limits: Any) -> tuple[Node, Stranger]:
    node = world.node("m", config=EngineConfig(**{"data_idle_ms": IDLE_MS, **limits}))
    node.control.found(UUID)
    keep_only(node)
    stranger = Stranger(world, node, name="a")
    stranger.introduce()
    return node, stranger


def test_a_stay_that_nobody_asked_for_ends_the_link() -> None:
    world = World()
    _, stranger = meet(world)
    stranger.say(STAY, NOTHING)
    world.run(50)
    assert stranger.close is not None
    assert stranger.close.text == "STAY: expected only as the answer to RETIRE"


@pytest.mark.parametrize("kind", [RETIRE, STAY])
@pytest.mark.parametrize("body", [b"", b"\x91\x00", b"\xc0", b"\x90\x90"])
def test_retire_and_stay_say_nothing_more(kind: int, body: bytes) -> None:
    world = World()
    _, stranger = meet(world)
    stranger.say(kind, body)
    world.run(50)
    assert stranger.close is not None
    assert stranger.close.code == 201


def test_who_lets_go_waits_for_the_other_to_hang_up_but_not_for_ever() -> None:
    world = World()
    node, stranger = meet(world, handshake_ms_max=1_000)
    stranger.say(RETIRE, NOTHING)
    world.run(50)
    assert stranger.close is not None
    assert stranger.close.code == Close.IDLE
    assert node.engine.links
    assert not node.engine.sessions
    for _ in range(5):
        stranger.say(PING, msgpack.packb(7))
        stranger.say(MEMBERS, told("x"))
        stranger.say(RETIRE, NOTHING)
    world.run(500)
    assert stranger.ended is None
    world.run(600)
    assert stranger.ended is not None
    assert not node.engine.links
    assert len(node.control.members()) == 2
    calm(node)


def test_a_peer_that_does_not_answer_holds_up_nobody_for_ever() -> None:
    world = World()
    node, stranger = meet(world, send_wait_ms_max=1_000)
    agent = node.make("source")
    node.register(agent)
    world.until(lambda: any(stranger.bodies(RETIRE)))
    node.engine.broadcast(AgentMessage(b"x"), agent.agent_id)
    world.run(1_200)
    assert list(stranger.bodies(MESSAGE)) == []
    stranger.say(STAY, NOTHING)
    world.run(50)
    node.engine.broadcast(AgentMessage(b"y"), agent.agent_id)
    world.run(50)
    assert [msgpack.unpackb(body)[-1] for body in stranger.bodies(MESSAGE)] == [b"y"]


def test_a_peer_that_hangs_up_unasked_leaves_what_it_had_not_confirmed_unknown() -> None:
    world = World()
    node, stranger = meet(world, data_idle_ms=60_000)
    agent = node.make("source")
    node.register(agent)
    node.engine.broadcast(AgentMessage(b"x"), agent.agent_id)
    world.run(50)
    stranger.say(CLOSE, Close(Close.IDLE, "not used").encode())
    world.run(50)
    assert not node.engine.links
    (event,) = node.told(Event.UNDELIVERABLE)
    assert isinstance(event.error, LinkLost)
    assert not event.error.definite


def test_what_waits_at_a_held_link_whose_node_leaves_surely_was_not_sent() -> None:
    world = World()
    a, b = apart(world, "a", "b")
    keep_only(b, "a")
    sink, source = b.agent("sink", echo), a.agent("source")
    world.until(lambda: a.link("b").session.held)
    errors: list[NetworkError] = []
    a.control.say("b", MEMBERS, told("x"), errors.append)
    token = source.send("sink", b"0")
    b.leave()
    world.until(lambda: token.done)
    text = "no link to node b could be made: it is lost, has left or has no address that is known; nothing"
    assert [str(error).partition(" was sent")[0] for error in (*errors, token.error)] == [text] * 2
    assert isinstance(token.error, AgentUnreachable)
    assert sink.received == []


def test_what_waits_at_a_link_that_breaks_while_it_is_held_goes_by_the_next_or_surely_was_not_sent() -> None:
    world = World()
    a, b = apart(world, "a", "b", link_wait_ms_max=1_000)
    keep_only(b, "a")
    sink, source = b.agent("sink", echo), a.agent("source")
    world.until(lambda: a.link("b").session.held)
    token = source.request("sink", b"0")
    a.link("b").cut()
    assert world.finish(token).answer == b"0"
    world.until(lambda: a.link("b").session.held)
    token = source.request("sink", b"1")
    b.kill()
    world.until(lambda: token.done)
    assert isinstance(token.error, AgentUnreachable)
    assert token.error.definite
    assert sink.payloads == [b"0"]
