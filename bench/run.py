"""Pairs, medians, ratios: a Scene is played in interleaved pairs, and each figure becomes Results.

A run that fails is told and ends its match, or the scene if it is one of ours; the others go on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any

from bench.processes import RunFailed
from bench.scenes import Samples, Scale
from bench.systems import AGENTNET
from bench.works import Figure, Match, Scene

BUSY_CORES = 0.5
"""A client that spends more is the bottleneck: its system is then driven from two as well (not if quick)."""


@dataclass
class Result:
    """One figure of one system. ``ratios``: how many times as good ours was, pair by pair."""

    figure: Figure
    system: str
    n: int = 0
    values: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)

    @property
    def value(self) -> float:
        return median(self.values)

    @property
    def ratio(self) -> float | None:
        return median(self.ratios) if self.ratios else None

    def row(self) -> dict[str, Any]:
        """The form in JSON. ``n``: operations in each of the runs whose median the value is."""
        return {
            "work": self.figure.work,
            "system": self.system,
            "value": self.value,
            "unit": self.figure.unit,
            "better": self.figure.better,
            "n": self.n,
        }


class Board:
    """The results of one Scene so far, ours first."""

    def __init__(self, scene: Scene) -> None:
        self._figures = scene.figures
        self._results: dict[tuple[str, str], Result] = {}

    @property
    def results(self) -> list[Result]:
        order = {figure.work: number for number, figure in enumerate(self._figures)}
        return sorted(self._results.values(), key=lambda result: order[result.figure.work])

    def add(self, samples: Samples) -> None:
        for figure in self._figures:
            ours = samples[AGENTNET.name].values[figure.work]
            for system, sample in samples.items():
                if figure.work not in sample.values:
                    continue
                result = self._results.setdefault((figure.work, system), Result(figure, system))
                result.n = sample.n
                result.values.append(sample.values[figure.work])
                if system != AGENTNET.name:
                    pair = (ours, result.values[-1])
                    result.ratios.append(
                        pair[0] / pair[1] if figure.better == "higher" else pair[1] / pair[0]
                    )


@dataclass(frozen=True)
class Played:
    """What a scene came to. ``failures`` and ``skipped``: systems with the reason, as lines to print."""

    results: list[Result]
    failures: list[str]
    skipped: list[str]


def play(scene: Scene, scale: Scale, pairs: int) -> Played:
    """All pairs of the scene."""
    pairs = min(pairs, scene.pairs_max or pairs)
    board = Board(scene)
    failures, skipped = [], []
    waiting = list(scene.matches)
    while waiting:
        match = waiting.pop(0)
        if match.missing:
            skipped.append(f"{match.name} is not here: install {match.missing}")
            continue
        try:
            cores = play_match(board, match, scale, pairs)
        except RunFailed as failure:
            failures.append(str(failure))
            if failure.ours:
                break  # beside the next peer it would fail again
            continue
        if match.doubled is not None and cores > BUSY_CORES and not scale.quick:
            waiting.insert(0, match.doubled)
    return Played(board.results, failures, skipped)


def play_match(board: Board, match: Match, scale: Scale, pairs: int) -> float:
    """The pairs of one match; returns the CPU of the peer's client in the run that spent the most."""
    cores = 0.0
    for number in range(1, pairs + 1):
        samples = match.pair(scale.of(f"{match.name}, {number} of {pairs}"))
        board.add(samples)
        theirs = (sample.cores for system, sample in samples.items() if system != AGENTNET.name)
        cores = max(cores, max(theirs, default=0.0))
    return cores
