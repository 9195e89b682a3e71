"""A worker of the demo: one process, one node, several agents that count words.

Started by the fleet with its node id, the address to join and how many agents to have. It prints one
line of JSON when its agents are known, and leaves when its standard input ends: so it outlives neither
the demo that started it nor that demo's being killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import threading
import time

from agentnet import Agent, AgentMessage, AgentNetworkManager, AgentSpec, MessageType, NetworkConfig, run
from agentnet.demo.words import NotText, Tally, count

CAPABILITY = "index"
NETWORK = "demo"
LEAVE_S = 5.0
"""How long a worker may take to leave; then it ends all the same."""


class Indexer:
    """An agent that answers with the words of the piece that it is sent.

    An empty piece gets an empty answer; a broadcast makes it tell its sender what it did so far.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.agent: Agent | None = None
        self._messages = 0
        self._busy_ns = 0

    async def handle(self, message: AgentMessage) -> Tally | str | bytes:
        self._messages += 1
        if message.message_type == MessageType.BROADCAST and self.agent is not None:
            await self.agent.send(message.from_agent, [self._messages, self._busy_ns])
        if message.message_type != MessageType.QUERY or not message.payload:
            return b""
        started = time.perf_counter_ns()
        try:
            return count(message.payload)
        except NotText as problem:
            return str(problem)
        finally:
            self._busy_ns += time.perf_counter_ns() - started


async def serve(node_id: str, coordinator: str, agents: int) -> None:
    """Be a node of the demo's network until standard input ends."""
    ended = asyncio.Event()
    _watch_stdin(asyncio.get_running_loop(), ended)
    async with AgentNetworkManager(node_id, NetworkConfig(network=NETWORK)) as net:
        await net.join_network([coordinator])
        indexers = [Indexer(f"{node_id}.{number}") for number in range(1, agents + 1)]
        specs = [
            AgentSpec(agent=indexer.name, capabilities=(CAPABILITY,), handler=indexer.handle)
            for indexer in indexers
        ]
        for indexer, agent in zip(indexers, await net.register_agents(specs), strict=True):
            indexer.agent = agent
        print(json.dumps({"ready": node_id}), flush=True)
        await ended.wait()


def _watch_stdin(loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
    """Set ``ended`` when standard input ends; end the process if that is not heeded."""

    def watch() -> None:
        # Not sys.stdin: its lock, held by a daemon thread, would stop the interpreter from ending.
        while os.read(0, 1024):
            pass
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            loop.call_soon_threadsafe(ended.set)
        time.sleep(LEAVE_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    node_id, coordinator, agents = sys.argv[1:]
    run(serve(node_id, coordinator, int(agents)))
