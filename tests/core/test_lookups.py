"""Agents that are unknown where somebody writes to them: their keepers are asked."""

from __future__ import annotations

from typing import Any

import pytest
from harness import AGENTS, MEMBERS, MESSAGE, MS, PULL, UUID, Node, Token, World, address_of
from rings import network
from strangers import Stranger

from agentnet_core.agent_record import AgentRecord
from agentnet_core.body import pack, unpack
from agentnet_core.catalogue import THERE, WHERE
from agentnet_core.config import EngineConfig
from agentnet_core.errors import (
    AgentExists,
    AgentUnreachable,
    Congested,
    NetworkError,
    NoSuchAgent,
    ProtocolError,
)
from agentnet_core.listing import read_pull, write_whole
from agentnet_core.lookups import IDS_MAX, Lookups, Place, Question, read_there, read_where, write_there
from agentnet_core.member_record import NodeRecord, Standing
from agentnet_core.records import agent_id_of
from agentnet_core.roster import encode_members

CONFIG = EngineConfig(mesh_nodes_max=3, keepers=1, lookup_ms_max=400, handshake_ms_max=200)


def members(*names: str, **more: Any) -> bytes:
    (body,) = encode_members([NodeRecord(name, 1, (address_of(name),), **more) for name in names])
    return body


def acquainted(world: World, config: EngineConfig = CONFIG) -> tuple[Node, Stranger]:
    """A node of a large network, and the only one that it is linked to."""
    node = world.node("m", config=config)
    node.control.found(UUID)
    stranger = Stranger(world, node, name="a")
    stranger.introduce()
    stranger.say(MEMBERS, members("a", "b", "c", "d"))
    world.run(20)
    return node, stranger


def kept_by(node: Node, keeper: str, *, name: str = "") -> int:
    """An agent id that ``keeper`` keeps."""
    ids = (agent_id_of(f"{name}{number}") if name else number for number in range(1, 9999))
    others = [keeper] if keeper != node.name else []
    return next(i for i in ids if node.control.catalogue._keepers_of([i]) == others)


def on_rings() -> tuple[World, list[Node]]:
    """Twelve nodes, of which none is linked to all."""
    return network(12, EngineConfig(mesh_nodes_max=3, overlay_rings=2))


def asked(stranger: Stranger) -> list[tuple[int, list[int]]]:
    return [read_where(body) for body in stranger.bodies(WHERE)]


def tell(stranger: Stranger, number: int, *places: Place) -> None:
    stranger.say(THERE, write_there(number, places))


def error_of(world: World, token: Token, ms: int = 1_000) -> BaseException | None:
    world.until(lambda: token.done, ms=ms)
    return token.error


# -- messages to whom this node does not know


def test_a_keeper_is_asked_whose_an_agent_is_and_the_message_goes_there() -> None:
    world = World()
    node, stranger = acquainted(world)
    source, sink = node.agent(kept_by(node, "m")), kept_by(node, "a")
    sent, asking = source.send(sink, b"one"), source.request(sink, b"two")
    world.run(20)
    [(number, ids)] = asked(stranger)
    assert ids == [sink], "once for both"
    tell(stranger, number, Place(sink, "a", 1, 7))
    world.run(20)
    [[wanted]] = [read_pull(body) for body in stranger.bodies(PULL)]
    assert wanted == ("a", 1, 0)
    assert not sent.done
    stranger.say(AGENTS, write_whole("a", 1, 7, [AgentRecord(sink, "a")], 999)[0])
    world.until(lambda: sent.done)
    assert sent.error is None
    world.run(20)
    first, second = [unpack("MESSAGE", body) for body in stranger.bodies(MESSAGE)]
    assert (first[1], first[8]) == (second[1], b"one") or (first[1], second[8]) == (sink, b"two")
    assert not asking.done
    assert not node.engine.awaited
    assert len(node.control.catalogue._lookups) == 0


@pytest.mark.parametrize("how", ["send", "request"])
def test_what_no_keeper_knows_does_not_exist(how: str) -> None:
    world = World()
    node, stranger = acquainted(world)
    source, sink = node.agent(kept_by(node, "m")), kept_by(node, "a")
    token = getattr(source, how)(sink, b"x")
    world.run(20)
    [(number, _)] = asked(stranger)
    assert not token.done
    tell(stranger, number)
    error = error_of(world, token, ms=20)
    assert isinstance(error, NoSuchAgent)
    assert error.definite
    assert sink not in node.engine.routes
    assert not node.engine.awaited


def test_who_answers_nothing_is_named() -> None:
    world = World()
    node, _ = acquainted(world)
    source, sink = node.agent(kept_by(node, "m")), kept_by(node, "a", name="sink")
    token = source.send(sink, b"x")
    world.run(390)
    assert not token.done
    error = error_of(world, token, ms=50)
    assert isinstance(error, AgentUnreachable)
    assert "did not answer: a" in str(error)
    assert error.definite


def test_a_keeper_that_cannot_be_reached_is_not_waited_for() -> None:
    world = World()
    node, _ = acquainted(world, EngineConfig(mesh_nodes_max=3, keepers=1, lookup_ms_max=4_000))
    token = node.agent(kept_by(node, "m")).send(kept_by(node, "b"), b"x")
    error = error_of(world, token, ms=300)  # nobody listens at the address of b
    assert isinstance(error, AgentUnreachable)
    assert "did not answer: b" in str(error)


def test_a_link_that_goes_takes_the_answer_with_it() -> None:
    world = World()
    node, stranger = acquainted(world)
    token = node.agent(kept_by(node, "m")).send(kept_by(node, "a"), b"x")
    world.run(20)
    node.engine.down(stranger.session, NetworkError("gone"))
    node.turn()
    assert isinstance(error_of(world, token, ms=20), AgentUnreachable)


def test_an_agent_whose_list_does_not_come_is_not_reached() -> None:
    world = World()
    node, stranger = acquainted(world)
    sink = kept_by(node, "a")
    token = node.agent(kept_by(node, "m")).send(sink, b"x")
    world.run(20)
    [(number, _)] = asked(stranger)
    tell(stranger, number, Place(sink, "d", 1, 7))
    error = error_of(world, token)
    assert isinstance(error, AgentUnreachable)
    assert "node d" in str(error)
    assert "list" in str(error)


def test_send_nowait_does_not_wait_for_an_answer_but_asks() -> None:
    world = World()
    node, stranger = acquainted(world)
    source, sink = node.agent(kept_by(node, "m")), kept_by(node, "a")
    with pytest.raises(Congested, match="not there yet"):
        source.send_nowait(sink, b"x")
    world.run(20)
    assert len(asked(stranger)) == 1


def test_an_agent_that_is_registered_here_meanwhile_gets_what_waited() -> None:
    world = World()
    node, stranger = acquainted(world)
    source, sink = node.agent(kept_by(node, "m")), kept_by(node, "a")
    sent = source.send(sink, b"x")
    world.run(20)
    made = node.make(sink)
    token = node.register(made)
    world.run(20)
    (_, _), (number, _) = asked(stranger)
    tell(stranger, number)
    world.until(lambda: sent.done)
    assert sent.error is None
    assert made.pending_messages == 1
    assert not token.done, "the keeper has not confirmed"


def test_who_leaves_looks_for_nobody() -> None:
    world = World()
    node, _ = acquainted(world)
    source, sink = node.agent(kept_by(node, "m")), kept_by(node, "a")
    token = source.send(sink, b"x")
    world.run(20)
    node.leave()
    assert isinstance(error_of(world, token, ms=20), AgentUnreachable)
    with pytest.raises(NoSuchAgent):
        source.send(sink, b"y")


@pytest.mark.parametrize("asked", [False, True])
def test_who_leaves_lets_nobody_wait_for_a_registration(asked: bool) -> None:
    world = World()
    node, stranger = acquainted(world)
    mine = kept_by(node, "a")
    token = node.register(node.make(mine))
    world.run(20)
    if asked:
        tell(stranger, 1)
        world.run(20)
    assert (mine in node.engine.ports) is asked
    assert not token.done
    node.leave()
    world.until(lambda: token.done, ms=20)
    assert isinstance(token.error, AgentUnreachable) is not asked


@pytest.mark.parametrize("past", [False, True])
def test_so_many_agents_are_looked_for_and_no_more(past: bool) -> None:
    world = World()
    node, _ = acquainted(world, EngineConfig(mesh_nodes_max=3, keepers=1, lookups_max=3))
    source = node.agent(kept_by(node, "m"))
    tokens = [source.send(f"nobody-{number}", b"x") for number in range(3)]
    assert len(node.control.catalogue._lookups) == 3
    again = source.send("nobody-1", b"y")
    assert not again.done, "that one is looked for already"
    if past:
        with pytest.raises(Congested, match="lookups_max"):
            source.send("nobody-3", b"x")
    assert all(error_of(world, token, ms=3_000) for token in [*tokens, again])
    assert len(node.control.catalogue._lookups) == 0
    source.send("nobody-3", b"x")


def test_in_a_mesh_nobody_is_asked() -> None:
    world = World()
    a, b, _ = world.join("a", "b", "c")
    with pytest.raises(NoSuchAgent):
        a.agent("source").send("nobody", b"x")
    assert not b.engine.awaited


# -- registrations


def test_an_id_that_a_keeper_knows_another_owner_of_is_refused_and_nothing_is_told() -> None:
    world = World()
    node, stranger = acquainted(world)
    before = node.control.directory.version
    mine = kept_by(node, "a")
    token = node.register(node.make(mine))
    world.run(20)
    [(number, ids)] = asked(stranger)
    assert ids == [mine]
    tell(stranger, number, Place(mine, "x", 1, 1))
    error = error_of(world, token, ms=20)
    assert isinstance(error, AgentExists)
    assert error.definite
    assert "'x'" in str(error)
    assert node.control.directory.version == before
    assert mine not in node.engine.ports


@pytest.mark.parametrize("owner", ["nobody", "lost", "left", "replaced", "me before"])
def test_an_id_whose_owner_is_gone_is_free(owner: str) -> None:
    world = World()
    node, stranger = acquainted(world)
    stranger.say(MEMBERS, members("c", standing=Standing.LEFT))
    mine = kept_by(node, "a")
    token = node.register(node.make(mine))
    world.run(20)
    [(number, _)] = asked(stranger)
    places = {
        "nobody": [],
        "lost": [Place(mine, "d", 1, 1)],
        "left": [Place(mine, "c", 1, 1)],
        "replaced": [Place(mine, "b", 0, 1)],
        "me before": [Place(mine, "m", 0, 1)],
    }
    if owner == "lost":
        node.control.membership._nodes["d"].lost = True
    tell(stranger, number, *places[owner])
    world.run(20)
    assert mine in node.engine.ports
    assert not token.done, "the keeper has not confirmed"


def test_a_registration_goes_on_without_who_does_not_answer() -> None:
    world = World()
    node, _ = acquainted(world)
    mine = kept_by(node, "a")
    token = node.register(node.make(mine))
    world.run(390)
    assert mine not in node.engine.ports
    world.run(50)
    assert mine in node.engine.ports
    assert not token.done


def test_a_registration_that_was_given_up_does_not_happen() -> None:
    world = World()
    node, stranger = acquainted(world)
    mine = kept_by(node, "a")
    token = node.register(node.make(mine))
    world.run(20)
    token.cancel()
    [(number, _)] = asked(stranger)
    tell(stranger, number)
    world.run(20)
    assert mine not in node.engine.ports


def test_a_later_owner_is_refused_though_its_id_is_lower() -> None:
    world, nodes = on_rings()
    for number in range(1, 60):
        owner, other = nodes[-1 - number % 3], nodes[number % 3]
        world.finish(owner.register(owner.make(number)))
        try:
            token = other.register(other.make(number))
        except AgentExists:
            continue  # it has heard of it already
        error = error_of(world, token)
        assert isinstance(error, AgentExists), f"agent {number}"
        assert error.definite
    world.run(1_000)
    assert all(len(node.control.directory) == 59 for node in nodes)


def test_who_is_registered_is_reached_at_once_from_everywhere() -> None:
    world, nodes = on_rings()
    sources = [node.agent(f"of-{node.name}") for node in nodes]
    lookups = 0
    for number in range(1, 40):
        owner = nodes[number % 12]
        world.finish(owner.register(owner.make(number, lambda message: b"here")))
        asking = [source.request(number, b"?") for source in sources]
        lookups += sum(bool(len(node.control.catalogue._lookups)) for node in nodes)
        assert [world.finish(token).answer for token in asking] == [b"here"] * 12
    assert lookups, "all knew before they were told: nothing was shown"


# -- questions and frames


def test_a_question_is_over_when_all_have_answered_or_cannot() -> None:
    lookups = Lookups(CONFIG)
    question = Question(lambda question: None, 5)
    frames = lookups.ask(question, {"a": [1, 2], "b": [2], "c": [2]})
    assert [(who, read_where(body)) for who, _, body in frames] == [
        ("a", (1, [1, 2])),
        ("b", (2, [2])),
        ("c", (3, [2])),
    ]
    assert lookups.there("a", 1, [Place(1, "x", 1, 1)]) is question
    assert lookups.there("a", 1, [Place(1, "y", 1, 1)]) is None, "once"
    assert lookups.there("b", 2, [Place(1, "z", 1, 1), Place(2, "z", 1, 1)]) is question
    assert not question.is_over
    lookups.lost("b")
    assert not question.is_over
    lookups.lost("c")
    assert question.is_over
    assert lookups.next_deadline_ns() == 0
    assert lookups.tick(10) == [question]
    assert {i: place.owner for i, place in question.found.items()} == {1: "x", 2: "z"}
    assert list(question.silent) == ["c"]
    assert not question.is_late
    assert lookups.next_deadline_ns() == 15
    assert lookups.tick(14) == []
    assert lookups.tick(15) == [question]
    assert question.is_late
    lookups.close(question)
    assert lookups.next_deadline_ns() == 2**63 - 1


def test_many_ids_are_asked_for_in_parts() -> None:
    lookups = Lookups(CONFIG)
    question = Question(lambda question: None, 5)
    ids = list(range(1, IDS_MAX + 2))
    frames = lookups.ask(question, {"a": ids})
    assert [len(read_where(body)[1]) for _, _, body in frames] == [IDS_MAX, 1]
    longest = Place(2**64 - 1, "n" * 64, 2**64 - 1, 2**63 - 1)
    assert len(write_there(2**64 - 1, [longest] * IDS_MAX)) < 49_152


def test_an_answer_is_taken_of_who_was_asked() -> None:
    lookups = Lookups(CONFIG)
    lookups.ask(Question(lambda question: None, 5), {"a": [1]})
    with pytest.raises(ProtocolError, match="THERE number"):
        lookups.there("b", 1, [])


@pytest.mark.parametrize(
    "body",
    [[], [1], [1, 2], [1, [0]], [1, ["a"]], [-1, [1]], [1, [1] * (IDS_MAX + 1)], [1, [1], 2], {}, 7],
)
def test_what_no_where_is_is_refused(body: object) -> None:
    with pytest.raises(ProtocolError):
        read_where(pack(body))


@pytest.mark.parametrize(
    "place",
    [[], [1, "a", 1], [0, "a", 1, 1], [1, "", 1, 1], [1, "a", -1, 1], [1, "a", 1, 2**63], [1, "a", 1, 1, 1]],
)
def test_what_no_there_is_is_refused(place: object) -> None:
    assert read_there(pack([3, [[1, "a", 2, 4]]])) == (3, [Place(1, "a", 2, 4)])
    with pytest.raises(ProtocolError):
        read_there(pack([3, [place]]))


def test_a_node_tells_what_it_knows() -> None:
    world = World()
    node, stranger = acquainted(world)
    mine = node.agent(kept_by(node, "m")).agent_id
    theirs = kept_by(node, "b")
    stranger.say(AGENTS, write_whole("b", 1, 4, [AgentRecord(theirs, "b")], 999)[0])
    stranger.say(WHERE, pack([9, [mine, theirs, 777]]))
    world.run(20)
    [(number, places)] = [read_there(body) for body in stranger.bodies(THERE)]
    version = node.control.directory.version
    assert (number, places) == (
        9,
        [Place(mine, "m", node.engine.incarnation, version), Place(theirs, "b", 1, 4)],
    )
    assert world.now_ns < 5_000 * MS
