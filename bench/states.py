"""Clocks and mergeable state beside Loro and pycrdt, in one process, round about.

The times are of the CPU, as all of it is one thread's work and machines are shared.  What the state
libraries do is the same on the same keys: 100,000 keys in a map, or elements in a set, one call each; all
of it into an empty replica, as bytes; then a hundredth written again, and only that brought over.
"""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Callable, Iterator
from time import process_time_ns
from typing import Any

import numpy as np
import psutil

from agentnet_core.clock import HybridClock, VectorClock
from agentnet_core.crdt import LWWMap, ORSet, Site
from bench.worker import Bench

HASH_KEY = bytes(range(16))
NOW_NS = 1_732_233_600_000_000_000
Times = dict[str, float]


def elapsed_ns(since: int) -> float:
    return max(1, process_time_ns() - since)


def ours_map(count: int) -> Times:
    one, other = (LWWMap(Site(f"node-{number}:1732233600", HASH_KEY)) for number in (1, 2))
    stamp = HybridClock(60_000).stamp(NOW_NS)
    write = one.set
    start = process_time_ns()
    for number in range(count):
        write(f"k{number}", number, stamp + number)
    local = elapsed_ns(start)
    one.delta.encode()
    start = process_time_ns()
    whole = one.encode()
    other.merge(whole)
    merge = elapsed_ns(start)
    assert len(other) == count
    for number in range(count // 100):
        write(f"k{number}", -number, stamp + count + number)
    start = process_time_ns()
    part = one.delta.encode()
    other.merge(part)
    delta = elapsed_ns(start)
    assert other.get("k7") == -7
    return state_times("map", count, local, merge, delta, len(whole))


def ours_set(count: int) -> Times:
    one, other = (ORSet(Site(f"node-{number}:1732233600", HASH_KEY)) for number in (1, 2))
    add = one.add
    start = process_time_ns()
    for number in range(count):
        add(f"k{number}")
    local = elapsed_ns(start)
    one.delta.encode()
    start = process_time_ns()
    whole = one.encode()
    other.merge(whole)
    merge = elapsed_ns(start)
    assert len(other) == count
    for number in range(count // 100):
        add(f"k{number}")
    start = process_time_ns()
    part = one.delta.encode()
    other.merge(part)
    delta = elapsed_ns(start)
    return state_times("set", count, local, merge, delta, len(whole))


def loro_map(count: int) -> Times:
    import loro

    one, other = loro.LoroDoc(), loro.LoroDoc()
    write = one.get_map("m").insert
    start = process_time_ns()
    for number in range(count):
        write(f"k{number}", number)
    one.commit()
    local = elapsed_ns(start)
    start = process_time_ns()
    whole = one.export(loro.ExportMode.Updates(other.oplog_vv))
    other.import_(whole)
    merge = elapsed_ns(start)
    seen = other.oplog_vv
    for number in range(count // 100):
        write(f"k{number}", -number)
    one.commit()
    start = process_time_ns()
    other.import_(one.export(loro.ExportMode.Updates(seen)))
    delta = elapsed_ns(start)
    return state_times("map", count, local, merge, delta, len(whole))


def pycrdt_map(count: int) -> Times:
    from pycrdt import Doc, Map

    one, other = Doc(), Doc()
    one["m"] = written = Map()
    other["m"] = Map()
    start = process_time_ns()
    with one.transaction():
        for number in range(count):
            written[f"k{number}"] = number
    local = elapsed_ns(start)
    start = process_time_ns()
    whole = one.get_update(other.get_state())
    other.apply_update(whole)
    merge = elapsed_ns(start)
    seen = other.get_state()
    with one.transaction():
        for number in range(count // 100):
            written[f"k{number}"] = -number
    start = process_time_ns()
    other.apply_update(one.get_update(seen))
    delta = elapsed_ns(start)
    return state_times("map", count, local, merge, delta, len(whole))


def state_times(kind: str, count: int, local: float, merge: float, delta: float, size: int) -> Times:
    return {
        f"crdt-{kind}-local": count / local * 1e9,
        f"crdt-{kind}-merge": count / merge * 1e9,
        f"crdt-{kind}-delta": delta / 1e6,
        f"crdt-{kind}-bytes": size / count,
    }


def rounds(bench: Bench, sides: dict[str, Callable[[int], Times]]) -> None:
    """Each phase is a round of each side; a peer's map is what our set is held against, too."""
    for count in bench.phases():
        values: dict[str, Times] = {}
        for system, play in sides.items():
            gc.collect()
            values[system] = play(count)
        for system in ("loro", "pycrdt"):
            if system in values:
                values[system] |= {work.replace("map", "set"): each for work, each in values[system].items()}
        values["agentnet"] |= {}
        bench.tell("raced", values=values)


def race(bench: Bench) -> None:
    rounds(bench, {"agentnet": lambda count: ours_map(count) | ours_set(count), "loro": loro_map, "pycrdt": pycrdt_map})
