"""Who gets a link and who does not; two links of one pair; nodes that leave, die, hang and come again.

Each refusal must be told on both sides with its reason, be counted, and touch nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from harness import (
    AGENTS,
    CLOSE,
    CONFIRM,
    HELLO,
    MEMBERS,
    MESSAGE,
    MS,
    PING,
    PONG,
    PULL,
    UUID,
    WELCOME,
    Node,
    Token,
    Weather,
    World,
    address_of,
)
from strangers import Stranger  # fmt: skip

from agentnet_core.config import BODY_BYTES, FRAME_BYTES_MIN, EngineConfig
from agentnet_core.dials import Dial
from agentnet_core.errors import (
    Congested,
    HandshakeRefused,
    JoinFailed,
    LinkLost,
    NetworkError,
    ProtocolError,
)
from agentnet_core.handshake import Hello, Welcome
from agentnet_core.listing import Confirm, write_whole
from agentnet_core.message import AgentMessage
from agentnet_core.records import Event

OTHER_UUID = bytes(16)


def founded(world: World, name: str = "a", **options: Any) -> Node:
    node = world.node(name, **options)
    node.control.found(UUID)
    return node


def settled(world: World, token: Token, ms: float = 60_000) -> Token:
    world.until(lambda: token.done, ms)
    return token


def refusals(node: Node) -> list[str]:
    return [event.detail for event in node.told(Event.LINK_REFUSED)]


def linked(*nodes: Node) -> bool:
    names = [node.name for node in nodes]
    return all(sorted(node.engine.sessions) == sorted(set(names) - {node.name}) for node in nodes)


# -- getting in


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
@pytest.mark.parametrize("secure", [False, True])
def test_two_nodes_meet(names: tuple[str, str], secure: bool) -> None:
    world = World(secure=secure)
    nodes = world.join(*names)
    for node, other in zip(nodes, reversed(nodes), strict=True):
        assert [member.node_id for member in node.control.members()] == ["a", "b"]
        world.until(lambda node=node: node.events)
        assert [(event.kind, event.node_id) for event in node.events] == [(Event.JOINED, other.name)]
        assert node.control.network_uuid == UUID
        assert node.link(other.name).session.decoder.checksum is not secure
    sink = nodes[0].agent("sink")
    nodes[1].agent("source").send("sink", b"hello")
    world.until(sink.take_all)


def test_the_third_learns_of_the_second_and_of_all_agents() -> None:
    world = World()
    a, b = world.join("a", "b")
    b.agent("early", capabilities=["x"])
    c = world.node("c")
    token = settled(world, c.join("a"))
    assert token.error is None
    # When the join is over, nodes and agents are known.
    assert linked(a, b, c)
    assert [record.name for record in c.control.directory.find("x")] == ["early"]


def test_a_long_list_of_agents_comes_with_the_link() -> None:
    world = World()
    a = founded(world)
    a.register(*[a.make(f"agent-{i}") for i in range(3000)])
    config = EngineConfig(handshake_bytes_max=1024)  # for the handshake alone, whatever comes right behind
    b = world.node("b", config=config)
    assert settled(world, b.join("a")).error is None
    assert len(b.control.directory) == 3000


def test_lists_fit_the_smallest_frames() -> None:
    world = World()
    config = EngineConfig(
        frame_bytes_max=FRAME_BYTES_MIN, fragment_bytes=32 * 1024, metadata_bytes_max=BODY_BYTES
    )
    a = world.node("a", config=config)
    a.control.found(UUID)
    a.register(*[a.make(f"{i:0200}", metadata={"about": "x" * (BODY_BYTES - 30)}) for i in range(5)])
    a.register(*[a.make(f"{i:0256}") for i in range(1000)])
    b = world.node("b", config=config)
    assert settled(world, b.join("a")).error is None
    assert len(b.control.directory) == 1005


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("version", {"protocol_min": 2, "protocol_max": 3}, "no common protocol version"),
    ("network", {"network": "other"}, "is in network 'other', node 'm' in network 'default'"),
    ("uuid", {"network_uuid": OTHER_UUID}, "two networks are named 'default'"),
    ("same id", {"node_id": "m", "incarnation": 2}, "node id 'm' is used by two nodes"),
    ("features", {"features_required": 1 << 7}, "requires features [7]"),
    ("window", {"credit_bytes": 1000}, "a window of 1000"),
    ("frames", {"frame_bytes_max": 65_536}, "takes frames of 65536 bytes"),
]


@pytest.mark.parametrize(("fields", "reason"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
@pytest.mark.parametrize("name", ["a", "z"])
def test_a_hello_that_does_not_fit(name: str, fields: dict[str, Any], reason: str) -> None:
    world = World()
    witnesses, check = bystanders(world)
    stranger = Stranger(world, witnesses[0], name=name)
    stranger.introduce(**fields)
    world.until(lambda: stranger.ended)
    assert stranger.close is not None
    assert isinstance(stranger.close.error(), HandshakeRefused)
    assert reason in stranger.close.text
    assert reason in refusals(witnesses[0])[0]
    assert witnesses[0].stats["links_refused"] == 1
    check()


def bystanders(world: World) -> tuple[list[Node], Callable[[], None]]:
    """Two nodes that work together, and a check that they still do and noticed nothing."""
    nodes = world.join("m", "n")
    nodes[1].agent("echo", lambda message: message.payload)
    asker = nodes[0].agent("asker")
    link = nodes[0].link("n")
    asker.send("echo", b"before")

    def check() -> None:
        assert settled(world, asker.request("echo", b"still")).answer == b"still"
        assert nodes[0].link("n") is link
        assert nodes[1].stats["links_refused"] == nodes[1].stats["links_lost"] == 0
        assert [event.kind for event in nodes[1].events if event.node_id != "m"] == [Event.AGENT_REGISTERED]

    return nodes, check


@pytest.mark.parametrize("name", ["a", "z"])
def test_a_certificate_for_another_node(name: str) -> None:
    world = World(secure=True)
    m = founded(world, "m")
    other = world.node(name, certificate="somebody-else")
    settled(world, token := other.join("m"))
    assert isinstance(token.error, HandshakeRefused)
    assert "certificate is for node 'somebody-else'" in str(token.error)
    assert "certificate is for node 'somebody-else'" in refusals(m)[0]
    assert token.error.definite
    assert not m.engine.links


def test_a_node_of_a_later_version_reads_why_it_is_refused_under_tls_too() -> None:
    """It has our Hello and expects frames without a checksum, we refuse its Hello before agreeing on that."""
    world = World(secure=True)
    m = founded(world, "m")
    stranger = Stranger(world, m, name="later")
    hello = msgpack.unpackb(
        Hello(network="default", node_id="later", incarnation=1).encode(), strict_map_key=False
    )
    stranger.say(HELLO, msgpack.packb(hello | {40: "must be understood"}))
    world.until(lambda: stranger.ended)
    assert stranger.close is not None
    assert "got 40" in stranger.close.text


def test_two_networks_at_once_are_never_joined() -> None:
    world = World()
    b, c = (world.node(name) for name in "bc")
    b.control.found(UUID)
    c.control.found(OTHER_UUID)
    for seed in range(20):
        # The newcomer is the lesser: it waits for WELCOME of both at the same time.
        a = world.node("a", incarnation=seed + 1)
        settled(world, a.join("b", "c"))
        world.run(500)
        assert len(a.engine.sessions) == 1, "linked to two networks"
        a.leave()
        world.run(500)


def test_two_that_both_join_and_none_founds() -> None:
    world = World()
    a, b = world.node("a"), world.node("b")
    tokens = [a.join("b"), b.join("a")]
    for token in tokens:
        settled(world, token)
        assert isinstance(token.error, JoinFailed)
    assert "both still joining" in str(tokens[0].error)


def test_nobody_is_there() -> None:
    world = World()
    token = settled(world, world.node("a").join("b"))
    assert isinstance(token.error, JoinFailed)
    assert token.error.definite
    assert "sim://b:1: sim://b:1: connection refused" in str(token.error)
    assert world.now_ns >= 11_000 * MS


def test_a_node_that_dials_itself() -> None:
    world = World()
    a = founded(world)
    a.engine.dial(Dial(address_of("a")))
    a.turn()
    world.run(1000)
    assert not a.engine.links
    assert any("is this node itself" in text for text in refusals(a))


# -- bad input


BAD_FRAMES: list[tuple[str, Callable[[Stranger], None], str]] = [
    (
        "http",
        lambda s: s.say_bytes(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        "frame of 1195725856 bytes at byte 0",
    ),
    ("tls", lambda s: s.say_bytes(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), "at byte 0"),
    ("zeros", lambda s: s.say_bytes(bytes(100)), "frame of 0 bytes at byte 0"),
    ("hello of garbage", lambda s: s.say(HELLO, b"\xc1\xc1"), "MessagePack: malformed"),
    ("empty hello", lambda s: s.say(HELLO, b""), "no bytes"),
    ("deep hello", lambda s: s.say(HELLO, b"\x91" * 5000 + b"\xc0"), "nested deeper than 8"),
    ("bomb", lambda s: s.say(HELLO, b"\xdf\xff\xff\xff\xff"), "MessagePack: malformed"),
    (
        "message",
        lambda s: s.say(MESSAGE, AgentMessage(b"x", to_agent=1).encode()),
        "before the link was welcomed",
    ),
    ("welcome", lambda s: s.say(WELCOME, Welcome(UUID).encode()), "kind 1 before WELCOME"),
    ("ping", lambda s: s.say(PING, b"\x01"), "kind 3 before WELCOME"),
    ("agents", lambda s: s.say(AGENTS, b"\x90"), "kind 9 before WELCOME"),
    ("members", lambda s: s.say(MEMBERS, b"\x90"), "kind 8 before WELCOME"),
    ("unknown", lambda s: s.say(99, b""), "kind 99 before WELCOME"),
    ("damaged", lambda s: s.say_bytes(b"\x00\x00\x00\x0a\x00\x00damaged!"), "checksum does not match"),
]


@pytest.mark.parametrize(
    ("speak", "reason"), [row[1:] for row in BAD_FRAMES], ids=[row[0] for row in BAD_FRAMES]
)
def test_a_client_that_does_not_speak_as_it_should(speak: Callable[[Stranger], None], reason: str) -> None:
    world = World()
    (m, _), check = bystanders(world)
    stranger = Stranger(world, m)
    speak(stranger)
    world.until(lambda: stranger.ended)
    assert stranger.close is not None
    assert isinstance(stranger.close.error(), ProtocolError)
    assert reason in stranger.close.text
    assert reason in refusals(m)[0]
    assert m.stats["links_refused"] == 1
    assert stranger.session.closed
    check()


def hello_of(stranger: Stranger) -> bytes:
    return Hello(
        network="default", node_id=stranger.name, incarnation=1, network_uuid=UUID, credit_bytes=1 << 20
    ).encode()


AFTER: list[tuple[str, Callable[[Stranger], None], str]] = [
    ("a second hello", lambda s: s.say(HELLO, hello_of(s)), "kind 0 after WELCOME"),
    ("a second welcome", lambda s: s.say(WELCOME, Welcome(UUID).encode()), "kind 1 after WELCOME"),
    ("unknown kind", lambda s: s.say(77, b""), "kind 77 after WELCOME"),
    ("members", lambda s: s.say(MEMBERS, b"\x91\x05"), "MEMBERS record: expected a list"),
    ("agents", lambda s: s.say(AGENTS, b"\x98\x05\x00\x00\x00\x00\x00\x00\x00"), "AGENTS owner"),
    ("garbage message", lambda s: s.say(MESSAGE, b"\x90"), "message: array of 9"),
    ("ping with a tail", lambda s: s.say(PING, b"\x01\x02"), "kind 3: expected one unsigned integer"),
    ("stop of a text", lambda s: s.say(6, b"\xa1x"), "kind 6: expected one unsigned integer"),
    ("go of nothing", lambda s: s.say(7, b""), "kind 7: expected one unsigned integer"),
    ("credit of nothing", lambda s: s.say(5, b"\x90"), "CREDIT frame: expected"),
    ("credit for more than was sent", lambda s: s.say(5, b"\x92\xcd\xff\xff\x00"), "CREDIT for 65535 bytes"),
    ("credit for messages never sent", lambda s: s.say(5, b"\x92\x00\xcd\xff\xff"), "65535 messages"),
    ("refused of nothing", lambda s: s.say(17, b"\x95\x01\x02"), "REFUSED frame: expected"),
    (
        "refused with a tail",
        lambda s: s.say(17, b"\x95\x01\x02\x03\x04\xc4\x00\x00"),
        "REFUSED frame: expected",
    ),
    (
        "confirm of the future",
        lambda s: s.say(CONFIRM, Confirm("m", 1, 9).encode()),
        "CONFIRM version: expected at most 1, got 9",
    ),
    ("confirm of another", lambda s: s.say(CONFIRM, Confirm("n", 1, 0).encode()), "CONFIRM owner"),
    ("confirm of another life", lambda s: s.say(CONFIRM, Confirm("m", 2, 0).encode()), "CONFIRM owner"),
    (
        "agents of our own",
        lambda s: s.say(AGENTS, write_whole("m", 1, 9, [], 999)[0]),
        "is told of version 9 of its own list: expected at most 1",
    ),
    ("pull of nothing", lambda s: s.say(PULL, b"\x91\x05"), "PULL list: expected a list"),
    ("over the limit", lambda s: s.say(MESSAGE, bytes(128 * 1024)), "frame of 131078 bytes"),
]


@pytest.mark.parametrize(("speak", "reason"), [row[1:] for row in AFTER], ids=[row[0] for row in AFTER])
@pytest.mark.parametrize("name", ["a", "z"])
def test_a_peer_that_was_welcomed_and_then_speaks_badly(
    name: str, speak: Callable[[Stranger], None], reason: str
) -> None:
    world = World()
    (m, n), _ = bystanders(world)
    stranger = Stranger(world, m, name=name)
    stranger.introduce()
    world.until(lambda: name in m.engine.sessions)
    speak(stranger)
    world.until(lambda: stranger.ended)
    assert stranger.close is not None
    assert isinstance(stranger.close.error(), ProtocolError)
    assert reason in stranger.close.text
    assert reason in m.told(Event.LINK_LOST)[0].detail
    assert (m.stats["links_refused"], m.stats["links_lost"]) == (1, 1)
    assert sorted(m.engine.sessions) == ["n"]
    assert settled(world, next(iter(m.engine.ports.values())).request("echo", b"on")).answer == b"on"
    assert n.stats["links_lost"] == 0


def test_a_client_that_says_nothing_has_five_seconds() -> None:
    world = World()
    (m, _), check = bystanders(world)
    stranger = Stranger(world, m)
    opened = world.now_ns
    world.until(lambda: stranger.ended, ms=6_000)
    assert 5_000 * MS <= world.now_ns - opened <= 5_300 * MS
    assert stranger.close is not None
    assert "said nothing for 5000 ms (handshake_ms_max)" in stranger.close.text
    assert "said nothing for 5000 ms" in refusals(m)[0]
    check()


def test_while_this_node_stands_nobody_runs_out_of_time() -> None:
    world = World()
    m = founded(world, "m")
    stranger = Stranger(world, m, name="z")
    world.run(1_000)
    m.block()
    stranger.say(HELLO, hello_of(stranger))
    world.run(6_000)
    m.unblock()
    world.run(100)
    assert not stranger.ended
    assert stranger.close is None


def test_a_client_that_says_hello_and_then_nothing() -> None:
    world = World()
    m = founded(world, "m")
    stranger = Stranger(world, m, name="z")
    stranger.say(HELLO, hello_of(stranger))
    world.until(lambda: stranger.ended, ms=6_000)
    assert stranger.close is not None
    assert "sent no WELCOME for 5000 ms" in stranger.close.text


def test_who_is_not_welcomed_may_send_64_kib_and_not_a_byte_more() -> None:
    for size, passes in ((64 * 1024, True), (64 * 1024 + 1, False)):
        world = World()
        m = founded(world, "m")
        stranger = Stranger(world, m)
        # One frame that never ends: 4 bytes of length and the beginning of its body.
        stranger.say_bytes((100_000).to_bytes(4, "big") + bytes(size - 4))
        world.run(1000)
        assert (stranger.ended is None) is passes
        if not passes:
            assert stranger.close is not None
            assert "65537 bytes before the link was welcomed" in stranger.close.text


# -- two links of one pair


@pytest.mark.parametrize("seed", range(12))
def test_dials_that_cross_leave_one_link_that_works(seed: int) -> None:
    world = World(seed)
    a, b = founded(world, "a"), world.node("b")
    token = b.join("a")
    a.engine.dial(Dial(address_of("b")))
    a.turn()
    settled(world, token)
    assert token.error is None
    world.run(1000)
    assert linked(a, b)
    assert len(a.engine.links) == len(b.engine.links) == 1
    assert a.link("b").out is b.link("a").back
    assert refusals(a) == refusals(b) == []
    sink = b.agent("sink")
    a.agent("source").send("sink", b"x")
    world.until(sink.take_all)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("winner", ["a", "b"])
def test_a_link_that_won_over_a_duplicate_is_missed_when_it_dies(seed: int, winner: str) -> None:
    world = World(seed)
    a, b = world.join("a", "b")
    dialler = a if winner == "a" else b
    dialler.engine.dial(Dial(address_of("b" if winner == "a" else "a")))
    dialler.turn()
    world.run(1000)
    assert linked(a, b)
    a.link("b").cut()
    world.until(lambda: not a.engine.sessions and not b.engine.sessions)
    world.until(lambda: linked(a, b), ms=5_000)
    assert [event.node_id for event in a.told(Event.LINK_LOST)] == ["b"]
    assert [event.node_id for event in b.told(Event.LINK_LOST)] == ["a"]


def test_a_link_that_is_lost_is_dialled_again_and_works() -> None:
    world = World()
    a, b = world.join("a", "b")
    sink = b.agent("sink")
    source = a.agent("source")
    for round_ in range(5):
        a.link("b").cut()
        world.until(lambda: not a.engine.sessions)
        token = source.send("sink", b"%d waits" % round_)
        world.until(lambda: linked(a, b), ms=10_000)
        source.send("sink", b"%d" % round_)
        world.until(lambda: sink.pending_messages == 2)
        assert token.done
        assert token.error is None
        assert [m.payload for m in sink.take_all()] == [b"%d waits" % round_, b"%d" % round_]
    assert a.told(Event.LOST) == []
    assert a.stats["links_lost"] == 5


# -- going and coming again


def test_leaving_is_not_being_lost() -> None:
    world = World()
    a, b, c = world.join("a", "b", "c")
    b.agent("worker")
    b.leave()
    world.until(lambda: a.told(Event.LEFT) and c.told(Event.LEFT))
    assert linked(a, c)
    for node in (a, c):
        assert [event.node_id for event in node.told(Event.LEFT)] == ["b"]
        assert [event.name for event in node.told(Event.AGENT_GONE)] == ["worker"]
        assert node.told(Event.LOST) == node.told(Event.LINK_LOST) == []
        assert [member.node_id for member in node.control.members()] == ["a", "c"]
        assert len(node.control.directory) == 0


def test_what_was_sent_before_leaving_arrives() -> None:
    world = World()
    a, b = world.join("a", "b")
    sink = b.agent("sink")
    source = a.agent("source")
    for i in range(50):
        source.send("sink", b"%d" % i + bytes(5000))
    a.leave()
    world.until(lambda: b.told(Event.LEFT))
    assert [message.payload.rstrip(b"\0") for message in sink.take_all()] == [b"%d" % i for i in range(50)]


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
@pytest.mark.parametrize("silently", [True, False])
def test_a_node_that_is_started_again_takes_its_place(names: tuple[str, str], silently: bool) -> None:
    """Silently: the old link is not closed, only dead. It is probed, and the newcomer let in."""
    world = World()
    stays, dies = world.join(*names)
    dies.agent("worker")
    dies.kill(silently=silently)
    again = world.node(dies.name, incarnation=2)
    began = world.now_ns
    token = settled(world, again.join(stays.name))
    assert token.error is None, token.error
    world.until(lambda: linked(stays, again))
    assert world.now_ns - began < 6_000 * MS
    world.run(2_000)
    assert linked(stays, again)
    assert stays.control.membership.incarnation_of(dies.name) == 2
    assert len(stays.control.directory) == 0, "agents of the dead incarnation"
    assert [event.kind for event in stays.events if event.kind in (Event.LOST, Event.JOINED)][-2:] == [
        Event.LOST,
        Event.JOINED,
    ]
    sink = again.agent("worker")
    stays.agent("source").send("worker", b"x")
    world.until(sink.take_all)


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
@pytest.mark.parametrize("delay_ms", [1, 300])
def test_a_second_node_with_the_id_of_a_living_one(names: tuple[str, str], delay_ms: int) -> None:
    """Also where a handshake takes longer than the wait between two dials."""
    world = World(weather=Weather(delay_ns=(delay_ms * MS, delay_ms * MS)))
    stays, lives = world.join(*names, config=EngineConfig(redial_ms_max=100))
    lives.agent("echo", lambda message: message.payload)
    asker = stays.agent("asker")
    impostor = Node(world, lives.name, incarnation=9, config=EngineConfig(redial_ms_max=100))
    token = settled(world, impostor.join(stays.name))
    assert isinstance(token.error, HandshakeRefused)
    assert f"node id {lives.name!r} is taken by a living node" in str(token.error)
    assert any("is taken by a living node" in text for text in refusals(stays))
    assert not lives.told(Event.LINK_LOST)
    assert settled(world, asker.request("echo", b"still")).answer == b"still"


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_a_dead_incarnation_does_not_come_back(names: tuple[str, str]) -> None:
    world = World()
    stays, first = world.join(*names)
    first.kill()
    second = world.node(first.name, incarnation=5)
    assert settled(world, second.join(stays.name)).error is None
    old = Node(world, first.name, incarnation=4)
    token = settled(world, old.join(stays.name))
    assert isinstance(token.error, HandshakeRefused)
    assert "incarnation 4" in str(token.error)
    assert linked(stays, second)


def test_a_peer_that_does_not_read_is_cut_off() -> None:
    world = World()
    config = EngineConfig(control_bytes_max=100_000)
    m = founded(world, "m", config=config)
    stranger = Stranger(world, m, name="a")
    stranger.introduce()
    m.engine.resume(stranger.session)
    stranger.session.paused = True  # as a socket whose peer does not read
    stranger.link.resume = lambda: None  # type: ignore[method-assign]
    waited = 0
    while not stranger.session.closed:
        stranger.say(PING, b"\xcf" + bytes(8))
        world.run(1)
        waited = max(waited, stranger.session.waiting_bytes)
        assert waited < 150_000
    assert waited > 90_000
    lost = m.told(Event.LINK_LOST)[0]
    assert isinstance(lost.error, Congested)
    assert "it does not read (control_bytes_max)" in lost.detail


def test_a_ping_is_answered_with_what_it_said() -> None:
    world = World()
    m = founded(world, "m")
    stranger = Stranger(world, m, name="a")
    stranger.introduce()
    stranger.say(PING, b"\x05")
    world.until(lambda: [msgpack.unpackb(body)[0] for body in stranger.bodies(PONG)] == [5])


def test_close_tells_the_peer_why_whatever_the_error() -> None:
    world = World()
    (m, n), _ = bystanders(world)
    error = NetworkError("a reason\nof two lines \x1b[0m " + "ä" * 3000)
    m.engine.fail(m.link("n").session, error)
    world.until(lambda: n.told(Event.LINK_LOST))
    lost = n.told(Event.LINK_LOST)[0]
    assert "a reason" in lost.detail
    assert lost.detail.isprintable()
    assert not isinstance(lost.error, LinkLost)
    assert CLOSE == 2
