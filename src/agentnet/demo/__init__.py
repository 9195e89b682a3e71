"""The demo: worker processes on loopback whose agents count the words of files together.

In: paths, how many nodes and agents. Out: a Summary. Workers that die are told of and made up for; all
of them are gone when it returns, raises or is cancelled. A NetworkError if none could start or is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from agentnet import AgentNetworkManager, NetworkConfig
from agentnet.demo.coordinator import AgentWork, Coordinator, FileCount, Pulse, Watch, take_pulse
from agentnet.demo.fleet import Fleet, Worker
from agentnet.demo.words import find_files, own_text
from agentnet.demo.worker import CAPABILITY, NETWORK
from agentnet_core.errors import ConfigError

__all__ = ["AgentWork", "FileCount", "Pulse", "Summary", "Watch", "run_demo"]


@dataclass(frozen=True)
class Summary:
    """What came of a demo. ``seconds`` and ``messages`` are those of the counting alone."""

    coordinator: Coordinator
    workers: Sequence[Worker]
    seconds: float
    messages: int
    pulse: Pulse | None

    @property
    def failed(self) -> bool:
        """Whether a file could not be counted though it might be text."""
        return any(file.failed for file in self.coordinator.files)


async def run_demo(paths: Sequence[Path], nodes: int, agents: int, watch: Watch) -> Summary:
    """Count the words of ``paths``, or of this project's own text, on ``nodes`` processes."""
    found = await asyncio.to_thread(lambda: find_files(paths or own_text()))
    if not found:
        raise ConfigError(f"there are no files in {', '.join(map(str, paths))}")

    def on_death(worker: Worker) -> None:
        watch.note(f"{worker.node_id} (pid {worker.pid}) {worker.fate}")

    async with (
        AgentNetworkManager("coordinator", NetworkConfig(network=NETWORK)) as net,
        Fleet(on_death) as fleet,
    ):
        await net.join_network()
        await fleet.start(nodes, agents, net.addresses[0])
        coordinator = Coordinator(net.agents(CAPABILITY), watch)
        me = await net.register_agent("coordinator", handler=coordinator.on_report, broadcasts=False)
        before, started = _messages(net), perf_counter()
        await coordinator.count(me, found)
        seconds, messages = perf_counter() - started, _messages(net) - before
        await coordinator.collect(net, me)
        pulse = await take_pulse(me, coordinator.living)
    return Summary(coordinator, fleet.workers, seconds, messages, pulse)


def _messages(net: AgentNetworkManager) -> int:
    stats = net.stats()
    return stats["messages_sent"] + stats["messages_received"]
