"""What one log may hold, and in which order: a batch is judged here before it is taken.

In: batches.  Out: nothing, or UsageError (an index that does not rise), LimitReached (owners, cells, size),
and then nothing is noted.  After a refusal of the disk `reset` goes back to what is on it.
"""

from __future__ import annotations

from agentnet.storage.owners import CELL, FORGET, Owners
from agentnet_core.config import EngineConfig
from agentnet_core.entries import Entries
from agentnet_core.errors import LimitReached

CELL_BYTES = 64
"""What a cell counts beside its value."""


class Bounds:
    """The last and the released indices of each owner, and what the cells take."""

    def __init__(self, config: EngineConfig, owners: Owners) -> None:
        self._config = config
        self.reset(owners)

    def reset(self, owners: Owners) -> None:
        """Only what is on the disk counts."""
        self._last = {number: owner.last for number, owner in owners.of.items()}
        self._gone = {number: owner.gone for number, owner in owners.of.items()}
        self._cells = {
            number: {key: len(value) + CELL_BYTES for key, value in owner.cells.items()}
            for number, owner in owners.of.items()
        }
        self._cells_bytes = sum(sum(cells.values()) for cells in self._cells.values())

    def admit(self, entries: Entries) -> None:
        """Note a batch that is taken now."""
        most = self._config.log_waiting_bytes_max
        if entries.size > most:
            raise LimitReached(f"batch of {entries.size} bytes: at most log_waiting_bytes_max={most}")
        if not entries.orders:
            entries.check(self._last, self._gone, self._config.log_owners_max)
            return
        total, changed = self._cells_after(entries)
        most = self._config.log_cells_bytes_max
        if total > max(most, self._cells_bytes):
            raise LimitReached(f"cells would take {total} bytes: at most log_cells_bytes_max={most}")
        entries.check(self._last, self._gone, self._config.log_owners_max)
        self._cells.update(changed)
        self._cells_bytes = total

    def _cells_after(self, entries: Entries) -> tuple[int, dict[int, dict[int, int]]]:
        """Bytes in all cells once the batch is taken, and what each owner's are that it changes."""
        total = self._cells_bytes
        changed: dict[int, dict[int, int]] = {}
        for kind, owner, key, _, value in entries.told():
            if kind not in (CELL, FORGET):
                continue
            cells = changed.get(owner)
            if cells is None:
                cells = changed[owner] = dict(self._cells.get(owner, {}))
            if kind == FORGET:
                total -= sum(cells.values())
                cells.clear()
            else:
                total += len(value) + CELL_BYTES - cells.get(key, 0)
                cells[key] = len(value) + CELL_BYTES
        return total, changed
