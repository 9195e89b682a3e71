"""Chains of calls: who asked whom, how far they may go, how wide, and in what time."""

from __future__ import annotations

from typing import Any

import pytest
from harness import MS, Agent, Node, Token, World

from agentnet_core.config import EngineConfig
from agentnet_core.errors import (
    CallCycle,
    ChainSpent,
    ConfigError,
    Congested,
    Expired,
    HandlerFailed,
    NetworkError,
    NoSuchAgent,
)
from agentnet_core.message import AgentMessage
from agentnet_core.records import Delivery


def line(world: World, *names: str, **config: Any) -> list[Node]:
    return world.join(*names, config=EngineConfig(**config))


def failed(world: World, token: Token) -> BaseException:
    world.until(lambda: token.done)
    assert token.error is not None
    return token.error


def envelope_of(message: AgentMessage) -> tuple[int | None, int | None, list[int]]:
    assert message.envelope is not None
    return message.envelope.hops_left, message.envelope.calls_left, message.envelope.path


def test_a_chain_of_three_knows_its_path_and_shares_its_time() -> None:
    world = World()
    a, b, c = line(world, "a", "b", "c")
    last = c.agent("last", lambda message: b"end")

    def pass_on(message: AgentMessage) -> Token:
        result = Token()

        def ask() -> None:
            b.engine.now_ns = world.now_ns
            b.engine.work = middle._work
            asked = middle.request("last", b"deeper", timeout=9)
            b.engine.work = None
            asked.then = lambda: result.settle(asked.outcome, None)

        world.after(300, b.act, ask)
        return result

    middle = b.agent("middle", pass_on)
    token = a.agent("asker").request("middle", b"x", timeout=2)
    assert world.finish(token).answer == b"end"
    (first,), (second,) = middle.received, last.received
    assert (first.envelope is None or first.envelope.path == [], first.ttl) == (True, 2.0)
    assert envelope_of(second) == (15, 2**19 - 1, [middle.agent_id])
    assert 1.69 < second.ttl <= 1.7


def test_outside_of_a_handler_nothing_is_carried() -> None:
    world = World()
    a, b = line(world, "a", "b")
    sink = b.agent("sink")
    source = a.agent("source")
    source.send("sink", b"x")
    source.request("sink", b"y", timeout=1)
    world.until(lambda: sink.pending_messages == 2)
    assert [(message.envelope, message.ttl) for message in sink.take_all()] == [(None, 0), (None, 1)]


def test_a_handler_whose_time_is_over_asks_nothing() -> None:
    world = World()
    (a,) = line(world, "a")
    sink = a.agent("sink")
    slow = a.agent("slow")
    a.agent("asker").request("slow", b"x", timeout=0.1)
    (message,) = slow.take_all()
    world.run(200)
    slow._work.message, a.engine.work = message, slow._work
    token = slow.request("sink", b"late")
    a.engine.work = None
    error = failed(world, token)
    assert isinstance(error, Expired)
    assert error.definite
    assert sink.pending_messages == 0


# -- cycles


def ring(world: World, *, reentrant: bool, count: int = 3) -> tuple[list[Agent], Token]:
    """Agents on nodes of their own, each asking the next one and the last the first."""
    nodes = line(world, *"abcd"[:count])
    agents: list[Agent] = []

    def ask(number: int) -> Any:
        def handle(message: AgentMessage) -> Any:
            if number == 0 and len(agents[0].received) > 1:
                return b"inner"
            return agents[number].request(f"r{(number + 1) % count}", b"on")

        return handle

    for number, node in enumerate(nodes):
        agents.append(node.agent(f"r{number}", ask(number)))
    agents[0].reentrant = reentrant
    return agents, nodes[-1].agent("asker").request("r0", b"x", timeout=5)


def test_a_cycle_is_refused_at_once_with_its_path() -> None:
    world = World()
    agents, token = ring(world, reentrant=False)
    asked_ns = world.now_ns
    error = failed(world, token)
    assert isinstance(error, HandlerFailed)
    assert "r0 -> r1 -> r2 -> r0" in str(error)
    assert world.now_ns - asked_ns < 20 * MS
    assert [len(agent.received) for agent in agents] == [1, 1, 1]


def test_the_refusal_is_definite_to_who_asked() -> None:
    world = World()
    (a,) = line(world, "a")
    errors: list[Any] = []

    def handle(message: AgentMessage) -> Token:
        token = me.request("me", b"again")
        token.then = lambda: errors.append(token.error)
        return Token()

    me = a.agent("me", handle)
    a.agent("asker").request("me", b"x")
    world.until(lambda: errors)
    assert isinstance(errors[0], CallCycle)
    assert errors[0].definite
    assert "me -> me" in str(errors[0])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_who_is_reentrant_answers_out_of_turn(count: int) -> None:
    world = World()
    agents, token = ring(world, reentrant=True, count=count)
    assert world.finish(token).answer == b"inner"
    assert len(agents[0].received) == 2


def test_calls_that_come_back_are_bounded() -> None:
    world = World()
    (a,) = line(world, "a", reentrant_calls_max=2)
    me = a.agent("me", lambda message: Token())
    me.reentrant = True
    a.agent("asker").request("me", b"x")
    world.until(lambda: me.received)
    me.serve(None)
    a.engine.work = me._work
    tokens = [me.request("me", b"%d" % number) for number in range(3)]
    a.engine.work = None
    error = failed(world, tokens[2])
    assert isinstance(error, Congested)
    assert "reentrant_calls_max" in str(error)
    assert not any((tokens[0].done, tokens[1].done))


def streaming(world: World, node: Node, to: str, ends: list[Any], count: int = 1) -> Any:
    """A handler that reads so many streams of an agent, one after another, and notes how each ends."""

    def handle(message: AgentMessage) -> Token:
        result = Token()
        agent = next(agent for agent in node.engine.ports.values() if agent.agent_id == message.to_agent)

        def ask() -> None:
            node.engine.now_ns, node.engine.work = world.now_ns, agent._work
            try:
                reader = node.engine.stream(agent, to, b"part", 5)
            except NetworkError as error:
                ended(None, error)
                return
            finally:
                node.engine.work = None
            reader.wait().then = lambda: ended(reader)

        def ended(reader: Any, error: Any = None) -> None:
            try:
                while reader is not None and reader.take() is not None:
                    pass
                if reader is not None and not reader.over:
                    reader.wait().then = lambda: ended(reader)
                    return
            except (NetworkError, StopIteration) as end:
                error = end
            ends.append(error)
            if len(ends) < count:
                node.clock.at(world.now_ns, node.act, ask)
            else:
                result.settle(None, None)

        node.clock.at(world.now_ns, node.act, ask)
        return result

    return handle


def test_a_cycle_through_a_stream_is_refused_with_its_path() -> None:
    world = World()
    a, b = line(world, "a", "b")
    ends: list[Any] = []
    a.agent("near", streaming(world, a, "far", ends))
    far = b.agent("far", lambda _: far.request("near", b"on"))
    world.finish(a.agent("asker").request("near", b"x", timeout=5))
    assert isinstance(ends[0], HandlerFailed)
    assert "near -> far -> near" in str(ends[0])
    message = far.received[0]
    assert envelope_of(message) == (15, 2**19 - 1, [a.engine.routes["near"].agent_id])
    assert 4.9 < message.ttl <= 5


def test_a_stream_that_has_ended_gives_its_share_back() -> None:
    world = World()
    (a,) = line(world, "a", chain_calls_max=1)
    ends: list[Any] = []
    a.agent("echo", lambda message: message.payload)
    a.agent("boss", streaming(world, a, "echo", ends, 30))
    world.finish(a.agent("asker").request("boss", b"x"))
    assert [type(end) for end in ends] == [StopIteration] * 30


def test_a_stream_to_nobody_gives_its_share_back() -> None:
    world = World()
    (a,) = line(world, "a", chain_calls_max=1)
    ends: list[Any] = []
    a.agent("boss", streaming(world, a, "nobody", ends, 5))
    world.finish(a.agent("asker").request("boss", b"x"))
    assert [type(end) for end in ends] == [NoSuchAgent] * 5


# -- limits


@pytest.mark.parametrize("hops", [1, 3])
def test_as_many_hops_as_may_be_and_one_more(hops: int) -> None:
    world = World()
    (a,) = line(world, "a", chain_hops_max=hops)
    names = [f"h{number}" for number in range(hops + 2)]
    made: list[Agent] = []

    def pass_on(number: int) -> Any:
        last = number == len(names) - 1
        return lambda message: b"end" if last else made[number].request(names[number + 1], b"on")

    made += [a.agent(name, pass_on(number)) for number, name in enumerate(names)]
    error = failed(world, a.agent("asker").request("h0", b"x", timeout=5))
    assert "chain_hops_max" in str(error)
    assert " -> ".join(names[: hops + 1]) in str(error)
    assert [len(agent.received) for agent in made] == [1] * (hops + 1) + [0]
    assert world.finish(a.agent("near").request("h1", b"x", timeout=5)).answer == b"end"


@pytest.mark.parametrize("calls", [1, 2, 5, 40])
def test_as_many_calls_as_may_be_open_and_one_more(calls: int) -> None:
    world = World()
    (a,) = line(world, "a", chain_calls_max=calls, mailbox_messages_max=1000)
    sink = a.agent("sink")
    asked: list[Token] = []
    boss = a.agent("boss", lambda message: asked.extend(boss.request("sink", b"x") for _ in range(calls + 1)))
    token = a.agent("asker").request("boss", b"x")
    world.finish(token)
    messages = sink.take_all()
    shares = [message.envelope.calls_left for message in messages if message.envelope is not None]
    assert sum(share + 1 for share in shares if share is not None) <= calls
    spent = [item for item in asked if item.done]
    assert spent
    assert all(isinstance(item.error, ChainSpent) and item.error.definite for item in spent)
    assert "chain_calls_max" in str(spent[0].error)
    assert "boss" in str(spent[0].error)


def test_a_call_that_has_ended_gives_its_share_back_however_it_ended() -> None:
    world = World()
    (a,) = line(world, "a", chain_calls_max=2)
    a.agent("echo", lambda message: message.payload)
    a.agent("never")
    outcomes: list[Any] = []
    result = Token()

    def step(count: int = 0, last: Token | None = None) -> None:
        if last is not None:
            outcomes.append(last.outcome)
        if count == 30:
            result.settle(None, None)
            return
        a.engine.work = boss._work
        name, timeout = (("echo", None), ("never", 0.01), ("nobody", None))[count % 3]
        token = boss.request(name, b"x", timeout=timeout)
        a.engine.work = None
        token.then = lambda: step(count + 1, token)

    def handle(message: AgentMessage) -> Token:
        a.clock.at(world.now_ns, a.act, step)
        return result

    boss = a.agent("boss", handle)
    world.finish(a.agent("asker").request("boss", b"x"))
    assert not [outcome for outcome in outcomes if isinstance(outcome, ChainSpent)]


@pytest.mark.parametrize(("hops", "fine"), [(64, True), (65, False)])
def test_a_path_that_a_message_can_carry(hops: int, fine: bool) -> None:
    if fine:
        assert EngineConfig(chain_hops_max=hops).chain_hops_max == hops
    else:
        with pytest.raises(ConfigError, match="chain_hops_max=65: expected at most 64"):
            EngineConfig(chain_hops_max=hops)


# -- what handlers send, and wait for no answer to


def ping_pong(world: World, delivery: Delivery | None, **config: Any) -> tuple[list[Agent], Agent]:
    """Two agents on nodes of their own, each of whose handlers sends the other one a message."""
    a, b = line(world, "a", "b", **config)
    agents: list[Agent] = []

    def back(number: int) -> Any:
        return lambda message: void(
            agents[number].send(("ping", "pong")[number ^ 1], b"x", delivery=delivery)
        )

    agents += [a.agent("ping", back(0)), b.agent("pong", back(1))]
    return agents, a.agent("source")


def void(_: object) -> None: ...


@pytest.mark.parametrize("delivery", [None, Delivery.ACKNOWLEDGED, Delivery.DURABLE])
@pytest.mark.parametrize("hops", [1, 4, 5])
def test_handlers_that_send_each_other_messages_for_ever_are_stopped(
    delivery: Delivery | None, hops: int
) -> None:
    world = World()
    agents, source = ping_pong(
        world, delivery, chain_hops_max=hops, chain_sends=True, delivery_attempts_max=1
    )
    source.send("ping", b"x", delivery=delivery)
    source.node.turn()
    world.run(500)
    ping, pong = agents
    assert [len(agent.received) for agent in agents] == [hops // 2 + 1, (hops + 1) // 2]
    assert ping.received[0].envelope is None
    ends = (ping, pong)[hops % 2]
    assert [agent.node.stats["sends_spent"] for agent in agents] == [int(agent is ends) for agent in agents]
    (event,) = [event for event in ends.node.told("undeliverable") if isinstance(event.error, ChainSpent)]
    assert event.agent_id == ends.agent_id
    assert event.error is not None
    assert event.error.definite
    assert " -> ".join(["ping", "pong"] * 4)[: (hops + 1) * 8 - 4] + ": " in event.detail
    assert "chain_sends" in event.detail
    source.send("ping", b"x")  # it is the first of another chain
    world.run(500)
    assert sum(agent.node.stats["sends_spent"] for agent in agents) == 2


def test_they_are_not_unless_that_is_asked_for() -> None:
    world = World()
    agents, source = ping_pong(world, None, chain_hops_max=4)
    source.send("ping", b"x")
    source.node.turn()
    world.until(lambda: len(agents[1].received) > 100)
    assert all(message.envelope is None for agent in agents for message in agent.received)


def test_outside_of_a_handler_a_send_carries_nothing_where_sends_count() -> None:
    world = World()
    a, b = line(world, "a", "b", chain_sends=True)
    source, sink = a.agent("source"), b.agent("sink")
    for delivery in Delivery:
        source.send("sink", b"x", delivery=delivery)
    source.send_nowait("sink", b"x")
    a.turn()
    world.until(lambda: sink.pending_messages == 4)
    assert [message.envelope for message in sink.take_all()] == [None] * 4


def test_who_sent_does_not_wait_for_what_comes_of_it() -> None:
    """So what that asks of it is no cycle, and has a path of its own; its hops are what was left."""
    world = World()
    a, b = line(world, "a", "b", chain_sends=True, chain_hops_max=9)
    answers: list[Token] = []

    def first(message: AgentMessage) -> bytes:
        if message.payload == b"x":
            one.send_nowait("two", b"on")
        return b"answer"

    one = a.agent("one", first)
    two = b.agent("two", lambda _: void(answers.append(two.request("one", b"back"))))
    a.agent("source").send("one", b"x")
    a.turn()
    world.until(lambda: answers and answers[0].done)
    assert answers[0].answer == b"answer"
    hops, _, path = envelope_of(two.received[0])
    assert (hops, path) == (8, [one.agent_id])
    hops, _, path = envelope_of(one.received[1])
    assert (hops, path) == (7, [two.agent_id])
