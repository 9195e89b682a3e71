"""What is done to processes of this machine: SIGKILL, links that are cut, disks that are full and that fail.

The processes see none of it coming.  Their links go through relays, in a thread of this process; their system
calls fail where `strace` makes them fail, from the moment that it has attached until it lets go.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from agentnet.sim.network import Weather
from agentnet.testing.relay import Relay, Ways

PATIENCE_S = 60.0
LOOK_S = 0.005
SET_PTRACER = 0x59616D61


def wait_for(so: Callable[[], object], what: str) -> None:
    """Until that is so; AssertionError if it is not in ``PATIENCE_S``, of which a stop of this process is no
    part."""
    looks = 0
    while not so():
        assert looks * LOOK_S < PATIENCE_S, f"{what}: not so in {PATIENCE_S:.0f} s"
        time.sleep(LOOK_S)
        looks += 1


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Relays:
    """One in front of each port; all that goes there goes through it, until it is cut."""

    def __init__(self, ports: list[int]) -> None:
        ways = Ways(Random(1), Weather(delay_ns=(0, 0)))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._relays = [Relay(ways, f"port {port}") for port in ports]
        for relay, port in zip(self._relays, ports, strict=True):
            relay.aim(f"tcp://127.0.0.1:{port}")
            asyncio.run_coroutine_threadsafe(relay.open(), self._loop).result()
        self.addresses = [relay.address for relay in self._relays]

    def cut(self) -> int:
        """Reset every connection; how many there were."""
        return asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result()

    async def _cut(self) -> int:
        count = sum(len(relay.connections) for relay in self._relays)
        for relay in self._relays:
            relay.cut()
        return count

    def close(self) -> None:
        for relay in self._relays:
            asyncio.run_coroutine_threadsafe(relay.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def let_trace() -> None:
    """Any process of this user may trace this one: some systems let only a parent do that."""
    if sys.platform == "linux":
        prctl = getattr(ctypes.CDLL(None), "prctl", None)
        if prctl is not None:
            prctl(SET_PTRACER, ctypes.c_ulong(-1))


@contextmanager
def failing(pid: int, calls: str, error: str, told: Path) -> Iterator[None]:
    """Let these system calls of a process fail; ``told``: a file for what strace writes.

    Either the process ends meanwhile, or ``error`` says for which of them (`when=1..9`): a call that strace
    lets go of in the middle fails with ENOSYS.
    """
    inject = f"inject={calls}:error={error}"
    with told.open("wb") as out:
        command = ["strace", "-f", "-p", str(pid), "-e", f"trace={calls}", "-e", inject]
        tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        wait_for(
            lambda: b"attached" in told.read_bytes() or tracer.poll() is not None, f"strace attaches to {pid}"
        )
        # It may have ended since, with a process that met its failure at once.
        assert b"attached" in told.read_bytes(), told.read_text()
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait()


def lacking_strace() -> str:
    """Why no system call of another process can be made to fail here; nothing if it can."""
    if sys.platform != "linux" or shutil.which("strace") is None:
        return "there is no command strace"
    sleeper = subprocess.Popen(
        [sys.executable, "-c", "import harm, sys; harm.let_trace(); print(flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent,
    )
    assert sleeper.stdout is not None
    sleeper.stdout.readline()
    tracer = subprocess.Popen(
        ["strace", "-p", str(sleeper.pid)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        assert tracer.stderr is not None
        said = os.read(tracer.stderr.fileno(), 500).decode()
        return "" if "attached" in said else said.strip() or "strace cannot attach"
    finally:
        for process in (tracer, sleeper):
            process.kill()
            process.communicate()
