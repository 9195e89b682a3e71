"""The twin of `moving` in real processes, whose links go through relays: nodes come, go, are killed and
forget, links are cut and halves of the network part, while states are written and read by QUORUM of chosen
replicas.

Each process notes in a file what was acknowledged, as soon as it is.  Whoever reads looks first into the
files of all, and then must see at least that, wherever it reads; and in the end all must have all of it.
One node at a time goes, the next one once all that are left have closed the views before.

``python tests/moving_processes.py N [SEED]`` does N things to them; what came of it, as JSON.  A seed says
what is done, and not when.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Any

from agentnet import (
    AgentNetworkManager,
    ConsistencyLevel,
    DistributedState,
    NotRunning,
    TooFewReplicas,
)
from agentnet.sim import Weather
from agentnet.testing.base import NodeProcess
from agentnet.testing.real import RealNetwork

QUORUM = ConsistencyLevel.QUORUM
SETTINGS: dict[str, Any] = {
    "ping_interval_ms": 100,
    "link_silence_ms_max": 1_500,
    "node_silence_ms_max": 1_000,
    "probe_ms_max": 300,
    "suspicion_ms_min": 500,
    "suspicion_ms_max": 1_500,
    "redial_ms_max": 100,
    "state_move_ms": 6_000,
    "state_sync_ms": 2_000,
    "state_write_ms_max": 1_500,
    "state_views_max": 32,
}
STATES, HANDS = 4, 2
AGE_S = 5.0
"""How long states are written before others take their place: each is a list that grows."""
AT_LEAST = 100
"""Writes and reads, in all."""
NODES_MAX = 7
PATIENCE_S = 120.0
WEATHERS = (
    Weather(delay_ns=(0, 0)),
    Weather(delay_ns=(0, 30_000_000)),
    Weather(delay_ns=(0, 100_000), stall=0.01),
    Weather(delay_ns=(0, 100_000), cut=0.001),
)


# -- in each process


class Diary:
    """The files of one life of a node, and what all lives of all nodes have noted.

    ``known``: by state, what was acknowledged, as far as was looked.
    """

    def __init__(self, folder: Path, node_id: str) -> None:
        self.folder = folder
        life = f"{node_id}.{os.getpid()}"
        self._status = folder / f"{life}.status"
        self._file = os.open(folder / f"{life}.acknowledged", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._read: dict[Path, int] = {}
        self.known: dict[str, set[bytes]] = {}

    def note(self, name: str, element: bytes) -> None:
        os.write(self._file, b"%s %s\n" % (name.encode(), element))

    def look(self) -> None:
        for path in self.folder.glob("*.acknowledged"):
            at = self._read.get(path, 0)
            with path.open("rb") as file:
                file.seek(at)
                data = file.read()
            data = data[: data.rfind(b"\n") + 1]
            self._read[path] = at + len(data)
            for line in data.splitlines():
                name, element = line.split()
                self.known.setdefault(name.decode(), set()).add(element)

    def tell(self, **status: Any) -> None:
        part = self._status.with_suffix(".part")
        part.write_text(json.dumps({"at": time.monotonic(), **status}))
        part.replace(self._status)


def union(one: bytes, other: bytes) -> bytes:
    """Of two lists of elements."""
    return b" ".join(sorted({*one.split(), *other.split()}))


class Worker:
    """What one process does with the states: writes and reads by QUORUM, until it is told to stop."""

    def __init__(self, net: AgentNetworkManager, folder: Path) -> None:
        self.net, self.folder = net, folder
        self.diary = Diary(folder, net.node_id)
        self.rng = Random(f"{net.node_id} {os.getpid()}")
        self.counts = dict.fromkeys(("wrote", "read", "failed"), 0)
        self._number = 0
        self._named: set[str] = set()

    async def work(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                telling = tasks.create_task(self.tell())
                hands = [tasks.create_task(self.use()) for _ in range(HANDS)]
                await asyncio.wait(hands)
                await self.finish()
                telling.cancel()
        except* NotRunning:
            pass  # it leaves
        except* Exception as errors:  # noqa: BLE001 - whatever it is, the one who judges is to know
            (self.folder / f"broken.{os.getpid()}").write_text(repr(errors.exceptions))
            os._exit(1)

    async def tell(self) -> None:
        """Whose answers count, as this node sees it."""
        while True:
            place = self.net.replication.moves.placement
            lives = sorted(place._current.lives)
            self.diary.tell(view=place.view, moving=place.moving, lives=lives, **self.counts)
            await asyncio.sleep(0.02)

    async def use(self) -> None:
        while not (self.folder / "stop").exists():
            name = f"{int(time.monotonic() / AGE_S)}.{self.rng.randrange(STATES)}"
            if self.rng.random() < 0.5:
                await self.write(name)
            else:
                self.diary.look()
                if self.rng.random() < 0.3 and self.diary.known:
                    name = self.rng.choice(list(self.diary.known))
                await self.read(name)
            await asyncio.sleep(self.rng.uniform(0.01, 0.1))

    async def held(self, name: str, **options: Any) -> bytes:
        if name not in self._named:
            self._named.add(name)
            self.net.set_state_policy(name, union)
        found = await self.net.get_state(name, **options)
        return found.data if found is not None else b""

    async def write(self, name: str) -> None:
        self._number += 1
        element = b"%s-%d-%d" % (self.net.node_id.encode(), os.getpid(), self._number)
        data = union(await self.held(name), element)
        try:
            state = DistributedState(state_id=name, data=data, consistency_level=QUORUM)
            await self.net.sync_state(state)
        except TooFewReplicas:
            self.counts["failed"] += 1
        else:
            self.diary.note(name, element)
            self.counts["wrote"] += 1

    async def read(self, name: str) -> bool:
        """Whether enough have answered; then all that had been acknowledged must be there."""
        known = set(self.diary.known.get(name, ()))
        try:
            there = await self.held(name, consistency=QUORUM)
        except TooFewReplicas:
            self.counts["failed"] += 1
            return False
        lacking = known.difference(there.split())
        assert not lacking, f"a read at {self.net.node_id} of {name} lacks {sorted(lacking)[:5]}"
        self.counts["read"] += 1
        return True

    async def finish(self) -> None:
        """By QUORUM, and then here: all that was ever acknowledged."""
        self.diary.look()
        for name in sorted(self.diary.known):
            while not await self.read(name):
                pass
        for name, known in self.diary.known.items():
            while not known.issubset((await self.held(name)).split()):
                await asyncio.sleep(0.05)
        (self.folder / f"{self.net.node_id}.done").write_text(str(os.getpid()))


AT_WORK: list[asyncio.Task[None]] = []
"""Of this process; the loop itself does not keep them."""


async def setup(folder: Path, net: AgentNetworkManager) -> None:
    """The app of each process; it works until the process ends."""
    AT_WORK.append(asyncio.create_task(Worker(net, folder).work()))


# -- who starts, harms and judges them


class Uproar:
    """A network of processes, and what is done to it. ``did``: how often what."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.rng = folder, Random(seed)
        self.network = RealNetwork(seed)
        self.nodes: dict[str, NodeProcess | None] = {}
        """By name; None of one that has gone."""
        self.parted = False
        self.did = dict.fromkeys(("came", "came again", "left", "killed", "cut", "parted"), 0)
        (folder / "mover.py").write_text(
            "import functools, pathlib, moving_processes\n"
            "setup = functools.partial(moving_processes.setup, pathlib.Path(__file__).parent)\n"
        )

    @property
    def alive(self) -> list[str]:
        return [name for name, node in self.nodes.items() if node is not None]

    def play(self, steps: int) -> dict[str, int]:
        try:
            return self.network.run(self._play(steps))
        except BaseException:
            print(self.network.report(), file=sys.stderr)
            raise
        finally:
            self.network.close()

    async def _play(self, steps: int) -> dict[str, int]:
        for number in range(self.rng.randrange(3, 5)):
            await self._start(f"n{number}")
        harms: list[Callable[[], Awaitable[None]]] = [
            self._come, self._cut, self._go, self._part, self._heal, self._go, self._come,
        ]  # fmt: skip
        for step in range(steps):
            # All of them in turn at first, and then as it comes.
            await (harms[step] if step < len(harms) else self.rng.choice(harms))()
            self.check()
            await asyncio.sleep(self.rng.choice((0.0, 0.1, 1.0)))
        await self._heal()
        await self._until(self._is_calm)
        await self._until(lambda: min(self._counts()[each] for each in ("acknowledged", "read")) >= AT_LEAST)
        (self.folder / "stop").touch()
        await self._until(lambda: all(self._done(name) for name in self.alive))
        return {**self.did, **self._counts()}

    def check(self) -> None:
        """AssertionError if one of them saw a promise broken."""
        broken = [path.read_text() for path in self.folder.glob("broken.*")]
        assert not broken, "\n".join(broken)

    async def _until(self, so: Callable[[], bool]) -> None:
        def looked() -> bool:
            self.check()
            return so()

        await self.network.until(looked, PATIENCE_S)

    def _status(self, name: str) -> dict[str, Any]:
        """What the process of that name says of itself, nothing if it has not yet said anything."""
        node = self.nodes[name]
        path = self.folder / f"{name}.{node.pid if node is not None else None}.status"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def _done(self, name: str) -> bool:
        path, node = self.folder / f"{name}.done", self.nodes[name]
        return node is not None and path.exists() and path.read_text() == str(node.pid)

    def _is_calm(self, since: float = 0.0) -> bool:
        """All that live have one view, of all that live, and no other open."""
        told = [self._status(name) for name in self.alive]
        return all(each and each["at"] > since for each in told) and all(
            each["view"] == told[0]["view"] and not each["moving"] and each["lives"] == sorted(self.alive)
            for each in told
        )

    def _counts(self) -> dict[str, int]:
        """What was acknowledged, and what all lives have counted."""
        told = [json.loads(path.read_text()) for path in self.folder.glob("*.status")]
        noted = [path.read_bytes() for path in self.folder.glob("*.acknowledged")]
        counts = {key: sum(each[key] for each in told) for key in ("read", "failed")}
        return {"acknowledged": sum(each.count(b"\n") for each in noted), **counts}

    # -- what is done to them

    async def _start(self, name: str) -> None:
        path = [str(self.folder), str(Path(__file__).parent)]
        self.nodes[name] = await self.network.process(
            name, "mover:setup", path=path, join=self.alive, **SETTINGS
        )

    async def _come(self) -> None:
        """One that is new, or was here and has forgotten all."""
        gone = [name for name, node in self.nodes.items() if node is None]
        if self.parted:
            await self._heal()
        if gone and (len(self.nodes) >= NODES_MAX or self.rng.random() < 0.7):
            self.did["came again"] += 1
            await self._start(self.rng.choice(gone))
        elif len(self.alive) < NODES_MAX:
            self.did["came"] += 1
            await self._start(f"n{len(self.nodes)}")

    async def _go(self) -> None:
        """One that leaves, or is killed; the next thing may happen at once."""
        if self.parted:
            await self._heal()
        if len(self.alive) <= 3:
            return
        began = time.monotonic()
        await self._until(lambda: self._is_calm(began))
        name = self.rng.choice(self.alive)
        node, self.nodes[name] = self.nodes[name], None
        if self.rng.random() < 0.3:
            assert node is not None
            assert node.pid is not None
            os.kill(node.pid, signal.SIGTERM)
            await self._until(lambda: name not in self.network.living)
            self.did["left"] += 1
        else:
            await self.network.crash(name, silently=self.rng.random() < 0.5)
            self.did["killed"] += 1

    async def _cut(self) -> None:
        for _ in range(self.rng.randrange(1, 6)):
            self.network.cut(*self.rng.sample(self.alive, 2))
            self.did["cut"] += 1
            await asyncio.sleep(self.rng.choice((0.0, 0.05)))

    async def _part(self) -> None:
        """In halves, for less or more than a lost node stays a replica."""
        if not self.parted:
            names = self.alive
            self.rng.shuffle(names)
            self.network.partition(names[: len(names) // 2], names[len(names) // 2 :])
            self.parted = True
            self.did["parted"] += 1
            await asyncio.sleep(self.rng.choice((0.5, 3.0, 10.0)))

    async def _heal(self) -> None:
        self.network.heal()
        self.parted = False
        self.network.set_weather(self.rng.choice(WEATHERS))


def main(steps: int, seed: int) -> None:
    folder = Path(mkdtemp(prefix="moving-"))
    began = time.monotonic()
    told = Uproar(folder, seed).play(steps)
    print(json.dumps({**told, "seconds": round(time.monotonic() - began)}))
    shutil.rmtree(folder)  # what has failed stays, to be looked at


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
