"""Deliveries that outlive links, processes and power: in the simulator from seeds, and with bugs planted."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agentnet.sim import World
from agentnet.sim.mail import CONFIG, letters, mail
from agentnet.storage import log as log_room
from agentnet_core.durable import DEFECTS

SEEDS = 24
CANNOT_BE_SEEN_HERE = ("no order", "late word")
"""Links bring nothing out of order, and handlers live: tests/core/test_deliveries.py and test_leases.py."""


def storm(seed: int, defect: str | None = None) -> None:
    world = World(seed)
    nodes = [world.node(f"n{number}", config=CONFIG, disk=True) for number in range(3)]
    for node in nodes:
        node.defect = node.engine.durable.defect = DEFECTS[defect] if defect is not None else 0
    mail(world, nodes, 60)


FOUND = (300, 357, 616, 715, 773, 853, 1041, 1362)
"""Once, what came by another link was taken for nobody's, or a letter went by a link that was half let in."""


@pytest.mark.parametrize("seed", [*range(SEEDS), *FOUND])
def test_what_was_promised_is_kept(seed: int) -> None:
    letters(World(seed))


def test_a_seed_plays_the_same_again() -> None:
    traces = []
    for _ in range(2):
        world = World(7)
        letters(world)
        traces.append(world.trace)
    assert traces[0] == traces[1]


def caught(play: Callable[[int], None]) -> bool:
    for seed in range(SEEDS):
        try:
            play(seed)
        except Exception:  # noqa: BLE001 - whatever it breaks, it is seen
            return True
    return False


@pytest.mark.parametrize("defect", [defect for defect in DEFECTS if defect not in CANNOT_BE_SEEN_HERE])
def test_a_planted_bug_is_caught(defect: str) -> None:
    assert caught(lambda seed: storm(seed, defect))


def test_a_sync_that_is_skipped_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_room, "_sync", lambda _: None)
    assert caught(storm)
