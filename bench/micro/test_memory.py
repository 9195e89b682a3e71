"""What an agent holds in the core: its record in the directory, its mailbox. Bytes are in extra_info."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from agentnet_core.agent_record import AgentRecord
from agentnet_core.config import EngineConfig
from agentnet_core.directory import Directory
from agentnet_core.mailbox import Mailbox
from agentnet_core.message import AgentMessage

AGENTS = 10_000


def directory_of_many() -> Directory:
    directory = Directory("node", 1, EngineConfig())
    directory.register([AgentRecord(number, "node") for number in range(1, AGENTS + 1)])
    return directory


def empty_mailboxes() -> list[Mailbox]:
    return [Mailbox(1024, 1 << 20) for _ in range(AGENTS)]


def messages() -> list[AgentMessage]:
    return [AgentMessage(bytes(64), to_agent=1) for _ in range(AGENTS)]


@pytest.mark.parametrize("make", [directory_of_many, empty_mailboxes, messages])
def test_made(benchmark: BenchmarkFixture, make: Callable[[], object]) -> None:
    tracemalloc.start()
    kept = make()
    benchmark.extra_info["bytes_each"] = round(tracemalloc.get_traced_memory()[0] / AGENTS, 1)
    tracemalloc.stop()
    del kept
    benchmark(make)
