"""In whose name a node may speak, where names are proven: in that of no other node's agent."""

from __future__ import annotations

import pytest
from harness import AGENTS, MEMBERS, MESSAGE, REFUSED, UUID, Agent, Node, World
from strangers import Pen, Stranger

from agentnet_core.agent_record import AgentRecord
from agentnet_core.body import pack, unpack
from agentnet_core.errors import NotOwner
from agentnet_core.listing import write_change, write_whole
from agentnet_core.records import Event
from agentnet_core.roster import encode_members

COMMAND, QUERY, BROADCAST = 1, 2, 4


def acquainted(world: World) -> tuple[Node, Agent, Stranger]:
    """A node with an agent 1, which takes messages, and somebody linked to it who owns agent 2."""
    node = world.node("m")
    node.control.found(UUID)
    sink = node.agent(1, lambda message: None)
    stranger = Stranger(world, node, name="a")
    stranger.introduce()
    own, pen = AgentRecord(2, "a"), Pen(world, "a") if world.notary is not None else None
    head = None
    if pen is not None:
        head = pen.head(1, own)
        stranger.say(MEMBERS, encode_members([pen.record()])[0])
    stranger.say(AGENTS, write_whole("a", 1, 1, [own], 999, head)[0])
    world.run(20)
    return node, sink, stranger


def say(stranger: Stranger, source: int, *, to: int | None = 1, kind: int = COMMAND, seq: int = 7) -> None:
    stranger.say(MESSAGE, pack([source, to, seq, 9 if kind == QUERY else 0, kind, 1, 0, 0, b"x"]))
    stranger.world.run(20)


def refusals(stranger: Stranger) -> list[tuple[int, int]]:
    return [
        (seq, code) for seq, _, _, code, _ in (unpack("REFUSED", body) for body in stranger.bodies(REFUSED))
    ]


@pytest.mark.parametrize("kind", [COMMAND, QUERY, BROADCAST])
@pytest.mark.parametrize("source", [1, 3])
def test_who_speaks_in_anothers_name_is_refused(kind: int, source: int) -> None:
    world = World(secure=True)
    node, sink, stranger = acquainted(world)
    if source == 3:
        world.finish(world.node("b").join("m"))
        world.nodes["b"].agent(3)
    world.run(20)
    say(stranger, 2)
    say(stranger, source, to=None if kind == BROADCAST else 1, kind=kind, seq=8)
    assert [message.from_agent for message in sink.received] == [2]
    assert refusals(stranger) == [(8, NotOwner.code)]
    assert node.stats["messages_forged"] == 1
    assert not stranger.session.closed, "one message is refused, not the link"


@pytest.mark.parametrize("source", [0, 2, 99])
def test_its_own_agents_the_node_and_whom_nobody_knows_yet_may_speak(source: int) -> None:
    world = World(secure=True)
    _, sink, stranger = acquainted(world)
    for seq in range(3):
        say(stranger, source, seq=seq + 1)
    assert [message.from_agent for message in sink.received] == [source] * 3
    assert refusals(stranger) == []


def test_who_was_found_to_be_an_owner_is_so_until_there_is_another() -> None:
    world = World(secure=True)
    node, sink, stranger = acquainted(world)
    say(stranger, 2, seq=1)
    say(stranger, 2 + 64, seq=2)
    say(stranger, 2, seq=3)
    head = Pen(world, "a").head(2)
    stranger.say(AGENTS, write_change("a", 1, 1, [], [2], 999, lambda version, part: head)[0])
    world.run(20)
    say(stranger, 2, seq=4)  # sent before it was unregistered
    node.register(node.make(2))
    say(stranger, 2, seq=5)
    assert len(sink.received) == 4
    assert refusals(stranger) == [(5, NotOwner.code)]


def test_where_names_are_not_proven_nobody_asks() -> None:
    world = World()
    _, sink, stranger = acquainted(world)
    say(stranger, 1)
    assert len(sink.received) == 1


def test_the_sender_learns_that_it_is_not_the_owner_any_more() -> None:
    """After a partition two nodes own an agent: what the later one sends until it knows is refused."""
    world = World(secure=True)
    a, b = world.join("a", "b")
    sink = a.agent(9, lambda message: None)
    loser = b.agent(5)
    claim = AgentRecord(5, "a")
    a.control.directory._winners[5] = claim
    loser.send(9, b"x")
    world.run(50)
    assert sink.received == []
    (event,) = b.told(Event.UNDELIVERABLE)
    assert isinstance(event.error, NotOwner)
    assert event.error.definite
