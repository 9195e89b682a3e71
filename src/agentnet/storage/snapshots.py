"""Snapshots: one file that stands for all entries of an owner up to an index.

It is written whole under another name, synced, renamed, its directory synced; only then does the log say that
it counts, and only after that is the one before it removed.  The file is a header, chunks of
`{u32 length, u32 crc32c, bytes}` whose checksums go on from one another, and an empty chunk at the end.  The
log's mark holds its name and the last checksum.  In: chunks of bytes.  Out: the same; StorageDamaged, before
a damaged chunk is handed out, if they are not what was written.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from agentnet.storage.files import Files
from agentnet.storage.segments import UNFINISHED, damaged
from agentnet_core.errors import LimitReached
from agentnet_core.framing import crc32c

KIND = ".snapshot"
MAGIC = b"agentsnp"
VERSION = 1
CHUNK_BYTES_MAX = 16 * 1024 * 1024
_HEADER = struct.Struct(">8sHQQ16s")
_CHUNK = struct.Struct(">II")


@dataclass(frozen=True)
class Snapshot:
    """One that the log says counts. ``index``: of the last entry that it stands for."""

    owner: int
    index: int
    name: str
    crc: int

    def mark(self) -> bytes:
        """The body of the log's mark."""
        return self.crc.to_bytes(4, "big") + self.name.encode()

    @classmethod
    def of_mark(cls, owner: int, index: int, body: bytes) -> Snapshot:
        return cls(owner, index, body[4:].decode(), int.from_bytes(body[:4], "big"))


def write_snapshot(
    files: Files, uuid: bytes, owner: int, index: int, chunks: Iterable[bytes], token: str
) -> Snapshot:
    """Write one that lasts, under a name that `token` makes its own; OSError as the system has it."""
    name = f"{owner:016x}-{index:016x}-{token}{KIND}"
    head = _HEADER.pack(MAGIC, VERSION, owner, index, uuid)
    crc = crc32c(head)
    file = files.create(name + UNFINISHED)
    try:
        file.write(0, head)
        at = len(head)
        for chunk in chunks:
            if len(chunk) > CHUNK_BYTES_MAX:
                raise LimitReached(f"chunk of {len(chunk)} bytes: expected at most {CHUNK_BYTES_MAX}")
            if chunk:
                crc = crc32c(chunk, crc)
                file.write(at, _CHUNK.pack(len(chunk), crc) + chunk)
                at += _CHUNK.size + len(chunk)
        file.write(at, _CHUNK.pack(0, crc))
        file.sync()
    except BaseException:
        file.close()
        _discard(files, name + UNFINISHED)
        raise
    file.close()
    files.rename(name + UNFINISHED, name)
    files.sync_directory()
    return Snapshot(owner, index, name, crc)


def _discard(files: Files, name: str) -> None:
    with suppress(OSError):  # the next start removes it
        files.remove(name)


def read_snapshot(files: Files, uuid: bytes, snapshot: Snapshot) -> Iterator[bytes]:
    """Its chunks, each checked; StorageDamaged where it is not as it was written."""
    path = f"{files.where}/{snapshot.name}"
    try:
        file = files.open(snapshot.name)
    except FileNotFoundError:
        raise damaged(path, 0, "the log names this snapshot, and it is not there") from None
    try:
        head = file.read(0, _HEADER.size)
        if head != _HEADER.pack(MAGIC, VERSION, snapshot.owner, snapshot.index, uuid):
            raise damaged(path, 0, "its header is not that of this snapshot")
        crc, at = crc32c(head), len(head)
        while True:
            fields = file.read(at, _CHUNK.size)
            if len(fields) < _CHUNK.size:
                raise damaged(path, at, "it is cut short")
            size, told = _CHUNK.unpack(fields)
            if size > CHUNK_BYTES_MAX:
                raise damaged(path, at, f"a chunk of {size} bytes")
            chunk = file.read(at + _CHUNK.size, size)
            crc = crc32c(chunk, crc)
            if len(chunk) < size or crc != told or (size == 0 and crc != snapshot.crc):
                raise damaged(path, at, "a chunk does not match its checksum")
            if size == 0:
                return
            yield chunk
            at += _CHUNK.size + size
    finally:
        file.close()
