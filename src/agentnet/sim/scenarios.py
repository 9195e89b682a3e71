"""Scenarios to play from the shell, and to begin one's own from: functions of a World.

A scenario makes nodes, lets things happen, and asserts what must hold.  Whatever it draws, it draws
from ``world.rng``, so that the seed decides.  What it measured it may return, as rows of a table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

from agentnet.sim.clock import MS
from agentnet.sim.forest import Flight, Forest
from agentnet.sim.mail import letters
from agentnet.sim.node import Agent, Node
from agentnet.sim.token import Token
from agentnet.sim.world import World
from agentnet_core.config import EngineConfig
from agentnet_core.errors import ConfigError
from agentnet_core.records import Event

Row = dict[str, Any]
Scenario = Callable[..., list[Row] | None]
"""Called with a World, and with ``nodes``, how many, if that was asked for."""


def calm(world: World, nodes: int = 5) -> None:
    """Some nodes work for a minute; nothing fails, nobody is lost."""
    all_nodes = world.join(*(f"n{number}" for number in range(nodes)))
    asker, names = busy(all_nodes)
    for _ in range(600):
        world.run(100)
        answer = asker.request(world.rng.choice(names), b"hello")
        assert world.finish(answer).answer == b"hello"
    assert not any(event.node_id for node in all_nodes for event in node.told("link_lost"))


def storm(world: World, nodes: int = 8) -> None:
    """Some nodes are cut apart, stopped, blocked, killed and started again; then all is well again."""
    all_nodes = world.join(*(f"n{number}" for number in range(nodes)))
    asker, names = busy(all_nodes)
    asked: list[Token] = []
    for _ in range(60):
        world.run(1000)
        asked.append(asker.request(world.rng.choice(names), b"hello"))
        harm(world, all_nodes[1:])
    world.heal()
    for node in all_nodes:
        node.unpause()
        if node.dead:
            node.restart("n0")
    world.until(world.agreed, ms=60_000)
    world.until(lambda: all(answer.done for answer in asked), ms=60_000)
    assert any(answer.error is None for answer in asked)


def busy(nodes: list[Node]) -> tuple[Agent, list[str]]:
    """An agent of the first node that asks, and the names of those on the others that answer."""
    names = [f"echo-{node.name}" for node in nodes[1:]]
    for node, name in zip(nodes[1:], names, strict=True):
        node.agent(name, lambda message: message.payload)
    return nodes[0].agent("asker"), names


def harm(world: World, nodes: list[Node]) -> None:
    """One thing happens to one of the nodes, or what had happened ends."""
    node = world.rng.choice(nodes)
    match world.rng.randrange(6):
        case 0:
            names = [each.name for each in nodes]
            world.rng.shuffle(names)
            half = world.rng.randrange(1, len(names))
            world.partition(names[:half], names[half:])  # and n0 reaches all
        case 1:
            world.block(node.name, world.rng.choice(nodes).name)
        case 2:
            world.heal()
        case 3 if not node.dead:
            node.kill(silently=world.rng.random() < 0.5)
        case 4 if node.paused and not node.dead:
            node.unpause()
        case 4 if not node.dead:
            node.block() if world.rng.random() < 0.5 else node.pause()
        case 5 if node.dead:
            node.restart("n0", disk=world.rng.random() < 0.5)


STARVED_PERCENT = 10


def starved(world: World, nodes: int | None = None, way: str = "stops") -> list[Row]:
    """Some nodes hardly get to run.  They may be lost, if nothing of them answers; nobody else is, whatever
    they say.  ``way``: how they starve, "stops" or "slices"."""
    if way not in STARVING:
        raise ConfigError(f"way={way!r}: expected {' or '.join(STARVING)}")
    return STARVING[way](world) if nodes is None else STARVING[way](world, nodes)


def _in_stops(world: World, nodes: int = 30) -> list[Row]:
    """They are stopped for seconds, blocked, or slow, each in its own way."""
    all_nodes = world.join(*(f"n{number}" for number in range(nodes)))
    starving = all_nodes[: max(3, nodes * STARVED_PERCENT // 100)]
    until_ns = world.now_ns + 90_000 * MS

    def stand(node: Node, stop: Callable[[], None]) -> None:
        if world.now_ns < until_ns:
            stop()
            world.after(world.rng.uniform(200, 6_000), go_on, node, stop)

    def go_on(node: Node, stop: Callable[[], None]) -> None:
        node.unpause()
        world.after(world.rng.uniform(50, 500), stand, node, stop)

    for number, node in enumerate(starving):
        way = number % 3
        if way == 2:
            node.step_ns = 40 * MS
        else:
            stand(node, node.block if way else node.pause)
    world.run(90_000)
    names = {node.name for node in starving}
    lost = [event.node_id for node in all_nodes for event in node.told(Event.LOST)]
    well = [name for name in lost if name not in names]
    assert not well, f"lost while they were well: {sorted(set(well))}"
    for node in starving:
        node.step_ns = 0
    world.run(10_000)  # the last of those that were stopped goes on
    world.until(world.agreed, ms=HEAL_MS_MAX)
    return [{"starved": len(starving), "of": nodes, "starved_lost": len(lost), "others_lost": len(well)}]


SLICE_MS = (0.1, 1.0)
SLICE_PAUSE_MS = (15_000, 30_000)
SLICES_S = 180
HEALTH_FACTOR = 50


def _in_slices(world: World, nodes: int = 100) -> list[Row]:
    """One node in a hundred runs for less than a millisecond at a time, so that it asks and hardly hears an
    answer, and has no liveness port.  With local health, far fewer of the others are taken for lost, by
    anybody, than without."""
    rows: list[Row] = []
    for local_health in (False, True):
        config = EngineConfig(local_health=local_health, mesh_nodes_max=9)
        prefix = "on" if local_health else "off"
        group = [world.node(f"{prefix}{number}", config=config, ports=False) for number in range(nodes)]
        group[0].control.found(prefix.ljust(16).encode())
        for token in [node.join(group[0].name) for node in group[1:]]:
            world.finish(token)
        world.run(10_000)
        starving = group[-max(1, nodes // 100) :]
        names = {node.name for node in starving}
        before = [len(node.events) for node in group]
        until_ns = world.now_ns + SLICES_S * 1000 * MS
        for node in starving:
            _slice(world, node, until_ns)
        world.run(SLICES_S * 1000)
        told = [event for node, start in zip(group, before, strict=True) for event in node.events[start:]]
        lost = [event.node_id for event in told if event.kind == Event.LOST]
        well = sum(name not in names for name in lost)
        rows.append(
            {
                "local_health": prefix,
                "starved": len(starving),
                "of": nodes,
                "starved_lost": len(lost) - well,
                "others_lost": well,
            }
        )
        for node in group:
            node.kill(silently=True)
    off, on = (int(row["others_lost"]) for row in rows)
    assert on * HEALTH_FACTOR <= off, f"{on} losses of nodes that were well; {off} without local health"
    return rows


def _slice(world: World, node: Node, until_ns: int) -> None:
    """The node stands for long, runs for a moment, and so on until then."""
    node.pause()

    def run() -> None:
        node.unpause()
        if world.now_ns < until_ns:
            world.after(world.rng.uniform(*SLICE_MS), _slice, world, node, until_ns)

    world.after(world.rng.uniform(*SLICE_PAUSE_MS), run)


STARVING: dict[str, Callable[..., list[Row]]] = {"stops": _in_stops, "slices": _in_slices}


# -- partitions

HEAL_MS_MAX = 30_000


def partitions(world: World, nodes: int = 9) -> list[Row]:
    """The network falls apart in some way, for so long or so briefly, and again; each time all agree in the
    end on who is there, and on their agents, within 30 s of when it was whole again."""
    all_nodes = world.join(*(f"n{number}" for number in range(nodes)))
    for node in all_nodes:
        node.agent(f"echo-{node.name}", lambda message: message.payload)
    rows = []
    for way in world.rng.sample(list(WAYS), 2):
        WAYS[way](world, [node.name for node in all_nodes])
        apart_ms = world.rng.choice((500, 5_000, 20_000, 60_000)) + world.rng.randrange(5_000)
        world.run(apart_ms)
        world.heal()
        healed_ns = world.now_ns
        world.until(world.agreed, ms=HEAL_MS_MAX)
        healed_s = round((world.now_ns - healed_ns) / MS / 1000, 3)
        rows.append({"apart": way, "apart_s": apart_ms / 1000, "healed_s": healed_s})
    return rows


def _pieces(world: World, names: list[str], count: int) -> list[list[str]]:
    """All nodes in so many groups, none empty."""
    world.rng.shuffle(names)
    cuts = sorted(world.rng.sample(range(1, len(names)), count - 1))
    return [names[start:end] for start, end in zip([0, *cuts], [*cuts, len(names)], strict=True)]


def _in_two(world: World, names: list[str]) -> None:
    world.partition(*_pieces(world, names, 2))


def _in_three(world: World, names: list[str]) -> None:
    world.partition(*_pieces(world, names, 3))


def _one_between(world: World, names: list[str]) -> None:
    """One node reaches both sides, which do not reach each other."""
    world.partition(*_pieces(world, names, 3)[:2])


def _all_alone(world: World, names: list[str]) -> None:
    world.partition(*([name] for name in names))


def _one_way(world: World, names: list[str]) -> None:
    """What one side says does not arrive at the other."""
    mute, deaf = _pieces(world, names, 2)
    for source in mute:
        for target in deaf:
            world.block(source, target)


def _here_and_there(world: World, names: list[str]) -> None:
    """Every third way between two nodes is broken, in one direction."""
    for source in names:
        for target in names:
            if source != target and world.rng.random() < 1 / 3:
                world.block(source, target)


def _on_and_off(world: World, names: list[str]) -> None:
    """Cut in two, and healed, each two seconds, at another place."""
    for turn in range(5):
        world.after(4_000 * turn, world.heal)
        world.after(4_000 * turn + 2_000, _in_two, world, list(names))
    world.run(20_000)


WAYS: dict[str, Callable[[World, list[str]], None]] = {
    "in two": _in_two,
    "in three": _in_three,
    "one between": _one_between,
    "all alone": _all_alone,
    "one way": _one_way,
    "here and there": _here_and_there,
    "on and off": _on_and_off,
}


# -- very many nodes


def forest(world: World, nodes: int = 1000) -> list[Row]:
    """Broadcasts of very many nodes, by overlay and tree alone: in calm, in churn, and after most died.

    Once a tree has grown, nodes get hardly a copy too many; when nodes die, all of the living soon get
    all again, and those of the time between too.
    """
    rows = grow_and_churn(world, Forest(world.clock, (f"n{number}" for number in range(nodes))))
    for percent in (50, 80):
        for silently in (False, True):
            grown = Forest(world.clock, (f"n{number}" for number in range(nodes)))
            rows += die_at_once(world, grown, percent, silently)
    return rows


ROUND_MS = 1000
REDUNDANCY_MAX = 0.1


def grow_and_churn(world: World, forest: Forest) -> list[Row]:
    """Fresh links become a tree, which stays; then each minute one node in twenty comes, and one goes."""
    fresh = broadcasts(world, forest, 3)
    calm = broadcasts(world, forest, 10)
    people = len(forest.nodes)
    joined = 0
    while joined < people // 40:  # half a minute
        joined += 1
        world.after(world.rng.randrange(30_000), forest.join, f"late{joined}")
        world.after(world.rng.randrange(30_000), go, world, forest)
    churned = broadcasts(world, forest, 30)
    world.run(30_000)
    calm_again = broadcasts(world, forest, 3)
    assert forest.is_connected()
    for flight in (*fresh, *calm, *churned, *calm_again):
        assert not flight.waits, f"{len(flight.waits)} nodes never got a broadcast"
    rows = [
        row("fresh links", forest, fresh),
        row("calm", forest, calm),
        row("5 % churn a minute", forest, churned),
        row("calm again", forest, calm_again),
    ]
    check_tree(rows[1], rows[3])
    forest.fell()
    return rows


def go(world: World, forest: Forest) -> None:
    """A node leaves, or its process dies, or its host."""
    name = world.rng.choice(list(forest.nodes))
    way = world.rng.randrange(3)
    if way == 0:
        forest.leave(name)
    else:
        forest.kill([name], silently=way == 1)
        world.after(forest.config.link_silence_ms_max + forest.config.suspicion_ms_max, forest.forget, name)


def die_at_once(world: World, forest: Forest, percent: int, silently: bool) -> list[Row]:
    """So many die while a broadcast is under way; the others go on, and get that one too."""
    broadcasts(world, forest, 5)
    names = list(forest.nodes)
    world.rng.shuffle(names)
    dying = names[: len(names) * percent // 100]
    flights = [forest.publish(names[-1])]
    world.run(30)
    forest.kill(dying, silently=silently)
    died_ns = world.now_ns
    while len(flights) < 2 or any(flight.waits for flight in flights):
        assert len(flights) <= 120, f"{max(len(flight.waits) for flight in flights)} nodes still wait"
        flights += broadcasts(world, forest, 1)
    healed_s = (max(flight.done_ns for flight in flights) - died_ns) / MS / 1000
    world.run(forest.config.link_silence_ms_max)
    while forest.is_dialling():  # a dead host is dialled for long, and the next on the ring may be dead too
        world.run(ROUND_MS)
    steady = broadcasts(world, forest, 5)
    how = "die silently" if silently else "die"
    rows = [
        row(f"{percent} % {how}", forest, flights, rounds=len(flights) - 1, healed_s=round(healed_s, 3)),
        row("after it", forest, steady[2:]),
    ]
    assert forest.is_connected()
    assert not any(flight.waits for flight in steady)
    check_tree(rows[1])
    forest.fell()
    return rows


def broadcasts(world: World, forest: Forest, number: int) -> list[Flight]:
    """So many, one a round, each of any node."""
    flights = []
    for _ in range(number):
        flights.append(forest.publish(world.rng.choice(list(forest.nodes))))
        world.run(ROUND_MS)
    return flights


def check_tree(*rows: Row) -> None:
    for each in rows:
        assert each["redundancy"] <= REDUNDANCY_MAX, f"{each['phase']}: redundancy {each['redundancy']}"


def row(what: str, forest: Forest, flights: Sequence[Flight], **more: Any) -> Row:
    """What became of these broadcasts, which all arrived. Hops and milliseconds: from the origin to a node.
    ``redundancy``: copies that each node got, beyond the first. ``rounds``: broadcasts since the deaths until
    each and the one that was under way had reached all that live; ``healed_s``: virtual seconds, likewise."""
    latencies = sorted(chain.from_iterable(flight.latencies_ns for flight in flights))
    hops = [each for flight in flights for each in flight.hops]
    return {
        "phase": what,
        "nodes": len(forest.nodes),
        "sent": len(flights),
        "redundancy": round(sum(flight.copies - flight.guests for flight in flights) / len(hops) - 1, 4),
        "hops": max(hops),
        "p50_ms": round(latencies[len(latencies) // 2] / MS, 1),
        "max_ms": round(latencies[-1] / MS, 1),
        "rounds": None,
        "healed_s": None,
        **more,
    }


SCENARIOS: dict[str, Scenario] = {
    "calm": calm,
    "storm": storm,
    "starved": starved,
    "partitions": partitions,
    "letters": letters,
    "forest": forest,
}
