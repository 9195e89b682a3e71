"""The command `agentnet` in a process of its own, for tests, and what becomes of the processes it starts."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from networks import soon, until

COMMAND = (sys.executable, "-P", "-m", "agentnet")
SECONDS = 50.0


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


def environment(path: Iterable[Path] = ()) -> dict[str, str]:
    """This process's, in which modules are found where they are here, wherever one stands; ``path`` first."""
    places = [*path, *(Path(place).resolve() for place in sys.path if place)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}


@asynccontextmanager
async def command(
    *arguments: str | Path, cwd: Path | None = None, path: Iterable[Path] = (), **settings: str
) -> AsyncIterator[Process]:
    """``agentnet ARGUMENTS``, ended when the block is left; modules are looked for in ``path`` first."""
    env = {**environment(path), **settings}
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *map(str, arguments), cwd=cwd, env=env, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await end(process)


async def end(process: Process) -> Done:
    """Its exit code, and all that it printed and was not read yet."""
    out, err = await soon(process.communicate(), SECONDS)
    assert process.returncode is not None
    return Done(process.returncode, out.decode(), err.decode())


async def called(*arguments: str | Path, **options: Any) -> Done:
    """What ``agentnet ARGUMENTS`` did."""
    async with command(*arguments, **options) as process:
        return await end(process)


async def line(process: Process) -> str:
    """The next line on its stdout."""
    assert process.stdout is not None
    text: bytes = await soon(process.stdout.readline(), SECONDS)
    assert text, (await end(process)).err
    return text.decode()


def living(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; a zombie has ended, and waits for whoever reaps orphans here."""
    return [process for process in processes if _lives(process)]


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def workers(
    pid: int, count: int, ready: Callable[[psutil.Process], bool] = _lives
) -> list[psutil.Process]:
    """The ``count`` child processes of a demo, once all are there and ``ready``."""
    parent = psutil.Process(pid)

    def found() -> list[psutil.Process]:
        children = [child for child in parent.children() if "agentnet.demo" in " ".join(child.cmdline())]
        return children if len(children) == count and all(map(ready, children)) else []

    processes: list[psutil.Process] = await until(found, SECONDS)
    return processes


def linked(process: psutil.Process) -> bool:
    """It has a connection: its node has joined."""
    return any(each.status == psutil.CONN_ESTABLISHED for each in process.net_connections("tcp"))
