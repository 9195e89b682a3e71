"""One timer for each event loop, by which the native thread sees that it turns, for all of its nodes.

A node at rest need not be ticked for that: a beat is one clock reading and one store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from weakref import WeakKeyDictionary

BEAT_S = 0.25
"""Below what a lag is told apart from (`LAG_MS_MIN`)."""

Beat = Callable[[], None]


class Heart:
    """The beats of one loop; it stops once there are none. It holds no timer: that would hold the loop."""

    def __init__(self) -> None:
        self._beats: dict[Beat, None] = {}
        self._turning = False

    def add(self, beat: Beat) -> None:
        """Call it four times a second from now on, until `remove`."""
        self._beats[beat] = None
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_later(BEAT_S, self._turn)

    def remove(self, beat: Beat) -> None:
        """Call it no more."""
        self._beats.pop(beat, None)

    def _turn(self) -> None:
        self._turning = bool(self._beats)
        if self._turning:
            asyncio.get_running_loop().call_later(BEAT_S, self._turn)
        for beat in list(self._beats):
            beat()


_hearts: WeakKeyDictionary[asyncio.AbstractEventLoop, Heart] = WeakKeyDictionary()


def heart() -> Heart:
    """The one of the running loop."""
    return _hearts.setdefault(asyncio.get_running_loop(), Heart())
