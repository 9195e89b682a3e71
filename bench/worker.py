"""One measured process: ``python -m bench.worker MODULE ROLE TASK``.

In: the role, a function of MODULE that takes a Bench, and the Task as JSON; then lines on stdin, each
of them permission for the next step.  Out: notes, one JSON object a line, with the time (CLOCK_MONOTONIC,
the same for all processes of the machine) and the CPU seconds spent so far.  A role that is a coroutine
function runs on uvloop where there is one.  The process ends when the bench kills it or is gone.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import accumulate
from queue import SimpleQueue
from typing import Any

try:
    import uvloop as event_loop
except ImportError:
    event_loop = asyncio


@dataclass(frozen=True)
class Task:
    """What one process is to do; what a role does not need it does not read.

    ``port``: of the receiver, the server or the broker, on 127.0.0.1.  ``sinks``: names of the receiving
    agents, subjects or queues.  ``phases``: operations in each timed phase; the first is the warm-up.
    ``flight``: requests at a time.  ``index``: which of several alike processes.  ``certificates``: the
    directory that holds them; with none, plain TCP.  ``counts``, ``ports``: of several processes, how many
    nodes each holds, and where its first one listens.  ``mesh_nodes_max``: of the nodes' config; 0 for its
    default.  ``directory``: where something is kept on the disk.
    """

    port: int = 0
    size: int = 64
    sinks: tuple[str, ...] = ("sink",)
    phases: tuple[int, ...] = (1,)
    flight: int = 1
    index: int = 0
    certificates: str = ""
    counts: tuple[int, ...] = ()
    ports: tuple[int, ...] = ()
    mesh_nodes_max: int = 0
    directory: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Task:
        fields = json.loads(text)
        lists = {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
        return cls(**{**fields, **lists})


class Bench:
    """A role's line to the bench that started it."""

    def __init__(self, task: Task) -> None:
        self.task = task
        # Only notes may reach the bench: what a library prints goes to stderr.
        self.notes_fd = os.dup(1)
        self._notes = os.fdopen(self.notes_fd, "w", buffering=1)
        os.dup2(2, 1)
        self._turns: SimpleQueue[str] = SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin:
            self._turns.put(line)
        os._exit(0)  # the bench has gone; a role may be deep in a library, so nothing gentler is sure

    def tell(self, what: str, **more: Any) -> None:
        note = {"what": what, "at": time.monotonic(), "cpu": time.process_time(), **more}
        self._notes.write(json.dumps(note) + "\n")

    def turn(self) -> None:
        """Tell that this process is ready, and wait until the bench says to go on."""
        self.tell("ready")
        self._turns.get()

    async def turn_async(self) -> None:
        self.tell("ready")
        await asyncio.get_running_loop().run_in_executor(None, self._turns.get)

    def phases(self) -> Iterator[int]:
        """The count of each phase, with notes just before and after; then rests, with links open."""
        for count in self.task.phases:
            self.turn()
            self.tell("sending")
            yield count
            self.tell("sent")
        self.turn()

    async def phases_async(self) -> AsyncIterator[int]:
        for count in self.task.phases:
            await self.turn_async()
            self.tell("sending")
            yield count
            self.tell("sent")
        await self.turn_async()

    def counter(self) -> Callable[..., None]:
        """A handler that counts messages and notes the last one of each phase."""
        targets = accumulate(self.task.phases)
        seen, target = 0, next(targets)

        def handler(*_: object) -> None:
            nonlocal seen, target
            seen += 1
            if seen == target:
                self.tell("received")
                target = next(targets, 0)

        return handler

    def counter_async(self) -> Callable[[Any], Awaitable[None]]:
        """The same as a coroutine function, written out: a call more would count against its system."""
        targets = accumulate(self.task.phases)
        seen, target = 0, next(targets)

        async def handler(_: Any) -> None:
            nonlocal seen, target
            seen += 1
            if seen == target:
                self.tell("received")
                target = next(targets, 0)

        return handler


def main() -> None:
    module, role, task = sys.argv[1:]
    perform = getattr(importlib.import_module(module), role)
    bench = Bench(Task.from_json(task))
    if inspect.iscoroutinefunction(perform):
        event_loop.run(perform(bench))
    else:
        perform(bench)


if __name__ == "__main__":
    main()
