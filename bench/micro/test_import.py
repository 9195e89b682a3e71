"""How long a program waits for ``import agentnet``, beside an interpreter that imports nothing.

It should be at most 100 ms more; its name in the table says so.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
from pytest_benchmark.fixture import BenchmarkFixture


@pytest.mark.parametrize(
    "program",
    [
        *("pass", "import asyncio"),
        pytest.param("import agentnet", id="import agentnet, at most 100 ms above pass"),
    ],
)
def test_start(benchmark: BenchmarkFixture, program: str) -> None:
    benchmark.pedantic(
        subprocess.run, ([sys.executable, "-c", program],), {"check": True}, rounds=10, warmup_rounds=1
    )
