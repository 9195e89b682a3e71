"""Redis Streams with an append-only file that is synced before each answer: the server, and redis-benchmark.

Its own client, in C, drives it, on as many connections as it was fastest with: the server gathers what
several bring, and syncs once for all of them.
"""

from __future__ import annotations

import csv
import os
import subprocess

from bench.systems import find_program
from bench.worker import Bench

LANES = {1: 1, 256: 16, 1024: 4}
"""Connections by entries in flight, which each has its share of in one pipeline."""


def broker(bench: Bench) -> None:
    settings = {
        "port": str(bench.task.port),
        "bind": "127.0.0.1",
        "dir": bench.task.directory,
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "daemonize": "no",
    }
    arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
    server = program("redis-server")
    os.execv(server, [server, *arguments])


def program(name: str) -> str:
    found = find_program(name)
    if found is None:
        raise FileNotFoundError(f"{name}: apt-get install redis-server, or put it on PATH")
    return found


def append(bench: Bench) -> None:
    """``flight`` at a time in each phase; tells the median of its delays, in seconds, and its rate."""
    task = bench.task
    lanes = LANES[task.flight]
    command = [program("redis-benchmark"), "-p", str(task.port), "--csv"]
    command += ["-c", str(lanes), "-P", str(task.flight // lanes)]
    for count in bench.phases():
        entry = ["XADD", "stream", "*", "field", "x" * task.size]
        done = subprocess.run(
            [*command, "-n", str(count), *entry], capture_output=True, text=True, check=True
        )
        (row,) = csv.DictReader(done.stdout.splitlines())
        bench.tell("appended", p50=float(row["p50_latency_ms"]) / 1000, rate=float(row["rps"]))
