"""The nouns of the directory: what one node claims to own, and what a change of that did.

Plain data; what becomes of it is for `directory` to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from agentnet_core.listing import Update, write_confirms
from agentnet_core.records import AgentRecord
from agentnet_core.signing import Head
from agentnet_core.tally import Tally


@dataclass(slots=True)
class Applied:
    """What a change did to the directory.

    ``version``: of the owner's list, as it is held whole from now on, 0 if none is. ``lacks``: something
    is missing before what came, and nothing that brings it is under way.

    ``added``, ``changed``, ``removed``: records that count from now on, that took the place of the
    same agent's, that count no more. ``lost_mine``: own agents that lost their id, and to whom.
    ``conflicts``: ids of the update that another node keeps. ``refused``: records over a limit, and
    which limit. ``answer``: what the owner is to be told, as `write_confirms` takes it.
    """

    version: int = 0
    lacks: bool = False
    added: list[AgentRecord] = field(default_factory=list)
    changed: list[AgentRecord] = field(default_factory=list)
    removed: list[AgentRecord] = field(default_factory=list)
    lost_mine: list[tuple[AgentRecord, str]] = field(default_factory=list)
    conflicts: list[tuple[int, str]] = field(default_factory=list)
    refused: list[tuple[AgentRecord, str]] = field(default_factory=list)
    answer: tuple[str, int, int, list[tuple[int, str]], int] | None = None

    @property
    def confirms(self) -> list[bytes]:
        """The answer as bodies of CONFIRM frames, written each time: most owners are not linked."""
        return write_confirms(*self.answer) if self.answer is not None else []


class Claims:
    """The list of one node: what it says it owns.

    ``version``: that is held, or was before another came. ``coming``: the link that a whole list comes
    over, and its version. ``whole`` False: some of ``stale`` was not repeated by it yet. ``untaken``: ids
    of it that others keep, or a limit refuses; ``partial``: there are some of the latter. ``tally``
    and ``head``: what the version comes to, and its owner's signature, where the network is signed.
    ``bodies``: the list as it goes to others, once it was asked for, if it is short.
    """

    __slots__ = (
        *("bodies", "coming", "head", "incarnation", "node_id", "partial", "records", "stale", "tally"),
        *("untaken", "version", "whole"),
    )

    def __init__(self, node_id: str, incarnation: int) -> None:
        self.node_id = node_id
        self.incarnation = incarnation
        self.version = 0
        self.records: dict[int, AgentRecord] = {}
        self.stale: dict[int, AgentRecord] = {}
        self.coming: tuple[str, int] | None = None
        self.untaken: list[tuple[int, str]] = []
        self.tally = Tally()
        self.head: Head | None = None
        self.whole = True
        self.partial = False
        self.bodies: tuple[tuple[int, int], list[bytes]] | None = None

    def hold(self, update: Update) -> None:
        """That version is held from now on."""
        self.version, self.head = update.version, update.head
        self.tally = update.tally or self.tally


class Early:
    """Changes of lists of nodes that are not known yet, at most ``count_max``; of the oldest node they go."""

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._count = 0
        self._updates: dict[str, list[tuple[str, Update]]] = {}

    def keep(self, owner: str, source: str, update: Update) -> None:
        """``source`` has brought that."""
        if self._count >= self._count_max:
            self.take(next(iter(self._updates)))
        self._updates.setdefault(owner, []).append((source, update))
        self._count += 1

    def take(self, owner: str) -> list[tuple[str, Update]]:
        """What there is of that node, oldest first; it is kept here no more."""
        updates = self._updates.pop(owner, [])
        self._count -= len(updates)
        return updates


def all_of(claims: Claims) -> Iterator[AgentRecord]:
    """What is held of a list, those of the version before that were not repeated yet first."""
    yield from claims.stale.values()
    yield from claims.records.values()


def by_node(record: AgentRecord) -> str:
    """In which order records of one id have it."""
    return record.node_id
