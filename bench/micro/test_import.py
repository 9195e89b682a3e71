"""How long a program waits for ``import agentnet``, beside an interpreter that imports nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pytest_benchmark.fixture import BenchmarkFixture


@pytest.mark.parametrize("program", ["pass", "import asyncio", "import agentnet"])
def test_start(benchmark: BenchmarkFixture, program: str) -> None:
    benchmark.pedantic(
        subprocess.run, ([sys.executable, "-c", program],), {"check": True}, rounds=10, warmup_rounds=1
    )
