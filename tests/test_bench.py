"""The benchmark's own machinery: pairs and ratios, processes that end with their run, one small real run.

Nothing here is timed.
"""

from __future__ import annotations

import psutil
import pytest
from click.testing import CliRunner

from bench.__main__ import main
from bench.processes import Fleet, RunFailed, free_port
from bench.run import Board, play
from bench.scenes import Sample, Scale, oneway, requests_in_flight, requests_one_by_one
from bench.systems import System
from bench.worker import Task
from bench.works import GROUPS, Figure, Match, Scene

RATE = Figure("rate", "msg/s", "higher")
DELAY = Figure("delay", "us", "lower")
STREAMS = System("asyncio", "bench.peers.streams", {"oneway": 1000, "request": 1000, "flight": 1000})


def sample(rate: float, delay: float = 1.0, cores: float = 0.0) -> Sample:
    return Sample({"rate": rate, "delay": delay}, 10, cores)


def scene(*matches: Match) -> Scene:
    return Scene((RATE,), matches)


def played(scene: Scene) -> tuple[dict[str, list[float]], list[str], list[str]]:
    outcome = play(scene, Scale(quick=False), pairs=1, begin=lambda _: None)
    return {result.system: result.values for result in outcome.results}, outcome.failures, outcome.skipped


def test_ratios_are_taken_pair_by_pair_in_the_direction_that_is_better() -> None:
    board = Board(Scene((RATE, DELAY), ()))
    for ours, theirs in ((6, 2), (8, 2), (4, 4)):
        board.add(sample(ours, delay=ours), "peer", sample(theirs, delay=theirs))
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


def test_a_busy_peer_is_also_driven_from_two_processes() -> None:
    doubled = Match("busy-2p", lambda _: (sample(4), sample(3)))
    values, _, _ = played(
        scene(
            Match("busy", lambda _: (sample(4), sample(2, cores=0.9)), doubled),
            Match("calm", lambda _: (sample(4), sample(1, cores=0.1)), doubled),
        )
    )
    assert values == {"agentnet": [4, 4, 4], "busy": [2], "busy-2p": [3], "calm": [1]}


def test_a_peer_that_fails_or_is_missing_is_told_and_the_others_go_on() -> None:
    def fail(_: Scale) -> tuple[Sample, Sample]:
        raise RunFailed("bench.peers.frail.send", "ended early")

    values, failures, skipped = played(
        scene(
            Match("frail", fail),
            Match("absent", fail, missing="absent-server"),
            Match("sound", lambda _: (sample(4), sample(2))),
        )
    )
    assert values == {"agentnet": [4], "sound": [2]}
    assert failures == ["bench.peers.frail.send: ended early"]
    assert skipped == ["absent is not here: install absent-server"]


def test_a_failure_of_ours_ends_the_scene() -> None:
    def fail(_: Scale) -> tuple[Sample, Sample]:
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


@pytest.mark.parametrize("lanes", [1, 2])
def test_one_way_run(lanes: int) -> None:
    assert oneway(STREAMS, Scale(quick=True), "work", lanes=lanes).values["work"] > 0


def test_request_runs() -> None:
    latency = requests_one_by_one(STREAMS, Scale(quick=True), "p50", "p99").values
    assert 0 < latency["p50"] <= latency["p99"]
    assert requests_in_flight(STREAMS, Scale(quick=True), "work", flight=4).values["work"] > 0


def test_work_names_are_unique_and_an_unknown_one_is_told() -> None:
    works = [figure.work for scenes in GROUPS.values() for scene in scenes for figure in scene.figures]
    assert len(works) == len(set(works))
    outcome = CliRunner().invoke(main, ["--work", "no-such-work"])
    assert outcome.exit_code == 2
    assert "oneway-64" in outcome.output
