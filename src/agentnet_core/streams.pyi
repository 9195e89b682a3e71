from typing import Any

from typing_extensions import disjoint_base

from agentnet_core.message import AgentMessage, Origin
from agentnet_core.overflow import Overflow
from agentnet_core.port import Port

@disjoint_base
class Reader:
    def __new__(cls) -> Reader: ...
    @property
    def correlation(self) -> int: ...
    @property
    def to(self) -> int | str: ...
    @property
    def position(self) -> int: ...
    @property
    def over(self) -> bool: ...
    @property
    def adrift(self) -> bool: ...
    @property
    def giver(self) -> Writer | None: ...
    def take(self) -> AgentMessage | None:
        """The next part, or None: then `wait` for one; raises what the stream ended with, StopIteration at
        its end."""

    def wait(self) -> Any:
        """Something to await, until there is a part, or there will be none."""

    def close(self) -> None:
        """Nobody reads it any more: the other side stops, and nothing of it stays."""

@disjoint_base
class Writer:
    def __new__(cls) -> Writer: ...
    @property
    def request(self) -> AgentMessage: ...
    @property
    def over(self) -> bool: ...
    @property
    def adrift(self) -> bool: ...
    @property
    def error(self) -> Exception | None: ...
    def put(
        self, payload: bytes, content: int = 0, last: bool = False, failure: tuple[int, bytes] | None = None
    ) -> Any | None:
        """Say one more part; None, or something to await before the next one.

        Raises StreamLost, or what the stream has ended with, if nobody is there to hear it.
        """

@disjoint_base
class Streams(Overflow):
    @property
    def readers(self) -> dict[int, Reader]: ...
    @property
    def writers(self) -> dict[tuple[str, int, int], Writer]: ...
    def stream(
        self, asker: Port, to: int | str, payload: Any, idle: float | None, gives: bool = False
    ) -> Reader: ...
    def cancel_stream(self, reader: Reader, error: Exception | None) -> None: ...
    def open_writer(self, request: AgentMessage) -> Writer: ...
    def drop_stream(self, origin: Origin, correlation: int) -> None: ...
