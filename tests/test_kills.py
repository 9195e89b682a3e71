"""Durable messages through SIGKILL of either side: none lost, none out of order. See `kills` for many."""

from __future__ import annotations

from pathlib import Path

from kills import free_ports, run


def test_kills_lose_nothing(tmp_path: Path) -> None:
    told = run(5, tmp_path, free_ports())
    assert told["kept"] > 100
    assert told["handled"] >= told["kept"]
