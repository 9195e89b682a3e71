"""Plays a scenario, seed by seed, and tells what came of each."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from agentnet.sim.clock import MS
from agentnet.sim.scenarios import Row, Scenario
from agentnet.sim.world import World


@dataclass(frozen=True)
class Played:
    """``failure``: the traceback, or None. ``steps``: things that happened. ``trace``: their digest.
    ``rows``: what the scenario measured, if it did."""

    seed: int
    failure: str | None
    steps: int
    virtual_s: float
    wall_s: float
    trace: str
    rows: list[Row]


def play(scenario: Scenario, seeds: Iterable[int], **options: Any) -> Iterator[Played]:
    """Each seed in a world of its own; ``options`` are the scenario's."""
    for seed in seeds:
        world = World(seed)
        began_ns, began = world.now_ns, perf_counter()
        rows: list[Row] = []
        try:
            rows = scenario(world, **options) or []
            failure = None
        except Exception:  # noqa: BLE001 - whatever a scenario raises is its failure, told with its seed
            failure = traceback.format_exc()
        yield Played(
            seed,
            failure,
            world.clock.steps,
            (world.now_ns - began_ns) / MS / 1000,
            perf_counter() - began,
            world.trace,
            rows,
        )
