"""What a receipt says, of a message that is kept on the disk and of one that is not.

python examples/receipts.py [FOLDER]
"""

from __future__ import annotations

import asyncio
import sys
import tempfile

from agentnet import AgentMessage, AgentNetworkManager, Delivery, NetworkConfig


async def main(folder: str) -> None:
    desk = NetworkConfig(listen=["tcp://127.0.0.1:0"], data_dir=f"{folder}/desk")
    office = NetworkConfig(listen=["tcp://127.0.0.1:0"], data_dir=f"{folder}/office")
    async with AgentNetworkManager("desk", desk) as here, AgentNetworkManager("office", office) as there:
        await here.join_network([])
        await there.join_network(here.addresses)
        writer = await here.register_agent("writer")

        # Nobody of that name is there yet: it is on the disk, and goes when there is.
        print(await writer.send("clerk", b"a form", delivery=Delivery.DURABLE))

        @there.agent("clerk")
        async def clerk(message: AgentMessage) -> None:
            print("clerk:", message.payload.decode())

        print(await writer.send("clerk", b"another", delivery=Delivery.DURABLE, until="processed"))
        print(await writer.send("clerk", b"a remark", delivery=Delivery.ACKNOWLEDGED))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()))
