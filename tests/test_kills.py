"""Durable messages through SIGKILL of either side: none lost, none out of order. See `kills` for many."""

from __future__ import annotations

from pathlib import Path

import pytest
from kills import free_ports, run


@pytest.mark.parametrize("once", [False, True])
def test_kills_lose_nothing(tmp_path: Path, once: bool) -> None:
    told = run(5, tmp_path, free_ports(), once=once)
    assert told["kept"] > 100
    assert told["handled"] >= told["kept"]
