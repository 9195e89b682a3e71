"""Networks that are larger than a mesh: made, and when all their nodes know the same."""

from __future__ import annotations

from collections.abc import Callable

from harness import UUID, Node, Weather, World

from agentnet_core.config import EngineConfig
from agentnet_core.records import NodeStatus


def network(
    count: int, config: EngineConfig, seed: int = 0, weather: Weather | None = None
) -> tuple[World, list[Node]]:
    """That many nodes, all joined through the first."""
    world = World(seed, weather)
    nodes = [world.node(f"n{i:02}", config=config) for i in range(count)]
    nodes[0].control.found(UUID)
    tokens = [node.join("n00") for node in nodes[1:]]
    for token in tokens:
        world.finish(token)
    settle(world, lambda: agreed(nodes), ms=20_000)
    world.run(20)  # what is linked is told of once the other end has taken the link
    return world, nodes


def settle(world: World, condition: Callable[[], bool], ms: int) -> None:
    """As `World.until`, for what takes long to ask."""
    for _ in range(0, ms, 50):
        if condition():
            return
        world.run(50)
    raise AssertionError(f"not within {ms} ms of virtual time, seed {world.clock.seed}")


def agreed(nodes: list[Node]) -> bool:
    """Whether each of them knows exactly these as alive."""
    names = sorted(node.name for node in nodes)
    return all(alive(node) == names for node in nodes)


def alive(node: Node) -> list[str]:
    return [m.node_id for m in node.control.members() if m.status is NodeStatus.ACTIVE]
