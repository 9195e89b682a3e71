"""An event loop on virtual time: when there is nothing left to do, it is the time of what comes next.

A sleep of an hour is one step. Nothing here sleeps, opens a socket or starts a thread, and nothing
depends on an address in memory, so that one seed is one history. A turn of the loop takes a
microsecond, and so does a look at the clock: whoever polls, or works until a time has passed, gets there.

Callbacks belong to a Process, or to the test itself: a process can be stopped, and what it would do waits;
or killed, and then no code of it ever runs again, as after SIGKILL.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import threading
from asyncio import events
from collections.abc import Callable, Iterator
from contextvars import Context
from dataclasses import dataclass
from types import SimpleNamespace, TracebackType
from typing import Any, NoReturn, TypeVarTuple, Unpack, cast

from agentnet.agent import Agent
from agentnet.doors import Doors
from agentnet.host import Host
from agentnet.manager import AgentNetworkManager
from agentnet.runner import Runner
from agentnet.sim.clock import Clock

Ts = TypeVarTuple("Ts")

TURN_NS = 1_000
QUIET_S = 120.0
"""After so long without anything but the upkeep of nodes, nothing will ever come: it must be longer than
every interval of theirs."""
POLL_NS_MAX = 10 * TURN_NS
"""A test that goes on again so soon only looks whether something has come."""
TURNS_MAX = 500_000
"""Turns of the loop while the test does not go on, or only polls: six hours of three idle nodes."""
WAITING_MAX = 20
"""Tasks that are told of."""


class Stalled(AssertionError):
    """Nothing can happen any more that the test, or an agent, waits for; or it takes too many turns."""


class Process:
    """Whose code a callback is. ``held``: what it is to do when it goes on."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stopped = False
        self.held: list[Handle | Timer] = []

    def go_on(self, loop: VirtualLoop) -> None:
        """Do what was held, in its order."""
        self.stopped = False
        held, self.held = self.held, []
        for handle in held:
            loop.resume(handle)


@dataclass(frozen=True, kw_only=True)
class VirtualHost(Host):
    """The host of one process."""

    process: Process


class Upkeep:
    """Base of what carries bytes for ``process``: its callbacks alone are no sign of life."""

    process: Process


class _Owned:
    """A handle that knows its process, and is held back with it."""

    __slots__ = ()
    _loop: VirtualLoop
    process: Process | None

    def _run(self) -> None:
        process, loop = self.process, self._loop
        if process is not None and process.stopped:
            process.held.append(self)  # type: ignore[arg-type]  # it is one of the two below
            return
        outer, loop.acting = loop.acting, process
        try:
            super()._run()  # type: ignore[misc]  # that of the other base
        finally:
            loop.acting = outer


class Handle(_Owned, asyncio.Handle):
    __slots__ = ("process",)


class Timer(_Owned, asyncio.TimerHandle):
    __slots__ = ("process", "upkeep")


class Future(asyncio.Future[Any]):
    """Its hash is its number, so that sets of them have the same order in every run."""

    def __init__(self, *, loop: VirtualLoop) -> None:
        self.number = loop.next_number()
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.number


class Task(asyncio.Task[Any]):
    """Belongs to the process of what made it. ``upkeep``: it dials for a node."""

    def __init__(self, coro: Any, *, loop: VirtualLoop, **options: Any) -> None:
        self.number = loop.next_number()
        self.process = loop.process_of(coro)
        self.upkeep = getattr(coro, "cr_code", None) is Doors.dial.__code__
        super().__init__(coro, loop=loop, **options)

    def __hash__(self) -> int:
        return self.number


class VirtualLoop(asyncio.BaseEventLoop):
    """Driven by ``clock``: what that is to do and the timers of the loop come in the order of their times.

    ``expecting``: says whether something is under way that ends by itself, such as a request.
    """

    def __init__(self, clock: Clock, expecting: Callable[[], bool] = lambda: False) -> None:
        super().__init__()
        self.clock = clock
        self.expecting = expecting
        self.turns_max = TURNS_MAX
        self.quiet_s = QUIET_S
        self.acting: Process | None = None
        self.failure: BaseException | None = None
        """What a callback raised: it would be a line in a log, and nobody's failure."""
        self.passed = 0
        """Turns of the loop so far."""
        self._turns = 0
        self._numbers = 0
        self._active_ns = self._went_on_ns = clock.now_ns
        self._main: asyncio.Future[Any] | None = None
        self._ready: Any
        self._scheduled: list[Any]
        self._thread_id: int | None
        self._selector = SimpleNamespace(select=self._pass_time)
        self._clock_resolution = 1e-9
        self.set_exception_handler(_fail)
        self.set_task_factory(lambda loop, coro, **options: Task(coro, loop=self, **options))

    # -- time

    def time(self) -> float:
        return self.clock.now_ns / 1e9

    def read_clock(self) -> int:
        """Nanoseconds, for whoever works until a time has passed."""
        self.clock.now_ns += TURN_NS
        return self.clock.now_ns

    def _pass_time(self, timeout: float | None) -> tuple[()]:
        """In place of a selector: let happen what is due, or else let the time of the next thing come."""
        clock, next_ns = self.clock, self.clock.next_ns
        self.passed += 1
        self._turns += 1
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        if self._turns > self.turns_max:
            self._turns = 0
            raise Stalled(
                f"the test waited for {self.turns_max} turns of the loop (turns_max){self._waits()}"
            )
        if timeout == 0:
            clock.now_ns += TURN_NS
            while next_ns is not None and next_ns <= clock.now_ns:
                clock.step()
                next_ns = clock.next_ns
            return ()
        if timeout is None and next_ns is None:
            raise Stalled(f"nothing is to come any more{self._waits()}")
        if clock.now_ns - self._active_ns > self.quiet_s * 1e9:
            self._check_quiet()
        timer_ns = None if timeout is None else clock.now_ns + math.ceil(timeout * 1e9)
        if timer_ns is None or (next_ns is not None and next_ns <= timer_ns):
            clock.step()
        else:
            clock.now_ns = timer_ns
        return ()

    def _process_events(self, event_list: tuple[()]) -> None:
        """There are none."""

    def _check_quiet(self) -> None:
        coming = [timer.when() for timer in self._scheduled if not (timer.cancelled() or timer.upkeep)]
        if coming:
            self._active_ns = int(min(coming) * 1e9)
        elif self.expecting():
            self._active_ns = self.clock.now_ns
        else:
            self._active_ns = self.clock.now_ns  # whoever runs the loop again gets as long again
            raise Stalled(f"nothing has happened for {self.quiet_s:g} s of virtual time{self._waits()}")

    # -- whose a callback is

    def process_of(self, target: object) -> Process | None:
        """That of what is called, or else of who asked for it."""
        if isinstance(target, Task):
            return target.process
        if isinstance(target, Runner):  # it may be anyone's turn that starts it
            target = cast(Agent, target.port)._net
        if isinstance(target, AgentNetworkManager) and isinstance(target.host, VirtualHost):
            return target.host.process
        if isinstance(target, Upkeep):
            return target.process
        task = asyncio.current_task(self) if self.is_running() else None
        return task.process if isinstance(task, Task) else self.acting

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _whose(self, callback: Any, args: tuple[Any, ...]) -> tuple[Process | None, bool]:
        """Process, and whether it is upkeep."""
        target = getattr(callback, "__self__", None)
        if args and isinstance(args[0], Task) and not isinstance(target, Task):
            target = args[0]  # a callback of a task that has ended
        upkeep = isinstance(target, (AgentNetworkManager, Upkeep)) or (
            isinstance(target, Task) and target.upkeep
        )
        if target is self._main:
            if self.clock.now_ns - self._went_on_ns > POLL_NS_MAX:
                self._turns = 0
            self._went_on_ns = self.clock.now_ns
        return self.process_of(target), upkeep

    # -- callbacks

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        self._check_open()
        handle = Handle(callback, args, self, context)
        handle.process, upkeep = self._whose(callback, args)
        if not upkeep:
            self._active_ns = self.clock.now_ns
        self._ready.append(handle)
        return handle

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        self._check_open()
        timer: Any = Timer(when, callback, args, self, context)
        timer.process, timer.upkeep = self._whose(callback, args)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True  # as the base expects
        return timer  # type: ignore[no-any-return]

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        if self.is_running() and threading.get_ident() != self._thread_id:
            raise RuntimeError("a thread calls into virtual time, and no seed decides when: use real=True")
        return self.call_soon(callback, *args, context=context)

    def _check_open(self) -> None:
        if self.is_closed():
            raise RuntimeError("Event loop is closed")

    def resume(self, handle: Handle | Timer) -> None:
        """Run it after all, unless it was cancelled meanwhile."""
        if not handle.cancelled():
            self._ready.append(handle)

    def create_future(self) -> Future:
        return Future(loop=self)

    def run_in_executor(self, executor: object, func: Callable[..., Any], *args: Any) -> Future:  # type: ignore[override]
        """Call it in place, in a turn of its own: there are no threads. It takes no virtual time."""
        future = self.create_future()
        self.call_soon(self._call_here, future, func, args)
        return future

    def _call_here(self, future: Future, func: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if future.cancelled():
            return
        events._set_running_loop(None)  # as in a thread
        try:
            result = func(*args)
        except Exception as error:  # noqa: BLE001 - whatever it raises belongs to who awaits it
            future.set_exception(error)
        else:
            future.set_result(result)
        finally:
            events._set_running_loop(self)

    def run_until_complete(self, future: Any) -> Any:
        """As of any loop; Stalled, with all that waits, if that can never end."""
        outer, self._main = self._main, asyncio.ensure_future(future, loop=self)
        self._turns, self._active_ns = 0, self.clock.now_ns
        try:
            return super().run_until_complete(self._main)
        except Stalled as stalled:
            # Told with the place where the test waits, rather than one in here.
            raise stalled.with_traceback(self._unwind(self._main)) from None
        finally:
            self._main = outer

    def _unwind(self, main: asyncio.Future[Any]) -> TracebackType | None:
        """Cancel it, let it end, and tell where it was."""
        main.cancel()
        try:
            super().run_until_complete(main)
        except (asyncio.CancelledError, Exception) as error:  # noqa: BLE001 - it has failed already
            return error.__traceback__
        return None

    # -- what waits

    def tasks(self) -> list[Task]:
        """Those that have not ended, the oldest first."""
        tasks = [task for task in asyncio.all_tasks(self) if isinstance(task, Task)]
        return sorted(tasks, key=lambda task: task.number)

    def _waits(self) -> str:
        lines = list(self._waiting())
        if len(lines) > WAITING_MAX:
            lines[WAITING_MAX:] = [f"and {len(lines) - WAITING_MAX} more"]
        return "; what waits:" + "".join(f"\n  {line}" for line in lines) if lines else "; nothing waits"

    def _waiting(self) -> Iterator[str]:
        for task in self.tasks():
            coro: Any = task.get_coro()
            if task.upkeep or (isinstance(coro, Runner) and coro.idle):
                continue
            name = "the test" if task is self._main else task.get_name()
            process = task.process
            where = f" on node {process.name}" if process is not None else ""
            if process is not None and process.stopped:
                where += ", which is paused or has crashed"
            yield f"{name}{where}{_place(coro)}"


def _fail(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    assert isinstance(loop, VirtualLoop)
    error = context.get("exception")
    if "handle" in context and isinstance(error, BaseException):
        loop.failure = error
    else:
        loop.default_exception_handler(context)


def _place(coro: Any) -> str:
    """Where a coroutine waits, from the outermost to the innermost."""
    if isinstance(coro, Runner):
        coro = coro.inner
    places = []
    while (frame := getattr(coro, "cr_frame", None)) is not None:
        places.append(f"{frame.f_code.co_filename}:{frame.f_lineno} ({frame.f_code.co_name})")
        coro = coro.cr_await
    return "".join(f"\n    at {place}" for place in places)


def _refuse(name: str) -> Callable[..., NoReturn]:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise RuntimeError(f"loop.{name}: there is no I/O on virtual time; let this test be one of real=True")

    return refuse


for _name in (
    *("add_reader", "add_signal_handler", "add_writer", "connect_accepted_socket", "connect_read_pipe"),
    *("connect_write_pipe", "create_connection", "create_datagram_endpoint", "create_server"),
    *("create_unix_connection", "create_unix_server", "getaddrinfo", "getnameinfo", "sendfile"),
    *("sock_accept", "sock_connect", "sock_recv", "sock_recv_into", "sock_sendall", "sock_sendfile"),
    *("subprocess_exec", "subprocess_shell"),
):
    setattr(VirtualLoop, _name, _refuse(_name))
