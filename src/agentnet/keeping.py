"""What a node must not forget, between its engine and its disk.

In: the batches of entries that each turn of the engine has, and what the storage says of them.  Out, to the
engine, on the node's loop: what the log had at the start, what is persisted, what is not and why, what is to
be written again.  A node without ``data_dir`` has none of this, and its receipts say so.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import deque
from collections.abc import Callable
from typing import Self, cast

from agentnet.config import NetworkConfig
from agentnet.host import Host
from agentnet.storage import Storage, log_directory
from agentnet_core.archive import Archive
from agentnet_core.control import Control
from agentnet_core.engine import Engine
from agentnet_core.entries import Entries
from agentnet_core.errors import NetworkError, StorageBusy, StorageFailed, StorageFull
from agentnet_core.records import Event

log = logging.getLogger("agentnet.keeping")
LOG_INTERVAL_NS = 1_000_000_000
"""A full disk refuses every batch; it is said so often."""


class Keeper:
    """Drives the log of one node for its engine; ``await Keeper.open(...)`` makes one."""

    def __init__(
        self, engine: Engine, host: Host, turn: Callable[[], None], hand_out: Callable[[], None]
    ) -> None:
        self._engine, self._host, self._turn, self._hand_out = engine, host, turn, hand_out
        self._storage: Storage | None = None
        self._batches: deque[tuple[int, int]] = deque()
        """The number that the storage gave, and the engine's, of those that are on their way."""
        self._held, self._held_batch = Entries(), 0
        """What the storage had no room for."""
        self._saving: dict[asyncio.Task[None], None] = {}
        self._logged_ns = -LOG_INTERVAL_NS

    @classmethod
    async def open(
        cls,
        config: NetworkConfig,
        engine: Engine,
        host: Host,
        turn: Callable[[], None],
        hand_out: Callable[[], None],
    ) -> Self | None:
        """The log of a node, read into its engine; None if it has no ``data_dir``.

        ``turn`` carries out what the engine has ready; ``hand_out`` wakes those that waited for the disk
        first, so that what they send next is being written while the rest is carried out.

        StorageLocked, StorageDamaged, StorageFull, StorageFailed, ConfigError.
        """
        if config.data_dir is None:
            return None
        keeper = cls(engine, host, turn, hand_out)
        storage = await Storage.start(log_directory(config.data_dir), config, engine.node_id, keeper)
        keeper._storage = storage
        collects = gc.isenabled()
        gc.disable()  # a million letters are no garbage: looking for some takes longer than all else here
        try:
            engine.recover(storage.found)
        except BaseException:
            await storage.close()
            raise
        finally:
            if collects:
                gc.enable()
        storage.found = {}  # it holds what was read
        return keeper

    def put(self, entries: Entries, batch: int) -> None:
        """Write them; the engine is told what became of it."""
        self._held.absorb(entries)
        self._held_batch = batch
        self._append()
        assert self._storage is not None
        for owner, index, chunks in self._archive.drain():
            task = asyncio.get_running_loop().create_task(self._save(self._storage, owner, index, chunks))
            self._saving[task] = None
            task.add_done_callback(self._saving.pop)

    @property
    def _archive(self) -> Archive:
        return cast(Control, self._engine.control).replication.archive

    async def _save(self, storage: Storage, owner: int, index: int, chunks: list[bytes]) -> None:
        """Put a snapshot of a state in the place of its entries up to that one."""
        error = None
        try:
            await storage.save_snapshot(owner, index, chunks)
        except NetworkError as refusal:
            error = refusal
        if self._storage is not None:
            self._engine.now_ns = self._host.monotonic_ns()
            self._archive.saved(owner, error)
            self._turn()

    def _append(self) -> None:
        assert self._storage is not None
        try:
            number = self._storage.append(self._held, at_once=True)  # the engine has no more in this turn
        except StorageBusy:
            return  # with the next that is persisted
        except NetworkError as error:
            self._held.clear()
            self._fail(error)
            return
        self._batches.append((number, self._held_batch))

    def _fail(self, error: NetworkError) -> None:
        self._engine.now_ns = self._host.monotonic_ns()
        self._engine.unpersisted(error)

    async def close(self) -> None:
        """Write what waits, and let the directory go."""
        if self._storage is not None:
            storage, self._storage = self._storage, None
            await asyncio.gather(*self._saving)
            await storage.close()

    # -- as the storage tells

    def persisted(self, number: int) -> None:
        batch = 0
        while self._batches and self._batches[0][0] <= number:
            _, batch = self._batches.popleft()
        if self._storage is None:
            return  # it closes: nobody is told any more
        if self._held.count:
            self._append()
        if batch:
            self._engine.now_ns = self._host.monotonic_ns()
            self._engine.expect_turn()
            self._engine.persisted(batch)
        self._hand_out()

    def refused(self, number: int, error: StorageFull) -> None:
        now_ns = self._host.monotonic_ns()
        if now_ns - self._logged_ns >= LOG_INTERVAL_NS:
            self._logged_ns = now_ns
            log.warning("%s", error)
        self._batches.clear()
        self._held.clear()
        self._fail(error)
        self._turn()

    def failed(self, error: StorageFailed) -> None:
        log.error("%s", error)
        self._batches.clear()
        self._held.clear()
        self._engine.event(Event(Event.STORAGE_FAILED, self._engine.node_id, detail=str(error), error=error))
        self._fail(error)
        self._turn()

    def held(self, owner: int, index: int) -> None:
        self._engine.relieve(owner, index)
