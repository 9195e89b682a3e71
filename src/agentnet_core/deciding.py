"""How nodes decide on the next round: one value for each number, whoever proposes, whatever gets lost.

For each number it is Paxos with one value.  A proposer asks all nodes that live to promise to heed no lower
ballot, and whether they agree with the items (PROPOSE, PROMISE).  If all do, or one of them had accepted a
round before, it asks them to accept that (DECIDE, DECIDED).  A round is decided once enough of the voters of
the one before have accepted it: more than half of them, or half with the least of them, each in the
incarnation in which it voted then, for one that started again has forgotten what it had promised; or,
where too many have started again, all of them.  Of the first round there are no voters: more than half of the
nodes that are known must accept it, the lost ones counted.

In: what others say, time, and the items.  Out: frames to say, and rounds that are decided.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from agentnet_core.body import pack
from agentnet_core.errors import ProtocolError
from agentnet_core.rounds import Chain, Item, Round

PROPOSE, PROMISE, DECIDE, DECIDED = 3, 4, 5, 6
TRIAL_NS = 2_000_000_000
"""How long a proposer waits for all."""

Ballot = tuple[int, str]
NONE: Ballot = (0, "")


class Say(Protocol):
    """What puts a frame on the link to a node."""

    def __call__(self, node_id: str, body: bytes, /) -> None: ...


class _Trial:
    """A proposal. ``voices``: of those that have promised; ``accepted``: of those that have accepted."""

    __slots__ = (
        "accepted",
        "agreed",
        "ballot",
        "before",
        "deadline_ns",
        "items",
        "known",
        "members",
        "round",
        "voices",
    )

    def __init__(
        self, ballot: Ballot, members: Sequence[str], known: int, items: Sequence[Item], deadline_ns: int
    ) -> None:
        self.ballot, self.members, self.items = ballot, tuple(members), items
        self.known, self.deadline_ns = known, deadline_ns
        self.voices: dict[str, int] = {}
        self.accepted: dict[str, int] = {}
        self.agreed = True
        self.before: tuple[Ballot, Round] | None = None
        self.round: Round | None = None


class Deciding:
    """One node's part in it. ``voice``: its incarnation; ``judge``: whether it agrees with items;
    ``on_round``: called with each round that is decided here."""

    def __init__(
        self,
        node_id: str,
        voice: int,
        chain: Chain,
        say: Say,
        judge: Callable[[Sequence[Item]], bool],
        on_round: Callable[[Round], None],
    ) -> None:
        self._node_id, self._voice, self._chain = node_id, voice, chain
        self._say, self._judge, self._on_round = say, judge, on_round
        self._promised = NONE
        self._accepted: tuple[Ballot, Round] | None = None
        self._trial: _Trial | None = None

    @property
    def deadline_ns(self) -> int:
        """Until when a proposal of this node waits; 0 if there is none."""
        return self._trial.deadline_ns if self._trial is not None else 0

    def propose(self, items: Sequence[Item], members: Sequence[str], known: int, now_ns: int) -> None:
        """Try for a next round. ``members``: this node, and all others that live; ``known``: how many there
        are, the lost ones counted."""
        ballot = self._promised[0] + 1, self._node_id
        self._trial = _Trial(ballot, members, known, items, now_ns + TRIAL_NS)
        forms = [[each.key, each.renaming] for each in items]
        body = pack([PROPOSE, self._chain.number + 1, self._chain.id, ballot[0], forms])
        for node_id in members:
            if node_id != self._node_id:
                self._say(node_id, body)
        self.on_propose(self._node_id, self._chain.number + 1, self._chain.id, ballot[0], items)

    def tick(self, now_ns: int) -> None:
        """A proposal that waited for too long is given up, or goes on with what had been accepted."""
        trial = self._trial
        if trial is None or now_ns < trial.deadline_ns:
            return
        if trial.round is None and trial.before is not None and self._enough(trial.voices, trial):
            trial.deadline_ns = now_ns + TRIAL_NS
            self._decide(trial)
        else:
            self._trial = None

    def moved(self) -> None:
        """The chain has another end: what was said of the round before is void."""
        self._promised, self._accepted, self._trial = NONE, None, None

    # -- as it comes

    def on_propose(self, node_id: str, slot: int, prev: int, number: int, items: Sequence[Item]) -> None:
        ballot = number, node_id
        if (slot, prev) != (self._chain.number + 1, self._chain.id) or ballot <= self._promised:
            return  # who asks learns of the round that it lacks, or asks again later
        self._promised = ballot
        agreed = self._judge(items)
        (before, proposer), data = NONE, b""
        if self._accepted is not None:
            (before, proposer), data = self._accepted[0], self._accepted[1].data
        if node_id == self._node_id:
            self.on_promise(node_id, slot, number, agreed, self._voice, before, proposer, data)
        else:
            said = [PROMISE, slot, number, agreed, self._voice, before, proposer, data]
            self._say(node_id, pack(said))

    def on_promise(
        self,
        node_id: str,
        slot: int,
        number: int,
        agreed: bool,
        voice: int,
        before: int,
        by: str,
        data: bytes,
    ) -> None:
        trial = self._trial
        if trial is None or slot != self._chain.number + 1 or number != trial.ballot[0] or trial.round:
            return
        if node_id not in trial.members:
            raise ProtocolError(f"PROMISE of node {node_id}, which was not asked")
        if data:
            found = self._check(Round.decode(data))
            if trial.before is None or (before, by) > trial.before[0]:
                trial.before = (before, by), found
        trial.voices[node_id] = voice
        trial.agreed = trial.agreed and agreed
        if len(trial.voices) < len(trial.members):
            return
        if (trial.before is not None or trial.agreed) and self._enough(trial.voices, trial):
            self._decide(trial)
        else:
            self._trial = None

    def _decide(self, trial: _Trial) -> None:
        chain = self._chain
        if trial.before is not None:
            trial.round = trial.before[1]
        else:
            trial.round = Round(chain.number + 1, chain.id, sorted(trial.voices.items()), trial.items)
        body = pack([DECIDE, trial.round.number, trial.ballot[0], trial.round.data])
        for node_id in trial.members:
            if node_id != self._node_id:
                self._say(node_id, body)
        self.on_decide(self._node_id, trial.round.number, trial.ballot[0], trial.round.data)

    def on_decide(self, node_id: str, slot: int, number: int, data: bytes) -> None:
        ballot = number, node_id
        if slot != self._chain.number + 1 or ballot < self._promised:
            return
        found = self._check(Round.decode(data))
        self._promised, self._accepted = ballot, (ballot, found)
        if node_id == self._node_id:
            self.on_decided(node_id, slot, number, self._voice)
        else:
            self._say(node_id, pack([DECIDED, slot, number, self._voice]))

    def on_decided(self, node_id: str, slot: int, number: int, voice: int) -> None:
        trial = self._trial
        if (
            trial is None
            or slot != self._chain.number + 1
            or number != trial.ballot[0]
            or trial.round is None
        ):
            return
        if node_id not in trial.members:
            raise ProtocolError(f"DECIDED of node {node_id}, which was not asked")
        trial.accepted[node_id] = voice
        if self._enough(trial.accepted, trial):
            self._trial = None
            self._on_round(trial.round)

    # -- own

    def _check(self, found: Round) -> Round:
        if not self._chain.follows(found):
            raise ProtocolError(
                f"ROUND {found.number} does not follow round {self._chain.number} of this node"
            )
        return found

    def _enough(self, voices: dict[str, int], trial: _Trial) -> bool:
        voters = self._chain.voters
        if not voters:
            return 2 * len(voices) > trial.known
        there = [life for life in voters if voices.get(life[0]) == life[1]]
        if 2 * len(there) > len(voters) or (2 * len(there) == len(voters) and min(voters) in there):
            return True
        return all(node_id in voices for node_id, _ in voters)
