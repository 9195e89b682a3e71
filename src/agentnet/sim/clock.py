"""Virtual time: what is to come, in order, and the only source of chance. One seed, one history.

Nothing here sleeps.  Whatever happens is noted in the trace, a digest that is equal for equal
histories, so that a replay can be held against it.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from heapq import heappop, heappush
from random import Random
from typing import Any

import msgpack

MS = 1_000_000
"""Nanoseconds."""
NO_END = 2**63
NOTES_MAX = 1000
"""Notes that are gathered for one turn of the digest."""

Action = Callable[..., None]


class Clock:
    """``now_ns``: virtual nanoseconds.  ``rng``: draw from it whatever the seed is to decide."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.now_ns = 1_000 * MS
        self.steps = 0
        self._coming: list[tuple[int, int, Action, tuple[Any, ...]]] = []
        self._number = 0
        self._trace = blake2b(digest_size=16)
        self._notes = msgpack.Packer(default=repr, autoreset=False)
        self._noted = 0

    def at(self, when_ns: int, action: Action, *arguments: Any) -> None:
        """Let ``action`` happen then; of two at the same time, the one that was asked for first."""
        self._number += 1
        when_ns = max(when_ns, self.now_ns)
        heappush(self._coming, (when_ns, self._number, action, arguments))

    def step(self) -> bool:
        """Let the next thing happen; False if nothing is to come."""
        if not self._coming:
            return False
        self._steps_to(self._coming[0][0], 1)
        return True

    @property
    def next_ns(self) -> int | None:
        """When the next thing is to happen; None if nothing is to come."""
        return self._coming[0][0] if self._coming else None

    def run(self, ms: float) -> None:
        """Let that much time pass."""
        end = self.now_ns + int(ms * MS)
        self._steps_to(end, NO_END)
        self.now_ns = end

    def _steps_to(self, end_ns: int, most: int) -> None:
        """What is to come until then, but so many things at most."""
        coming = self._coming
        last = self.steps + most
        try:
            while coming and coming[0][0] <= end_ns and self.steps < last:
                when_ns, _, action, arguments = heappop(coming)
                self.now_ns = max(self.now_ns, when_ns)  # it may be late already
                self.steps += 1
                action(*arguments)
        except Exception as error:
            error.add_note(f"in the simulation of seed {self.seed}, at {self.now_ns / MS:.3f} ms")
            raise

    def until(self, condition: Callable[[], Any], ms: float = 60_000) -> None:
        """Run until ``condition`` holds; AssertionError when it does not within that much time."""
        end = self.now_ns + int(ms * MS)
        while not condition():
            if not self._coming or self._coming[0][0] > end:
                raise AssertionError(f"not within {ms:g} ms of virtual time, seed {self.seed}")
            self.step()

    def note(self, *what: object) -> None:
        """Add to the trace what happened now."""
        self._notes.pack((self.now_ns, *what))
        self._noted += 1
        if self._noted == NOTES_MAX:
            self._digest()

    def _digest(self) -> None:
        self._trace.update(self._notes.bytes())
        self._notes.reset()
        self._noted = 0

    @property
    def trace(self) -> str:
        """A digest of all that has happened."""
        self._digest()
        return self._trace.hexdigest()
