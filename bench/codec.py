"""AgentMessage's codec beside msgspec's, on the same fields, in one process, round about.

Each side goes over a thousand different messages, so that neither lives from what it kept of the last.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from time import perf_counter_ns
from typing import Any
from uuid import UUID

import msgspec

from agentnet_core.message import AgentMessage
from agentnet_core.records import MessagePriority, MessageType
from bench.worker import Bench

MESSAGES = 1_000
ROUNDS_A_PHASE = 5


class Record(msgspec.Struct, array_like=True):
    """The fields of an AgentMessage."""

    message_id: str
    from_agent: int
    to_agent: int | None
    message_type: int
    payload: bytes
    timestamp: int
    ttl: int
    priority: int


def records(size: int) -> list[Record]:
    return [
        Record(
            message_id=str(UUID(int=number << 64 | number)),
            from_agent=123_456_789_000 + number,
            to_agent=987_654_321_000 + number,
            message_type=MessageType.COMMAND,
            payload=number.to_bytes(8) * (size // 8),
            timestamp=1_732_233_600_000_000_000 + number,
            ttl=30,
            priority=MessagePriority.NORMAL,
        )
        for number in range(MESSAGES)
    ]


def message(record: Record) -> AgentMessage:
    return AgentMessage(
        record.payload,
        to_agent=record.to_agent,
        from_agent=record.from_agent,
        message_type=record.message_type,
        priority=record.priority,
        ttl=record.ttl,
        message_id=record.message_id,
        timestamp=record.timestamp,
    )


def read(item: Any) -> None:
    """Every field, as a handler that needs them all would."""
    _ = item.message_id, item.from_agent, item.to_agent, item.message_type
    _ = item.payload, item.timestamp, item.ttl, item.priority


def sides(size: int) -> dict[str, dict[str, Callable[[], None]]]:
    """What is timed, by work and system: one pass over all messages."""
    theirs = records(size)
    ours = [message(record) for record in theirs]
    encode, decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(Record).decode
    their_bytes, our_bytes = [encode(record) for record in theirs], [each.encode() for each in ours]

    def encode_ours() -> None:
        for each in ours:
            each.encode()

    def encode_theirs() -> None:
        for each in theirs:
            encode(each)

    return {
        "codec-encode": {"agentnet": encode_ours, "msgspec": encode_theirs},
        "codec-decode": {
            "agentnet": lambda: over(AgentMessage.decode, our_bytes),
            "msgspec": lambda: over(decode, their_bytes),
        },
        "codec-decode-read": {
            "agentnet": lambda: over(lambda data: read(AgentMessage.decode(data)), our_bytes),
            "msgspec": lambda: over(lambda data: read(decode(data)), their_bytes),
        },
    }


def over(function: Callable[[bytes], object], items: Iterable[bytes]) -> None:
    for item in items:
        function(item)


def race(bench: Bench) -> None:
    """Nanoseconds a message; each phase is that many passes of each side, in rounds that take turns."""
    works = sides(bench.task.size)
    for passes in bench.phases():
        rounds: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for _ in range(ROUNDS_A_PHASE):
            for work, systems in works.items():
                for system, one_pass in systems.items():
                    start = perf_counter_ns()
                    for _ in range(passes):
                        one_pass()
                    rounds[work][system].append((perf_counter_ns() - start) / passes / MESSAGES)
        bench.tell("raced", rounds=rounds)
