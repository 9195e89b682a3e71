import asyncio

from agentnet import AgentMessage, AgentNetworkManager


async def main() -> None:
    async with AgentNetworkManager("alpha") as alpha, AgentNetworkManager("beta") as beta:

        @alpha.agent("reader", capabilities=["read"])
        async def reader(message: AgentMessage) -> dict[str, int]:
            return {"words": len(message.payload.split()), "bytes": len(message.payload)}

        await alpha.join_network()  # nobody to join: this founds a network
        await beta.join_network(alpha.addresses)  # returns when alpha's agents are known here
        writer = await beta.register_agent("writer")
        [found] = beta.agents(capability="read")  # on whatever node they live
        answer = await writer.request(found.agent_id, b"no server to run")
        print(f"{found.name} on {found.node_id}: {answer}")


asyncio.run(main())
