"""Where a message goes: look-ups in a directory of ten thousand agents."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from agentnet_core.agent_record import AgentRecord
from agentnet_core.config import EngineConfig
from agentnet_core.directory import Directory
from agentnet_core.records import agent_id_of

AGENTS = 10_000


def record(number: int) -> AgentRecord:
    name = f"agent-{number}"
    return AgentRecord(agent_id_of(name), "node", name, capabilities=(f"skill-{number % 100}",))


@pytest.fixture
def directory() -> Directory:
    directory = Directory("node", 1, EngineConfig())
    directory.register(record(number) for number in range(AGENTS))
    return directory


def test_by_id(benchmark: BenchmarkFixture, directory: Directory) -> None:
    assert benchmark(directory.get, agent_id_of("agent-5000")) is not None


def test_by_name(benchmark: BenchmarkFixture, directory: Directory) -> None:
    assert benchmark(directory.get, "agent-5000") is not None


def test_by_capability(benchmark: BenchmarkFixture, directory: Directory) -> None:
    assert len(benchmark(directory.find, "skill-7")) == AGENTS // 100


def test_id_of_a_name(benchmark: BenchmarkFixture) -> None:
    benchmark(agent_id_of, "agent-5000")
