"""The pytest plugin: the fixture `network`, its marker and options, and who runs the tests that use it.

An async test that uses `network`, or a fixture that does, runs on the event loop of that network, and so
do async fixtures that use it; all other tests are left alone.  Nothing of agentnet is imported until a
test asks for the fixture.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from agentnet.testing.base import Network

FIXTURE = "network"
MADE: pytest.StashKey[Network] = pytest.StashKey()
"""Of an item: its network."""
MARKER = (
    "agentnet(seed=0, seeds=1, real=False, weather=None, turns_max=None): of a test that uses `network`: "
    "which seed it plays, or how many from there; on real loopback instead of virtual time; what happens to "
    "bytes (an agentnet.testing.Weather); turns of the event loop that it may wait"
)
SETTINGS = {"seed": 0, "seeds": 1, "real": False, "weather": None, "turns_max": None}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("agentnet")
    group.addoption("--agentnet-seed", type=int, metavar="N", help="seed of every test that uses `network`")
    group.addoption(
        "--agentnet-seeds", type=int, metavar="N", help="play each such test N times, from as many seeds"
    )
    group.addoption(
        "--agentnet-real",
        action="store_true",
        help="real loopback sockets in place of virtual time, but for tests marked real=False",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)


def settings_of(node: pytest.Item | pytest.FixtureRequest, config: pytest.Config) -> dict[str, Any]:
    """What marker and options say; the options count for more."""
    item: Any = getattr(node, "node", node)
    marker = item.get_closest_marker("agentnet")
    said = dict(marker.kwargs) if marker is not None else {}
    unknown = [name for name in said if name not in SETTINGS]
    if unknown or (marker is not None and marker.args):
        pytest.fail(f"mark.agentnet: expected {', '.join(SETTINGS)} by name, got {marker}", pytrace=False)
    if config.getoption("--agentnet-real"):
        said.setdefault("real", True)
    for name in ("seed", "seeds"):
        given = config.getoption(f"--agentnet-{name}")
        if given is not None:
            said[name] = given
    settings = {**SETTINGS, **said}
    if config.getoption("--agentnet-seed") is not None and config.getoption("--agentnet-seeds") is None:
        settings["seeds"] = 1  # to play one history again
    return settings


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "agentnet_seed" in metafunc.fixturenames:
        settings = settings_of(metafunc.definition, metafunc.config)
        first, count = settings["seed"], settings["seeds"]
        if count > 1:
            seeds = range(first, first + count)
            metafunc.parametrize("agentnet_seed", seeds, ids=[f"seed{seed}" for seed in seeds])


@pytest.fixture
def agentnet_seed(request: pytest.FixtureRequest) -> int:
    """The seed of this test."""
    seed: int = settings_of(request, request.config)["seed"]
    return seed


@pytest.fixture
def network(request: pytest.FixtureRequest, agentnet_seed: int) -> Iterator[Network]:
    """An `agentnet.testing.Network` of this test's own; all of it ends with the test."""
    settings = settings_of(request, request.config)
    made = request.node.stash[MADE] = _make(settings, agentnet_seed)
    try:
        yield made
    finally:
        made.close()


def _make(settings: dict[str, Any], seed: int) -> Network:
    if settings["real"]:
        from agentnet.testing.real import RealNetwork

        return RealNetwork(seed, settings["weather"])
    from agentnet.testing.virtual import VirtualNetwork

    virtual = VirtualNetwork(seed, settings["weather"])
    if settings["turns_max"] is not None:
        virtual.loop.turns_max = settings["turns_max"]
    return virtual


# -- who runs what


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_pycollect_makeitem(collector: Any, name: str, obj: object) -> Generator[None, Any, Any]:
    # The innermost wrapper: other plugins that run async tests then see a plain function.
    made = yield
    for item in made if isinstance(made, list) else [made]:
        if (
            isinstance(item, pytest.Function)
            and inspect.iscoroutinefunction(item.obj)
            and _uses_network(item._fixtureinfo.name2fixturedefs.get(FIXTURE, ()))
        ):
            item.obj = _on_network(item, item.obj)
    return made


def _uses_network(definitions: Sequence[pytest.FixtureDef[Any]]) -> bool:
    """Whether it is this plugin's, or one built on it; others may have a fixture of that name, too."""
    for definition in reversed(definitions):
        if definition.func.__module__ == __name__:
            return True
        if FIXTURE not in definition.argnames:
            return False
    return False


def _on_network(item: pytest.Function, test: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return item.stash[MADE].run(test(*args, **kwargs))

    return run


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, Any, Any]:
    function = fixturedef.func
    is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
    if not is_async or request.scope != "function" or not _reaches_network(fixturedef, request):
        return (yield)
    request.getfixturevalue(FIXTURE)
    made = request.node.stash.get(MADE, None)
    if made is None:
        return (yield)
    instance = request.instance
    if inspect.ismethod(function) and isinstance(instance, type(function.__self__)):
        function = function.__func__.__get__(instance)  # of the instance of this test
    wrapped, fixturedef.func = fixturedef.func, _fixture_on_network(function, made, request)  # type: ignore[misc]
    try:
        return (yield)
    finally:
        fixturedef.func = wrapped  # type: ignore[misc]


def _reaches_network(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> bool:
    """Whether it asks for the network, or for a fixture that does."""
    found: Any = getattr(request.node, "_fixtureinfo", None)
    definitions = found.name2fixturedefs if found is not None else {}
    names, seen = [*fixturedef.argnames], {fixturedef.argname}
    while names:
        name = names.pop()
        if name == FIXTURE:
            return True
        if name in definitions and name not in seen:
            seen.add(name)
            names += definitions[name][-1].argnames
    return False


def _fixture_on_network(
    function: Callable[..., Any], found: Network, request: pytest.FixtureRequest
) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        if inspect.iscoroutinefunction(function):
            return found.run(function(*args, **kwargs))
        steps = function(*args, **kwargs)

        async def finish() -> None:
            async for _ in steps:
                raise ValueError(f"fixture {function.__name__} yields more than once")

        value = found.run(anext(steps))
        request.addfinalizer(lambda: found.run(finish()))
        return value

    # Of an async function, the wrapper would be taken for one by whoever looks at what it wraps.
    del run.__wrapped__
    return run


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    found = item.stash.get(MADE, None)
    if report.failed and found is not None:
        again = f"play it again: --agentnet-seed {found.seed}"
        report.sections.append(("agentnet", f"{found.report()}\n{again}"))
    return report
