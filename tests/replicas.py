"""Replicas of states in a simulated network, under every fault it knows, beside a model of what was done.

Three to seven nodes change counters, sets, maps, registers and flags; connections break, bytes are lost,
doubled and swapped, networks part, nodes stop, die, and come back with nothing. STATE frames are lost,
doubled and late one by one besides, as no link would do it: what is lost so is to be found by comparing.

The model is of events: who did what in view of what. In the end all replicas are equal, and hold
what it says: all that was done where nobody died, and all that a majority had acknowledged, for fewer
than half of the nodes die in a history.

``python -m tests.replicas 1000`` plays that many seeds, on all cores.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from agentnet.sim import MS, Node, Token, Weather, World
from agentnet.sim.world import UUID
from agentnet_core.config import EngineConfig
from agentnet_core.crdt import EWFlag, LWWMap, MVRegister, ORSet, PNCounter, Text
from agentnet_core.errors import NetworkError, TooFewReplicas
from agentnet_core.parts import MORE, STATE
from agentnet_core.session import Session
from agentnet_core.states import Held

CONFIG = EngineConfig(
    handshake_ms_max=300,
    ping_interval_ms=100,
    link_silence_ms_max=500,
    redial_ms_min=5,
    redial_ms_max=100,
    node_silence_ms_max=300,
    probe_ms_max=100,
    suspicion_ms_min=300,
    suspicion_ms_max=900,
    state_sync_ms=400,
    state_write_ms_max=1_000,
)
FAIR = Weather()
STORMS = (
    Weather(lose=0.002),
    Weather(swap=0.002, repeat=0.002),
    Weather(flip=0.002, cut=0.002),
    Weather(stall=0.01, piece_bytes=64),
    Weather(delay_ns=(20_000, 30_000_000)),
)
SECURE_STORMS = STORMS[3:]
"""What does not damage bytes: TLS would end the connection."""
KEYS = ("x", "y", "z")
STEPS = 60


def hold(node: Node, kind: type[Any], name: str) -> Held:
    return node.control.replication.hold(kind, name)


def changed(node: Node, held: Held) -> None:
    node.engine.now_ns = node.clock.now_ns
    node.control.replication.changed(held)


def write(node: Node, held: Held, need: int, replicas: tuple[str, ...], *, on_disk: bool = False) -> Token:
    """The change just made is to reach so many; the token of that."""
    token, replication = Token(), node.control.replication
    node.engine.now_ns = node.clock.now_ns
    replication.quorums.admit()
    replication.changed(held)
    replication.wait(held, need, replicas, token, on_disk=on_disk)
    return token


def prints(node: Node) -> tuple[int, ...]:
    return tuple(node.control.replication.states.sums())


def equal(nodes: list[Node]) -> bool:
    return len({prints(node) for node in nodes}) == 1


def grow(world: World, count: int, config: EngineConfig) -> list[Node]:
    nodes = [world.node(f"n{number}", config=config) for number in range(count)]
    nodes[0].control.found(UUID)
    for node in nodes[1:]:
        world.finish(node.join("n0"))
    world.until(lambda: all(len(node.control.membership) == count for node in nodes))
    world.run(2000)
    return nodes


class Meddler:
    """Between the links of a node and its states: loses, doubles and delays frames."""

    def __init__(self, node: Node, chance: float) -> None:
        self.node, self.chance = node, chance
        self.lost = 0
        self._receive = node.control.replication.receive
        node.control.replication.receive = self.receive  # type: ignore[method-assign]

    def receive(self, session: Session, kind: int, body: bytes) -> None:
        rng = self.node.clock.rng
        if kind != STATE or body[1] == MORE or rng.random() >= self.chance:
            self._receive(session, kind, body)
            return
        fate = rng.randrange(3)
        self.lost += fate == 0
        if fate == 1:
            self._receive(session, kind, body)
        if fate:
            delay_ns = rng.randrange(40 * MS)
            self.node.clock.at(
                self.node.clock.now_ns + delay_ns, self.node.act, self._late, session, kind, body
            )

    def _late(self, session: Session, kind: int, body: bytes) -> None:
        if self.node.engine.sessions.get(session.node_id) is session:
            self._receive(session, kind, body)


@dataclass(slots=True)
class Write:
    """A write of one key. ``seen``: those whose values its writer saw there."""

    actor: str
    value: Any
    seen: frozenset[Any]


@dataclass
class Done:
    """What was done, by whom."""

    added: dict[str, str] = field(default_factory=dict)
    removed: dict[str, list[str]] = field(default_factory=dict)
    counted: dict[str, int] = field(default_factory=dict)
    writes: dict[str, list[Write]] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    acknowledged: list[tuple[Token, str]] = field(default_factory=list)


class History:
    """One seed."""

    def __init__(self, seed: int, *, secure: bool = False) -> None:
        self.world = world = World(seed, secure=secure)
        rng = world.rng
        self.storms = SECURE_STORMS if secure else STORMS
        self.names = [f"n{number}" for number in range(rng.randrange(3, 8))]
        self.nodes = self.begin()
        self.mortal = rng.sample(self.names[1:], (len(self.names) - 1) // 2)
        self.meddlers = [Meddler(node, rng.choice((0.0, 0.05, 0.2))) for node in self.nodes]
        self.deeds = (self.add, self.remove, self.count, self.set, self.write, self.turn_on, self.say)
        self.done = Done()
        self.number = 0
        self.dead: dict[str, None] = {}
        """Actors that died: some of what they did may be lost."""

    def begin(self) -> list[Node]:
        """The nodes, in one network."""
        return self.world.join(*self.names, config=CONFIG)

    def play(self, steps: int = STEPS) -> None:
        rng = self.world.rng
        for _ in range(steps):
            self.world.run(rng.randrange(1, 60))
            for _ in range(rng.randrange(1, 6)):
                node = rng.choice(self.nodes)
                if not (node.dead or node.paused):
                    rng.choice(self.deeds)(node)
                    node.turn()
            if rng.random() < 0.3:
                self.harm()
        self.settle()
        self.check()

    # -- what agents do

    def actor(self, node: Node) -> str:
        return node.control.replication.actor

    def add(self, node: Node) -> None:
        held, element = hold(node, ORSet, "set"), f"e{self.number}"
        self.number += 1
        held.state.add(element)  # type: ignore[attr-defined]
        self.done.added[element] = self.actor(node)
        if self.world.rng.random() < 0.5:
            names = tuple(self.names)
            need = len(names) // 2 + 1
            token = write(node, held, need, names)
            dot = self.actor(node), held.state.context.runs(self.actor(node))[-1][1]
            token.then = partial(self.settled, token, dot, need, len(self.dead))
            self.done.acknowledged.append((token, element))
        else:
            changed(node, held)

    def settled(self, token: Token, dot: tuple[str, int], need: int, dead: int) -> None:
        """What is acknowledged, so many have at that time."""
        if token.error is None and len(self.dead) == dead:
            there = [node.name for node in self.nodes if dot in hold(node, ORSet, "set").state.context]
            assert len(there) >= need, f"{dot} was acknowledged by {need}, and is on {there}"

    def remove(self, node: Node) -> None:
        held = hold(node, ORSet, "set")
        there = sorted(held.state.value)
        if there:
            element = self.world.rng.choice(there)
            held.state.discard(element)  # type: ignore[attr-defined]
            self.done.removed.setdefault(element, []).append(self.actor(node))
            changed(node, held)

    def count(self, node: Node) -> None:
        held = hold(node, PNCounter, "count")
        held.state.increment(1)  # type: ignore[attr-defined]
        actor = self.actor(node)
        self.done.counted[actor] = self.done.counted.get(actor, 0) + 1
        changed(node, held)

    def set(self, node: Node) -> None:
        held, key = hold(node, LWWMap, "map"), self.world.rng.choice(KEYS)
        self.note(node, f"map {key}", [held.state.get(key)] if key in held.state else [])  # type: ignore[attr-defined, operator]
        held.state.set(key, self.number, node.control.replication.stamp())  # type: ignore[attr-defined]
        changed(node, held)

    def write(self, node: Node) -> None:
        held = hold(node, MVRegister, "siblings")
        self.note(node, "siblings", held.state.value)
        held.state.set(self.number)  # type: ignore[attr-defined]
        changed(node, held)

    def note(self, node: Node, where: str, seen: list[Any]) -> None:
        self.number += 1
        made = Write(self.actor(node), self.number, frozenset(seen))
        self.done.writes.setdefault(where, []).append(made)

    def say(self, node: Node) -> None:
        """A word between two others."""
        held, word = hold(node, Text, "text"), f"<{self.number}>"
        self.number += 1
        text = held.state.value
        index = self.world.rng.choice([at for at in range(len(text) + 1) if at == 0 or text[at - 1] == ">"])
        held.state.splice(index, index, word)  # type: ignore[attr-defined]
        self.done.said[word] = self.actor(node)
        changed(node, held)

    def turn_on(self, node: Node) -> None:
        held = hold(node, EWFlag, f"flag {self.world.rng.randrange(8)}")
        if held.state.value and self.world.rng.random() < 0.7:
            held.state.disable()  # type: ignore[attr-defined]
        else:
            held.state.enable()  # type: ignore[attr-defined]
        changed(node, held)

    # -- what happens to them

    def harm(self) -> None:
        world, rng = self.world, self.world.rng
        node = rng.choice(self.nodes)
        match rng.randrange(8):
            case 0:
                names = list(self.names)
                rng.shuffle(names)
                half = rng.randrange(1, len(names))
                world.partition(names[:half], names[half:])
            case 1:
                world.block(node.name, rng.choice(self.nodes).name)
            case 2 | 3:
                world.heal()
            case 4:
                world.network.weather = rng.choice(self.storms)
            case 5:
                world.network.weather = FAIR
            case 6 if node.paused:
                node.unpause()
            case 6 if not node.dead:
                node.pause() if rng.random() < 0.5 else node.block()
            case 7 if node.dead:
                self.revive(node)
            case 7 if node.name in self.mortal:
                self.mortal.remove(node.name)
                self.dead[self.actor(node)] = None
                node.kill(silently=rng.random() < 0.5)
            case _:
                for link in [session.link for session in node.engine.sessions.values()][:1]:
                    link.cut()

    def revive(self, node: Node) -> None:
        node.restart("n0", disk=self.world.rng.random() < 0.5)
        self.meddlers[self.names.index(node.name)] = Meddler(node, 0.05)

    def settle(self) -> None:
        """All is well again, and all that live find together."""
        self.world.heal()
        self.world.network.weather = FAIR
        for meddler in self.meddlers:
            meddler.chance = 0.0
        for node in self.nodes:
            node.unpause()
            if node.dead:
                node.restart("n0")
        self.world.until(lambda: equal(self.nodes), ms=120_000)
        self.world.until(
            lambda: all(
                token.done or self.done.added[it] in self.dead for token, it in self.done.acknowledged
            ),
            ms=10_000,
        )

    # -- what must hold

    def check(self) -> None:
        one, done = self.nodes[0], self.done
        for node in self.nodes:
            assert node.control.replication.refused == 0, node.told("state_refused")
            for name, kind in (
                ("set", ORSet),
                ("count", PNCounter),
                ("map", LWWMap),
                ("siblings", MVRegister),
                ("text", Text),
            ):
                held, other = hold(node, kind, name), hold(one, kind, name)
                assert held.state.encode() == other.state.encode()
                assert held.state.gaps <= len(self.dead), held.state.context
        there = hold(one, ORSet, "set").state.value
        for element, actor in done.added.items():
            removers = done.removed.get(element, [])
            if not removers and actor not in self.dead:
                assert element in there, f"{element} of {actor} is lost"
            if any(remover not in self.dead for remover in removers):
                assert element not in there, f"{element} is back"
        for token, element in done.acknowledged:
            if token.done and token.error is None and element not in done.removed:
                assert element in there, f"{element}, which a majority had, is lost"
            elif token.error is not None:
                assert isinstance(token.error, (TooFewReplicas, NetworkError)), token.error
        sure = sum(count for actor, count in done.counted.items() if actor not in self.dead)
        count = hold(one, PNCounter, "count").state.value
        assert sure <= count <= sum(done.counted.values()), (sure, count, done.counted)
        for key in KEYS:
            self.check_writes(f"map {key}", [hold(one, LWWMap, "map").state.get(key)])  # type: ignore[attr-defined]
        self.check_writes("siblings", hold(one, MVRegister, "siblings").state.value)
        text = hold(one, Text, "text").state.value
        for word, actor in done.said.items():
            assert word in text or actor in self.dead, f"{word} of {actor} is lost, or mixed up in {text}"

    def check_writes(self, where: str, values: list[Any]) -> None:
        """What is there was written, and whoever lives has not replaced it."""
        writes = {made.value: made for made in self.done.writes.get(where, [])}
        replaced = {value for made in writes.values() if made.actor not in self.dead for value in made.seen}
        for value in values:
            if value is None:
                assert all(made.actor in self.dead for made in writes.values()), f"{where}: all is lost"
            else:
                assert value in writes, f"{where}: nobody wrote {value}"
                assert value not in replaced, f"{where}: {value} had been replaced"


def play_some(seeds: range) -> int:
    lost = 0
    for seed in seeds:
        try:
            history = History(seed)
            history.play()
            lost += sum(meddler.lost for meddler in history.meddlers)
        except BaseException as error:
            raise AssertionError(f"History({seed}).play(): {error!r}") from error
    return lost


def main(count: int, batch: int = 5) -> None:
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        parts = [pool.submit(play_some, range(at, min(at + batch, count))) for at in range(0, count, batch)]
        lost = sum(part.result() for part in parts)
    print(f"{count} histories, {lost} frames lost one by one: all replicas equal, and as the model says")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
