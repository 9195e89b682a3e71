"""Which nodes link to which: a few rings of all nodes, each in an order of its own.

A node has a place on each ring, told by its id alone, and dials the first node after it that it can
reach.  So it has `overlay_rings` links that it dials and about as many that are dialled to it.  A
network of at most `mesh_nodes_max` nodes, or of so few that the rings would link most of them
anyway, is a full mesh.

Why rings, and not views that are drawn and shuffled (HyParView):

    bounded     the links of a node do not grow with the network
    certain     nodes that know the same members form a connected graph, for each single ring is
                one; random partial views are connected with high probability, and shuffle for it
    agreed      who a node's neighbours are follows from its id, without a word: they are the ones
                that watch it
    robust      a few random rings are an expander with all but certainty, so many nodes can die
                before the rest falls apart, and a broadcast needs few hops

After Rapid: Suresh, Malkhi, Gopalan, Porto Carreiro, Lokhandwala, "Stable and Consistent Membership
at Scale with Rapid", USENIX ATC 2018, section 4.1.

Which nodes there are, and which of them this one cannot reach, is for others to know.  Where two
views differ, a node may be dialled by one that the other end would not dial: both keep that link as
long as one of them wants it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Container, Iterable
from hashlib import blake2b

from agentnet_core.config import EngineConfig

PLACE_BYTES = 8
CALM_NODES, PACE_MAX = 250, 4.0
"""In a network of more nodes than this, links are pinged in proportion less often; down to a quarter."""

_Place = bytes
"""Where a node is on a ring, and then its id, by which equal places are told apart."""


def pace_of(nodes: int) -> float:
    """How many times as long as in a small network it takes, in one of so many, until what is done now and
    then is done again: so it costs a node no more than the network is worth to it, and the silent as long."""
    return min(PACE_MAX, max(1.0, nodes / CALM_NODES))


class Rings:
    """All nodes on all rings, this one too. Nothing here takes longer than it takes to pass by those
    that are unreachable, but for a full mesh."""

    def __init__(self, config: EngineConfig, node_ids: Iterable[str] = ()) -> None:
        self._rings: list[list[_Place]] = [[] for _ in range(config.overlay_rings)]
        self._mesh_nodes_max = max(config.mesh_nodes_max, 2 * config.overlay_rings + 1)
        self._places: dict[str, list[_Place]] = {}
        for node_id in node_ids:
            if node_id not in self._places:
                self._places[node_id] = self._place(node_id)
        for number, ring in enumerate(self._rings):
            ring.extend(sorted(places[number] for places in self._places.values()))

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, node_id: str) -> bool:
        return node_id in self._places

    def add(self, node_id: str) -> None:
        """There is such a node."""
        if node_id not in self._places:
            places = self._places[node_id] = self._place(node_id)
            for ring, place in zip(self._rings, places, strict=True):
                insort(ring, place)

    def remove(self, node_id: str) -> None:
        """There is no such node any more."""
        for ring, place in zip(self._rings, self._places.pop(node_id, ()), strict=False):
            del ring[bisect_left(ring, place)]

    def wanted(self, node_id: str, unreachable: Container[str] = ()) -> tuple[str, ...]:
        """Whom the node dials, itself on the rings or not; those that it cannot reach are passed by."""
        if self.is_mesh(node_id):
            return self._all_others(node_id, unreachable)
        return self._nearest(node_id, unreachable, (1,))

    def neighbours(self, node_id: str, unreachable: Container[str] = ()) -> tuple[str, ...]:
        """Whom the node dials, and then those that dial it if they reach what it reaches."""
        if self.is_mesh(node_id):
            return self._all_others(node_id, unreachable)
        return self.listeners(node_id, unreachable)

    def listeners(self, node_id: str, unreachable: Container[str] = ()) -> tuple[str, ...]:
        """Those next to the node on the rings, in a full mesh too: what they hear, all hear in a few hops."""
        return self._nearest(node_id, unreachable, (1, -1))

    def are_beside(self, node_id: str, other: str) -> bool:
        """Whether that other one, which is on the rings, is next to the node on one of them."""
        places = self._places[node_id]
        for ring, place, its in zip(self._rings, places, self._places[other], strict=True):
            at = bisect_left(ring, place)
            if its in (ring[at - 1], ring[(at + 1) % len(ring)]):
                return True
        return False

    def is_mesh(self, node_id: str) -> bool:
        """Whether the node, itself on the rings or not, is linked with all others."""
        return len(self._places) + (node_id not in self._places) <= self._mesh_nodes_max

    # -- places

    def _place(self, node_id: str) -> list[_Place]:
        """Where the node is on each ring."""
        size, name = PLACE_BYTES * len(self._rings), node_id.encode()
        digest = blake2b(name, digest_size=size).digest()
        return [digest[at : at + PLACE_BYTES] + name for at in range(0, size, PLACE_BYTES)]

    def _all_others(self, node_id: str, unreachable: Container[str]) -> tuple[str, ...]:
        """From the node's place on, so that not all nodes dial the same one first."""
        ring = self._rings[0]
        after = bisect_right(ring, (self._places.get(node_id) or self._place(node_id))[0])
        others = [place[PLACE_BYTES:].decode() for place in (*ring[after:], *ring[:after])]
        return tuple(other for other in others if other != node_id and other not in unreachable)

    def _nearest(
        self, node_id: str, unreachable: Container[str], directions: tuple[int, ...]
    ) -> tuple[str, ...]:
        """The nearest reachable node in each direction on each ring, each named once."""
        found: dict[str, None] = {}
        places = self._places.get(node_id) or self._place(node_id)
        for direction in directions:
            for ring, place in zip(self._rings, places, strict=True):
                at = bisect_right(ring, place) if direction > 0 else bisect_left(ring, place) - 1
                for _ in range(len(ring)):
                    other = ring[at % len(ring)][PLACE_BYTES:].decode()
                    if other != node_id and other not in unreachable:
                        found[other] = None
                        break
                    at += direction
        return tuple(found)
