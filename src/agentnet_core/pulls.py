"""Which lists of agents are lacking here, and who is to be asked for them.

In: versions that were heard of and are not held, what has come, links that go.  Out: whom to ask for
what.  A list is asked of its owner if there is a link to it, else of those who told of it, else of
anybody that is linked; of the next when the link goes, or when no part of it has come for `pull_ms_max`;
and so on, until it is here or nobody wants it any more.

At most `pull_lists_max` lists are asked of one node at a time.  What is wanted is bounded by who wants:
one list for each node that is known.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain

from agentnet_core.config import EngineConfig

NS_PER_MS = 1_000_000
NEVER = 2**63 - 1
TELLERS_MAX = 8
"""Nodes that told of a list, which are kept: whoever has it will do."""


class _Want:
    """``tried``: who was asked since all were. ``asked``: who is asked now."""

    __slots__ = ("asked", "due_ns", "incarnation", "tellers", "tried", "version")

    def __init__(self, incarnation: int, version: int, due_ns: int) -> None:
        self.incarnation = incarnation
        self.version = version
        self.due_ns = due_ns
        self.tellers: dict[str, None] = {}
        self.tried: dict[str, None] = {}
        self.asked = ""


class Pulls:
    """The lists that are lacking, by owner."""

    def __init__(self, config: EngineConfig) -> None:
        self._patience_ns = config.pull_ms_max * NS_PER_MS
        self._lists_max = config.pull_lists_max
        self._wants: dict[str, _Want] = {}
        self._open: dict[str, int] = {}
        """How many lists are asked of a node."""
        self._due_ns = NEVER
        self._starved = False
        """Whether a list is due that nobody could be asked for."""

    def __len__(self) -> int:
        return len(self._wants)

    def want(self, owner: str, incarnation: int, version: int, teller: str, due_ns: int) -> None:
        """``teller`` has that version of the list, or may have; it is asked for at ``due_ns`` if it has not
        come by then."""
        want = self._wants.get(owner)
        if want is not None and want.incarnation < incarnation:
            self.drop(owner)
            want = None
        if want is None:
            want = self._wants[owner] = _Want(incarnation, version, due_ns)
        elif want.incarnation == incarnation:
            want.version = max(want.version, version)
            if not want.asked:
                want.due_ns = min(want.due_ns, due_ns)
        if len(want.tellers) < TELLERS_MAX:
            want.tellers[teller] = None
        self._due_ns = min(self._due_ns, want.due_ns)

    def held(self, owner: str, incarnation: int, version: int) -> None:
        """That version is here."""
        want = self._wants.get(owner)
        if want is not None and (incarnation, version) >= (want.incarnation, want.version):
            self.drop(owner)

    def drop(self, owner: str) -> None:
        """Nobody wants that list any more."""
        want = self._wants.pop(owner, None)
        if want is not None:
            self._release(want)
            if not self._wants:
                self._due_ns, self._starved = NEVER, False

    def came(self, owner: str, source: str, now_ns: int) -> None:
        """A part of the list has come: more will."""
        want = self._wants.get(owner)
        if want is not None and want.asked == source:
            want.due_ns = now_ns + self._patience_ns

    def link_up(self, now_ns: int) -> None:
        """There is somebody more to ask."""
        if self._starved:
            self._due_ns = min(self._due_ns, now_ns)

    def link_down(self, node_id: str, now_ns: int) -> None:
        """Nothing comes from that node any more: others are asked."""
        for want in self._wants.values():
            want.tellers.pop(node_id, None)
            if want.asked == node_id:
                self._release(want)
                want.due_ns = self._due_ns = now_ns

    def tick(self, linked: Collection[str], now_ns: int) -> dict[str, list[tuple[str, int]]]:
        """Whom of the linked nodes to ask now, and for which lists: owner and incarnation."""
        asks: dict[str, list[tuple[str, int]]] = {}
        if now_ns < self._due_ns:
            return asks
        for want in self._wants.values():
            if want.due_ns <= now_ns:
                self._release(want)
        self._due_ns, self._starved = NEVER, False
        busy = sum(self._open.get(node_id, 0) >= self._lists_max for node_id in linked)
        for owner, want in self._wants.items():
            if want.due_ns <= now_ns:
                node_id = self._next(owner, want, linked) if busy < len(linked) else ""
                if not node_id:
                    self._starved = True
                    continue
                want.asked, want.tried[node_id] = node_id, None
                want.due_ns = now_ns + self._patience_ns
                self._open[node_id] = self._open.get(node_id, 0) + 1
                busy += self._open[node_id] == self._lists_max
                asks.setdefault(node_id, []).append((owner, want.incarnation))
            self._due_ns = min(self._due_ns, want.due_ns)
        return asks

    def next_deadline_ns(self) -> int:
        """When `tick` will have something to do next; NEVER if only news can change that."""
        return self._due_ns

    def _next(self, owner: str, want: _Want, linked: Collection[str]) -> str:
        """Who is to be asked; nobody if all that could be are busy, or not linked."""
        again = False
        for node_id in chain((owner,), want.tellers, linked):
            if node_id not in linked or self._open.get(node_id, 0) >= self._lists_max:
                continue
            if node_id not in want.tried:
                return node_id
            again = True
        if not again:
            return ""
        want.tried.clear()
        return self._next(owner, want, linked)

    def _release(self, want: _Want) -> None:
        if not want.asked:
            return
        left = self._open.pop(want.asked) - 1
        if left:
            self._open[want.asked] = left
        want.asked = ""
        if self._starved and left <= self._lists_max // 2:
            self._due_ns = 0
