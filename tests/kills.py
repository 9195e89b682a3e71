"""Durable messages between two processes that are killed, again and again, with SIGKILL.

    python tests/kills.py N             so many kills, of either side by chance; what came of it, as JSON
    python tests/kills.py N once        likewise, where the handler commits its effect with `once`
    python tests/kills.py proof [N]     100,000 messages, or N, with `once`, through 200 kills, 200 cuts of
                                        links, 20 times a full disk and 20 times one that fails

A sender notes each number in a file before it sends it, the numbers that were told to be kept in another, and
those that were definitely refused in a third; a receiver notes each life and each number that it handles.  In
the end, every number that was kept must have been handled, and none that was refused; in each life of the
receiver numbers must rise; and no number may be handled for the first time after a higher one.  A number may
be handled again only where its receiver was killed since: between the handler and the disk there is no moment
at which both know.  With `once` that is no matter: a number that is handled again has no effect yet, and in
the end each has one.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Any

from harm import PATIENCE_S, Relays, failing, free_ports, let_trace, wait_for

from agentnet import (
    AgentNetworkManager,
    Delivery,
    Event,
    NetworkConfig,
    StorageBusy,
    StorageFailed,
    StorageFull,
)
from agentnet_core.message import AgentMessage

FLIGHT = 32
BACKLOG_MAX = 500
"""Messages that are kept and not handled: one that commits is slower than one that sends."""
NAMES = ("sender", "receiver")
SETTINGS: dict[str, Any] = {
    "redial_ms_max": 100,
    "suspicion_ms_min": 200,
    "suspicion_ms_max": 400,
    "delivery_retry_ms_max": 200,
    "liveness_ports": False,  # which would go round the relays
}
ONCE = "once"
"""The file that says that effects are committed."""
BLOCK = 256
"""So many numbers share one key of the store: a byte for each counts its effects."""
DISK_FAILED = 3
"""What a process ends with whose disk has failed."""
PROOF = {"kill": 200, "cut": 200, "full": 20, "fail": 20}
MESSAGES = 100_000


# -- the two processes


def node(name: str, folder: Path) -> AgentNetworkManager:
    port, address, *_ = (folder / name / "place").read_text().split()
    config = NetworkConfig(
        listen=[f"tcp://127.0.0.1:{port}"],
        advertise=[address],
        data_dir=str(folder / name / "data"),
        log_segment_bytes=64 * 1024,
        log_held_bytes=512 * 1024,
        **SETTINGS,
    )
    return AgentNetworkManager(name, config)


def addresses(folder: Path) -> list[str]:
    """The same for both: the first one founds the network, if the other is in none."""
    return [(folder / name / "place").read_text().split()[1] for name in NAMES]


async def end_with_the_disk(net: AgentNetworkManager) -> None:
    async for event in net.events():
        if event.kind == Event.STORAGE_FAILED:
            os._exit(DISK_FAILED)


def tell_when_asked(net: AgentNetworkManager) -> None:
    """SIGUSR1: write to stderr what the node counts, and what it waits for."""

    def tell() -> None:
        links = [str(session) for session in net.engine.links]
        print(json.dumps(net.stats()), links, file=sys.stderr, flush=True)

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, tell)


def came_up(folder: Path, name: str) -> None:
    """It has joined: from now on what befalls its disk befalls a node at work."""
    (folder / name / "up").write_text(str(os.getpid()))


def notes(folder: Path, name: str) -> int:
    return os.open(folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def numbers(folder: Path, name: str) -> list[int]:
    """The whole lines of a file of numbers: of the last one a part may be there."""
    path = folder / name
    text = path.read_text() if path.exists() else ""
    return [int(line) for line in text[: text.rfind("\n") + 1].split()]


async def send(folder: Path) -> None:
    """Number after number, from where the last life was; the end of stdin ends it, when all is handled."""
    sent, kept, refused = (notes(folder, name) for name in ("sent", "kept", "refused"))
    number = max(numbers(folder, "sent"), default=0)
    over = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    async with node("sender", folder) as net:
        watching = asyncio.ensure_future(end_with_the_disk(net))
        tell_when_asked(net)
        await net.join_network(addresses(folder))
        came_up(folder, "sender")
        source = await net.register_agent("source", timeout=1)
        gate = asyncio.Semaphore(FLIGHT)

        async def one(number: int) -> None:
            try:
                await source.send("sink", b"%d" % number, delivery=Delivery.DURABLE)
            except (StorageFull, StorageBusy) as error:
                assert error.definite
                os.write(refused, b"%d\n" % number)
            except StorageFailed:
                os._exit(DISK_FAILED)
            else:
                os.write(kept, b"%d\n" % number)
            gate.release()

        async with asyncio.TaskGroup() as tasks:
            while not over.done():
                await gate.acquire()
                while number % FLIGHT == 0 and net.stats()["letters"] > BACKLOG_MAX and not over.done():
                    await asyncio.sleep(0.01)
                number += 1
                os.write(sent, b"%d\n" % number)
                tasks.create_task(one(number))
                await asyncio.sleep(0.0002)
        while net.stats()["letters"]:
            await asyncio.sleep(0.01)
        watching.cancel()


async def receive(folder: Path) -> None:
    handled, full = notes(folder, "handled"), notes(folder, "full")
    os.write(handled, b"0\n")  # a life begins
    once = (folder / ONCE).exists()

    async def handle(message: AgentMessage) -> None:
        os.write(handled, message.payload + b"\n")
        while once:
            number, store = int(message.payload), message.store
            key, at = str(number // BLOCK), number % BLOCK
            counts = bytearray(store.get(key, bytes(BLOCK)))
            counts[at] += 1
            total = int(store.get("total", b"0")) + 1
            try:
                return await message.once({key: bytes(counts), "total": b"%d" % total})
            except (StorageFull, StorageBusy):  # the next message must not come before this one
                os.write(full, b"%d\n" % number)
                await asyncio.sleep(0.01)

    over = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    async with node("receiver", folder) as net:
        watching = asyncio.ensure_future(end_with_the_disk(net))
        tell_when_asked(net)
        net.agent("sink")(handle)
        await net.join_network(addresses(folder))
        came_up(folder, "receiver")
        await over
        watching.cancel()
        if once:
            (sink,) = [port for port in net.engine.ports.values() if port.record.name == "sink"]
            store = {key: list(value) for key, value in sink.store.items() if key != "total"}
            store["total"] = [int(sink.store["total"])]
            (folder / "effects").write_text(json.dumps(store))


# -- who starts, harms and judges them


class Lines:
    """How many lines a file has; what was there is not read again."""

    def __init__(self, path: Path) -> None:
        self._path, self._at, self._count = path, 0, 0

    def count(self) -> int:
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._at)
                data = file.read()
            self._at += len(data)
            self._count += data.count(b"\n")
        return self._count


class Victims:
    """Both processes: started, killed and started again."""

    def __init__(self, folder: Path, rng: Random) -> None:
        self.folder, self.rng = folder, rng
        ports = free_ports(len(NAMES))
        self.relays = Relays(ports)
        self.handled, self.full = Lines(folder / "handled"), Lines(folder / "full")
        self.refused, self.kept = Lines(folder / "refused"), Lines(folder / "kept")
        self.running: dict[str, subprocess.Popen[str]] = {}
        self.did = dict.fromkeys(("sender_killed", "receiver_killed", "cut", "full", "fail"), 0)
        for name, port, address in zip(NAMES, ports, self.relays.addresses, strict=True):
            (folder / name).mkdir()
            (folder / name / "place").write_text(f"{port} {address}")
            self.start(name)

    def start(self, name: str) -> None:
        command = [sys.executable, __file__, name, str(self.folder)]
        with (self.folder / "stderr").open("ab") as stderr:
            self.running[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=stderr, text=True)

    def flow(self, count: int) -> None:
        """Until so many more were handled."""
        goal = self.handled.count() + count
        try:
            wait_for(lambda: self.handled.count() >= goal or self.ended(), "messages flow")
        except AssertionError as error:
            for process in self.running.values():
                process.send_signal(signal.SIGUSR1)
                time.sleep(1)
            raise AssertionError(f"{error}; {self.did}{self.told()}") from None
        assert not self.ended(), f"it ended by itself: {self.ended()}{self.told()}"

    def told(self) -> str:
        """The end of what they wrote to stderr."""
        return "\n" + (self.folder / "stderr").read_text()[-5000:]

    def wait_up(self, name: str) -> subprocess.Popen[str]:
        """Its process, which is at work."""
        process, up = self.running[name], self.folder / name / "up"
        wait_for(lambda: up.exists() and up.read_text() == str(process.pid), f"the {name} is up")
        return process

    def ended(self) -> dict[str, int]:
        return {name: code for name, each in self.running.items() if (code := each.poll()) is not None}

    def kill(self) -> None:
        name = self.rng.choice(NAMES)
        self.did[f"{name}_killed"] += 1
        process = self.running[name]
        process.send_signal(signal.SIGKILL)
        self.bury(process)
        self.start(name)

    def cut(self) -> None:
        wait_for(lambda: self.relays.cut() or self.ended(), "there is a link to cut")
        self.did["cut"] += 1

    def fill(self) -> None:
        """A disk is full for some writes, until it takes again."""
        name = self.rng.choice(NAMES) if (self.folder / ONCE).exists() else "sender"
        met, goes_on = (self.refused, self.kept) if name == "sender" else (self.full, self.handled)
        process = self.wait_up(name)
        before = met.count()
        writes = f"ENOSPC:when=1..{self.rng.randrange(3, 40)}"
        with failing(process.pid, "pwrite64", writes, self.folder / "strace"):
            wait_for(lambda: met.count() > before or self.ended(), f"the disk of the {name} is full")
            after = goes_on.count()
            wait_for(lambda: goes_on.count() > after or self.ended(), f"the disk of the {name} takes again")
        assert not self.ended(), f"it ended by itself: {self.ended()}{self.told()}"
        self.did["full"] += 1

    def fail(self) -> None:
        """A disk fails: its process ends, as it is told to, and another one finds what is there."""
        name = self.rng.choice(NAMES)
        call = self.rng.choice(("fdatasync", "pwrite64"))
        process = self.wait_up(name)
        with failing(process.pid, call, "EIO", self.folder / "strace"):
            wait_for(lambda: process.poll() is not None, f"the {name} ends whose {call} fails")
        assert process.returncode == DISK_FAILED, f"the {name} ended with {process.returncode}"
        self.bury(process)
        self.start(name)
        self.did["fail"] += 1

    def stop(self) -> None:
        """Let the sender finish, and then the receiver; AssertionError if one does not."""
        for name in NAMES:
            process = self.running[name]
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(PATIENCE_S) == 0, f"{name} ended with {process.returncode}"

    def end(self) -> None:
        for process in self.running.values():
            process.kill()
            self.bury(process)
        self.relays.close()

    @staticmethod
    def bury(process: subprocess.Popen[str]) -> None:
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


def judge(folder: Path) -> dict[str, int]:
    """What came of it; AssertionError if a promise was broken."""
    kept, handled, refused = (numbers(folder, name) for name in ("kept", "handled", "refused"))
    seen: set[int] = set()
    lives = repeated = last = highest = 0
    for number in handled:
        if number == 0:
            lives, last = lives + 1, 0
            continue
        assert number > last, f"{number} was handled after {last} in life {lives}"
        last = number
        if number in seen:
            repeated += 1
        else:
            assert number > highest, f"{number} was first handled after {highest}"
            highest = number
            seen.add(number)
    lost = sorted(set(kept) - seen)
    assert not lost, f"{len(lost)} were kept and never handled: {lost[:10]}"
    wrong = sorted(set(refused) & seen)
    assert not wrong, f"{len(wrong)} were refused and handled: {wrong[:10]}"
    told = {"kept": len(kept), "handled": len(seen), "refused": len(refused), "again": repeated}
    told["receiver_lives"] = lives
    if (folder / ONCE).exists():
        blocks = json.loads((folder / "effects").read_text())
        (total,) = blocks.pop("total")
        effects = {
            int(key) * BLOCK + at: count for key, block in blocks.items() for at, count in enumerate(block)
        }
        twice = [number for number, count in effects.items() if count > 1]
        assert not twice, f"{len(twice)} took effect more than once: {twice[:10]}"
        there = {number for number, count in effects.items() if count}
        assert total == len(there), f"{total} effects were counted, {len(there)} are there"
        assert seen == there, (
            f"handled and without effect, or the other way round: {sorted(seen ^ there)[:10]}"
        )
        told["effects"] = total
    return told


def run(
    harms: dict[str, int], folder: Path, messages: int = 0, *, seed: int = 1, once: bool = False
) -> dict[str, int]:
    """So many harms of each kind, in any order, while at least so many messages flow, and then the reckoning;
    ``once``: of effects that are committed."""
    rng = Random(seed)
    if once:
        (folder / ONCE).touch()
    began = time.monotonic()
    victims = Victims(folder, rng)
    acts: dict[str, Callable[[], None]] = {
        "kill": victims.kill, "cut": victims.cut, "full": victims.fill, "fail": victims.fail,
    }  # fmt: skip
    plan = [acts[name] for name, count in harms.items() for _ in range(count)]
    rng.shuffle(plan)
    each = max(60, 2 * messages // max(1, len(plan)))
    try:
        for act in plan:
            victims.flow(rng.randrange(5, each))
            act()
        left = messages - victims.handled.count()
        while left > 0:
            victims.flow(min(left, 1000))
            left = messages - len(set(numbers(folder, "handled")) - {0})
        victims.stop()
    finally:
        victims.end()
    return {**victims.did, **judge(folder), "seconds": round(time.monotonic() - began)}


def main(what: str, *rest: str) -> None:
    if what in NAMES:
        let_trace()
        asyncio.run({"sender": send, "receiver": receive}[what](Path(*rest)))
        return
    folder = Path(mkdtemp(prefix="kills-"))
    if what == "proof":
        told = run(PROOF, folder, int(rest[0]) if rest else MESSAGES, once=True)
    else:
        told = run({"kill": int(what)}, folder, once=ONCE in rest)
    print(json.dumps(told))
    shutil.rmtree(folder)  # what has failed stays, to be looked at


if __name__ == "__main__":
    main(*sys.argv[1:])
