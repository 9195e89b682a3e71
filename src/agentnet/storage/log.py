"""The write-ahead log of a node: segments, groups, recovery.  It waits for the disk and knows no thread.

In: batches of entries, in order, each of which is one group: written, synced, and only then counted.
Out: at the start, what each owner had; after that nothing but errors:

- StorageFull: definite; nothing of the batch is on the disk, and the next may be tried.  What it would have
  overwritten was zeros, laid down before, so that a full disk is met where no entry is half written.
- StorageFailed: any other error of the disk, final; the outcome of the batch is unknown, and the log takes
  no more until it is opened again, which reads what the disk has.
- StorageDamaged, at the start only: something durable is not as it was written.  Nothing is changed then.

A group that is not whole is cut where it is the last thing in the last segment, with a warning: it was never
synced, so it was never acknowledged.  The last group before a crash, if it was damaged since, cannot be told
from one: nothing on the disk says that it had been whole, and to say so would take a second sync.  So a log
that is closed, was opened, or rests for a second writes a group that says nothing, and damage of what stands
before it is refused: only of the last write before a crash may it be taken for a torn tail.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, NoReturn

from agentnet.storage.files import File, Files
from agentnet.storage.owners import RETIRE, Owners
from agentnet.storage.segments import (
    HEADER_BYTES,
    SPARE,
    UNFINISHED,
    Header,
    damaged,
    segment_name,
    segment_number,
)
from agentnet.storage.snapshots import KIND, Snapshot, read_snapshot, write_snapshot
from agentnet_core.config import EngineConfig
from agentnet_core.entries import FLEETING, Entries, Replay, Told, Trail, find_later, first_broken
from agentnet_core.errors import ConfigError, NetworkError, StorageFailed, StorageFull

GROW_BYTES = 1024 * 1024
"""Zeros that are laid down ahead, so that a batch changes no metadata: its sync takes half the time."""
RESERVE_PARTS = 64
"""What part of them only batches that free something may use: a full disk must not keep itself full."""
LOGGER = logging.getLogger("agentnet.storage")
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


@dataclass
class Found:
    """What an owner had when the log was opened. ``last``: its next entry is above it; ``gone``: the highest
    index that it had released; ``entries``: those that live, (index, kind, body), held in memory for as long
    as this is; ``snapshot``, and ``chunks``, which reads it: StorageDamaged."""

    last: int
    gone: int
    cells: dict[int, bytes]
    snapshot: Snapshot | None
    entries: Trail = field(default_factory=lambda: Trail([]))
    chunks: Callable[[], Iterator[bytes]] = lambda: iter(())


class Way(NamedTuple):
    """A descriptor, the salt of its groups, the number and the place of the next one, what is laid down, up
    to where groups may be, what they leave of it, and how much more is laid down at a time."""

    handle: int
    salt: int
    group: int
    end: int
    grown: int
    limit: int
    spare: int
    step: int


class Log:
    """One log in one directory; `open` before all else, `close` at the end. Used by one thread at a time."""

    def __init__(
        self, files: Files, config: EngineConfig, node_id: str, draw: Callable[[int], bytes]
    ) -> None:
        self._files, self._config, self._node_id = files, config, node_id
        self._draw = draw
        self._uuid = b""
        self._file: File | None = None
        self._header: Header | None = None
        self._sizes: dict[int, int] = {}
        self._number = 1
        self._end = self._grown = self._begun = 0
        self._tail_is_clean = True
        self._step = min(GROW_BYTES, config.log_segment_bytes)
        self._reserve = self._step // RESERVE_PARTS
        self._due = 1
        self._asked = 0
        self._failure: str | None = None
        self.owners = Owners()

    # -- what others see

    @property
    def size(self) -> int:
        """Bytes in its segments."""
        return sum(self._sizes.values()) + self._end

    @property
    def uuid(self) -> bytes:
        """Drawn when the log was made."""
        return self._uuid

    # -- opening

    def open(self) -> dict[int, Found]:
        """What each owner had; ConfigError if it is another node's, StorageLocked, StorageDamaged."""
        self._files.lock()
        try:
            return self._open()
        except OSError as error:
            self._release()
            raise self._full_or_failed(error, "opened") from None
        except BaseException:
            self._release()
            raise

    def _open(self) -> dict[int, Found]:
        names = self._files.names()
        headers = self._headers(names)
        if not headers:
            return self._found_anew(names)
        self._uuid = headers[-1].uuid
        replay = Replay()
        self._replay(replay, headers)
        if self.owners.oldest < headers[0].sequence:
            missing = segment_name(headers[0].sequence - 1)
            raise damaged(self._path(missing), 0, "the log needs this segment, and it is not there")
        found = self._gather(names, replay)
        self._tidy(names, headers)
        self._begin_again()
        return found

    def _headers(self, names: list[str]) -> list[Header]:
        """Of the segments that may count: the newest, and those before it without a gap."""
        sequences = [number for name in names if (number := segment_number(name)) is not None]
        headers: list[Header] = []
        for sequence in sorted(sequences, reverse=True):
            if headers and (sequence != headers[-1].sequence - 1 or sequence < headers[0].oldest):
                break
            header = self._header_of(sequence)
            if headers and header.uuid != headers[0].uuid:
                raise damaged(self._path(segment_name(sequence)), 0, "it is of another log")
            headers.append(header)
        return headers[::-1]

    def _header_of(self, sequence: int) -> Header:
        name = segment_name(sequence)
        file = self._files.open(name)
        try:
            header = Header.decode(file.read(0, HEADER_BYTES), self._path(name))
        finally:
            file.close()
        if header.sequence != sequence:
            raise damaged(self._path(name), 0, f"it says that it is segment {header.sequence}")
        mine = (self._config.network, self._node_id)
        if (header.network, header.node_id) != mine:
            raise ConfigError(
                f"{self._path(name)} is of node {header.node_id!r} in network {header.network!r}, expected "
                f"{mine[1]!r} in {mine[0]!r}: give each node a data_dir of its own"
            )
        return header

    def _found_anew(self, names: list[str]) -> dict[int, Found]:
        for name in names:
            if name.endswith(KIND):
                raise damaged(self._path(name), 0, "there is a snapshot, but no segment of the log")
            if name == SPARE or name.endswith(UNFINISHED):
                self._files.remove(name)
        self._uuid = self._draw(16)
        self._roll()
        return {}

    def _replay(self, replay: Replay, headers: list[Header]) -> None:
        """Take all segments; StorageDamaged if one is not whole, but for the tail of the last."""
        for header, follower in zip(headers, [*headers[1:], None], strict=True):
            name = segment_name(header.sequence)
            file = self._files.open(name)
            try:
                data = file.read(0, file.size())
            finally:
                file.close()
            end, number, broken, runs = replay.feed(data, HEADER_BYTES, header.salt, header.first)
            # The first group of a segment was synced before the segment had its name.
            whole = number > header.first and (follower is None or follower.first == number)
            if not whole or find_later(data, end, header.salt, number) >= 0:
                raise damaged(
                    self._path(name),
                    first_broken(data, end),
                    f"group {number} is not whole, and others follow it",
                )
            self.owners.apply(runs, header.sequence)
            replay.shrink()
            if follower is not None:
                self._sizes[header.sequence] = len(data)
                continue
            self._number, self._header = number, header
            self._end, self._grown, self._begun = end, len(data), HEADER_BYTES
            self._tail_is_clean = not data[end:].strip(b"\0")
            if broken:
                LOGGER.warning(
                    "%s is cut at byte %d, behind group %d: what follows is not whole, as if the power had "
                    "failed while it was written",
                    self._path(name), end, number - 1,
                )  # fmt: skip

    def _gather(self, names: list[str], replay: Replay) -> dict[int, Found]:
        found = {}
        for number, owner in self.owners.of.items():
            snapshot = owner.snapshot and Snapshot.of_mark(number, *owner.snapshot)
            if snapshot is not None and snapshot.name not in names:
                raise damaged(self._path(snapshot.name), 0, "the log names this snapshot; it is not there")
            found[number] = Found(owner.last, owner.gone, dict(owner.cells), snapshot)
            if snapshot is not None:
                found[number].chunks = partial(self.read_snapshot, snapshot)
            if number in replay.trails:
                found[number].entries = replay.trails[number]
        return found

    def _tidy(self, names: list[str], headers: list[Header]) -> None:
        """Remove what an interrupted step left; nothing that the log names."""
        counts = {segment_name(header.sequence) for header in headers}
        counts |= {
            Snapshot.of_mark(number, *owner.snapshot).name
            for number, owner in self.owners.of.items()
            if owner.snapshot is not None
        }
        for name in names:
            ours = name.endswith((UNFINISHED, KIND)) or segment_number(name) is not None
            if ours and name not in counts:
                self._files.remove(name)
        # Also for a process that was killed between a rename and this.
        self._files.sync_directory()

    def _begin_again(self) -> None:
        """Cut the tail, and write the group that covers what was there before it."""
        assert self._header is not None
        self._file = self._files.open(segment_name(self._header.sequence))
        if not self._tail_is_clean:
            for at in range(self._end, self._grown, GROW_BYTES):
                self._file.write(at, bytes(min(GROW_BYTES, self._grown - at)))
        # It syncs, too, what a killed process wrote and never synced: it is about to be relied on.
        first = Entries()
        for number, owner in self.owners.of.items():
            for key in [key for key, value in owner.cells.items() if key >= FLEETING and value]:
                first.cell(number, key, b"")
                first.release(number, owner.gone + 1)  # so that a full disk takes it
        self.commit(first)

    # -- writing

    def commit(self, entries: Entries) -> None:
        """One batch, on the disk when this returns; StorageFull or StorageFailed. ``entries`` is used up.

        An empty one is written, too, and covers the one before it.
        """
        if self._failure is not None:
            raise StorageFailed(self._failure, definite=True)
        try:
            marks = self._commit(entries)
        except OSError as error:
            raise self._full_or_failed(error, "written") from None
        except NetworkError:
            raise
        except BaseException:
            self._failure = f"{self._files.where}: a write was interrupted; start the node again"
            raise
        try:
            self._let_go(marks)
        except OSError as error:
            raise self._fail(error, "tidied") from None  # the batch is kept: it must not be called refused

    def _commit(self, entries: Entries) -> list[bytes]:
        frees = entries.frees or not entries.count
        if self._due > self.owners.oldest or not entries.count:
            entries.order(RETIRE, 0, max(self._due, self.owners.oldest))
        size = entries.size
        self._make_room(size, frees)
        assert self._file is not None
        assert self._header is not None
        entries.seal(self._header.salt, self._number, self._end)
        self._write(entries)
        _sync(self._file)
        self._end += size
        self._number += 1
        return self.owners.apply(entries.told(), self._header.sequence)

    # -- groups that are written past this

    def way(self) -> Way | None:
        """Where the next groups may be written, one behind the other, each synced; None if the next one is
        to be committed here. `follow` must be called before anything else is done with the log."""
        if self._failure is not None or self._file is None or self._header is None:
            return None
        if self._file.handle < 0 or self._due > self.owners.oldest:
            return None
        config = self._config
        limit = min(config.log_segment_bytes, config.log_bytes_max - sum(self._sizes.values()))
        place = (self._file.handle, self._header.salt, self._number, self._end, self._grown)
        return Way(*place, limit, self._reserve, self._step)

    def follow(self, group: int, end: int, grown: int, told: Iterable[Told]) -> None:
        """Groups were written so far; ``told`` is what was in them. StorageFailed."""
        assert self._header is not None
        self._number, self._end, self._grown = group, end, grown
        marks = self.owners.apply(told, self._header.sequence)
        try:
            self._let_go(marks)
        except OSError as error:
            raise self._fail(error, "tidied") from None

    def give_way(self, error: int, *, syncing: bool) -> NoReturn:
        """The next one could not be written: StorageFull, nothing of it is on the disk, or StorageFailed."""
        cause = OSError(error, os.strerror(error))
        try:
            if syncing:
                raise OSError(errno.EIO, f"sync: {cause}")
            self._take_back(cause)
        except OSError as final:
            raise self._full_or_failed(final, "written") from None

    def _make_room(self, size: int, frees: bool) -> None:
        """A place for a group behind the last one; a full disk is met here, before any of it is written."""
        limit = self._config.log_bytes_max
        if not frees and self.size + size > limit:
            raise StorageFull(
                f"{self._files.where}: the log has {self.size} bytes, at most log_bytes_max={limit}; "
                f"let its owners release what they need no more"
            )
        stays = frees and self._end + size <= self._grown
        if self._end > self._begun and self._end + size > self._config.log_segment_bytes and not stays:
            self._roll()
        assert self._file is not None
        wanted = self._end + size + (0 if frees else self._reserve)
        if wanted > self._grown:
            to = max(wanted, self._grown + self._step)
            self._file.write(self._grown, bytes(to - self._grown))
            self._grown = to

    def _write(self, entries: Entries) -> None:
        assert self._file is not None
        try:
            self._file.write(self._end, entries)
        except OSError as error:
            self._take_back(error)

    def _take_back(self, error: OSError) -> NoReturn:
        """A group could not be written; raises that, or what is worse."""
        assert self._file is not None
        if error.errno not in _FULL:
            raise error
        # This file system writes elsewhere than where zeros stood: what was written must not count.
        try:
            self._file.truncate(self._end)
            self._file.sync()
        except OSError as second:
            raise OSError(errno.EIO, f"{error}, and to take it back: {second}") from None
        self._grown = self._end
        raise error

    def _roll(self) -> None:
        """Begin the next segment: under another name until it is whole on the disk."""
        sequence = 1 if self._header is None else self._header.sequence + 1
        config = self._config
        header = Header(sequence, self._uuid, self._number, self.owners.oldest, config.network, self._node_id)
        first = self.owners.checkpoint()
        first.seal(header.salt, self._number, HEADER_BYTES)
        data = header.encode() + bytes(first)
        draft, file = self._draft(segment_name(sequence))
        try:
            grown = max(file.size(), len(data) + self._reserve)
            file.write(0, data)
            file.write(file.size(), bytes(grown - file.size()))
            _sync(file)
            self._files.rename(draft, segment_name(sequence))
            _sync_directory(self._files)
        except BaseException:
            file.close()
            raise
        if self._file is not None and self._header is not None:
            self._sizes[self._header.sequence] = self._grown
            self._file.close()
        self._file, self._header = file, header
        self._end = self._begun = len(data)
        self._grown = grown
        self._number += 1

    def _draft(self, name: str) -> tuple[str, File]:
        if SPARE in self._files.names():
            return SPARE, self._files.open(SPARE)
        return name + UNFINISHED, self._files.create(name + UNFINISHED)

    # -- letting go

    def _let_go(self, marks: list[bytes]) -> None:
        """Remove what the log says no longer counts, and find what it may say so of with the next batch."""
        for mark in marks:
            self._files.remove(Snapshot.of_mark(0, 0, mark).name)
        assert self._header is not None
        for sequence in sorted(self._sizes):
            if sequence >= self.owners.oldest:
                break
            self._remove(sequence)
        self._due = self.owners.lowest_needed(sorted(self._sizes), self._header.sequence)

    def _remove(self, sequence: int) -> None:
        size = self._sizes.pop(sequence)
        self.owners.drop(sequence)
        if size <= 2 * self._config.log_segment_bytes and SPARE not in self._files.names():
            self._files.rename(segment_name(sequence), SPARE)
        else:
            self._files.remove(segment_name(sequence))
        # One by one, so that a power cut leaves no gap among those that are left.
        self._files.sync_directory()

    def held(self) -> list[tuple[int, int]]:
        """Who holds the oldest segment of too large a log, to which index; once for each new segment."""
        if self._header is None or self.size <= self._config.log_held_bytes:
            return []
        if not self._sizes or self._asked == self._header.sequence:
            return []
        self._asked = self._header.sequence
        return list(self.owners.holders(min(self._sizes)))

    # -- snapshots

    def write_snapshot(self, owner: int, index: int, chunks: Iterable[bytes]) -> Snapshot:
        """A file that stands for the owner's entries up to ``index``; it counts once its mark is committed.

        Any thread may call this. StorageFull, StorageFailed as for `commit`.
        """
        if self._failure is not None:
            raise StorageFailed(self._failure, definite=True)
        try:
            return write_snapshot(self._files, self._uuid, owner, index, chunks, self._draw(4).hex())
        except OSError as error:
            raise self._full_or_failed(error, "written") from None

    def discard_snapshot(self, snapshot: Snapshot) -> None:
        """Remove one whose mark was refused; what cannot be removed now is at the next start."""
        with suppress(OSError):
            self._files.remove(snapshot.name)

    def read_snapshot(self, snapshot: Snapshot) -> Iterator[bytes]:
        """Its chunks, each checked before it is handed out; StorageDamaged."""
        return read_snapshot(self._files, self._uuid, snapshot)

    # -- the end

    def close(self) -> None:
        """Write the group that covers the last one, if the disk still works, and let the directory go."""
        try:
            if self._failure is None and self._file is not None:
                with suppress(NetworkError):  # it is only less sure what a damage would be taken for
                    self.commit(Entries())
        finally:
            self._release()

    def _release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        self._files.unlock()

    def _path(self, name: str) -> str:
        return f"{self._files.where}/{name}"

    def _full_or_failed(self, error: OSError, what: str) -> NetworkError:
        if error.errno in _FULL:
            return StorageFull(f"{self._files.where} cannot be {what}: {error}; make room on the disk")
        return self._fail(error, what)

    def _fail(self, error: OSError, what: str) -> StorageFailed:
        self._failure = (
            f"{self._files.where} cannot be {what}: {error}; start the node again when the disk is well"
        )
        return StorageFailed(self._failure)


def _sync(file: File) -> None:
    """Whatever it fails with is final, also that the disk is full."""
    try:
        file.sync()
    except OSError as error:
        raise OSError(errno.EIO, f"sync: {error}") from error


def _sync_directory(files: Files) -> None:
    try:
        files.sync_directory()
    except OSError as error:
        raise OSError(errno.EIO, f"sync of the directory: {error}") from error
