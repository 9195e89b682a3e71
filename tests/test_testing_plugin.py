"""The pytest plugin of agentnet.testing, in runs of pytest of its own: who runs what, seeds, reports."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import agentnet.testing.virtual  # noqa: F401 - else each run below would import it anew

pytest_plugins = ["pytester"]

NODES = """
    import asyncio
    import pytest

    async def test_nodes(network):
        a, b = await network.nodes("a", "b")
        await asyncio.sleep(60)
        assert network.clock.now > 60
"""
FAILING = """
    async def test_fails(network):
        await network.nodes("a")
        assert network.rng.random() == network.trace
"""
# An option that pytest-asyncio wants to be set.
STRICT = ("-o", "asyncio_mode=strict", "-o", "asyncio_default_fixture_loop_scope=function")
AUTO = ("-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function")
WITHOUT = ("-p", "no:asyncio", "-p", "no:randomly")


@pytest.fixture(autouse=True)
def no_collection_within() -> Iterator[None]:
    """What other tests left is collected before: CPython below 3.11.5 fails when a finalizer tells of an
    error, which parses source, while pytest parses source for its report (python/cpython#106905)."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def play(pytester: pytest.Pytester, text: str, *arguments: str) -> pytest.RunResult:
    pytester.makepyfile(text)
    # What is imported here already cannot be rewritten there; a pytest of its own would not have it.
    warnings = ("-W", "error", "-W", "ignore::pytest.PytestAssertRewriteWarning")
    return pytester.runpytest_inprocess(
        "-p", "agentnet.testing", "-p", "no:cacheprovider", *warnings, *arguments
    )


@pytest.mark.parametrize("plugins", [WITHOUT, STRICT, AUTO], ids=["alone", "strict", "auto"])
class TestBesideOthers:
    def test_an_async_test_of_the_fixture_runs(
        self, pytester: pytest.Pytester, plugins: tuple[str, ...]
    ) -> None:
        text = NODES + (
            """
    class TestClass:
        @pytest.fixture
        async def seven(self, network):
            self.number = 7

        async def test_its_fixtures_are_of_the_same_instance(self, seven):
            assert self.number == 7

        @pytest.mark.parametrize("name", ["x", "y"])
        async def test_parametrised(self, name, network):
            [net] = await network.nodes(name)
            assert net.node_id == name and isinstance(self, TestClass)

    def test_a_plain_function_may_use_it(network):
        assert network.run(asyncio.sleep(1, "done")) == "done"
    """
        )
        play(pytester, text, *plugins).assert_outcomes(passed=5)

    def test_async_fixtures_run_on_the_same_loop(
        self, pytester: pytest.Pytester, plugins: tuple[str, ...]
    ) -> None:
        text = """
    import asyncio
    import pytest

    @pytest.fixture
    async def pair(network):
        loop = asyncio.get_running_loop()
        yield await network.nodes("a", "b")
        assert asyncio.get_running_loop() is loop
        print(f"torn down at {network.clock.now // 1} s")

    @pytest.fixture
    async def name(pair):
        await asyncio.sleep(0)
        return "c"

    async def test_pair(pair, name):
        await asyncio.sleep(60)
        assert [net.node_id for net in pair] == ["a", "b"] and name == "c"
    """
        result = play(pytester, text, *plugins, "-s")
        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines("*torn down at 60.0 s")

    def test_a_fixture_of_that_name_may_be_anothers(
        self, pytester: pytest.Pytester, plugins: tuple[str, ...]
    ) -> None:
        text = """
    import pytest

    @pytest.fixture
    def network():
        return 7

    def test_mine(network):
        assert network == 7

    async def test_not_ours(network):
        assert network == 7
    """
        outcomes = play(pytester, text, *plugins).parseoutcomes()
        assert outcomes == ({"passed": 2} if plugins is AUTO else {"passed": 1, "failed": 1})

    def test_one_may_build_on_the_fixture(self, pytester: pytest.Pytester, plugins: tuple[str, ...]) -> None:
        text = """
    import pytest

    @pytest.fixture
    def network(network):
        network.run(network.nodes("a"))
        return network["a"]

    async def test_node(network):
        assert network.node_id == "a"
    """
        play(pytester, text, *plugins).assert_outcomes(passed=1)


class TestSeeds:
    def test_a_failure_tells_its_seed_and_how_to_play_it_again(self, pytester: pytest.Pytester) -> None:
        result = play(pytester, FAILING, *WITHOUT, "--agentnet-seed", "41")
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            ["*agentnet*", "seed 41, at 0.0* s of virtual time, trace *", "*--agentnet-seed 41"]
        )

    def test_the_same_seed_fails_the_same_way(self, pytester: pytest.Pytester) -> None:
        def told(*arguments: str) -> list[str]:
            lines = play(pytester, FAILING, *WITHOUT, *arguments).stdout.lines
            return [line for line in lines if line.startswith(("E       Assert", "seed "))]

        first, again, other = told(), told("--agentnet-seed=0"), told("--agentnet-seed=1")
        assert first == again
        assert first[0] != other[0]

    def test_many_seeds_are_many_tests(self, pytester: pytest.Pytester) -> None:
        text = """
    import pytest

    @pytest.mark.agentnet(seed=5, seeds=2)
    async def test_marked(network):
        assert network.seed in (5, 6)

    async def test_plain(network):
        assert network.seed == 0
    """
        play(pytester, text, *WITHOUT).assert_outcomes(passed=3)
        result = play(pytester, text, *WITHOUT, "--agentnet-seeds", "3", "-v", "-k", "marked")
        result.stdout.fnmatch_lines(["*test_marked?seed5?*", "*test_marked?seed6?*", "*test_marked?seed7?*"])
        result.assert_outcomes(passed=2, failed=1)
        play(pytester, text, *WITHOUT, "--agentnet-seed", "6", "-k", "marked").assert_outcomes(passed=1)

    def test_pytest_randomly_does_not_decide(self, pytester: pytest.Pytester) -> None:
        text = """
    import random

    async def test_draws(network):
        await network.nodes("a")
        print("drawn", random.random(), network.trace)
    """
        drawn = set()
        for seed in ("1", "2"):
            result = play(pytester, text, "-s", *STRICT, f"--randomly-seed={seed}")
            drawn |= {line.partition("drawn")[2] for line in result.stdout.lines if "drawn" in line}
        assert len(drawn) == 1


class TestSettings:
    def test_a_test_that_stalls_fails_where_it_waits(self, pytester: pytest.Pytester) -> None:
        text = """
    import asyncio

    async def test_waits(network):
        await network.nodes("a", "b")
        await asyncio.Event().wait()  # here
    """
        result = play(pytester, text, *WITHOUT)
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["> *wait()  # here", "*nothing has happened for 120 s*", "*the test*"])

    def test_what_the_marker_takes(self, pytester: pytest.Pytester) -> None:
        text = """
    import asyncio
    import pytest
    from agentnet.testing import Weather

    @pytest.mark.agentnet(weather=Weather(delay_ns=(10**9, 10**9)))
    async def test_weather(network):
        [a] = await network.nodes("a")
        began = network.clock.now
        await network.node("b")
        assert network.clock.now - began > 3

    @pytest.mark.agentnet(turns_max=50)
    async def test_turns(network):
        with pytest.raises(AssertionError):
            while True:
                await asyncio.sleep(0)
    """
        play(pytester, text, *WITHOUT).assert_outcomes(passed=1, failed=1)
        text = """
    import pytest

    @pytest.mark.agentnet(sead=1)
    async def test_misspelt(network):
        pass
    """
        result = play(pytester, text, *WITHOUT)
        assert "expected seed, seeds, real, weather, turns_max by name" in result.stdout.str()

    def test_real_time_by_option_and_by_marker(self, pytester: pytest.Pytester) -> None:
        text = """
    import asyncio
    import pytest
    from agentnet.testing import RealNetwork

    async def test_either(network):
        await network.nodes("a")

    @pytest.mark.agentnet(real=True)
    async def test_real(network):
        assert isinstance(network, RealNetwork)
        await network.nodes("a", "b")
        assert network.clock.now == 0

    @pytest.mark.agentnet(real=False)
    async def test_virtual(network):
        assert not isinstance(network, RealNetwork)
    """
        result = play(pytester, text, *WITHOUT, "--agentnet-real")
        result.assert_outcomes(passed=2, failed=1)
        result.stdout.fnmatch_lines("on real time, seed 0 of the relays")

    def test_fixtures_and_markers_are_listed(self, pytester: pytest.Pytester) -> None:
        result = play(pytester, "", *WITHOUT, "--markers")
        result.stdout.fnmatch_lines("@pytest.mark.agentnet(*")
        result = play(pytester, "", *WITHOUT, "--fixtures")
        result.stdout.fnmatch_lines(["network*", "*all of it ends with the test*"])


def test_nothing_of_agentnet_is_loaded_without_need() -> None:
    code = "import agentnet.testing, sys; print(*(name for name in sys.modules if 'agentnet' in name))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"agentnet", "agentnet.testing", "agentnet.testing.plugin"}


@pytest.mark.checkout
@pytest.mark.parametrize("arguments", [(), ("-p", "agentnet.testing")], ids=["found", "found and named"])
def test_it_is_found_where_it_is_installed(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
    [(name, value)] = project["project"]["entry-points"]["pytest11"].items()
    installed = pytester.mkdir("site") / "installed-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: installed\nVersion: 1\n")
    (installed / "entry_points.txt").write_text(f"[pytest11]\n{name} = {value}\n")
    pytester.makepyfile(NODES)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(installed.parent), *sys.path]))
    result = pytester.runpytest_subprocess("-W", "error", "-p", "no:cacheprovider", *WITHOUT, *arguments)
    result.assert_outcomes(passed=1)
