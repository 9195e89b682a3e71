"""Clocks compared and merged in loops of Cython's; compiled when it is run, see `bench.states`."""

from agentnet_core.clock cimport VectorClock, relate, unite


def compare(VectorClock one, VectorClock other, VectorClock third, long count):
    cdef long i, found = 0
    for i in range(count):
        found += relate(one if i & 1 else third, other)
    return found


def merge(VectorClock one, VectorClock other, VectorClock third, long count):
    cdef long i
    for i in range(count):
        unite(one if i & 1 else third, other)
