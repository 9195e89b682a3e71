"""More nodes than a mesh takes: each links to a few, and all the same knows, and is told, as much."""

from __future__ import annotations

import pytest
from harness import Node
from rings import agreed, network, settle

from agentnet_core.config import EngineConfig
from agentnet_core.records import Event

CONFIG = EngineConfig(mesh_nodes_max=4, overlay_rings=2)
LINKS_MAX = 2 * CONFIG.overlay_rings


def lost(node: Node) -> list[str]:
    return sorted(event.node_id for event in node.told(Event.LOST))


def test_a_node_links_to_its_neighbours_and_knows_all() -> None:
    world, nodes = network(20, CONFIG)
    for node in nodes:
        others = sorted(event.node_id for event in node.told(Event.JOINED))
        assert others == [other.name for other in nodes if other is not node]
        assert set(node.control.membership.neighbours()) <= set(node.engine.sessions)
        assert len(node.control.membership.neighbours()) <= LINKS_MAX
    world.run(30_000)
    assert agreed(nodes)
    assert not any(node.told(Event.LOST) or node.told(Event.LINK_LOST) for node in nodes)


def test_neighbours_hold_each_other_for_neighbours() -> None:
    _, nodes = network(20, CONFIG)
    views = {node.name: node.control.membership.neighbours() for node in nodes}
    assert all(name in views[other] for name, view in views.items() for other in view)


@pytest.mark.parametrize("killed", [1, 8])
def test_who_dies_is_lost_to_all(killed: int) -> None:
    world, nodes = network(20, CONFIG)
    dead, living = nodes[1 : 1 + killed], nodes[1 + killed :] + nodes[:1]
    for node in dead:
        node.kill()
    names = [node.name for node in dead]
    settle(world, lambda: all(lost(node) == names for node in living), ms=10_000)
    world.run(1000)
    assert agreed(living)
    assert all(lost(node) == names for node in living)


def test_who_is_silent_is_lost_to_all_and_back_when_it_speaks() -> None:
    world, nodes = network(20, CONFIG)
    nodes[5].pause()
    others = nodes[:5] + nodes[6:]
    settle(world, lambda: agreed(others), ms=15_000)
    nodes[5].unpause()
    settle(world, lambda: agreed(nodes), ms=15_000)


@pytest.mark.parametrize("seed", range(6))
def test_a_partition_becomes_one_network_again(seed: int) -> None:
    world, nodes = network(16, CONFIG, seed)
    left, right = nodes[:7], nodes[7:]
    world.partition([n.name for n in left], [n.name for n in right])
    settle(world, lambda: agreed(left) and agreed(right), ms=60_000)
    world.heal()
    settle(world, lambda: agreed(nodes), ms=30_000)


def test_who_leaves_is_known_to_have_left_by_all() -> None:
    world, nodes = network(12, CONFIG)
    nodes[3].control.leave()
    others = nodes[:3] + nodes[4:]
    settle(world, lambda: agreed(others), ms=2_000)
    assert all([e.node_id for e in node.told(Event.LEFT)] == ["n03"] for node in others)
    assert not any(node.told(Event.LOST) for node in others)


def test_who_is_dialled_in_vain_is_passed_by() -> None:
    """A node that one neighbour cannot reach lives on: the neighbour has another one beside it."""
    world, nodes = network(20, CONFIG)
    one = nodes[0]
    other = next(iter(one.control.membership.neighbours()))
    before = set(one.control.membership.neighbours())
    world.block("n00", other)
    world.block(other, "n00")
    settle(world, lambda: set(one.control.membership.neighbours()) > before, ms=60_000)
    world.until(lambda: set(one.control.membership.neighbours()) - {other} <= set(one.engine.sessions))
    assert not any(node.told(Event.LOST) for node in nodes)


def test_a_link_in_the_place_of_one_that_was_lost_carries_broadcasts() -> None:
    world, nodes = network(20, CONFIG)
    one, name = nodes[0], next(iter(nodes[0].control.membership.listeners()))
    other = next(node for node in nodes if node.name == name)
    heard = one.control.membership.listeners()
    old = one.engine.sessions[name]
    one.link(name).cut()
    settle(world, lambda: one.engine.sessions.get(name) not in (None, old), ms=10_000)
    assert one.control.membership.listeners() is heard
    assert name in one.control.broadcasts._peers
    assert one.name in other.control.broadcasts._peers


def test_a_link_for_messages_that_becomes_one_of_the_overlay_carries_broadcasts() -> None:
    world, nodes = network(12, CONFIG)
    one = nodes[5]
    other = next(node for node in nodes if node.name not in one.engine.sessions and node is not one)
    other.agent("sink")
    one.agent("source").send("sink", b"x")
    world.until(lambda: other.name in one.engine.sessions)
    assert other.name not in one.control.broadcasts._peers
    living = [one, other, *[node for node in nodes if node not in (one, other)][:2]]
    for node in nodes:
        if node not in living:
            node.kill()
    settle(world, lambda: agreed(living), ms=30_000)
    assert other.name in one.control.broadcasts._peers
    assert one.name in other.control.broadcasts._peers
