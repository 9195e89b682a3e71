"""Who keeps an agent id: some nodes that all agree on, chosen by rendezvous hashing.

Thaler, Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", IEEE/ACM ToN 1998.  Each node
has a rank for an id, its hash with the id; those of the highest rank keep it.  So whoever knows the same
nodes finds the same keepers without asking, and a node that goes leaves only its own ids to the next.

Ids are hashed in `SLOTS` classes, so that very many of them cost little: a class is ranked once for
as long as the nodes are the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from heapq import nlargest

SLOTS = 1024


class Keepers:
    """The keepers of each id, so many, among the nodes that were named last."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._nodes: tuple[str, ...] = ()
        self._slots: dict[int, tuple[str, ...]] = {}

    def among(self, node_ids: Iterable[str]) -> None:
        """These nodes live now, this one among them."""
        nodes = tuple(sorted(node_ids))
        if nodes != self._nodes:
            self._nodes = nodes
            self._slots.clear()

    def of(self, agent_id: int) -> tuple[str, ...]:
        """The nodes that keep that id, the first of them first."""
        slot = agent_id % SLOTS
        found = self._slots.get(slot)
        if found is None:
            found = tuple(nlargest(self._count, self._nodes, key=lambda node_id: _rank(node_id, slot)))
            self._slots[slot] = found
        return found


def _rank(node_id: str, slot: int) -> bytes:
    return blake2b(f"{slot} {node_id}".encode(), digest_size=16).digest()
