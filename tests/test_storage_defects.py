"""Defects, planted one by one: each must be caught by what finds nothing where nothing is planted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from storages import SEEDS, flip_bits, play

from agentnet.storage import log as log_room
from agentnet.storage.log import Log
from agentnet.storage.memory import MemoryFile
from agentnet.storage.owners import RETIRE, Owners
from agentnet_core.entries import HEAD_BYTES, Entries, Replay
from agentnet_core.errors import NetworkError
from agentnet_core.framing import crc32c


def no_sync(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(log_room, "_sync", lambda _: None)


def acknowledge_before_the_write(patch: pytest.MonkeyPatch) -> None:
    write = Log._write
    late: dict[int, list[tuple[Any, int, bytes]]] = {}

    def later(log: Log, entries: Entries) -> None:
        for file, at, data in late.pop(id(log), []):
            file.write(at, data)
        late[id(log)] = [(log._file, log._end, bytes(entries))]

    assert write is not None
    patch.setattr(Log, "_write", later)


def ignore_checksums(patch: pytest.MonkeyPatch) -> None:
    class Trusting(Replay):
        def feed(self, data: bytes, at: int, salt: int, number: int) -> Any:
            mended = bytearray(data)
            place = at
            while mended[place : place + 4] == b"agLg":
                size = int.from_bytes(mended[place + 24 : place + 28], "big")
                begin = place + HEAD_BYTES
                mended[place + 28 : begin] = crc32c(mended[begin : begin + size]).to_bytes(4, "big")
                mended[place + 4 : place + 8] = crc32c(mended[place + 8 : begin], salt).to_bytes(4, "big")
                place += HEAD_BYTES + size + 7 & ~7
            return super().feed(bytes(mended), at, salt, number)

    patch.setattr(log_room, "Replay", Trusting)


def take_damage_for_a_torn_tail(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(log_room, "find_later", lambda *_: -1)


def forget_the_directory(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(log_room, "_sync_directory", lambda _: None)


def keep_the_number_of_a_segment(patch: pytest.MonkeyPatch) -> None:
    number = log_room.segment_name
    patch.setattr(log_room, "segment_name", lambda sequence: number(sequence if sequence < 3 else 3))


def remove_before_it_is_said(patch: pytest.MonkeyPatch) -> None:
    let_go = Log._let_go

    def early(log: Log, marks: list[bytes]) -> None:
        let_go(log, marks)
        for sequence in sorted(log._sizes):
            if sequence < log._due:
                log._remove(sequence)

    patch.setattr(Log, "_let_go", early)


def begin_a_segment_without_its_cells(patch: pytest.MonkeyPatch) -> None:
    def little(owners: Owners) -> Entries:
        entries = Entries()
        entries.order(RETIRE, 0, owners.oldest)
        return entries

    patch.setattr(Owners, "checkpoint", little)


def sync_again_after_a_failure(patch: pytest.MonkeyPatch) -> None:
    def again(file: MemoryFile) -> None:
        try:
            file.sync()
        except OSError:
            file.sync()

    patch.setattr(log_room, "_sync", again)


def name_a_snapshot_before_it_is_synced(patch: pytest.MonkeyPatch) -> None:
    sync = MemoryFile.sync
    patch.setattr(MemoryFile, "sync", lambda file: None if "snapshot" in file._name else sync(file))


def leave_what_was_refused(patch: pytest.MonkeyPatch) -> None:
    """A batch that met a full disk is refused, and yet it is there after a crash."""
    make_room = Log._make_room

    def after(log: Log, size: int, frees: bool) -> None:
        make_room(log, size, frees)
        if log._files.capacity is not None:  # type: ignore[attr-defined]
            log._refuse = True  # type: ignore[attr-defined]

    def write(log: Log, entries: Entries) -> None:
        log._file.write(log._end, entries)  # type: ignore[union-attr]
        if getattr(log, "_refuse", False):
            log._refuse = False  # type: ignore[attr-defined]
            raise OSError(28, "No space left on device")

    patch.setattr(Log, "_make_room", after)
    patch.setattr(Log, "_write", write)


def judge_by_histories() -> None:
    for seed in range(3 * SEEDS):
        play(seed)


def judge_by_flips() -> None:
    flip_bits(10_000)


DEFECTS = (
    (no_sync, judge_by_histories),
    (acknowledge_before_the_write, judge_by_histories),
    (ignore_checksums, judge_by_flips),
    (take_damage_for_a_torn_tail, judge_by_flips),
    (forget_the_directory, judge_by_histories),
    (keep_the_number_of_a_segment, judge_by_histories),
    (remove_before_it_is_said, judge_by_histories),
    (begin_a_segment_without_its_cells, judge_by_histories),
    (sync_again_after_a_failure, judge_by_histories),
    (name_a_snapshot_before_it_is_synced, judge_by_histories),
    (leave_what_was_refused, judge_by_histories),
)


@pytest.mark.parametrize(("plant", "judge"), DEFECTS, ids=[plant.__name__ for plant, _ in DEFECTS])
def test_a_planted_defect_is_caught(
    plant: Callable[[pytest.MonkeyPatch], None], judge: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what finds nothing where nothing is planted: `test_seeds` and the test of flipped bits."""
    plant(monkeypatch)
    with pytest.raises((AssertionError, NetworkError)) as caught:
        judge()
    print(f"{plant.__name__}: {str(caught.value)[:200]}")
