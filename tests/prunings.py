"""Replicas that prune actors that are gone, in a simulated network: nothing is lost, back, or counted twice.

As `archives`, and besides: names are pruned soon, few rounds are kept, nodes stay away for longer than
that, and late ones come. All types of states are changed. In the end, when all is healed:

- all replicas are equal, byte for byte;
- counters hold the sum of what nobody lost that counted it;
- what was removed stays removed, what was added is there;
- clocks hold the names of nodes that live, and `*`.

``python tests/prunings.py 1000`` plays that many seeds, on all cores.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

from replicas import CONFIG, changed, equal, hold

from agentnet.sim import Node, World
from agentnet_core.config import EngineConfig
from agentnet_core.crdt import (
    EWFlag,
    GCounter,
    LWWMap,
    LWWRegister,
    MVRegister,
    ORMap,
    ORSet,
    PNCounter,
    Text,
)
from agentnet_core.crdt.renaming import STAR
from agentnet_core.parts import CONTEXT, DELTA, FETCH, LIVE, PART, PRINTS, RANGES, STATE, SUMS
from agentnet_core.session import Session

PRUNE_CONFIG = replace(
    CONFIG, state_pruning=True, state_prune_after_ms=600, state_rounds_max=64, state_sync_ms=400
)
LOSSY = (SUMS, PRINTS, CONTEXT, PART, RANGES, FETCH, LIVE, DELTA)


class Story:
    """One seed. Each node changes what only it changes in that way, so that the model is plain."""

    def __init__(
        self,
        seed: int,
        *,
        config: EngineConfig = PRUNE_CONFIG,
        defect: int = 0,
        disk: bool = True,
        secure: bool = False,
    ) -> None:
        self.world = World(seed, secure=secure)
        self.rng = self.world.rng
        self.config, self.defect, self.disk = config, defect, disk
        self.names = [f"n{number}" for number in range(self.rng.randrange(3, 6))]
        self.counted: dict[str, int] = {}
        """By the name that counted, so much."""
        self.doubtful: dict[str, None] = {}
        """Names that died: what they did last may be lost."""
        self.added: dict[str, str] = {}
        self.removed: dict[str, str] = {}
        self.number = 0
        self.may_miss = config.state_rounds_max < 16
        """Whether some may be away together for longer than rounds are kept, and then tell what they lose."""
        self.told = False
        self.chance = 0.0
        self.nodes = [self.make(name) for name in self.names]
        self.nodes[0].control.found(bytes(range(16)))
        for node in self.nodes[1:]:
            self.world.finish(node.join("n0"))

    def make(self, name: str) -> Node:
        disk = self.disk and self.rng.random() < 0.5
        node = self.world.node(name, config=self.config, disk=disk)
        self.begin(node)
        return node

    def begin(self, node: Node) -> None:
        replication = node.control.replication
        replication.pruning.defect = self.defect
        receive = replication.receive

        def lossy(session: Session, kind: int, body: bytes) -> None:
            if kind != STATE or body[1] not in LOSSY or self.rng.random() >= self.chance:
                receive(session, kind, body)

        replication.receive = lossy  # type: ignore[method-assign]

    # -- what is done

    def change(self, node: Node) -> None:
        rng, replication = self.rng, node.control.replication
        actor = replication.actor
        self.number += 1
        match rng.randrange(9):
            case 0:
                held = hold(node, PNCounter, "count")
                held.state.increment(self.number)  # type: ignore[attr-defined]
                self.counted[actor] = self.counted.get(actor, 0) + self.number
            case 1:
                held = hold(node, GCounter, "grown")
                held.state.increment(self.number)  # type: ignore[attr-defined]
                name = f"grown {actor}"
                self.counted[name] = self.counted.get(name, 0) + self.number
            case 2:
                held = hold(node, ORSet, "set")
                held.state.add(f"e{self.number}")  # type: ignore[attr-defined]
                self.added[f"e{self.number}"] = actor
            case 3:
                held = hold(node, ORSet, "set")
                there = sorted(held.state.value)
                if there:
                    element = rng.choice(there)
                    held.state.discard(element)  # type: ignore[attr-defined]
                    self.removed[element] = actor
            case 4:
                held = hold(node, LWWMap, "map")
                held.state.set(rng.randrange(4), self.number, replication.stamp())  # type: ignore[attr-defined]
            case 5:
                held = hold(node, MVRegister, "siblings")
                held.state.set(self.number)  # type: ignore[attr-defined]
            case 6:
                held = hold(node, EWFlag, "flag")
                held.state.enable() if rng.random() < 0.6 else held.state.disable()  # type: ignore[attr-defined]
            case 7:
                held = hold(node, ORMap, "deep")
                nested = held.state.at(rng.randrange(3), rng.choice((ORSet, PNCounter)))  # type: ignore[attr-defined]
                nested.add(self.number) if isinstance(nested, ORSet) else nested.increment()
            case _:
                kind = rng.choice((Text, LWWRegister))
                held = hold(node, kind, "last")
                if kind is Text:
                    held.state.splice(0, min(2, len(held.state.value)), f"<{self.number}>")  # type: ignore[attr-defined]
                else:
                    held.state.set(self.number, replication.stamp())  # type: ignore[attr-defined]
        changed(node, held)
        node.turn()

    def play(self, steps: int = 60) -> None:
        rng = self.rng
        for _ in range(steps):
            self.world.run(rng.randrange(1, 120))
            for _ in range(rng.randrange(1, 4)):
                node = rng.choice(self.nodes)
                if not (node.dead or node.paused):
                    self.change(node)
            if rng.random() < 0.3:
                self.harm()
        self.settle()
        self.check()

    def harm(self) -> None:
        rng, node = self.rng, self.rng.choice(self.nodes)
        match rng.randrange(10):
            case 0 | 1:
                names = [node.name for node in self.nodes]
                rng.shuffle(names)
                half = rng.randrange(1, len(names))
                self.world.partition(names[:half], names[half:])
            case 2 | 3 | 4:
                self.world.heal()
            case 5 if not node.dead and rng.random() < 0.3:
                self.go(node)
                self.world.run(rng.randrange(3_000))
            case 6 if len([each for each in self.nodes if not each.dead]) > 2 and not node.dead:
                # All that it did is on all that live.
                self.calm()
                self.go(node)
                self.world.run(rng.randrange(500, 3_000))
            case 7 if len(self.nodes) < 8:
                node = self.make(f"late{len(self.nodes)}")
                self.nodes.append(node)
                for _ in range(rng.randrange(3)):
                    self.change(node)
                node.join(*[each.name for each in self.nodes[:-1] if not each.dead] or ["n0"])
            case 8:
                self.chance = rng.choice((0.0, 0.0, 0.1))
            case _ if node.dead:
                self.revive(node)
            case _:
                self.world.run(rng.randrange(500, 3_000))  # long enough for names to be pruned

    def calm(self) -> None:
        self.world.heal()
        self.chance = 0.0
        living = [node for node in self.nodes if not node.dead]
        for node in living:
            node.unpause()
        self.world.until(lambda: equal(living), ms=60_000)

    def go(self, node: Node) -> None:
        """It dies, or leaves. What it did last may be lost if not all have it."""
        living = [each for each in self.nodes if not each.dead]
        absence = node.control.replication.pruning.absence
        self.told = self.told or absence.unknown > 0 or not absence.whole
        if len(living) < 3 or not equal(living):
            # It may be the last that knew what others did that live no more.
            there = {each.control.replication.actor for each in living if each is not node}
            names = (*self.counted, *self.added.values(), *self.removed.values())
            known = [name.removeprefix("grown ") for name in names]
            self.doubtful.update(dict.fromkeys(name for name in known if name not in there))
        if self.rng.random() < 0.3 and not node.paused:
            node.leave()
        else:
            node.kill(silently=self.rng.random() < 0.5)

    def revive(self, node: Node) -> None:
        if node.dead:
            node.restart(*[each.name for each in self.nodes if not each.dead] or ["n0"])
            self.begin(node)

    def settle(self) -> None:
        self.world.heal()
        self.chance = 0.0
        for node in self.nodes:
            node.unpause()
            self.revive(node)
        self.world.until(lambda: equal(self.nodes), ms=120_000)
        self.world.until(self.is_pruned, ms=240_000)
        self.world.until(lambda: equal(self.nodes), ms=120_000)

    def is_pruned(self) -> bool:
        if not all(node.control.replication.pruning.absence.whole for node in self.nodes):
            return False
        actors = {node.control.replication.actor for node in self.nodes} | {STAR}
        return all(set(held.state.context) <= actors for node in self.nodes for held in states_of(node))

    # -- what must hold

    def check(self) -> None:
        one = self.nodes[0]
        for held in states_of(one):
            forms = {
                each.name: hold(each, type(held.state), held.key.name).state.encode() for each in self.nodes
            }
            assert len(set(forms.values())) == 1, (held.key, forms)
        for name, kind, prefix in (("count", PNCounter, False), ("grown", GCounter, True)):
            counted = {who: n for who, n in self.counted.items() if who.startswith("grown ") == prefix}
            sure = sum(n for who, n in counted.items() if who.removeprefix("grown ") not in self.doubtful)
            sure *= not self.lost
            value = hold(one, kind, name).state.value
            assert sure <= value <= sum(counted.values()), (name, sure, value, counted, self.doubtful)
            if not self.doubtful and not self.lost:
                assert value == sum(counted.values())
        there = hold(one, ORSet, "set").state.value
        for element, actor in self.added.items():
            if element in self.removed:
                sure_gone = self.removed[element] not in self.doubtful and not self.lost
                assert element not in there or not sure_gone, f"{element} is back"
            elif actor not in self.doubtful and not self.lost:
                assert element in there, f"{element} of {actor} is lost"
        for node in self.nodes:
            stats = node.control.replication.stats()
            assert not stats["states_contradicted"], node.told("state_contradiction")
            assert self.may_miss or not stats["states_unknown"]

    @property
    def lost(self) -> bool:
        """Whether a node told that something may be lost."""
        return self.told or any(node.control.replication.pruning.absence.unknown for node in self.nodes)

    @property
    def rounds(self) -> int:
        return max(node.control.replication.pruning.chain.number for node in self.nodes)


def states_of(node: Node) -> list:  # type: ignore[type-arg]
    states = node.control.replication.states
    return [states.get(key) for key in states.names()]


def play_some(seeds: range) -> tuple[int, int]:
    rounds = renamed = 0
    for seed in seeds:
        try:
            story = Story(seed)
            story.play()
        except BaseException as error:
            raise AssertionError(f"Story({seed}).play(): {error!r}") from error
        rounds += story.rounds
        renamed += sum(node.control.replication.pruning.renamed for node in story.nodes)
    return rounds, renamed


def main(count: int, batch: int = 5) -> None:
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        parts = [pool.submit(play_some, range(at, min(at + batch, count))) for at in range(0, count, batch)]
        told = [part.result() for part in parts]
    rounds, renamed = (sum(each) for each in zip(*told, strict=True))
    print(f"{count} histories, {rounds} rounds, {renamed} changes in old names: equal, and as the model says")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
