"""How the agents of a node end when it leaves: no new work, then they finish what they have, or are stopped.

In: the agents of one engine, and a deadline.  Out: their tasks have ended, all but those of handlers that
would not stop, which are named; a report of what was done and what was not.  A link may be closed after
that: the other node knows that nothing more is taken here, what it had sent has come and was done or
refused, and it has had every answer.  One that does not answer for `node_silence_ms_max` is not waited for.
Links and listeners are the manager's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from agentnet.agent import STOP_S_MAX, Agent
from agentnet.handlers import HandlerThreads
from agentnet.host import Host
from agentnet_core.control import Control

log = logging.getLogger("agentnet.leaving")


LOOK_S = 0.005
"""How often it is looked for what frames bring, which wake nobody."""


@dataclass(frozen=True, slots=True)
class LeaveReport:
    """What became of the work that a node had when it left: messages, by agent.

    ``handled``: of what was there when it began to leave. ``refused``: not begun, and their senders were
    told so, definitely. ``stopped``: begun, and not done at the deadline; their outcome is unknown.
    """

    handled: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    stopped: dict[str, int] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether nothing was left."""
        return not (self.refused or self.stopped)

    def __str__(self) -> str:
        parts = (("handled", self.handled), ("refused", self.refused), ("stopped", self.stopped))
        said = [f"{what} {', '.join(f'{n} of {who}' for who, n in of.items())}" for what, of in parts if of]
        return "messages " + "; ".join(said) if said else "no messages"


class Drain:
    """The agents of one node at its end. ``busy``: those with tasks, and ``threads`` where functions run."""

    def __init__(
        self, control: Control, busy: Mapping[Agent, None], threads: HandlerThreads, host: Host
    ) -> None:
        self._control = control
        self._engine = control.engine
        self._busy = busy
        self._threads = threads
        self._host = host
        self._had: dict[str, int] = {}
        self.report = LeaveReport()

    def _agents(self) -> list[Agent]:
        return [port for port in self._engine.ports.values() if isinstance(port, Agent)]

    async def finish(self, deadline: float) -> None:
        """Let them do what they have, and give the answers out; ``deadline`` is of the loop's clock.

        They may use each other for that, so those that never come to an end take all the time.
        """
        agents, engine, loop = self._agents(), self._engine, asyncio.get_running_loop()
        for agent in agents:
            _add(self._had, agent, agent.pending_messages + len(agent.at_work()))
        engine.set_maintenance(True)
        reaching = loop.create_task(self._reach_all(deadline))
        try:
            # A handler may be what leaves: it cannot wait for itself. What agents send each other may come
            # when the tasks of the receiver have ended, and make new ones.
            while tasks := {task for agent in agents for task in agent.retire()} - {asyncio.current_task()}:
                _, running = await asyncio.wait(tasks, timeout=max(0.0, deadline - loop.time()))
                if running:
                    break
            await reaching
        finally:
            reaching.cancel()
        await _until(lambda: not engine.answers_waiting, deadline)
        await self._reach_all(deadline)

    async def set_maintenance(self, on: bool, deadline: float) -> None:
        """Take new work of other nodes, or do not; they know it, and all that they sent before has come."""
        self._engine.set_maintenance(on)
        await self._reach_all(deadline)

    async def _reach_all(self, deadline: float) -> None:
        """Return when what was said has reached the linked nodes, and what they had said before, this one."""
        engine, loop = self._engine, asyncio.get_running_loop()
        silence_s = self._control.config.node_silence_ms_max / 1000
        deadline = min(deadline, loop.time() + silence_s)
        # Data goes behind the control lane, so a question would overtake it.
        await _until(lambda: not any(s.data.waiting for s in engine.sessions.values()), deadline)
        engine.now_ns = asked_ns = self._host.monotonic_ns()
        for session in list(engine.sessions.values()):
            engine.ping(session)
        await _until(lambda: all(s.has_all_since(asked_ns) for s in engine.sessions.values()), deadline)

    def stop(self) -> None:
        """End what is not done, and report of it."""
        agents, refused, stopped = self._agents(), dict[str, int](), dict[str, int]()
        for agent in agents:
            _add(refused, agent, agent.pending_messages)
            _add(stopped, agent, len([t for t in agent.at_work() if t is not asyncio.current_task()]))
        if agents:
            left = {who: n - refused.get(who, 0) - stopped.get(who, 0) for who, n in self._had.items()}
            self.report = LeaveReport({who: n for who, n in left.items() if n > 0}, refused, stopped)
        self._control.catalogue.withdraw()
        for agent in agents:
            # First the mailbox, else its next message would be begun.
            self._engine.remove_port(agent)
            agent.cancel()

    async def wait(self) -> None:
        """Give those that were stopped a moment to end."""
        running = {task for agent in self._busy for task in agent.tasks()} - {asyncio.current_task()}
        if running:
            _, running = await asyncio.wait(running, timeout=STOP_S_MAX)
        stuck = {task.get_name() for task in running} | {f"agent {x}" for x in self._threads.labels.values()}
        if stuck:
            stuck_text = ", ".join(sorted(stuck))
            log.warning("node %s has left, but would not stop: %s", self._engine.node_id, stuck_text)

    def unfinished(self) -> list[str]:
        """Agents whose handlers are at work; after the leave, those that would not stop."""
        working = [agent.record.label for agent in list(self._busy) if agent.at_work()]
        return sorted({*working, *list(self._threads.labels.values())})


def _add(counts: dict[str, int], agent: Agent, count: int) -> None:
    if count:
        counts[agent.record.label] = counts.get(agent.record.label, 0) + count


async def _until(condition: Callable[[], bool], deadline: float) -> None:
    """Return when it holds, or at ``deadline``."""
    loop = asyncio.get_running_loop()
    while not condition() and loop.time() < deadline:  # noqa: ASYNC110 - frames set no event
        await asyncio.sleep(LOOK_S)
