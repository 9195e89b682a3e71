"""The states of a node in its log: what is there after a crash, in whose name it goes on, in what limits."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from archives import DISK_CONFIG, DiskHistory
from harness import UUID, Node, Token, World
from replicas import changed, equal, hold, write
from strangers import Stranger

from agentnet_core.archive import DEFECTS, NAME, RETURNED_CELL, STATES
from agentnet_core.config import EngineConfig
from agentnet_core.crdt import LWWRegister, ORSet, PNCounter
from agentnet_core.errors import StorageDamaged, TooFewReplicas
from agentnet_core.parts import STATE


def alone(config: EngineConfig = DISK_CONFIG) -> tuple[World, Node]:
    world = World()
    node = world.node("a", config=config, disk=True)
    node.control.found(UUID)
    return world, node


def add(node: Node, *elements: Any) -> None:
    held = hold(node, ORSet, "s")
    for element in elements:
        held.state.add(element)  # type: ignore[attr-defined]
        changed(node, held)
        node.turn()


def elements(node: Node) -> set[Any]:
    found: set[Any] = hold(node, ORSet, "s").state.value
    return found


def rest(world: World, node: Node) -> None:
    """Until all is on the disk."""
    archive = node.control.replication.archive
    node.turn()
    world.until(lambda: archive.persisted_batch >= archive.batch and not archive.unsaved, ms=10_000)


def crash(node: Node, *, power: bool = True) -> None:
    node.kill(silently=power)
    node.restart(node.name)


def disk_size(node: Node) -> int:
    assert node.disk is not None
    return sum(node.disk.files.size(name) for name in node.disk.files.names())


# -- what is there again


@pytest.mark.parametrize("power", [False, True])
def test_a_node_has_its_states_again_before_it_meets_anybody(power: bool) -> None:
    world, node = alone()
    add(node, 1, 2, "three")
    count = hold(node, PNCounter, "c")
    count.state.increment(7)  # type: ignore[attr-defined]
    changed(node, count)
    rest(world, node)
    crash(node, power=power)
    assert elements(node) == {1, 2, "three"}
    assert hold(node, PNCounter, "c").state.value == 7
    assert not node.engine.sessions


def test_a_large_state_is_a_snapshot_and_the_log_stays_small() -> None:
    world, node = alone()
    for number in range(300):
        add(node, f"{number % 40} {'x' * 40}")
        if number % 10 == 0:
            rest(world, node)
    rest(world, node)
    world.run(100)
    assert node.disk is not None
    assert any(name.endswith(".snapshot") for name in node.disk.files.names())
    assert disk_size(node) < 40 * 1024
    before = elements(node)
    for _ in range(3):
        crash(node)
        assert elements(node) == before


def test_after_leaving_in_order_it_goes_on_in_the_same_name_and_after_a_crash_in_another() -> None:
    world, node = alone()
    add(node, 1)
    first = node.control.replication.actor
    for number in range(3):
        node.leave()
        node.restart("a")
        assert node.control.replication.actor == first
        add(node, f"more {number}")
    assert hold(node, ORSet, "s").state.context.clock() == {first: 4}
    rest(world, node)
    crash(node, power=False)
    second = node.control.replication.actor
    assert second != first, "what it had given back is void since it was used again"
    crash(node)
    assert node.control.replication.actor not in (first, second)


def test_a_name_that_was_given_back_long_ago_is_not_taken_up() -> None:
    """What is on the disk may be a copy: of later numbers it would know nothing."""
    names = []
    for wait_ms in (0, 599_000, 601_000):
        world, node = alone()
        add(node, 1)
        names.append(node.control.replication.actor)
        node.leave()
        world.run(wait_ms)
        node.restart("a")
        names.append(node.control.replication.actor)
    assert names == ["a:1", "a:1", "a:1", "a:1", "a:1", "a:2"]


def test_a_counter_does_not_forget_what_others_have_seen_and_the_disk_has_not() -> None:
    world = World()
    nodes = [world.node(name, config=DISK_CONFIG, disk=True) for name in "ab"]
    nodes[0].control.found(UUID)
    world.finish(nodes[1].join("a"))
    for _ in range(5):
        held = hold(nodes[0], PNCounter, "c")
        held.state.increment()  # type: ignore[attr-defined]
        changed(nodes[0], held)
    nodes[0].turn()
    assert nodes[0].disk is not None
    nodes[0].disk._log = None  # nothing more gets to the disk
    world.until(lambda: equal(nodes))
    nodes[0].kill(silently=True)
    nodes[0].disk.files.restart()
    nodes[0].restart("b")
    held = hold(nodes[0], PNCounter, "c")
    assert held.state.value == 0
    held.state.increment()  # type: ignore[attr-defined]
    changed(nodes[0], held)
    world.until(lambda: equal(nodes) and hold(nodes[1], PNCounter, "c").state.value == 6)


def test_a_node_that_lost_its_disk_takes_another_name() -> None:
    world, node = alone()
    add(node, 1)
    first = node.control.replication.actor
    node.leave()
    node.restart("a", disk=False)
    assert node.control.replication.actor != first
    assert elements(node) == set()
    world.run(1)


def test_a_node_whose_disk_is_an_old_copy_takes_another_name_when_it_learns_that() -> None:
    world = World()
    nodes = [world.node(name, config=DISK_CONFIG, disk=True) for name in "ab"]
    nodes[0].control.found(UUID)
    world.finish(nodes[1].join("a"))
    add(nodes[0], 1)
    nodes[0].leave()
    assert nodes[0].disk is not None
    copy = deepcopy(nodes[0].disk.files)
    nodes[0].restart("b")
    actor = nodes[0].control.replication.actor
    add(nodes[0], 2)
    world.until(lambda: equal(nodes))
    nodes[0].leave()
    nodes[0].disk.files = copy
    nodes[0].restart("b")
    assert elements(nodes[0]) == {1}
    assert nodes[0].control.replication.actor == actor
    world.until(lambda: equal(nodes))
    assert nodes[0].control.replication.actor != actor
    add(nodes[0], 3)
    world.until(lambda: equal(nodes))
    assert [event.name for event in nodes[0].told("state_conflict")] == ["s"]
    assert elements(nodes[1]) == {1, 2, 3}
    rest(world, nodes[0])
    nodes[0].leave()
    nodes[0].restart("b")
    assert elements(nodes[0]) == {1, 2, 3}
    assert nodes[0].control.replication.refused == nodes[1].control.replication.refused == 0


def test_stamps_go_on_above_those_of_the_life_before() -> None:
    world, node = alone()
    register = hold(node, LWWRegister, "r")
    for number in range(100):
        register.state.set(number, node.control.replication.stamp())  # type: ignore[attr-defined]
    changed(node, register)
    last = node.control.replication.clock.last
    rest(world, node)
    node.engine.wall_offset_ns -= 10**9
    crash(node)
    assert node.control.replication.stamp() > last


# -- who has it on disk


def pair(*disks: bool, **limits: int) -> tuple[World, list[Node]]:
    world = World()
    config = replace(DISK_CONFIG, **limits)
    nodes = [world.node(f"n{number}", config=config, disk=disk) for number, disk in enumerate(disks)]
    nodes[0].control.found(UUID)
    for node in nodes[1:]:
        world.finish(node.join("n0"))
    return world, nodes


def keep(node: Node, need: int, *names: str) -> Token:
    held = hold(node, ORSet, "s")
    held.state.add(node.clock.now_ns)  # type: ignore[attr-defined]
    token = write(node, held, need, names, on_disk=True)
    node.turn()
    return token


def test_a_write_waits_for_disks() -> None:
    world, nodes = pair(True, True, True)
    token = keep(nodes[0], 2, "n0", "n1", "n2")
    assert not token.done
    world.finish(token)
    for node in nodes:
        node.kill(silently=True)
    there = 0
    for node in nodes:
        node.restart("n0", "n1", "n2")
        there += len(elements(node))
    assert there >= 2


def test_a_replica_without_a_disk_says_so_at_once() -> None:
    world, nodes = pair(True, False, False)
    token = keep(nodes[0], 2, "n0", "n1", "n2")
    began = world.now_ns
    world.until(lambda: token.done)
    assert isinstance(token.error, TooFewReplicas)
    assert "1 of 2 replicas have it on disk (n0)" in str(token.error) or "(none)" in str(token.error)
    assert "has no disk that takes it (see data_dir)" in str(token.error)
    assert world.now_ns - began < 100_000_000
    world.finish(keep(nodes[1], 1, "n0", "n1", "n2"))


def test_a_full_disk_refuses_and_has_it_all_when_there_is_room() -> None:
    world, nodes = pair(True, True)
    world.finish(keep(nodes[0], 2, "n0", "n1"))
    disk = nodes[1].disk
    assert disk is not None
    disk.files.capacity = disk_size(nodes[1])
    while not nodes[1].control.replication.archive.unsaved:
        token = keep(nodes[0], 2, "n0", "n1")
        world.until(lambda token=token: token.done, ms=10_000)
    token = keep(nodes[0], 2, "n0", "n1")
    world.until(lambda: token.done, ms=10_000)
    assert isinstance(token.error, TooFewReplicas)
    assert nodes[1].stats["states_unsaved"] == 1
    disk.files.capacity = None
    rest(world, nodes[1])
    world.finish(keep(nodes[0], 2, "n0", "n1"))
    before = elements(nodes[1])
    nodes[1].kill(silently=True)
    nodes[1].restart("n1")
    assert elements(nodes[1]) == before


def test_changes_that_wait_for_the_disk_are_bounded() -> None:
    world, node = alone(replace(DISK_CONFIG, log_waiting_bytes_max=4_000))
    archive = node.control.replication.archive
    rest(world, node)
    for number in range(100):
        add(node, f"{number} {'x' * 100}")
        assert archive._waiting <= 2_000 + 200
    assert archive.unsaved == 1
    rest(world, node)
    before = elements(node)
    crash(node)
    assert elements(node) == before
    assert len(before) == 100


def test_states_in_the_log_are_bounded_by_its_owners() -> None:
    world, (node,) = pair(True, log_owners_max=18)
    for number in range(3):
        held = hold(node, ORSet, f"s{number}")
        held.state.add(1)  # type: ignore[attr-defined]
        token = write(node, held, 1, ("n0",), on_disk=True)
        node.turn()
        world.until(lambda token=token: token.done)
        assert (token.error is None) == (number < 2)
    assert "2 states are in the log already (log_owners_max)" in str(token.error)
    assert node.stats["states_unsaved"] == 1
    actor = node.control.replication.actor
    node.leave()
    node.restart("n0")
    assert len(node.control.replication.states) == 2
    assert node.control.replication.actor != actor, "of one state it does not know which numbers it gave"


def test_when_the_disk_fails_states_go_on_in_memory() -> None:
    world, nodes = pair(True, True)
    world.finish(keep(nodes[0], 2, "n0", "n1"))
    kept = elements(nodes[1])
    assert nodes[1].disk is not None
    nodes[1].disk.files.fail_syncs = 1
    token = keep(nodes[0], 2, "n0", "n1")
    world.until(lambda: token.done)
    assert isinstance(token.error, TooFewReplicas)
    again = keep(nodes[0], 2, "n0", "n1")
    world.until(lambda: again.done)
    assert "n1 has no disk that takes it" in str(again.error)
    add(nodes[1], "in memory")
    world.until(lambda: equal(nodes))
    assert "in memory" in elements(nodes[0])
    crash(nodes[1])
    assert kept <= elements(nodes[1])


# -- old peers, bad logs


def test_a_peer_that_knows_no_states_is_sent_none() -> None:
    world, node = alone()
    add(node, 1)
    old, new = Stranger(world, node, name="old"), Stranger(world, node, name="young")
    old.introduce(features_optional=2)
    new.introduce()
    world.run(50)
    add(node, 2)
    token = keep(node, 2, "a", "old")
    world.run(2_000)
    assert any(new.bodies(STATE))
    assert not any(old.bodies(STATE))
    assert isinstance(token.error, TooFewReplicas)


@pytest.mark.parametrize("bad", [b"", b"\x92\x63\xa1s", b"\x92\x01\xa0", b"\xc1"])
def test_a_log_of_what_is_no_state_is_damaged(bad: bytes) -> None:
    world, node = alone()
    node.engine.durable.entries.put(STATES + 1, NAME, 1, bad)
    node.engine.write_log()
    node.turn()
    world.run(50)
    node.kill()
    with pytest.raises(StorageDamaged):
        node.restart("a")


def test_what_is_said_for_one_opening_of_the_log_is_void_at_the_next() -> None:
    world, node = alone()
    add(node, 1)
    rest(world, node)
    node.leave()
    assert node.disk is not None
    found = node.disk.open(node, node.config)[STATES]
    assert found.cells[RETURNED_CELL][:8] == (1).to_bytes(8, "big")
    node.disk.stop(power=True)
    assert not node.disk.open(node, node.config)[STATES].cells[RETURNED_CELL]
    world.run(1)


# -- histories


@pytest.mark.parametrize("seed", range(12))
def test_histories(seed: int) -> None:
    """``python tests/archives.py`` plays more of them."""
    DiskHistory(seed).play()


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_planted_bug_is_caught(defect: str) -> None:
    with pytest.raises((AssertionError, StorageDamaged)):
        for seed in range(40):
            DiskHistory(seed, DEFECTS[defect]).play()
