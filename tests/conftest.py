"""What every test shares: the event loops that tests run on.

An async test runs on uvloop, as nodes do, or on asyncio's own loop where there is no uvloop. One that
must hold on both says so:

    @pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])

and where there is no uvloop, that half is reported as skipped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

try:
    import uvloop
except ImportError:
    uvloop = None

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, LoopFactory]:
    factories: dict[str, LoopFactory] = {"asyncio": asyncio.new_event_loop}
    if uvloop is not None:
        factories["uvloop"] = uvloop.new_event_loop
    marker = item.get_closest_marker("asyncio")
    if marker is not None and "loop_factories" in marker.kwargs:
        return factories
    usual = "uvloop" if "uvloop" in factories else "asyncio"
    return {usual: factories[usual]}
