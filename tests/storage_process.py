"""A process that appends to a log on disk and prints the number of every batch that is persisted.

    storage_process.py write DIRECTORY          until it is killed, or the disk says no
    storage_process.py lives DIRECTORY COUNT    as many lives as COUNT, each killed at a moment of chance

A batch's entry has its number as its index and its body.  `lives` opens the log after each life, and says
what is there that should not be, or the other way round; at the end it says how many entries there were.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from random import Random

from agentnet.storage import Storage
from agentnet.storage.files import DiskFiles
from agentnet.storage.log import Log
from agentnet_core.config import EngineConfig
from agentnet_core.entries import Entries
from agentnet_core.errors import StorageFailed, StorageFull

CONFIG = EngineConfig(log_segment_bytes=64 * 1024, log_held_bytes=1024 * 1024)
FLIGHT = 64


class Writer:
    """Keeps FLIGHT batches under way."""

    def __init__(self, first: int, tell: int) -> None:
        self.index, self.tell = first, tell
        self.base = first - 1
        self.over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.storage: Storage | None = None

    def go(self, count: int) -> None:
        assert self.storage is not None
        for _ in range(count):
            entries = Entries()
            entries.put(1, 16, self.index, b"%d" % self.index)
            if self.index % 100 == 0:
                entries.release(1, max(1, self.index - 1000))
            self.storage.append(entries)
            self.index += 1

    def persisted(self, number: int) -> None:
        os.write(self.tell, b"%d\n" % (self.base + number))
        self.go(self.base + number + FLIGHT + 1 - self.index)

    def refused(self, number: int, error: StorageFull) -> None:
        self.over.set_result(f"refused {self.base + number} {error.definite} {error}")

    def failed(self, error: StorageFailed) -> None:
        self.over.set_result(f"failed {error.definite} {error}")

    def held(self, owner: int, index: int) -> None:
        pass


async def write(directory: str, tell: int) -> str:
    writer = Writer(1, tell)
    storage = writer.storage = await Storage.start(directory, CONFIG, "n1", writer)
    found = storage.found.get(1)
    writer.index = 1 if found is None else found.last + 1
    writer.base = writer.index - 1
    writer.go(FLIGHT)
    said = await writer.over
    await storage.close()
    return said


def life(directory: str, lines: int) -> int:
    """One that is killed once it has told so many numbers; returns the last one."""
    read, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        asyncio.run(write(directory, tell))
        os._exit(1)
    os.close(tell)
    told = b""
    while told.count(b"\n") < lines:
        part = os.read(read, 65536)
        if not part:
            raise SystemExit("it ended by itself")
        told += part
    os.kill(pid, signal.SIGKILL)
    while part := os.read(read, 65536):
        told += part
    os.close(read)
    os.waitpid(pid, 0)
    return int(told[: told.rindex(b"\n")].split(b"\n")[-1])


def lives(directory: str, count: int) -> None:
    rng = Random(count)
    for number in range(count):
        acknowledged = life(directory, rng.randint(1, 12))
        log = Log(DiskFiles(directory), CONFIG, "n1", os.urandom)
        entries = {index: body for index, _, body in log.open()[1].entries}
        last = max(entries)
        if last < acknowledged:
            raise SystemExit(f"life {number}: {acknowledged} was acknowledged, {last} is the last one there")
        if sorted(entries) != list(range(min(entries), last + 1)) or min(entries) > max(1, last - 900):
            raise SystemExit(f"life {number}: there are gaps in {sorted(entries)}")
        if any(body != b"%d" % index for index, body in entries.items()):
            raise SystemExit(f"life {number}: an entry is another")
        log.close()
    print(last)


if __name__ == "__main__":
    what, where, *rest = sys.argv[1:]
    if what == "lives":
        lives(where, int(*rest))
    else:
        print(asyncio.run(write(where, 1)))
