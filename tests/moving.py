"""Nodes that come, go, die and forget while states are written and read by QUORUM, of chosen replicas.

Beside them a model: what had been acknowledged when a read began. The read must see all of it, wherever it is
made, and in the end everybody must have it. Frames of states are lost one by one, networks part. One node at
a time goes: the next one once all that are left have closed the views before, as `placement` promises no
more.

``python -m tests.moving 1000`` plays that many seeds, on all cores.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial

from replicas import CONFIG, FAIR, SECURE_STORMS, STORMS, Meddler, changed, equal, hold, prints

from agentnet.sim import Node, Token, World
from agentnet_core.crdt import ORSet
from agentnet_core.errors import NetworkError, TooFewReplicas
from agentnet_core.states import Held

MOVE_CONFIG = replace(
    CONFIG, state_move_ms=2_500, state_lost_ms=60_000, state_sync_ms=20_000, state_views_max=32
)
NODES_MAX = 9
NAMES = [f"set {number}" for number in range(6)]
STEPS = 50


class Moving:
    """One seed. ``seen``: reads that came back; ``acknowledged``: writes."""

    def __init__(self, seed: int, *, secure: bool = False) -> None:
        self.world = World(seed, secure=secure)
        self.storms = SECURE_STORMS if secure else STORMS
        self.rng = self.world.rng
        self.nodes = self.world.join(
            *(f"n{each}" for each in range(self.rng.randrange(3, 7))), config=MOVE_CONFIG
        )
        self.chance = self.rng.choice((0.0, 0.3, 1.0))
        for node in self.nodes:
            Meddler(node, self.chance)
        self.number = len(self.nodes)
        self.known: dict[str, dict[str, None]] = {name: {} for name in NAMES}
        self.joining: dict[str, Token] = {}
        self.parted = False
        self.seen = self.acknowledged = self.gone = 0

    @property
    def alive(self) -> list[Node]:
        return [node for node in self.nodes if not node.dead]

    def play(self, steps: int = STEPS) -> None:
        for _ in range(steps):
            self.world.run(self.rng.choice((5, 30, 100, 600)))
            for _ in range(self.rng.randrange(1, 5)):
                node = self.rng.choice([each for each in self.alive if self.has_joined(each)])
                (self.write if self.rng.random() < 0.5 else self.read)(node)
            if self.rng.random() < 0.4:
                self.harm()
        self.settle()

    def has_joined(self, node: Node) -> bool:
        """Until then it is a network of its own."""
        token = self.joining.get(node.name)
        return token is None or (token.done and token.error is None)

    # -- what agents do

    def admitted(self, node: Node, held: Held) -> tuple[int, tuple[str, ...]]:
        """How many are a majority, and of whom; none of nobody if it surely cannot be had."""
        node.engine.now_ns = node.clock.now_ns
        replication = node.control.replication
        replicas = replication.replicas(held.key)
        need = replication.quorums.majority(len(replicas))
        try:
            replication.check_reach(held.key, need, replicas, chosen=True)
        except TooFewReplicas as error:
            assert error.definite
            return 0, ()
        replication.quorums.admit()
        return need, replicas

    def write(self, node: Node) -> None:
        name, element, token = self.rng.choice(NAMES), f"e{self.number}", Token()
        self.number += 1
        held, replication = hold(node, ORSet, name), node.control.replication
        need, replicas = self.admitted(node, held)
        if not need:
            return
        held.state.add(element)  # type: ignore[attr-defined]
        changed(node, held)
        replication.wait(held, need, replicas, token, chosen=True)
        token.then = partial(self.wrote, token, name, element)
        node.turn()

    def wrote(self, token: Token, name: str, element: str) -> None:
        if token.error is None:
            self.known[name][element] = None
            self.acknowledged += 1

    def read(self, node: Node) -> None:
        name, token = self.rng.choice(NAMES), Token()
        held, replication = hold(node, ORSet, name), node.control.replication
        need, replicas = self.admitted(node, held)
        if not need:
            return
        replication.read(held, need, replicas, token, chosen=True)
        token.then = partial(self.check_read, token, node, name, list(self.known[name]))
        node.turn()

    def check_read(self, token: Token, node: Node, name: str, known: list[str]) -> None:
        if token.error is None:
            there = hold(node, ORSet, name).state.value
            for element in known:
                assert element in there, (
                    f"{element} was acknowledged, and a quorum read at {node.name} lacks it"
                )
            self.seen += 1
        else:
            assert isinstance(token.error, NetworkError)

    # -- what happens to them

    def is_calm(self) -> bool:
        """All that live have one view, of all that live, and no other open."""
        names = sorted(node.name for node in self.alive)
        places = [node.control.replication.moves.placement for node in self.alive]
        return len({place.view for place in places}) == 1 and all(
            not place.moving and list(place._current.lives) == names for place in places
        )

    def harm(self) -> None:
        world, rng = self.world, self.rng
        fate = rng.randrange(8)
        dead = [node for node in self.nodes if node.dead and node.control is not None]
        if fate < 2 and len(self.alive) < NODES_MAX and not self.parted:
            self.come(dead)
        elif fate == 2 and not self.parted:
            names = [node.name for node in self.nodes]
            rng.shuffle(names)
            world.partition(names[: len(names) // 2], names[len(names) // 2 :])
            self.parted = True
        elif fate < 5:
            world.heal()
            self.parted = False
            world.network.weather = rng.choice((FAIR, *self.storms))
        elif len(self.alive) > 3 and self.is_calm():
            node = rng.choice(self.alive)
            self.gone += 1
            node.leave() if fate == 5 else node.kill(silently=rng.random() < 0.5)

    def come(self, dead: list[Node]) -> None:
        """One that is new, or was here and has forgotten all."""
        names = [node.name for node in self.alive]
        if dead and self.rng.random() < 0.7:
            node = self.rng.choice(dead)
            self.joining[node.name] = node.restart(*names, disk=False)
        else:
            node = self.world.node(f"n{len(self.nodes)}", config=MOVE_CONFIG)
            self.nodes.append(node)
            self.joining[node.name] = node.join(*names)
        Meddler(node, self.chance)

    def settle(self) -> None:
        self.world.heal()
        self.world.network.weather = FAIR
        for node in self.alive:
            for other in self.alive:
                node.control.replication.later(other.name)
        self.world.until(lambda: equal(self.alive), ms=120_000)
        for name, elements in self.known.items():
            for node in self.alive:
                there = hold(node, ORSet, name).state.value
                for element in elements:
                    assert element in there, f"{element} was acknowledged, and is lost"
        assert prints(self.alive[0])
        self.world.until(self.is_calm, ms=30_000)
        for node in self.alive:
            before, tries = self.seen, 0
            while self.seen == before:  # a question may get lost still
                tries += 1
                assert tries < 20, f"{node.name} cannot read"
                self.read(node)
                self.world.run(MOVE_CONFIG.state_write_ms_max)


def play_some(seeds: range) -> tuple[int, int, int]:
    told = [0, 0, 0]
    for seed in seeds:
        try:
            history = Moving(seed)
            history.play()
        except BaseException as error:
            raise AssertionError(f"Moving({seed}).play(): {error!r}") from error
        told = [
            one + more
            for one, more in zip(told, (history.acknowledged, history.seen, history.gone), strict=True)
        ]
    return told[0], told[1], told[2]


def main(count: int, batch: int = 5) -> None:
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        parts = [pool.submit(play_some, range(at, min(at + batch, count))) for at in range(0, count, batch)]
        told = [part.result() for part in parts]
    wrote, read, gone = (sum(each) for each in zip(*told, strict=True))
    print(f"{count} histories: {wrote} writes acknowledged, {read} reads that saw all, {gone} nodes gone")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
