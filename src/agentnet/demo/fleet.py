"""The worker processes of a demo: started together, watched, and gone when the block is left.

Each has a session of its own, so that Ctrl-C in the terminal reaches only the demo, which then ends
them: their standard input is closed, and whoever has not left in time is killed. If the demo itself
is killed, that input closes too. StartFailed if one does not get ready; it quotes its last words.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from agentnet.demo.worker import LEAVE_S
from agentnet_core.errors import OutageError

READY_S = 60.0
STOP_S = LEAVE_S + 2.0
"""A worker ends by itself within LEAVE_S, unless it is stopped or stuck in the kernel."""
LAST_WORDS_BYTES = 4096


class StartFailed(OutageError):
    """A worker process did not get ready."""


class Worker:
    """One worker process; ``fate`` says how it ended before its time, empty while it lives."""

    def __init__(self, node_id: str, process: Process) -> None:
        self.node_id = node_id
        self.pid = process.pid
        self.fate = ""
        self._process = process
        self._stderr = b""
        self._drain = asyncio.create_task(self._read_stderr())
        self._watch: asyncio.Task[None] | None = None

    async def wait_ready(self) -> None:
        """Its agents are known; nothing else is ever printed."""
        assert self._process.stdout is not None
        if not await self._process.stdout.readline():
            await self._drain
            raise StartFailed(
                f"{self.node_id} {await self._ending()} before it was ready{self._last_words()}"
            )

    def watch(self, on_death: Callable[[Worker], None]) -> None:
        """Call ``on_death`` should the process end."""

        async def watch() -> None:
            self.fate = await self._ending()
            on_death(self)

        self._watch = asyncio.create_task(watch())

    async def stop(self) -> None:
        """Let it leave; killed if it takes too long."""
        if self._watch is not None:
            self._watch.cancel()
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(STOP_S):
                await self._process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):  # it has just ended
                self._process.kill()
            await self._process.wait()
        await self._drain

    async def _ending(self) -> str:
        code = await self._process.wait()
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"

    def _last_words(self) -> str:
        lines = self._stderr.decode(errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""

    async def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        while data := await self._process.stderr.read(LAST_WORDS_BYTES):
            self._stderr = (self._stderr + data)[-LAST_WORDS_BYTES:]


class Fleet:
    """``async with Fleet(on_death) as fleet: await fleet.start(...)``"""

    def __init__(self, on_death: Callable[[Worker], None]) -> None:
        self.workers: list[Worker] = []
        self._on_death = on_death

    async def start(self, nodes: int, agents: int, address: str) -> None:
        """Start ``nodes`` processes of ``agents`` agents each, which join the network at ``address``."""
        for number in range(1, nodes + 1):
            await self._start_one(f"worker-{number}", address, str(agents))
        try:
            async with asyncio.timeout(READY_S):
                for worker in self.workers:
                    await worker.wait_ready()
        except TimeoutError:
            raise StartFailed(f"the workers were not ready after {READY_S:.0f} s") from None
        for worker in self.workers:
            worker.watch(self._on_death)

    async def _start_one(self, node_id: str, *arguments: str) -> None:
        spawning = asyncio.create_task(_spawn(node_id, *arguments))
        try:
            await asyncio.wait([spawning])
        finally:  # cancelled half-way, too, there is a process to stop
            self.workers.append(Worker(node_id, await spawning))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.gather(*(worker.stop() for worker in self.workers))


async def _spawn(*arguments: str) -> Process:
    # -P: a file in the directory that the user stands in must not pass for one of our modules.
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = (sys.executable, "-P", "-c", "from agentnet.demo.worker import main; main()", *arguments)
    try:
        return await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=env, start_new_session=True
        )
    except OSError as error:
        raise StartFailed(f"a worker process cannot be started: {error}") from error
