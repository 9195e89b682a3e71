"""Two nodes find out what one has of states and the other has not, without a new write.

    SUMS        of all shares; of those that differ, who got them sends
    PRINTS      of each state; for one that differs, who got them asks
    CONTEXT     what has been seen: events that only one side has seen come as a PART
    RANGES      where both have seen the same, but differ: a removal got lost. Sums of ranges of events,
                of those that differ sums of their sixteenths, and so on
    LIVE        of a single block, which events live; what only one side has removed is told as a PART

A small state goes whole, at once.  Who has taken a PART and still differs goes on, but only if the part
changed something, so that every exchange ends.  What this costs depends on how much differs.

Whom to trust: what comes so is not from the owner of its events, and says nothing that they could be held
against.  A proof was weighed: a signature for each change is a hundred times the work of the change, and one
for all changes of a turn would have to be kept with each of its events as long as that lives.  So in a signed
network the owner is asked, or a second node, before what is new of others is taken: see `doubts`.  In
plaintext, where nobody proves who it is, every member is trusted not to make events up in another's name; one
that writes in its own needs no trust, for every member may write and remove what it likes.
What is left: two that lie alike in the name of a node that is not linked, or one in that of a node that is
gone, where no other knows of it; the rounds of `pruning`; and who removes, in its own change, events that
another is yet to make.
What is found besides: a second content of an event that is known here (Contradiction), and events of this
node that it never made; it goes on in another name then, so that these do not stand for its next ones.

A peer that does not read is not told more than `BACKLOG_BYTES_MAX`; it is compared with again later.
Whatever is asked, ranges cost no more than `state_compare_blocks_max` blocks in a turn: the rest waits for
the next, `WORKS_MAX` questions of all peers at most, and who asks one more is compared with later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Protocol

from agentnet_core.body import unpack
from agentnet_core.config import EngineConfig
from agentnet_core.crdt.base import BLOCK_DOTS
from agentnet_core.dots import CausalContext
from agentnet_core.errors import NetworkError
from agentnet_core.parts import (
    CONTEXT,
    FETCH,
    LIVE,
    PART,
    RANGES,
    ROWS_MAX,
    write,
    write_prints,
    write_sums,
)
from agentnet_core.states import Held, Key, States

SMALL_BYTES = 4096
"""A state of at most that size is not worth a comparison."""
BACKLOG_BYTES_MAX = 1024 * 1024
SPLIT = 16
WORKS_MAX = 64
"""Questions after ranges that wait."""
NOTHING = CausalContext()

Row = tuple[str, int, int, int]


class Peers(Protocol):
    """What this room asks of the one that composes it."""

    def send(self, node_id: str, body: bytes, /) -> bool: ...
    def backlog(self, node_id: str, /) -> int: ...
    def later(self, node_id: str, /) -> None:
        """Compare with that node again, soon."""

    def next_turn(self) -> None:
        """Call `tick` in the next turn."""

    def take(self, node_id: str, key: Key, data: bytes, author: str | None, /) -> NetworkError | bool:
        """Merge it: whether anything changed, or why it was not taken."""

    def withholds(self, node_id: str, key: Key, /) -> bool:
        """Whether something that the node told of the state is neither taken nor refused yet."""


class _Work:
    """A question after ranges. ``rows``: those to be looked at; of one that has no sum it is to be told."""

    __slots__ = ("blocks", "key", "node_id", "rows", "said")

    def __init__(self, node_id: str, key: Key, rows: Iterable[tuple[str, int, int, int | None]]) -> None:
        self.node_id, self.key, self.rows = node_id, key, deque(rows)
        self.said: list[Row] = []
        self.blocks = CausalContext()


class Comparing:
    """The states of one node beside those of others. ``works``: questions after ranges that wait."""

    def __init__(self, states: States, peers: Peers, config: EngineConfig) -> None:
        self._states, self._peers = states, peers
        self._actors_max, self._runs_max = config.state_actors_max, config.state_runs_max
        self._blocks_max = self._left = config.state_compare_blocks_max
        self._works: deque[_Work] = deque()

    @property
    def works(self) -> int:
        return len(self._works)

    def tick(self) -> None:
        """A new turn: go on with what waits."""
        self._left = self._blocks_max
        self._go_on()

    def link_down(self, node_id: str) -> None:
        """Nobody waits for the answers any more."""
        self._works = deque(work for work in self._works if work.node_id != node_id)

    def start(self, node_id: str, *, fresh: bool = False) -> None:
        """Compare all with a linked node. ``fresh``: the link is new, so it does the same."""
        self._peers.send(node_id, write_sums(self._states.sums(), fresh=fresh))

    def ask(self, node_id: str, held: Held, *, asks: bool) -> None:
        """Compare one state with a linked node. ``asks``: it is to learn what this one has, too."""
        self._tell_context(node_id, held, asks=asks)

    def show(self, node_id: str, held: Held) -> None:
        """Let that node have what it lacks of a state from which it is known to differ."""
        if _is_small(held):
            self._tell(node_id, held, None, asks=True)
        else:
            self._tell_context(node_id, held, asks=True)

    # -- as it comes

    def on_sums(self, node_id: str, sums: list[int]) -> None:
        own = self._states.sums()
        for share, total in enumerate(sums):
            if total != own[share]:
                prints = [(held.key, held.print) for held in self._states.share(share)]
                for body in write_prints(share, prints):
                    self._peers.send(node_id, body)

    def on_prints(
        self, node_id: str, share: int, after: Key | None, until: Key | None, prints: list[tuple[Key, int]]
    ) -> None:
        theirs = dict(prints)
        for held in self._states.share(share):
            if (after is None or held.key > after) and (until is None or held.key <= until):
                number = theirs.pop(held.key, None)
                if number is None:
                    self._tell(node_id, held, None, asks=False)
                elif number != held.print:
                    self.show(node_id, held)
        for key in theirs:
            held_now = self._states.get(key)
            if held_now is None or not held_now.state.context:
                self._peers.send(node_id, write(CONTEXT, key, NOTHING.encode(), 0, False))

    def on_context(self, node_id: str, key: Key, data: bytes, number: int, asks: bool) -> None:
        theirs, held = self._read_context(data), self._states.get(key)
        if held is None:
            if asks and theirs:
                self._peers.send(node_id, write(CONTEXT, key, NOTHING.encode(), 0, False))
            return
        if held.print == number:
            return
        own = held.state.context
        ahead, behind = own.minus(theirs), theirs.minus(own)
        if ahead:
            self._tell(node_id, held, None if _is_small(held) else ahead, asks=_is_small(held))
        if behind and asks:
            self._tell_context(node_id, held, asks=False)
        if not ahead and not behind:
            self._descend(node_id, held)

    def on_part(self, node_id: str, key: Key, data: bytes, number: int, asks: bool) -> None:
        changed = self._peers.take(node_id, key, data, None)
        held = self._states.get(key)
        if isinstance(changed, NetworkError) or held is None or held.print == number:
            return
        if asks and _is_small(held):
            self._tell(node_id, held, None, asks=False)
        elif self._peers.withholds(node_id, key):
            return  # it would tell that again
        elif changed:
            self._tell_context(node_id, held, asks=True)
        elif asks:
            self._descend(node_id, held)

    def on_ranges(self, node_id: str, key: Key, rows: list[Row]) -> None:
        self._begin(_Work(node_id, key, rows))

    def on_live(self, node_id: str, key: Key, seen_data: bytes, live_data: bytes) -> None:
        asked, theirs = self._read_context(seen_data), self._read_context(live_data)
        held = self._states.get(key)
        if held is None:
            return
        seen, live = _living(held, asked)
        only_theirs, only_own = theirs.minus(live), live.minus(theirs)
        gone = only_theirs.minus(only_theirs.minus(seen))
        if gone:
            self._tell(node_id, held, gone, asks=False)
        if only_own:
            self._peers.send(node_id, write(FETCH, key, only_own.encode()))
        if not gone and not only_own:
            self._tell(node_id, held, asked, asks=False)  # then one event has two contents

    def on_fetch(self, node_id: str, key: Key, data: bytes) -> None:
        wanted, held = self._read_context(data), self._states.get(key)
        if held is not None:
            self._tell(node_id, held, wanted, asks=False)

    # -- telling

    def _tell(self, node_id: str, held: Held, context: CausalContext | None, *, asks: bool) -> None:
        """What is known of those dots, or of all."""
        if self._peers.backlog(node_id) > BACKLOG_BYTES_MAX:
            self._peers.later(node_id)
            return
        body = write(PART, held.key, held.state.encode(context), held.print, asks)
        if not self._peers.send(node_id, body):
            self._peers.later(node_id)

    def _tell_context(self, node_id: str, held: Held, *, asks: bool) -> None:
        if self._peers.backlog(node_id) > BACKLOG_BYTES_MAX:
            self._peers.later(node_id)
            return
        body = write(CONTEXT, held.key, held.state.context.encode(), held.print, asks)
        self._peers.send(node_id, body)

    def _descend(self, node_id: str, held: Held) -> None:
        """Both have seen the same: compare what lives of it."""
        context = held.state.context
        ends = [(actor, context.runs(actor)[-1][1] // BLOCK_DOTS + 1) for actor in context]
        self._begin(_Work(node_id, held.key, [(actor, 0, end, None) for actor, end in ends]))

    # -- ranges

    def _begin(self, work: _Work) -> None:
        if len(self._works) >= WORKS_MAX:
            self._peers.later(work.node_id)
            return
        self._works.append(work)
        self._go_on()

    def _go_on(self) -> None:
        """As far as this turn allows."""
        fresh = self._left == self._blocks_max
        while self._works and self._left > 0:
            work = self._works[0]
            held = self._states.get(work.key)
            if held is not None and work.rows:
                self._look(work, held, *work.rows.popleft())
                continue
            self._works.popleft()
            if held is not None:
                self._answer(work, held)
        if self._works or (fresh and self._left < self._blocks_max):
            self._peers.next_turn()

    def _look(self, work: _Work, held: Held, actor: str, first: int, end: int, total: int | None) -> None:
        if not actor:
            self._left -= 1
            return
        own = self._sum(held, actor, first, end)
        if total is None:
            work.said.append((actor, first, end, own))
        elif own != total and end - first == 1:
            work.blocks.add_run(actor, max(1, first * BLOCK_DOTS), (first + 1) * BLOCK_DOTS - 1)
        elif own != total:
            step = -(-(end - first) // SPLIT)
            for low in range(first, end, step):
                high = min(low + step, end)
                work.said.append((actor, low, high, self._sum(held, actor, low, high)))

    def _sum(self, held: Held, actor: str, first: int, end: int) -> int:
        # No more blocks are looked at than there are, and each has an entry.
        self._left -= 1 + min(end - first, held.state.elements)
        total: int = held.state.sum_of(actor, first, end)
        return total

    def _answer(self, work: _Work, held: Held) -> None:
        self._put_rows(work.node_id, work.key, work.said)
        if work.blocks:
            seen, live = _living(held, work.blocks)
            self._peers.send(work.node_id, write(LIVE, work.key, seen.encode(), live.encode()))

    def _put_rows(self, node_id: str, key: Key, rows: list[Row]) -> None:
        for at in range(0, len(rows), ROWS_MAX):
            self._peers.send(node_id, write(RANGES, key, rows[at : at + ROWS_MAX]))

    def _read_context(self, data: bytes) -> CausalContext:
        return CausalContext.decode(data, actors_max=self._actors_max, runs_max=self._runs_max)


def _living(held: Held, context: CausalContext) -> tuple[CausalContext, CausalContext]:
    """Of these dots, those that the state has seen, and those of them that live."""
    _, _, actors, seen_runs, live_runs, _ = unpack("a state", held.state.encode(context))
    found = []
    for runs_of_all in (seen_runs, live_runs):
        dots = CausalContext()
        for actor, runs in zip(actors, runs_of_all, strict=True):
            end = 0
            for gap, length in zip(runs[::2], runs[1::2], strict=True):
                dots.add_run(actor, end + gap + 1, end + gap + length)
                end += gap + length
        found.append(dots)
    return found[0], found[1]


def _is_small(held: Held) -> bool:
    # A flag or a set of short keys has dots and little else.
    return held.state.size <= SMALL_BYTES and held.state.elements <= SMALL_BYTES // 16
