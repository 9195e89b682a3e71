"""Answers and inputs in parts, as users see them: who asks iterates, and the handler is an async generator.

In: a Reader of the engine, or an async generator function.  Out: an async iterator that leaves nothing
behind, however it is left; a handler like any other.  The engine waits for who reads too slowly.  The input
is an async iterator too, which a task of its own reads, at most a window ahead of the handler.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from agentnet_core.errors import NetworkError, StreamLost
from agentnet_core.message import AgentMessage

if TYPE_CHECKING:
    from agentnet_core.engine import Engine
    from agentnet_core.streams import Reader, Writer

T = TypeVar("T")


class Stream(Generic[T]):
    """The parts of an answer: `async for part in stream`.

    Leaving it (`aclose`, `async with`, or dropping it) cancels the remote generator. ``position``: of the
    next part that comes; the parts before it have come.
    """

    def __init__(
        self,
        reader: Reader,
        decode: Callable[[AgentMessage, Any], Any],
        hint: Any,
        feeding: asyncio.Task[None] | None = None,
    ) -> None:
        self._reader = reader
        self._decode = decode
        self._hint = hint
        self._feeding = feeding

    @property
    def position(self) -> int:
        return self._reader.position

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while True:
            try:
                part = self._reader.take()
            except StopIteration:
                self._end()
                raise StopAsyncIteration from None
            except BaseException:
                self._end()
                raise
            if part is not None:
                plain = self._hint is None and not part.is_value
                answer: T = part.payload if plain else self._decode(part, self._hint)  # type: ignore[assignment]
                return answer
            await self._reader.wait()

    async def aclose(self) -> None:
        """Read no more: the remote generator is closed."""
        self._end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def __del__(self) -> None:
        self._end()

    def _end(self) -> None:
        self._reader.close()
        if self._feeding is not None:
            self._feeding.cancel()


async def feed(
    reader: Reader,
    giver: Writer,
    source: AsyncIterable[Any],
    engine: Engine,
    to_bytes: Callable[[Any], tuple[bytes, int]],
) -> None:
    """Give all that ``source`` has as the input of a stream; what it raises ends the stream."""
    parts: Any = aiter(source)
    try:
        async for part in parts:
            body, content = (part, 0) if type(part) is bytes else to_bytes(part)
            token = giver.put(body, content)
            if token is not None:
                await token
        giver.put(b"", 0, True)
    except Exception as error:  # noqa: BLE001 - of the user's own iterator; who reads the answer gets it
        if giver.error is None and not reader.over:
            engine.cancel_stream(reader, error)
    finally:
        close = getattr(parts, "aclose", None)
        if close is not None:
            await close()


class Refusal(Exception):
    """What who asked is told instead of an answer; the handler was not called, or is not at fault."""

    def __init__(self, error: NetworkError) -> None:
        self.error = error


def in_parts(
    handler: Callable[[Any], AsyncIterator[Any]],
    argument_of: Callable[[AgentMessage], Any],
    engine: Engine,
    to_bytes: Callable[[Any], tuple[bytes, int]],
) -> Callable[[AgentMessage], Any]:
    """An async generator function as a handler whose answers go out part by part."""

    async def handle(message: AgentMessage) -> bytes:
        argument = argument_of(message)
        try:
            writer = engine.open_writer(message)
        except NetworkError as error:
            raise Refusal(error) from None
        parts: Any = handler(argument)
        try:
            async for part in parts:
                body, content = (part, 0) if type(part) is bytes else to_bytes(part)
                try:
                    token = writer.put(body, content)
                except StreamLost:
                    break
                if token is not None:
                    await token
        finally:
            await parts.aclose()
        return b""

    return handle
