from typing import Any, Self

from typing_extensions import disjoint_base

from agentnet_core.message import AgentMessage
from agentnet_core.streams import Reader, Streams

@disjoint_base
class Taker(Reader): ...

@disjoint_base
class Input:
    """What a handler reads: `async for part in message.parts()`. `position`: of the next part to come."""

    def __new__(cls, taker: Taker) -> Self: ...
    @property
    def position(self) -> int: ...
    def __aiter__(self) -> Self: ...
    async def __anext__(self) -> Any: ...

@disjoint_base
class Inputs(Streams):
    @property
    def takers(self) -> dict[tuple[str, int, int], Taker]: ...
    def open_input(self, request: AgentMessage) -> Input: ...
