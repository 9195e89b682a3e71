"""One AgentMessage to bytes and back, beside msgspec on the same fields."""

from __future__ import annotations

import msgspec
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from agentnet_core.message import AgentMessage
from bench.codec import Record, message, records

SIZES = (64, 1024, 16 * 1024)


@pytest.mark.parametrize("size", SIZES)
def test_encode(benchmark: BenchmarkFixture, size: int) -> None:
    benchmark(message(records(size)[0]).encode)


@pytest.mark.parametrize("size", SIZES)
def test_decode(benchmark: BenchmarkFixture, size: int) -> None:
    benchmark(AgentMessage.decode, message(records(size)[0]).encode())


@pytest.mark.parametrize("size", SIZES)
def test_msgspec_encode(benchmark: BenchmarkFixture, size: int) -> None:
    benchmark(msgspec.msgpack.Encoder().encode, records(size)[0])


@pytest.mark.parametrize("size", SIZES)
def test_msgspec_decode(benchmark: BenchmarkFixture, size: int) -> None:
    benchmark(msgspec.msgpack.Decoder(Record).decode, msgspec.msgpack.encode(records(size)[0]))
