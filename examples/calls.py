"""A call that is given up, a chain of calls, an answer in parts, and an input in parts.

python examples/calls.py
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from agentnet import AgentMessage, AgentNetworkManager, NetworkConfig

HOST = NetworkConfig(listen=["tcp://127.0.0.1:0"])


async def pages() -> AsyncIterator[str]:
    for number in (1, 2, 3):
        yield f"page {number}"


async def main() -> None:
    async with AgentNetworkManager("desk", HOST) as desk, AgentNetworkManager("office", HOST) as office:
        await desk.join_network([])
        await office.join_network(desk.addresses)
        begun = asyncio.Event()

        async def archive(message: AgentMessage) -> str:
            begun.set()
            try:
                await asyncio.sleep(3600)
            finally:
                print("archive: stopped")
            return "too late"

        await office.register_agent("archive", handler=archive)
        clerk = await office.register_agent("clerk", handler=lambda message: clerk.request("archive", b""))
        boss = await desk.register_agent("boss")

        # Who gives up learns what became of it; what the clerk asked in turn is given up, too.
        call = boss.request("clerk", b"find it", timeout=60)
        await begun.wait()
        print(await call.give_up())

        async def copy(message: AgentMessage) -> AsyncIterator[str]:
            async for page in message.parts():
                yield f"copy of {page}"

        await office.register_agent("copier", handler=copy)
        # Both go on at the same time, neither is more than a window ahead of who reads it.
        async for page in boss.stream("copier", parts=pages()):
            print(page)

        async def bind(message: AgentMessage) -> int:
            return len([page async for page in message.parts()])

        await office.register_agent("binder", handler=bind)
        print(await boss.upload("binder", pages()), "pages bound")


if __name__ == "__main__":
    asyncio.run(main())
