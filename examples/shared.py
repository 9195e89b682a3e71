"""Two nodes share state: a counter, a set, and a document whose concurrent versions are merged."""

import asyncio

from agentnet import AgentNetworkManager, ConsistencyLevel, DistributedState


async def main() -> None:
    async with AgentNetworkManager("alpha") as alpha, AgentNetworkManager("beta") as beta:
        await alpha.join_network([])
        await beta.join_network(alpha.addresses)

        done = beta.counter("done")
        changes = done.changes()
        await alpha.set("files").add("a.txt")
        await alpha.counter("done").increment()  # at once here, on its way to the others
        await anext(changes)  # and there
        print("beta:", done.value, beta.set("files").value)

        plan = DistributedState(state_id="plan", data=b"read", consistency_level=ConsistencyLevel.QUORUM)
        receipt = await alpha.sync_state(plan)  # a majority of the nodes has it now
        print("in memory of:", sorted(receipt.in_memory))
        found = await beta.get_state("plan", consistency=ConsistencyLevel.QUORUM)
        print("beta:", found.data if found else None)


asyncio.run(main())
