"""Nodes that come, go and are cut off, in processes of their own: see `moving_processes` for many."""

from __future__ import annotations

from pathlib import Path

import pytest
from moving_processes import AT_LEAST, Uproar


@pytest.mark.timeout(240)
def test_what_a_quorum_acknowledged_is_read_and_stays(tmp_path: Path) -> None:
    told = Uproar(tmp_path, seed=1).play(7)
    assert told["killed"] + told["left"] >= 1
    assert told["came"] + told["came again"] >= 2
    assert told["cut"] >= 1
    assert told["parted"] == 1
    assert told["acknowledged"] >= AT_LEAST
    assert told["read"] >= AT_LEAST
