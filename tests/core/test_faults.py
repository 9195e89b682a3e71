"""Networks in bad weather, seeded: bytes that are lost, swapped, repeated, damaged, links that are cut.

`storms` has what agents do meanwhile, and all that must hold. A failure tells its seed, which is all
that it takes to see it again.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from harness import MS, UUID, Weather, World
from storms import history, ride_out
from strangers import Stranger

from agentnet_core.config import EngineConfig
from agentnet_core.errors import LinkLost
from agentnet_core.records import Event

SEEDS = 6
"""For each weather, and other ones for each."""
WEATHERS = {
    "fair": {},
    "lose": {"lose": 0.004},
    "swap": {"swap": 0.02},
    "repeat": {"repeat": 0.004},
    "flip": {"flip": 0.004},
    "cut": {"cut": 0.004},
    "mixed": {"lose": 0.002, "swap": 0.004, "repeat": 0.002, "flip": 0.002, "cut": 0.002},
    "hail": {"lose": 0.02, "swap": 0.02, "repeat": 0.02, "flip": 0.02, "cut": 0.02},
}


@pytest.mark.parametrize("what", WEATHERS)
def test_whatever_happens_to_the_bytes_nothing_false_arrives_and_nothing_is_left(what: str) -> None:
    lost = 0
    first = SEEDS * list(WEATHERS).index(what)
    for seed in range(first, first + SEEDS):
        pieces = (700, 3000, 32_768)[seed % 3]
        storm = ride_out(seed, Weather(piece_bytes=pieces, **WEATHERS[what]), ms=500)
        lost += storm.links_lost
        assert len(storm.handled) > 50
    assert (lost > 0) is (what != "fair"), "a test of faults must have had some"


def test_under_tls_links_can_only_break() -> None:
    for seed in range(SEEDS):
        ride_out(seed, Weather(piece_bytes=3000, cut=0.01), ms=500, secure=True)


def test_five_nodes() -> None:
    for seed in range(3):
        ride_out(seed, Weather(piece_bytes=3000, **WEATHERS["mixed"]), ms=400, names="abcde")


def test_one_seed_is_one_history_in_any_process() -> None:
    """Sets of texts, and whatever else hangs on `hash`, differ between these two."""
    code = "import storms; print(storms.history(1), storms.history(2))"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    here = f"{history(1)} {history(2)}"
    for process in running:
        out, errors = process.communicate(timeout=50)
        assert process.returncode == 0, errors
        assert out.strip() == here
    assert len(set(here.split())) == 2


# -- what such weather has found


def test_a_large_send_ends_once_when_its_link_goes_while_there_is_room() -> None:
    world = World()
    a, b = world.join("a", "b")
    b.agent("sink")
    token = a.agent("source").send("sink", bytes(5_000_000))
    session = a.link("b").session
    world.until(lambda: b.link("a").session.assembling[0])
    owed = session.outstanding
    while session.outstanding >= owed:
        owed = session.outstanding
        world.step()
    # There was credit, and it is not used yet.
    a.engine.down(session, LinkLost("now"))
    left = session.outstanding
    a.turn()
    assert isinstance(token.error, LinkLost)
    assert session.outstanding == left, "a closed link sends nothing"


def test_a_frame_that_never_ends_is_no_sign_of_life() -> None:
    """A damaged length swallows all that comes behind it, the answers to our pings too."""
    world = World()
    node = world.node("m", config=EngineConfig(ping_interval_ms=100, link_silence_ms_max=500))
    node.control.found(UUID)
    stranger = Stranger(world, node, name="a")
    stranger.introduce()
    began = world.now_ns
    stranger.say_bytes((100_000).to_bytes(4, "big"))
    while not stranger.ended:
        stranger.say_bytes(b"x")
        world.run(20)
        assert world.now_ns - began < 1_000 * MS
    assert "was silent for 500 ms" in node.told(Event.LINK_LOST)[0].detail
