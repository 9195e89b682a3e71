"""Who keeps an agent id: some nodes that all agree on, chosen by rendezvous hashing.

Thaler, Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", IEEE/ACM ToN 1998.  Each node
has a rank for an id, its hash with the id; those of the highest rank keep it.  So whoever knows the same
nodes finds the same keepers without asking, and a node that goes leaves only its own ids to the next.

Ids are hashed in `SLOTS` classes, so that very many of them cost little: a class is ranked anew only where
one of its keepers is gone; else who came since is held against them.
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
        self._nodes: dict[str, None] = {}
        self._came: list[str] = []
        """Who came since a class was ranked first, no more than there are nodes."""
        self._slots: dict[int, tuple[tuple[str, ...], int]] = {}
        """The keepers of a class, and how many had come when it was ranked."""

    def among(self, node_ids: Iterable[str]) -> None:
        """These nodes live now, this one among them."""
        before, self._nodes = self._nodes, dict.fromkeys(node_ids)
        self._came += [node_id for node_id in self._nodes if node_id not in before]
        if len(self._came) > len(self._nodes):
            self._came.clear()
            self._slots.clear()

    def of(self, agent_id: int) -> tuple[str, ...]:
        """The nodes that keep that id, the first of them first."""
        slot = agent_id % SLOTS
        found, seen = self._slots.get(slot, ((), 0))
        if not found or any(node_id not in self._nodes for node_id in found):
            found = _first(self._count, self._nodes, slot)
        elif seen < len(self._came):
            came = [node_id for node_id in self._came[seen:] if node_id in self._nodes]
            found = _first(self._count, dict.fromkeys((*found, *came)), slot)
        self._slots[slot] = found, len(self._came)
        return found


def _first(count: int, node_ids: Iterable[str], slot: int) -> tuple[str, ...]:
    """Those of the highest rank."""
    ranks = [
        (blake2b(f"{slot} {node_id}".encode(), digest_size=16).digest(), node_id) for node_id in node_ids
    ]
    return tuple(node_id for _, node_id in nlargest(count, ranks))
