"""A log beside its model: what was acknowledged must be there, what was refused must not, after anything.

`Trial` drives a production log over files in memory, does to it what disks and crashes do, and opens it
again.  What it finds must be the model's state after the last batch that was acknowledged, or, where one was
under way when it ended, after that one as well: whole or not at all.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from random import Random
from typing import Any

from agentnet.storage.log import Found, Log
from agentnet.storage.memory import MemoryFiles, PowerCut
from agentnet.storage.owners import SNAPSHOT
from agentnet_core.config import EngineConfig
from agentnet_core.entries import Entries
from agentnet_core.errors import ConfigError, StorageDamaged, StorageFailed, StorageFull

NODE = "n1"
OWNERS = 3
SEEDS = 60
"""Histories in each of three tests."""
KIND = 20


def small(**settings: Any) -> EngineConfig:
    """Segments of which a few batches make several."""
    return EngineConfig(**{"log_segment_bytes": 1024, "log_held_bytes": 8192, **settings})


@dataclass
class Kept:
    """What one owner has."""

    gone: int = 0
    entries: dict[int, bytes] = field(default_factory=dict)
    cells: dict[int, bytes] = field(default_factory=dict)
    snapshot: tuple[int, bytes] | None = None
    last: int = field(default=0, compare=False)
    """The next entry is above it; where entries were cut off, a log may forget that there were any."""


State = dict[int, Kept]


class Model:
    """Makes batches, and knows what they make of the state."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.state: State = {}

    def batch(self, entries: Entries) -> State:
        """Put something into ``entries``; the state once it is kept."""
        after = deepcopy(self.state)
        for _ in range(self.rng.randint(1, 3)):
            number = self.rng.randrange(OWNERS)
            act = self.rng.choices(
                (self._put, self._cell, self._release, self._truncate, self._forget), (12, 3, 4, 2, 0.3)
            )
            act[0](entries, after, number)
        return after

    def _put(self, entries: Entries, after: State, number: int) -> None:
        kept = after.setdefault(number, Kept())
        for _ in range(self.rng.randint(1, 3)):
            index = kept.last + self.rng.choice((1, 1, 1, 5))
            body = self.rng.randbytes(self.rng.choice((0, 1, 30, 64, 300)))
            entries.put(number, KIND, index, body)
            kept.entries[index] = body
            kept.last = index

    def _cell(self, entries: Entries, after: State, number: int) -> None:
        key, value = self.rng.randrange(3), self.rng.randbytes(8)
        entries.cell(number, key, value)
        after.setdefault(number, Kept()).cells[key] = value

    def _release(self, entries: Entries, after: State, number: int) -> None:
        kept = after.setdefault(number, Kept())
        index = max(1, kept.last + self.rng.choice((1, 1, 0, -2)))
        entries.release(number, index)
        released(kept, index)

    def _truncate(self, entries: Entries, after: State, number: int) -> None:
        kept = after.setdefault(number, Kept())
        index = max(1, kept.last - self.rng.randint(-1, 3))
        entries.truncate(number, index)
        kept.entries = {at: body for at, body in kept.entries.items() if at < index}
        kept.last = max(kept.gone, min(kept.last, index - 1))

    def _forget(self, entries: Entries, after: State, number: int) -> None:
        entries.forget(number)
        after.pop(number, None)


def released(kept: Kept, index: int) -> None:
    kept.gone = max(kept.gone, index - 1)
    kept.last = max(kept.last, kept.gone)
    kept.entries = {at: body for at, body in kept.entries.items() if at > kept.gone}


def state_of(log: Log, found: dict[int, Found]) -> State:
    """What a log says that it had."""
    state = {}
    for number, owner in found.items():
        assert all(kind == KIND for _, kind, _ in owner.entries)
        entries = {index: body for index, _, body in owner.entries}
        assert owner.last >= max(entries, default=owner.gone)
        snapshot = owner.snapshot and (owner.snapshot.index, b"".join(log.read_snapshot(owner.snapshot)))
        state[number] = Kept(owner.gone, entries, dict(owner.cells), snapshot, owner.last)
    return state


def differences(found: State, right: State) -> str:
    """For the error: what of which owner is other than it should be."""
    told = []
    for number in sorted(found.keys() | right.keys()):
        one, other = found.get(number), right.get(number)
        if one is None or other is None:
            told.append(f"owner {number}: found {one}, expected {other}")
            continue
        for name in ("gone", "cells", "snapshot", "entries"):
            if getattr(one, name) != getattr(other, name):
                told.append(f"owner {number}: {name} {getattr(one, name)}, expected {getattr(other, name)}")
    return "; ".join(told)


class Trial:
    """One log, its files and its model. ``last``: the batch that was under way when the log ended."""

    def __init__(self, seed: int, config: EngineConfig | None = None) -> None:
        self.rng = Random(seed)
        self.files = MemoryFiles(Random(seed + 1))
        self.config = config or small()
        self.model = Model(self.rng)
        self.under_way: State | None = None
        self.log = self._log()
        self.log.open()

    def _log(self) -> Log:
        return Log(self.files, self.config, NODE, self.rng.randbytes)

    def open(self) -> None:
        """As a new process does; what is found must be right."""
        self.log = self._log()
        found = state_of(self.log, self.log.open())
        right = [self.model.state] + ([] if self.under_way is None else [self.under_way])
        assert found in right, " or ".join(differences(found, state) for state in right)
        self.model.state = found
        self.under_way = None

    def commit(self) -> None:
        """One batch; PowerCut and StorageFailed leave it open whether it is kept."""
        entries = Entries()
        after = self.model.batch(entries)
        if entries.count:
            self._settle(after, lambda: self.log.commit(entries))

    def snapshot(self) -> None:
        """One of an owner that has something."""
        if not self.model.state:
            return
        number = self.rng.choice(sorted(self.model.state))
        after = deepcopy(self.model.state)
        kept = after[number]
        if kept.last == 0:
            return
        index, body = kept.last, self.rng.randbytes(self.rng.choice((0, 10, 700)))

        def save() -> None:
            snapshot = self.log.write_snapshot(number, index, [body[:100], body[100:]])
            entries = Entries()
            entries.order(SNAPSHOT, number, index, snapshot.mark())
            entries.release(number, index + 1)
            self.log.commit(entries)

        kept.snapshot = (index, body)
        released(kept, index + 1)
        self._settle(after, save)

    def _settle(self, after: State, act: Any) -> None:
        try:
            act()
        except StorageFull as error:
            assert error.definite
        except (StorageFailed, PowerCut):
            self.under_way = after
            raise
        else:
            self.model.state = after

    def act(self) -> None:
        (self.snapshot if self.rng.random() < 0.1 else self.commit)()

    # -- what happens to it

    def cut(self, steps: int | None = None) -> None:
        """Go on until the power fails in the middle of a step, that many from now; then open, cut again."""
        self.files.cut_in = self.rng.randrange(30) if steps is None else steps
        try:
            while True:
                self.act()
        except PowerCut:
            pass
        while True:
            self.files.restart()
            if self.rng.random() < 0.3:
                self.files.cut_in = self.rng.randrange(8)
            try:
                self.open()
            except PowerCut:
                continue
            self.files.cut_in = None
            return

    def kill(self) -> None:
        """The process ends between two batches."""
        self.files.die()
        self.open()

    def end(self) -> None:
        """It ends as it should."""
        self.log.close()
        self.open()

    def fail_sync(self) -> None:
        """A sync fails, the log is over; then the process starts again, or the machine."""
        self.files.fail_syncs = 1
        try:
            while self.files.fail_syncs:
                self.act()
            raise AssertionError("a batch was acknowledged whose sync failed")
        except StorageFailed as error:
            assert not error.definite
        try:
            self.log.commit(Entries())
        except StorageFailed as error:
            assert error.definite
        else:
            raise AssertionError("something was acknowledged after a failed sync")
        self.log.close()
        if self.rng.random() < 0.5:
            self.files.restart()
        self.open()

    def fill(self) -> None:
        """The disk is full for a while."""
        self.files.capacity = 0
        for _ in range(self.rng.randint(1, 4)):
            self.act()
        if self.rng.random() < 0.3:
            self.kill_or_cut_when_full()
        self.files.capacity = None

    def kill_or_cut_when_full(self) -> None:
        try:
            self.kill()
        except StorageFull:
            self.files.capacity = None
            self.open()

    def step(self) -> None:
        """Anything that may happen."""
        happens = (self.act, self.cut, self.kill, self.end, self.fail_sync, self.fill)
        self.rng.choices(happens, (30, 3, 1, 1, 1, 1))[0]()


def play(seed: int, steps: int = 60) -> None:
    """One history; AssertionError or a StorageError where the log breaks its word."""
    trial = Trial(seed)
    for _ in range(steps):
        trial.step()
    trial.end()


# -- logs of one owner


def some_log(files: MemoryFiles, batches: int = 12, **config: Any) -> Log:
    """Open, with so many batches of one entry."""
    log = Log(files, small(**config), NODE, Random(1).randbytes)
    log.open()
    for index in range(1, batches + 1):
        commit(log, index)
    return log


def commit(log: Log, index: int, size: int = 64) -> None:
    entries = Entries()
    entries.put(1, KIND, index, index.to_bytes(2, "big") * (size // 2))
    log.commit(entries)


def reopen(files: MemoryFiles, **config: Any) -> dict[int, Any]:
    log = Log(files, small(**config), NODE, Random(2).randbytes)
    try:
        return state_of(log, log.open())
    finally:
        files.die()


def copied(files: MemoryFiles) -> MemoryFiles:
    """The same files, all of them on the disk."""
    copy = MemoryFiles(Random(3))
    for name in files.names():
        file = copy.create(name)
        file.write(0, files.open(name).read(0, files.size(name)))
        file.sync()
    copy.sync_directory()
    return copy


def closed_log() -> MemoryFiles:
    """A log of several segments, with a snapshot and cells, that was closed."""
    files = MemoryFiles(Random(5))
    log = some_log(files, 16)
    snapshot = log.write_snapshot(2, 9, [b"first", b"second" * 20])
    entries = Entries()
    entries.order(SNAPSHOT, 2, 9, snapshot.mark())
    entries.cell(2, 1, b"term 7")
    log.commit(entries)
    commit(log, 17)
    log.close()
    return files


def flip_bits(times: int) -> None:
    """Recovered or refused loudly, never silently wrong; and a refusal changes nothing."""
    files = closed_log()
    right = reopen(copied(files))
    places = [(name, files.size(name) * 8) for name in files.names()]
    rng = Random(9)
    counts = {"recovered": 0, "refused": 0}
    flipped = copied(files)
    sizes = [flipped.size(name) for name in flipped.names()]
    for _ in range(times):
        (name, bits) = rng.choices(places, [bits for _, bits in places])[0]
        bit = rng.randrange(bits)
        flipped.flip(name, bit)
        try:
            found = reopen(flipped)
        except (StorageDamaged, ConfigError) as error:
            assert name in str(error)
            assert [flipped.size(each) for each in flipped.names()] == sizes
            flipped.flip(name, bit)
            counts["refused"] += 1
        else:
            assert found == right, f"bit {bit} of {name}"
            flipped = copied(files)
            counts["recovered"] += 1
    assert counts["refused"] > times / 4
    assert counts["recovered"] > times / 100  # what is laid down ahead does not matter
