"""What `net.events()` gives: a bounded queue of events.

In: events as they happen. Out: an async iterator; tasks that read the same one share its events. Who
reads too slowly misses the oldest, and is told how many by an EVENTS_MISSED event.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Self
from weakref import WeakKeyDictionary

from agentnet_core.records import Event


class EventStream:
    """One bounded queue of events."""

    def __init__(self, limit: int, waiting: set[EventStream]) -> None:
        self._queue: deque[Event] = deque(maxlen=limit)
        self._missed = 0
        self._waiting = waiting
        self._ended = False
        self._waiters: list[asyncio.Future[None]] = []

    def put(self, event: Event) -> bool:
        """Append it; whether the oldest had to go for it."""
        if self._ended:
            return False
        full = len(self._queue) == self._queue.maxlen
        self._missed += full
        self._queue.append(event)
        self._notify()
        return full

    def end(self) -> None:
        self._ended = True
        self._notify()

    def _notify(self) -> None:
        # All: one of them may be cancelled in this very turn.
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while True:
            if self._missed:
                count, self._missed = self._missed, 0
                return Event(Event.EVENTS_MISSED, count=count, detail=f"{count} events were not read in time")
            if self._queue:
                return self._queue.popleft()
            if self._ended:
                raise StopAsyncIteration
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            self._waiting.add(self)
            try:
                await waiter
            finally:
                self._waiters.remove(waiter)
                if not self._waiters:
                    self._waiting.discard(self)

    async def aclose(self) -> None:
        """Read no more."""
        self.end()
        self._queue.clear()


class EventStreams:
    """All streams of one node. ``missed``: events that some reader was too slow for."""

    def __init__(self, limit: int) -> None:
        self.missed = 0
        self._limit = limit
        # Whoever drops a stream is not asked to close it; but while a task waits in it, it stays.
        self._open: WeakKeyDictionary[EventStream, None] = WeakKeyDictionary()
        self._waiting: set[EventStream] = set()

    def __len__(self) -> int:
        return len(self._open)

    def open(self) -> EventStream:
        """One more, of what happens from now on."""
        stream = EventStream(self._limit, self._waiting)
        self._open[stream] = None
        return stream

    def put(self, events: Iterable[Event]) -> None:
        for stream in list(self._open):
            for event in events:
                self.missed += stream.put(event)

    def end(self) -> None:
        """Nothing more will happen."""
        for stream in list(self._open):
            stream.end()
