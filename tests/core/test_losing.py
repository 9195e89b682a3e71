"""Who is lost, how soon, and who never is: whole engines under every fault that hides or ends a node."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from harness import MS, PING, UUID, Node, Weather, World
from strangers import Stranger

from agentnet_core.config import EngineConfig
from agentnet_core.records import Event, NodeStatus


def some(world: World, count: int) -> list[Node]:
    return world.join(*(f"n{number}" for number in range(count)))


def lost_by(nodes: list[Node], name: str) -> bool:
    return all(name in [event.node_id for event in node.told(Event.LOST)] for node in nodes)


def nothing_imagined(nodes: list[Node], *gone: str) -> bool:
    """Nobody was told that one is lost who is not among these."""
    return all(event.node_id in gone for node in nodes for event in node.told(Event.LOST))


def test_a_node_whose_process_ends_is_lost_at_once_and_its_agents_with_it() -> None:
    world = World()
    a, b, c = world.join("a", "b", "c")
    b.agent("worker")
    died = world.now_ns
    b.kill()
    world.until(lambda: a.told(Event.LOST) and c.told(Event.LOST))
    assert world.now_ns - died < 10 * MS
    for node in (a, c):
        assert "its process ended, as a, c saw" in node.told(Event.LOST)[0].detail
        assert [event.name for event in node.told(Event.AGENT_GONE)] == ["worker"]
        assert node.told(Event.LEFT) == []


def test_a_silent_node_is_lost_once_all_have_not_heard_it_for_long_enough() -> None:
    world = World()
    nodes = world.join("a", "b", "c", "d")
    world.run(60_000)
    assert not any(node.told(Event.LINK_LOST) or node.told(Event.LOST) for node in nodes)
    quiet = world.now_ns
    nodes[3].kill(silently=True)
    world.until(lambda: all(node.told(Event.LOST) for node in nodes[:3]), ms=20_000)
    assert world.now_ns - quiet <= 5_000 * MS
    assert all("silent for" in node.told(Event.LOST)[0].detail for node in nodes[:3])
    assert not any(node.told(Event.LOST)[1:] for node in nodes[:3])


def test_a_link_that_is_silent_while_others_hear_the_node_is_only_made_again() -> None:
    world = World()
    a, b, c = world.join("a", "b", "c")
    quiet = world.now_ns
    world.partition(["a"], ["b"])
    world.until(lambda: a.told(Event.LINK_LOST) and b.told(Event.LINK_LOST), ms=20_000)
    assert 3_000 * MS <= world.now_ns - quiet <= 6_000 * MS
    assert "and its liveness port as well" in a.told(Event.LINK_LOST)[0].detail
    world.run(60_000)
    assert not any(node.told(Event.LOST) for node in (a, b, c))
    world.heal()
    world.until(world.agreed, ms=20_000)


FAULTS: dict[str, Callable[[World, Node], None]] = {
    "kill": lambda world, node: node.kill(),
    "host": lambda world, node: node.kill(silently=True),
    "stop": lambda world, node: node.pause(),
    "cut": lambda world, node: world.partition([node.name], [n for n in world.nodes if n != node.name]),
}
WITHIN_MS = {"kill": 1000, "host": 5000, "stop": 6000, "cut": 5000}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("count", [2, 3, 8])
def test_a_loss_is_known_everywhere_in_time(fault: str, count: int) -> None:
    for seed in range(3):
        world = World(seed)
        *others, gone = some(world, count)
        world.run(5_000 + 300 * seed)
        FAULTS[fault](world, gone)
        world.until(lambda others=others, gone=gone: lost_by(others, gone.name), ms=WITHIN_MS[fault])
        assert nothing_imagined(others, gone.name)
        assert all(gone.name not in node.engine.sessions for node in others)


@pytest.mark.parametrize("fault", ["stop", "cut"])
def test_who_was_lost_and_lives_comes_back_by_itself(fault: str) -> None:
    world = World()
    *others, gone = some(world, 4)
    gone.agent("worker")
    FAULTS[fault](world, gone)
    world.until(lambda: lost_by(others, gone.name))
    assert others[0].control.directory.get("worker") is None
    world.run(20_000)
    world.heal()
    gone.unpause()
    world.until(world.agreed, ms=15_000)
    world.run(5_000)
    for node in others:
        assert [e.node_id for e in node.told(Event.JOINED)].count(gone.name) == 2
        assert node.control.directory.get("worker") is not None
        assert all(member.status is NodeStatus.ACTIVE for member in node.control.members())


def test_of_many_who_die_at_once_each_is_told_of_a_few_times() -> None:
    world = World(3)
    config = EngineConfig(mesh_nodes_max=9)
    nodes = [world.node(f"n{number}", config=config) for number in range(48)]
    nodes[0].control.found(UUID)
    for token in [node.join("n0") for node in nodes[1:]]:
        world.finish(token)
    world.run(20_000)
    alive, dead = nodes[:36], nodes[36:]
    before = sum(node.engine.stats()["bytes_received"] for node in alive)
    for node in dead:
        node.kill()
    world.until(lambda: all(len(node.control.membership) == len(alive) for node in alive), ms=5_000)
    world.run(500)
    told = sum(node.engine.stats()["bytes_received"] for node in alive) - before
    assert told / (len(alive) * len(dead)) < 500, "bytes for each of those who live and of those who died"


def test_who_was_lost_has_a_higher_version_and_the_same_incarnation() -> None:
    world = World()
    *others, gone = some(world, 3)
    FAULTS["cut"](world, gone)
    world.until(lambda: lost_by(others, gone.name))
    world.heal()
    world.until(world.agreed, ms=15_000)
    assert gone.control.membership.version >= 1
    assert gone.engine.incarnation == 1


def test_a_calm_while_loses_nobody() -> None:
    world = World()
    nodes = some(world, 4)
    world.run(600_000)
    assert nothing_imagined(nodes)
    assert not any(node.told(Event.LINK_LOST) for node in nodes)


@pytest.mark.parametrize("step_ms", [50, 150])
def test_a_node_that_does_not_keep_up_takes_nobody_with_it(step_ms: int) -> None:
    """Whatever becomes of the slow one, the others keep one another."""
    world = World()
    nodes = some(world, 6)
    slow = nodes[2]
    slow.step_ns = step_ms * MS
    world.run(120_000)
    healthy = [node for node in nodes if node is not slow]
    assert nothing_imagined(healthy, slow.name)


def test_a_node_that_stood_still_blames_nobody() -> None:
    world = World()
    nodes = some(world, 5)
    still = nodes[1]
    for _ in range(3):
        world.run(20_000)
        still.pause()
        world.run(1_500)
        still.unpause()
    world.run(20_000)
    assert nothing_imagined(nodes)
    assert world.agreed()


@pytest.mark.parametrize("seed", range(12))
def test_a_partition_of_any_kind_heals_to_one_view(seed: int) -> None:
    world = World(seed)
    nodes = some(world, 6)
    names = [node.name for node in nodes]
    world.rng.shuffle(names)
    match seed % 4:
        case 0:  # two halves
            cut = world.rng.randrange(1, len(names))
            world.partition(names[:cut], names[cut:])
        case 1:  # one way only
            for target in names[1:]:
                world.block(names[0], target)
        case 2:  # everybody alone
            world.partition(*([name] for name in names))
        case 3:  # some pairs, at random
            for _ in range(8):
                one, other = world.rng.sample(names, 2)
                world.block(one, other)
    world.run(world.rng.choice([1_000, 10_000, 60_000]))
    world.heal()
    world.until(world.agreed, ms=30_000)
    world.run(10_000)
    assert world.agreed()


def test_a_pair_that_cannot_reach_each_other_is_no_loss() -> None:
    world = World()
    nodes = some(world, 5)
    world.partition(["n1"], ["n3"])
    world.run(60_000)
    assert nothing_imagined(nodes)
    assert sorted(nodes[1].engine.sessions) == ["n0", "n2", "n4"]


def test_news_that_gossip_missed_is_found_by_comparing() -> None:
    world = World()
    one, other, third = some(world, 3)
    membership = other.control.membership
    third.control.membership.set_addresses(["sim://elsewhere:1"])
    third.control.membership.drain_news((), 0)  # nobody is told
    assert membership.digest() != third.control.membership.digest()
    world.until(lambda: membership.digest() == third.control.membership.digest(), ms=200_000)
    del one


def test_a_helper_that_does_not_read_is_cut_off_in_the_midst_of_questions() -> None:
    """Two nodes are silent, and the first question is one control frame too many for whom both go to."""
    world = World(weather=Weather(delay_ns=(50_000, 50_000)))
    config = EngineConfig(control_bytes_max=1000, ping_interval_ms=2000, link_silence_ms_max=2000)
    node = world.node("m", config=config)
    node.control.found(UUID)
    helper, *silent = [Stranger(world, node, name=name) for name in "abc"]
    for stranger in (helper, *silent):
        stranger.introduce()
    for stranger in silent:
        stranger.say(PING, b"\x01")
    world.run(1)
    helper.session.paused = True  # as a socket whose peer does not read
    helper.link.resume = lambda: None  # type: ignore[method-assign]
    while helper.session.waiting_bytes < 985:
        helper.say(PING, b"\x01")
        world.run(1)
    assert "a" in node.engine.sessions
    world.run(1_990)
    assert "control_bytes_max" in node.told(Event.LINK_LOST)[0].detail
