"""Every limit of a config, from both sides: what is just within passes, and what is just beyond does not."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import msgpack
import pytest
from harness import MESSAGE, MS, PING, UUID, Node, Weather, World, address_of
from strangers import Stranger

from agentnet_core import census
from agentnet_core.agent_record import AgentRecord
from agentnet_core.config import (
    BODY_BYTES,
    BROADCAST_BYTES,
    COUNT_MAX,
    FRAME_BYTES_LIMIT,
    FRAME_BYTES_MIN,
    MS_MAX,
    OPTIONAL_BYTES_MAX,
    PATH_AGENTS_MAX,
    RINGS_MAX,
    EngineConfig,
)
from agentnet_core.dials import Dial
from agentnet_core.directory import Directory
from agentnet_core.errors import (
    ConfigError,
    Congested,
    HandshakeRefused,
    JoinFailed,
    LimitReached,
    LinkLost,
    RequestTimeout,
    Unconfirmed,
)
from agentnet_core.handshake import Hello, Welcome
from agentnet_core.records import Event

SMALL = {"fragment_bytes": 4096, "bulk_window_bytes": 4096, "link_window_bytes": 8192}
HEAD_BYTES, CHECKSUM_BYTES = 6, 4

within = pytest.mark.parametrize("beyond", [False, True], ids=["within", "beyond"])


def welcoming(world: World, *, name: str = "a", **config: Any) -> tuple[Node, Stranger]:
    """A node that has welcomed somebody who speaks by hand."""
    node = world.node("m", config=EngineConfig(**config))
    node.control.found(UUID)
    stranger = Stranger(world, node, name=name)
    stranger.introduce()
    return node, stranger


def message(seq: int, to: int, size: int, part: tuple[int, int] | None = None) -> tuple[int, bytes, int]:
    body = msgpack.packb([1, to, seq, 0, 1, 1, 0, 0, bytes(size)])
    return (MESSAGE, body, 0) if part is None else (MESSAGE, body + msgpack.packb({12: part}), 1)


# -- the config's own


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        ({"network": "n" * 64}, {"network": "n" * 65}, "expected 1 to 64"),
        ({"nodes_max": 1}, {"nodes_max": 0}, "expected an integer above 0"),
        (
            {"frame_bytes_max": FRAME_BYTES_MIN, "fragment_bytes": FRAME_BYTES_MIN - OPTIONAL_BYTES_MAX},
            {"frame_bytes_max": FRAME_BYTES_MIN - 1, "fragment_bytes": 1000},
            "expected at least 65536",
        ),
        ({"metadata_bytes_max": BODY_BYTES}, {"metadata_bytes_max": BODY_BYTES + 1}, "expected at most"),
        (
            {"frame_bytes_max": 65_536 + OPTIONAL_BYTES_MAX},
            {"frame_bytes_max": 65_535 + OPTIONAL_BYTES_MAX},
            "expected at least fragment_bytes=65536 and 4096 more",
        ),
        ({"bulk_window_bytes": 512 * 1024}, {"bulk_window_bytes": 512 * 1024 + 1}, "link_window_bytes"),
        ({"bulk_window_bytes": 65_536}, {"bulk_window_bytes": 65_535}, "expected at least fragment_bytes"),
        (
            {"message_bytes_max": 65_536, "reassembly_bytes_max": 65_536 + 2 * 64},
            {"message_bytes_max": 65_536, "reassembly_bytes_max": 65_536 + 2 * 64 - 1},
            "expected at least message_bytes_max=65536",
        ),
        (
            {"delivery_timeout_ms": 60_000, "delivery_window_ms": 60_000},
            {"delivery_timeout_ms": 60_001, "delivery_window_ms": 60_000},
            "delivery_window_ms=60000: expected at least delivery_timeout_ms=60001",
        ),
        ({"redial_ms_min": 5000}, {"redial_ms_min": 5001}, "expected at least redial_ms_min=5001"),
        (
            {"ping_interval_ms": 15_000, "node_silence_ms_max": 20_000},
            {"ping_interval_ms": 15_001, "node_silence_ms_max": 20_000},
            "link_silence_ms_max=15000: expected at least ping_interval_ms=15001",
        ),
        (
            {"ping_interval_ms": 2_000},
            {"ping_interval_ms": 2_001},
            "node_silence_ms_max=2000: expected at least ping_interval_ms=2001",
        ),
        ({"suspicion_ms_min": 9_000}, {"suspicion_ms_min": 9_001}, "expected at least suspicion_ms_min=9001"),
    ],
)
def test_settings_that_must_fit_one_another(good: dict[str, Any], bad: dict[str, Any], said: str) -> None:
    EngineConfig(**good)
    with pytest.raises(ConfigError, match=said):
        EngineConfig(**bad)


@pytest.mark.parametrize("name", [field.name for field in fields(EngineConfig) if field.type == "int"])
def test_every_number_has_an_end(name: str) -> None:
    """Beyond it, C would overflow in the midst of a node's life."""
    most = {
        "frame_bytes_max": FRAME_BYTES_LIMIT,
        "metadata_bytes_max": BODY_BYTES,
        "overlay_rings": RINGS_MAX,
        "chain_hops_max": PATH_AGENTS_MAX,
        "broadcast_bytes_max": BROADCAST_BYTES,
    }
    limit = most.get(name, MS_MAX if "_ms" in name else COUNT_MAX)
    if name not in ("fragment_bytes", "message_bytes_max"):  # others are above these, and have an end
        times = ("redial_ms_max", "link_silence_ms_max", "node_silence_ms_max", "suspicion_ms_max")
        times += ("delivery_retry_ms_max", "delivery_window_ms")
        logs = ("log_held_bytes", "log_bytes_max")
        counts = ("link_window_bytes", "broadcasts_announced_max", "broadcast_window_max", *logs)
        roomy = {**dict.fromkeys((*times, "unreachable_ms_max"), MS_MAX), **dict.fromkeys(counts, COUNT_MAX)}
        assert getattr(EngineConfig(**{**roomy, name: limit}), name) == limit
    with pytest.raises(ConfigError, match=f"{name}={limit + 1}: expected at most {limit}"):
        EngineConfig(**{name: limit + 1})


# -- bytes


@within
def test_frame_bytes_max(beyond: bool) -> None:
    world = World()
    node, stranger = welcoming(world, frame_bytes_max=FRAME_BYTES_MIN, **SMALL)
    body = FRAME_BYTES_MIN - 2 - CHECKSUM_BYTES + beyond
    stranger.say(PING, b"\x01" + bytes(body - 1))  # no PING, but a frame
    world.until(lambda: stranger.ended)
    assert stranger.close is not None
    whole = "frame of kind 3: expected one unsigned integer"
    assert ("frame of 65537 bytes" if beyond else whole) in stranger.close.text
    assert node.stats["links_refused"] == 1


@within
def test_handshake_bytes_max(beyond: bool) -> None:
    world = World()
    node = world.node("m", config=EngineConfig(handshake_bytes_max=1000))
    node.control.found(UUID)
    stranger = Stranger(world, node, name="z")
    hello = Hello(
        network="default", node_id="z", incarnation=1, network_uuid=UUID, credit_bytes=1 << 19, checksum=1
    )
    # One more field fills it up: what comes from 64 on is carried along.
    spare = 1000 - len(stranger.sealed(0, hello.encode())) - len(stranger.sealed(1, Welcome(UUID).encode()))
    stranger = Stranger(world, node, name="z")
    padding = {64: bytes(spare - 4 + beyond)}  # its key, and a head of three bytes
    stranger.say(0, Hello(**{**vars(hello), "extra": padding}).encode())
    stranger.say(1, Welcome(UUID).encode())
    world.until(lambda: stranger.ended or stranger.session.welcomed)
    assert stranger.session.welcomed is not beyond
    if beyond:
        world.until(lambda: stranger.close)
        assert stranger.close is not None
        assert "1001 bytes before the link was welcomed: expected at most 1000" in stranger.close.text
        assert node.stats["links_refused"] == 1


@within
def test_control_bytes_max(beyond: bool) -> None:
    world = World()
    node, stranger = welcoming(world, control_bytes_max=10_000)
    world.run(10)
    session = stranger.session
    session.paused = True  # as a socket whose peer does not read
    assert session.control.waiting == 0
    node.engine.put_control(session, 99, bytes(10_000 - HEAD_BYTES - CHECKSUM_BYTES + beyond))
    assert session.closed is beyond
    if beyond:
        node.turn()
        (lost,) = node.told(Event.LINK_LOST)
        assert isinstance(lost.error, Congested)
        assert "10001 bytes of control frames wait for node a: it does not read" in lost.detail


@within
def test_control_bytes_max_of_what_a_peer_makes_this_node_say(beyond: bool) -> None:
    world = World()
    pong = HEAD_BYTES + 1 + 4 * 9 + CHECKSUM_BYTES
    _, stranger = welcoming(world, control_bytes_max=100 * pong)
    world.run(10)
    session = stranger.session
    session.paused = True
    for _ in range(100 + beyond):
        stranger.link.received(stranger.sealed(PING, b"\x01"))
    assert session.closed is beyond


@within
def test_link_window_bytes_of_what_a_peer_sends(beyond: bool) -> None:
    """Headers come on top of what was granted, since a sender counts them as it likes."""
    world = World()
    node, stranger = welcoming(world, **SMALL)
    sink = node.make("sink")
    node.register(sink)
    room = SMALL["link_window_bytes"] + OPTIONAL_BYTES_MAX + beyond
    head = len(Stranger(world, node, name="b").sealed(*message(1, sink.agent_id, 3000))) - 3000
    sizes = [3000, 3000, 3000]
    sizes.append(room - sum(size + head for size in sizes) - head)
    # All in one read: after each, credit is given.
    frames = [stranger.sealed(*message(i, sink.agent_id, size)) for i, size in enumerate(sizes, 1)]
    stranger.link.received(b"".join(frames))
    assert (sum(map(len, frames)), stranger.session.closed) == (room, beyond)
    assert sink.pending_messages == 4 - beyond


@within
def test_link_window_bytes_of_what_this_node_sends(beyond: bool) -> None:
    world = World(weather=Weather(delay_ns=(10 * MS, 10 * MS)))
    a, b = world.join("a", "b", config=EngineConfig(**SMALL))
    b.agent("sink")
    source = a.agent("source")
    world.run(300)
    session = a.link("b").session
    assert session.outstanding == 0
    source.send_nowait("sink", bytes(1000))
    frame = session.outstanding
    source.send_nowait("sink", bytes(4000))
    rest = 8192 - session.outstanding - (frame - 1000)
    if beyond:
        with pytest.raises(Congested):
            source.send_nowait("sink", bytes(rest + 1))
    else:
        source.send_nowait("sink", bytes(rest))
        assert session.outstanding == 8192


@within
def test_reassembly_bytes_max(beyond: bool) -> None:
    world = World()
    each = 64  # what a fragment costs beside its bytes
    limit = 3 * (4000 + each)
    node, stranger = welcoming(world, message_bytes_max=4000, reassembly_bytes_max=limit, **SMALL)
    sink = node.make("sink")
    node.register(sink)
    for seq in (1, 2):
        stranger.say(*message(seq, sink.agent_id, 4000, (0, 2)))
    stranger.say(*message(3, sink.agent_id, 4000 if not beyond else 3999, (0, 2)))
    if beyond:
        stranger.say(*message(4, sink.agent_id, 0, (0, 2)))
    world.until(lambda: stranger.ended or stranger.session.assembling == (3, limit))
    assert bool(stranger.ended) is beyond
    if beyond:
        assert stranger.close is not None
        assert f"expected at most 4000 and {limit}" in stranger.close.text


@within
def test_fragments_open_max(beyond: bool) -> None:
    world = World()
    node, stranger = welcoming(world, fragments_open_max=5, **SMALL)
    sink = node.make("sink")
    node.register(sink)
    for seq in range(1, 6 + beyond):
        stranger.say(*message(seq, sink.agent_id, 10, (0, 2)))
    world.until(lambda: stranger.ended or stranger.session.assembling[0] == 5)
    world.run(10)
    assert bool(stranger.ended) is beyond


@within
def test_metadata_bytes_max(beyond: bool) -> None:
    """Of this node's agents, and of another's."""
    config = EngineConfig(metadata_bytes_max=100)
    # An empty list of capabilities, a map of one, its key, and the head of a text of up to 255 bytes.
    metadata = {"k": "x" * (100 - 1 - 1 - 2 - 2 + beyond)}
    if beyond:
        with pytest.raises(LimitReached, match="take 101 bytes, over metadata_bytes_max=100"):
            Directory("a", 1, config).register([AgentRecord(7, "a", metadata=metadata)])
    else:
        Directory("a", 1, config).register([AgentRecord(7, "a", metadata=metadata)])
    world = World()
    roomy, strict = world.node("a"), world.node("b", config=config)
    roomy.control.found(UUID)
    token = strict.join("a")
    world.until(lambda: token.done)
    token = roomy.register(roomy.make(7, metadata=metadata))
    world.until(lambda: token.done)
    assert isinstance(token.error, Unconfirmed) is beyond
    assert (strict.control.directory.get(7) is None) is beyond
    assert len(strict.told(Event.AGENT_CONFLICT)) == beyond


# -- counts


@within
def test_nodes_max(beyond: bool) -> None:
    world = World()
    a = world.node("a", config=EngineConfig(nodes_max=3 - beyond))
    a.control.found(UUID)
    tokens = []
    for name in "bc":
        node = world.node(name, config=EngineConfig(join_ms_max=2000))
        tokens.append(node.join("a"))
        world.until(lambda: tokens[-1].done)
    assert tokens[0].error is None
    assert isinstance(tokens[1].error, HandshakeRefused) is beyond
    assert len(a.engine.sessions) == 2 - beyond
    assert bool(a.stats["links_refused"]) is beyond
    if beyond:
        assert world.nodes["c"].stats["links_refused"] >= 1


@within
def test_agents_max(beyond: bool) -> None:
    """Of all nodes together, at a node that has less room than the others."""
    world = World()
    a, b = world.node("a"), world.node("b", config=EngineConfig(agents_max=3))
    a.control.found(UUID)
    token = b.join("a")
    world.until(lambda: token.done)
    b.agent(1)
    token = a.register(*(a.make(number) for number in range(2, 4 + beyond)))
    world.until(lambda: token.done)
    assert isinstance(token.error, Unconfirmed) is beyond
    assert len(b.control.directory) == 3
    assert len(a.control.directory) == 3 + beyond
    with pytest.raises(LimitReached, match="agents_max=3: 3 agents are known, 1 more do not fit"):
        b.register(b.make(9))
    a.unregister(*a.engine.ports.values())
    world.until(lambda: len(b.control.directory) == 1)
    b.register(b.make(9), b.make(10))


# -- times


@within
def test_handshake_ms_max(beyond: bool) -> None:
    world = World()
    node = world.node("m", config=EngineConfig(handshake_ms_max=1000))
    node.control.found(UUID)
    stranger = Stranger(world, node, name="a")
    world.run(1002 if beyond else 990)
    stranger.introduce()
    assert stranger.session.welcomed is not beyond


@within
def test_link_silence_ms_max(beyond: bool) -> None:
    world = World()
    config = {"ping_interval_ms": 300, "node_silence_ms_max": 60_000, "link_silence_ms_max": 1000}
    node, stranger = welcoming(world, **config)
    heard = stranger.session.heard_ns
    world.run((heard - world.now_ns) / MS + (1002 if beyond else 990))
    stranger.say(PING, b"\x01")
    world.run(5)
    assert stranger.session.closed is beyond
    pings = [*stranger.bodies(PING)]
    assert len(pings) == 3, (
        "one at the welcome, then one for each ping_interval_ms and a half, as it did not dial"
    )
    assert bool(node.told(Event.LINK_LOST)) is beyond


@pytest.mark.parametrize("pace", [1, 2, 4])
def test_in_a_large_network_a_link_is_pinged_less_often(pace: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "pace_of", lambda _: float(pace))
    world = World()
    config = {"ping_interval_ms": 400, "link_silence_ms_max": 60_000, "node_silence_ms_max": 60_000}
    _, stranger = welcoming(world, **config)
    world.run(24_000)
    pings = len([*stranger.bodies(PING)])
    assert pings == pytest.approx(24_000 / (600 * pace), rel=0.2), "each ping_interval_ms and a half"


def test_in_a_large_network_a_silent_link_is_still_pinged_long_before_it_is_let_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(census, "pace_of", lambda _: 4.0)
    world = World()
    _, stranger = welcoming(world, ping_interval_ms=5_000, node_silence_ms_max=15_000)
    world.run(10_000)  # of the 15 s of link_silence_ms_max
    assert len([*stranger.bodies(PING)]) == 2, "one at the welcome"


@within
def test_refresh_interval_ms(beyond: bool) -> None:
    """Of a link that is never silent."""
    world = World()
    _, stranger = welcoming(world, refresh_interval_ms=3000)
    pinged = stranger.session.pinged_ns
    for _ in range(29):
        stranger.say(PING, b"\x01")
        world.run(100)
    assert len([*stranger.bodies(PING)]) == 1
    # What is due between two looks at a link waits for the next.
    world.run((pinged - world.now_ns) / MS + (3255 if beyond else 2990))
    assert len([*stranger.bodies(PING)]) == 1 + beyond


@within
def test_node_silence_and_suspicion(beyond: bool) -> None:
    """Of two nodes each is the only one that could accuse the other."""
    world = World()
    config = EngineConfig(ping_interval_ms=500, node_silence_ms_max=1000, suspicion_ms_min=400)
    a, b = world.join("a", "b", config=config)
    b.agent("worker")
    world.run(100)
    world.partition(["a"], ["b"])
    world.run(500)
    heard = a.link("b").session.heard_ns
    world.run((heard - world.now_ns) / MS + (1402 if beyond else 1390))
    assert [event.node_id for event in a.told(Event.LOST)] == ["b"] * beyond
    assert ("b" in a.engine.sessions) is not beyond
    world.heal()
    world.until(world.agreed, ms=20_000)
    assert a.control.directory.get("worker") is not None


@within
def test_request_timeout_ms(beyond: bool) -> None:
    world = World(weather=Weather(delay_ns=(10_000, 10_000)))
    a, b = world.join("a", "b", config=EngineConfig(request_timeout_ms=500))
    b.agent("slow", lambda m: b"here", service_ns=(502 if beyond else 495) * MS)
    token = a.agent("asker").request("slow", b"")
    world.until(lambda: token.done)
    assert isinstance(token.error, RequestTimeout) is beyond


@within
def test_send_wait_ms_max(beyond: bool) -> None:
    world = World(weather=Weather(delay_ns=(10_000, 10_000)))
    a, b = world.join("a", "b", config=EngineConfig(send_wait_ms_max=500, mailbox_messages_max=1))
    sink = b.agent("sink")
    source = a.agent("source")
    source.send("sink", b"fills it")
    world.run(50)
    token = source.send("sink", b"waits")
    world.run(502 if beyond else 495)
    sink.take_all()
    world.until(lambda: token.done)
    assert isinstance(token.error, Congested) is beyond


@within
def test_register_timeout(beyond: bool) -> None:
    """`register_ms_max` is the driver's to give; the deadline is kept here."""
    world = World()
    node, stranger = welcoming(world)
    token = node.register(node.make("agent"), timeout_ms=500)
    world.run(502 if beyond else 495)
    version = node.control.directory.version
    stranger.say(10, msgpack.packb([version, True, []]))
    world.run(5)
    assert token.done
    assert isinstance(token.error, Unconfirmed) is beyond


@within
def test_join_ms_max(beyond: bool) -> None:
    world = World()
    config = EngineConfig(join_ms_max=1000, redial_ms_min=1, redial_ms_max=2)
    token = world.node("b", config=config).join("a")
    world.run(1002 if beyond else 980)
    a = world.node("a")
    a.control.found(UUID)
    world.until(lambda: token.done)
    assert isinstance(token.error, JoinFailed) is beyond


@within
def test_redial_ms_min_and_max(beyond: bool) -> None:
    """Half of the first and of the longest wait is jitter, so a dial comes in its second half."""
    world = World()
    low, high = (100, 100) if not beyond else (100, 1600)
    a, b = world.join("a", "b", config=EngineConfig(redial_ms_min=low, redial_ms_max=high))
    dials: list[int] = []
    usual = world.dial

    def dial(node: Node, dialled: Dial) -> None:
        if node is b:
            dials.append(world.now_ns)
        usual(node, dialled)

    world.dial = dial  # type: ignore[method-assign]
    world.run(3000)
    b.engine.down(b.link("a").session, LinkLost("now"))
    b.turn()
    a.kill()
    began = world.now_ns
    world.run(4000)
    waits = [(later - sooner) / MS for sooner, later in zip([began, *dials], dials, strict=False)]
    assert waits[0] < 5, "it was a good link"
    assert all(low / 2 <= wait <= high + 5 for wait in waits[1:])
    assert (max(waits) > low + 5) is beyond


def test_a_dial_of_an_address_that_is_no_node() -> None:
    """A connection that is refused is tried again, and is no refusal of a link."""
    world = World()
    a = world.node("a", config=EngineConfig(join_ms_max=300))
    token = a.join("nobody")
    world.until(lambda: token.done)
    assert isinstance(token.error, JoinFailed)
    assert address_of("nobody") in str(token.error)
    assert a.stats["links_refused"] == 0
