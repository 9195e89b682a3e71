"""The simulator: faults do what they say, nothing is lost that the network would not lose, seeds replay."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from agentnet.sim import MS, Agent, Node, Weather, World
from agentnet.sim.scenarios import starved
from agentnet_core.message import AgentMessage
from agentnet_core.records import Event


def echo(message: AgentMessage) -> bytes:
    return message.payload


def echoes(world: World, *names: str) -> tuple[list[Node], list[Agent]]:
    """Nodes of one network with an echo each, named after its node."""
    nodes = world.join(*names)
    return nodes, [node.agent(f"echo-{node.name}", echo) for node in nodes]


# -- one seed, one history

STORY = """
import sys
from agentnet.sim import Weather, World

world = World(int(sys.argv[1]), Weather(flip=0.0005, cut=0.0005))
nodes = world.join(*(f"n{number}" for number in range(5)))
for node in nodes:
    node.agent(f"echo-{node.name}", lambda m: m.payload, capabilities=["echo", node.name, "x"])
for turn in range(20):
    source = world.rng.choice([node for node in nodes if not node.dead])
    agent = source.make(f"asker-{turn}")
    source.register(agent)
    for node in nodes:
        agent.request(f"echo-{node.name}", bytes(world.rng.randrange(40_000)))
    if turn == 5:
        world.partition(["n0", "n1"], ["n2", "n3"])
    if turn == 10:
        world.heal()
        nodes[4].kill()
    if turn == 13:
        nodes[4].restart("n0")
        nodes[2].pause()
    if turn == 16:
        nodes[2].unpause()
        nodes[3].leave()
    world.run(100)
print(world.trace, world.clock.steps)
"""


def played(seed: int, hash_seed: int) -> str:
    """The trace of the story, as another process tells it."""
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    command = [sys.executable, "-c", STORY, str(seed)]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def test_a_seed_is_one_history_in_every_process() -> None:
    first = played(seed=1, hash_seed=1)
    assert first == played(seed=1, hash_seed=2)
    assert first != played(seed=2, hash_seed=1)


def test_a_failure_tells_the_seed_and_the_time() -> None:
    world = World(seed=4711)

    def fails() -> None:
        raise ValueError("as planned")

    world.after(12, fails)
    with pytest.raises(ValueError, match="as planned") as caught:
        world.run(100)
    assert caught.value.__notes__ == ["in the simulation of seed 4711, at 1012.000 ms"]
    with pytest.raises(AssertionError, match="seed 4711"):
        world.until(lambda: False, ms=5)


# -- invariants


def test_invariants_are_checked_after_each_step_and_each_second() -> None:
    world = World()
    stepped: list[str] = []
    seconds: list[int] = []
    world.each_step(lambda node: stepped.append(node.name))
    world.each_second(lambda world: seconds.append(world.now_ns))
    world.join("a", "b")
    world.run(5000)
    assert set(stepped) == {"a", "b"}
    assert 5 <= len(seconds) <= 6
    assert {later - sooner for sooner, later in pairwise(seconds)} == {1000 * MS}


def test_a_broken_invariant_ends_the_simulation() -> None:
    world = World()
    a, b = world.join("a", "b")

    def links_hold(node: Node) -> None:
        assert node.engine.sessions, f"{node.name} stands alone"

    world.each_step(links_hold)
    world.run(1000)
    b.kill()
    with pytest.raises(AssertionError, match="a stands alone"):
        world.run(1000)
    del a


# -- faults


def test_a_partition_delays_and_loses_nothing_if_it_is_short() -> None:
    world = World()
    (a, b), _ = echoes(world, "a", "b")
    asker = a.agent("asker")
    world.partition(["a"], ["b"])
    answer = asker.request("echo-b", b"hello")
    world.run(2500)
    assert not answer.done
    world.heal()
    world.run(10)
    assert answer.answer == b"hello"
    assert not a.told(Event.LINK_LOST)
    assert not b.told(Event.LINK_LOST)


def test_a_long_partition_is_two_networks_and_then_one() -> None:
    world = World()
    echoes(world, "a", "b", "c", "d")
    world.partition(["a", "b"], ["c", "d"])
    world.run(60_000)
    assert world.agreed(["a", "b"])
    assert world.agreed(["c", "d"])
    assert not world.agreed()
    world.heal()
    world.until(world.agreed, ms=30_000)


@pytest.mark.parametrize("source", ["a", "b"])
def test_a_way_may_be_broken_in_one_direction(source: str) -> None:
    world = World()
    (a, b), _ = echoes(world, "a", "b")
    world.block(source, "b" if source == "a" else "a")
    world.until(lambda: a.told(Event.LINK_LOST) and b.told(Event.LINK_LOST), ms=60_000)
    world.run(10_000)
    assert not a.engine.sessions
    world.heal()
    world.until(world.agreed, ms=30_000)


def test_a_paused_process_does_nothing_and_then_all() -> None:
    world = World()
    (a, b), (_, echo_b) = echoes(world, "a", "b")
    asker = a.agent("asker")
    b.pause()
    answers = [asker.request("echo-b", b"%d" % number) for number in range(100)]
    world.run(2500)
    assert echo_b.received == []
    b.unpause()
    world.run(50)
    assert [answer.answer for answer in answers] == [b"%d" % number for number in range(100)]


def test_a_paused_process_takes_no_more_than_its_sockets_hold() -> None:
    world = World(weather=Weather(room_bytes=100_000))
    a, b = world.join("a", "b")
    sink, source = b.agent("sink"), a.agent("source")
    b.pause()
    for _ in range(100):
        source.send("sink", bytes(10_000))
    world.run(1000)
    assert a.link("b").session.waiting_bytes > 200_000
    b.unpause()
    world.until(lambda: sink.pending_messages == 100)


def test_a_slow_process_takes_its_time() -> None:
    world = World(weather=Weather(delay_ns=(1, 1)))
    (a, b), _ = echoes(world, "a", "b")
    asker = a.agent("asker")
    world.run(100)  # what they tell each other first would be in the way
    times = []
    for step_ms in (0, 10):
        b.step_ns = step_ms * MS
        began = world.now_ns
        world.finish(asker.request("echo-b", b""))
        times.append(world.now_ns - began)
    assert times[0] < MS
    assert 20 * MS <= times[1] <= 60 * MS


def test_a_slow_process_does_not_catch_up_by_pausing() -> None:
    world = World()
    (_, b), (_, echo_b) = echoes(world, "a", "b")
    b.step_ns = 10 * MS
    done: list[int] = []
    for _ in range(20):
        b.act(lambda: done.append(world.now_ns))
    for _ in range(5):
        b.pause()
        b.unpause()
    world.run(1000)
    assert len(done) == 20
    assert {later - sooner for sooner, later in pairwise(done)} == {10 * MS}
    del echo_b


@pytest.mark.parametrize("silently", [False, True])
@pytest.mark.parametrize("disk", [False, True])
def test_a_dead_process_is_started_again(disk: bool, silently: bool) -> None:
    world = World()
    (a, b, c), _ = echoes(world, "a", "b", "c")
    uuid, before = b.control.network_uuid, b.engine.incarnation
    b.kill(silently=silently)
    world.run(2000)
    world.finish(b.restart("a", disk=disk))
    assert b.control.network_uuid == uuid
    assert b.engine.incarnation > before
    world.until(world.agreed, ms=30_000)
    b.agent("again", echo)
    assert world.finish(c.agent("asker").request("again", b"hello")).answer == b"hello"
    assert [record.name for record in a.control.directory.agents() if record.node_id == "b"] == ["again"]


def test_only_the_dead_are_started_again() -> None:
    world = World()
    a, b = world.join("a", "b")
    with pytest.raises(AssertionError, match="b runs"):
        b.restart("a")
    del a


# -- from the shell


def shell(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agentnet", "sim", *arguments]
    return subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True, timeout=120)


def test_a_scenario_of_its_own_is_played_seed_by_seed(tmp_path: Path) -> None:
    (tmp_path / "stories.py").write_text(
        "def odd(world):\n"
        "    a, b = world.join('a', 'b')\n"
        "    world.run(world.rng.randrange(1000))\n"
        "    assert world.clock.seed % 2, 'the seed is even'\n"
        "number = 1\n"
        "def sized(world, nodes=3):\n"
        "    assert nodes < 5\n"
        "    return [{'what': 'all', 'nodes': nodes, 'none': None}]\n"
    )
    done = shell("stories:odd", "--seed", "5", "--seeds", "3", folder=tmp_path)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert [line.split(",")[0] for line in lines] == ["seed 5: ok", "seed 6: failed", "seed 7: ok"]
    assert "the seed is even" in done.stderr
    assert "again: agentnet sim stories:odd --seed 6" in done.stderr
    again = shell("stories:odd", "--seed", "6", "--json", folder=tmp_path)
    played = json.loads(again.stdout)
    assert (played["seed"], played["trace"]) == (6, lines[1].split()[-1])
    assert shell("stories:number", folder=tmp_path).returncode == 2
    rows = [line.split() for line in shell("stories:sized", folder=tmp_path).stdout.splitlines()[1:]]
    assert rows == [["what", "nodes", "none"], ["all", "3"]]
    four = shell("stories:sized", "--nodes", "4", "--json", folder=tmp_path)
    assert json.loads(four.stdout)["rows"] == [{"what": "all", "nodes": 4, "none": None}]
    five = shell("stories:sized", "--nodes", "5", folder=tmp_path)
    assert "again: agentnet sim stories:sized --seed 0 --nodes 5" in five.stderr
    assert (
        "expected calm, storm, starved, partitions, letters, forest or MODULE:FUNCTION"
        in shell("strom", folder=tmp_path).stderr
    )


@pytest.mark.parametrize("way", ["stops", "slices"])
def test_ways_to_starve_are_told(way: str) -> None:
    done = shell("starved", "--way", way, "--nodes", "10", "--json")
    assert (done.returncode, len(json.loads(done.stdout)["rows"])) == (0, 1 + (way == "slices")), done.stderr
    assert "expected stops or slices" in shell("starved", "--way", "no", "--nodes", "10").stderr
    assert "expected with starved only" in shell("calm", "--way", way).stderr


def test_local_health_saves_those_that_a_starved_node_has_no_time_to_hear() -> None:
    world = World(3)
    off, on = starved(world, 20, "slices")
    assert (off["local_health"], on["local_health"]) == ("off", "on")
    assert off["others_lost"] > 0 == on["others_lost"]
    assert world.clock.steps < 300_000, "who is lost while its link stands is asked about again and again"


@pytest.mark.parametrize("scenario", ["calm", "storm", "partitions", "starved --nodes 10"])
def test_what_comes_with_it_holds(scenario: str) -> None:
    done = shell(*scenario.split(), "--seeds", "3")
    assert (done.returncode, done.stdout.count(": ok, ")) == (0, 3), done.stderr
