"""Groups of agents: who is in them, what reaches them, once and as one frame for each node."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import pytest
from apart import apart, part
from harness import MESSAGE, MS, UUID, Agent, Node, Token, Weather, World
from strangers import Stranger

from agentnet_core.agent_record import AgentRecord
from agentnet_core.body import pack
from agentnet_core.config import GROUP_BYTES_MAX, EngineConfig
from agentnet_core.directory import Directory
from agentnet_core.errors import (
    AgentUnreachable,
    Congested,
    Expired,
    LimitReached,
    MessageTooLarge,
    NetworkError,
    NoSuchAgent,
    UsageError,
)
from agentnet_core.listing import GROUPS_MAX
from agentnet_core.message import AgentMessage
from agentnet_core.records import Event, MessageType

BROADCAST = MessageType.BROADCAST


def to(group: str, payload: bytes = b"x", **options: object) -> AgentMessage:
    return AgentMessage(payload, message_type=BROADCAST, group=group, **options)  # type: ignore[arg-type]


def send(node: Node, message: AgentMessage, from_agent: int = 0) -> tuple[list[Token], bool]:
    node.engine.now_ns = node.clock.now_ns
    tokens, reached = node.engine.broadcast(message, from_agent)
    node.turn()
    return tokens, reached


def got(agents: Iterable[Agent]) -> list[list[bytes]]:
    return [[message.payload for message in agent.take_all()] for agent in agents]


# -- who gets it


def test_it_reaches_every_agent_of_the_group_once_and_nobody_else() -> None:
    world = World()
    nodes = world.join("a", "b", "c")
    inside = [node.agent(f"in-{node.name}-{i}", groups=["g", "h"]) for node in nodes[:2] for i in range(3)]
    inside.append(nodes[1].agent("takes no broadcasts", groups=["g"], broadcasts=False))
    outside = [node.agent(f"out-{node.name}", groups=["h"] if node.name == "b" else []) for node in nodes]
    for payload in (b"small", bytes(200_000)):
        tokens, reached = send(nodes[0], to("g", payload, priority=3, message_id="m1"), inside[0].agent_id)
        assert reached
        world.until(lambda: all(agent.pending_messages == 1 for agent in inside))
        for agent in inside:  # the sender among them
            (message,) = agent.take_all()
            assert (message.payload, message.group, message.to_agent) == (payload, "g", None)
            assert (message.message_id, message.priority, message.message_type) == ("m1", 3, BROADCAST)
            assert (message.from_agent, message.from_node) == (inside[0].agent_id, "a")
        world.run(50)
        assert all(token.done and token.error is None for token in tokens)
    assert got(outside) == [[], [], []]
    assert nodes[2].stats["messages_received"] == 0


def test_thousands_on_one_node_are_one_frame() -> None:
    world = World()
    a, b = world.join("a", "b")
    made = [b.make(i, groups=["g"]) for i in range(1, 3001)]
    world.finish(b.register(*made))
    before = a.stats["messages_sent"]
    assert send(a, to("g")) == ([], True)
    world.until(lambda: all(agent.pending_messages == 1 for agent in made))
    assert a.stats["messages_sent"] - before == b.stats["messages_received"] == 1
    payloads = [message.payload for agent in made for message in agent.take_all()]
    assert all(payload is payloads[0] for payload in payloads)


def test_nobody_is_in_the_group() -> None:
    a, b = World().join("a", "b")
    b.agent("other", groups=["h"])
    for node in (a, b):
        with pytest.raises(
            NoSuchAgent, match="no agent is in group 'g' of network 'default', as far"
        ) as caught:
            send(node, to("g"))
        assert caught.value.definite


def test_who_joins_gets_it_and_who_leaves_does_not() -> None:
    world = World(weather=Weather(delay_ns=(10 * MS, 50 * MS)))
    a, b, c = world.join("a", "b", "c")
    agent, other = b.agent("x"), c.agent("y", groups=["h"])
    joined = b.regroup(agent, "g", "h")
    assert not joined.done
    world.finish(joined)
    for node in (a, b, c):  # at once
        send(node, to("g", b"%s to g" % node.name.encode()))
        send(node, to("h", b"%s to h" % node.name.encode()))
    world.until(lambda: agent.pending_messages == 6)
    world.finish(b.regroup(agent, "h"))
    for node in (a, b, c):
        with pytest.raises(NoSuchAgent):
            send(node, to("g"))
        assert [record.agent_id for record in node.control.directory.members("h")] == sorted(
            (agent.agent_id, other.agent_id)
        )
    agent.take_all()
    send(a, to("h"))
    world.until(lambda: agent.pending_messages == 1)
    assert list(agent.record.groups) == ["h"]


def test_to_join_again_is_confirmed_anew() -> None:
    world = World(weather=Weather(delay_ns=(10 * MS, 50 * MS)))
    _, b = world.join("a", "b")
    agent = b.agent("x")
    first, second = b.regroup(agent, "g"), b.regroup(agent, "g")
    assert not first.done
    world.finish(second)
    assert first.done
    assert first.error is None


def test_who_is_not_registered_is_in_no_group() -> None:
    world = World()
    a, b = world.join("a", "b")
    agent = b.agent("x", groups=["g"])
    b.agent("y", groups=["g"])
    replaced, agent = agent, b.agent("x", groups=["h"])
    with pytest.raises(NoSuchAgent, match="agent x is not registered any more, so it is in no group"):
        b.regroup(replaced, "g")
    send(a, to("g", b"to g"))
    send(a, to("h", b"to h"))
    world.until(lambda: agent.pending_messages)
    assert got([agent, replaced]) == [[b"to h"], []]
    b.unregister(agent)
    assert "h" not in b.engine.groups
    with pytest.raises(NoSuchAgent):
        b.regroup(agent, "g")
    world.run(50)
    with pytest.raises(NoSuchAgent, match="group 'h'"):
        send(a, to("h"))


def test_what_is_for_a_group_that_nobody_here_is_in_is_counted() -> None:
    world = World()
    a, b = world.join("a", "b")
    agent = b.agent("x", groups=["g"])
    b.regroup(agent)
    assert send(a, to("g")) == ([], True)  # which a does not know yet
    world.run(50)
    assert got([agent]) == [[]]
    assert b.stats["multicasts_dropped"] == 1
    assert len(a.engine.sessions) == 1


def test_a_node_that_drains_still_hands_out_what_comes() -> None:
    world = World()
    a, b = world.join("a", "b")
    agent = b.agent("x", groups=["g"])
    b.control.catalogue.withdraw()
    send(a, to("g"))
    world.until(lambda: agent.pending_messages == 1)
    with pytest.raises(NoSuchAgent):
        b.regroup(agent, "h")


def test_a_full_mailbox_drops_its_own_copy_and_tells() -> None:
    world = World()
    config = EngineConfig(mailbox_messages_max=4)
    a, b = world.join("a", "b", config=config)
    full, other = b.agent("full", groups=["g"]), b.agent("other", lambda _: None, groups=["g"])
    for i in range(6):
        send(a, to("g", b"%d" % i))
        world.run(5)
    world.until(lambda: len(other.received) == 6)
    assert got([full]) == [[b"0", b"1", b"2", b"3"]]
    assert len(b.told(Event.UNDELIVERABLE)) == b.stats["broadcasts_dropped"] == 2


# -- nodes without a link


def test_nodes_without_a_link_are_linked_for_it_and_no_others() -> None:
    world = World()
    a, b, c, d = nodes = apart(world, "a", "b", "c", "d")
    members = [node.agent(f"in-{node.name}", groups=["g"]) for node in (a, b, c)]
    d.agent("out")
    part(world, *nodes)
    tokens, reached = send(a, to("g", b"1"), members[0].agent_id)
    assert reached
    assert len(tokens) == 2
    send(a, to("g", b"2"))
    world.until(lambda: all(agent.pending_messages == 2 for agent in members))
    assert got(members) == [[b"1", b"2"]] * 3
    assert [token.error for token in tokens] == [None, None]
    assert sorted(a.engine.sessions) == ["b", "c"]
    assert not d.engine.sessions


def test_a_node_that_cannot_be_reached_fails_and_the_others_get_it() -> None:
    world = World()
    a, b, c = nodes = apart(world, "a", "b", "c", link_wait_ms_max=500)
    members = [node.agent(f"in-{node.name}", groups=["g"]) for node in (b, c)]
    part(world, *nodes)
    world.block("a", "c")
    tokens, reached = send(a, to("g"))
    assert not reached
    world.until(lambda: all(token.done for token in tokens))
    assert [type(token.error) for token in tokens] == [type(None), AgentUnreachable]
    error = tokens[1].error
    assert isinstance(error, NetworkError)
    assert error.definite
    world.run(50)
    assert got(members) == [[b"x"], []]


def test_what_waits_for_a_link_is_bounded_also_when_the_link_comes_up() -> None:
    world = World()
    a, b = apart(world, "a", "b", sends_waiting_max=10)
    box = b.agent("box", groups=["g"])
    part(world, a, b)
    tokens = [token for i in range(12) for token in send(a, to("g", b"%d" % i))[0]]
    assert [type(token.error) for token in tokens] == [type(None)] * 10 + [Congested] * 2
    waiting = a.engine.awaited["b"]
    world.until(lambda: box.pending_messages == 10)
    assert "b" not in a.engine.awaited
    assert waiting is not a.engine.sessions["b"]
    assert got([box]) == [[b"%d" % i for i in range(10)]]


# -- outcomes


def test_too_large_a_message_is_refused_before_anything_is_sent() -> None:
    world = World()
    a, b = world.join("a", "b", config=EngineConfig(message_bytes_max=100_000))
    members = [node.agent(f"in-{node.name}", groups=["g"]) for node in (a, b)]
    with pytest.raises(MessageTooLarge) as caught:
        send(a, to("g", bytes(100_001)))
    assert caught.value.definite
    send(a, to("g", bytes(100_000)))
    world.until(lambda: all(agent.pending_messages == 1 for agent in members))


def test_who_waits_too_long_or_expires_is_told() -> None:
    world = World()
    config = EngineConfig(send_wait_ms_max=200)
    a, b = world.join("a", "b", config=config)
    box = b.agent("box", groups=["g"])
    b.pause()
    sent = [token for i in range(200) for token in send(a, to("g", bytes(4000)))[0]]
    (late,), _ = send(a, to("g", b"late", ttl=0.05))
    assert sent
    world.until(lambda: late.done and all(token.done for token in sent), ms=1_000)
    assert {type(token.error) for token in sent} == {Congested}
    assert type(late.error) is Expired
    b.unpause()
    world.run(1_000)
    assert box.pending_messages == 200 - len(sent)


@pytest.mark.parametrize("seed", range(5))
def test_order_holds_with_broadcasts_and_large_ones(seed: int) -> None:
    world = World(seed)
    a, b = world.join("a", "b")
    box = b.agent("box", lambda _: None, groups=["g"])
    for i in range(100):
        payload = (b"%d " % i).ljust(150_000 if world.rng.random() < 0.1 else 5)
        if world.rng.random() < 0.5:
            send(a, to("g", payload))
        else:
            a.engine.broadcast(AgentMessage(payload), 0)
        world.run(world.rng.random())
    world.until(lambda: len(box.received) == 100)
    assert [int(payload.split(b" ")[0]) for payload in box.payloads] == list(range(100))


def test_a_strange_group_closes_the_link() -> None:
    world = World()
    node = world.node("m")
    node.control.found(UUID)
    for number, (to_agent, group) in enumerate([(None, 7), (None, ""), (None, "x" * 129), (5, "g")]):
        stranger = Stranger(world, node, name=f"a{number}")
        stranger.introduce()
        array = pack([1, to_agent, 1, 0, 5, 1, 0, 0, b"x"])
        stranger.say(MESSAGE, array + pack({8: group}), 1)
        world.run(50)
        assert stranger.close is not None
        assert "optional fields malformed" in str(stranger.close)


# -- bounds of what an agent says


def test_groups_are_bounded_and_checked() -> None:
    world = World()
    (node,) = world.join("a")
    agent = node.agent("x")
    most = [f"g{i}" for i in range(GROUPS_MAX)]
    world.finish(node.regroup(agent, *most))
    world.finish(node.regroup(agent, "y" * GROUP_BYTES_MAX))
    for groups, kind, said in (
        ([*most, "more"], LimitReached, "groups: 65, expected at most 64"),
        (["y" * (GROUP_BYTES_MAX + 1)], LimitReached, "129 bytes, expected at most 128"),
        ([""], UsageError, "group: expected a text, not empty"),
        ([7], UsageError, "group: expected a text, not empty, got 7"),
        ([[]], UsageError, "group: expected a text, not empty"),
        (["\udc80"], UsageError, "group: expected text that UTF-8 can hold"),
    ):
        with pytest.raises(kind, match=said) as caught:
            node.regroup(agent, *groups)  # type: ignore[arg-type]
        assert caught.value.definite
        with pytest.raises(kind, match=said):
            node.register(node.make("z", groups=groups))  # type: ignore[arg-type]
    assert agent.record.groups == ("y" * GROUP_BYTES_MAX,)
    assert node.control.directory.nodes_of("y" * GROUP_BYTES_MAX) == ["a"]
    assert "z" not in node.engine.routes


def test_groups_count_among_the_bytes_of_an_agent() -> None:
    world = World()
    config = EngineConfig(metadata_bytes_max=16)  # [] is one byte, and so is the head of a short text
    (node,) = world.join("a", config=config)
    agent = node.agent("x")
    world.finish(node.regroup(agent, "y" * 13))
    with pytest.raises(LimitReached, match="capabilities, groups and metadata take 17 bytes, over"):
        node.regroup(agent, "y" * 14)
    assert agent.record.groups == ("y" * 13,)
    with pytest.raises(LimitReached):
        node.register(node.make("z", groups=["y" * 14]))


def test_the_index_of_groups_is_what_the_records_say() -> None:
    """Two nodes that race for ids, and change what they say all the time."""
    rng = Random(7)
    a, b = (Directory(name, 1, EngineConfig()) for name in "ab")
    for _ in range(400):
        one, other = (a, b) if rng.random() < 0.5 else (b, a)
        agent_id = rng.randrange(1, 8)
        groups = tuple(rng.choice("xyz") for _ in range(rng.randrange(3)))
        if not one.is_mine(agent_id):
            if one.get(agent_id) is None:
                one.register([AgentRecord(agent_id, one.node_id, groups=groups)])
        elif rng.random() < 0.4:
            one.unregister([agent_id])
        else:
            one.regroup(agent_id, groups)
        if rng.random() < 0.1:
            other.forget(one.node_id)
        if rng.random() < 0.5:
            for source, target in ((a, b), (b, a)):
                for body in source.whole_list(source.node_id):
                    target.apply(source.node_id, target.read(body))
        for directory in (a, b):
            for group in "xyz":
                inside = [record for record in directory.agents() if group in record.groups]
                assert directory.members(group) == inside
                assert directory.select(group=group) == inside
                assert sorted(directory.nodes_of(group)) == sorted({record.node_id for record in inside})


def test_agents_are_selected_by_group_and_all_else() -> None:
    directory = Directory("a", 1, EngineConfig())
    records = [
        AgentRecord(1, "a", None, ("c",), {"k": "v"}, groups=("g", "h")),
        AgentRecord(2, "a", None, ("d",), groups=("g",)),
        AgentRecord(3, "a", None, ("c",)),
    ]
    directory.register(records)

    def ids(**filters: object) -> list[int]:
        return [record.agent_id for record in directory.select(**filters)]  # type: ignore[arg-type]

    assert ids(group="g") == [1, 2]
    assert ids(group="g", capability="c") == ids(group="g", metadata={"k": "v"}) == [1]
    assert ids(group="h", capability="d") == ids(group="nobody") == []
    assert ids(group="g", healthy=False) == []
