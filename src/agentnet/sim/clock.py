"""Virtual time: what is to come, in order, and the only source of chance. One seed, one history.

Nothing here sleeps.  Whatever happens is noted in the trace, a digest that is equal for equal
histories, so that a replay can be held against it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from hashlib import blake2b
from random import Random
from typing import Any

MS = 1_000_000
"""Nanoseconds."""

Action = Callable[[], None]


class Clock:
    """``now_ns``: virtual nanoseconds.  ``rng``: draw from it whatever the seed is to decide."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.now_ns = 1_000 * MS
        self.steps = 0
        self._coming: list[tuple[int, int, Action]] = []
        self._number = 0
        self._trace = blake2b(digest_size=16)

    def at(self, when_ns: int, action: Action) -> None:
        """Let ``action`` happen then; of two at the same time, the one that was asked for first."""
        self._number += 1
        heapq.heappush(self._coming, (max(when_ns, self.now_ns), self._number, action))

    def step(self) -> bool:
        """Let the next thing happen; False if nothing is to come."""
        if not self._coming:
            return False
        when_ns, _, action = heapq.heappop(self._coming)
        self.now_ns = max(self.now_ns, when_ns)  # it may be late already
        self.steps += 1
        try:
            action()
        except Exception as error:
            error.add_note(f"in the simulation of seed {self.seed}, at {self.now_ns / MS:.3f} ms")
            raise
        return True

    @property
    def next_ns(self) -> int | None:
        """When the next thing is to happen; None if nothing is to come."""
        return self._coming[0][0] if self._coming else None

    def run(self, ms: float) -> None:
        """Let that much time pass."""
        end = self.now_ns + int(ms * MS)
        while self._coming and self._coming[0][0] <= end:
            self.step()
        self.now_ns = end

    def until(self, condition: Callable[[], Any], ms: float = 60_000) -> None:
        """Run until ``condition`` holds; AssertionError when it does not within that much time."""
        end = self.now_ns + int(ms * MS)
        while not condition():
            if not self._coming or self._coming[0][0] > end:
                raise AssertionError(f"not within {ms:g} ms of virtual time, seed {self.seed}")
            self.step()

    def note(self, *what: object) -> None:
        """Add to the trace what happened now."""
        self._trace.update(repr((self.now_ns, *what)).encode())

    @property
    def trace(self) -> str:
        """A digest of all that has happened."""
        return self._trace.hexdigest()
