"""Back-pressure: who waits, for how long, in how much memory, and whom it does not touch.

The bounds are looked at from outside: messages in a mailbox, sends that wait, bytes on a link.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from harness import CREDIT, GO, MESSAGE, MS, OPTIONAL_FIELDS, STOP, UUID, Agent, Node, Token, Weather, World
from strangers import Stranger

from agentnet_core.config import EngineConfig
from agentnet_core.errors import AgentStopped, Congested, ProtocolError, RequestTimeout
from agentnet_core.message import AgentMessage
from agentnet_core.records import Event

SMALL = {
    "fragment_bytes": 4096,
    "bulk_window_bytes": 16_384,
    "link_window_bytes": 32_768,
    "node_silence_ms_max": 60_000,
}


def pair(world: World, **config: Any) -> tuple[Node, Node]:
    a, b = world.join("a", "b", config=EngineConfig(**config))
    return a, b


def waiting(tokens: list[Any]) -> list[Token]:
    """Those of the sends that did not go at once."""
    return [token for token in tokens if isinstance(token, Token) and not token.done]


def echo(message: AgentMessage) -> bytes:
    return message.payload


# -- a stopped agent


@pytest.mark.parametrize("local", [False, True])
def test_a_full_mailbox_stops_its_senders_and_they_go_on_in_order(local: bool) -> None:
    world = World()
    a, b = pair(world, mailbox_messages_max=100)
    sink = (a if local else b).agent("sink")
    source = a.agent("source")
    tokens = []
    for i in range(500):
        tokens.append(source.send("sink", b"%d" % i))
        world.run(0.3)
    assert 75 <= sink.pending_messages <= 85
    assert len(waiting(tokens)) == 500 - sink.pending_messages
    sink.serve(None.__class__)
    world.until(lambda: len(sink.received) == 500)
    assert sink.payloads == [b"%d" % i for i in range(500)]
    assert not waiting(tokens)


@pytest.mark.parametrize("payload", [b"", bytes(100), bytes(4000)])
def test_what_a_flood_leaves_in_a_mailbox_is_bounded(payload: bytes) -> None:
    world = World()
    a, b = pair(world, mailbox_messages_max=50, mailbox_bytes_max=100_000, sends_waiting_max=10_000, **SMALL)
    sink = b.agent("sink")
    source = a.agent("source")
    for _ in range(5000):
        source.send("sink", payload)
    world.run(2000)
    # At three quarters STOP is said; by then at most one window is on its way.
    on_its_way = SMALL["link_window_bytes"] // (68 + len(payload))
    assert sink.pending_messages <= 38 + on_its_way
    assert len(a.link("b").session.blocked) == 0
    sink.serve(lambda message: None)
    world.until(lambda: len(sink.received) == 5000)


@pytest.mark.parametrize("local", [False, True])
def test_large_messages_do_not_pile_up_either(local: bool) -> None:
    world = World()
    a, b = pair(world)
    sink = (a if local else b).agent("sink")
    source = a.agent("source")
    tokens = [source.send("sink", bytes(1_000_000)) for _ in range(40)]
    world.run(5000)
    assert 3 <= sink.pending_messages <= 5  # of 4 MiB
    assert len(waiting(tokens)) == 40 - sink.pending_messages
    sink.serve(lambda message: None)
    world.until(lambda: len(sink.received) == 40)
    assert not waiting(tokens)


@pytest.mark.parametrize("local", [False, True])
def test_sends_that_wait_at_the_limit_and_one_past(local: bool) -> None:
    world = World()
    a, b = pair(world, mailbox_messages_max=1, sends_waiting_max=5)
    sink = (a if local else b).agent("sink")
    source, other = a.agent("source"), a.agent("other")
    source.send("sink", b"fills it")
    world.run(50)
    tokens = [source.send("sink", b"%d" % i) for i in range(4)]
    tokens.append(other.send("sink", bytes(200_000)))
    assert len(waiting(tokens)) == 5
    with pytest.raises(Congested, match=r"5 sends of 200004 bytes to agent sink wait already"):
        source.send("sink", b"one more")
    token = source.request("sink", b"one more")
    a.turn()
    assert isinstance(token.error, Congested)
    assert a.stats["requests_pending"] == 0
    sink.serve(lambda message: None)
    world.until(lambda: len(sink.received) == 6)
    source.send("sink", b"there is room again")


@pytest.mark.parametrize("local", [False, True])
def test_a_send_that_waits_too_long_is_congested_and_was_not_sent(local: bool) -> None:
    world = World()
    a, b = pair(world, mailbox_messages_max=1, send_wait_ms_max=2000)
    sink = (a if local else b).agent("sink")
    source = a.agent("source")
    source.send("sink", b"fills it")
    world.run(50)
    began = world.now_ns
    tokens = [source.send("sink", b"x"), source.send("sink", bytes(200_000)), source.request("sink", b"y")]
    world.until(lambda: all(token.done for token in tokens))
    assert 1990 * MS <= world.now_ns - began <= 2300 * MS
    for token in tokens:
        assert isinstance(token.error, Congested)
        assert token.error.definite
    sink.serve(lambda message: None)
    world.run(1000)
    assert sink.payloads == [b"fills it"]
    source.send_nowait("sink", b"works again")
    world.until(lambda: sink.payloads[1:] == [b"works again"])


def test_a_request_that_cannot_be_sent_in_time_was_not_sent_and_one_that_can_is_unknown() -> None:
    world = World()
    a, b = pair(world, mailbox_messages_max=1)
    b.agent("sink")
    source = a.agent("source")
    b.agent("other")
    source.send("sink", b"fills it")
    sent = source.request("other", b"is there", timeout=0.5)
    world.run(50)
    held = source.request("sink", b"waits", timeout=0.5)
    world.until(lambda: sent.done and held.done)
    assert isinstance(sent.error, RequestTimeout)
    assert isinstance(held.error, Congested)


@pytest.mark.parametrize("local", [False, True])
def test_a_cancelled_send_is_not_sent_and_gives_its_place_back(local: bool) -> None:
    world = World()
    a, b = pair(world, mailbox_messages_max=1, sends_waiting_max=3)
    sink = (a if local else b).agent("sink")
    source = a.agent("source")
    source.send("sink", b"fills it")
    world.run(50)
    tokens = [source.send("sink", b"0"), source.send("sink", b"1"), source.send("sink", bytes(100_000))]
    for token in (tokens[0], tokens[2]):
        token.cancel()
    world.run(300)
    source.send("sink", b"2")
    source.send("sink", b"3")
    sink.serve(lambda message: None)
    world.run(300)
    assert sink.payloads == [b"fills it", b"1", b"2", b"3"]
    assert tokens[1].error is None


@pytest.mark.parametrize("how", ["cancelled", "timed out", "expired", "congested"])
@pytest.mark.parametrize("size", [1000, 200_000])
@pytest.mark.parametrize("local", [False, True])
def test_a_send_that_is_over_holds_no_memory_while_its_agent_stays_stopped(
    how: str, size: int, local: bool
) -> None:
    world = World()
    a, b = pair(world, mailbox_messages_max=1, send_wait_ms_max=400 if how == "congested" else 30_000)
    (a if local else b).agent("sink")
    source = a.agent("source")
    source.send("sink", b"fills it")
    world.run(50)
    payload = bytes(size)
    before = sys.getrefcount(payload)
    for _ in range(10):
        tokens = []
        for _ in range(20):
            if how == "timed out":
                tokens.append(source.request("sink", payload, timeout=0.3))
            else:
                tokens.append(source.send("sink", payload, ttl=0.3 if how == "expired" else 0))
        assert sys.getrefcount(payload) >= before + 20
        if how == "cancelled":
            for token in tokens:
                token.cancel()
        del tokens
        world.run(1_050)
        assert sys.getrefcount(payload) == before


def test_sends_that_wait_fail_definitely_when_the_agent_goes() -> None:
    world = World()
    a, b = pair(world, mailbox_messages_max=1)
    sink = b.agent("sink")
    source = a.agent("source")
    source.send("sink", b"fills it")
    world.run(50)
    tokens = [
        source.send("sink", b"x"),
        source.send("sink", bytes(200_000)),
        source.request("sink", bytes(70_000)),
    ]
    b.unregister(sink)
    world.until(lambda: all(token.done for token in tokens), ms=100)
    for token in tokens:
        assert isinstance(token.error, AgentStopped)
        assert token.error.definite


# -- whom it does not touch


@pytest.mark.parametrize("size", [0, 200, 20_000])
def test_stopped_agents_do_not_delay_another_agent_of_the_same_link(size: int) -> None:
    world = World()
    a, b = pair(world, mailbox_messages_max=20, sends_waiting_max=10_000, **SMALL)
    stuck = [b.agent(f"stuck-{i}") for i in range(8)]
    b.agent("neighbour", echo)
    source = a.agent("source")
    for agent in stuck:
        for _ in range(600):
            source.send(agent.record.name, bytes(size))
        world.run(100)
    for i in range(50):
        asked = world.now_ns
        token = source.request("neighbour", b"%d" % i)
        world.until(lambda token=token: token.done, ms=50)
        assert token.answer == b"%d" % i
        assert world.now_ns - asked < 5 * MS
    token = source.request("neighbour", bytes(200_000))
    world.until(lambda: token.done, ms=1000)
    assert b.link("a").session.withheld == 0
    assert all(agent.pending_messages >= 15 for agent in stuck)


def test_answers_pass_a_stopped_agent() -> None:
    """An answer goes to whoever asked, not into the mailbox, however full that is."""
    world = World()
    a, b = pair(world, mailbox_messages_max=4)
    asker = a.agent("asker")
    b.agent("echo", echo)
    source = b.agent("source")
    for _ in range(20):
        source.send("asker", b"flood")
    world.run(50)
    token = asker.request("echo", b"x")
    world.until(lambda: token.done, ms=10)
    assert token.answer == b"x"


@pytest.mark.parametrize("size", [10, 100_000])
@pytest.mark.parametrize("local", [False, True])
def test_two_that_flood_each_other_end_in_an_error_and_not_in_a_standstill(local: bool, size: int) -> None:
    """Each handles one message, sends ten more, and waits until they are gone before it takes the next."""
    world = World()
    a, b = pair(world, mailbox_messages_max=50, send_wait_ms_max=1000)
    agents = [a.agent("one"), (a if local else b).agent("two")]
    tokens: list[list[Any]] = [[], []]

    def step(i: int) -> None:
        mine, other = agents[i], agents[1 - i]
        if not waiting(tokens[i]):
            message = mine.take()
            tokens[i] += [mine.send(other.record.name, bytes(size)) for _ in range(10)] if message else []
        world.at(world.now_ns + MS // 10, lambda: step(i))

    for i in (0, 1):
        agents[i].send(agents[1 - i].record.name, b"begin")
        world.at(world.now_ns, lambda i=i: step(i))

    def errors() -> list[BaseException]:
        return [t.error for lane in tokens for t in lane if isinstance(t, Token) and t.error is not None]

    world.until(errors, ms=30_000)
    assert all(isinstance(error, Congested) for error in errors())
    assert a.link("b").session.welcomed


# -- send_nowait


def test_nowait_raises_where_send_would_wait_and_only_there() -> None:
    world = World()
    a, b = pair(world, mailbox_messages_max=4)
    b.agent("stuck")
    free = b.agent("free", echo)
    source, other = a.agent("source"), a.agent("other")
    for _ in range(3):
        source.send_nowait("stuck", b"x")
    world.run(50)
    with pytest.raises(
        Congested, match="agent stuck or the link to it has no room now; nothing was sent"
    ) as caught:
        source.send_nowait("stuck", b"x")
    assert caught.value.definite
    source.send_nowait("free", b"1")
    source.send("free", bytes(10_000_000))
    world.run(1)
    # A large message is on its way, which is no reason for others to wait.
    other.send_nowait("free", b"2")
    source.send_nowait("free", b"3", priority=3)
    with pytest.raises(Congested):
        source.send_nowait("free", b"4")  # must stay behind the large one
    world.until(lambda: len(free.received) == 4)
    assert sorted(m.payload for m in free.received[:3]) == [b"1", b"2", b"3"]
    source.send_nowait("free", b"5")


def test_nowait_when_the_window_is_full() -> None:
    world = World(weather=Weather(delay_ns=(10 * MS, 10 * MS)))
    a, b = pair(world, **SMALL)
    sink = b.agent("sink", lambda message: None)
    source = a.agent("source")
    sent = 0
    with pytest.raises(Congested):
        while True:
            source.send_nowait("sink", bytes(4000))
            sent += 1
    assert sent == 32_768 // 4068
    token = source.send("sink", bytes(4000))
    world.until(lambda: token.done)
    world.until(lambda: len(sink.received) == sent + 1)
    source.send_nowait("sink", bytes(4000))


# -- large messages


def test_small_messages_overtake_a_large_one_of_another_pair() -> None:
    world = World()
    a, b = pair(world)
    sink, other = b.agent("sink", lambda m: None), b.agent("other", echo)
    source, second = a.agent("source"), a.agent("second")
    source.send("sink", bytes(10_000_000))
    source.send("sink", b"behind it")
    source.send("sink", b"of another priority", priority=3)
    second.send("sink", b"of another sender")
    tokens = [source.request("other", b"%d" % i) for i in range(20)]
    world.until(lambda: all(token.done for token in tokens))
    assert [len(m.payload) for m in sink.received] == [19, 17]
    world.until(lambda: len(sink.received) == 4)
    assert [m.payload[:9] for m in sink.received[2:]] == [bytes(9), b"behind it"]
    assert other.payloads == [b"%d" % i for i in range(20)]


def test_more_large_messages_at_once_than_the_peer_takes_in_parts() -> None:
    most: list[tuple[int, int]] = []
    for seed in range(4):
        world = World(seed)
        a, b = pair(world, fragments_open_max=3, reassembly_bytes_max=5_000_000, message_bytes_max=4_000_000)
        sinks = [b.agent(f"sink-{i}", lambda m: None) for i in range(12)]
        sources = [a.agent(f"source-{i}") for i in range(12)]
        session = b.link("a").session
        for source, sink in zip(sources, sinks, strict=True):
            source.send(sink.record.name, bytes(2_000_000))
            source.send(sink.record.name, bytes(500_000), priority=2)
        while sum(len(sink.received) for sink in sinks) < 24:
            world.step()
            most.append(session.assembling)
        assert a.stats["links_lost"] == 0
    assert max(count for count, _ in most) == 3
    assert max(size for _, size in most) <= 5_000_000


# -- what a peer could do


def message(
    seq: int, to: Agent, payload: bytes, part: tuple[int, int] | None = None
) -> tuple[int, bytes, int]:
    array = [1, to.agent_id, seq, 0, 1, 1, 0, 0, payload]
    body = msgpack.packb(array)
    return (
        (MESSAGE, body, 0) if part is None else (MESSAGE, body + msgpack.packb({12: part}), OPTIONAL_FIELDS)
    )


def stranger_at(world: World, **config: Any) -> tuple[Node, Stranger, Agent]:
    node = world.node("m", config=EngineConfig(**config))
    node.control.found(UUID)
    stranger = Stranger(world, node, name="a")
    stranger.introduce()
    return node, stranger, node.make("sink")


BAD_PARTS: list[tuple[str, list[tuple[int, int, int, int]], str]] = [
    ("from the middle", [(1, 10, 1, 3)], "expected fragment 0"),
    ("a gap", [(1, 10, 0, 3), (1, 10, 2, 3)], "fragment 2 of 3 of message 1: expected 1"),
    ("twice the same", [(1, 10, 0, 3), (1, 10, 1, 3), (1, 10, 1, 3)], "expected 2"),
    ("twice the first", [(1, 10, 0, 3), (1, 10, 0, 3)], "it is open already"),
    ("another count", [(1, 10, 0, 3), (1, 10, 1, 4)], "fragment 1 of 4 of message 1: expected 1"),
    ("too many open", [(seq, 10, 0, 2) for seq in range(4)], "or 3 others are"),
    ("too large", [(1, 50_000, i, 9) for i in range(3)], "150000 bytes in fragments"),
    (
        "too much in all",
        [(seq, 50_000, i, 9) for i in range(2) for seq in range(3)],
        "at most 100000 and 250000",
    ),
]


@pytest.mark.parametrize(
    ("parts", "reason"), [row[1:] for row in BAD_PARTS], ids=[row[0] for row in BAD_PARTS]
)
def test_parts_that_do_not_fit_close_the_link(parts: list[tuple[int, int, int, int]], reason: str) -> None:
    world = World()
    node, stranger, sink = stranger_at(
        world, fragments_open_max=3, reassembly_bytes_max=250_000, message_bytes_max=100_000
    )
    node.register(sink)
    for seq, size, index, count in parts:
        stranger.say(*message(seq, sink, bytes(size), (index, count)))
    world.until(lambda: stranger.ended)
    assert stranger.close is not None
    assert isinstance(stranger.close.error(), ProtocolError)
    assert reason in stranger.close.text
    assert sink.pending_messages == 0


def test_parts_at_the_limits_pass() -> None:
    world = World()
    node, stranger, sink = stranger_at(
        world, fragments_open_max=3, reassembly_bytes_max=250_000, message_bytes_max=100_000
    )
    node.register(sink)
    for i in range(4):
        for seq in (1, 2):
            stranger.say(*message(seq, sink, bytes(25_000), (i, 4)))
    stranger.say(*message(3, sink, b"", (0, 1)))
    world.until(lambda: sink.pending_messages == 3)
    assert stranger.session.assembling == (0, 0)


def test_a_message_of_endless_empty_parts_is_bounded_too() -> None:
    world = World()
    node, stranger, sink = stranger_at(world, reassembly_bytes_max=1_000_000, message_bytes_max=900_000)
    node.register(sink)
    for i in range(100_000):
        stranger.say(*message(1, sink, b"", (i, 2**32 - 1)))
        if i % 100 == 0:
            world.run(1)
        if stranger.session.closed:
            break
    assert stranger.session.closed, "each part costs memory, though it is empty"


def test_a_peer_that_sends_beyond_its_credit_is_cut_off() -> None:
    world = World()
    node, stranger, sink = stranger_at(world, mailbox_messages_max=10, **SMALL)
    node.register(sink)
    for seq in range(1000):
        stranger.say(*message(seq, sink, bytes(1000)))
        if seq % 10 == 0:
            world.run(5)
        if stranger.ended:
            break
    assert stranger.close is not None
    assert "the credit that was given (link_window_bytes)" in stranger.close.text
    assert sink.pending_messages < 120


def test_a_peer_that_does_not_heed_stop_gets_no_more_credit() -> None:
    world = World()
    node, stranger, sink = stranger_at(world, mailbox_messages_max=10, **SMALL)
    node.register(sink)
    seq = 0
    for _ in range(200):
        granted = max((msgpack.unpackb(body)[0] for body in stranger.bodies(CREDIT)), default=0)
        while (seq + 1) * 1100 <= granted + 32_768:
            stranger.say(*message(seq, sink, bytes(1000)))
            seq += 1
        world.run(50)
    assert [*stranger.bodies(STOP)] == [b"\xcf" + sink.agent_id.to_bytes(8, "big")]
    assert sink.pending_messages <= 10 + 2 * 32_768 // 1000 + 1
    assert len(sink.take_all()) == seq
    world.run(300)
    assert [*stranger.bodies(GO)] == [b"\xcf" + sink.agent_id.to_bytes(8, "big")]
    assert stranger.session.withheld == 0


def test_a_peer_that_does_not_heed_stop_with_large_messages() -> None:
    """The last fragment may be tiny: what counts is the whole."""
    world = World()
    config = {**SMALL, "message_bytes_max": 40_000, "reassembly_bytes_max": 100_000}
    node, stranger, sink = stranger_at(world, mailbox_messages_max=10, **config)
    node.register(sink)
    sent = seq = 0
    for _ in range(300):
        granted = max((msgpack.unpackb(body)[0] for body in stranger.bodies(CREDIT)), default=0)
        if sent + 8500 <= granted + 32_768:
            for part, size in enumerate((4000, 4000, 0)):
                data = stranger.sealed(*message(seq, sink, bytes(size), (part, 3)))
                sent += len(data)
                stranger.say_bytes(data)
            seq += 1
        world.run(20)
    # What had begun when STOP was said may come, and then a window.
    assert sink.pending_messages <= 10 + (100_000 + 32_768) // 8000 + 2
    assert stranger.ended is None


def test_broadcasts_that_wait_for_one_node_are_bounded() -> None:
    world = World()
    a, b = pair(world, sends_waiting_max=10, **SMALL)
    a.link("b").mute()
    tokens: list[Token] = []
    for _ in range(200):
        tokens += a.engine.broadcast(AgentMessage(bytes(4000)), 0)[0]
    a.turn()
    failed = [token for token in tokens if token.done]
    assert len(tokens) - len(failed) <= 10
    assert all(isinstance(token.error, Congested) for token in failed)
    del b


def test_broadcasts_to_a_full_mailbox_are_dropped_and_told() -> None:
    world = World()
    a, b = pair(world, mailbox_messages_max=10)
    full = b.agent("full")
    free = b.agent("free", lambda m: None)
    for i in range(50):
        a.engine.broadcast(AgentMessage(b"%d" % i), 0)
        world.run(1)
    assert (full.pending_messages, len(free.received)) == (10, 50)
    assert b.stats["broadcasts_dropped"] == 40
    dropped = b.told(Event.UNDELIVERABLE)
    assert sum(event.count for event in dropped) == 40
    assert {event.agent_id for event in dropped} == {full.agent_id}


# -- windows


@pytest.mark.parametrize(("mine", "theirs"), [(70_000, 2_000_000), (2_000_000, 70_000), (100_000, 100_000)])
@pytest.mark.parametrize("size", [100, 30_000, 200_000])
def test_windows_may_differ_and_nobody_waits_for_the_clock(mine: int, theirs: int, size: int) -> None:
    world = World(weather=Weather(delay_ns=(20_000, 50_000)))
    nodes = []
    for name, window in (("a", mine), ("b", theirs)):
        bulk = min(window, 256 * 1024)
        nodes.append(world.node(name, config=EngineConfig(link_window_bytes=window, bulk_window_bytes=bulk)))
    nodes[0].control.found(UUID)
    token = nodes[1].join("a")
    world.until(lambda: token.done)
    sinks = [node.agent(f"sink-{node.name}", lambda m: None) for node in nodes]
    sources = [node.agent(f"source-{node.name}") for node in nodes]
    count = 3_000_000 // max(size, 3000)
    began = world.now_ns
    for source, sink in zip(sources, reversed(sinks), strict=True):
        for _ in range(count):
            source.send(sink.record.name, bytes(size))
    world.until(lambda: all(len(sink.received) == count for sink in sinks))
    # Two or more round trips for each window; a tick is 250 ms.
    assert world.now_ns - began < 100 * MS


def all_quiet(nodes: list[Node]) -> Callable[[], bool]:
    def quiet() -> bool:
        return all(
            (s.outstanding, s.unconfirmed, s.withheld, s.waiting_bytes, len(s.blocked), len(s.bulk))
            == (0,) * 6
            and s.assembling == (0, 0)
            for node in nodes
            for s in node.engine.sessions.values()
        )

    return quiet


def test_an_idle_link_owes_nothing() -> None:
    world = World()
    a, b = pair(world)
    sink = b.agent("sink")
    source = a.agent("source")
    source.send("sink", b"one")
    assert a.link("b").session.outstanding == 68 + 3
    world.until(all_quiet([a, b]), ms=600)
    assert sink.pending_messages == 1
