"""Which lists are lacking, and who is asked for them."""

from __future__ import annotations

import pytest

from agentnet_core.config import EngineConfig
from agentnet_core.pulls import Pulls

MS = 1_000_000
NEVER = 2**63 - 1


def pulls(**settings: int) -> Pulls:
    return Pulls(EngineConfig(pull_ms_max=1000, **settings))


def asked(one: Pulls, linked: str, ms: int) -> dict[str, list[str]]:
    return {who: [owner for owner, _ in lists] for who, lists in one.tick(linked, ms * MS).items()}


def test_a_list_is_asked_of_its_owner_then_of_who_told_then_of_anybody() -> None:
    one = pulls()
    one.want("a", 1, 5, "t", 0)
    assert [asked(one, "xta", ms) for ms in (0, 999, 1000, 2000)] == [
        {"a": ["a"]},
        {},
        {"t": ["a"]},
        {"x": ["a"]},
    ]
    assert asked(one, "xta", 3000) == {"a": ["a"]}, "and so on"
    assert asked(one, "y", 4000) == {"y": ["a"]}
    one.held("a", 1, 4)
    one.held("a", 0, 9)
    assert len(one) == 1
    one.held("a", 1, 5)
    assert len(one) == 0
    assert asked(one, "xta", 9000) == {}
    assert one.next_deadline_ns() == NEVER


def test_a_change_that_is_on_its_way_is_waited_for() -> None:
    one = pulls()
    one.want("a", 1, 5, "t", 200 * MS)
    assert one.next_deadline_ns() == 200 * MS
    assert asked(one, "t", 199) == {}
    one.want("a", 1, 6, "u", 400 * MS)
    assert asked(one, "tu", 200) == {"t": ["a"]}
    one.held("a", 1, 5)
    assert len(one) == 1, "6 was heard of since"


def test_who_is_gone_is_not_waited_for() -> None:
    one = pulls()
    one.want("a", 1, 5, "t", 0)
    one.want("a", 1, 5, "u", 0)
    assert asked(one, "tu", 0) == {"t": ["a"]}
    one.link_down("t", 10 * MS)
    assert one.next_deadline_ns() == 10 * MS
    assert asked(one, "u", 10) == {"u": ["a"]}
    one.link_down("u", 20 * MS)
    assert asked(one, "", 20) == {}
    assert one.next_deadline_ns() == NEVER, "until somebody links up"
    one.link_up(30 * MS)
    assert asked(one, "v", 30) == {"v": ["a"]}


def test_who_brings_it_bit_by_bit_has_time() -> None:
    one = pulls()
    one.want("a", 1, 5, "t", 0)
    asked(one, "tu", 0)
    for ms in (900, 1800, 2700):
        one.came("a", "u", ms * MS)
        one.came("a", "t", ms * MS)
        assert asked(one, "tu", ms + 999) == {}
    assert asked(one, "tu", 3700) == {"u": ["a"]}


def test_the_list_of_a_new_life_takes_the_place_of_the_old_one() -> None:
    one = pulls()
    one.want("a", 1, 5, "t", 0)
    asked(one, "t", 0)
    one.want("a", 2, 1, "u", 0)
    one.want("a", 1, 9, "t", 0)
    assert one.tick("tu", 0) == {"u": [("a", 2)]}
    one.held("a", 2, 1)
    assert len(one) == 0
    assert one._open == {}


@pytest.mark.parametrize("more", [0, 1])
def test_so_many_are_asked_of_one_node_at_a_time(more: int) -> None:
    one = pulls(pull_lists_max=4)
    for number in range(4 + more):
        one.want(f"n{number}", 1, 1, "t", 0)
    assert asked(one, "t", 0) == {"t": ["n0", "n1", "n2", "n3"]}
    assert one.next_deadline_ns() == 1000 * MS, "it does not spin"
    one.held("n0", 1, 1)
    assert asked(one, "t", 1) == {}
    one.drop("n1")
    assert asked(one, "t", 2) == ({"t": ["n4"]} if more else {})
    for number in range(5):
        one.held(f"n{number}", 1, 1)
    assert one._open == {}


def test_others_are_asked_where_one_is_busy() -> None:
    one = pulls(pull_lists_max=2)
    for number in range(5):
        one.want(f"n{number}", 1, 1, "t", 0)
    assert asked(one, "tu", 0) == {"t": ["n0", "n1"], "u": ["n2", "n3"]}
