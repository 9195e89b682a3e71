"""A network that becomes too large for a mesh while something is under way."""

from __future__ import annotations

from harness import UUID, World

from agentnet_core.config import EngineConfig

CONFIG = EngineConfig(mesh_nodes_max=4, overlay_rings=1)


def test_who_was_to_confirm_and_is_no_neighbour_any_more_is_asked_again() -> None:
    world = World()
    nodes = [world.node(f"n{number}", config=CONFIG) for number in range(8)]
    nodes[0].control.found(UUID)
    for node in nodes[1:4]:
        world.finish(node.join("n0"))
    world.run(1_000)
    owner, keeper = nodes[0], nodes[1]
    keeper.block()
    token = owner.register(owner.make("agent"))
    world.run(100)
    assert not token.done
    for node in nodes[4:]:
        node.join("n0")
    world.run(1_000)
    assert not owner.control.membership.keeps_link(keeper.name), "pick other names"
    assert not token.done
    owner.link(keeper.name).cut()
    keeper.unblock()
    world.finish(token, ms=5_000)


def test_a_keeper_that_could_not_be_reached_is_asked_again() -> None:
    config = EngineConfig(mesh_nodes_max=4, overlay_rings=1, link_wait_ms_max=200, handshake_ms_max=500)
    world = World()
    nodes = [world.node(f"n{number}", config=config) for number in range(12)]
    nodes[0].control.found(UUID)
    for node in nodes[1:]:
        world.finish(node.join("n0"))
    world.run(1_000)
    owner = nodes[-1]
    agent = owner.make("agent")
    keepers = owner.control.catalogue._keepers_of([agent.agent_id])
    far = [name for name in keepers if name not in owner.engine.sessions]
    assert far, "pick another name"
    world.partition([owner.name], far)
    token = owner.register(agent)
    world.run(1_000)
    assert not token.done
    world.heal()
    world.finish(token, ms=3_000)
