"""Who keeps an id: the same nodes wherever one asks, and few others when a node goes."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from agentnet_core.keepers import SLOTS, Keepers

NODES = [f"node-{number}" for number in range(50)]


def keepers(nodes: list[str], count: int = 3) -> Keepers:
    made = Keepers(count)
    made.among(nodes)
    return made


def test_all_who_know_the_same_nodes_find_the_same_keepers() -> None:
    one, other = keepers(NODES), keepers(NODES[::-1])
    for agent_id in range(1, 2 * SLOTS):
        assert one.of(agent_id) == other.of(agent_id)
        assert len(set(one.of(agent_id))) == 3


@pytest.mark.parametrize("count", [1, 2, 3])
def test_where_there_are_no_more_nodes_all_are_keepers(count: int) -> None:
    assert sorted(keepers(NODES[:count]).of(7)) == NODES[:count]


def test_a_node_that_goes_leaves_only_its_own_ids_to_the_next() -> None:
    one = keepers(NODES)
    before = {agent_id: one.of(agent_id) for agent_id in range(SLOTS)}
    one.among(NODES[1:])
    for agent_id, were in before.items():
        left = [name for name in were if name != NODES[0]]
        assert list(one.of(agent_id))[: len(left)] == left


@pytest.mark.parametrize("seed", range(8))
def test_who_has_seen_nodes_come_and_go_finds_the_same_keepers(seed: int) -> None:
    rng = Random(seed)
    one = keepers(NODES[:10])
    for _ in range(60):
        alive = rng.sample(NODES, rng.choice([1, 2, 4, 10, 30, 49, 50]))
        one.among(alive)
        fresh = keepers(alive)
        for agent_id in rng.sample(range(8), 4):
            assert one.of(agent_id) == fresh.of(agent_id)
        assert len(one._came) <= len(alive)


def test_all_keep_about_as_much() -> None:
    one = keepers(NODES)
    kept = Counter(name for agent_id in range(SLOTS) for name in one.of(agent_id))
    fair = 3 * SLOTS / len(NODES)
    assert all(0.5 * fair < kept[name] < 1.6 * fair for name in NODES)
