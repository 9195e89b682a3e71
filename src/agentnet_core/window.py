"""Which of the newest of a row of numbers were here: a bit for each, and nothing for what is older.

In: numbers, in any order.  Out: whether one was here, and how many leave the window unseen.
"""

from __future__ import annotations


class Window:
    """Which of an origin's newest broadcasts were here: bit n of ``seen`` is that n before ``newest``."""

    __slots__ = ("first", "heard_ns", "newest", "seen")

    def __init__(self, sequence: int) -> None:
        self.first = self.newest = sequence
        self.seen = 1
        self.heard_ns = 0

    def has(self, sequence: int, size: int) -> bool:
        """Whether that broadcast was here, or is too old to tell."""
        behind = self.newest - sequence
        return behind >= 0 and (behind >= size or bool(self.seen >> behind & 1))

    def add(self, sequence: int, size: int) -> int:
        """That broadcast is here, which `has` did not have; how many leave the window unseen."""
        self.first = min(self.first, sequence)
        ahead = sequence - self.newest
        if ahead <= 0:
            self.seen |= 1 << -ahead
            return 0
        unseen = self.unseen(self.newest - size + 1, sequence - size)
        self.seen = (self.seen << ahead | 1) & (1 << size) - 1 if ahead < size else 1
        self.newest = sequence
        return unseen

    def unseen(self, low: int, high: int) -> int:
        """How many were not here from ``low``, the oldest in the window, to ``high``, since the first."""
        low = max(low, self.first)
        if high < low:
            return 0
        return high - low + 1 - (self.seen >> max(self.newest - high, 0)).bit_count()
