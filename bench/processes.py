"""The processes of one run: started together, watched, and stopped whatever happens.

A Fleet is a ``with`` block.  Each wait has a deadline; a process that dies or stays silent raises
RunFailed with the end of its stderr.  Processes are stopped by pid and reaped when the block is left,
also by Ctrl-C, which does not reach them: each has a session of its own.
"""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any

import psutil

from bench.worker import Task

ROOT = Path(__file__).resolve().parent.parent
PORTS = range(20_000, 30_000)


class RunFailed(Exception):
    """A measured process died or fell silent; the message names its role and quotes its last words."""

    def __init__(self, role: str, text: str) -> None:
        super().__init__(f"{role}: {text}")
        self.ours = role.startswith("bench.agentnet")


@dataclass(frozen=True)
class Note:
    """What a process told: ``at`` by CLOCK_MONOTONIC, ``cpu`` seconds spent by then, None if unknown."""

    what: str
    at: float
    cpu: float | None
    more: dict[str, Any]


class Worker:
    """One process that speaks as ``bench.worker`` lays down."""

    def __init__(self, name: str, argv: list[str], stderr: IO[bytes]) -> None:
        self.name = name
        self._stderr = stderr
        self._notes: SimpleQueue[Note | None] = SimpleQueue()
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=ROOT,
            start_new_session=True,
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            arrived = time.monotonic()
            fields = json.loads(line)
            note = Note(fields.pop("what"), fields.pop("at", arrived), fields.pop("cpu", None), fields)
            self._notes.put(note)
        self._notes.put(None)

    def wait(self, what: str, seconds: float = 120) -> Note:
        """The next note, which must be ``what``."""
        try:
            note = self._notes.get(timeout=seconds)
        except Empty:
            raise self._failed(f"no {what!r} after {seconds:.0f} s") from None
        if note is None:
            raise self._failed(f"ended before {what!r}")
        if note.what != what:
            raise self._failed(f"expected {what!r}, got {note}")
        return note

    def go(self) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(b"go\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failed("ended early") from None

    def rss_bytes(self) -> int:
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def open_files(self) -> int:
        return int(psutil.Process(self._process.pid).num_fds())

    def connected(self) -> bool:
        connections = psutil.Process(self._process.pid).net_connections("tcp")
        return any(each.status != psutil.CONN_LISTEN for each in connections)

    def pause(self) -> None:
        """It does nothing more, until it is stopped."""
        self._process.send_signal(signal.SIGSTOP)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()

    def _failed(self, text: str) -> RunFailed:
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        last_words = "; its stderr ends: " + " | ".join(lines[-4:]) if lines else ""
        return RunFailed(self.name, text + last_words)


class Fleet(ExitStack):
    """Starts the workers of one run; leaving the block stops them all, the last one first."""

    def spawn(self, module: str, role: str, task: Task, *, ready: bool = True) -> Worker:
        """A process that performs ``role`` of ``module``; with ``ready``, once it has said so."""
        argv = [sys.executable, "-m", "bench.worker", module, role, task.to_json()]
        stderr = self.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
        worker = Worker(f"{module}.{role}", argv, stderr)
        self.callback(worker.stop)
        if ready:
            worker.wait("ready", 30)
        return worker


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now, and that no connection is given meanwhile: below those
    that systems give to whoever connects."""
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise RunFailed("ports", f"none of {PORTS.start} to {PORTS.stop - 1} is free: end what listens there")


def wait_listening(port: int, seconds: float = 10) -> None:
    """Returns when something accepts connections on ``port``."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise RunFailed("broker", f"nothing listens on its port after {seconds:.0f} s") from None
            time.sleep(0.02)
        else:
            return
