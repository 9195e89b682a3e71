"""What a list of agents comes to: a digest of a set of records, whose change costs what is changed.

It is that of the sum of a hash of each record, 3520 bits wide: MSet-Add-Hash (Clarke, Devadas, van Dijk,
Gassend, Suh, "Incremental Multiset Hash Functions", ASIACRYPT 2003), so wide that other records which come
to the same sum take 2**118 to find (Wagner, "A Generalized Birthday Problem", CRYPTO 2002).  Of a record
counts what this version knows of it; a field that a later one adds needs a digest of its own.
"""

from __future__ import annotations

from hashlib import blake2b, shake_128

from agentnet_core.signing import DIGEST_BYTES, Head

SUM_BYTES = 440
"""The widest whose objects the interpreter keeps for reuse: those over 512 bytes cost ten times as much."""
MASK = (1 << 8 * SUM_BYTES) - 1


class Tally:
    """The count and the sum of the records of one list."""

    __slots__ = ("count", "total")

    def __init__(self, count: int = 0, total: int = 0) -> None:
        self.count = count
        self.total = total

    def add(self, packed: bytes) -> None:
        """One record more, as it crosses the wire."""
        self.count += 1
        self.total = (self.total + _element(packed)) & MASK

    def drop(self, packed: bytes) -> None:
        """One record less."""
        self.count -= 1
        self.total = (self.total - _element(packed)) & MASK

    def digest(self) -> bytes:
        """What all of them come to."""
        return blake2b(self.total.to_bytes(SUM_BYTES, "big"), digest_size=DIGEST_BYTES).digest()

    def is_of(self, head: Head) -> bool:
        """Whether this is what the head says."""
        return (self.count, self.digest()) == (head.agents, head.digest)


def _element(packed: bytes) -> int:
    return int.from_bytes(shake_128(packed).digest(SUM_BYTES), "big")
