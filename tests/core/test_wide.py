"""Broadcasts of users where not all nodes are linked: on the tree, once each, bounded, and outcomes."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from harness import GOSSIP, MEMBERS, MESSAGE, MS, UUID, Agent, Node, Token, Weather, World
from memberships import told
from rings import agreed, settle
from rings import network as in_rings
from strangers import Stranger

from agentnet_core.config import EngineConfig
from agentnet_core.errors import AgentUnreachable, Congested, Expired, MessageTooLarge, NetworkError
from agentnet_core.gossip import CHANGES, MESSAGES, Gossip, decode, encode, pack_id
from agentnet_core.message import AgentMessage
from agentnet_core.records import Event

LIMITS = {"mesh_nodes_max": 4, "overlay_rings": 2}


def network(
    count: int, seed: int = 0, weather: Weather | None = None, **limits: int
) -> tuple[World, list[Node], list[Agent]]:
    """That many nodes in rings, and an agent of each that keeps what it gets."""
    world, nodes = in_rings(count, EngineConfig(**{**LIMITS, **limits}), seed, weather)
    agents = [node.make(f"of {node.name}", lambda _: None) for node in nodes]
    for token in [node.register(agent) for node, agent in zip(nodes, agents, strict=True)]:
        world.finish(token)
    world.run(2_000)  # the tree takes its shape
    return world, nodes, agents


def send(node: Node, payload: bytes, **options: object) -> Token | None:
    """Broadcast it; what waits for room."""
    node.engine.now_ns = node.clock.now_ns
    message = AgentMessage(payload, message_type=5, **options)  # type: ignore[arg-type]
    tokens, _ = node.engine.broadcast(message, 0)
    node.turn()
    assert len(tokens) <= 1
    return tokens[0] if tokens else None


def everybody_has(agents: Iterable[Agent], payloads: Iterable[bytes]) -> bool:
    wanted = sorted(payloads)
    return all(sorted(agent.payloads) == wanted for agent in agents)


def counted(nodes: Iterable[Node], name: str) -> int:
    return sum(node.control.broadcasts.stats()[name] for node in nodes)


# -- who gets it


def test_everybody_gets_it_once_and_no_message_frame_is_sent() -> None:
    world, nodes, agents = network(30)
    before = [set(node.engine.sessions) for node in nodes]
    for i in range(20):
        assert send(nodes[i], b"%d" % i, priority=2, message_id=f"id {i}") is None
        world.run(20)
    settle(world, lambda: all(len(agent.received) == 20 for agent in agents), ms=2_000)
    world.run(2_000)
    assert everybody_has(agents, [b"%d" % i for i in range(20)])
    got = next(message for message in agents[7].received if message.payload == b"3")
    assert (got.to_agent, got.from_node, got.message_id, got.priority) == (None, "n03", "id 3", 2)
    assert got.message_type == 5
    assert [set(node.engine.sessions) for node in nodes] == before, "no link was made for it"
    assert counted(nodes, "broadcasts_unanswered") == counted(nodes, "broadcasts_missed") == 0


def test_who_takes_no_broadcasts_gets_none() -> None:
    world, nodes, agents = network(8)
    deaf = nodes[5].agent("deaf", broadcasts=False)
    send(nodes[1], b"x")
    settle(world, lambda: everybody_has(agents, [b"x"]), ms=2_000)
    assert deaf.pending_messages == 0


@pytest.mark.parametrize("seed", range(4))
def test_links_that_break_cost_nothing(seed: int) -> None:
    world, nodes, agents = network(30, seed)
    sent = []
    for i in range(60):
        sent.append(b"%d" % i)
        assert send(world.rng.choice(nodes), sent[-1]) is None
        node = world.rng.choice(nodes)
        if i % 3 == 0 and node.engine.sessions:
            node.link(world.rng.choice(sorted(node.engine.sessions))).cut()
        world.run(world.rng.random() * 60)
    settle(world, lambda: everybody_has(agents, sent), ms=20_000)


@pytest.mark.parametrize("seed", range(2))
def test_nodes_that_die_take_only_their_own_with_them(seed: int) -> None:
    world, nodes, agents = network(32, seed)
    dying = world.rng.sample(range(32), 8)
    living = [i for i in range(32) if i not in dying]
    sent = []
    for i in range(80):
        if i % 10 == 5:
            nodes[dying[i // 10]].kill()
        sent.append(b"%d" % i)
        assert send(nodes[world.rng.choice(living)], sent[-1]) is None
        world.run(world.rng.random() * 100)
    settle(world, lambda: everybody_has([agents[i] for i in living], sent), ms=20_000)


@pytest.mark.parametrize("seed", range(2))
def test_a_partition_that_heals_in_time_costs_nothing(seed: int) -> None:
    world, nodes, agents = network(30, seed)
    left, right = nodes[:11], nodes[11:]
    world.partition([n.name for n in left], [n.name for n in right])
    sent = []
    for i in range(40):
        sent.append(b"%d" % i)
        assert send(world.rng.choice(nodes), sent[-1]) is None
        world.run(500)
    world.heal()
    settle(world, lambda: agreed(nodes), ms=30_000)
    settle(world, lambda: everybody_has(agents, sent), ms=20_000)


def test_who_comes_later_or_again_is_not_told_of_what_was_before() -> None:
    world, nodes, agents = network(8)
    send(nodes[1], b"old")
    settle(world, lambda: everybody_has(agents, [b"old"]), ms=2_000)
    nodes[5].kill()
    world.run(3_000)
    late = world.node("late", config=nodes[0].config)
    for token in (nodes[5].restart("n00"), late.join("n00")):
        world.finish(token)
    boxes = [node.agent(f"again {node.name}", lambda _: None) for node in (nodes[5], late)]
    settle(world, lambda: agreed([*nodes, late]), ms=20_000)
    send(nodes[1], b"new")
    settle(world, lambda: all(b"new" in box.payloads for box in boxes), ms=2_000)
    world.run(2_000)
    assert everybody_has(boxes, [b"new"])


# -- what the sender is told


def test_the_largest_that_the_tree_takes() -> None:
    world, nodes, agents = network(8, broadcast_bytes_max=1000)
    head = len(AgentMessage(b"").encode()) + 1
    fits = bytes(1000 - head)
    assert send(nodes[0], fits) is None
    with pytest.raises(MessageTooLarge, match="not all linked: expected at most broadcast_bytes") as caught:
        send(nodes[0], fits + b"x")
    assert caught.value.definite
    with pytest.raises(MessageTooLarge):
        send(nodes[0], fits[:-3], message_id="more than three bytes")
    settle(world, lambda: everybody_has(agents, [fits]), ms=2_000)


def test_in_a_small_network_a_larger_one_goes_by_links() -> None:
    world = World()
    nodes = world.join("a", "b", "c")
    agents = [node.agent(f"of {node.name}", lambda _: None) for node in nodes]
    nodes[0].link("b").cut()
    assert len(nodes[0].engine.sessions) == 1
    large = bytes(300_000)
    tokens, _ = nodes[0].engine.broadcast(AgentMessage(large), 0)
    assert len(tokens) == 2
    nodes[0].turn()
    world.until(lambda: all(token.done for token in tokens))
    assert [token.error for token in tokens] == [None, None]
    world.until(lambda: everybody_has(agents, [large]))
    nodes[0].link("b").cut()
    assert send(nodes[0], b"small") is None
    world.until(lambda: everybody_has(agents, [large, b"small"]))


def test_one_origin_waits_at_its_share_and_goes_on_as_what_it_sent_grows_old() -> None:
    world, nodes, agents = network(6, broadcasts_kept_max=80, broadcasts_young_ms=1000)
    world.run(60_000)
    share = [send(nodes[0], b"%d" % i) for i in range(20)]
    assert share == [None] * 20
    token = send(nodes[0], b"20")
    assert token is not None
    assert send(nodes[1], b"of another") is None
    world.run(990)
    assert not token.done
    world.until(lambda: token.done, ms=50)
    assert token.error is None
    settle(world, lambda: everybody_has(agents, [b"of another", *(b"%d" % i for i in range(21))]), ms=2_000)


def test_nobody_pushes_out_what_is_young() -> None:
    """The store of each is full with what came from all; whoever would push out a young one waits."""
    world, nodes, agents = network(8, broadcasts_kept_max=16, broadcasts_young_ms=1000)
    world.run(60_000)
    tokens = [send(node, b"%s %d" % (node.name.encode(), i)) for i in range(2) for node in nodes]
    assert tokens.count(None) >= 8
    sent = [b"%s %d" % (node.name.encode(), i) for i in range(2) for node in nodes]
    world.run(500)
    token = send(nodes[3], b"more")
    assert token is not None
    assert not token.done
    settle(world, lambda: token.done, ms=3_000)
    settle(world, lambda: everybody_has(agents, [*sent, b"more"]), ms=2_000)


def test_bytes_are_shared_likewise() -> None:
    world, nodes, _ = network(6, broadcasts_kept_bytes_max=80_000, broadcast_bytes_max=30_000)
    world.run(60_000)
    assert send(nodes[0], bytes(25_000)) is None, "one goes, however large"
    assert send(nodes[0], b"x") is not None
    assert send(nodes[1], bytes(10_000)) is None
    assert send(nodes[1], bytes(9_000)) is None
    assert send(nodes[1], bytes(2_000)) is not None


def test_what_waits_is_bounded_and_ends_in_time() -> None:
    limits = {"broadcasts_kept_max": 4, "broadcasts_young_ms": 60_000, "sends_waiting_max": 3}
    world, nodes, agents = network(6, **limits, send_wait_ms_max=500)
    node = nodes[0]
    world.run(60_000)
    assert send(node, b"goes") is None
    waiting = [send(node, b"waits"), send(node, b"expires", ttl=0.1), send(node, b"is given up")]
    tokens = [token for token in waiting if token is not None]
    assert len(tokens) == 3
    assert not any(token.done for token in tokens)
    over = send(node, b"one too many")
    assert over is not None
    assert type(over.error) is Congested
    tokens[2].cancel()
    world.run(150)
    assert [type(token.error) for token in tokens] == [type(None), Expired, type(None)]
    world.run(400)
    assert type(tokens[0].error) is Congested
    for token in (over, tokens[0], tokens[1]):
        error = token.error
        assert isinstance(error, NetworkError)
        assert error.definite
    world.run(1_000)
    assert everybody_has(agents, [b"goes"]), "the node's own among them"
    last = send(node, b"when it leaves")
    assert last is not None
    node.leave()
    assert type(last.error) is AgentUnreachable


# -- one node, by hand


def acquainted(world: World, config: EngineConfig | None = None) -> tuple[Node, Stranger]:
    """A node, and its one link, to a stranger who speaks of a third node."""
    node = world.node("m", config=config)
    node.control.found(UUID)
    stranger = Stranger(world, node, name="a")
    stranger.introduce()
    stranger.say(MEMBERS, told("x"))
    world.run(20)
    return node, stranger


def gossip(origin: str, payload: bytes, sequence: int = 1, age_ms: int = 0) -> bytes:
    return encode(Gossip(pack_id(origin, 1, sequence), 1, age_ms, False, payload))[1]


def test_it_is_a_message_as_in_a_message_frame() -> None:
    world = World()
    node, stranger = acquainted(world)
    assert send(node, b"x", ttl=2, message_id="7") is None
    world.run(20)
    (frame,) = [decode(GOSSIP, body) for body in stranger.bodies(GOSSIP)]
    assert isinstance(frame, Gossip)
    assert frame.payload[0] == MESSAGES == 2
    assert CHANGES == 1
    message = AgentMessage.decode(frame.payload[1:])
    assert (message.payload, message.to_agent, message.ttl, message.message_id) == (b"x", None, 2.0, "7")
    assert list(stranger.bodies(MESSAGE)) == []


def test_time_on_the_way_counts_against_its_time_to_live() -> None:
    world = World()
    node, stranger = acquainted(world)
    box = node.make("box")
    node.register(box)
    world.run(2_000)
    for sequence, (ttl, age_ms) in enumerate([(1.0, 400), (1.0, 999), (1.0, 1000), (0, 1900)], 1):
        body = AgentMessage(b"%d" % sequence, ttl=ttl).encode()
        stranger.say(GOSSIP, gossip("x", bytes((MESSAGES,)) + body, sequence, age_ms))
    world.run(0.5)
    assert [(m.payload, m.ttl, m.from_node) for m in box.take_all()] == [
        (b"1", 0.6, "x"),
        (b"2", 0.001, "x"),
        (b"4", 0.0, "x"),
    ]
    assert node.stats["messages_expired"] == 1


def test_what_is_no_message_to_all_is_counted_or_closes_the_link_of_who_says_it() -> None:
    world = World()
    node, stranger = acquainted(world)
    box = node.make("box")
    node.register(box)
    wrong = [
        b"",
        b"\x90",
        AgentMessage(b"", to_agent=7).encode(),
        AgentMessage(b"x").encode() + b"\x81\x0c\x92\x00\x02",
    ]
    for sequence, body in enumerate(wrong, 1):
        stranger.say(GOSSIP, gossip("x", bytes((MESSAGES,)) + body, sequence))
    world.run(20)
    assert node.control.broadcasts.refused == 4
    assert stranger.close is None, "it has only passed them on"
    stranger.say(GOSSIP, gossip("a", bytes((MESSAGES,)) + wrong[2]))
    world.until(lambda: stranger.ended)
    assert "expected a whole one, to all" in stranger.close.text
    assert box.take_all() == []


def test_a_group_on_the_tree_is_heeded() -> None:
    world = World()
    node, stranger = acquainted(world)
    inside, outside = node.make("in", groups=["g"]), node.make("out")
    node.register(inside, outside)
    for sequence, group in enumerate("gh", 1):
        body = AgentMessage(b"x", group=group).encode()
        stranger.say(GOSSIP, gossip("x", bytes((MESSAGES,)) + body, sequence))
    world.run(20)
    assert [len(agent.take_all()) for agent in (inside, outside)] == [1, 0]
    assert node.stats["multicasts_dropped"] == 1


# -- who does not read


def test_a_peer_that_does_not_read_is_told_later_and_gets_all() -> None:
    limits = {"broadcast_backlog_bytes_max": 100_000, "broadcasts_kept_bytes_max": 64_000_000}
    world, nodes, agents = network(8, weather=Weather(room_bytes=64 * 1024), **limits)
    slow, others = nodes[4], nodes[:4] + nodes[5:]
    slow.pause()
    sent = [b"%d " % i + bytes(20_000) for i in range(100)]
    for i, payload in enumerate(sent):
        assert send(others[i % 7], payload) is None
        world.run(5)
        assert all(s.control.waiting < 250_000 for node in others for s in node.engine.sessions.values())
    settle(world, lambda: everybody_has(agents[:4] + agents[5:], sent), ms=2_000)
    assert counted(others, "broadcasts_put_off") > 10
    slow.unpause()
    settle(world, lambda: everybody_has(agents, sent), ms=20_000)
    assert not any(node.told(Event.LINK_LOST) for node in nodes)


def test_floods_with_a_slow_receiver_stay_in_bounds_and_drop_no_link() -> None:
    limits = {
        "broadcast_backlog_bytes_max": 50_000,
        "broadcasts_kept_max": 400,
        "broadcasts_kept_bytes_max": 1_000_000,
        "control_bytes_max": 1_000_000,
        "send_wait_ms_max": 3_000,
    }
    world, nodes, agents = network(30, weather=Weather(room_bytes=32 * 1024), **limits)
    slow = nodes[17]
    slow.step_ns = 20 * MS
    tokens: list[Token] = []
    sent: list[bytes] = []

    def bounded(world: World) -> None:
        for node in nodes:
            stats = node.control.broadcasts.stats()
            assert stats["broadcasts_kept"] <= 400
            assert stats["broadcasts_kept_bytes"] <= 1_000_000
            assert all(s.control.waiting < 400_000 for s in node.engine.sessions.values())

    world.each_second(bounded)
    for i in range(250):
        for node in nodes[:4]:
            payload = b"%s %d" % (node.name.encode(), i)
            token = send(node, payload + bytes(1000))
            sent.append(payload)
            if token is not None:
                tokens.append(token)
        world.run(10)
    settle(world, lambda: all(token.done for token in tokens), ms=60_000)
    slow.step_ns = 0
    world.run(10_000)
    assert not any(node.told(Event.LINK_LOST) or node.told(Event.LOST) for node in nodes)
    failed = [token.error for token in tokens if token.error is not None]
    assert {type(error) for error in failed} <= {Congested}
    for agent in agents[:17] + agents[18:]:
        assert len(agent.received) == len(sent) - len(failed)
        assert len(set(agent.payloads)) == len(agent.received)
    assert len(set(agents[17].payloads)) == len(agents[17].received)
