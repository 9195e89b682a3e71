"""What agents say to each other: sends, requests and every way that they end, broadcasts, registration."""

from __future__ import annotations

import math
from typing import Any

import pytest
from harness import MS, UUID, Node, Token, Weather, World

from agentnet_core.config import EngineConfig
from agentnet_core.errors import (
    AgentExists,
    AgentStopped,
    AgentUnreachable,
    ConfigError,
    Expired,
    HandlerFailed,
    LimitReached,
    LinkLost,
    MessageTooLarge,
    NetworkError,
    NoSuchAgent,
    RequestTimeout,
    Unconfirmed,
)
from agentnet_core.message import AgentMessage
from agentnet_core.records import Event, MessagePriority, MessageType, agent_id_of


def pair(world: World, **config: Any) -> tuple[Node, Node]:
    a, b = world.join("a", "b", config=EngineConfig(**config))
    return a, b


def ended(world: World, token: Token, ms: float = 60_000) -> Token:
    world.until(lambda: token.done, ms)
    return token


def echo(message: AgentMessage) -> bytes:
    return b"re:" + message.payload


# -- one way


def test_a_message_arrives_with_all_that_was_said() -> None:
    world = World()
    a, b = pair(world)
    sink = b.agent("sink")
    source = a.agent("source")
    source.send("sink", b"plain")
    source.send("sink", b"full", message_type=2, priority=3, ttl=7, message_id="my id \U0001f600")
    source.send(sink.agent_id, {"a": [1, None]})
    world.until(lambda: sink.pending_messages == 3)
    sent_ns = world.now_ns
    full, plain, value = sink.take_all()
    assert (plain.payload, plain.from_agent, plain.to_agent) == (b"plain", source.agent_id, sink.agent_id)
    assert (plain.message_type, plain.priority, plain.ttl) == (MessageType.COMMAND, MessagePriority.NORMAL, 0)
    assert (plain.from_node, plain.message_id) == ("a", f"a:1:{plain.sequence}")
    assert 0 <= sent_ns - (plain.timestamp - a.engine.wall_offset_ns) < 10 * MS
    assert (full.payload, full.message_type, full.priority) == (b"full", MessageType.QUERY, 3)
    assert (full.message_id, full.ttl) == ("my id \U0001f600", 7)
    assert (value.is_value, value.value) == (True, {"a": [1, None]})
    assert plain.sequence < full.sequence < value.sequence


def test_on_the_same_node_it_never_touches_the_wire() -> None:
    world = World()
    a, _ = pair(world)
    sink = a.agent("sink")
    source = a.agent("source")
    before = a.link("b").session.outstanding, a.stats["messages_sent"]
    source.send("sink", b"here")
    source.send("source", b"to myself")
    assert sink.take_all()[0].payload == b"here"
    assert source.take_all()[0].from_agent == source.agent_id
    assert (a.link("b").session.outstanding, a.stats["messages_sent"]) == before
    assert a.stats["messages_local"] == 2


@pytest.mark.parametrize("call", ["send", "send_nowait", "request"])
@pytest.mark.parametrize("to", ["nobody", 77, 2**64 - 1, "\ud800", ""])
def test_nobody_is_there_and_that_is_known_at_once(call: str, to: int | str) -> None:
    world = World()
    a, _ = pair(world)
    source = a.agent("source")
    error = failure_of(a, lambda: getattr(source, call)(to, b"x"))
    assert isinstance(error, NoSuchAgent)
    assert error.definite


def failure_of(node: Node, call: Any) -> BaseException:
    """The error of a call, raised at once or settled in the same turn."""
    try:
        token = call()
    except NetworkError as error:
        return error
    node.turn()
    assert token.error is not None
    error_: BaseException = token.error
    return error_


@pytest.mark.parametrize("call", ["send", "request"])
@pytest.mark.parametrize("to", [None, 1.5, b"name", True, ["a"], -1, 2**64])
def test_what_cannot_name_an_agent(call: str, to: Any) -> None:
    world = World()
    a, b = pair(world)
    b.agent(1)
    source = a.agent("source")
    source.send(1, b"so that 1 has a route")
    with pytest.raises((ConfigError, NoSuchAgent)):
        raise failure_of(a, lambda: getattr(source, call)(to, b"x"))


@pytest.mark.parametrize(
    "options",
    [
        *({"priority": number} for number in (4, -1)),
        *({"message_type": number} for number in (6, 200, -1)),
        *({"ttl": -1}, {"ttl": math.nan}, {"message_id": 5}),
    ],
)
def test_a_bad_option_is_an_error_here_and_not_a_lost_link_there(options: dict[str, Any]) -> None:
    world = World()
    a, b = pair(world)
    sink = b.agent("sink")
    source = a.agent("source")
    for call in (source.send, source.send_nowait):
        with pytest.raises(ConfigError):
            call("sink", b"x", **options)
    source.send("sink", b"fine")
    world.until(lambda: sink.pending_messages)
    assert a.stats["links_lost"] == b.stats["links_lost"] == 0


def test_order_holds_per_pair_and_priority_however_the_bytes_arrive() -> None:
    for seed in range(5):
        world = World(seed, Weather(piece_bytes=60 + seed * 200))
        a, b = pair(world)
        sinks = [b.agent(f"sink-{i}") for i in range(3)]
        sources = [a.agent(f"source-{i}") for i in range(3)]
        sent: dict[tuple[int, int, int], list[bytes]] = {}
        for i in range(300):
            source, sink = world.rng.choice(sources), world.rng.choice(sinks)
            priority, size = world.rng.randrange(4), world.rng.choice([0, 10, 1000, 70_000])
            payload = b"%d:" % i + bytes(size)
            source.send(sink.record.name, payload, priority=priority)
            sent.setdefault((source.agent_id, sink.agent_id, priority), []).append(payload)
            if i % 10 == 0:
                world.run(0.1)
        world.until(lambda sinks=sinks: sum(sink.pending_messages for sink in sinks) == 300)
        got: dict[tuple[int, int, int], list[bytes]] = {}
        for sink in sinks:
            for m in sink.take_all():
                got.setdefault((m.from_agent, m.to_agent, int(m.priority)), []).append(m.payload)
        assert got == sent


def test_a_message_may_be_any_size_to_the_limit_and_not_one_past_it() -> None:
    world = World()
    a, b = pair(world, message_bytes_max=1_000_000)
    sink, here = b.agent("sink"), a.agent("here")
    source = a.agent("source")
    for size in (0, 65_535, 65_536, 65_537, 131_072, 131_073, 1_000_000):
        for to in ("sink", "here"):
            source.send(to, bytes(size))
        world.until(lambda: sink.pending_messages and here.pending_messages)
        assert [len(m.payload) for m in (*sink.take_all(), *here.take_all())] == [size, size]
    for to in ("sink", "here"):
        for call in (source.send, source.send_nowait, source.request):
            error = failure_of(a, lambda call=call, to=to: call(to, bytes(1_000_001)))
            assert isinstance(error, MessageTooLarge)
            assert "expected at most 1000000 (message_bytes_max)" in str(error)
    with pytest.raises(MessageTooLarge):
        a.engine.broadcast(AgentMessage(bytes(1_000_001)), 0)


def test_a_limit_below_a_fragment_is_a_limit_too() -> None:
    world = World()
    a, b = pair(world, message_bytes_max=1000)
    b.agent("sink")
    source = a.agent("source")
    for call in (source.send, source.send_nowait, source.request):
        call("sink", bytes(1000))
        assert isinstance(failure_of(a, lambda call=call: call("sink", bytes(1001))), MessageTooLarge)


def test_the_limits_of_the_other_side_hold() -> None:
    world = World()
    a = world.node("a")
    a.control.found(UUID)
    small = EngineConfig(message_bytes_max=200_000, frame_bytes_max=80_000, link_window_bytes=80_000,
                         bulk_window_bytes=70_000)  # fmt: skip
    b = world.node("b", config=small)
    ended(world, b.join("a"))
    sinks = [a.agent("sink-a"), b.agent("sink-b")]
    sources = [b.agent("source-b"), a.agent("source-a")]
    for source, sink in zip(sources, sinks, strict=True):
        for size in (0, 65_000, 65_536, 70_000, 200_000):
            source.send(sink.record.name, bytes(size), message_id="x" * 1024)
        world.until(lambda sink=sink: sink.pending_messages == 5)
    error = failure_of(a, lambda: sources[1].send("sink-b", bytes(200_001)))
    assert isinstance(error, MessageTooLarge)
    assert a.stats["links_lost"] == 0


def test_the_largest_headers_fit_beside_the_largest_plain_payload() -> None:
    world = World()
    config = {"fragment_bytes": 61_440, "frame_bytes_max": 65_536, "bulk_window_bytes": 65_536}
    a, b = pair(world, **config)
    sink = b.agent("sink")
    message = AgentMessage(bytes(61_440), to_agent="sink", message_id="x" * 1024)
    message.with_fields({64: b"t" * 1018})
    a.engine.send_message(message, 5)
    a.engine.send_message(AgentMessage(bytes(200_000), to_agent="sink", message_id="x" * 1024), 5)
    world.until(lambda: sink.pending_messages == 2)
    first, second = sink.take_all()
    assert (first.fields, len(first.message_id)) == ({64: b"t" * 1018}, 1024)
    assert (len(second.payload), len(second.message_id)) == (200_000, 1024)
    assert a.stats["links_lost"] == 0


def test_a_request_that_is_sent_on_is_a_new_message() -> None:
    """The number that it came with is the other node's, and may be that of a request here."""
    world = World()
    a, b = pair(world)
    middle = b.agent("middle")
    b.agent("silent")
    own = middle.request("silent", b"own question")
    theirs = a.agent("asker").request("middle", b"their question")
    world.until(lambda: middle.pending_messages)
    (question,) = middle.take_all()
    b.engine.send_message(question, middle.agent_id)
    middle.serve(lambda message: b"wrong")
    world.until(lambda: middle.received)
    world.run(50)
    assert (middle.received[0].payload, middle.received[0].from_node) == (b"their question", "b")
    assert not own.done
    assert not theirs.done


# -- ttl


def test_expired_work_is_not_executed_and_the_sender_learns_of_it() -> None:
    world = World()
    a, b = pair(world)
    sink = b.agent("sink")
    source = a.agent("source")
    source.send("sink", b"short", ttl=0.05)
    source.send("sink", b"long", ttl=50)
    source.send("sink", b"for ever")
    world.until(lambda: sink.pending_messages == 3)
    world.run(100)
    assert [m.payload for m in sink.take_all()] == [b"long", b"for ever"]
    assert b.stats["messages_expired"] == 1
    world.until(lambda: a.told(Event.UNDELIVERABLE))
    (event,) = a.told(Event.UNDELIVERABLE)
    assert isinstance(event.error, Expired)
    assert event.error.definite
    assert (event.agent_id, event.node_id) == (sink.agent_id, "b")
    assert a.stats["messages_undeliverable"] == 1


def test_time_spent_waiting_at_the_sender_and_in_fragments_counts() -> None:
    world = World(weather=Weather(delay_ns=(5 * MS, 6 * MS), piece_bytes=20_000))
    a, b = pair(world, mailbox_messages_max=1, bulk_window_bytes=65_536)
    sink = b.agent("sink")
    source = a.agent("source")
    source.send("sink", b"fills it")
    world.run(50)
    source.send("sink", b"waits", ttl=1)
    world.run(600)
    assert [m.payload for m in sink.take_all()] == [b"fills it"]
    world.run(100)
    (waited,) = sink.take_all()
    assert 0.25 < waited.ttl < 0.45
    sent = world.now_ns
    source.send("sink", bytes(4_000_000), ttl=1.2)
    world.until(lambda: sink.pending_messages)
    assert world.now_ns - sent > 200 * MS
    world.run(1_300 - (world.now_ns - sent) / MS)
    assert sink.take_all() == []
    assert b.stats["messages_expired"] == 1


def test_a_send_that_expires_while_it_waits_is_told_soon() -> None:
    world = World()
    a, b = pair(world, mailbox_messages_max=1)
    b.agent("sink")
    source = a.agent("source")
    source.send("sink", b"fills it")
    world.run(50)
    token = source.send("sink", b"waits", ttl=0.3)
    assert isinstance(token, Token)
    ended(world, token, ms=1000)
    assert isinstance(token.error, Expired)


def test_a_ttl_on_the_same_node() -> None:
    world = World()
    a = world.node("a")
    a.control.found(UUID)
    sink = a.agent("sink")
    a.agent("source").send("sink", b"x", ttl=0.01)
    world.run(20)
    assert sink.take_all() == []
    a.turn()
    assert isinstance(a.told(Event.UNDELIVERABLE)[0].error, Expired)


# -- requests


def test_request_and_answer_across_the_link_and_on_one_node() -> None:
    world = World()
    a, b = pair(world)
    b.agent("far", echo)
    a.agent("near", echo)
    asker = a.agent("asker")
    for to in ("far", "near"):
        tokens = [asker.request(to, b"%d" % i, priority=i % 4) for i in range(100)]
        tokens.append(asker.request(to, bytes(300_000)))
        tokens.append(asker.request(to, [1, "two"], reply=list))
        world.until(lambda tokens=tokens: all(token.done for token in tokens))
        assert [token.answer for token in tokens[:100]] == [b"re:%d" % i for i in range(100)]
        assert tokens[100].answer == b"re:" + bytes(300_000)
        assert tokens[101].hint is list
    assert a.stats["requests_pending"] == 0


def test_an_answer_may_be_a_value_and_have_any_size() -> None:
    world = World()
    a, b = pair(world)
    asker = a.agent("asker")
    answers = {"value": {"k": 1}, "large": bytes(2_000_000), "none": None, "huge": bytes(65 * 1024 * 1024)}
    b.agent("far", lambda m: answers[m.payload.decode()])
    tokens = {name: ended(world, asker.request("far", name.encode())) for name in answers}
    assert isinstance(tokens["value"].outcome, AgentMessage)
    assert tokens["value"].outcome.value == {"k": 1}
    assert tokens["large"].answer == answers["large"]
    assert tokens["none"].answer == b""
    with pytest.raises(MessageTooLarge, match="answer"):
        _ = tokens["huge"].answer
    assert a.link("b").session.welcomed


def test_a_handler_that_fails_answers_with_its_error() -> None:
    world = World()
    a, b = pair(world)
    b.agent("far", lambda m: 1 // 0)
    a.agent("near", lambda m: 1 // 0)
    asker = a.agent("asker")
    for to in ("far", "near"):
        token = ended(world, asker.request(to, b"x"))
        assert isinstance(token.error, HandlerFailed)
        assert not token.error.definite
        assert str(token.error) == f"agent {to}: integer division or modulo by zero"


def test_a_timeout_is_an_unknown_outcome_and_a_late_answer_is_counted() -> None:
    world = World()
    a, b = pair(world)
    slow, asker, began = b.agent("slow"), a.agent("asker"), world.now_ns
    token = asker.request("slow", b"x", timeout=0.2)
    world.until(lambda: slow.pending_messages)
    (message,) = slow.take_all()  # it is begun, and does not heed that it is given up
    ended(world, token)
    assert isinstance(token.error, RequestTimeout)
    assert isinstance(token.error, TimeoutError)
    assert not token.error.definite
    assert world.now_ns - began == pytest.approx(200 * MS, abs=5 * MS)
    b.engine.reply(message, b"late")
    world.until(lambda: a.stats["replies_late"] == 1)
    assert a.stats["requests_pending"] == 0


@pytest.mark.parametrize("timeout", [0, 1e-9])
def test_a_timeout_that_is_over_already(timeout: float) -> None:
    world = World()
    a, b = pair(world)
    b.agent("slow")
    token = ended(world, a.agent("asker").request("slow", b"x", timeout=timeout), ms=300)
    assert isinstance(token.error, RequestTimeout)


@pytest.mark.parametrize("timeout", [math.inf, 1e12, 1e300])
def test_a_timeout_that_never_comes(timeout: float) -> None:
    world = World()
    a, b = pair(world)
    far = b.agent("far")
    token = a.agent("asker").request("far", b"x", timeout=timeout)
    world.run(120_000)
    assert not token.done
    far.serve(echo)
    assert ended(world, token).answer == b"re:x"


@pytest.mark.parametrize("timeout", [math.nan, -1, -math.inf])
def test_a_timeout_that_cannot_be(timeout: float) -> None:
    world = World()
    a, b = pair(world)
    b.agent("far")
    with pytest.raises(ConfigError, match="timeout"):
        raise failure_of(a, lambda: a.agent("asker").request("far", b"x", timeout=timeout))


def test_a_lost_link_leaves_what_was_sent_unknown_and_fails_what_waited_definitely() -> None:
    world = World()
    a, b = pair(world, mailbox_messages_max=4)
    b.agent("stuck")
    asker = a.agent("asker")
    sent = [asker.request("stuck", b"%d" % i) for i in range(4)]
    world.run(50)
    waiting = [asker.request("stuck", b"waits"), asker.send("stuck", b"waits")]
    large = asker.send("stuck", bytes(100_000))
    assert not any(token.done for token in [*sent, *waiting, large])
    a.link("b").cut()
    world.until(lambda: all(token.done for token in [*sent, *waiting, large]), ms=10)
    for token in sent:
        assert isinstance(token.error, LinkLost)
        assert not token.error.definite
    for token in (*waiting, large):
        assert isinstance(token.error, AgentUnreachable)
        assert token.error.definite


def test_a_lost_link_fails_half_a_large_message_as_unknown_and_tells_what_may_be_missing() -> None:
    world = World(weather=Weather(delay_ns=(MS, MS)))
    a, b = pair(world)
    b.agent("sink")
    source = a.agent("source")
    world.run(500)
    token = source.send("sink", bytes(5_000_000))
    source.send("sink", b"in flight", priority=2)
    world.run(0.5)
    a.link("b").cut()
    ended(world, token, ms=10)
    assert isinstance(token.error, LinkLost)
    a.turn()
    (event,) = a.told(Event.UNDELIVERABLE)
    assert event.count == 1
    assert a.stats["messages_unconfirmed"] == 1


def test_an_unregistered_agent_refuses_what_was_in_its_mailbox() -> None:
    world = World()
    a, b = pair(world)
    worker = b.agent("worker")
    asker = a.agent("asker")
    token = asker.request("worker", b"x")
    asker.send("worker", b"y")
    world.until(lambda: worker.pending_messages == 2)
    b.unregister(worker)
    ended(world, token, ms=100)
    assert isinstance(token.error, AgentStopped)
    assert token.error.definite
    world.until(lambda: a.told(Event.UNDELIVERABLE))
    assert isinstance(a.told(Event.UNDELIVERABLE)[0].error, AgentStopped)
    world.until(lambda: a.told(Event.AGENT_GONE))
    assert isinstance(failure_of(a, lambda: asker.request("worker", b"z")), NoSuchAgent)
    assert worker.take_all() == []


def test_what_is_on_its_way_to_an_agent_that_is_gone_is_refused_definitely() -> None:
    world = World()
    a, b = pair(world)
    worker = b.agent("worker")
    asker = a.agent("asker")
    b.unregister(worker)
    token = asker.request("worker", b"x")  # does not know yet
    ended(world, token, ms=100)
    assert isinstance(token.error, NoSuchAgent)
    assert "is not registered on node b" in str(token.error)


def test_an_agent_that_is_registered_again_refuses_the_old_mail() -> None:
    world = World()
    a, b = pair(world)
    b.agent("worker")
    asker = a.agent("asker")
    token = asker.request("worker", b"old")
    world.run(50)
    again = b.agent("worker", echo, capabilities=["new"])
    ended(world, token, ms=100)
    assert isinstance(token.error, AgentStopped)
    assert ended(world, asker.request("worker", b"new")).answer == b"re:new"
    assert again.payloads == [b"new"]


def test_requests_at_the_limit_and_one_past() -> None:
    world = World()
    a, b = pair(world, requests_pending_max=10)
    far = b.agent("far")
    asker = a.agent("asker")
    tokens = [asker.request("far", b"%d" % i) for i in range(10)]
    error = failure_of(a, lambda: asker.request("far", b"one more"))
    assert isinstance(error, LimitReached)
    assert "requests_pending_max" in str(error)
    far.serve(echo)
    world.until(lambda: all(token.done for token in tokens))
    assert ended(world, asker.request("far", b"again")).answer == b"re:again"
    assert a.stats["requests_pending"] == 0


def test_an_answer_for_somebody_elses_request_is_nobodys() -> None:
    """A node may only answer what it was asked: another's numbers are easily guessed."""
    world = World()
    a, b, c = world.join("a", "b", "c")
    b.agent("slow")
    liar = c.agent("liar")
    token = a.agent("asker").request("slow", b"x")
    world.run(20)
    false = AgentMessage(b"false", to_agent="asker", message_type=MessageType.RESPONSE)
    c.engine.send_message(false, liar.agent_id)
    world.run(50)
    assert not token.done


# -- to all


def test_a_broadcast_reaches_every_agent_but_those_that_take_none() -> None:
    world = World()
    nodes = world.join("a", "b", "c")
    takers = [node.agent(f"taker-{node.name}-{i}") for node in nodes for i in range(2)]
    deaf = [node.agent(f"deaf-{node.name}", broadcasts=False) for node in nodes]
    for payload in (b"small", bytes(200_000)):
        message = AgentMessage(payload, message_type=MessageType.BROADCAST, message_id="b1")
        nodes[0].engine.broadcast(message, takers[0].agent_id)
        world.until(lambda: all(taker.pending_messages == 1 for taker in takers))
        for taker in takers:
            (got,) = taker.take_all()
            assert (got.payload, got.to_agent, got.message_id) == (payload, None, "b1")
            assert (got.from_agent, got.from_node) == (takers[0].agent_id, "a")
    assert all(agent.pending_messages == 0 for agent in deaf)


# -- registration


def test_register_returns_when_every_linked_node_knows_the_agent() -> None:
    world = World(weather=Weather(delay_ns=(10 * MS, 50 * MS)))
    nodes = world.join("a", "b", "c")
    agent = nodes[1].make("worker", capabilities=["x"])
    token = nodes[1].register(agent)
    assert not token.done
    ended(world, token)
    for node in nodes:
        assert [record.name for record in node.control.directory.find("x")] == ["worker"]
    assert token.error is None


def test_register_names_who_has_not_confirmed() -> None:
    world = World()
    a, b, c = world.join("a", "b", "c")
    a.link("c").mute()
    worker = a.make("worker")
    token = ended(world, a.register(worker, timeout_ms=300))
    assert isinstance(token.error, Unconfirmed)
    assert "nodes c have not confirmed" in str(token.error)
    b.agent("asker").send("worker", b"x")
    world.until(lambda: worker.pending_messages)
    del c


def test_an_agent_of_another_node_is_refused_at_once() -> None:
    world = World()
    a, b = pair(world)
    b.agent("worker")
    with pytest.raises(AgentExists, match="registered on node 'b' already"):
        a.register(a.make("worker"))
    with pytest.raises(AgentExists, match="choose another name or id"):
        a.register(a.make(agent_id_of("worker")))


@pytest.mark.parametrize("seed", range(5))
def test_two_that_register_one_name_at_the_same_time(seed: int) -> None:
    world = World(seed)
    a, b, c = world.join("a", "b", "c")
    agents = [node.make("worker") for node in (a, b)]
    tokens = [node.register(agent) for node, agent in zip((a, b), agents, strict=True)]
    for token in tokens:
        ended(world, token)
    world.run(100)
    assert tokens[0].error is None
    assert isinstance(tokens[1].error, AgentExists)
    assert len(b.told(Event.AGENT_CONFLICT)) == 1
    assert "belongs to node a" in b.told(Event.AGENT_CONFLICT)[0].detail
    for node in (a, b, c):
        record = node.control.directory.get("worker")
        assert record is not None
        assert record.node_id == "a"
    c.agent("asker").send("worker", b"x")
    b.agent("other").send("worker", b"y")
    world.until(lambda: agents[0].pending_messages == 2)
    assert agents[1].pending_messages == 0
