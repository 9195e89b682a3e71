"""The benchmark's own machinery: pairs and ratios, processes that end with their run, small real runs.

Nothing here is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import psutil
import pytest
from click.testing import CliRunner

from bench import works
from bench.__main__ import main
from bench.processes import Fleet, RunFailed, free_port
from bench.run import Board, play
from bench.scenes import Sample, Samples, Scale, oneway, requests_in_flight, requests_one_by_one
from bench.systems import AGENTNET, PEERS
from bench.worker import Task
from bench.works import GROUPS, Figure, Match, Scene

RATE = Figure("rate", "msg/s", "higher")
DELAY = Figure("delay", "us", "lower")
FEW = {"oneway": 1000, "fanout": 1000, "request": 1000, "flight": 1000}
SMALL = {system.name: replace(system, pace=FEW) for system in (AGENTNET, *PEERS.values())}
STREAMS = SMALL["asyncio"]
OWN = {
    scene.figures[0].work: scene
    for scenes in GROUPS.values()
    for scene in scenes
    if scene.matches[0].name == AGENTNET.name
}


def sample(rate: float, delay: float = 1.0, cores: float = 0.0) -> Sample:
    return Sample({"rate": rate, "delay": delay}, 10, cores)


class Least(Scale):
    """As little as every scene of our own takes."""

    def pick(self, full: int, quick: int) -> int:
        return max(1, quick // 5)


def beside(peer: str, ours: Sample, theirs: Sample) -> Callable[[Scale], Samples]:
    return lambda _: {"agentnet": ours, peer: theirs}


def scene(*matches: Match) -> Scene:
    return Scene((RATE,), matches)


def played(scene: Scene) -> tuple[dict[str, list[float]], list[str], list[str]]:
    outcome = play(scene, Scale(quick=False), pairs=1)
    return {result.system: result.values for result in outcome.results}, outcome.failures, outcome.skipped


def test_ratios_are_taken_pair_by_pair_in_the_direction_that_is_better() -> None:
    board = Board(Scene((RATE, DELAY), ()))
    for ours, theirs in ((6, 2), (8, 2), (4, 4)):
        board.add({"agentnet": sample(ours, delay=ours), "peer": sample(theirs, delay=theirs)})
    results = {(result.figure.work, result.system): result for result in board.results}
    assert results["rate", "agentnet"].ratio is None
    assert results["rate", "peer"].ratios == [3, 4, 1]
    assert results["rate", "peer"].ratio == 3
    assert results["delay", "peer"].ratio == pytest.approx(1 / 3)
    assert results["rate", "agentnet"].row() == {
        "work": "rate",
        "system": "agentnet",
        "value": 6,
        "unit": "msg/s",
        "better": "higher",
        "n": 10,
    }


def test_one_run_may_bring_several_baselines_each_with_its_ratio() -> None:
    board = Board(Scene((RATE, DELAY), ()))
    only_delay = Sample({"delay": 2.0}, 5)
    board.add({"agentnet": sample(6, delay=8), "idle": only_delay, "busy": sample(3, delay=16)})
    found = {(result.figure.work, result.system): (result.ratio, result.n) for result in board.results}
    assert found == {
        ("rate", "agentnet"): (None, 10),
        ("rate", "busy"): (2, 10),
        ("delay", "agentnet"): (None, 10),
        ("delay", "idle"): (0.25, 5),
        ("delay", "busy"): (2, 10),
    }


def test_every_run_is_told_and_how_far_it_is() -> None:
    told: list[str] = []

    def half(scale: Scale) -> Samples:
        scale.tell("half")
        return {"agentnet": sample(1)}

    play(scene(Match("peer", half)), Scale(quick=True, tell=told.append), pairs=2)
    assert told == ["peer, 1 of 2", "peer, 1 of 2: half", "peer, 2 of 2", "peer, 2 of 2: half"]


def test_a_busy_peer_is_also_driven_from_two_processes() -> None:
    doubled = Match("busy-2p", beside("busy-2p", sample(4), sample(3)))
    values, _, _ = played(
        scene(
            Match("busy", beside("busy", sample(4), sample(2, cores=0.9)), doubled),
            Match("calm", beside("calm", sample(4), sample(1, cores=0.1)), doubled),
        )
    )
    assert values == {"agentnet": [4, 4, 4], "busy": [2], "busy-2p": [3], "calm": [1]}


def test_a_peer_that_fails_or_is_missing_is_told_and_the_others_go_on() -> None:
    def fail(_: Scale) -> Samples:
        raise RunFailed("bench.peers.frail.send", "ended early")

    values, failures, skipped = played(
        scene(
            Match("frail", fail),
            Match("absent", fail, missing="absent-server"),
            Match("sound", beside("sound", sample(4), sample(2))),
        )
    )
    assert values == {"agentnet": [4], "sound": [2]}
    assert failures == ["bench.peers.frail.send: ended early"]
    assert skipped == ["absent is not here: install absent-server"]


def test_a_failure_of_ours_ends_the_scene() -> None:
    def fail(_: Scale) -> Samples:
        raise RunFailed("bench.agentnet_messages.send", "ended early")

    values, failures, _ = played(scene(Match("first", fail), Match("second", fail)))
    assert not values
    assert len(failures) == 1


def test_a_process_that_dies_is_quoted_and_all_are_stopped() -> None:
    before = {child.pid for child in psutil.Process().children()}
    with Fleet() as fleet, pytest.raises(RunFailed, match=r"streams\.send.*ConnectionRefusedError"):
        fleet.spawn("bench.peers.streams", "receive", Task(port=free_port()))
        fleet.spawn("bench.peers.streams", "send", Task(port=free_port()))
    assert {child.pid for child in psutil.Process().children()} <= before


def test_one_way_run_of_two_lanes() -> None:
    assert oneway(STREAMS, Scale(quick=True), "work", lanes=2).values["work"] > 0


@pytest.mark.parametrize("system", ["agentnet", "asyncio"])
def test_request_runs(system: str) -> None:
    latency = requests_one_by_one(SMALL[system], Scale(quick=True), "p50", "p99").values
    assert 0 < latency["p50"] <= latency["p99"]
    assert requests_in_flight(SMALL[system], Scale(quick=True), "work", flight=4).values["work"] > 0


def test_fanout_run() -> None:
    run = oneway(SMALL["agentnet"], Scale(quick=True), "work", kind="fanout", sinks=4, receivers=2)
    assert run.values["work"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_runs(peer: str) -> None:
    missing = PEERS[peer].missing()
    if missing is not None:
        pytest.skip(f"{peer} is not here: install {missing}")
    assert oneway(SMALL[peer], Scale(quick=True), "oneway-64").values["oneway-64"] > 0


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("work", [work for work in OWN if work != "network-100-kill-p99"])  # as that of 20
def test_a_scene_of_our_own_runs(work: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(works, "AGENTNET", SMALL["agentnet"])
    outcome = play(OWN[work], Least(quick=True), pairs=1)
    assert not outcome.failures
    found = {result.figure.work for result in outcome.results if result.system == AGENTNET.name}
    assert found == {figure.work for figure in OWN[work].figures}


def test_work_names_are_unique_and_an_unknown_one_is_told() -> None:
    names = [figure.work for scenes in GROUPS.values() for scene in scenes for figure in scene.figures]
    assert len(names) == len(set(names))
    outcome = CliRunner().invoke(main, ["--work", "no-such-work"])
    assert outcome.exit_code == 2
    assert "oneway-64" in outcome.output
