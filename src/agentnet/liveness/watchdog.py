"""The Python thread of this process that sees where a blocked event loop stands.

The native thread wakes it when a loop has stood for too long, and again each time that has become
twice as long.  It needs the interpreter lock: while C code keeps that, nobody can look, and the
answers say so.  It starts with the first node of the process and ends with the last, as the native
thread does.  A child of a fork has neither: a node that was made before the fork is its parent's.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import PurePath
from types import FrameType
from typing import NamedTuple

from agentnet.liveness.responder import Pulse, forget_all, wait_blocked

FRAMES_MAX = 16
PATH_PARTS = 3
"""What is kept of a file's path: its end tells enough."""
END_S_MAX = 2.0


class _Watched(NamedTuple):
    pulse: Pulse
    loop_thread: int
    sockets: tuple[socket.socket, ...]


_lock = threading.Lock()
_watched: dict[int, _Watched] = {}
_thread: threading.Thread | None = None


def watch(make: Callable[[], Pulse], sockets: tuple[socket.socket, ...]) -> Pulse:
    """Make a Pulse for the event loop of the calling thread, and look after it; end it with `unwatch`.

    ``sockets``: what a child of a fork must close.
    """
    global _thread  # noqa: PLW0603 - one for the process, whatever its nodes
    with _lock:
        pulse = make()
        _watched[pulse.number] = _Watched(pulse, threading.get_ident(), sockets)
        if _thread is None:
            _thread = threading.Thread(target=_look, name="agentnet-watchdog", daemon=True)
            _thread.start()
        return pulse


def unwatch(pulse: Pulse) -> None:
    """End it; with the last one the threads of this room and of the responder end."""
    global _thread  # noqa: PLW0603
    with _lock:
        _watched.pop(pulse.number, None)
        pulse.close()
        if not _watched and _thread is not None:
            # Joined under the lock: the next node must not start one while the old one still waits.
            _thread.join(END_S_MAX)
            _thread = None


def _look() -> None:
    while number := wait_blocked():
        watched = _watched.get(number)
        frame = sys._current_frames().get(watched.loop_thread) if watched is not None else None
        if watched is not None and frame is not None:
            watched.pulse.describe(describe_stack(frame).encode("utf-8", "replace"))


def describe_stack(frame: FrameType | None) -> str:
    """Where a thread stands, a line for each of its innermost calls, the last one where it is."""
    lines: list[str] = []
    while frame is not None and len(lines) < FRAMES_MAX:
        code = frame.f_code
        path = PurePath(*PurePath(code.co_filename).parts[-PATH_PARTS:]).as_posix()
        lines.append(f"{path}:{frame.f_lineno} in {code.co_qualname}")
        frame = frame.f_back
    return "\n".join(reversed(lines))


def _after_fork() -> None:
    global _thread, _lock
    forget_all()
    for watched in _watched.values():
        for sock in watched.sockets:
            sock.close()  # else the ports would stay taken when the parent has died
    _watched.clear()
    _thread, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
