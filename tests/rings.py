"""Networks that are larger than a mesh: when all their nodes know the same."""

from __future__ import annotations

from collections.abc import Callable

from harness import Node, World

from agentnet_core.records import NodeStatus


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
