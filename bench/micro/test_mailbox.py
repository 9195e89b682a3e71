"""A hundred messages into a mailbox and out again."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from agentnet_core.config import EngineConfig
from agentnet_core.mailbox import Mailbox
from agentnet_core.message import AgentMessage
from agentnet_core.records import MessagePriority

MESSAGES = 100


@pytest.mark.parametrize(
    "priorities", [(MessagePriority.NORMAL,), tuple(MessagePriority)], ids=["one", "all"]
)
def test_put_and_pop(benchmark: BenchmarkFixture, priorities: tuple[MessagePriority, ...]) -> None:
    config = EngineConfig()
    mailbox = Mailbox(config.mailbox_messages_max, config.mailbox_bytes_max)
    messages = [
        AgentMessage(bytes(64), to_agent=1, priority=priorities[number % len(priorities)])
        for number in range(MESSAGES)
    ]

    def pass_through() -> None:
        for message in messages:
            mailbox.put(message)
        while mailbox.pop() is not None:
            pass

    benchmark(pass_through)
