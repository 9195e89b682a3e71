"""Clocks and mergeable state beside Loro and pycrdt, in one process, round about.

The times are of the CPU, as all of it is one thread's work and machines are shared.  What the state
libraries do is the same on the same keys: 100,000 keys in a map, or elements in a set, one call each; all
of it into an empty replica, as bytes; then a hundredth written again, and only that brought over.
"""

from __future__ import annotations

import gc
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from shutil import copy
from tempfile import TemporaryDirectory
from time import process_time_ns
from typing import Any

import numpy as np
import psutil
from pyximport.pyxbuild import pyx_to_dll

import agentnet_core
from agentnet_core.clock import HybridClock, VectorClock
from agentnet_core.crdt import LWWMap, ORSet, Site
from bench.worker import Bench

HASH_KEY = bytes(range(16))
NOW_NS = 1_732_233_600_000_000_000
Times = dict[str, float]


def elapsed_ns(since: int) -> float:
    return max(1, process_time_ns() - since)


def ours_state(kind: str, count: int) -> Times:
    """One replica is filled, another takes it in; then a hundredth is written again."""
    sites = [Site(f"node-{number}:1732233600", HASH_KEY) for number in (1, 2)]
    stamp = HybridClock(60_000).stamp(NOW_NS)
    if kind == "map":
        one, other = LWWMap(sites[0]), LWWMap(sites[1])
        write = one.set
        start = process_time_ns()
        for number in range(count):
            write(f"k{number}", number, stamp + number)
    else:
        one, other = ORSet(sites[0]), ORSet(sites[1])
        write = one.add
        start = process_time_ns()
        for number in range(count):
            write(f"k{number}")
    local = elapsed_ns(start)
    one.delta.encode()
    start = process_time_ns()
    whole = one.encode()
    other.merge(whole)
    merge = elapsed_ns(start)
    assert len(other) == count
    for number in range(count // 100):
        write(f"k{number}", *((-number, stamp + count + number) if kind == "map" else ()))
    start = process_time_ns()
    part = one.delta.encode()
    other.merge(part)
    delta = elapsed_ns(start)
    assert other.encode() == one.encode()
    return state_times(kind, count, local, merge, delta, len(whole))


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


PEERS: dict[str, Callable[[int], Times]] = {"loro": loro_map, "pycrdt": pycrdt_map}


def race(bench: Bench) -> None:
    """Each phase is one round of ours and of the peer; its map is what our set is held against, too."""
    (peer,) = bench.task.sinks
    for count in bench.phases():
        values: dict[str, Times] = {}
        for system, play in (("agentnet", ours), (peer, PEERS[peer])):
            gc.collect()
            values[system] = play(count)
        values[peer] |= {work.replace("map", "set"): each for work, each in values[peer].items()}
        bench.tell("raced", values=values)


def ours(count: int) -> Times:
    return ours_state("map", count) | ours_state("set", count)


def memory(bench: Bench) -> None:
    """Resident bytes that each key takes, in our map and in a dict."""
    process = psutil.Process()
    kept: list[Any] = []

    def fill_ours(count: int) -> None:
        state = LWWMap(Site("node-1:1732233600", HASH_KEY))
        for number in range(count):
            state.set(f"k{number}", number, number + 1)
        state.delta.encode()
        kept.append(state)

    def fill_dict(count: int) -> None:
        kept.append({f"k{number}": number for number in range(count)})

    for count in bench.phases():
        values = {}
        for system, fill in (("agentnet", fill_ours), ("dict", fill_dict)):
            gc.collect()
            before = process.memory_info().rss
            fill(count)
            grown = max(1, process.memory_info().rss - before)
            values[system] = {"crdt-map-memory": grown / count}
        bench.tell("raced", values=values)


def emptied(bench: Bench) -> None:
    """What a state takes that two nodes filled and emptied, in states of which each changed one thing."""

    def state_of(count: int) -> LWWMap:
        one, other = (LWWMap(Site(f"node-{number}:1732233600", HASH_KEY)) for number in (1, 2))
        for state in (one, other):
            for number in range(count):
                state.set(f"k{number}", number, number + 1)
            other.merge(state.delta.encode())
        other.clear()
        other.delta.encode()
        return other

    for count in bench.phases():
        share = state_of(count).allocated / state_of(1).allocated
        bench.tell("raced", values={"agentnet": {"crdt-map-emptied": share}})


# -- clocks


def dict_compare(one: dict[str, int], other: dict[str, int]) -> int:
    less = more = False
    for actor, number in one.items():
        theirs = other.get(actor, 0)
        less |= number < theirs
        more |= number > theirs
    for actor in other:
        less |= actor not in one
    return less + 2 * more


def dict_merge(one: dict[str, int], other: dict[str, int]) -> None:
    for actor, number in other.items():
        if one.get(actor, 0) < number:
            one[actor] = number


def clock_sides(count: int) -> Iterator[tuple[str, str, int, Callable[[], object]]]:
    """Work, system, operations and what does them."""
    one = VectorClock({f"node-{number}:1732233600": number + 5 for number in range(8)})
    other = one.copy()
    other.increment("node-3:1732233600")
    plain, plainer = dict(one), dict(other)
    yield "clock-compare", "agentnet", count, lambda: [one.compare(other) for _ in range(count)]
    yield "clock-compare", "dict", count, lambda: [dict_compare(plain, plainer) for _ in range(count)]
    yield "clock-merge", "agentnet", count, lambda: [one.merge(other) for _ in range(count)]
    yield "clock-merge", "dict", count, lambda: [dict_merge(plain, plainer) for _ in range(count)]
    many, actors = max(1, count // 10), [f"node-{number:02}" for number in range(64)]
    rows = np.full((many, 64), 7, dtype=np.uint64)
    rows[np.arange(many), np.arange(many) % 64] += np.arange(many, dtype=np.uint64) % 3
    pivot = VectorClock(dict.fromkeys(actors, 7))
    dicts = [dict(zip(actors, row, strict=True)) for row in rows.tolist()]
    clocks = [VectorClock(counts) for counts in dicts]
    work, own = "clock-compare-many", dict(pivot)
    yield work, "agentnet", many, lambda: pivot.compare_many(actors, rows)
    yield work, "dict", many, lambda: [dict_compare(own, counts) for counts in dicts]
    yield work, "agentnet-loop", many, lambda: [pivot.compare(clock) for clock in clocks]


def loop_clocks(bench: Bench) -> None:
    """Compared and merged in a loop of Cython's, which is compiled in the first phase."""
    one = VectorClock({f"node-{number}:1732233600": number + 5 for number in range(8)})
    other, third = one.copy(), one.copy()
    other.increment("node-3:1732233600")
    for count in bench.phases():
        loops, values = built_loops(), {}
        for work, loop in (("compare", loops.compare), ("merge", loops.merge)):
            start = process_time_ns()
            loop(one, other, third, 100 * count)
            values[f"clock-{work}-loop"] = 100 * count / elapsed_ns(start) * 1e9
        bench.tell("raced", values={"agentnet": values})


@cache
def built_loops() -> Any:
    sys.path.append(str(Path(agentnet_core.__file__).parents[1]))  # where the declarations are
    with TemporaryDirectory() as directory:
        source = copy(Path(__file__).with_name("loops.pyx"), directory)
        spec = spec_from_file_location("loops", pyx_to_dll(source, pyxbuild_dir=directory))
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def race_clocks(bench: Bench) -> None:
    """Operations a second, one call at a time but for those of `compare_many`."""
    for count in bench.phases():
        values: dict[str, Times] = defaultdict(dict)
        for work, system, operations, run in clock_sides(count):
            start = process_time_ns()
            run()
            values[system][work] = operations / elapsed_ns(start) * 1e9
        bench.tell("raced", values=values)
