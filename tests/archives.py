"""Replicas with disks in a simulated network: power fails, processes die, and begin again with what is there.

As `replicas`, and besides: any node may die, all of them at once, with its power or without; the disk has
what was synced, and what was not whole, torn or not at all. Disks are full for a while, some are lost. Nodes
leave in order, and come back. In the end:

- all replicas are equal, and hold what nobody lost that did it;
- no event that a majority's disks had acknowledged is lost, whatever died after that;
- no actor made an event of one number twice, in whatever life.

``python tests/archives.py 1000`` plays that many seeds, on all cores.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial

from replicas import CONFIG, History, Meddler, hold, write

from agentnet.sim import Node, Token
from agentnet.sim.disk import Disk
from agentnet.sim.world import UUID
from agentnet_core.crdt import ORSet
from agentnet_core.states import Held, Key

DISK_CONFIG = replace(CONFIG, log_segment_bytes=4 * 1024, log_held_bytes=8 * 1024, state_snapshot_bytes=48)


class Book:
    """Which numbers each actor has given to its events, by state."""

    def __init__(self) -> None:
        self.given: dict[tuple[str, Key], int] = {}

    def open(self, node: Node) -> None:
        """A life of a node begins."""
        replication = node.control.replication
        actor, make = replication.actor, replication.changed
        known: dict[Key, int] = {}

        def top(held: Held) -> int:
            runs = held.state.context.runs(actor)
            return runs[-1][1] if runs else 0

        def change(held: Held) -> None:
            last, which = top(held), (actor, held.key)
            before = known.setdefault(held.key, min(last, self.given.get(which, 0)))
            if last > before:
                given = self.given.get(which, 0)
                assert before >= given, f"{actor} gives number {before + 1} of {held.key} again: {given}"
                known[held.key] = self.given[which] = last
            make(held)

        for share in replication.states._shares:
            known.update({key: top(held) for key, held in share.items()})
        replication.changed = change  # type: ignore[method-assign]


class DiskHistory(History):
    """One seed. ``defect``: planted in each engine."""

    def __init__(self, seed: int, defect: int = 0) -> None:
        self.defect = defect
        self.book = Book()
        self.calm = False
        self.kept: list[tuple[Token, str]] = []
        self.names_kept = self.blackouts = self.returned = 0
        super().__init__(seed)
        self.disks_lost_max = (len(self.names) - 1) // 2

    def begin(self) -> list[Node]:
        world = self.world
        nodes = [world.node(name, config=DISK_CONFIG, disk=True) for name in self.names]
        nodes[0].control.found(UUID)
        for node in nodes:
            node.defect = node.engine.durable.defect = self.defect
            self.book.open(node)
            if node is not nodes[0]:
                world.finish(node.join("n0"))
        return nodes

    # -- what agents do

    def add(self, node: Node) -> None:
        if self.world.rng.random() < 0.5:
            return super().add(node)
        held, element = hold(node, ORSet, "set"), f"e{self.number}"
        self.number += 1
        held.state.add(element)  # type: ignore[attr-defined]
        self.done.added[element] = self.actor(node)
        names = tuple(self.names)
        token = write(node, held, len(names) // 2 + 1, names, on_disk=True)
        token.then = partial(self.told, token)
        self.kept.append((token, element))

    def told(self, token: Token) -> None:
        """Sometimes the power fails everywhere at the moment that a write is acknowledged."""
        if token.error is None and not self.calm and self.world.rng.random() < 0.1:
            self.world.after(0, self.black_out)

    def settled(self, token: Token, dot: tuple[str, int], need: int, dead: int) -> None:
        """What a majority has in memory may be lost: any number of nodes dies here."""

    # -- what happens to them

    def black_out(self) -> None:
        self.blackouts += 1
        for node in self.nodes:
            self.kill(node, silently=True)

    def kill(self, node: Node, *, silently: bool) -> None:
        if not node.dead:
            self.dead[self.actor(node)] = None
            node.kill(silently=silently)

    def revive(self, node: Node) -> None:
        if not node.dead:
            return
        lost = self.disks_lost_max > 0 and self.world.rng.random() < 0.1
        self.disks_lost_max -= lost
        assert node.disk is not None
        node.disk.files.capacity = None
        if lost:
            node.disk = Disk(self.world.clock)
        actor = self.actor(node)
        node.restart(*self.names)
        assert not lost or self.actor(node) != actor
        if self.actor(node) == actor:
            self.returned += 1
        else:  # it had left with a full disk, perhaps
            self.dead[actor] = None
        self.book.open(node)
        self.meddlers[self.names.index(node.name)] = Meddler(node, 0.05)

    def harm(self) -> None:
        rng, node = self.world.rng, self.world.rng.choice(self.nodes)
        assert node.disk is not None
        fate = rng.randrange(10)
        if node.dead:
            if fate < 7:
                self.revive(node)
        elif fate < 2:
            self.kill(node, silently=rng.random() < 0.6)
        elif fate == 2 and not node.paused:
            node.leave()
        elif fate == 3:
            files = node.disk.files
            used = sum(files.size(name) for name in files.names())
            files.capacity = used + rng.randrange(4_000) if files.capacity is None else None
        else:
            self.mortal = []  # the other history kills none
            super().harm()

    def settle(self) -> None:
        self.calm = True
        self.world.run(1)
        self.done.acknowledged.clear()
        for node in self.nodes:
            if node.disk is not None:
                node.disk.files.capacity = None
            self.revive(node)
        super().settle()
        archives = [node.control.replication.archive for node in self.nodes]
        self.world.until(lambda: not any(archive.unsaved for archive in archives), ms=10_000)
        self.world.until(
            lambda: all(token.done or self.done.added[it] in self.dead for token, it in self.kept), ms=20_000
        )

    # -- what must hold

    def check(self) -> None:
        super().check()
        there = hold(self.nodes[0], ORSet, "set").state.value
        for token, element in self.kept:
            if token.done and token.error is None:
                self.names_kept += 1
                assert element in there or element in self.done.removed, f"{element}, on disks, is lost"
        for node in self.nodes:
            assert node.disk is not None
            assert sum(node.disk.files.size(name) for name in node.disk.files.names()) < 64 * 1024


def play_some(seeds: range) -> tuple[int, int, int]:
    told = [0, 0, 0]
    for seed in seeds:
        try:
            history = DiskHistory(seed)
            history.play()
        except BaseException as error:
            raise AssertionError(f"DiskHistory({seed}).play(): {error!r}") from error
        told[0] += history.names_kept
        told[1] += history.blackouts
        told[2] += history.returned
    return told[0], told[1], told[2]


def main(count: int, batch: int = 5) -> None:
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        parts = [pool.submit(play_some, range(at, min(at + batch, count))) for at in range(0, count, batch)]
        told = [part.result() for part in parts]
    kept, blackouts, returned = (sum(each) for each in zip(*told, strict=True))
    print(
        f"{count} histories: {kept} writes acknowledged by disks and none lost, {blackouts} blackouts, "
        f"{returned} lives that went on in the same name"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
