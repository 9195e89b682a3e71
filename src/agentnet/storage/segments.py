"""The files of a log: how segments are called, and the header that each begins with.

A header is 512 bytes: what it is, its format's version, its number, the log's uuid, the number of its first
group, the lowest segment that counted when it was made, whose log it is, and a CRC-32C of all that, which
stands in the last four bytes of every version.  Groups follow; see `agentnet_core.entries`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from agentnet_core.errors import ConfigError, StorageDamaged
from agentnet_core.framing import crc32c

VERSION = 1
MAGIC = b"agentlog"
HEADER_BYTES = 512
SPARE = "spare"
"""A segment that nobody needs, to be overwritten: what is allocated already is written twice as fast."""
UNFINISHED = ".new"
_FORM = struct.Struct(">8sHQ16sQQ64p64p")
_REMEDY = (
    "restore the directory from a copy of the whole of it, or give the node an empty data_dir to start anew"
)


@dataclass(frozen=True)
class Header:
    """``first``: number of its first group; ``oldest``: the lowest segment that counts."""

    sequence: int
    uuid: bytes
    first: int
    oldest: int
    network: str
    node_id: str

    @property
    def salt(self) -> int:
        """What the checksums of its groups begin with: another in every segment of every log."""
        return crc32c(self.sequence.to_bytes(8, "big"), crc32c(self.uuid))

    def encode(self) -> bytes:
        fields = _FORM.pack(
            MAGIC,
            VERSION,
            self.sequence,
            self.uuid,
            self.first,
            self.oldest,
            self.network.encode(),
            self.node_id.encode(),
        )
        body = fields.ljust(HEADER_BYTES - 4, b"\0")
        return body + crc32c(body).to_bytes(4, "big")

    @classmethod
    def decode(cls, data: bytes, path: str) -> Header:
        """The header that `data` begins with; StorageDamaged or, of a newer version, ConfigError."""
        data = data[:HEADER_BYTES]
        if len(data) < HEADER_BYTES or crc32c(data[:-4]).to_bytes(4, "big") != data[-4:]:
            raise damaged(path, 0, "its header does not match its checksum")
        magic, version, sequence, uuid, first, oldest, network, node_id = _FORM.unpack_from(data)
        if magic != MAGIC:
            raise damaged(path, 0, "it does not begin as a segment of a log does")
        if version != VERSION:
            raise ConfigError(
                f"{path} has version {version}, expected {VERSION}: start the agentnet that wrote it"
            )
        return cls(sequence, uuid, first, oldest, network.decode(), node_id.decode())


def damaged(path: str, offset: int, what: str) -> StorageDamaged:
    """The error for a file that is not as it was written; it says what to do."""
    return StorageDamaged(f"{path} is damaged at byte {offset}: {what}; {_REMEDY}")


def segment_name(sequence: int) -> str:
    return f"{sequence:016x}.segment"


def segment_number(name: str) -> int | None:
    """None for any other file."""
    stem, dot, kind = name.partition(".")
    if dot and kind == "segment" and len(stem) == 16:
        try:
            return int(stem, 16)
        except ValueError:
            return None
    return None
