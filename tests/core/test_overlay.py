"""Which nodes link to which: the laws of the rings."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentnet_core.config import EngineConfig
from agentnet_core.overlay import CALM_NODES, PACE_MAX, Rings, pace_of

NAMES = [f"n{number}" for number in range(60)]
SMALL_MESH = EngineConfig(mesh_nodes_max=1)  # as the rings allow: 2 * 4 + 1

groups = st.lists(st.sampled_from(NAMES), unique=True, min_size=1)
large_groups = st.lists(st.sampled_from(NAMES), unique=True, min_size=12)


def rings(*names: str, **limits: int) -> Rings:
    return Rings(EngineConfig(**({"mesh_nodes_max": 1} | limits)), names)


def is_connected(links: dict[str, tuple[str, ...]]) -> bool:
    """Whether the links, taken both ways, connect all."""
    ways: dict[str, list[str]] = {name: list(others) for name, others in links.items()}
    for name, others in links.items():
        for other in others:
            ways[other].append(name)
    found, todo = set(), list(links)[:1]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += ways[name]
    return len(found) == len(links)


# -- laws


@given(large_groups)
def test_who_is_beside_a_node_is_its_neighbour(names: list[str]) -> None:
    all_of_them = rings(*names)
    for name in names:
        beside = [other for other in names if other != name and all_of_them.are_beside(name, other)]
        assert sorted(beside) == sorted(all_of_them.listeners(name))


@given(groups, st.randoms())
def test_the_order_of_coming_and_going_does_not_matter(names: list[str], rng: object) -> None:
    shuffled = list(names)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = Rings(SMALL_MESH, names), Rings(SMALL_MESH)
    for name in [*shuffled, "gone", *shuffled]:
        other.add(name)
    other.remove("gone")
    other.remove("never-there")
    assert len(one) == len(other) == len(names)
    assert "gone" not in other
    for name in names:
        assert name in other
        assert one.wanted(name) == other.wanted(name)
        assert one.neighbours(name) == other.neighbours(name)


@given(large_groups, st.integers(1, 8))
def test_a_single_ring_connects_all_and_so_do_several(names: list[str], number: int) -> None:
    several = rings(*names, overlay_rings=number)
    assert is_connected({name: several.wanted(name) for name in names})
    single = rings(*names, overlay_rings=1)
    assert is_connected({name: single.wanted(name) for name in names})
    assert all(len(single.wanted(name)) == 1 for name in names)


@given(large_groups, st.integers(1, 5))
def test_links_are_bounded(names: list[str], number: int) -> None:
    all_rings = rings(*names, overlay_rings=number)
    for name in names:
        wanted, neighbours = all_rings.wanted(name), all_rings.neighbours(name)
        assert len(set(neighbours)) == len(neighbours) <= 2 * number
        assert name not in neighbours
        assert neighbours[: len(wanted)] == wanted
        dialling = {other for other in names if name in all_rings.wanted(other)}
        assert set(neighbours) == {*wanted, *dialling}


@given(large_groups, st.data())
def test_the_reachable_are_connected_whoever_is_not(names: list[str], data: st.DataObject) -> None:
    dead = data.draw(st.sets(st.sampled_from(names), max_size=len(names) - 1))
    all_rings = rings(*names, overlay_rings=2)
    living = [name for name in names if name not in dead]
    wanted = {name: all_rings.wanted(name, dead) for name in living}
    assert not dead & {other for others in wanted.values() for other in others}
    assert is_connected(wanted)
    alone = rings(*living, overlay_rings=2)
    if len(names) > 5 and len(living) > 5:
        assert wanted == {name: alone.wanted(name) for name in living}, "as if they were not there"
        assert all(all_rings.neighbours(n, dead) == alone.neighbours(n) for n in living)


@given(large_groups)
def test_whoever_comes_changes_its_neighbours_alone(names: list[str]) -> None:
    all_rings = rings(*names, overlay_rings=3)
    before = {name: all_rings.wanted(name) for name in names}
    as_guest = all_rings.wanted("new")
    all_rings.add("new")
    assert all_rings.wanted("new") == as_guest
    after = {name: all_rings.wanted(name) for name in names}
    changed = {name for name in names if before[name] != after[name]}
    assert changed <= set(all_rings.neighbours("new"))
    all_rings.remove("new")
    assert {name: all_rings.wanted(name) for name in names} == before


# -- small networks


@given(st.lists(st.sampled_from(NAMES), unique=True, min_size=1, max_size=9))
def test_in_a_small_network_everybody_is_wanted(names: list[str]) -> None:
    all_rings = Rings(SMALL_MESH, names)
    for name in names:
        assert sorted([name, *all_rings.wanted(name)]) == sorted(names)
        assert all_rings.neighbours(name) == all_rings.wanted(name)
    assert all_rings.wanted(names[0], names[1:]) == ()


@pytest.mark.parametrize("beyond", [False, True], ids=["within", "beyond"])
def test_mesh_nodes_max(beyond: bool) -> None:
    names = NAMES[: 20 + beyond]
    all_rings = rings(*names, mesh_nodes_max=20)
    assert (len(all_rings.wanted("n3")) == len(names) - 1) is not beyond


@pytest.mark.parametrize("beyond", [False, True], ids=["within", "beyond"])
def test_overlay_rings_that_would_link_all_do(beyond: bool) -> None:
    names = NAMES[: 2 * 3 + 1 + beyond]
    all_rings = rings(*names, overlay_rings=3)
    assert all(len(all_rings.wanted(name)) == len(names) - 1 for name in names) is not beyond


def test_a_mesh_is_not_dialled_in_the_same_order_by_all() -> None:
    all_rings = rings(*NAMES, mesh_nodes_max=100)
    assert len({all_rings.wanted(name)[0] for name in NAMES}) == len(NAMES)


# -- many


def test_ten_thousand_nodes() -> None:
    names = [f"node-{number}" for number in range(10_000)]
    all_rings = rings(*names)
    wanted = {name: all_rings.wanted(name) for name in names}
    assert is_connected(wanted)
    assert sum(map(len, wanted.values())) > 3.99 * len(names), "two rings hardly ever agree"
    half = set(names[::2])
    assert is_connected({name: all_rings.wanted(name, half) for name in names[1::2]})


@pytest.mark.parametrize("seed", range(10))
def test_what_half_the_nodes_leave_is_hardly_ever_apart(seed: int) -> None:
    """An expander: when half of 1,000 nodes die, the links that are left connect nearly all of the rest.

    By seeds, not by search: whoever looks for them finds nodes whose neighbours all die.
    """
    names = [f"node-{number}" for number in range(1000)]
    all_rings = rings(*names)
    alive = dict.fromkeys(Random(seed).sample(names, 500))
    largest = 0
    left = dict(alive)
    while left:
        todo, size = [next(iter(left))], 0
        while todo:
            name = todo.pop()
            if name in left:
                del left[name]
                size += 1
                todo += all_rings.neighbours(name)
        largest = max(largest, size)
    assert largest > 0.98 * len(alive)


def test_what_is_done_now_and_then_is_done_less_often_in_a_large_network_down_to_a_quarter() -> None:
    assert pace_of(0) == pace_of(CALM_NODES) == 1
    assert 1 < pace_of(CALM_NODES + 1) < 1.01
    assert pace_of(2 * CALM_NODES) == 2
    assert pace_of(int(CALM_NODES * PACE_MAX) - 1) < PACE_MAX
    assert pace_of(int(CALM_NODES * PACE_MAX)) == pace_of(100_000) == PACE_MAX
