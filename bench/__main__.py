"""``python -m bench``: measure, show the table, write the rows."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterable, Sequence
from typing import IO, NoReturn

import click
from rich.console import Console

from bench.report import table
from bench.run import Result, play
from bench.scenes import Scale
from bench.works import GROUPS, Scene

PAIRS, QUICK_PAIRS = 5, 3
PLAIN_WIDTH = 160
"""Columns of the table in a file or a pipe, which has no width of its own."""


def chosen(groups: Sequence[str], works: Sequence[str]) -> list[Scene]:
    """The scenes of the groups, all groups if none is named, that give one of the works."""
    scenes = [scene for group in groups or GROUPS for scene in GROUPS[group]]
    known = [figure.work for scene in scenes for figure in scene.figures]
    for work in works:
        if work not in known:
            raise click.BadParameter(f"{work!r}: expected one of {', '.join(known)}", param_hint="--work")
    return [scene for scene in scenes if not works or any(figure.work in works for figure in scene.figures)]


def play_all(scenes: Iterable[Scene], quick: bool, pairs: int, results: list[Result], told: Console) -> bool:
    """Fills ``results`` as they come; False if a run failed."""
    all_well = True
    reasons: set[str] = set()
    with told.status("", refresh_per_second=1) as status:  # it shares the cores with what is measured
        scale = Scale(quick, status.update)
        for scene in scenes:
            name = ", ".join(figure.work for figure in scene.figures)
            told.print(f"{name} ...", highlight=False)
            played = play(scene, scale, pairs)
            results += played.results
            for reason in played.skipped:
                if reason not in reasons:
                    told.print(f"skipped: {reason}", style="yellow", soft_wrap=True)
                reasons.add(reason)
            for failure in played.failures:
                told.print(f"failed: {failure}", style="red", markup=False, soft_wrap=True)
                all_well = False
    return all_well


def show(results: list[Result], *, on_stderr: bool) -> None:
    if not results:
        return
    console = Console(stderr=on_stderr)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    console.print(table(results))


def stop(*_: object) -> NoReturn:
    """SIGTERM ends as Ctrl-C does: the processes are stopped on the way out."""
    raise KeyboardInterrupt


@click.command()
@click.argument("groups", nargs=-1, type=click.Choice(sorted(GROUPS)), metavar="[GROUP]...")
@click.option("--json", "rows", type=click.File("w"), help="Write the rows there, - for stdout.")
@click.option("--quick", is_flag=True, help="Few pairs of short runs: whether all works, hardly how fast.")
@click.option("--work", "works", multiple=True, metavar="NAME", help="Only this work; may be repeated.")
@click.option(
    "--pairs", type=click.IntRange(min=1), help=f"Pairs of each figure; {PAIRS}, {QUICK_PAIRS} if quick."
)
def main(
    groups: tuple[str, ...], rows: IO[str] | None, quick: bool, works: tuple[str, ...], pairs: int | None
) -> None:
    """Measure agentnet beside its peers, in processes of their own on loopback.

    Each figure is the median of interleaved pairs, ours and the peer's; the ratio is taken pair by pair.
    GROUP is one of the groups of works, all of them if none is given.
    """
    signal.signal(signal.SIGTERM, stop)
    scenes = chosen(groups, works)
    results: list[Result] = []
    try:
        pairs = pairs or (QUICK_PAIRS if quick else PAIRS)
        all_well = play_all(scenes, quick, pairs, results, Console(stderr=True))
    finally:
        if rows is not None:
            json.dump([result.row() for result in results], rows, indent=1)
            rows.write("\n")
        show(results, on_stderr=rows is not None and rows.fileno() == sys.stdout.fileno())
    sys.exit(0 if all_well else 1)


if __name__ == "__main__":
    main()
