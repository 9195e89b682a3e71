"""The node that hands the work out: pieces of files to agents, their answers into one result.

Each agent has a few requests under way and gets the next piece when it answers, so a slow one gets
less. What is not answered goes to another agent, whatever became of it: a piece may be counted twice,
but only one answer is ever added. An agent whose link or node fails gets no more work; when none is
left, AgentUnreachable ends the run. Held at once: the pieces under way, a few read ahead, one count for
each word that differs, and a few figures for each file and piece.
"""

from __future__ import annotations

import asyncio
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from time import perf_counter, perf_counter_ns
from typing import Any, Protocol

from agentnet import (
    Agent,
    AgentMessage,
    AgentNetworkManager,
    AgentNode,
    AgentUnreachable,
    NetworkError,
    NoSuchAgent,
)
from agentnet.demo.words import Found, piece_bytes, read_pieces, why
from agentnet_core.errors import OutageError

REQUESTS_PER_AGENT = 2
"""One that it works on, and one that is there when it is done."""
ATTEMPTS_MAX = 5
BATCH_PIECES = 16
PULSE_S = 0.25
PULSE_MIN = 100  # single requests at least: of fewer, a percentile says nothing
PULSE_REQUESTS = 64
REPORT_S = 2.0


class Watch(Protocol):
    """Who wants to see how it goes."""

    def begin(self, files: int, size: int) -> None: ...

    def advance(self, size: int) -> None: ...

    def note(self, text: str) -> None: ...


@dataclass
class FileCount:
    """What is known of one file; ``problem``: why it was not counted; ``failed``: though it might be text."""

    path: Path
    size: int
    problem: str = ""
    failed: bool = False
    pieces: int = 0
    lines: int = 0
    words: int = 0
    counts: Counter[str] = field(default_factory=Counter)  # until the last piece is in
    seen: int = 0
    waiting: int = 0
    read: bool = False

    def fail(self, problem: str) -> None:
        self.problem = self.problem or problem
        self.failed = True


@dataclass
class AgentWork:
    """What one agent did; ``messages`` and ``busy_ns`` as it says itself, 0 if it said nothing."""

    agent_id: int
    name: str
    node_id: str
    pieces: int = 0
    size: int = 0
    words: int = 0
    messages: int = 0
    busy_ns: int = 0
    lost: str = ""

    def is_lost(self) -> bool:
        return bool(self.lost)


@dataclass
class Piece:
    file: FileCount
    data: bytes
    attempts: int = 0


@dataclass(frozen=True)
class Pulse:
    """What the network does with empty requests: nanoseconds of single ones, and many at once."""

    alone_ns: Sequence[int]
    per_second: float


class Coordinator:
    """Counts files on agents; what came of it is in the attributes."""

    def __init__(self, agents: Iterable[AgentNode], watch: Watch) -> None:
        self.files: list[FileCount] = []
        self.agents = {
            agent.agent_id: AgentWork(agent.agent_id, agent.name or str(agent.agent_id), agent.node_id)
            for agent in agents
        }
        self.counts: Counter[str] = Counter()
        self.retries: Counter[tuple[str, str, bool]] = Counter()
        """How often an agent did not answer, by its name, the error and whether that is definite."""
        self.latencies_ns = array("q")
        self._watch = watch
        self._queue: asyncio.Queue[Piece] = asyncio.Queue()
        self._room = asyncio.Semaphore(2 * REQUESTS_PER_AGENT * len(self.agents))
        self._reported = asyncio.Event()

    @property
    def living(self) -> list[AgentWork]:
        return [work for work in self.agents.values() if not work.lost]

    async def count(self, me: Agent, found: Iterable[Found]) -> None:
        """Count all that was found, in the name of ``me``."""
        self.files = [FileCount(*entry, failed=bool(entry.problem)) for entry in found]
        self._watch.begin(len(self.files), sum(file.size for file in self.files))
        self._check_someone_is_left()
        try:
            async with asyncio.TaskGroup() as group:
                busy = [
                    group.create_task(self._keep_busy(me, work))
                    for work in self.agents.values()
                    for _ in range(REQUESTS_PER_AGENT)
                ]
                await self._hand_out()
                await self._queue.join()
                for task in busy:
                    task.cancel()
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def collect(self, net: AgentNetworkManager, me: Agent) -> None:
        """Announce the end to all agents, and wait for what each says that it did."""
        words = sum(file.words for file in self.files)
        try:
            async with asyncio.timeout(REPORT_S):
                await net.broadcast_message({"files": len(self.files), "words": words}, sender=me)
                await self._reported.wait()
        except (NetworkError, TimeoutError):  # a worker died when all was counted: its report is all it owes
            silent = [work.name for work in self.living if not work.messages]
            self._watch.note(f"no report from {', '.join(silent)}")

    async def on_report(self, message: AgentMessage) -> None:
        work = self.agents[message.from_agent]
        work.messages, work.busy_ns = message.value
        if all(work.messages for work in self.living):
            self._reported.set()

    # -- handing out

    async def _hand_out(self) -> None:
        files = [file for file in self.files if not file.problem]
        batches = _read_batches(files, piece_bytes(sum(file.size for file in files), len(self.agents)))
        while batch := await asyncio.to_thread(next, batches, None):
            for file, data in batch:
                if isinstance(data, bytes):
                    await self._room.acquire()
                    file.waiting += 1
                    self._queue.put_nowait(Piece(file, data))
                else:
                    self._end(file, data)

    async def _keep_busy(self, me: Agent, work: AgentWork) -> None:
        while not work.is_lost():
            piece = await self._queue.get()
            try:
                if work.is_lost():  # its other request found out meanwhile
                    self._queue.put_nowait(piece)
                elif piece.file.problem:
                    self._settle(piece)
                else:
                    await self._ask(me, work, piece)
            finally:
                self._queue.task_done()

    async def _ask(self, me: Agent, work: AgentWork, piece: Piece) -> None:
        asked_ns = perf_counter_ns()
        try:
            answer = await me.request(work.agent_id, piece.data)
        except NetworkError as error:
            self._unanswered(work, piece, error)
        else:
            self.latencies_ns.append(perf_counter_ns() - asked_ns)
            self._answered(work, piece, answer)

    def _unanswered(self, work: AgentWork, piece: Piece, error: NetworkError) -> None:
        self.retries[work.name, type(error).__name__, error.definite] += 1
        if isinstance(error, OutageError | NoSuchAgent) and not work.lost:
            work.lost = str(error)
            self._watch.note(f"{work.name} gets no more work: {error}")
            self._check_someone_is_left()
        piece.attempts += 1
        if piece.attempts < ATTEMPTS_MAX:
            self._queue.put_nowait(piece)
        else:
            piece.file.fail(f"given up after {ATTEMPTS_MAX} attempts: {error}")
            self._settle(piece)

    def _check_someone_is_left(self) -> None:
        if not self.living:
            raise AgentUnreachable("no agent is left to work")

    # -- taking in

    def _answered(self, work: AgentWork, piece: Piece, answer: Any) -> None:
        work.pieces += 1
        work.size += len(piece.data)
        file = piece.file
        if isinstance(answer, str):
            file.problem = answer
        else:
            lines, words, counts = answer
            work.words += words
            file.pieces += 1
            file.lines += lines
            file.words += words
            file.counts.update(counts)
        self._settle(piece)

    def _settle(self, piece: Piece) -> None:
        file = piece.file
        file.waiting -= 1
        file.seen += len(piece.data)
        self._room.release()
        self._watch.advance(len(piece.data))
        self._close_if_done(file)

    def _end(self, file: FileCount, problem: str) -> None:
        """No more pieces of it come, and why, if it was not read to its end."""
        file.read = True
        if problem:
            file.fail(problem)
        self._close_if_done(file)

    def _close_if_done(self, file: FileCount) -> None:
        if not file.read or file.waiting:
            return
        self._watch.advance(max(0, file.size - file.seen))  # what was not read of it
        if file.problem:
            file.lines = file.words = 0
        else:
            self.counts.update(file.counts)
        file.counts = Counter()


def _read_batches(
    files: Iterable[FileCount], piece_bytes: int
) -> Iterator[list[tuple[FileCount, bytes | str]]]:
    """The pieces of the files; behind the last one of each, why reading ended ("": all was read)."""
    batch: list[tuple[FileCount, bytes | str]] = []
    for file in files:
        for data in _read_one(file, piece_bytes):
            batch.append((file, data))
            if len(batch) == BATCH_PIECES:
                yield batch
                batch = []
    if batch:
        yield batch


def _read_one(file: FileCount, piece_bytes: int) -> Iterator[bytes | str]:
    try:
        for data in read_pieces(file.path, piece_bytes):
            if file.problem:  # an agent saw that it is no text
                break
            yield data
        yield ""
    except OSError as error:
        yield why(error)


async def take_pulse(me: Agent, agents: Sequence[AgentWork]) -> Pulse | None:
    """How the network does without the work; None if an agent is lost meanwhile."""
    targets = cycle([work.agent_id for work in agents])
    alone_ns: list[int] = []
    answered = 0

    async def ask_on(until: float) -> None:
        nonlocal answered
        while perf_counter() < until:
            await me.request(next(targets), b"")
            answered += 1

    try:
        until = perf_counter() + PULSE_S
        while perf_counter() < until or len(alone_ns) < PULSE_MIN:
            asked_ns = perf_counter_ns()
            await me.request(next(targets), b"")
            alone_ns.append(perf_counter_ns() - asked_ns)
        started = perf_counter()
        await asyncio.gather(*(ask_on(started + PULSE_S) for _ in range(PULSE_REQUESTS)))
    except (OutageError, NoSuchAgent):
        return None
    return Pulse(alone_ns, answered / (perf_counter() - started))
