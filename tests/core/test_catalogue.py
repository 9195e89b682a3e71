"""Lists between whole engines: pulled where they are lacking, of others where the owner is not linked."""

from __future__ import annotations

from itertools import pairwise

import pytest
from harness import AGENTS, CONFIRM, MEMBERS, MS, PULL, UUID, Node, World, address_of
from strangers import Stranger

from agentnet_core.agent_record import AgentRecord
from agentnet_core.claims import Early
from agentnet_core.config import BODY_BYTES, EngineConfig
from agentnet_core.gossip import CHANGES, GOSSIP, Gossip, decode, encode, pack_id
from agentnet_core.listing import (
    Capabilities,
    Confirm,
    read_pull,
    read_update,
    write_change,
    write_pulls,
    write_whole,
)
from agentnet_core.member_record import NodeRecord
from agentnet_core.records import Event
from agentnet_core.roster import encode_members

CONFIG = EngineConfig(handshake_ms_max=500, sync_interval_ms=2_000)


def line(world: World, *names: str) -> list[Node]:
    """Nodes of which each reaches only the one before it and the one after it."""
    nodes = [world.node(name, config=CONFIG) for name in names]
    for at, name in enumerate(names):
        for other in names[at + 2 :]:
            world.block(name, other)
            world.block(other, name)
    nodes[0].control.found(UUID)
    for before, node in pairwise(nodes):
        world.finish(node.join(before.name))
    return nodes


def known(node: Node) -> list[str]:
    return [record.label for record in node.control.directory.agents()]


def acquainted(world: World, config: EngineConfig = CONFIG) -> tuple[Node, Stranger]:
    """A node, and somebody linked to it."""
    node = world.node("m", config=config)
    node.control.found(UUID)
    stranger = Stranger(world, node, name="a")
    stranger.introduce()
    stranger.say(MEMBERS, members("a"))
    return node, stranger


def members(*names: str, listed: int = 0) -> bytes:
    (body,) = encode_members([NodeRecord(name, 1, (address_of(name),), listed=listed) for name in names])
    return body


def pulled(stranger: Stranger) -> list[tuple[str, int, int]]:
    return [item for body in stranger.bodies(PULL) for item in read_pull(body)]


def test_who_joins_in_a_line_knows_the_agents_of_all() -> None:
    world = World()
    a, b, c = line(world, "a", "b", "c")
    for node in (a, b, c):
        node.agent(f"of-{node.name}")
    world.until(lambda: len(c.control.directory) == 3)
    d = world.node("d", config=CONFIG)
    for name in "ab":
        world.block(name, "d")
        world.block("d", name)
    world.finish(d.join("c"))
    assert sorted(known(d)) == ["of-a", "of-b", "of-c"]
    assert list(d.engine.sessions) == ["c"]


@pytest.mark.parametrize("count", [1, 2000])
def test_what_is_registered_far_away_is_known_everywhere_soon(count: int) -> None:
    world = World()
    nodes = line(world, "a", "b", "c", "d")
    for node in nodes:
        node.register(*[node.make(f"{number}-of-{node.name}") for number in range(count)])
    world.until(lambda: all(len(node.control.directory) == 4 * count for node in nodes), ms=500)
    nodes[0].unregister(*nodes[0].engine.ports.values())
    world.until(lambda: all(len(node.control.directory) == 3 * count for node in nodes), ms=500)
    assert len({node.control.membership.digest() for node in nodes}) == 1


def test_the_agents_of_who_is_lost_go_where_it_was_never_linked() -> None:
    world = World()
    a, b, c = line(world, "a", "b", "c")
    a.agent("of-a")
    world.until(lambda: known(c) == ["of-a"], ms=30_000)
    a.kill()
    world.until(lambda: not known(b) and not known(c), ms=30_000)
    again = world.node("a", config=CONFIG, incarnation=2)
    world.finish(again.join("b"))
    again.agent("anew")
    world.until(lambda: known(c) == ["anew"], ms=30_000)


def test_a_list_breaks_off_with_its_link_and_comes_over_another() -> None:
    world = World()
    a, b, c = world.join("a", "b", "c")
    a.register(*[a.make(f"agent-{number}") for number in range(5_000)])
    world.until(lambda: len(b.control.directory) == len(c.control.directory) == 5_000)
    d = world.node("d")
    token = d.join("b")
    world.until(lambda: 0 < len(d.control.directory) < 5_000)
    assert d.control.directory.held("a") == (0, 0)
    asked = d.control.catalogue._pulls._wants["a"].asked
    d.link(asked).cut()
    world.finish(token)
    assert len(d.control.directory) == 5_000


def test_a_list_that_was_heard_of_is_asked_for_at_once_and_a_change_is_waited_for() -> None:
    world = World()
    node, stranger = acquainted(world)
    stranger.say(MEMBERS, members("a", listed=3))
    world.run(20)
    assert pulled(stranger) == [("a", 1, 0)]
    stranger.say(AGENTS, write_whole("a", 1, 3, [AgentRecord(5, "a")], 999)[0])
    stranger.say(AGENTS, write_change("a", 1, 4, [AgentRecord(7, "a")], [], 999)[0])
    world.run(CONFIG.pull_delay_ms - 20)
    assert pulled(stranger) == [("a", 1, 0)]
    assert known(node) == ["5"]
    world.run(40)
    assert pulled(stranger) == [("a", 1, 0), ("a", 1, 3)]
    stranger.say(AGENTS, write_change("a", 1, 3, [AgentRecord(6, "a")], [], 999)[0])
    world.run(20)
    assert known(node) == ["5", "6", "7"]
    assert [Confirm.decode(body) for body in stranger.bodies(CONFIRM)] == [
        Confirm("a", 1, version) for version in (3, 5)
    ]
    assert node.control.catalogue.complete


def test_of_who_is_not_known_to_live_nothing_is_taken() -> None:
    world = World()
    node, stranger = acquainted(world)
    stranger.say(AGENTS, write_whole("x", 1, 1, [AgentRecord(5, "x")], 999)[0])
    stranger.say(AGENTS, write_whole("a", 7, 1, [AgentRecord(6, "a")], 999)[0])
    world.run(20)
    assert known(node) == []
    stranger.say(MEMBERS, members("x", listed=1))
    stranger.say(AGENTS, write_whole("x", 1, 1, [AgentRecord(5, "x")], 999)[0])
    world.run(20)
    assert known(node) == ["5"]


def test_lists_are_sent_to_who_asks_and_has_less() -> None:
    world = World()
    node, stranger = acquainted(world)
    node.register(node.make(5))
    world.run(20)
    before = len(list(stranger.bodies(AGENTS)))
    (body,) = write_pulls([("m", 1, 1), ("nobody", 1, 0)])
    stranger.say(PULL, body)
    (body,) = write_pulls([("m", 2, 0)])
    stranger.say(PULL, body)
    world.run(20)
    assert len(list(stranger.bodies(AGENTS))) == before
    (body,) = write_pulls([("m", 1, 0)] * 9)
    stranger.say(PULL, body)
    world.run(20)
    assert list(stranger.bodies(AGENTS))[before:] == node.control.directory.whole_list("m")


def test_a_join_is_over_once_no_list_is_lacking() -> None:
    world = World()
    (a,) = world.join("a")
    a.agent("of-a")
    stranger = Stranger(world, a, name="0")
    stranger.introduce()
    stranger.say(MEMBERS, members("0", listed=4))
    world.run(500)
    joiner = world.node("j")
    token = joiner.join("a")
    world.run(2_000)
    assert known(joiner) == ["of-a"]
    assert not token.done, "the list of 0 is lacking"
    stranger.say(AGENTS, write_whole("0", 1, 4, [AgentRecord(5, "0")], 999)[0])
    world.finish(token, ms=3_000)
    assert sorted(known(joiner)) == ["5", "of-a"]
    assert world.now_ns < 6_000 * MS


def test_events_of_agents_tell_of_those_that_came_over_others() -> None:
    world = World()
    a, _, c = line(world, "a", "b", "c")
    a.agent("of-a")
    world.until(lambda: c.told(Event.AGENT_REGISTERED), ms=30_000)
    (event,) = c.told(Event.AGENT_REGISTERED)
    assert (event.node_id, event.name) == ("a", "of-a")


# -- keepers


LARGE = EngineConfig(mesh_nodes_max=3, keepers=2, register_ms_max=20_000)


def keepers_of(node: Node, agent_id: int) -> list[str]:
    return node.control.catalogue._keepers_of([agent_id])


def kept_by_others(node: Node, count: int) -> int:
    """An agent id that so many other nodes keep."""
    return next(i for i in range(1, 1000) if len(keepers_of(node, i)) == count)


def test_a_registration_in_a_large_network_waits_for_the_keepers_alone() -> None:
    world = World()
    nodes = world.join(*"abcdefgh", config=LARGE)
    owner = nodes[0]
    agent_id = kept_by_others(owner, 2)
    keepers = keepers_of(owner, agent_id)
    assert all(keepers_of(node, agent_id) == keepers for node in nodes if node.name not in keepers)
    for node in nodes[1:]:
        if node.name not in keepers:
            node.pause()
    token = owner.register(owner.make(agent_id))
    world.until(lambda: token.done, ms=50)
    assert token.error is None
    assert all(known(world.nodes[name]) == [str(agent_id)] for name in keepers)


def test_a_keeper_that_is_lost_gives_way_to_the_next() -> None:
    world = World()
    nodes = world.join(*"abcdefgh", config=LARGE)
    owner = nodes[0]
    agent_id = kept_by_others(owner, 2)
    stays, goes = keepers_of(owner, agent_id)
    world.nodes[goes].pause()
    token = owner.register(owner.make(agent_id))
    world.run(1_000)
    assert not token.done, f"{goes} has not confirmed"
    world.nodes[goes].kill(silently=True)
    world.until(lambda: token.done, ms=10_000)
    assert token.error is None
    after = keepers_of(owner, agent_id)
    assert goes not in after
    assert stays in after or len(after) < 2
    confirmations = owner.control.catalogue.registrations._confirmations
    assert all(confirmations._confirmed[name] == 1 for name in after)


def test_a_keeper_whose_link_was_down_is_asked_again() -> None:
    world = World()
    nodes = world.join(*"abcdefgh", config=LARGE)
    owner = nodes[0]
    agent_id = kept_by_others(owner, 2)
    keeper = keepers_of(owner, agent_id)[0]
    owner.link(keeper).cut()
    token = owner.register(owner.make(agent_id))
    world.finish(token, ms=5_000)
    assert keeper in owner.engine.sessions


# -- the tree


def test_in_a_mesh_changes_go_over_each_link_and_elsewhere_on_the_tree() -> None:
    world = World()
    node, stranger = acquainted(world)
    node.register(node.make(5))
    world.run(20)
    (change,) = stranger.bodies(AGENTS)
    stranger.say(MEMBERS, members("x"))
    world.run(20)
    node.register(node.make(6))
    world.run(20)
    assert list(stranger.bodies(AGENTS)) == [change]
    ((_, payload),) = [tree_payload(body) for body in stranger.bodies(GOSSIP)]
    assert payload[:1] == bytes((CHANGES,))
    assert payload[1:] == write_change("m", 1, 1, [AgentRecord(6, "m")], [], 999)[0]


def tree_payload(body: bytes) -> tuple[str, bytes]:
    frame = decode(GOSSIP, body)
    assert isinstance(frame, Gossip)
    return frame.origin, frame.payload


def gossip(origin: str, payload: bytes, sequence: int = 1) -> bytes:
    return encode(Gossip(pack_id(origin, 1, sequence), 1, 0, False, payload))[1]


def test_a_change_may_overtake_the_news_of_its_owner() -> None:
    world = World()
    node, stranger = acquainted(world)
    for sequence, agent in enumerate((5, 6), 1):
        (change,) = write_change("x", 1, sequence - 1, [AgentRecord(agent, "x")], [], 999)
        stranger.say(GOSSIP, gossip("x", bytes((CHANGES,)) + change, sequence))
    world.run(20)
    assert known(node) == []
    stranger.say(MEMBERS, members("x"))
    world.run(20)
    assert known(node) == ["5", "6"]
    assert not any(stranger.bodies(PULL)), "nobody need be asked"


@pytest.mark.parametrize("us", [0, 50, 100, 200, 400])
def test_who_comes_and_cannot_be_linked_hears_what_was_told_to_links_alone(us: int) -> None:
    for seed in range(4):
        world = World(seed)
        a, b = world.join("a", "b")
        late = world.node("late")
        world.network.partition(["a"], ["late"])
        late.join("b")
        world.until(lambda late=late, b=b: late.name in b.engine.sessions)
        world.run(us / 1000)
        a.agent("just registered")
        world.until(lambda late=late: late.control.directory.get("just registered"), ms=3_000)


def test_of_changes_that_nobody_owns_yet_some_are_kept() -> None:
    early = Early(2)
    updates = [read_update(write_change(owner, 1, 0, [], [7], 999)[0], Capabilities()) for owner in "xyz"]
    for update in updates:
        early.keep(update.owner, "a", update)
    assert [early.take(owner) for owner in "xyz"] == [[], [("a", updates[1])], [("a", updates[2])]]
    assert early.take("y") == []


def test_a_change_comes_on_the_tree_from_its_owner_alone() -> None:
    world = World()
    node, stranger = acquainted(world)
    stranger.say(MEMBERS, members("x"))
    (change,) = write_change("x", 1, 0, [AgentRecord(5, "x")], [], 999)
    stranger.say(GOSSIP, gossip("x", bytes((CHANGES,)) + change))
    world.run(20)
    assert known(node) == ["5"]
    (forged,) = write_change("x", 1, 1, [AgentRecord(6, "x")], [], 999)
    for sequence, payload in enumerate((bytes((CHANGES,)) + forged, b"\x01\x90", b"\xc8later", b""), 1):
        stranger.say(GOSSIP, gossip("y", payload, sequence))
    world.run(20)
    assert known(node) == ["5"]
    assert node.control.broadcasts.refused == 4
    assert stranger.close is None, "it has only passed them on"
    stranger.say(GOSSIP, gossip("a", b"\x01\x90"))
    world.until(lambda: stranger.ended)
    assert "AGENTS: expected" in stranger.close.text


def test_the_largest_agent_fits_the_tree_whatever_users_may_send() -> None:
    world = World()
    config = EngineConfig(metadata_bytes_max=BODY_BYTES, broadcast_bytes_max=1)
    node, stranger = acquainted(world, config)
    stranger.say(MEMBERS, members("x"))
    world.run(20)
    node.register(node.make("n" * 256, metadata={"about": "x" * (BODY_BYTES - 30)}))
    world.run(20)
    assert len([tree_payload(body) for body in stranger.bodies(GOSSIP)]) == 1
