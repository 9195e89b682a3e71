import asyncio
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Self

from typing_extensions import disjoint_base

from agentnet_core.message import AgentMessage, Origin
from agentnet_core.port import Port, Work

@disjoint_base
class Runner(Work, Coroutine[Any, None, None]):
    task: asyncio.Task[None]
    def __new__(
        cls,
        port: Port,
        handler: Callable[[AgentMessage], Coroutine[Any, Any, Any]],
        loop: asyncio.AbstractEventLoop,
        report: Callable[[AgentMessage, BaseException], asyncio.Future[None] | None],
        monotonic_ns: Callable[[], int],
    ) -> Self: ...
    @property
    def inner(self) -> Any: ...
    @property
    def idle(self) -> bool: ...
    def unpark(self) -> None: ...
    @property
    def recalls(self) -> int: ...
    def begin(self, message: AgentMessage) -> None:
        """Be there for that message only."""

    def retire(self) -> None: ...
    def recall(self, origin: Origin, correlation: int) -> None:
        """Cancel the handler if it is at that request of that node, or at any of it if that is 0."""

    def strike(self, message: AgentMessage) -> None: ...
    def __await__(self) -> Generator[Any]: ...
    def __iter__(self) -> Runner: ...
    def __next__(self) -> Any: ...
    def send(self, value: Any) -> Any: ...
    def throw(self, error: Any, value: Any = None, traceback: TracebackType | None = None) -> Any: ...
    def close(self) -> None: ...

def settle(
    items: list[tuple[asyncio.Future[Any], AgentMessage | Exception | None, Any]],
    decode: Callable[[AgentMessage, Any], Any],
) -> None: ...
