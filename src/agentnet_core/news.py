"""What a node has learned of others and not told on yet, and whom it need not tell.

News goes to the neighbours on the rings, in a full mesh too: where each of n nodes tells all others what
it learned, one change costs n * n frames.  Whoever has told it knows it, and is not told.  In a large
network some are told together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from agentnet_core.roster import join_members

NS_PER_MS = 1_000_000
NEVER = 2**63 - 1
NODES_A_NEWS_MS = 2
"""For so many nodes, a node lets a millisecond pass between two frames of news on the same link."""


class News:
    """At most one of each node that is known, and as many tellers of it as there are links."""

    def __init__(self) -> None:
        self._tellers: dict[str, dict[str, None]] = {}
        self._told_ns = 0

    def note(self, node_id: str, source: str | None = None) -> None:
        """Something is new of that node. ``source``: the linked node that told it."""
        self._tellers[node_id] = {} if source is None else {source: None}

    def echoed(self, node_id: str, source: str | None) -> None:
        """A linked node told what is known already."""
        if source is not None and node_id in self._tellers:
            self._tellers[node_id][source] = None

    def due_ns(self, nodes: int, *, along: bool = False) -> int:
        """When to tell it in a network of so many: at once in a small one. ``along``: with what else is done,
        for which half of the time is enough."""
        if not self._tellers:
            return NEVER
        pause_ns = nodes // NODES_A_NEWS_MS * NS_PER_MS
        return self._told_ns + (pause_ns // 2 if along else pause_ns)

    def drain(
        self, peers: Iterable[str], now_ns: int, pack: Callable[[str], list[bytes]]
    ) -> list[tuple[str, list[bytes]]]:
        """For each of the peers, the bodies of MEMBERS frames with all that it did not tell itself.

        ``pack``: what is held of a node now, as `join_members` takes it.
        """
        self._told_ns = now_ns
        news = [(packed, tellers) for i, tellers in self._tellers.items() for packed in pack(i)]
        self._tellers = {}
        knowing = {teller for _, tellers in news for teller in tellers}
        for_all = join_members([record for record, _ in news]) if news else []
        told = []
        for peer in peers:
            bodies = for_all
            if peer in knowing:
                others = [record for record, tellers in news if peer not in tellers]
                bodies = join_members(others) if others else []
            told.append((peer, bodies))
        return told
