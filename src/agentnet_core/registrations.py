"""Who waits for which registration: tokens and deadlines beside the confirmations of other nodes.

In: versions of the own list that somebody registered, and what nodes confirm.  Out: tokens with what to
tell them.  A registration that is not confirmed in time stands; its token says who is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from agentnet_core.config import EngineConfig
from agentnet_core.confirmations import Confirmations, Settled
from agentnet_core.errors import NetworkError, Unconfirmed
from agentnet_core.listing import Confirm

NEVER = 2**63 - 1

Told = list[tuple[Any, NetworkError | None]]
"""Tokens to settle, with their errors."""


class Registrations:
    """Tokens by the version that they wait for. ``label`` names an agent in errors."""

    def __init__(self, config: EngineConfig, label: Callable[[int], str]) -> None:
        self._confirmations = Confirmations(config)
        self._label = label
        self._waiting: dict[int, list[tuple[Any, int]]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def begin(
        self, version: int, node_ids: Iterable[str], agent_ids: list[int], token: Any, deadline_ns: int
    ) -> Told:
        """The nodes are to confirm ``version`` by then."""
        settled = self._confirmations.expect(version, node_ids, agent_ids)
        self._waiting.setdefault(version, []).append((token, deadline_ns))
        return self._told(settled)

    def confirm(self, node_id: str, confirm: Confirm) -> Told:
        """A node has confirmed a version, and all before it."""
        return self._told(self._confirmations.confirm(node_id, confirm))

    def lost(self, node_id: str) -> Told:
        """Nobody waits for that node any more."""
        return self._told(self._confirmations.lost(node_id))

    def awaits(self, node_id: str) -> bool:
        """Whether somebody waits for that node."""
        return bool(self._confirmations.awaits(node_id))

    def awaited(self) -> list[str]:
        """The nodes that somebody waits for."""
        return list(
            dict.fromkeys(i for version in self._waiting for i in self._confirmations.missing(version))
        )

    def replace(
        self, node_id: str, keepers: Callable[[Iterable[int]], Iterable[str]]
    ) -> tuple[list[str], Told]:
        """The node is gone: wait for ``keepers`` of its ids in its stead; which are new, and what is told."""
        if node_id not in self._confirmations:
            return [], []
        more: list[str] = []
        for version, agent_ids in self._confirmations.awaits(node_id):
            more += self._confirmations.extend(version, keepers(agent_ids))
        return more, self.lost(node_id)

    def outdone(self, agent_id: int, owner: str) -> None:
        """An own agent has lost its id to ``owner``."""
        self._confirmations.outdone(agent_id, owner)

    def next_deadline_ns(self) -> int:
        """When `late` will have something to tell; NEVER if nobody waits."""
        if not self._waiting:
            return NEVER
        return min((item[1] for waiting in self._waiting.values() for item in waiting), default=NEVER)

    def late(self, now_ns: int) -> Told:
        """What to tell those whose time is over."""
        told: Told = []
        for version, waiting in list(self._waiting.items()):
            for item in [item for item in waiting if item[1] <= now_ns]:
                missing = ", ".join(self._confirmations.missing(version))
                late = f"the agents are registered, but nodes {missing} have not confirmed it in time"
                known = self._confirmations.so_far(version).error(self._label)
                told.append((item[0], known or Unconfirmed(late)))
                waiting.remove(item)
            if not waiting:
                del self._waiting[version]
                self._confirmations.drop(version)
        return told

    def _told(self, settled: list[Settled]) -> Told:
        return [
            (token, done.error(self._label))
            for done in settled
            for token, _ in self._waiting.pop(done.version, ())
        ]
