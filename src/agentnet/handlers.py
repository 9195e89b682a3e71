"""How a user's function is called: what its shape says, in which thread, and what is told of its failure.

In: any callable of one argument.  Out: an async function of one AgentMessage; a payload that the declared
type does not fit is a Refusal, and the function is not called.  What cannot be a handler is a
ConfigError, at once.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from agentnet.payload import declared_type, decode, to_bytes
from agentnet.streams import Refusal, in_parts
from agentnet_core.errors import ConfigError, NotRunning, PayloadMismatch
from agentnet_core.message import AgentMessage
from agentnet_core.route import SENT

if TYPE_CHECKING:
    from agentnet_core.engine import Engine

Handler = Callable[[Any], Any]
Health = Callable[[], Any]
"""Of no argument, plain or async: None when the agent is well, else a text that says why not."""

THREAD_LOOK_S = 1.0
"""How often a thread that waits for the loop looks whether there still is one."""
TEXT_CHARS_MAX = 500
"""What is told of an exception."""


class HandlerThreads(ThreadPoolExecutor):
    """Where plain functions are called. ``labels``: of the agents whose function runs now, by call."""

    def __init__(self, node_id: str, count: int) -> None:
        super().__init__(count, thread_name_prefix=f"agentnet-{node_id}")
        self.labels: dict[object, str] = {}

    async def result(self, label: str, handler: Handler, argument: Any) -> Any:
        """What the function returns; awaited if it can be: a lambda around an async one looks plain."""
        answers: list[Any] = []
        abandoned = begun = False

        def call() -> Any:
            nonlocal begun
            begun = True
            answers.append(self._call(label, handler, argument))
            if abandoned:
                _close(answers)
            return answers[0]

        try:
            answer = await asyncio.get_running_loop().run_in_executor(self, call)
        except asyncio.CancelledError as error:
            if begun and not answers:
                error.runs_on = True  # type: ignore[attr-defined]
            abandoned = True  # its thread cannot be cancelled, and nobody awaits what it returns
            _close(answers)
            raise
        return await answer if inspect.isawaitable(answer) else answer

    def _call(self, label: str, handler: Handler, argument: Any) -> Any:
        call = object()
        self.labels[call] = label
        try:
            return handler(argument)
        finally:
            del self.labels[call]


def wait_in_thread(loop: asyncio.AbstractEventLoop, start: Callable[[], Awaitable[None]]) -> Awaitable[None]:
    """Let the loop of a node await what ``start`` returns there, and this thread wait for that.

    NotRunning, not definite, if the loop ends before: nobody would ever tell this thread.
    """

    async def work() -> None:
        await start()

    if loop.is_closed():
        raise NotRunning("the event loop of this node has ended")
    working = work()
    future = asyncio.run_coroutine_threadsafe(working, loop)
    while not wait([future], THREAD_LOOK_S).done:
        if loop.is_closed():
            working.close()
            raise NotRunning("the event loop of this node has ended; the outcome is unknown", definite=False)
    future.result()
    return cast(Awaitable[None], SENT)


def _close(answers: list[Any]) -> None:
    """A coroutine that is dropped without being awaited says so on stderr."""
    for answer in answers:
        if inspect.iscoroutine(answer):
            answer.close()


@dataclass(frozen=True, slots=True)
class HandlerShape:
    """How a handler is called: whether it is ``async``, the type that it declares, whether it yields."""

    is_async: bool
    hint: Any
    is_stream: bool = False

    @property
    def is_plain(self) -> bool:
        """It is an async function of one AgentMessage already."""
        return self.is_async and self.hint is None and not self.is_stream


def shape_of(handler: Handler, label: str) -> HandlerShape:
    """How ``handler`` is called; ConfigError if it is none. Many agents may share what this found."""
    if not callable(handler):
        raise ConfigError(f"agent {label}: handler {handler!r} is not callable")
    try:
        signature = inspect.signature(handler)
    except (ValueError, TypeError):
        signature = None  # some functions written in C have none
    try:
        if signature is not None:
            signature.bind(None)
    except TypeError as error:
        raise ConfigError(
            f"agent {label}: a handler takes one argument, the message; {handler!r} has {signature}: {error}"
        ) from None
    try:
        hint = declared_type(handler)
    except NameError as error:
        raise ConfigError(f"agent {label}: the type of the argument of {handler!r}: {error}") from None
    is_stream = inspect.isasyncgenfunction(handler) or inspect.isasyncgenfunction(_call_of(handler))
    return HandlerShape(is_async(handler), hint, is_stream)


def check_health(health: Health, label: str) -> None:
    """ConfigError if it is no health function."""
    if not callable(health):
        raise ConfigError(f"agent {label}: health {health!r} is not callable")
    try:
        inspect.signature(health).bind()
    except TypeError as error:
        raise ConfigError(f"agent {label}: health takes no argument; {health!r}: {error}") from None
    except ValueError:
        pass  # some functions written in C have no signature


def is_async(function: Callable[..., Any]) -> bool:
    """Whether what it returns is awaited, as far as that can be told before it is called."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(_call_of(function))


def _call_of(function: Callable[..., Any]) -> Any:
    """What runs when it is called."""
    plain = inspect.isroutine(function) or isinstance(function, type)
    return function if plain else cast(Any, function).__call__


def prepare_handler(
    handler: Handler, shape: HandlerShape, label: str, threads: HandlerThreads, engine: Engine
) -> Handler:
    """``handler`` as an async function of one AgentMessage."""
    if shape.is_stream:
        return in_parts(handler, partial(argument_of, shape.hint, label), engine, to_bytes)

    async def handle(message: AgentMessage) -> Any:
        argument = argument_of(shape.hint, label, message)
        if shape.is_async:
            return await handler(argument)
        return await threads.result(label, handler, argument)

    return handle


def argument_of(hint: Any, label: str, message: AgentMessage) -> Any:
    """What the handler of agent ``label``, which declares ``hint``, is called with."""
    if hint is None:
        return message
    try:
        return decode(message, hint, f"agent {label}")
    except PayloadMismatch as error:
        raise Refusal(error) from None


def say(error: BaseException) -> str:
    """Class and text of an exception, short enough for a log and for the wire."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - the user's own code, which may raise anything
        text = "(its text cannot be made)"
    if len(text) > TEXT_CHARS_MAX:
        text = text[: TEXT_CHARS_MAX - 3] + "..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
