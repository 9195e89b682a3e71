"""States of nodes on virtual time: partitions, crashes, and what a majority had acknowledged."""

from __future__ import annotations

import asyncio

from agentnet import AgentNetworkManager, ConsistencyLevel, TooFewReplicas
from agentnet.testing.virtual import VirtualNetwork

QUORUM = ConsistencyLevel.QUORUM


def play(seed: int) -> tuple[str, dict[str, int]]:
    """Two sides write apart; a majority acknowledges, a minority cannot; then all is one again."""
    network = VirtualNetwork(seed=seed)
    found: dict[str, int] = {}

    async def agree(nets: list[AgentNetworkManager], count: int) -> None:
        async with asyncio.timeout(60):
            while not all(net.counter("c").value == count for net in nets):
                await asyncio.sleep(0.1)

    async def main() -> None:
        nets = list(await network.nodes("a", "b", "c"))
        await nets[0].counter("c").increment(consistency=QUORUM)
        network.partition(["a"], ["b", "c"])
        await nets[1].counter("c").increment(consistency=QUORUM)
        try:
            await nets[0].counter("c").increment(consistency=QUORUM)
        except TooFewReplicas as error:
            found["definite"] = error.definite
        await nets[0].set("s").add("alone")
        await nets[2].set("s").add("together")
        network.heal()
        await agree(nets, 3)
        assert all(net.set("s").value == {"alone", "together"} for net in nets)
        await network.crash("c")
        await nets[1].counter("c").increment(consistency=QUORUM)
        late = await network.restart("c")
        await agree([*nets[:2], late], 4)
        found["refused"] = sum(net.stats()["states_refused"] for net in (*nets[:2], late))

    try:
        network.run(main())
        return network.trace, found
    finally:
        network.close()


def test_a_partition_and_a_crash() -> None:
    trace, found = play(7)
    assert found == {"definite": False, "refused": 0}
    assert play(7) == (trace, found)  # the same seed, the same history
