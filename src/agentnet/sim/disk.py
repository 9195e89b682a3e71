"""The disk of a simulated node: the production log over files in memory, written in virtual time.

A Disk outlives the processes of its node.  What is put while it writes waits for the next write, all of it in
one, as `agentnet.storage` does it in a thread.  A process that dies leaves what it had written; where the
power fails, what was not synced is there whole, torn, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Protocol

from agentnet.sim.clock import Action, Clock
from agentnet.storage.log import Found, Log
from agentnet.storage.memory import MemoryFiles, PowerCut
from agentnet.storage.owners import SNAPSHOT
from agentnet.storage.snapshots import Snapshot
from agentnet_core.config import EngineConfig
from agentnet_core.entries import Entries
from agentnet_core.errors import NetworkError, StorageFailed, StorageFull

SYNC_NS = (80_000, 2_000_000)
"""What a write and its sync take."""
CUT_STEPS_MAX = 4
"""After how many steps of a write, at most, the power fails in it."""


class Writer(Protocol):
    """Who puts entries: the node."""

    name: str

    def act(self, action: Action, *arguments: object) -> None: ...
    def persisted(self, batch: int) -> None: ...
    def unpersisted(self, error: StorageFull | StorageFailed) -> None: ...
    def relieve(self, owner: int, index: int) -> None: ...
    def saved(self, owner: int, error: NetworkError | None) -> None: ...


class Disk:
    """``files`` have the faults of `MemoryFiles`. ``on_put``, ``on_persisted``: called with each batch that
    is; ``on_refused``, when all that waits is not, because the disk is full."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.files = MemoryFiles(Random(clock.rng.random()))
        self.on_put: Callable[[int], None] = lambda _batch: None
        self.on_persisted: Callable[[int], None] = lambda _batch: None
        self.on_refused: Callable[[], None] = lambda: None
        self._log: Log | None = None
        self._writer: Writer | None = None
        self._open = Entries()
        self._flying: Entries | None = None
        self._batch = 0
        self._snapshots: list[Snapshot] = []
        """Written, with their marks in what waits; and those in what is being written."""
        self._flying_snapshots: list[Snapshot] = []

    def open(self, writer: Writer, config: EngineConfig) -> dict[int, Found]:
        """Begin a process of the node; what the log had."""
        self._writer = writer
        self._log = Log(self.files, config, writer.name, self.clock.rng.randbytes)
        self._open, self._flying, self._batch = Entries(), None, 0
        self._snapshots, self._flying_snapshots = [], []
        return self._log.open()

    def put(self, entries: Entries, batch: int) -> None:
        """Write them, and tell the writer."""
        self._open.absorb(entries)
        self._batch = batch
        self.on_put(batch)
        if self._flying is None:
            self._begin()

    def save(self, owner: int, index: int, chunks: list[bytes]) -> None:
        """Put a snapshot in the place of the owner's entries up to that one, and tell the writer."""
        writer = self._writer
        assert writer is not None
        delay_ns = self.clock.rng.randint(*SYNC_NS)
        self.clock.at(self.clock.now_ns + delay_ns, writer.act, self._save, self._log, owner, index, chunks)

    def _save(self, log: Log, owner: int, index: int, chunks: list[bytes]) -> None:
        writer = self._writer
        if log is not self._log or writer is None:
            return  # of a process that is dead
        try:
            snapshot = log.write_snapshot(owner, index, chunks)
        except (StorageFull, StorageFailed) as error:
            writer.saved(owner, error)
            return
        self._open.order(SNAPSHOT, owner, index, snapshot.mark())
        self._open.release(owner, index + 1)
        self._snapshots.append(snapshot)
        if self._flying is None:
            self._begin()

    def _begin(self) -> None:
        writer, log = self._writer, self._log
        assert writer is not None
        flying, self._flying, self._open = self._open, self._open, Entries()
        self._flying_snapshots, self._snapshots = self._snapshots, []
        batch = self._batch
        delay_ns = self.clock.rng.randint(*SYNC_NS)
        self.clock.at(self.clock.now_ns + delay_ns, writer.act, self._finish, log, flying, batch)

    def _finish(self, log: Log, flying: Entries, batch: int) -> None:
        writer = self._writer
        if log is not self._log or writer is None:
            return  # of a process that is dead
        self._flying = None
        snapshots, self._flying_snapshots = self._flying_snapshots, []
        try:
            log.commit(flying)
        except StorageFull as error:
            self._open.clear()
            snapshots, self._snapshots = [*snapshots, *self._snapshots], []
            for snapshot in snapshots:
                log.discard_snapshot(snapshot)
                writer.saved(snapshot.owner, error)
            self.on_refused()
            writer.unpersisted(error)
        except StorageFailed as error:
            self._open.clear()
            writer.unpersisted(error)
            return
        else:
            for snapshot in snapshots:
                writer.saved(snapshot.owner, None)
            self.on_persisted(batch)
            for owner, index in log.held():
                writer.relieve(owner, index)
            writer.persisted(batch)
        if self._flying is None and self._open.count:
            self._begin()

    def close(self) -> None:
        """The process ends in order: what waits is written."""
        log, self._log = self._log, None
        if log is None:
            return
        with suppress(StorageFull, StorageFailed):
            for entries in (self._flying, self._open):
                if entries is not None and entries.count:
                    log.commit(entries)
        log.close()

    def stop(self, *, power: bool) -> None:
        """The process dies, or the power fails; what was being written may have come to the disk or not."""
        log, flying, self._log = self._log, self._flying, None
        if log is None:
            return
        rng = self.files.rng
        if flying is not None and rng.random() < 0.7:
            if power:
                self.files.cut_in = rng.randrange(CUT_STEPS_MAX)
            with suppress(PowerCut, StorageFull, StorageFailed):
                log.commit(flying)
        if power:
            self.files.restart()
        else:
            self.files.die()
