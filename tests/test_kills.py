"""Durable messages through SIGKILL of either side: none lost, none out of order. See `kills` for many."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from harm import lacking_strace
from kills import run


@pytest.fixture(scope="module")
def strace() -> None:
    """Where it cannot be had the test is skipped by name, but not where CI is set."""
    why = lacking_strace()
    if why and "CI" in os.environ:
        pytest.fail(why)
    if why:
        pytest.skip(why)


@pytest.mark.parametrize("once", [False, True])
def test_kills_lose_nothing(tmp_path: Path, once: bool) -> None:
    told = run({"kill": 5, "cut": 3}, tmp_path, once=once)
    assert told["sender_killed"] + told["receiver_killed"] == 5
    assert told["kept"] > 100
    assert told["handled"] >= told["kept"]


@pytest.mark.usefixtures("strace")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("once", [False, True])
def test_full_disks_and_disks_that_fail_lose_nothing(tmp_path: Path, once: bool) -> None:
    told = run({"kill": 2, "full": 2, "fail": 2}, tmp_path, once=once)
    assert (told["full"], told["fail"]) == (2, 2)
    assert told["kept"] > 100
    assert told["handled"] >= told["kept"]
