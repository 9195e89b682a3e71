"""What every test shares: the event loops that tests run on, and a cluster of nodes.

An async test runs on uvloop, as nodes do, or on asyncio's own loop where there is no uvloop. One that
must hold on both says so:

    @pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])

and where there is no uvloop, that half is reported as skipped.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

try:
    import uvloop
except ImportError:
    uvloop = None

if TYPE_CHECKING:
    from certificates import Authority
    from networks import Certificates, Cluster

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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    usual = float(config.getini("timeout"))
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            marker = item.get_closest_marker("timeout")
            item.obj = ends(item, marker.args[0] if marker is not None else usual)


def ends(item: pytest.Function, seconds: float) -> Callable[..., Awaitable[None]]:
    """The test, cancelled where it stands after so long: an alarm does not get through to an idle uvloop,
    and one that does is lost in a callback."""
    test = item.obj

    @wraps(test)
    async def run(*arguments: Any, **fixtures: Any) -> None:
        if type(asyncio.get_running_loop()).__module__.startswith("agentnet."):
            await test(*arguments, **fixtures)  # its time is not ours
            return
        cancel_alarm = getattr(item, "cancel_timeout", None)
        if cancel_alarm is not None:
            cancel_alarm()
        async with asyncio.timeout(seconds):
            await test(*arguments, **fixtures)

    return run


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Certificates]:
    """One authority for all tests, made when the first asks."""
    from networks import Certificates

    folder: Path = tmp_path_factory.mktemp("certificates")
    return cache(lambda: Certificates(folder))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    from certificates import Authority

    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Another authority, which nobody trusts."""
    from certificates import Authority

    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


@pytest.fixture
def scheme() -> str:
    """Of the links in `cluster`; a test that must hold on several is parametrised by this name."""
    return "tcp"


@pytest.fixture
async def cluster(scheme: str, certificates: Callable[[], Certificates]) -> AsyncIterator[Cluster]:
    """Makes nodes on this test's event loop; at the end they leave, and must leave nothing."""
    from networks import Cluster

    made = Cluster(scheme, certificates)
    yield made
    await made.close()


# A shared machine may take long over any single example: no test here is about time.
settings.register_profile("agentnet", deadline=None)
settings.load_profile("agentnet")
