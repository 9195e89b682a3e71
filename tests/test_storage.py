"""Storage on a real disk: numbers, limits, locks, killed processes, disks that fail and that are full.

`strace` makes the disk fail, a small tmpfs makes it full; where they cannot be had the tests are skipped by
name, but not where CI is set.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from networks import until
from storage_process import CONFIG
from storages import NODE, copied, small

from agentnet import storage as storage_room
from agentnet.identity import load_identity
from agentnet.storage import Storage, log_directory
from agentnet.storage.files import DiskFiles, Files
from agentnet.storage.log import Log
from agentnet.storage.memory import MemoryFiles
from agentnet_core.config import EngineConfig
from agentnet_core.entries import Entries
from agentnet_core.errors import (
    ConfigError,
    LimitReached,
    NotRunning,
    StorageBusy,
    StorageDamaged,
    StorageFailed,
    StorageFull,
    StorageLocked,
    UsageError,
)

SCRIPT = Path(__file__).with_name("storage_process.py")
ENVIRON = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
posix = pytest.mark.skipif(sys.platform == "win32", reason="there is no fork and no flock")


class Watch:
    """What a storage told."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.errors: list[tuple[int, Exception]] = []
        self.asked: list[tuple[int, int]] = []

    def persisted(self, number: int) -> None:
        self.numbers.append(number)

    def refused(self, number: int, error: StorageFull) -> None:
        self.errors.append((number, error))

    def failed(self, error: StorageFailed) -> None:
        self.errors.append((0, error))

    def held(self, owner: int, index: int) -> None:
        self.asked.append((owner, index))


@asynccontextmanager
async def opened(
    where: Path | Files, watch: Watch | None = None, config: EngineConfig | None = None
) -> AsyncIterator[Storage]:
    storage = await Storage.start(where, config or small(), NODE, watch or Watch())
    try:
        yield storage
    finally:
        await storage.close()


def entry(index: int, body: bytes = b"body", owner: int = 1) -> Entries:
    entries = Entries()
    entries.put(owner, 16, index, body)
    return entries


class TestNumbers:
    async def test_what_is_appended_in_one_turn_is_one_write(self, tmp_path: Path) -> None:
        watch = Watch()
        async with opened(tmp_path, watch) as storage:
            assert [storage.append(entry(index)) for index in range(1, 6)] == [1, 2, 3, 4, 5]
            await storage.wait_persisted(5)
            assert watch.numbers == [5]
            assert storage.waiting_bytes == 0
            assert storage.append(Entries()) == 5
            await storage.wait_persisted(3)
        async with opened(tmp_path) as storage:
            assert [index for index, _, _ in storage.found[1].entries] == [1, 2, 3, 4, 5]

    async def test_many_owners_cells_and_snapshots(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as storage:
            for owner in range(50):
                batch = entry(1, owner=owner)
                batch.cell(owner, 3, b"term %d" % owner)
                storage.append(batch)
            await storage.save_snapshot(7, 1, (bytes([part]) * 50_000 for part in range(10)))
            await storage.save_snapshot(7, 1, [b"", b"newer"])
        async with opened(tmp_path) as storage:
            assert len(storage.found) == 50
            assert all(found.cells == {3: b"term %d" % owner} for owner, found in storage.found.items())
            found = storage.found[7]
            assert (list(found.entries), found.gone, found.last) == ([], 1, 1)
            assert found.snapshot is not None
            assert list(storage.read_snapshot(found.snapshot)) == [b"newer"]
        assert len(list(tmp_path.glob("*.snapshot"))) == 1

    async def test_indices_only_rise(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as storage:
            storage.append(entry(5))
            for index in (5, 4):
                with pytest.raises(UsageError, match="indices only rise"):
                    storage.append(entry(index))
            batch = Entries()
            batch.truncate(1, 3)
            batch.put(1, 16, 3, b"again")
            await storage.wait_persisted(storage.append(batch))
            with pytest.raises(UsageError):
                storage.append(entry(3))
        async with opened(tmp_path) as storage:
            assert list(storage.found[1].entries) == [(3, 16, b"again")]
            with pytest.raises(UsageError):
                storage.append(entry(3))

    def test_what_cannot_be_put(self) -> None:
        entries = Entries()
        for kind, index in ((15, 1), (256, 1), (-1, 1), (16, 0)):
            with pytest.raises(UsageError):
                entries.put(1, kind, index, b"")
        with pytest.raises(UsageError, match="order 99"):
            entries.order(99, 1, 1)
        assert len(entries) == 0

    async def test_nothing_is_taken_after_the_end(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as storage:
            number = storage.append(entry(1))
        assert storage.persisted == number
        with pytest.raises(NotRunning):
            storage.append(entry(2))


class TestRest:
    async def test_a_log_at_rest_covers_its_last_group(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Damage of what was acknowledged a while ago is told, though the process never closed it."""
        monkeypatch.setattr(storage_room, "COVER_S", 0.01)
        files = MemoryFiles(Random(1))
        async with opened(files) as storage:
            batch = entry(1, bytes(64))
            end = storage._log._end + batch.size
            await storage.wait_persisted(storage.append(batch))
            await until(lambda: storage._log._end > end)
            steps = files.steps
            await asyncio.sleep(0.05)
            assert files.steps == steps  # once is enough
            image = copied(files)
            await storage.wait_persisted(storage.append(entry(2)))
        image.flip(image.names()[-1], (end - 8) * 8)
        with pytest.raises(StorageDamaged, match="others follow it"):
            await Storage.start(image, small(), NODE, Watch())

    @pytest.mark.parametrize(("number", "is_over"), [(28, False), (5, True)])
    async def test_a_disk_that_cannot_take_that(
        self, monkeypatch: pytest.MonkeyPatch, number: int, is_over: bool
    ) -> None:
        monkeypatch.setattr(storage_room, "COVER_S", 0.01)
        files, watch = MemoryFiles(Random(1)), Watch()
        async with opened(files, watch) as storage:
            await storage.wait_persisted(storage.append(entry(1)))
            failed: list[str] = []
            error = OSError(number, "no")

            def fault(what: str, _: str) -> OSError | None:
                failed.append(what)
                return error if what == "write" else None

            files.fault = fault
            await until(lambda: "write" in failed and (watch.errors or not is_over))
            await asyncio.sleep(0.02)
            files.fault = lambda _what, _name: None
            assert [type(each) for _, each in watch.errors] == ([StorageFailed] if is_over else [])
            if not is_over:
                await storage.wait_persisted(storage.append(entry(2)))


class TestLimits:
    """Each at the limit, and one past it."""

    async def test_bytes_that_wait(self, tmp_path: Path) -> None:
        size = entry(1).size
        async with opened(tmp_path, config=small(log_waiting_bytes_max=3 * size)) as storage:
            for index in (1, 2, 3):
                storage.append(entry(index))
            with pytest.raises(StorageBusy, match="log_waiting_bytes_max") as caught:
                storage.append(entry(4))
            assert caught.value.definite
            await storage.wait_persisted(3)
            await storage.wait_persisted(storage.append(entry(4)))

    async def test_one_batch(self, tmp_path: Path) -> None:
        most = entry(1, bytes(2000)).size
        async with opened(tmp_path, config=small(log_waiting_bytes_max=most)) as storage:
            with pytest.raises(LimitReached, match="log_waiting_bytes_max"):
                storage.append(entry(1, bytes(2008)))
            await storage.wait_persisted(storage.append(entry(1, bytes(2000))))

    async def test_owners(self, tmp_path: Path) -> None:
        config = small(log_owners_max=3)
        async with opened(tmp_path, config=config) as storage:
            for owner in (1, 2, 3):
                storage.append(entry(1, owner=owner))
            with pytest.raises(LimitReached, match="at most log_owners_max=3"):
                storage.append(entry(1, owner=4))
            batch = Entries()
            batch.forget(2)
            storage.append(batch)
            storage.append(entry(1, owner=4))
        async with opened(tmp_path, config=config) as storage:
            assert sorted(storage.found) == [1, 3, 4]
            with pytest.raises(LimitReached):
                storage.append(entry(1, owner=5))

    async def test_cells(self, tmp_path: Path) -> None:
        config = small(log_cells_bytes_max=300)
        async with opened(tmp_path, config=config) as storage:
            batch = Entries()
            batch.cell(1, 1, bytes(86))
            batch.cell(1, 2, bytes(86))
            storage.append(batch)
            batch.cell(1, 2, bytes(87))
            with pytest.raises(LimitReached, match="at most log_cells_bytes_max=300"):
                storage.append(batch)
            batch.clear()
            batch.cell(1, 2, bytes(10))
            batch.cell(2, 1, bytes(12))
            storage.append(batch)
        async with opened(tmp_path, config=config) as storage:
            assert {owner: list(found.cells) for owner, found in storage.found.items()} == {1: [1, 2], 2: [1]}

    async def test_whoever_holds_an_old_segment_is_asked(self) -> None:
        watch = Watch()
        async with opened(MemoryFiles(Random(1)), watch, small(log_held_bytes=4096)) as storage:
            storage.append(entry(1, owner=9))
            for index in range(1, 100):
                batch = entry(index, bytes(64))
                batch.release(1, index)
                await storage.wait_persisted(storage.append(batch))
            assert set(watch.asked) == {(9, 1)}


class TestRefused:
    async def test_all_that_waits_and_then_what_comes_next_is_taken(self) -> None:
        """What was appended before the loop knew may build on what was refused: it goes as well."""
        files, watch = MemoryFiles(Random(1)), Watch()
        async with opened(files, watch) as storage:
            storage.append(entry(1, bytes(900)))
            await storage.wait_persisted(1)
            files.capacity = 0
            numbers = [storage.append(entry(index, bytes(500))) for index in (2, 3)]
            waits = [asyncio.ensure_future(storage.wait_persisted(number)) for number in numbers]
            for wait in waits:
                with pytest.raises(StorageFull, match="make room on the disk") as caught:
                    await wait
                assert caught.value.definite
            ((number, error),) = watch.errors
            assert (number, type(error)) == (3, StorageFull)
            files.capacity = None
            await storage.wait_persisted(storage.append(entry(2, b"again")))
            assert watch.numbers == [1, 4]
            for number in (2, 3):
                with pytest.raises(StorageFull):
                    await storage.wait_persisted(number)
            await storage.wait_persisted(1)
        async with opened(files) as storage:
            assert [index for index, _, _ in storage.found[1].entries] == [1, 2]

    async def test_a_snapshot_whose_mark_is_refused_is_not_left(self) -> None:
        files = MemoryFiles(Random(1))
        async with opened(files) as storage:
            await storage.wait_persisted(storage.append(entry(1)))
            full = OSError(28, "No space left on device")
            files.fault = lambda what, name: full if what == "write" and "segment" in name else None
            with pytest.raises(StorageFull):
                await storage.save_snapshot(1, 1, [b"x"])
            files.fault = lambda _what, _name: None
            assert not [name for name in files.names() if "snapshot" in name]
            await storage.save_snapshot(1, 1, [b"x"])

    async def test_a_failed_sync_ends_every_wait_and_all_that_follows(self) -> None:
        files, watch = MemoryFiles(Random(1)), Watch()
        async with opened(files, watch) as storage:
            await storage.wait_persisted(storage.append(entry(1)))
            files.fail_syncs = 1
            number = storage.append(entry(2))
            with pytest.raises(StorageFailed, match="start the node again") as caught:
                await storage.wait_persisted(number)
            assert not caught.value.definite
            with pytest.raises(StorageFailed) as caught:
                storage.append(entry(3))
            assert caught.value.definite
            assert watch.numbers == [1]
            assert len(watch.errors) == 1


@posix
class TestLocks:
    async def test_a_second_process_is_told_the_pid_of_the_first(self, tmp_path: Path) -> None:
        async with opened(tmp_path):
            for _ in range(2):
                with pytest.raises(
                    StorageLocked, match=f"in use by another process .pid {os.getpid()}."
                ) as it:
                    await Storage.start(tmp_path, small(), NODE, Watch())
                assert it.value.definite
                assert isinstance(it.value, ConfigError)
        async with opened(tmp_path):
            pass

    async def test_the_log_and_the_identity_share_a_data_dir(self, tmp_path: Path) -> None:
        identity = load_identity(str(tmp_path), NODE, "default", 1)
        async with opened(log_directory(tmp_path)):
            with pytest.raises(StorageLocked, match=f"pid {os.getpid()}"):
                load_identity(str(tmp_path), NODE, "default", 1)
        identity.close()

    async def test_a_directory_that_cannot_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        with pytest.raises(ConfigError, match="file"):
            await Storage.start(tmp_path / "file" / "log", small(), NODE, Watch())


# -- processes


def run(*arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, sys.executable, str(SCRIPT), *arguments],
        env=ENVIRON,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def found_in(folder: Path) -> list[int]:
    log = Log(DiskFiles(folder), CONFIG, "n1", os.urandom)
    try:
        found = log.open().get(1)
        return [] if found is None else [index for index, _, _ in found.entries]
    finally:
        log.close()


@posix
@pytest.mark.timeout(120)
def test_fifty_killed_processes_lose_nothing_that_was_acknowledged() -> None:
    """In memory where there is such a directory: what a killed process wrote is in the cache either way."""
    memory = "/dev/shm"
    with TemporaryDirectory(dir=memory if os.path.isdir(memory) else None) as folder:
        done = run("lives", folder, "50")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 500


def lacking_strace() -> str:
    if shutil.which("strace") is None:
        return "there is no command strace"
    tried = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else f"strace: {tried.stderr.strip()}"


strace = pytest.mark.skipif(
    bool(why_no_strace := lacking_strace()) and "CI" not in os.environ, reason=why_no_strace
)


@strace
@pytest.mark.timeout(120)
@pytest.mark.parametrize("call", ["fdatasync", "pwrite64"])
def test_a_disk_that_fails_once(tmp_path: Path, call: str) -> None:
    """EIO once, and well again: nothing is acknowledged after it, and nothing that was is lost."""
    done = run(
        "write",
        str(tmp_path),
        prefix=("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"inject={call}:error=EIO:when=20"),
    )
    *numbers, said = done.stdout.splitlines()
    assert said.startswith("failed False"), done.stdout + done.stderr
    assert "Input/output error" in said
    there = found_in(tmp_path)
    assert int(numbers[-1]) in there
    assert max(there) <= int(numbers[-1]) + 64 * 2


@strace
@pytest.mark.timeout(120)
def test_a_write_for_which_there_is_no_space(tmp_path: Path) -> None:
    done = run(
        "write",
        str(tmp_path),
        prefix=("strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=pwrite64:error=ENOSPC:when=20"),
    )
    *numbers, said = done.stdout.splitlines()
    assert said.startswith("refused"), done.stdout + done.stderr
    assert "True" in said
    assert max(found_in(tmp_path)) == int(numbers[-1])


@pytest.fixture
def little_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB."""
    folder = tmp_path / "little"
    folder.mkdir()
    if sys.platform != "linux":
        pytest.skip("no little disk: not Linux")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "agentnet-test", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        if "CI" in os.environ:
            pytest.fail(mounted.stderr)
        pytest.skip(f"no little disk: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


async def test_a_little_disk_is_full_and_then_is_not(little_disk: Path) -> None:
    watch: Any = Watch()
    async with opened(little_disk / "log", watch, CONFIG) as storage:
        index = 0
        while not watch.errors:
            index += 1
            number = storage.append(entry(index, bytes(4000)))
            try:
                await storage.wait_persisted(number)
            except StorageFull as error:
                assert error.definite
        assert index > 60
        kept = index - 1
        with pytest.raises(StorageFull):
            await storage.save_snapshot(1, kept, [bytes(200_000)])
        assert not list((little_disk / "log").glob("*.new"))
        batch = Entries()
        batch.release(1, kept)
        for _ in range(3):
            await storage.wait_persisted(storage.append(batch))
            batch.release(1, kept)
        for more in range(index, index + 20):
            await storage.wait_persisted(storage.append(entry(more, bytes(4000))))
    assert found_in(little_disk / "log") == list(range(kept, index + 20))
