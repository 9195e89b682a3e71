"""What a log knows of its owners without their entries: of which a segment may begin again, and go.

In: runs as of `Entries.told`, with the segment that they are in.  Out: the orders that begin a new segment
(all cells, released indices, snapshots), so that no older one is needed for them; and the lowest segment
that still counts, for an entry of it may be live.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from agentnet_core.entries import ENTRY, ORDERS, Entries, Told

CELL, RELEASE, TRUNCATE, RETIRE, FORGET, SNAPSHOT = (
    next(number for number, name in ORDERS.items() if name == wanted)
    for wanted in ("CELL", "RELEASE", "TRUNCATE", "RETIRE", "FORGET", "SNAPSHOT")
)


@dataclass
class Owner:
    """``last``: index of its newest entry; ``gone``: the highest one released; ``snapshot``: index, mark."""

    last: int = 0
    gone: int = 0
    cells: dict[int, bytes] = field(default_factory=dict)
    snapshot: tuple[int, bytes] | None = None


class Owners:
    """All owners of a log. ``oldest``: the lowest segment that the log says counts."""

    def __init__(self) -> None:
        self.of: dict[int, Owner] = {}
        self.oldest = 1
        self._spans: dict[int, dict[int, int]] = {}
        """For each segment, the highest index in it of each owner."""

    def apply(self, runs: Iterable[Told], sequence: int) -> list[bytes]:
        """Take what stands in segment ``sequence``; returns the marks of snapshots that others replace."""
        span = self._spans.setdefault(sequence, {})
        replaced = []
        for kind, number, first, last, body in runs:
            if kind == RETIRE:
                self.oldest = max(self.oldest, first)
                continue
            if kind == FORGET:
                owner = self.of.pop(number, None)
                if owner is not None and owner.snapshot is not None:
                    replaced.append(owner.snapshot[1])
                self._clamp(number, 0)
                continue
            owner = self.of.get(number)
            if owner is None:
                owner = self.of[number] = Owner()
            if kind == ENTRY:
                owner.last = last
                span[number] = max(last, span.get(number, 0))
            elif kind == CELL:
                owner.cells[first] = body
            elif kind == RELEASE:
                owner.gone = max(owner.gone, first - 1)
                owner.last = max(owner.last, owner.gone)
            elif kind == TRUNCATE:
                owner.last = max(owner.gone, min(owner.last, first - 1))
                self._clamp(number, owner.last)
            elif kind == SNAPSHOT:
                if owner.snapshot is not None and owner.snapshot[1] != body:
                    replaced.append(owner.snapshot[1])
                owner.snapshot = (first, body)
        return replaced

    def _clamp(self, number: int, last: int) -> None:
        for span in self._spans.values():
            if span.get(number, 0) > last:
                span[number] = last

    def checkpoint(self) -> Entries:
        """All that is small and counts, as the first batch of a segment."""
        entries = Entries()
        entries.order(RETIRE, 0, self.oldest)
        for number, owner in self.of.items():
            entries.release(number, owner.gone + 1)
            for key, value in owner.cells.items():
                entries.cell(number, key, value)
            if owner.snapshot is not None:
                entries.order(SNAPSHOT, number, *owner.snapshot)
        return entries

    def holders(self, sequence: int) -> Iterator[tuple[int, int]]:
        """Who may have live entries in a segment, and the highest index of them there."""
        for number, index in self._spans.get(sequence, {}).items():
            owner = self.of.get(number)
            if owner is not None and index > owner.gone:
                yield number, index

    def lowest_needed(self, sequences: Iterable[int], active: int) -> int:
        """The lowest of the segments, in order, that may hold a live entry, or else the active one."""
        for sequence in sequences:
            if sequence >= active or any(True for _ in self.holders(sequence)):
                return sequence
        return active

    def drop(self, sequence: int) -> None:
        """That segment is gone."""
        self._spans.pop(sequence, None)
