"""A node in a process of its own, for tests: joins, says where it is, runs until its input ends.

In: one argument, JSON: node_id, bootstrap, settings of NetworkConfig.  Out: one line, JSON: addresses.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from agentnet import AgentMessage, AgentNetworkManager, NetworkConfig, run


async def main(order: dict[str, Any]) -> None:
    node_id = order["node_id"]
    async with AgentNetworkManager(node_id, NetworkConfig(**order["settings"])) as net:
        counted: list[bytes] = []

        @net.agent(f"echo-{node_id}", ["echo"])
        async def echo(message: AgentMessage) -> bytes:
            return message.payload

        @net.agent(f"count-{node_id}")
        async def count(message: AgentMessage) -> int:
            if message.payload:
                counted.append(message.payload)
            return len(counted)

        @net.agent(f"stuck-{node_id}")
        async def stuck(message: AgentMessage) -> None:
            await asyncio.Event().wait()

        await net.join_network(order["bootstrap"])
        print(json.dumps({"addresses": net.addresses}), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    run(main(json.loads(sys.argv[1])))
