"""Which registrations wait for which nodes to confirm them.

In: the versions of the own list that somebody waits for, CONFIRM frames, links that are lost, agents
that lost their id.  Out: `Settled`, which says what to tell whoever registered.  A node that confirms
a version confirms all before it; one without a link is waited for no more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from agentnet_core.body import U64_MAX, wrong
from agentnet_core.config import EngineConfig
from agentnet_core.errors import AgentExists, Unconfirmed
from agentnet_core.listing import Confirm

Conflicts = tuple[tuple[int, str, str], ...]
"""(agent id, its owner or "" for a limit, the node that says so), ..."""


@dataclass(frozen=True, slots=True)
class Settled:
    """A version of the own list that every node has confirmed, or is lost.

    ``agent_ids``: as given when it was expected. ``conflicts``: which of them were not taken.
    """

    version: int
    agent_ids: tuple[int, ...] = ()
    conflicts: Conflicts = ()

    def error(self, label: Callable[[int], str] = str) -> AgentExists | Unconfirmed | None:
        """What to tell who registered agents that other nodes did not take; ``label`` names an agent."""
        lost = {agent_id: owner for agent_id, owner, _ in self.conflicts if owner}
        if lost:
            owners = [f"{label(agent_id)} (it is node {owner}'s)" for agent_id, owner in lost.items()]
            return AgentExists(
                f"agents not taken by other nodes: {_some(owners)}",
                definite=all(agent_id in lost for agent_id in self.agent_ids),
            )
        if self.conflicts:
            agents = _some([label(agent_id) for agent_id, _, _ in self.conflicts])
            nodes = ", ".join(dict.fromkeys(who for _, _, who in self.conflicts))
            return Unconfirmed(
                f"the agents are registered, but nodes {nodes} have no room for them: {agents} "
                f"(agents_max or metadata_bytes_max there)"
            )
        return None


class _Waiting:
    __slots__ = ("agent_ids", "left", "nodes", "parts")

    def __init__(self, agent_ids: tuple[int, ...], nodes: tuple[str, ...]) -> None:
        self.agent_ids = agent_ids
        self.nodes = nodes
        self.left = len(nodes)
        self.parts: list[Conflicts] = []

    def conflicts(self) -> Conflicts:
        if not self.parts:
            return ()
        # A CONFIRM speaks of all versions up to its own.
        wanted = dict.fromkeys(self.agent_ids)
        told = dict.fromkeys(conflict for part in self.parts for conflict in part)
        return tuple(conflict for conflict in told if conflict[0] in wanted)


class Confirmations:
    """Which versions of the own list wait for which nodes.

    A node that confirms a version confirms all before it. What settles is returned, oldest first.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._conflicts_max = config.agents_max
        self._waiting: dict[int, _Waiting] = {}
        self._expected: dict[str, deque[int]] = {}
        self._confirmed: dict[str, int] = {}
        self._heard: dict[str, Conflicts] = {}

    def __contains__(self, node_id: str) -> bool:
        """Whether anything was heard of that node, or is expected of it."""
        return node_id in self._confirmed or node_id in self._expected or node_id in self._heard

    def expect(self, version: int, node_ids: Iterable[str], agent_ids: Iterable[int] = ()) -> list[Settled]:
        """Wait until the nodes confirm ``version``, which is not below one expected before.

        ``agent_ids``: whose conflicts are of interest. It settles at once if all nodes have
        confirmed it already. Expecting it again while it waits adds ids, and both settle together.
        """
        again = self._waiting.get(version)
        if again is not None:
            again.agent_ids += tuple(agent_ids)
            return []
        nodes = tuple(n for n in dict.fromkeys(node_ids) if self._confirmed.get(n, -1) < version)
        if not nodes:
            return [Settled(version, tuple(agent_ids))]
        self._waiting[version] = _Waiting(tuple(agent_ids), nodes)
        for node_id in nodes:
            self._expected.setdefault(node_id, deque()).append(version)
        return []

    def awaits(self, node_id: str) -> list[tuple[int, tuple[int, ...]]]:
        """The versions that wait for that node, and the ids of each."""
        queue = self._expected.get(node_id)
        if not queue:
            return []
        versions = [version for version in queue if version in self._waiting]
        return [(version, self._waiting[version].agent_ids) for version in versions]

    def extend(self, version: int, node_ids: Iterable[str]) -> list[str]:
        """Let ``version`` wait for these nodes too; those that it did not wait for."""
        waiting = self._waiting[version]
        more = [n for n in node_ids if n not in waiting.nodes and self._confirmed.get(n, -1) < version]
        waiting.nodes += tuple(more)
        waiting.left += len(more)
        for node_id in more:
            self._expected[node_id] = deque(sorted([*self._expected.get(node_id, ()), version]))
        return more

    def confirm(self, node_id: str, confirm: Confirm) -> list[Settled]:
        """Take a CONFIRM of ``node_id``; `Directory.concede` has seen it before."""
        heard = self._heard.pop(node_id, ())
        # Only the owner's own word counts, as in `Directory.concede`.
        heard += tuple((i, owner, node_id) for i, owner in confirm.conflicts if owner in ("", node_id))
        if len(heard) > self._conflicts_max:
            raise wrong("CONFIRM conflicts", f"at most {self._conflicts_max}", len(heard))
        if not confirm.last:
            self._heard[node_id] = heard
            return []
        self._confirmed[node_id] = confirm.version
        return self._pop(node_id, confirm.version, heard)

    def lost(self, node_id: str) -> list[Settled]:
        """Wait for ``node_id`` no more."""
        self._heard.pop(node_id, None)
        self._confirmed.pop(node_id, None)
        settled = self._pop(node_id, U64_MAX, ())
        self._expected.pop(node_id, None)
        return settled

    def outdone(self, agent_id: int, owner: str) -> None:
        """An own agent has lost its id to ``owner``, whose CONFIRM may never come."""
        for waiting in self._waiting.values():
            if agent_id in waiting.agent_ids:
                waiting.parts.append(((agent_id, owner, owner),))

    def so_far(self, version: int) -> Settled:
        """What is known of ``version`` while it waits."""
        waiting = self._waiting.get(version)
        if waiting is None:
            return Settled(version)
        return Settled(version, waiting.agent_ids, waiting.conflicts())

    def missing(self, version: int) -> list[str]:
        """The nodes that have not confirmed ``version``."""
        waiting = self._waiting.get(version)
        if waiting is None:
            return []
        queues = [(node_id, self._expected.get(node_id)) for node_id in waiting.nodes]
        return [node_id for node_id, queue in queues if queue and queue[0] <= version]

    def drop(self, version: int) -> None:
        """Wait for ``version`` no more, whoever has confirmed it: its deadline has passed."""
        waiting = self._waiting.pop(version, None)
        for node_id in waiting.nodes if waiting is not None else ():
            queue = self._expected.get(node_id)
            while queue and queue[0] not in self._waiting:
                queue.popleft()

    def _pop(self, node_id: str, version: int, heard: Conflicts) -> list[Settled]:
        settled: list[Settled] = []
        queue = self._expected.get(node_id)
        if queue is None:
            return settled
        while queue and queue[0] <= version:
            at = queue.popleft()
            waiting = self._waiting.get(at)
            if waiting is None:
                continue
            if heard:
                waiting.parts.append(heard)
            waiting.left -= 1
            if waiting.left == 0:
                del self._waiting[at]
                settled.append(Settled(at, waiting.agent_ids, waiting.conflicts()))
        if not queue:
            del self._expected[node_id]
        return settled


def _some(texts: list[str]) -> str:
    return ", ".join(dict.fromkeys(texts[:8])) + (", ..." if len(texts) > 8 else "")
