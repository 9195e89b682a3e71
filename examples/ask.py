"""Has the agents of workers.py search files: python ask.py ADDRESS PATTERN FILES..."""

import asyncio
import os
import sys
from itertools import cycle
from pathlib import Path

from workers import Hit, Search

from agentnet import Agent, AgentNetworkManager, NetworkConfig, NetworkError


def read(path: Path, pattern: str) -> Search:
    return Search(pattern, path.read_text(errors="replace"))


async def search(me: Agent, searcher: int, pattern: str, path: Path) -> None:
    task = await asyncio.to_thread(read, path, pattern)
    try:
        hits = await me.request(searcher, task, reply=list[Hit], timeout=10)
    except NetworkError as error:
        known = "surely not searched" if error.definite else "perhaps searched"
        print(f"{path}: {known}: {error}", file=sys.stderr)
        return
    for hit in hits:
        print(f"{path}:{hit.line}: {hit.text}")


async def main(address: str, pattern: str, *paths: str) -> None:
    config = NetworkConfig(listen=[])  # it dials others, and nobody dials it
    async with AgentNetworkManager(f"asker-{os.getpid()}", config) as net:
        await net.join_network([address])
        me = await net.register_agent(f"asker-{os.getpid()}")
        searchers = cycle(agent.agent_id for agent in net.agents("search"))
        await asyncio.gather(*(search(me, next(searchers), pattern, Path(path)) for path in paths))


asyncio.run(main(*sys.argv[1:]))
