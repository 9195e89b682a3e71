"""Durable messages between two processes that are killed, again and again, with SIGKILL.

    python -m tests.kills N             so many kills, of either side by chance; what came of it, as JSON
    python -m tests.kills N once        likewise, where the handler commits its effect with `once`

A sender notes each number in a file before it sends it, and the numbers that were told to be kept in another;
a receiver notes each life and each number that it handles.  In the end, every number that was kept must have
been handled; in each life of the receiver numbers must rise; and no number may be handled for the first
time after a higher one.  A number may be handled again only where its receiver was killed since: between the
handler and the disk there is no moment at which both know.  With `once` that is no matter: a number that is
handled again has no effect yet, and in the end each has one.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from agentnet import AgentNetworkManager, Delivery, NetworkConfig
from agentnet_core.message import AgentMessage

FLIGHT = 32
BACKLOG_MAX = 500
"""Messages that are kept and not handled: one that commits is slower than one that sends."""
PORTS = {"sender": 0, "receiver": 1}
SETTINGS = {
    "redial_ms_max": 100,
    "suspicion_ms_min": 200,
    "suspicion_ms_max": 400,
    "delivery_retry_ms_max": 200,
}
PATIENCE_S = 60.0
ONCE = "once"
"""The file that says that effects are committed."""


def node(name: str, folder: Path, ports: list[int]) -> AgentNetworkManager:
    config = NetworkConfig(
        listen=[f"tcp://127.0.0.1:{ports[PORTS[name]]}"],
        data_dir=str(folder / name),
        log_segment_bytes=64 * 1024,
        log_held_bytes=256 * 1024,
        **SETTINGS,  # type: ignore[arg-type]
    )
    return AgentNetworkManager(name, config)


def addresses(ports: list[int]) -> list[str]:
    """The same for both: the first one founds the network, if the other is in none."""
    return [f"tcp://127.0.0.1:{port}" for port in ports]


def notes(folder: Path, name: str) -> int:
    return os.open(folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def numbers(folder: Path, name: str) -> list[int]:
    """The whole lines of a file of numbers: of the last one a part may be there."""
    path = folder / name
    text = path.read_text() if path.exists() else ""
    return [int(line) for line in text[: text.rfind("\n") + 1].split()]


async def send(folder: Path, ports: list[int]) -> None:
    """Number after number, from where the last life was; the end of stdin ends it, when all is handled."""
    sent, kept = notes(folder, "sent"), notes(folder, "kept")
    number = max(numbers(folder, "sent"), default=0)
    over = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    async with node("sender", folder, ports) as net:
        await net.join_network(addresses(ports))
        source = await net.register_agent("source", timeout=1)
        gate = asyncio.Semaphore(FLIGHT)

        async def one(number: int) -> None:
            await source.send("sink", b"%d" % number, delivery=Delivery.DURABLE)
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
                await asyncio.sleep(0.0005)
        while net.stats()["letters"]:
            await asyncio.sleep(0.01)


async def receive(folder: Path, ports: list[int]) -> None:
    handled = notes(folder, "handled")
    os.write(handled, b"0\n")  # a life begins
    once = (folder / ONCE).exists()

    async def handle(message: AgentMessage) -> None:
        os.write(handled, message.payload + b"\n")
        if once:
            number, store = message.payload.decode(), message.store
            effects, total = int(store.get(number, b"0")), int(store.get("total", b"0"))
            await message.once({number: b"%d" % (effects + 1), "total": b"%d" % (total + 1)})

    over = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    async with node("receiver", folder, ports) as net:
        net.agent("sink")(handle)
        await net.join_network(addresses(ports))
        await over
        if once:
            (sink,) = [port for port in net.engine.ports.values() if port.record.name == "sink"]
            store = {key: int(value) for key, value in sink.store.items()}
            (folder / "effects").write_text(json.dumps(store))


class Victims:
    """Both processes: started, killed and started again."""

    def __init__(self, folder: Path, ports: list[int]) -> None:
        self.folder, self.ports = folder, ports
        self.running: dict[str, subprocess.Popen[str]] = {}
        for name in PORTS:
            self.start(name)

    def start(self, name: str) -> None:
        ports = [str(port) for port in self.ports]
        command = [sys.executable, __file__, name, str(self.folder), *ports]
        self.running[name] = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)

    def kill(self, name: str) -> None:
        process = self.running[name]
        process.send_signal(signal.SIGKILL)
        self.bury(process)
        self.start(name)

    def stop(self) -> None:
        """Let the sender finish, and then the receiver; AssertionError if one does not."""
        for name in PORTS:
            process = self.running[name]
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(PATIENCE_S) == 0, f"{name} ended with {process.returncode}"

    def end(self) -> None:
        for process in self.running.values():
            process.kill()
            self.bury(process)

    @staticmethod
    def bury(process: subprocess.Popen[str]) -> None:
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


def judge(folder: Path) -> dict[str, int]:
    """What came of it; AssertionError if a promise was broken."""
    kept, handled = numbers(folder, "kept"), numbers(folder, "handled")
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
    told = {"kept": len(kept), "handled": len(seen), "again": repeated, "receiver_lives": lives}
    if (folder / ONCE).exists():
        effects = json.loads((folder / "effects").read_text())
        total = effects.pop("total")
        twice = [number for number, count in effects.items() if count != 1]
        assert not twice, f"{len(twice)} took effect more than once: {twice[:10]}"
        assert total == len(effects), f"{total} effects were counted, {len(effects)} are there"
        assert {str(number) for number in seen} == effects.keys()
        told["effects"] = total
    return told


def run(kills: int, folder: Path, ports: list[int], seed: int = 1, once: bool = False) -> dict[str, int]:
    """So many kills while messages flow, and then the reckoning; ``once``: of effects that are committed."""
    rng = Random(seed)
    if once:
        (folder / ONCE).touch()
    victims = Victims(folder, ports)
    try:
        for _ in range(kills):
            before = len(numbers(folder, "handled"))
            name = rng.choice(list(PORTS))
            deadline = time.monotonic() + PATIENCE_S
            while len(numbers(folder, "handled")) < before + rng.randrange(5, 60):
                assert time.monotonic() < deadline, f"nothing flows before the kill of {name}"
                time.sleep(0.01)
            victims.kill(name)
        victims.stop()
    finally:
        victims.end()
    return {"kills": kills, **judge(folder)}


def free_ports() -> list[int]:
    import socket

    sockets = [socket.socket() for _ in PORTS]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what in PORTS:
        where, *given = rest
        asyncio.run({"sender": send, "receiver": receive}[what](Path(where), [int(port) for port in given]))
    else:
        with TemporaryDirectory() as directory:
            print(json.dumps(run(int(what), Path(directory), free_ports(), once="once" in rest)))
