"""The agents of one node: those declared before it joins, and those that are registered.

In: what users say of an agent, as an AgentSpec.  Out: Agents that the engine and every linked node know.
An agent that was declared after the join is registered in the background: what is wrong with it is told
as an event and a log line.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from agentnet.agent import Agent, AgentSpec, make_agent
from agentnet.handlers import HandlerShape, HandlerThreads, check_health
from agentnet.health import HealthChecks
from agentnet_core.errors import NetworkError, NoSuchAgent
from agentnet_core.message import AgentMessage
from agentnet_core.records import Event, agent_id_of

if TYPE_CHECKING:
    import asyncio

    from agentnet.config import NetworkConfig
    from agentnet.host import Host
    from agentnet_core.control import Control
    from agentnet_core.engine import Engine

    class _Node(Protocol):
        """What the registry asks of its node; the manager is one."""

        node_id: str
        config: NetworkConfig
        loop: asyncio.AbstractEventLoop
        control: Control
        health_checks: HealthChecks
        host: Host
        busy: dict[Agent, None]
        handlers_failed: int
        turned_ns: int

        @property
        def engine(self) -> Engine: ...
        def decode(self, message: AgentMessage, hint: Any, /) -> Any: ...
        def spawn(self, work: Coroutine[Any, Any, None], /) -> asyncio.Task[None]: ...
        async def wait_settled(self, start: Callable[[Any], None]) -> None: ...


log = logging.getLogger("agentnet.registry")

MS = 1_000_000


class Registry:
    """``threads``: where the plain functions of its agents run, once the node has started."""

    def __init__(self, net: _Node) -> None:
        self._net = net
        self._declared: list[AgentSpec] = []
        self.threads: HandlerThreads

    def declare(self, spec: AgentSpec) -> None:
        """Keep it for the join. As in `register`, the last of one id counts: a cell may run twice."""
        same = agent_id_of(spec.agent)
        self._declared = [other for other in self._declared if agent_id_of(other.agent) != same]
        self._declared.append(spec)

    async def register_declared(self) -> None:
        """Register what was declared; errors as of `register`."""
        declared, self._declared = self._declared, []
        await self.register(declared, None)

    async def register(self, agents: Sequence[AgentSpec | int | str], timeout: float | None) -> list[Agent]:
        """See `AgentNetworkManager.register_agents`."""
        net, engine = self._net, self._net.engine
        shapes: dict[int, HandlerShape] = {}
        specs = [spec if isinstance(spec, AgentSpec) else AgentSpec(agent=spec) for spec in agents]
        made = [make_agent(net, spec, self.threads, shapes) for spec in specs]
        for spec in specs:
            if spec.health is not None:
                check_health(spec.health, str(spec.agent))
        timeout_ns = net.config.register_ms_max * MS if timeout is None else engine.nanoseconds(timeout)
        if not made:
            return []  # with no version of its own it would end like another registration that waits

        def begin(token: Any) -> None:
            net.control.catalogue.register(made, token, timeout_ns)

        try:
            await net.wait_settled(begin)
        finally:
            for agent, spec in zip(made, specs, strict=True):
                if spec.health is not None and engine.ports.get(agent.agent_id) is agent:
                    net.health_checks.start(agent, spec.health)
        return made

    async def register_late(self, spec: AgentSpec) -> None:
        """Register an agent that was declared after the join."""
        try:
            await self.register([spec], None)
        except NetworkError as error:
            log.error("agent %s was not registered: %s", spec.agent, error)
            name = spec.agent if isinstance(spec.agent, str) else None
            agent_id, node_id = agent_id_of(spec.agent), self._net.node_id
            found = Event(Event.AGENT_CONFLICT, node_id, agent_id, name, str(error), error=error)
            self._net.engine.event(found)

    async def unregister(self, agent: Agent | int | str) -> None:
        """See `AgentNetworkManager.unregister_agent`."""
        agent_id = agent.agent_id if isinstance(agent, Agent) else agent_id_of(agent)
        port = self._net.engine.ports.get(agent_id)
        if port is None:
            label = agent.record.label if isinstance(agent, Agent) else agent
            raise NoSuchAgent(f"no agent {label!r} is registered on node {self._net.node_id!r}")
        self._net.control.catalogue.unregister([port])
        if isinstance(port, Agent):
            await port.stop()
