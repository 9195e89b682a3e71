"""The lowest layer of the log: files of one directory, on a disk; `memory` is its twin.

In: whole writes at a place, syncs, names that are given and taken.  Out: bytes, or OSError as the system has
it.  Nothing is promised of what was written before `sync`, nor of a name before `sync_directory`, and a sync
that failed is never tried again by those above: the system may have forgotten what it could not write.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from agentnet_core.errors import ConfigError, StorageLocked

if TYPE_CHECKING:
    from typing_extensions import Buffer


class File(Protocol):
    """One open file. ``handle``: its descriptor, -1 if it has none."""

    @property
    def handle(self) -> int: ...

    def size(self) -> int: ...

    def read(self, at: int, size: int) -> bytes:
        """What is there, of `size` bytes: less at the end."""

    def write(self, at: int, data: Buffer) -> None:
        """All of it, or OSError and any part."""

    def sync(self) -> None: ...

    def truncate(self, size: int) -> None: ...

    def close(self) -> None: ...


class Files(Protocol):
    """One directory, of which one process may have hold."""

    where: str

    def lock(self) -> None:
        """StorageLocked if another has it."""

    def unlock(self) -> None: ...

    def names(self) -> list[str]: ...

    def create(self, name: str) -> File:
        """A new empty file, in the place of one that has the name."""

    def open(self, name: str) -> File:
        """One that is there; it reads what the disk has, not what a cache remembers."""

    def rename(self, old: str, new: str) -> None: ...

    def remove(self, name: str) -> None: ...

    def sync_directory(self) -> None: ...


class DiskFile:
    """A file descriptor; used by one thread at a time."""

    def __init__(self, path: Path, flags: int) -> None:
        self.handle = os.open(path, flags | os.O_RDWR | getattr(os, "O_CLOEXEC", 0), 0o600)

    def size(self) -> int:
        return os.fstat(self.handle).st_size

    def read(self, at: int, size: int) -> bytes:
        parts = []
        while size > 0:
            part = _read_at(self.handle, size, at)
            if not part:
                break
            parts.append(part)
            at, size = at + len(part), size - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, at: int, data: Buffer) -> None:
        with memoryview(data) as view:
            done = _write_at(self.handle, view, at)
            while done < len(view):
                done += _write_at(self.handle, view[done:], at + done)

    def sync(self) -> None:
        _sync(self.handle)

    def truncate(self, size: int) -> None:
        os.ftruncate(self.handle, size)

    def close(self) -> None:
        os.close(self.handle)


class DiskFiles:
    """A directory of the file system; it is made if it is not there."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)
        self._lock: DirectoryLock | None = None
        self.where = str(self._folder)

    def lock(self) -> None:
        try:
            made = not self._folder.exists()
            self._folder.mkdir(parents=True, exist_ok=True)
            if made:
                sync_directory(self._folder.parent)
            self._lock = DirectoryLock(self._folder)
        except OSError as error:
            raise ConfigError(f"{self.where}: {error}") from None

    def unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def names(self) -> list[str]:
        return sorted(os.listdir(self._folder))

    def create(self, name: str) -> DiskFile:
        return DiskFile(self._folder / name, os.O_CREAT | os.O_TRUNC)

    def open(self, name: str) -> DiskFile:
        file = DiskFile(self._folder / name, 0)
        if hasattr(os, "posix_fadvise"):
            # After a failed sync the cache may still hold what never reached the disk.
            os.posix_fadvise(file.handle, 0, 0, os.POSIX_FADV_DONTNEED)
        return file

    def rename(self, old: str, new: str) -> None:
        os.replace(self._folder / old, self._folder / new)

    def remove(self, name: str) -> None:
        os.remove(self._folder / name)

    def sync_directory(self) -> None:
        sync_directory(self._folder)


class DirectoryLock:
    """Keeps a second process out of a directory until `close`, or until this process ends."""

    def __init__(self, folder: Path) -> None:
        path = folder / "lock"
        # Not emptied before it is ours: whoever has it has written its pid there.
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            import fcntl
        except ImportError:  # Windows has no fcntl; there a second process is not kept out
            return
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._handle, 0)
            os.write(self._handle, f"{os.getpid()}\n".encode())
        except BlockingIOError:
            pid = os.read(self._handle, 32).decode(errors="replace").strip() or "unknown"
            os.close(self._handle)
            raise StorageLocked(
                f"data_dir={str(folder)!r} is in use by another process (pid {pid}): give each node its own"
            ) from None
        except OSError:
            os.close(self._handle)
            raise

    def close(self) -> None:
        """Let another process have the directory."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def sync_directory(folder: Path) -> None:
    """Make the names in it last; where the system has no such thing, nothing."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync(handle: int) -> None:
    if sys.platform == "darwin":
        import fcntl

        fcntl.fcntl(handle, fcntl.F_FULLFSYNC)  # fsync leaves it in the drive's cache there
    else:
        getattr(os, "fdatasync", os.fsync)(handle)


def _read_at(handle: int, size: int, at: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(handle, size, at)
    os.lseek(handle, at, os.SEEK_SET)
    return os.read(handle, size)


def _write_at(handle: int, view: memoryview, at: int) -> int:
    if hasattr(os, "pwrite"):
        return os.pwrite(handle, view, at)
    os.lseek(handle, at, os.SEEK_SET)
    return os.write(handle, view)
