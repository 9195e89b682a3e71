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

from libc.stdint cimport int32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memmove

from agentnet_core.framing cimport get_u64

from collections.abc import Container, Iterable
from hashlib import blake2b

from agentnet_core.config import EngineConfig

PLACE_BYTES = sizeof(uint64_t)
CALM_NODES, PACE_MAX = 250, 4.0
"""In a network of more nodes than this, links are pinged in proportion less often; down to a quarter."""


def pace_of(nodes: int) -> float:
    """How many times as long as in a small network it takes, in one of so many, until what is done now and
    then is done again: so it costs a node no more than the network is worth to it, and the silent as long."""
    return min(PACE_MAX, max(1.0, nodes / CALM_NODES))


cdef class Rings:
    """All nodes on all rings, this one too. Nothing here takes longer than it takes to pass by those
    that are unreachable, but for a full mesh."""

    def __cinit__(self):
        self.places = NULL
        self.order = NULL

    def __init__(self, config: EngineConfig, node_ids: Iterable[str] = ()) -> None:
        self.rings = config.overlay_rings
        self.mesh_nodes_max = max(config.mesh_nodes_max, 2 * config.overlay_rings + 1)
        self.slots, self.names, self.free_slots = {}, [], []
        for node_id in node_ids:
            self.add(node_id)

    def __dealloc__(self):
        free(self.places)
        free(self.order)

    def __len__(self) -> int:
        return len(self.slots)

    def __contains__(self, node_id: str) -> bool:
        return node_id in self.slots

    cpdef add(self, str node_id):
        """There is such a node."""
        cdef Py_ssize_t count = len(self.slots), at, slot
        cdef int32_t* ring
        cdef int number
        if node_id in self.slots:
            return
        if count == self.capacity:
            self.grow()
        slot = self.free_slots.pop() if self.free_slots else count
        self.place(node_id, self.places + slot * self.rings)
        if slot == len(self.names):
            self.names.append(node_id)
        else:
            self.names[slot] = node_id
        for number in range(self.rings):
            ring = self.order + number * self.capacity
            at = self.find(number, self.places[slot * self.rings + number], node_id, count, False)
            memmove(ring + at + 1, ring + at, (count - at) * sizeof(int32_t))
            ring[at] = <int32_t>slot
        self.slots[node_id] = slot

    cpdef remove(self, str node_id):
        """There is no such node any more."""
        cdef object found = self.slots.get(node_id)
        cdef Py_ssize_t count = len(self.slots), at, slot
        cdef int32_t* ring
        cdef int number
        if found is None:
            return
        slot = found
        for number in range(self.rings):
            ring = self.order + number * self.capacity
            at = self.find(number, self.places[slot * self.rings + number], node_id, count, False)
            memmove(ring + at, ring + at + 1, (count - at - 1) * sizeof(int32_t))
        del self.slots[node_id]
        self.names[slot] = None
        self.free_slots.append(slot)

    def wanted(self, node_id: str, unreachable: Container[str] = ()) -> tuple[str, ...]:
        """Whom the node dials, itself on the rings or not; those that it cannot reach are passed by."""
        if self.is_mesh(node_id):
            return self.all_others(node_id, unreachable)
        return self.nearest(node_id, unreachable, False)

    def neighbours(self, node_id: str, unreachable: Container[str] = ()) -> tuple[str, ...]:
        """Whom the node dials, and then those that dial it if they reach what it reaches."""
        if self.is_mesh(node_id):
            return self.all_others(node_id, unreachable)
        return self.nearest(node_id, unreachable, True)

    def listeners(self, node_id: str, unreachable: Container[str] = ()) -> tuple[str, ...]:
        """Those next to the node on the rings, in a full mesh too: what they hear, all hear in a few hops."""
        return self.nearest(node_id, unreachable, True)

    cpdef bint are_beside(self, str node_id, str other) except -1:
        """Whether that other one, which is on the rings, is next to the node on one of them."""
        cdef Py_ssize_t count = len(self.slots), at, mine = self.slots[node_id], its = self.slots[other]
        cdef int32_t* ring
        cdef int number
        for number in range(self.rings):
            ring = self.order + number * self.capacity
            at = self.find(number, self.places[mine * self.rings + number], node_id, count, False)
            if its == ring[(at + count - 1) % count] or its == ring[(at + 1) % count]:
                return True
        return False

    cpdef bint is_mesh(self, str node_id) except -1:
        """Whether the node, itself on the rings or not, is linked with all others."""
        return len(self.slots) + (node_id not in self.slots) <= self.mesh_nodes_max

    # -- places

    cdef int place(self, str node_id, uint64_t* places) except -1:
        """Where the node is on each ring."""
        cdef bytes digest = blake2b(node_id.encode(), digest_size=PLACE_BYTES * self.rings).digest()
        cdef const unsigned char* data = digest
        cdef int number
        for number in range(self.rings):
            places[number] = get_u64(data + number * sizeof(uint64_t))
        return 0

    cdef Py_ssize_t find(
        self, int number, uint64_t place, str node_id, Py_ssize_t count, bint after
    ) except -1:
        """How many are before that place on a ring of so many; ``after``: who is there is one of them. Of
        equal places the lesser id is first."""
        cdef int32_t* ring = self.order + number * self.capacity
        cdef Py_ssize_t low = 0, high = count, middle
        cdef uint64_t its
        cdef bint before
        while low < high:
            middle = (low + high) // 2
            its = self.places[ring[middle] * self.rings + number]
            if its != place:
                before = its < place
            elif after:
                before = <str>self.names[ring[middle]] <= node_id
            else:
                before = <str>self.names[ring[middle]] < node_id
            if before:
                low = middle + 1
            else:
                high = middle
        return low

    cdef int grow(self) except -1:
        """Twice as many have room."""
        cdef Py_ssize_t before = self.capacity, capacity = max(16, 2 * self.capacity)
        cdef int number
        cdef void* places = realloc(self.places, capacity * self.rings * sizeof(uint64_t))
        if places == NULL:
            raise MemoryError
        self.places = <uint64_t*>places
        cdef void* order = realloc(self.order, capacity * self.rings * sizeof(int32_t))
        if order == NULL:
            raise MemoryError
        self.order = <int32_t*>order
        for number in range(self.rings - 1, 0, -1):  # the last first, so that none is overwritten
            memmove(self.order + number * capacity, self.order + number * before, before * sizeof(int32_t))
        self.capacity = capacity
        return 0

    cdef int places_of(self, str node_id, uint64_t* places) except -1:
        cdef object slot = self.slots.get(node_id)
        cdef int number
        if slot is None:
            return self.place(node_id, places)
        for number in range(self.rings):
            places[number] = self.places[<Py_ssize_t>slot * self.rings + number]
        return 0

    cdef tuple all_others(self, str node_id, unreachable):
        """From the node's place on, so that not all nodes dial the same one first."""
        cdef uint64_t[RINGS_MAX] places
        cdef Py_ssize_t count = len(self.slots), at, step
        cdef list others = []
        self.places_of(node_id, places)
        at = self.find(0, places[0], node_id, count, True)
        for step in range(count):
            other = self.names[self.order[(at + step) % count]]
            if other != node_id and other not in unreachable:
                others.append(other)
        return tuple(others)

    cdef tuple nearest(self, str node_id, unreachable, bint both):
        """The nearest reachable node after this one on each ring, and before it if ``both``, named once."""
        cdef uint64_t[RINGS_MAX] places
        cdef Py_ssize_t count = len(self.slots), at
        cdef int32_t* ring
        cdef int number, way
        cdef dict found = {}
        self.places_of(node_id, places)
        for way in range(1, -2 if both else 0, -2):
            for number in range(self.rings):
                ring = self.order + number * self.capacity
                at = self.find(number, places[number], node_id, count, way > 0)
                if way < 0:
                    at += count - 1
                for _ in range(count):
                    other = self.names[ring[at % count]]
                    if other != node_id and other not in unreachable:
                        found[other] = None
                        break
                    at += count + way
        return tuple(found)
