"""A node in a process of its own, for tests: joins, says where it is, runs until its input ends.

In: one argument, JSON: node_id, bootstrap, settings of NetworkConfig; then lines: the node to ask for an echo
of so many bytes.  Out: lines of JSON: first the addresses, then each event as [kind, node id], and what an
echo was: [what came, the node that relays the link].
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

from agentnet import AgentMessage, AgentNetworkManager, Event, NetworkConfig, NetworkError, run


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def hold(seconds: float) -> None:
    """Keep the interpreter lock, as C code may: a call that does not let go of it."""
    ctypes.PyDLL(None).sleep(int(seconds))


BLOCKS = {"sleep": sleep, "spin": spin, "hold": hold}


async def tell(events: AsyncIterator[Event]) -> None:
    async for event in events:
        print(json.dumps([event.kind, event.node_id]), flush=True)


async def ask(net: AgentNetworkManager, node_id: str, size: int) -> None:
    payload = bytes(size)
    try:
        said = "same" if await net.request(f"echo-{node_id}", payload) == payload else "another"
    except NetworkError as error:
        said = f"{type(error).__name__}: {error}"
    relay = next(member.relay for member in net.members() if member.node_id == node_id)
    print(json.dumps({"said": said, "relay": relay}), flush=True)


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

        @net.agent(f"block-{node_id}")
        async def block(message: AgentMessage) -> None:
            how, seconds = message.payload.decode().split()
            BLOCKS[how](float(seconds))

        events = net.events()
        await net.join_network(order["bootstrap"])
        print(json.dumps({"addresses": net.addresses}), flush=True)
        telling = asyncio.create_task(tell(events))
        while line := await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline):
            await ask(net, line.split()[0], int(line.split()[1]))
        telling.cancel()


if __name__ == "__main__":
    run(main(json.loads(sys.argv[1])))
