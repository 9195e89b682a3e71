"""The twin of `files` for the simulator: a directory in memory, with a disk's ways of failing.

In: what `files` takes, and a random generator that decides what a power cut leaves.  Out: the same.  What was
written and not synced is on the disk after a cut whole, not at all, torn at any byte, or in sectors of which
any may be missing; the same of names, each for itself.  After a sync that failed, what it should have
written is read as if it were there, later syncs succeed, and on the disk it is as after a power cut.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING

from agentnet_core.errors import StorageLocked

if TYPE_CHECKING:
    from typing_extensions import Buffer

SECTOR_BYTES = 512


class PowerCut(Exception):
    """The machine went off in the middle of what was asked; no file can be used before `restart`."""


class _Inode:
    def __init__(self) -> None:
        self.disk = bytearray()
        self.cache = bytearray()
        self.pending: list[tuple[int, bytes | None]] = []
        """Since the last sync: bytes and where, or None and the size that it was cut to."""

    def settle(self, rng: Random | None) -> None:
        """What waits reaches the disk: all of it, or with `rng` what chance lets through."""
        for at, data in self.pending:
            if data is None:
                if rng is None or rng.random() < 0.5:
                    _resize(self.disk, at)
            else:
                for start, end in [(0, len(data))] if rng is None else _torn(rng, at, len(data)):
                    _put(self.disk, at + start, data[start:end])
        self.pending.clear()


def _resize(target: bytearray, size: int) -> None:
    if size < len(target):
        del target[size:]
    else:
        target.extend(bytes(size - len(target)))


def _put(target: bytearray, at: int, data: bytes) -> None:
    if data:
        if len(target) < at:
            _resize(target, at)
        target[at : at + len(data)] = data


def _torn(rng: Random, at: int, size: int) -> list[tuple[int, int]]:
    """The parts of a write that reach the disk."""
    way = rng.randrange(4)
    if way == 0:
        return []
    if way == 1:
        return [(0, size)]
    if way == 2:
        return [(0, rng.randint(0, size))]
    edges = [0, *range(SECTOR_BYTES - at % SECTOR_BYTES, size, SECTOR_BYTES), size]
    return [part for part in pairwise(edges) if rng.random() < 0.5]


class MemoryFile:
    """One open file of MemoryFiles."""

    handle = -1

    def __init__(self, files: MemoryFiles, name: str, inode: _Inode) -> None:
        self._files, self._name, self._inode = files, name, inode

    def size(self) -> int:
        return len(self._inode.cache)

    def read(self, at: int, size: int) -> bytes:
        self._files.alive()
        return bytes(self._inode.cache[at : at + size])

    def write(self, at: int, data: Buffer) -> None:
        new = bytes(data)
        cut = self._files.step("write", self._name)
        room = self._files.room(len(self._inode.cache))
        fits = len(new) if room is None else max(0, min(len(new), room - at))
        if cut:
            fits = self._files.rng.randint(0, fits)
        _put(self._inode.cache, at, new[:fits])
        if fits:
            self._inode.pending.append((at, new[:fits]))
        if cut:
            raise PowerCut
        if fits < len(new):
            raise OSError(errno.ENOSPC, "No space left on device", self._name)

    def sync(self) -> None:
        cut = self._files.step("sync", self._name)
        if cut:
            raise PowerCut  # `restart` decides what got through
        if self._files.fail_syncs:
            self._files.fail_syncs -= 1
            self._inode.settle(self._files.rng)
            raise OSError(errno.EIO, "Input/output error", self._name)
        self._inode.settle(None)

    def truncate(self, size: int) -> None:
        if self._files.step("truncate", self._name):
            raise PowerCut
        _resize(self._inode.cache, size)
        self._inode.pending.append((size, None))

    def close(self) -> None:
        pass


class MemoryFiles:
    """One directory. ``capacity``: bytes that fit; ``fail_syncs``: how many syncs from now on fail with EIO;
    ``cut_in``: after how many more steps the power goes off; ``fault``: asked before every step."""

    where = "memory"

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.capacity: int | None = None
        self.fail_syncs = 0
        self.cut_in: int | None = None
        self.fault: Callable[[str, str], OSError | None] = lambda _step, _name: None
        self.steps = 0
        self._off = False
        self._locked = False
        self._names: dict[str, _Inode] = {}
        self._disk_names: dict[str, _Inode] = {}
        self._pending: list[tuple[str, _Inode | None, str]] = []
        """Since the last sync of the directory: a name, the inode it was given, the name left for it."""

    # -- the contract

    def lock(self) -> None:
        self.alive()
        if self._locked:
            raise StorageLocked("data_dir='memory' is in use by another process (pid unknown)")
        self._locked = True

    def unlock(self) -> None:
        self._locked = False

    def names(self) -> list[str]:
        self.alive()
        return sorted(self._names)

    def create(self, name: str) -> MemoryFile:
        self._step("create", name)
        inode = self._names[name] = _Inode()
        self._pending.append((name, inode, ""))
        return MemoryFile(self, name, inode)

    def open(self, name: str) -> MemoryFile:
        self.alive()
        inode = self._inode(name)
        if not inode.pending:
            inode.cache[:] = inode.disk
        return MemoryFile(self, name, inode)

    def rename(self, old: str, new: str) -> None:
        self._step("rename", new)
        inode = self._names[new] = self._inode(old)
        del self._names[old]
        self._pending.append((new, inode, old))

    def remove(self, name: str) -> None:
        self._step("remove", name)
        self._inode(name)
        del self._names[name]
        self._pending.append((name, None, ""))

    def sync_directory(self) -> None:
        self._step("sync_directory", "")
        if self.fail_syncs:
            self.fail_syncs -= 1
            raise OSError(errno.EIO, "Input/output error")
        self._settle_names(None)

    # -- what happens to it

    def restart(self) -> None:
        """Power is back: what the cache held is gone, chance has decided what had reached the disk."""
        self._settle_names(self.rng)
        self._names = dict(self._disk_names)
        for inode in self._names.values():
            inode.settle(self.rng)
            inode.cache[:] = inode.disk
        self._off = self._locked = False
        self.cut_in, self.fail_syncs, self.capacity = None, 0, None

    def die(self) -> None:
        """Only the process ended: what it wrote is still in the cache."""
        self._locked = False

    def flip(self, name: str, bit: int) -> None:
        """One bit of a file is another, on the disk and to whoever reads it."""
        inode = self._names[name]
        inode.settle(None)
        inode.disk[bit // 8] ^= 1 << bit % 8
        inode.cache[:] = inode.disk

    def size(self, name: str) -> int:
        return len(self._names[name].cache)

    # -- for its files

    def alive(self) -> None:
        if self._off:
            raise PowerCut

    def step(self, what: str, name: str) -> bool:
        """Count it; whether the power goes off in the middle of it."""
        self.alive()
        self.steps += 1
        error = self.fault(what, name)
        if error is not None:
            raise error
        if self.cut_in is not None:
            self._off = self.cut_in <= 0
            self.cut_in -= 1
        return self._off

    def room(self, has: int) -> int | None:
        """To which size a file may grow that has so many bytes."""
        if self.capacity is None:
            return None
        used = sum(len(inode.cache) for inode in self._names.values())
        return has + max(0, self.capacity - used)

    def _inode(self, name: str) -> _Inode:
        if name not in self._names:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", name)
        return self._names[name]

    def _step(self, what: str, name: str) -> None:
        if self.step(what, name):
            raise PowerCut

    def _settle_names(self, rng: Random | None) -> None:
        for name, inode, old in self._pending:
            if rng is not None and rng.random() < 0.5:
                continue
            if inode is None:
                self._disk_names.pop(name, None)
            else:
                if old and self._disk_names.get(old) is inode:
                    del self._disk_names[old]
                self._disk_names[name] = inode
        self._pending.clear()
