"""Groups that are written past the log: the same bytes, up to the room that there is, and every error."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from threading import Thread

import pytest

from agentnet.storage.gathering import WRITES, Gathering
from agentnet_core.entries import Entries

pytestmark = pytest.mark.skipif(not WRITES, reason="this system has no such writes")
SALT, GROUP, AT = 77, 9, 512
ROOM = (4096, 4096, 0, 1024)
"""What is laid down, up to where groups may be, what they leave, how much more is laid down at a time."""


def batch(index: int) -> Entries:
    entries = Entries()
    entries.put(1, 16, index, b"body %d" % index)
    entries.cell(1, 3, b"cell %d" % index)
    return entries


def gathered(*indices: int) -> Gathering:
    """What those batches are, with nothing to come: `write` returns when they are written."""
    gathering = Gathering()
    gathering.told = os.eventfd(0)
    for number, index in enumerate(indices, 1):
        entries = batch(index)
        assert gathering.put(entries) == number
        assert not entries.count
    gathering.end()
    return gathering


def sealed(*indices: int) -> bytes:
    entries = Entries()
    for index in indices:
        entries.absorb(batch(index))
    entries.seal(SALT, GROUP, AT)
    return bytes(entries)


def test_a_group_is_as_a_log_would_write_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(4096))
    gathering, right = gathered(1, 2, 3), sealed(1, 2, 3)
    assert gathering.waiting_bytes > 0
    file = os.open(path, os.O_RDWR)
    outcome = gathering.write(file, SALT, GROUP, AT, *ROOM)
    os.close(file)
    assert outcome == (GROUP + 1, AT + len(right), 4096, 0, False)
    assert path.read_bytes()[AT : AT + len(right)] == right
    assert (gathering.done, gathering.waiting_bytes) == (3, 0)
    assert os.eventfd_read(gathering.told) == 1
    told = [each for index in (1, 2, 3) for each in batch(index).told()]
    assert gathering.take_told() == told
    assert gathering.take_told() == []
    assert not gathering.wait()


def test_the_room_that_there_is_and_one_byte_less(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(4096))
    file = os.open(path, os.O_RDWR)
    size = len(sealed(1))
    gathering = gathered(1)
    limit = AT + size - 1
    assert gathering.write(file, SALT, GROUP, AT, 4096, limit, 0, 1024) == (GROUP, AT, 4096, 0, False)
    assert not path.read_bytes().strip(b"\0")
    assert gathering.wait()
    entries, number = gathering.take()  # it is for the log then, as it was put
    assert (number, entries.told()) == (1, batch(1).told())
    assert (entries.count, entries.orders, entries.frees) == (2, 1, False)
    assert gathering.waiting_bytes > 0
    gathering.finish(number)
    assert gathering.waiting_bytes == 0
    entries.seal(SALT, GROUP, AT)
    assert bytes(entries) == sealed(1)
    gathering = gathered(1)
    assert gathering.write(file, SALT, GROUP, AT, 4096, limit + 1, 0, 1024)[:2] == (GROUP + 1, AT + size)
    os.close(file)


@pytest.mark.parametrize("short", [0, 1])
def test_more_is_laid_down_where_it_is_not_enough(tmp_path: Path, short: int) -> None:
    """And what is to be left of it is left."""
    path, spare, step = tmp_path / "file", 64, 65_536 + 1024
    size = len(sealed(1))
    grown = AT + size + spare - short
    path.write_bytes(bytes(grown))
    file = os.open(path, os.O_RDWR)
    outcome = gathered(1).write(file, SALT, GROUP, AT, grown, 1 << 20, spare, step)
    os.close(file)
    grown += step if short else 0
    assert outcome == (GROUP + 1, AT + size, grown, 0, False)
    assert path.read_bytes() == bytes(AT) + sealed(1) + bytes(grown - AT - size)


def test_a_group_that_is_larger_than_a_step(tmp_path: Path) -> None:
    path, size = tmp_path / "file", len(sealed(1))
    path.write_bytes(bytes(AT))
    file = os.open(path, os.O_RDWR)
    outcome = gathered(1).write(file, SALT, GROUP, AT, AT, 1 << 20, 8, 16)
    os.close(file)
    assert outcome == (GROUP + 1, AT + size, AT + size + 8, 0, False)
    assert path.read_bytes()[AT:] == sealed(1) + bytes(8)


def test_a_full_disk_where_more_is_laid_down_is_for_the_log() -> None:
    """Nothing was written over, so it may try; any other error there is the disk's last word."""
    full = os.open("/dev/full", os.O_WRONLY)
    gathering = gathered(1)
    outcome = gathering.write(full, SALT, GROUP, AT, AT, 4096, 0, 1024)
    os.close(full)
    assert outcome in ((GROUP, AT, AT, 0, False), (GROUP, AT, AT, errno.ESPIPE, False))
    assert gathering.waiting_bytes > 0
    assert gathering.take()[1] == 1


def test_any_other_error_where_more_is_laid_down_is_final(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(AT))
    file = os.open(path, os.O_RDONLY)
    gathering = gathered(1)
    assert gathering.write(file, SALT, GROUP, AT, AT, 4096, 0, 1024) == (GROUP, AT, AT, errno.EBADF, False)
    os.close(file)
    assert gathering.done == 0


@pytest.mark.parametrize("spin_us", [0, 1_000, 1_000_000])
def test_each_group_is_written_whether_the_thread_looks_or_sleeps(tmp_path: Path, spin_us: int) -> None:
    """Hundreds of groups, one after the other, each when the last one was told."""
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    file = os.open(path, os.O_RDWR)
    gathering = Gathering(spin_us=spin_us)
    gathering.told = os.eventfd(0)
    outcomes: list[tuple[int, int, int, int, bool]] = []
    room = (1 << 20, 1 << 20, 0, 1024)
    thread = Thread(target=lambda: outcomes.append(gathering.write(file, SALT, GROUP, AT, *room)))
    thread.start()
    for number in range(1, 301):
        gathering.put(batch(number))
        gathering.ring()
        while gathering.hear() < number:
            pass
    gathering.end()
    thread.join(60)
    os.close(file)
    assert outcomes[0][0] == GROUP + 300
    assert gathering.waiting_bytes == 0


def test_errors_of_writes_and_of_syncs(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(4096))
    file = os.open(path, os.O_RDONLY)
    gathering = gathered(1)
    assert gathering.write(file, SALT, GROUP, AT, *ROOM) == (GROUP, AT, 4096, errno.EBADF, False)
    assert (gathering.done, gathering.take_told()) == (0, [])
    gathering.clear()
    assert gathering.waiting_bytes == 0
    assert gathering.put(batch(2)) == 2
    os.close(file)
    null = os.open("/dev/full", os.O_WRONLY)
    assert gathering.write(null, SALT, GROUP, AT, *ROOM)[3] in (errno.ENOSPC, errno.ESPIPE)
    os.close(null)
    null = os.open("/dev/null", os.O_WRONLY)  # it takes writes and has no syncs
    assert gathered(1).write(null, SALT, GROUP, AT, *ROOM) == (GROUP, AT, 4096, errno.EINVAL, True)
    os.close(null)
