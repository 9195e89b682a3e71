"""Where a node keeps what must outlive it: its log, written by one thread for many owners.

In: batches of entries, which are numbered as they come and leave the caller's loop at once.  All that waits
when the disk is free is written together, with one sync.  Out, on the loop, through a Watcher:
`persisted(n)`, all up to n are on the disk; `refused(n, error)`, those up to n that were not persisted are
surely not, and the next may be tried; `failed(error)`, it is over until the node starts again; `held`,
somebody is asked to let an old segment go.

Limits: `log_*` in the config.  A batch beyond `log_waiting_bytes_max` that wait raises StorageBusy; the
errors of the disk are told by `log`.  Nothing is acknowledged after a failure.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from agentnet.storage.bounds import Bounds
from agentnet.storage.files import DiskFiles, Files
from agentnet.storage.gathering import WRITES, Gathering
from agentnet.storage.log import Found, Log
from agentnet.storage.owners import SNAPSHOT
from agentnet.storage.snapshots import Snapshot
from agentnet_core.config import EngineConfig
from agentnet_core.entries import Entries
from agentnet_core.errors import (
    NetworkError,
    NotRunning,
    StorageBusy,
    StorageFailed,
    StorageFull,
    UsageError,
)

__all__ = ["Found", "Snapshot", "Storage", "Watcher", "log_directory"]

DIRECTORY = "log"
COVER_S = 1.0
"""A log that has rested for so long covers its last group, so that damage of it is told: see `log`."""
SPIN_US = 200
"""For so long the thread looks for the next group before it sleeps, where the last one came as soon: who
writes one message after the other waits for two wake-ups of a thread less.  It needs a second processor."""
REFUSALS_KEPT = 256
"""What was refused is remembered so often; whoever asks later than that is told that it is not known."""


def log_directory(data_dir: str | os.PathLike[str]) -> Path:
    """Where a node with that data_dir has its log."""
    return Path(data_dir) / DIRECTORY


class Watcher(Protocol):
    """Whoever drives a storage; called on its loop."""

    def persisted(self, number: int) -> None: ...

    def refused(self, number: int, error: StorageFull) -> None: ...

    def failed(self, error: StorageFailed) -> None: ...

    def held(self, owner: int, index: int) -> None:
        """``owner`` is asked to release its entries up to ``index``: to write again what lives, or to put it
        into a snapshot."""


class Storage:
    """The log of one node, on a running loop. ``await Storage.start(...)`` makes one."""

    def __init__(self, log: Log, found: dict[int, Found], config: EngineConfig, watcher: Watcher) -> None:
        self.found = found
        self.persisted = 0
        """The number up to which all is decided: on the disk, or refused."""
        self._log, self._config, self._watcher = log, config, watcher
        self._bounds = Bounds(config, log.owners)
        self._loop = asyncio.get_running_loop()
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._failure: StorageFailed | None = None
        spins = WRITES and len(os.sched_getaffinity(0)) > 1
        self._gathering = Gathering(int(COVER_S * 1e6), SPIN_US if spins else 0)
        self._refusals: deque[tuple[int, int, StorageFull]] = deque(maxlen=REFUSALS_KEPT)
        self._ringing = self._closing = False
        self._refusal_is_told = threading.Event()
        self._open_bell()
        self._thread = threading.Thread(target=self._run, name="agentnet-log", daemon=True)
        self._thread.start()

    @classmethod
    async def start(
        cls,
        where: str | os.PathLike[str] | Files,
        config: EngineConfig,
        node_id: str,
        watcher: Watcher,
        draw: Callable[[int], bytes] = os.urandom,
    ) -> Storage:
        """Open the log in ``where``, a directory, or make it; what was in it is ``found``.

        StorageLocked, StorageDamaged, ConfigError if it is another node's, StorageFull, StorageFailed.
        """
        files = DiskFiles(where) if isinstance(where, (str, os.PathLike)) else where
        log = Log(files, config, node_id, draw)
        found = await asyncio.get_running_loop().run_in_executor(None, log.open)
        return cls(log, found, config, watcher)

    def append(self, entries: Entries, *, at_once: bool = False) -> int:
        """Take a batch, which is empty then; its number. What is appended in one turn of the loop is written
        together, unless it is to be `at_once`.

        UsageError, LimitReached, StorageBusy, StorageFailed: it was not taken, and none of it is written.
        """
        if self._failure is not None:
            raise StorageFailed(*self._failure.args, definite=True)
        if self._closing:
            raise NotRunning("the storage is closed")
        if not entries.count:
            return self.number
        size = entries.size
        if self.waiting_bytes and self.waiting_bytes + size > self._config.log_waiting_bytes_max:
            raise StorageBusy(
                f"{self.waiting_bytes} bytes wait for the disk, and at most log_waiting_bytes_max="
                f"{self._config.log_waiting_bytes_max} may: wait until some are persisted"
            )
        self._bounds.admit(entries)
        number = self._gathering.put(entries)
        if at_once:
            self._gathering.ring()
        elif not self._ringing:
            # At the end of the turn: what is appended until then goes with it, in one write.
            self._ringing = True
            self._loop.call_soon(self._ring)
        return number

    @property
    def number(self) -> int:
        """The last one given."""
        return self._gathering.number

    @property
    def waiting_bytes(self) -> int:
        """Of batches that are not on the disk yet."""
        return self._gathering.waiting_bytes

    async def wait_persisted(self, number: int) -> None:
        """Returns once batch ``number`` is on the disk; StorageFull or StorageFailed if it will not be."""
        if number <= self.persisted:
            self._raise_refused(number)
            return
        if self._failure is not None:
            raise StorageFailed(*self._failure.args)
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append((number, waiter))
        await waiter

    def _raise_refused(self, number: int) -> None:
        for first, last, error in self._refusals:
            if first <= number <= last:
                raise StorageFull(*error.args)
        if len(self._refusals) == REFUSALS_KEPT and number < self._refusals[0][0]:
            raise UsageError(f"batch {number} is too long ago: {REFUSALS_KEPT} refusals came after it")

    async def save_snapshot(self, owner: int, index: int, chunks: Iterable[bytes]) -> None:
        """Put a snapshot in the place of the owner's entries up to ``index``, and of the one before it.

        ``chunks`` are taken in a thread. When this returns it is on the disk. StorageFull, StorageBusy: the
        one before it counts, and nothing of this one is left.
        """
        snapshot = await self._loop.run_in_executor(None, self._log.write_snapshot, owner, index, chunks)
        entries = Entries()
        entries.order(SNAPSHOT, owner, index, snapshot.mark())
        entries.release(owner, index + 1)
        try:
            await self.wait_persisted(self.append(entries))
        except NetworkError as error:
            if error.definite:
                self._log.discard_snapshot(snapshot)
            raise

    def read_snapshot(self, snapshot: Snapshot) -> Iterable[bytes]:
        """Its chunks; StorageDamaged before one that is not as it was written."""
        return self._log.read_snapshot(snapshot)

    async def close(self) -> None:
        """Write what waits, and let the directory go."""
        self._closing = True
        self._gathering.end()
        with ThreadPoolExecutor(1) as pool:
            await self._loop.run_in_executor(pool, self._thread.join)
        self._hear()
        self._close_bell()

    def _ring(self) -> None:
        self._ringing = False
        self._gathering.ring()

    def _open_bell(self) -> None:
        """What the thread tells by, where it need not ask for the interpreter's lock to tell."""
        if WRITES:
            told = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            try:
                self._loop.add_reader(told, self._hear)
            except NotImplementedError:
                os.close(told)
            else:
                self._gathering.told = told

    def _close_bell(self) -> None:
        told, self._gathering.told = self._gathering.told, -1
        if told >= 0:
            self._loop.remove_reader(told)
            os.close(told)

    # -- the thread

    def _run(self) -> None:
        try:
            while self._step():
                pass
        except Exception as error:  # noqa: BLE001 - whoever waits must not wait for ever
            self._call(self._on_failed, StorageFailed(f"the thread of the log: {error!r}"))
        finally:
            self._log.close()

    def _step(self) -> bool:
        """Write what waits, many groups of it; False when there will be no more."""
        gathering, told = self._gathering, True
        try:
            self._write_groups()
            there = gathering.wait()
            if there is None:
                self._cover()
                return True
            if not there:
                return False
            batch, number = gathering.take()
            self._log.commit(batch)
            gathering.finish(number)
            held = self._log.held()
            if held or gathering.told < 0:
                told = self._call(self._hear, held)
        except StorageFull as error:
            self._refusal_is_told.clear()
            told = self._call(self._on_refused, error)
            if told:
                self._refusal_is_told.wait()  # what came since may build on what was refused
        except StorageFailed as error:
            self._call(self._on_failed, error)
            return False
        return told

    def _cover(self) -> None:
        """Cover the last group: nothing came for a while."""
        with suppress(StorageFull):  # it is only less sure what a damage would be taken for
            self._log.commit(Entries())

    def _write_groups(self) -> None:
        """As many as need nothing of the log but to be written."""
        way = self._log.way() if self._gathering.told >= 0 else None
        if way is not None:
            group, end, grown, error, syncing = self._gathering.write(*way)
            self._log.follow(group, end, grown, self._gathering.take_told())
            if error:
                self._log.give_way(error, syncing=syncing)

    def _call(self, function: Callable[..., None], *arguments: object) -> bool:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            return False  # the loop is closed: nobody is left to be told
        return True

    # -- on the loop

    def _hear(self, held: Iterable[tuple[int, int]] = ()) -> None:
        """See how far it is."""
        number = self._gathering.hear()
        if number > self.persisted:
            self.persisted = number
            while self._waiters and self._waiters[0][0] <= number:
                _, waiter = self._waiters.popleft()
                if not waiter.done():
                    waiter.set_result(None)
            self._watcher.persisted(number)
        for owner, index in held:
            self._watcher.held(owner, index)

    def _on_refused(self, error: StorageFull) -> None:
        self._hear()
        number = self.number
        self._gathering.clear()
        self._refusals.append((self.persisted + 1, number, error))
        self.persisted = number
        self._bounds.reset(self._log.owners)
        self._refusal_is_told.set()
        self._end_waiters(error)
        self._watcher.refused(number, error)

    def _on_failed(self, error: StorageFailed) -> None:
        self._hear()
        self._failure = error
        self._gathering.clear()
        self._end_waiters(error)
        self._watcher.failed(error)

    def _end_waiters(self, error: NetworkError) -> None:
        waiters, self._waiters = self._waiters, deque()
        for _, waiter in waiters:
            if not waiter.done():
                waiter.set_exception(type(error)(*error.args))
