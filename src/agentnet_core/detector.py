"""Who is not heard, and who is therefore lost: doubt, then accusation, then verdict.

A node that has been silent for `node_silence_ms_max` is in doubt: up to `probe_helpers` others are
asked whether they hear it.  If one does, it is the link and not the node.  If none does, the node
is accused, which all nodes learn.  A verdict takes two accusers where there are two that could
accuse, and time: `suspicion_ms_max` with few accusers, down to `suspicion_ms_min` with three
(Lifeguard: Dadgar, Phillips, Currey, DSN 2018, section 4).  Until then the accused can clear itself.
Two witnesses who saw the process end (the link reset, the dial refused) need no time.

A node that is itself in trouble must not accuse others.  Helpers that owe an answer, accusations that had
to be refuted and standing still for half of `node_silence_ms_max` make it less sure: `health` counts them,
up to 8, and each stretches all its times by one more.  After it stood still, however short that was, it
doubts nobody for as long again.

Nothing is held of nodes that are heard.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import log

from agentnet_core.config import EngineConfig
from agentnet_core.dials import Random

NS_PER_MS = 1_000_000
NEVER = 2**63 - 1
HEALTH_MAX = 8
ACCUSERS_ENOUGH = 3
"""More accusers than these make no verdict faster."""
VERDICT_ACCUSERS = 2
"""Accusers, or witnesses, that a verdict takes, where so many nodes could accuse."""


@dataclass(slots=True)
class Findings:
    """What a look at the silent nodes came to: whom to ask about whom, who is accused, who is lost.

    ``next_ns``: when to look again, if nothing is heard before.
    """

    ask: list[tuple[str, str]] = field(default_factory=list)
    accuse: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    next_ns: int = NEVER


@dataclass(slots=True)
class Silent:
    """A node that was heard last at ``heard_ns``, and who accuses it or saw it end.

    ``watched``: this node would hear it; of others it knows only what is said.
    """

    node_id: str
    heard_ns: int
    accusers: tuple[str, ...] = ()
    witnesses: tuple[str, ...] = ()
    watched: bool = True


class _Doubt:
    """``asked``: helpers that owe an answer. ``heard_ns``: when one heard the node; ``vouched`` if that
    was lately."""

    __slots__ = ("asked", "heard_ns", "until_ns", "vouched")

    def __init__(self, asked: Iterable[str], until_ns: int) -> None:
        self.asked = dict.fromkeys(asked)
        self.until_ns = until_ns
        self.heard_ns = 0
        self.vouched = False


class Detector:
    """The doubts and suspicions of one node."""

    def __init__(self, node_id: str, config: EngineConfig, rng: Random) -> None:
        self.node_id = node_id
        self.health = 0
        self._rng = rng
        self._health_max = HEALTH_MAX if config.local_health else 0
        self._helpers = config.probe_helpers
        self._silence_ns_min = self._silence_ns = config.node_silence_ms_max * NS_PER_MS
        self._probe_ns = config.probe_ms_max * NS_PER_MS
        self._suspicion_ns_min = config.suspicion_ms_min * NS_PER_MS
        self._suspicion_ns_max = config.suspicion_ms_max * NS_PER_MS
        self._doubts: dict[str, _Doubt] = {}
        self._accused_ns: dict[str, int] = {}
        self._unsure_until_ns = 0
        self._healed_ns = 0

    def keep_pace(self, pace: float) -> None:
        """Doubt who was silent for so many times as long (`overlay.pace_of`)."""
        self._silence_ns = int(self._silence_ns_min * pace)

    # -- news

    def vouched(self, node_id: str, helper: str, heard_ns: int | None) -> None:
        """A helper's answer: when it heard the node last, None if it does not."""
        doubt = self._doubts.get(node_id)
        if doubt is not None and helper in doubt.asked:
            del doubt.asked[helper]
            doubt.heard_ns = max(doubt.heard_ns, heard_ns or 0)

    def accused(self, node_id: str, now_ns: int) -> None:
        """Somebody accuses the node: time runs from the first."""
        self._accused_ns.setdefault(node_id, now_ns)

    def clear(self, node_id: str) -> None:
        """Nothing is held against the node any more."""
        self._doubts.pop(node_id, None)
        self._accused_ns.pop(node_id, None)

    def strain(self, now_ns: int) -> None:
        """This node does not keep up, as it seems."""
        self.health = min(self._health_max, self.health + 1)
        self._healed_ns = now_ns

    def stood_still(self, now_ns: int, gap_ns: int) -> None:
        """This node did nothing for so long: what it missed says nothing about others."""
        if gap_ns >= self._silence_ns // 2:  # a shorter one is made good, and says little of the next
            self.strain(now_ns)
        self._doubts.clear()
        self._unsure_until_ns = max(self._unsure_until_ns, now_ns + min(gap_ns, self._silence_ns))
        for node_id, since_ns in self._accused_ns.items():
            self._accused_ns[node_id] = min(now_ns, since_ns + gap_ns)

    # -- looking

    def hears(self, heard_ns: int, now_ns: int) -> bool:
        """Whether a node that was heard then is heard, as far as this one can tell."""
        return now_ns - heard_ns < self._stretched(self._silence_ns)

    def due_ns(self, heard_ns: int) -> int:
        """When a node that was heard then is in doubt."""
        return heard_ns + self._stretched(self._silence_ns)

    def look(self, silent: Iterable[Silent], helpers: list[str], now_ns: int) -> Findings:
        """Judge the nodes that are not heard. ``helpers``: those that are, and could tell.

        The caller asks, accuses and declares as the findings say.
        """
        if self.health and now_ns >= self._healed_ns + self._silence_ns:
            self.health -= 1
            self._healed_ns = now_ns
        findings = Findings()
        doubts, self._doubts = self._doubts, {}
        for node in silent:
            others = [helper for helper in helpers if helper != node.node_id]
            verdict_ns = self._verdict_ns(node, 1 + len(others))
            if now_ns >= verdict_ns:
                findings.lost.append(node.node_id)
                continue
            next_ns = verdict_ns
            if now_ns < self._unsure_until_ns:
                next_ns = min(next_ns, self._unsure_until_ns)
            elif node.watched and self.node_id not in node.accusers:
                doubt = self._doubted(node.node_id, doubts.get(node.node_id), others, now_ns, findings)
                if doubt is None:
                    findings.accuse.append(node.node_id)
                    next_ns = min(next_ns, now_ns + self._stretched(self._suspicion_ns_min))
                else:
                    self._doubts[node.node_id] = doubt
                    next_ns = min(next_ns, self.due_ns(doubt.heard_ns) if doubt.vouched else doubt.until_ns)
            findings.next_ns = min(findings.next_ns, next_ns)
        return findings

    def _doubted(
        self, node_id: str, doubt: _Doubt | None, others: list[str], now_ns: int, findings: Findings
    ) -> _Doubt | None:
        """The doubt as it is now, None when it has become certain."""
        if doubt is not None:
            heard = self.hears(doubt.heard_ns, now_ns)
            if heard or not doubt.vouched:
                doubt.vouched = heard
                if heard or (doubt.asked and now_ns < doubt.until_ns):
                    return doubt
                if doubt.asked:
                    self.strain(now_ns)
                return None
        asked = self._pick(others)  # for the first time, or since what they said has grown old
        findings.ask += [(helper, node_id) for helper in asked]
        return _Doubt(asked, now_ns + self._stretched(self._probe_ns)) if asked else None

    def _verdict_ns(self, node: Silent, voters: int) -> int:
        """When the node is lost if it is not heard before."""
        needed = min(VERDICT_ACCUSERS, voters)
        if len(node.witnesses) >= needed:
            return 0
        since_ns = self._accused_ns.get(node.node_id)
        if since_ns is None or len(node.accusers) < needed:
            return NEVER
        return since_ns + self._stretched(self._suspicion_ns(len(node.accusers), voters))

    def _suspicion_ns(self, accusers: int, voters: int) -> int:
        """Lifeguard's local suspicion timeout: shorter with each independent accuser."""
        enough = min(ACCUSERS_ENOUGH, voters)
        if accusers >= enough:
            return self._suspicion_ns_min
        span = self._suspicion_ns_max - self._suspicion_ns_min
        return self._suspicion_ns_max - int(span * log(accusers) / log(enough))

    def _pick(self, others: list[str]) -> list[str]:
        """Up to `probe_helpers` of them, by chance."""
        if len(others) <= self._helpers:
            return others
        left = list(others)
        return [left.pop(int(self._rng.random() * len(left))) for _ in range(self._helpers)]

    def _stretched(self, ns: int) -> int:
        return ns * (1 + self.health)
