"""Groups that are written past the log: the same bytes, up to the room that there is, and every error."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from agentnet.storage.gathering import WRITES, Gathering
from agentnet_core.entries import Entries

pytestmark = pytest.mark.skipif(not WRITES, reason="this system has no such writes")
SALT, GROUP, AT = 77, 9, 512


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
    outcome = gathering.write(file, SALT, GROUP, AT, 4096)
    os.close(file)
    assert outcome == (GROUP + 1, AT + len(right), 0, False)
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
    assert gathering.write(file, SALT, GROUP, AT, AT + size - 1) == (GROUP, AT, 0, False)
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
    assert gathering.write(file, SALT, GROUP, AT, AT + size)[:2] == (GROUP + 1, AT + size)
    os.close(file)


def test_errors_of_writes_and_of_syncs(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(4096))
    file = os.open(path, os.O_RDONLY)
    gathering = gathered(1)
    assert gathering.write(file, SALT, GROUP, AT, 4096) == (GROUP, AT, errno.EBADF, False)
    assert (gathering.done, gathering.take_told()) == (0, [])
    gathering.clear()
    assert gathering.waiting_bytes == 0
    assert gathering.put(batch(2)) == 2
    os.close(file)
    null = os.open("/dev/full", os.O_WRONLY)
    assert gathering.write(null, SALT, GROUP, AT, 4096)[2] in (errno.ENOSPC, errno.ESPIPE)
    os.close(null)
    null = os.open("/dev/null", os.O_WRONLY)  # it takes writes and has no syncs
    assert gathered(1).write(null, SALT, GROUP, AT, 4096) == (GROUP, AT, errno.EINVAL, True)
    os.close(null)
