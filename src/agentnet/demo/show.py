"""How a demo looks: its progress on stderr, then its tables, or one JSON document, on stdout.

Progress is a bar where stderr is a terminal, and elsewhere a line every two seconds.
"""

from __future__ import annotations

import heapq
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal

from agentnet.demo import FileCount, Pulse, Summary, Watch
from agentnet.demo.coordinator import PULSE_REQUESTS
from agentnet.tables import make_table, print_all, printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from rich.table import Table

LINE_S = 2.0
PERCENTILES = (50, 90, 99)
ROWS_MAX = 10
WORD_SHOWN = 40


# -- while it runs


@contextmanager
def progress() -> Iterator[Watch]:
    """Someone to show the progress to."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield Bar(bar)


class Lines:
    """A line every LINE_S seconds; none for a run that is over before."""

    def __init__(self) -> None:
        self._files = self._size = self._done = 0
        self._next = time.monotonic() + LINE_S

    def begin(self, files: int, size: int) -> None:
        self._files, self._size = files, size

    def advance(self, size: int) -> None:
        self._done += size
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_S
            self.note(f"{decimal(self._done)} of {decimal(self._size)} in {self._files} files")

    def note(self, text: str) -> None:
        print(printable(text), file=sys.stderr, flush=True)


class Bar:
    """rich's progress bar, with the notes above it."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task: TaskID = bar.add_task("starting", total=None)

    def begin(self, files: int, size: int) -> None:
        self._bar.update(self._task, description=f"{files} files", total=size)

    def advance(self, size: int) -> None:
        self._bar.advance(self._task, size)

    def note(self, text: str) -> None:
        self._bar.console.print(printable(text), markup=False, highlight=False)


# -- figures


def percentiles(times_ns: Sequence[int]) -> dict[str, float] | None:
    """Milliseconds by name, ``p50`` and so on; None of nothing.

    >>> percentiles([3_000_000, 1_000_000, 2_000_000])
    {'p50': 2.0, 'p90': 3.0, 'p99': 3.0}
    """
    if not times_ns:
        return None
    ordered = sorted(times_ns)
    return {f"p{p}": ordered[min(len(ordered) * p // 100, len(ordered) - 1)] / 1e6 for p in PERCENTILES}


def most_common(summary: Summary, top: int, letters: int) -> list[tuple[str, int]]:
    """The words of at least ``letters`` letters that occur most, in one order for one input."""
    words = (item for item in summary.coordinator.counts.items() if len(item[0]) >= letters)
    return heapq.nsmallest(top, words, key=lambda item: (-item[1], item[0]))


# -- as JSON


def document(summary: Summary, top: int, letters: int) -> dict[str, Any]:
    """All of it, for a program to read. Latencies are in milliseconds, sizes in bytes."""
    work = summary.coordinator
    fates = {worker.node_id: worker.fate for worker in summary.workers}
    return {
        "seconds": summary.seconds,
        "messages": summary.messages,
        "messages_per_second": summary.messages / summary.seconds,
        "latency_ms": percentiles(work.latencies_ns),
        "network": _pulse_document(summary.pulse),
        "totals": {
            "files": len(work.files),
            "counted": sum(not file.problem for file in work.files),
            "bytes": sum(file.size for file in work.files if not file.problem),
            "lines": sum(file.lines for file in work.files),
            "words": sum(file.words for file in work.files),
            "distinct_words": len(work.counts),
        },
        "top": [{"word": word, "count": count} for word, count in most_common(summary, top, letters)],
        "files": [_file_document(file) for file in work.files],
        "nodes": [
            {"node": worker.node_id, "pid": worker.pid, "died": worker.fate or None}
            for worker in summary.workers
        ],
        "agents": [
            {
                "node": agent.node_id,
                "agent": agent.name,
                "pieces": agent.pieces,
                "bytes": agent.size,
                "words": agent.words,
                "messages": agent.messages,
                "busy_ms": agent.busy_ns / 1e6,
                "lost": agent.lost or fates.get(agent.node_id) or None,
            }
            for agent in work.agents.values()
        ],
        "retries": [
            {"agent": agent, "error": error, "definite": definite, "times": times}
            for (agent, error, definite), times in work.retries.items()
        ],
    }


def _file_document(file: FileCount) -> dict[str, Any]:
    return {
        "path": str(file.path),
        "bytes": file.size,
        "pieces": file.pieces,
        "lines": file.lines,
        "words": file.words,
        "problem": file.problem or None,
    }


def _pulse_document(pulse: Pulse | None) -> dict[str, Any] | None:
    if pulse is None:
        return None
    return {"requests_per_second": pulse.per_second, "latency_ms": percentiles(pulse.alone_ns)}


# -- as tables


def show(summary: Summary, top: int, letters: int) -> None:
    """Print the tables, and what else there is to say."""
    tables = (_agents(summary), _files(summary), _words(summary, top, letters))
    print_all(table for table in tables if table.row_count)
    print_all((*_problems(summary), *_retries(summary), *_figures(summary)))


def _agents(summary: Summary) -> Table:
    columns = ("-node", "-agent", "pieces", "size", "words", "messages", "busy ms")
    table = make_table(f"What each agent did, in {summary.seconds:.2f} s", *columns)
    for agent in sorted(summary.coordinator.agents.values(), key=lambda agent: agent.name):
        said = (f"{agent.messages:,}", f"{agent.busy_ns / 1e6:,.0f}") if agent.messages else ("-", "-")
        counted = (f"{agent.pieces:,}", decimal(agent.size), f"{agent.words:,}")
        name = printable(agent.name) + (" (lost)" if agent.lost else "")
        table.add_row(agent.node_id, name, *counted, *said)
    return table


def _files(summary: Summary) -> Table:
    counted = [file for file in summary.coordinator.files if not file.problem]
    largest = heapq.nlargest(ROWS_MAX, counted, key=lambda file: file.words)
    part = f"The {len(largest)} largest of {len(counted):,} files"
    title = part if len(largest) < len(counted) else "Files"
    table = make_table(title, "-file", "lines", "words")
    for file in largest:
        table.add_row(_name(file), f"{file.lines:,}", f"{file.words:,}")
    if len(counted) > 1:
        table.add_section()
        totals = sum(file.lines for file in counted), sum(file.words for file in counted)
        table.add_row(f"all {len(counted):,}", *(f"{total:,}" for total in totals))
    return table


def _name(file: FileCount) -> str:
    here = Path.cwd()
    return printable(str(file.path.relative_to(here) if file.path.is_relative_to(here) else file.path))


def _words(summary: Summary, top: int, letters: int) -> Table:
    table = make_table(f"Most common words of {letters} letters or more", "-word", "times")
    for word, times in most_common(summary, top, letters):
        table.add_row(word[:WORD_SHOWN], f"{times:,}")
    return table


def _problems(summary: Summary) -> Iterator[str]:
    passed_over = [file for file in summary.coordinator.files if file.problem]
    for file in passed_over[:ROWS_MAX]:
        yield f"not counted: {_name(file)}: {file.problem}"
    if len(passed_over) > ROWS_MAX:
        yield f"not counted: {len(passed_over) - ROWS_MAX:,} more (--json lists all)"


def _retries(summary: Summary) -> Iterator[str]:
    by_outcome: dict[tuple[str, bool], list[tuple[str, int]]] = {}
    for (agent, error, definite), times in summary.coordinator.retries.items():
        by_outcome.setdefault((error, definite), []).append((printable(agent), times))
    for (error, definite), asked in sorted(by_outcome.items()):
        pieces = sum(times for _, times in asked)
        names = ", ".join(sorted(agent for agent, _ in asked))
        known = "surely not counted before" if definite else "perhaps counted before, but added once"
        yield f"{pieces} pieces of {names} were handed to other agents: {error}, {known}"


def _figures(summary: Summary) -> Iterator[str]:
    work, pulse = summary.coordinator, summary.pulse
    yield f"{summary.messages:,} messages, {summary.messages / summary.seconds:,.0f} a second"
    if work.latencies_ns:
        yield f"a piece was answered after {_latency(work.latencies_ns)}"
    if pulse is not None:
        yield (
            f"without the work: {pulse.per_second:,.0f} requests a second, {PULSE_REQUESTS} at once; "
            f"a single one was answered after {_latency(pulse.alone_ns)}"
        )


def _latency(times_ns: Sequence[int]) -> str:
    found = percentiles(times_ns) or {}
    return ", ".join(f"{value:.3f} ms ({name})" for name, value in found.items())
