"""Nodes that know each other and are not linked: their overlay keeps no link but those that are named."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

from harness import Agent, Node, Token, World

from agentnet import AgentNetworkManager
from agentnet.sim.node import Handle
from agentnet_core.config import EngineConfig
from agentnet_core.overlay import Rings

IDLE_MS = 400


def apart(world: World, *names: str, kept: Iterable[str] = (), **limits: Any) -> list[Node]:
    """Nodes that have met. ``kept``: the links that stay, as pairs of names of one letter."""
    config = EngineConfig(**{"data_idle_ms": IDLE_MS, **limits})
    nodes = world.join(*names, config=config)
    keep_pairs(nodes, kept)
    return nodes


def agents_apart(
    world: World, *names: str, handle: Handle, kept: Iterable[str] = (), **limits: Any
) -> tuple[list[Node], list[Agent]]:
    """Likewise, and an agent of each that all of them know."""
    nodes = world.join(*names, config=EngineConfig(**{"data_idle_ms": IDLE_MS, **limits}))
    agents = [node.agent(f"of {node.name}", handle) for node in nodes]
    keep_pairs(nodes, kept)
    return nodes, agents


def keep_pairs(nodes: Iterable[Node], kept: Iterable[str]) -> None:
    for node in nodes:
        keep_only(node, *(other for pair in kept if node.name in pair for other in pair))


class Kept(Rings):
    """Rings on which a node's neighbours are but these."""

    names: tuple[str, ...] = ()

    def neighbours(self, node_id: str, unreachable: Container[str] = ()) -> tuple[str, ...]:
        return tuple(name for name in super().neighbours(node_id, unreachable) if name in self.names)


def keep_only(node: Node | AgentNetworkManager, *names: str) -> None:
    """The node keeps its links to these, and would dial them; to all others there are links on demand."""
    control = node.control
    membership = control.membership
    # Who is a neighbour is for the overlay to say, and not at issue here.
    kept = Kept(control.config, membership.alive())
    kept.names, membership._rings, membership._moved_ns = names, kept, control.engine.now_ns


def part(world: World, *nodes: Node) -> None:
    """Wait until none of them is linked to another."""
    world.until(lambda: not any(linked(one, other) for one in nodes for other in nodes))


def linked(one: Node, other: Node) -> bool:
    return other.name in one.engine.sessions


def tokens(sent: list[Any]) -> list[Token]:
    """Those of the sends that did not go at once."""
    return [token for token in sent if isinstance(token, Token)]


def in_order(agent: Agent) -> bool:
    """Whether what it got of each sender and priority came once and in order: payloads start with numbers."""
    last: dict[tuple[int, int], int] = {}
    for message in agent.received:
        number = int(message.payload.split(b" ")[0])
        key = message.from_agent, int(message.priority)
        if number <= last.get(key, -1):
            return False
        last[key] = number
    return True
