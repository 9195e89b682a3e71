"""The log over files in memory: crashes at every step, torn tails, flipped bits, full and failing disks."""

from __future__ import annotations

import re
from contextlib import suppress
from random import Random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from storages import (
    KIND,
    NODE,
    SEEDS,
    Trial,
    closed_log,
    commit,
    copied,
    flip_bits,
    play,
    reopen,
    small,
    some_log,
)

from agentnet.storage.log import Log
from agentnet.storage.memory import MemoryFiles, PowerCut
from agentnet.storage.segments import HEADER_BYTES, SPARE
from agentnet_core.entries import FLEETING, HEAD_BYTES, RECORD_BYTES, Entries
from agentnet_core.errors import (
    ConfigError,
    StorageDamaged,
    StorageFailed,
    StorageFull,
    StorageLocked,
)
from agentnet_core.framing import crc32c

GOLDEN = (
    "61674c671346468300000000000000010000000000000200000000195fbeb8d7000000000ed5ac810000000000000000"
    "0000000000000001040000000000000061674c67c017e4c700000000000000020000000000000240000000547a2d73e2"
    "00000004407bf48e0000000000000001000000000000000114626f647900000005132c84a6ffffffffffffffff000000"
    "00000000030176616c75650000000025ae1b56000000000000000100000000000000020300000000"
)
"""Two groups, the one that begins a segment and one of an entry, a cell and a truncation."""


class TestHistories:
    """Against the model of `storages`."""

    @pytest.mark.parametrize("part", range(3))
    def test_seeds(self, part: int) -> None:
        for seed in range(part * SEEDS, (part + 1) * SEEDS):
            play(seed)

    def test_a_cut_at_every_step_of_a_history(self) -> None:
        for steps in range(80):
            trial = Trial(7)
            for _ in range(10):
                trial.commit()
            trial.cut(steps)
            trial.act()
            trial.end()

    def test_twenty_cuts_of_one_recovery_in_a_row(self) -> None:
        trial = Trial(11)
        trial.cut(90)
        before = trial.model.state
        for steps in range(20):
            trial.files.restart()
            trial.files.cut_in = steps % 7
            with suppress(PowerCut):
                trial.open()
        trial.files.restart()
        trial.open()
        assert trial.model.state == before


class Histories(RuleBasedStateMachine):
    """Whatever the order in which it happens."""

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.trial = Trial(seed)

    @rule(count=st.integers(1, 8))
    def commit(self, count: int) -> None:
        for _ in range(count):
            self.trial.commit()

    @rule()
    def snapshot(self) -> None:
        self.trial.snapshot()

    @rule(steps=st.integers(0, 40))
    def cut(self, steps: int) -> None:
        self.trial.cut(steps)

    @rule()
    def kill(self) -> None:
        self.trial.kill()

    @rule()
    def end(self) -> None:
        self.trial.end()

    @rule()
    def fail_sync(self) -> None:
        self.trial.fail_sync()

    @rule()
    def fill(self) -> None:
        self.trial.fill()


TestAnyHistory = Histories.TestCase
TestAnyHistory.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)


class TestTails:
    def last_group(self) -> tuple[MemoryFiles, str, int, int]:
        """A log that was killed, its last segment, where the last group begins, where its record ends."""
        files = MemoryFiles(Random(5))
        log = some_log(files, 3, log_segment_bytes=4096)
        begin = log._end
        commit(log, 4)
        files.die()
        return files, files.names()[-1], begin, begin + HEAD_BYTES + RECORD_BYTES + 64

    @pytest.mark.parametrize("rest", ["gone", "zeros", "noise"])
    def test_every_torn_offset_of_the_last_record(self, rest: str) -> None:
        files, name, begin, end = self.last_group()
        for cut in range(begin, end):
            torn = copied(files)
            file = torn.open(name)
            if rest == "gone":
                file.truncate(cut)
            else:
                noise = Random(cut).randbytes(end - cut)
                file.write(cut, noise if rest == "noise" else bytes(end - cut))
            file.sync()
            same = file.read(cut, end - cut) == files.open(name).read(cut, end - cut)
            for _ in range(2):
                assert sorted(reopen(torn)[1].entries) == [1, 2, 3, 4][: 4 if same else 3], cut
        assert sorted(reopen(files)[1].entries) == [1, 2, 3, 4]

    def test_sectors_of_the_last_write_in_any_order(self) -> None:
        """A later part of a torn write may be there without the one before it: that is no damage."""
        files = MemoryFiles(Random(5))
        log = some_log(files, 3, log_segment_bytes=65_536, log_held_bytes=65_536)
        begin = log._end
        entries = Entries()
        for index in range(4, 40):
            entries.put(1, KIND, index, bytes(100))
        log.commit(entries)
        files.die()
        for at in range(begin, log._end, 512):
            torn = copied(files)
            file = torn.open(files.names()[-1])
            file.write(at, bytes(min(512, log._end - at)))
            file.sync()
            assert sorted(reopen(torn)[1].entries) == [1, 2, 3]

    def test_damage_of_the_last_group_before_a_crash_is_taken_for_a_torn_tail_with_a_warning(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Nothing on the disk tells the two apart, and a node must start after a power cut."""
        files, name, begin, _ = self.last_group()
        files.flip(name, (begin + HEAD_BYTES + RECORD_BYTES) * 8)
        assert sorted(reopen(files)[1].entries) == [1, 2, 3]
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert f"is cut at byte {begin}, behind group" in caplog.text

    def test_damage_of_it_once_it_is_covered_is_refused(self) -> None:
        files = MemoryFiles(Random(5))
        log = some_log(files, 3, log_segment_bytes=4096)
        begin = log._end
        commit(log, 4)
        log.commit(Entries())  # as a log does that is closed, or has rested for a while
        files.die()
        name = files.names()[-1]
        for at in range(begin, begin + HEAD_BYTES + RECORD_BYTES + 64):
            files.flip(name, at * 8)
            with pytest.raises(StorageDamaged, match="others follow it"):
                reopen(files)
            files.flip(name, at * 8)
        assert sorted(reopen(files)[1].entries) == [1, 2, 3, 4]

    def test_what_a_killed_process_did_not_sync_is_synced_before_it_is_relied_on(self) -> None:
        files, _, _, _ = self.last_group()
        log = Log(files, small(), NODE, Random(2).randbytes)
        files.fail_syncs = 1
        with pytest.raises(StorageFailed):
            log.open()


class TestDamage:
    def test_ten_thousand_flipped_bits(self) -> None:
        flip_bits(10_000)

    def test_it_says_where_and_what_to_do(self) -> None:
        files = closed_log()
        name = files.names()[0]
        files.flip(name, (HEADER_BYTES + HEAD_BYTES * 2 + 40) * 8)
        with pytest.raises(StorageDamaged) as caught:
            reopen(files)
        assert re.search(rf"memory/{name} is damaged at byte \d+: group \d+ is not whole", str(caught.value))
        assert "restore the directory from a copy" in str(caught.value)
        assert caught.value.definite

    @pytest.mark.parametrize("which", [0, 1, -1])
    def test_a_missing_segment(self, which: int) -> None:
        files = closed_log()
        segments = [name for name in files.names() if name.endswith(".segment")]
        files.remove(segments[which])
        if which == -1:  # nothing says that there was a later one, but what it held is told by a snapshot
            return
        with pytest.raises(StorageDamaged, match="not there|expected"):
            reopen(files)

    def test_a_missing_snapshot(self) -> None:
        files = closed_log()
        (name,) = [name for name in files.names() if name.endswith(".snapshot")]
        files.remove(name)
        with pytest.raises(StorageDamaged, match=f"{name} is damaged.*it is not there"):
            reopen(files)

    def test_a_snapshot_without_a_log(self) -> None:
        files = closed_log()
        for name in files.names():
            if name.endswith(".segment"):
                files.remove(name)
        with pytest.raises(StorageDamaged, match="no segment of the log"):
            reopen(files)

    def test_a_segment_of_another_log(self) -> None:
        files, other = closed_log(), MemoryFiles(Random(6))
        log = Log(other, small(), NODE, Random(77).randbytes)
        log.open()
        for index in range(1, 31):
            commit(log, index)
        name = files.names()[0]
        file = files.create(name)
        file.write(0, other.open(name).read(0, other.size(name)))
        with pytest.raises(StorageDamaged, match="it is of another log"):
            reopen(files)

    def test_another_nodes_log(self) -> None:
        files = closed_log()
        with pytest.raises(ConfigError, match="give each node a data_dir of its own"):
            Log(files, small(), "n2", Random(2).randbytes).open()
        files.unlock()
        with pytest.raises(ConfigError, match="of node 'n1' in network 'default'"):
            Log(files, small(network="other"), NODE, Random(2).randbytes).open()

    def test_a_newer_version(self) -> None:
        files = closed_log()
        name = files.names()[-2]
        file = files.open(name)
        head = bytearray(file.read(0, HEADER_BYTES - 4))
        head[9] = 2
        file.write(0, bytes(head) + crc32c(head).to_bytes(4, "big"))
        file.sync()
        with pytest.raises(ConfigError, match="has version 2, expected 1"):
            reopen(files)


class TestFull:
    def test_refused_definitely_and_taken_again_when_there_is_space(self) -> None:
        files = MemoryFiles(Random(5))
        log = some_log(files, 3)
        files.capacity = 0
        index = 4
        with pytest.raises(StorageFull, match="No space left.*make room on the disk") as caught:
            while True:
                commit(log, index)
                index += 1
        assert caught.value.definite
        assert sorted(reopen_after_kill(files)) == list(range(1, index))
        files.capacity = None
        log = Log(files, small(), NODE, Random(4).randbytes)
        log.open()
        commit(log, index)
        log.close()
        assert sorted(reopen(files)[1].entries) == list(range(1, index + 1))

    def test_what_frees_is_still_taken(self) -> None:
        files = MemoryFiles(Random(5))
        log = some_log(files, 30)
        files.capacity = 0
        with pytest.raises(StorageFull):
            for index in range(31, 60):
                commit(log, index)
        segments = [name for name in files.names() if name.endswith(".segment")]
        entries = Entries()
        entries.release(1, 31)
        log.commit(entries)
        log.commit(Entries())
        log.commit(Entries())
        left = [name for name in files.names() if name.endswith(".segment")]
        assert len(left) < len(segments) / 2
        commit(log, 60)

    def test_a_write_that_meets_it_elsewhere_than_where_zeros_stood(self) -> None:
        """As on a file system that copies on write: nothing half written may count."""
        files = MemoryFiles(Random(5))
        log = some_log(files, 3, log_segment_bytes=4096)
        whole = log._file.write

        def half(at: int, data: Any) -> None:
            whole(at, bytes(data)[: len(bytes(data)) - 8])
            raise OSError(28, "No space left on device")

        log._file.write = half
        with pytest.raises(StorageFull):
            commit(log, 4)
        log._file.write = whole
        assert sorted(reopen_after_kill(copied(files))) == [1, 2, 3]
        commit(log, 4)
        assert sorted(reopen_after_kill(files)) == [1, 2, 3, 4]

    def test_the_logs_own_limit_and_one_past_it(self) -> None:
        files = MemoryFiles(Random(5))
        log = some_log(files, 0, log_held_bytes=2048, log_bytes_max=4096)
        index = 1
        with pytest.raises(StorageFull, match="at most log_bytes_max=4096; let its owners release"):
            while True:
                before = log.size
                commit(log, index)
                index += 1
        group = HEAD_BYTES + RECORD_BYTES + 64 + 7 & ~7
        assert before <= 4096 < before + group
        entries = Entries()
        entries.release(1, index)
        for batch in (entries, Entries(), Entries()):
            log.commit(batch)
        commit(log, index)

    def test_whoever_holds_the_oldest_segment_is_asked_once_for_each_new_one(self) -> None:
        files = MemoryFiles(Random(5))
        log = some_log(files, 0, log_held_bytes=4096)
        entries = Entries()
        entries.put(7, KIND, 1, b"the only one")
        log.commit(entries)
        asked = []
        for index in range(1, 200):
            commit(log, index)
            entries = Entries()
            entries.release(1, index)
            log.commit(entries)
            asked += log.held()
        assert asked
        assert {owner for owner, _ in asked} == {7}
        assert asked[0] == (7, 1)
        assert len(asked) <= log._header.sequence
        entries = Entries()
        entries.put(7, KIND, 2, b"the only one")
        entries.release(7, 2)
        for batch in (entries, Entries(), Entries()):
            log.commit(batch)
        assert log.size < 4096
        assert log.held() == []
        assert sorted(reopen_after_kill(files, 7)) == [2]


def reopen_after_kill(files: MemoryFiles, owner: int = 1) -> dict[int, bytes]:
    files.die()
    return dict(reopen(files)[owner].entries)


class TestFailure:
    @pytest.mark.parametrize("step", ["write", "sync"])
    def test_it_is_final(self, step: str) -> None:
        files = MemoryFiles(Random(5))
        log = some_log(files, 3)
        files.fault = lambda what, _: OSError(5, "Input/output error") if what == step else None
        with pytest.raises(StorageFailed, match="start the node again") as caught:
            commit(log, 4)
        assert not caught.value.definite
        files.fault = lambda _what, _name: None
        steps = files.steps
        for _ in range(2):
            with pytest.raises(StorageFailed) as caught:
                commit(log, 5)
            assert caught.value.definite
        with pytest.raises(StorageFailed):
            log.write_snapshot(1, 3, [b"x"])
        log.close()
        assert files.steps == steps  # nothing was tried again
        assert set(reopen(files)[1].entries) >= {1, 2, 3}

    @pytest.mark.parametrize("step", ["write", "sync", "rename", "create"])
    @pytest.mark.parametrize("number", [5, 28])
    def test_a_snapshot_that_fails_leaves_the_one_before(self, step: str, number: int) -> None:
        files = MemoryFiles(Random(5))
        log = some_log(files, 3)
        files.fault = lambda what, _: OSError(number, "fails") if what == step else None
        with pytest.raises((StorageFailed, StorageFull)):
            log.write_snapshot(1, 3, [b"x"])
        files.fault = lambda _what, _name: None
        log.close()
        assert reopen(files)[1].snapshot is None
        assert not [name for name in files.names() if "snapshot" in name]

    def test_one_at_a_time(self) -> None:
        files = MemoryFiles(Random(5))
        log = some_log(files, 1)
        with pytest.raises(StorageLocked, match="in use by another process"):
            Log(files, small(), NODE, Random(2).randbytes).open()
        log.close()
        reopen(files)


class TestSegments:
    def test_one_that_nobody_needs_is_written_over_and_never_read(self) -> None:
        files = MemoryFiles(Random(5))
        log = some_log(files, 0)
        for index in range(1, 200):
            commit(log, index)
            entries = Entries()
            entries.release(1, index - 2 if index > 2 else 1)
            log.commit(entries)
        assert SPARE in files.names() or log._header.sequence > 20
        assert len(files.names()) <= 4
        assert sorted(reopen_after_kill(files)) == [197, 198, 199]

    def test_a_snapshot_takes_the_place_of_what_it_stands_for(self) -> None:
        trial = Trial(3)
        for _ in range(30):
            trial.act()
        for _ in range(10):
            trial.snapshot()
        trial.end()
        names = [name for name in trial.files.names() if name.endswith(".snapshot")]
        assert len(names) == sum(kept.snapshot is not None for kept in trial.model.state.values())


class TestForm:
    """What is on disks already."""

    def test_a_segment_of_version_1(self) -> None:
        files = MemoryFiles(Random(5))
        log = Log(files, small(), NODE, lambda count: bytes(range(count)))
        log.open()
        entries = Entries()
        entries.put(1, KIND, 1, b"body")
        entries.cell(2**64 - 1, 3, b"value")
        entries.truncate(1, 2)
        log.commit(entries)
        data = files.open("0000000000000001.segment").read(0, log._end)
        assert data[:10].hex() == "6167656e746c6f670001"
        assert data[HEADER_BYTES:].hex() == GOLDEN
        assert crc32c(data[:HEADER_BYTES]) == 0x0E721802


class TestWordsForOneOpening:
    """Cells of keys from FLEETING on."""

    def test_they_are_found_once_whatever_cuts_the_opening(self) -> None:
        for steps in range(12):
            files = MemoryFiles(Random(steps))
            log = some_log(files)
            entries = Entries()
            entries.cell(1, FLEETING + 5, b"once")
            entries.cell(1, 5, b"for good")
            log.commit(entries)
            log.close()
            files.cut_in = steps
            found: dict[int, Any] = {}
            with suppress(PowerCut):
                found = Log(files, small(), NODE, Random(1).randbytes).open()
            files.restart()
            seen = bool(found) and bool(found[1].cells[FLEETING + 5])
            again = reopen(files)[1].cells
            assert again[5] == b"for good"
            assert not (seen and again[FLEETING + 5]), f"twice, cut after {steps} steps"
            files.restart()
            assert not reopen(files)[1].cells[FLEETING + 5]

    def test_a_full_disk_takes_the_word_away(self) -> None:
        files = MemoryFiles(Random(1))
        log = some_log(files)
        entries = Entries()
        entries.cell(1, FLEETING, b"once")
        log.commit(entries)
        log.close()
        files.capacity = sum(files.size(name) for name in files.names())
        assert reopen(files)[1].cells[FLEETING] == b"once"
        assert not reopen(files)[1].cells[FLEETING]
