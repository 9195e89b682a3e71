"""Scenarios to play from the shell, and to begin one's own from: functions of a World.

A scenario makes nodes, lets things happen, and asserts what must hold.  Whatever it draws, it draws
from ``world.rng``, so that the seed decides.
"""

from __future__ import annotations

from collections.abc import Callable

from agentnet.sim.node import Agent, Node, Token
from agentnet.sim.world import World

Scenario = Callable[[World], None]


def calm(world: World) -> None:
    """Five nodes work for a minute; nothing fails, nobody is lost."""
    nodes = world.join(*(f"n{number}" for number in range(5)))
    asker, names = busy(nodes)
    for _ in range(600):
        world.run(100)
        answer = asker.request(world.rng.choice(names), b"hello")
        assert world.finish(answer).answer == b"hello"
    assert not any(event.node_id for node in nodes for event in node.told("link_lost"))


def storm(world: World) -> None:
    """Eight nodes are cut apart, stopped, blocked, killed and started again; then all is well again."""
    nodes = world.join(*(f"n{number}" for number in range(8)))
    asker, names = busy(nodes)
    asked: list[Token] = []
    for _ in range(60):
        world.run(1000)
        asked.append(asker.request(world.rng.choice(names), b"hello"))
        harm(world, nodes[1:])
    world.heal()
    for node in nodes:
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


SCENARIOS: dict[str, Scenario] = {"calm": calm, "storm": storm}
