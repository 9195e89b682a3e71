import asyncio

from agentnet import AgentMessage, NodeStatus
from agentnet.testing import Network


async def shout(message: AgentMessage) -> bytes:
    return message.payload.upper()


async def test_another_shouter_takes_over(network: Network) -> None:
    a, b, c = await network.nodes("a", "b", "c")
    for node in (b, c):
        await node.register_agent(f"shouter-{node.node_id}", ["shout"], handler=shout)

    network.partition(["b"], ["a", "c"])
    await asyncio.sleep(30)  # takes no time: the clock is virtual
    [left] = [agent for agent in a.agents("shout") if agent.status is NodeStatus.ACTIVE]
    assert await a.request(left.agent_id, b"hey") == b"HEY"

    network.heal()
    await network.settled()
    await network.crash("c")
    assert await a.request("shouter-b", b"ho") == b"HO"
