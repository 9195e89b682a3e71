"""How the agents of a node end when it leaves: they finish what is in their mailboxes, or are stopped.

In: the agents of one engine, and a deadline.  Out: their tasks have ended, all but those of handlers that
would not stop, which are named.  Links and listeners are the manager's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from agentnet.agent import STOP_S_MAX, Agent
from agentnet.handlers import HandlerThreads
from agentnet_core.control import Control

log = logging.getLogger("agentnet.leaving")


class Drain:
    """The agents of one node at its end. ``busy``: those with tasks, and ``threads`` where functions run."""

    def __init__(self, control: Control, busy: Mapping[Agent, None], threads: HandlerThreads) -> None:
        self._control = control
        self._engine = control.engine
        self._busy = busy
        self._threads = threads

    def _agents(self) -> list[Agent]:
        return [port for port in self._engine.ports.values() if isinstance(port, Agent)]

    async def finish(self, deadline: float) -> None:
        """Let them do what is in their mailboxes, and take no more; ``deadline`` is of the loop's clock."""
        agents = self._agents()
        self._control.withdraw()
        # A handler may be what leaves: it cannot wait for itself. What was still on its way may have come
        # when the tasks of an agent had ended, and made new ones.
        loop = asyncio.get_running_loop()
        while tasks := {task for agent in agents for task in agent.retire()} - {asyncio.current_task()}:
            _, running = await asyncio.wait(tasks, timeout=max(0.0, deadline - loop.time()))
            if running:
                break

    def stop(self) -> None:
        """End what is not done."""
        for agent in self._agents():
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
        working = [agent.record.label for agent in list(self._busy) if agent.working]
        return sorted({*working, *list(self._threads.labels.values())})
