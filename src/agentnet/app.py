"""Runs agents as a program: on the best event loop there is, until it is told to stop.

`run` is for scripts. `load_app` and `serve` are what `agentnet run` is made of, and `run_until_stopped`
is the part that heeds signals: the first asks, the second does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import importlib
import inspect
import logging
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, TypeVar, cast

from agentnet.manager import AgentNetworkManager
from agentnet_core.errors import ConfigError
from agentnet_core.records import Event

T = TypeVar("T")
Setup = Callable[[AgentNetworkManager], Awaitable[object] | object]
App = AgentNetworkManager | Setup

EXPECTED = "expected MODULE:NAME, for example 'workers:setup' for `setup` in workers.py"
log = logging.getLogger("agentnet.app")


def run(main: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`, on uvloop where it is installed. In a notebook, await the coroutine instead."""
    if _in_loop():
        main.close()
        raise ConfigError("an event loop runs here already, as in a notebook: write `await main()` instead")
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(main)


def _in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def loop_factory() -> Any:
    """uvloop's event loop, or None for asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


# -- until a signal


class Stopped(Exception):
    """A signal asked the program to stop, and it did. ``signum``: which."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


def run_until_stopped(main: Coroutine[Any, Any, T], on_stop: Callable[[], object] = lambda: None) -> T:
    """As `run`, but SIGINT and SIGTERM cancel ``main``, and a second one ends the process at once.

    Stopped if ``main`` ended for a signal. For the main thread only, as signals are. ``on_stop`` is
    called in the first signal's handler.
    """
    asked: list[int] = []

    async def heeding() -> T:
        with _signals_cancel(asyncio.current_task(), asked, on_stop):
            return await main

    try:
        return run(heeding())
    except asyncio.CancelledError:
        if not asked:
            raise
        raise Stopped(asked[0]) from None


@contextlib.contextmanager
def _signals_cancel(
    task: asyncio.Task[Any] | None, asked: list[int], on_stop: Callable[[], object]
) -> Iterator[None]:
    assert task is not None
    loop = asyncio.get_running_loop()

    def on_signal(signum: int, frame: FrameType | None) -> None:
        if asked:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)
        asked.append(signum)
        on_stop()
        loop.call_soon_threadsafe(task.cancel)

    # Not loop.add_signal_handler: Windows has none, and a handler that blocks the loop would hold it up.
    before = {signum: signal.signal(signum, on_signal) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


# -- someone's agents


def load_app(target: str) -> App:
    """What ``MODULE:APP`` names; ConfigError if nothing fits."""
    app: Any = load_object(target)
    if not isinstance(app, AgentNetworkManager) and (not callable(app) or isinstance(app, type)):
        raise ConfigError(
            f"{target} is of type {type(app).__name__}: expected an AgentNetworkManager, or a function of one"
        )
    return cast(App, app)


def load_object(target: str) -> object:
    """What ``MODULE:NAME`` names, the working directory being searched first; ConfigError if nothing does."""
    module_name, colon, path = target.partition(":")
    if not colon or not path or not module_name.replace(".", "_").isidentifier():
        raise ConfigError(f"{target!r}: {EXPECTED}")
    if module_name.endswith(".py"):
        raise ConfigError(f"{target}: a module, not a file: write {module_name.removesuffix('.py')}:{path}")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    found: object = _import(module_name)
    for name in path.split("."):
        found = _attribute(found, name, target)
    return found


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _import_failed(name, error) from error
        raise ConfigError(
            f"there is no module {error.name!r} in {Path.cwd()} or where Python looks: {EXPECTED}"
        ) from None
    except Exception as error:
        raise _import_failed(name, error) from error


def _import_failed(name: str, error: Exception) -> ConfigError:
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = "" if isinstance(error, SyntaxError) else f" (at {place.filename}:{place.lineno})"
    return ConfigError(
        f"module {name!r} cannot be imported: {type(error).__name__}: {error}{where}; "
        f"`python -c 'import {name}'` shows all of it"
    )


def _attribute(parent: Any, name: str, target: str) -> Any:
    try:
        return getattr(parent, name)
    except AttributeError:
        near = difflib.get_close_matches(name, dir(parent), n=1)
        hint = f"did you mean {near[0]!r}?" if near else EXPECTED
        raise ConfigError(f"{target}: there is no {name!r} in it; {hint}") from None


async def serve(
    app: App, net: AgentNetworkManager, join: Sequence[str], on_ready: Callable[[AgentNetworkManager], None]
) -> None:
    """Be node ``net`` with the agents of ``app`` until cancelled; then leave, and tell what was not done."""
    try:
        events = net.events()
        await start(app, net, join)
        on_ready(net)
        async for event in events:
            log_event(event)
    finally:
        report = await net.leave_network()
        if not report.complete:
            log.warning("node %s has left: %s", net.node_id, report)


async def start(app: App, net: AgentNetworkManager, join: Sequence[str]) -> None:
    """Join as node ``net`` with the agents of ``app``.

    A function gets the manager before it joins. What it returns is awaited once it has joined, so a
    plain function declares agents, and an async one registers them.
    """
    setup = app(net) if not isinstance(app, AgentNetworkManager) else None
    try:
        await net.join_network(join)
    except BaseException:
        if inspect.iscoroutine(setup):
            setup.close()
        raise
    if inspect.isawaitable(setup):
        await setup


def log_event(event: Event) -> None:
    """One line for what an operator wants to know; agents come and go too often for more than DEBUG."""
    who = event.name or event.agent_id or ""
    if event.kind in (Event.AGENT_REGISTERED, Event.AGENT_GONE):
        log.debug("%s: %s on node %s", event.kind, who, event.node_id)
    elif event.kind in (Event.JOINED, Event.LEFT):
        log.info("node %s %s", event.node_id, event.kind)
    else:
        log.warning("%s: %s", event.kind, event.detail or " ".join(filter(None, (event.node_id, str(who)))))
