"""How results look to a person: one table, the ratios beside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table

from bench.run import Result

NUMBERS = ("median", "min..max", "agentnet is")


def number(value: float) -> str:
    """Three digits that count, thousands kept apart.

    >>> number(1234567.8), number(36.24), number(0.0521)
    ('1,234,568', '36.2', '0.0521')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(values: Sequence[float]) -> str:
    return f"{number(min(values))}..{number(max(values))}"


def goal(result: Result) -> str:
    """What was aimed at and whether it was reached; empty where there is no aim."""
    wanted = result.figure.goals.get(result.system)
    if result.ratio is not None and wanted is not None:
        return told(result.ratio >= wanted, f"{wanted:.3g}x")
    if result.ratio is None and result.figure.limit is not None:
        limit = result.figure.limit
        if result.figure.better == "higher":
            return told(result.value >= limit, f"at least {number(limit)}")
        return told(result.value <= limit, f"at most {number(limit)}")
    return ""


def told(reached: bool, aim: str) -> str:
    return f"[green]{aim}, reached[/]" if reached else f"[red]{aim}, missed[/]"


def table(results: Iterable[Result]) -> Table:
    """``agentnet is``: how many times as good as that system, the median of the pairs and their spread."""
    grid = Table(box=None, pad_edge=False)
    for heading in ("work", "system", "median", "min..max", "unit", "agentnet is", "min..max", "goal"):
        grid.add_column(heading, justify="right" if heading in NUMBERS else "left", no_wrap=True)
    work = None
    for result in results:
        if work not in (None, result.figure.work):
            grid.add_section()
        work = result.figure.work
        ratio = ("", "") if result.ratio is None else (f"{result.ratio:.2f}x", ratio_spread(result.ratios))
        measured = (number(result.value), spread(result.values), result.figure.unit)
        grid.add_row(work, result.system, *measured, *ratio, goal(result))
    return grid


def ratio_spread(ratios: Sequence[float]) -> str:
    return f"{min(ratios):.2f}..{max(ratios):.2f}"
