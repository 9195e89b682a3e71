"""Asks agents how they are: each that registered with a health function, every `health_interval_ms`.

In: functions of users, which may raise, hang or lie.  Out: a text for the agent's record, empty when it is
well.  What raises or has not answered within `health_ms_max` is not well, and that is the text.  One call of
a function is under way at a time: one that hangs in its thread is not called again before it returns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from agentnet.agent import Agent
from agentnet.config import NetworkConfig
from agentnet.handlers import HandlerThreads, Health, is_async, say
from agentnet_core.errors import NetworkError
from agentnet_core.records import describe

Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class HealthChecks:
    """One task for each agent with a health function. ``threads``: where plain functions run."""

    def __init__(self, config: NetworkConfig, threads: HandlerThreads, spawn: Spawn) -> None:
        self._config = config
        self._threads = threads
        self._spawn = spawn
        self._tasks: dict[Agent, asyncio.Task[None]] = {}

    def start(self, agent: Agent, health: Health) -> None:
        """Ask now, and on and on until `stop`."""
        self._tasks[agent] = self._spawn(self._watch(agent, health, is_async(health)))

    def stop(self, agent: Agent) -> None:
        """The agent is not registered any more."""
        task = self._tasks.pop(agent, None)
        if task is not None:
            task.cancel()

    async def _watch(self, agent: Agent, health: Health, plain_async: bool) -> None:
        label = agent.record.label
        while True:
            begun = asyncio.Event()
            call = self._call_async(health, begun) if plain_async else self._call_thread(label, health, begun)
            asking = asyncio.get_running_loop().create_task(call, name=f"health of agent {label}")
            try:
                await self._hear(agent, asking, begun, can_cancel=plain_async)
            except NetworkError:
                return  # it is not registered any more
            finally:
                asking.cancel()
            await asyncio.sleep(self._config.health_interval_ms / 1000)

    async def _call_async(self, health: Health, begun: asyncio.Event) -> Any:
        begun.set()
        return await health()

    async def _call_thread(self, label: str, health: Health, begun: asyncio.Event) -> Any:
        loop = asyncio.get_running_loop()

        def call(_: None) -> Any:
            loop.call_soon_threadsafe(begun.set)
            return health()

        return await self._threads.result(label, call, None)

    async def _hear(
        self, agent: Agent, asking: asyncio.Task[Any], begun: asyncio.Event, *, can_cancel: bool
    ) -> None:
        """Tell what the call says, or that it is late."""
        await begun.wait()  # that all threads are busy says nothing of this agent
        limit_ms = self._config.health_ms_max
        late = not (await asyncio.wait({asking}, timeout=limit_ms / 1000))[0]
        if late:
            agent.report_health(f"did not answer in {limit_ms} ms")
            if can_cancel:
                asking.cancel()
            await asyncio.wait({asking})
        if not (late and asking.cancelled()):
            agent.report_health(_text_of(asking))


def _text_of(asking: asyncio.Task[Any]) -> str | None:
    """What a call that has ended says."""
    if asking.cancelled():
        return "health check failed: CancelledError"
    error = asking.exception()
    if error is not None:
        return f"health check failed: {say(error)}"
    answer = asking.result()
    if answer is None or isinstance(answer, str):
        return answer
    return f"health check failed: it returned {describe(answer)}, expected None or a text"
