"""Bugs planted in chains of calls, streams and inputs: each is caught by a test that finds nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from harness import Node

from agentnet_core.calls import DEFECTS
from agentnet_core.errors import NetworkError
from tests.core import test_chains, test_inputs, test_streams

JUDGES: dict[str, list[Callable[[], None]]] = {
    "cycle let in": [test_chains.test_a_cycle_is_refused_at_once_with_its_path],
    "hops uncounted": [partial(test_chains.test_as_many_hops_as_may_be_and_one_more, 3)],
    "calls uncounted": [partial(test_chains.test_as_many_calls_as_may_be_open_and_one_more, 5)],
    "shares kept": [test_chains.test_a_call_that_has_ended_gives_its_share_back_however_it_ended],
    "window unheeded": [test_streams.test_at_most_a_window_is_ahead],
    "gone on behind": [
        partial(test_streams.test_every_part_once_and_in_order_whatever_becomes_of_the_links, seed)
        for seed in range(8)
    ],
    "taken twice": [
        *(
            partial(test_streams.test_every_part_once_and_in_order_whatever_becomes_of_the_links, seed)
            for seed in range(8)
        ),
        test_inputs.test_parts_that_come_twice_or_of_another_are_passed_over,
    ],
    "left open": [test_streams.test_who_leaves_is_told_and_nothing_stays],
    "given unasked": [test_inputs.test_nothing_is_given_before_it_is_taken_and_at_most_a_window_after],
    "input left": [test_inputs.test_who_asked_leaves_and_nothing_stays],
    "input unwatched": [
        partial(test_inputs.test_every_part_once_and_in_order_whatever_becomes_of_the_links, seed)
        for seed in range(8)
    ],
}
"""What finds each, and passes where nothing is planted."""


def test_each_has_a_judge() -> None:
    assert JUDGES.keys() == DEFECTS.keys()


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_planted_bug_is_caught(defect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    start = Node._start

    def planted(node: Node, incarnation: int, uuid: bytes) -> None:
        start(node, incarnation, uuid)
        node.engine.call_defect = DEFECTS[defect]

    monkeypatch.setattr(Node, "_start", planted)
    with pytest.raises((AssertionError, NetworkError, pytest.fail.Exception)) as caught:
        for judge in JUDGES[defect]:
            judge()
    print(f"{defect}: {caught.value!r:.200}")
