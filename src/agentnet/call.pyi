import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextvars import Context
from typing import Any, NamedTuple, TypeVar

from typing_extensions import disjoint_base

from agentnet_core.message import AgentMessage
from agentnet_core.recalls import Pending

_T = TypeVar("_T")

class Fate(NamedTuple):
    """What became of a request; None where that is not known.

    ``gave_up``: the asker gave up before it had an answer. ``stopped``: nobody works on it any more, at the
    other side either. ``committed``: its handler had finished; False: the handler was stopped in its midst,
    failed, or never began.
    """

    gave_up: bool
    stopped: bool | None
    committed: bool | None

@disjoint_base
class Waker:
    """Wakes the tasks whose awaited have come: those of one turn in one callback of the loop."""

    def __new__(cls, loop: asyncio.AbstractEventLoop) -> Waker: ...
    def run(self) -> None: ...

class Awaited(Pending, Awaitable[_T]):
    """What is to come; it has the methods of an `asyncio.Future`. Of a send: its Receipt."""

    def __class_getitem__(cls, item: Any, /) -> Any: ...
    def __init__(self, waker: Waker) -> None: ...
    _asyncio_future_blocking: bool
    @property
    def _cancel_message(self) -> Any: ...
    def _make_cancelled_error(self) -> asyncio.CancelledError: ...
    def cancel(self, msg: Any | None = None) -> bool:
        """Give it up: who awaits it is cancelled, and so is a remote handler. False if it was over."""

    def cancelled(self) -> bool: ...
    def done(self) -> bool: ...
    def result(self) -> _T: ...
    def exception(self) -> BaseException | None: ...
    def get_loop(self) -> asyncio.AbstractEventLoop: ...
    def add_done_callback(self, function: Callable[[Any], object], *, context: Context | None = None) -> None:
        """Call `function` with this when it is over: as of an `asyncio.Future`."""

    def remove_done_callback(self, function: Callable[[Any], object]) -> int:
        """Do not call it; how often it would have been called."""

    def __await__(self) -> Generator[Any, Any, _T]: ...
    def __iter__(self) -> Generator[Any, Any, _T]: ...
    def __next__(self) -> Any: ...
    def throw(self, error: Any, value: Any = None, traceback: Any = None) -> Any: ...

class Call(Awaited[_T]):
    """The answer to a request, to come."""

    def learn(self, outcome: AgentMessage | Exception | None) -> None: ...
    def give_up(self) -> asyncio.Future[Fate]:
        """Wait for the answer no more; await the result to learn what became of the request, as a `Fate`.

        That takes a round trip, or `recall_ms_max` where no word comes. Of a request that was answered
        it is known at once; one that was cancelled or timed out before has been given up already.
        """
