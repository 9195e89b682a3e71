"""Events that somebody makes up in a node's name: it goes on in another, and they swallow nothing."""

from __future__ import annotations

import pytest
from harness import UUID, Node, World
from replicas import changed, hold

from agentnet_core.crdt import ORSet, Site
from agentnet_core.naming import NAMES_MAX
from agentnet_core.states import Key

SET = Key(ORSet(Site(None, bytes(16))).type_code, "s")


def founder() -> tuple[World, Node]:
    """Node m, with one element of its own."""
    world = World()
    node = world.node("m")
    node.control.found(UUID)
    held = hold(node, ORSet, "s")
    held.state.add("mine")  # type: ignore[attr-defined]
    changed(node, held)
    world.run(10)
    return world, node


def forged(actor: str) -> ORSet:
    state = ORSet(Site(actor, bytes(16)))
    for element in ("mine", *range(8)):
        state.add(element)
    return state


@pytest.mark.parametrize("is_gone", [False, True])
def test_what_is_forged_in_the_name_of_a_node_does_not_swallow_what_it_does_later(is_gone: bool) -> None:
    """Events that it never made, told to another node, alive or gone: they stand for its next ones there."""
    (world, node), state = founder(), forged("m:1")
    if is_gone:
        state.clear()
    other = world.node("z")
    world.finish(other.join("m"))
    held, theirs = hold(node, ORSet, "s"), hold(other, ORSet, "s")
    world.until(lambda: held.print == theirs.print)
    assert other.control.replication.take("a", SET, state.encode(), None) is True
    held.state.add("before it knows")  # type: ignore[attr-defined]
    changed(node, held)
    other.control.replication.later("m")
    world.until(lambda: node.told("state_conflict"))
    assert node.control.stats()["states_contradicted"] == 1
    assert node.control.replication.actor != "m:1"
    assert node.told("state_contradiction")[-1].node_id == "z"
    assert "m:1 is m:" in node.told("state_conflict")[-1].detail
    held.state.add("after it knows")  # type: ignore[attr-defined]
    changed(node, held)
    world.until(lambda: "after it knows" in theirs.state.value)
    other.control.replication.later("m")
    if is_gone:
        world.until(lambda: held.print == theirs.print)
    else:  # of one event's two contents neither goes over to the other
        world.until(lambda: "two contents" in node.told("state_contradiction")[-1].detail)


def test_a_name_that_others_spoke_in_before_it_is_taken() -> None:
    site = Site("m:1", bytes(16))
    state = ORSet(site)
    state.merge(forged("m:2").encode())
    state.add("one")
    state.delta.encode()
    site.rename("m:2")
    state.disown()
    state.add("another")
    assert ("m:2", 10) in state.context
    assert state.value >= {"one", "another", "mine"}


@pytest.mark.parametrize("count", [NAMES_MAX, NAMES_MAX + 1])
def test_a_node_takes_so_many_names_and_no_more(count: int) -> None:
    (_, node), names = founder(), []
    for _ in range(count):
        names.append(node.control.replication.actor)
        node.control.replication.take("a", SET, forged(names[-1]).encode(), None)
    assert node.control.stats()["states_contradicted"] == count
    assert len(dict.fromkeys([*names, node.control.replication.actor])) == NAMES_MAX + 1
