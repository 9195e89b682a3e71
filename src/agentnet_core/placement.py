"""Whose answers count for a state that names nobody: some nodes, chosen by rendezvous hashing, and moved.

A view is all nodes that are, each in its incarnation; in every view each share of the states has its own
set of `state_replicas` nodes.  A node answers only who has the view that it has itself, so what is
acknowledged was so by nodes that agreed on who they are.  When the view moves on, the sets of the views
before count on beside the new ones: whoever waits needs the majority of each.  An old view is closed
once a majority of each of its sets has told in the new view that it holds, of that share, just what this
node holds, and after that a majority of the new one: then what the old sets had acknowledged is with the new.

A node that has a new view has nothing settled until all others of it, but lost ones, have told which old
views they have open, for it may have passed over some; who is silent for `SILENT_NS` is not waited for if
more than half have told.  In a network of more than `mesh_nodes_max` nobody is: two views that follow each
other before all know of the first may cost a read its newest write there.

Of an old set those that started again or left do not count, for they may have forgotten; so what it had
acknowledged is safe while fewer than half of it go before the view is closed.  A lost node stays where it
is for `state_move_ms`, and for good where half of the view are lost, for then it may be this one that is cut
off; nothing is acknowledged there meanwhile.  In an old set it counts for `state_lost_ms`: where a
majority of such a set is lost, dead or behind a cut, nobody waits for it in vain and goes on without what it
had acknowledged before that time.

Held here: `state_views_max` old views; one more takes the place of the oldest, and `dropped` counts that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b

from agentnet_core.config import EngineConfig
from agentnet_core.keepers import Keepers
from agentnet_core.states import SHARES

MS = 1_000_000
NUMBER_BYTES = 8
SILENT_NS = 250 * MS
CLOSED_MAX = 64
"""Views of which it is kept that they are closed."""

Life = tuple[str, int]
"""A node, and its incarnation."""
Part = tuple[int, tuple[str, ...]]
"""How many must answer, and of whom."""
Lost = tuple[str, int, int]
"""A node, its incarnation, and since when it is lost."""
Change = tuple[list[Life], list[Life]]
"""What an old view has that the present one has not, and the other way round."""


class _View:
    """Nodes that were all at some time. ``number``: the same wherever they are the same."""

    __slots__ = ("_keepers", "_sets", "lives", "number")

    def __init__(self, lives: Iterable[Life], count: int) -> None:
        self.lives = dict(sorted(lives))
        self.number = number_of(self.lives)
        self._keepers = Keepers(count)
        self._keepers.among(self.lives)
        self._sets: dict[int, tuple[str, ...]] = {}

    def of(self, share: int) -> tuple[str, ...]:
        found = self._sets.get(share)
        if found is None:
            found = self._sets[share] = tuple(sorted(self._keepers.of(share)))
        return found


def number_of(lives: Mapping[str, int]) -> int:
    """Of a view of these, in order of name."""
    said = repr(list(lives.items())).encode()
    return int.from_bytes(blake2b(said, digest_size=NUMBER_BYTES).digest(), "big")


class Placement:
    """The replicas of each share, as one node knows them. ``standing``: more than half of all nodes are
    not lost, so that it may answer. ``used``: this node has asked or answered in the present view; one that
    passed unused is not kept open. ``dropped``: old views that were not closed, but one too many."""

    def __init__(self, node_id: str, incarnation: int, config: EngineConfig) -> None:
        self._node_id = node_id
        self._count, self._views_max = config.state_replicas, config.state_views_max
        self._move_ns, self._lost_ns = config.state_move_ms * MS, config.state_lost_ms * MS
        self._current = _View([(node_id, incarnation)], self._count)
        self._open: dict[int, _View] = {}
        self._closed: dict[int, None] = {}
        self._lost: dict[str, int] = {}
        """Since when."""
        self._away: dict[str, int] = {}
        """Lost nodes that are in the view no more, but count in old sets; and their incarnation."""
        self._mesh_max = config.mesh_nodes_max
        self._since_ns = 0
        self._unheard: dict[str, None] = {}
        """Who has not told yet which old views it has open."""
        self._sets: list[list[Part]] = [[] for _ in range(SHARES)]
        """By share, what must be heard of the old sets."""
        self._told: list[dict[str, None]] = [{} for _ in range(SHARES)]
        """By share, who has told in this view that it holds the same: at first of all, and since what the old
        sets had is here, once more."""
        self._drawn = [True] * SHARES
        """By share, whether what the old sets had acknowledged is here."""
        self._moved: dict[int, None] = {}
        """Shares of which the new set has it."""
        self.standing = True
        self.used = False
        self.dropped = 0

    @property
    def view(self) -> int:
        """The number of the present one."""
        return self._current.number

    def ready(self, now_ns: int) -> bool:
        """Whether all old views are known that may count."""
        if now_ns - self._since_ns >= SILENT_NS and 2 * len(self._unheard) < len(self._current.lives):
            return True
        return all(node_id in self._lost for node_id in self._unheard)

    @property
    def lost_nodes(self) -> int:
        """Those that were lost at the last look, whose time runs."""
        return len(self._lost)

    @property
    def moving(self) -> int:
        """Old views that are open."""
        return len(self._open)

    def observe(self, known: Sequence[tuple[str, int, bool]], now_ns: int, told: Sequence[Lost] = ()) -> bool:
        """These nodes are, in these incarnations, and so many of them are lost; ``told``: lost ones of which
        others have told. Whether it matters to who waits."""
        lost = {node_id: self._lost.get(node_id, now_ns) for node_id, _, is_lost in known if is_lost}
        # Those that were lost one by one, and moved off, are no sign of a cut.
        lives = self._current.lives
        here = [is_lost for node_id, _, is_lost in known if not is_lost or node_id in lives]
        self.standing = 2 * sum(here) < len(here)
        lost |= {node_id: since for node_id, _, since in told}
        known = [*known, *((node_id, life, True) for node_id, life, _ in told)]
        self._lost = lost
        gone = {node_id: None for node_id, since in lost.items() if now_ns - since >= self._move_ns}
        if not self.standing:
            # It may be this node that is cut off: whoever was one too many stays so, nobody else goes.
            gone = {node_id: None for node_id in gone if node_id not in self._current.lives}
        before, self._away = (
            self._away,
            {
                node_id: life
                for node_id, life, _ in known
                if node_id in gone and now_ns - lost[node_id] < self._lost_ns
            },
        )
        if self._move([(node_id, life) for node_id, life, _ in known if node_id not in gone], now_ns):
            return True
        if self._open and self._away != before:
            self._begin()
            return True
        return False

    def lost(self) -> list[Lost]:
        """Those that count though they are lost, and since when."""
        lives = self._current.lives | self._away
        return [(each, lives[each], since) for each, since in self._lost.items() if each in lives]

    def _move(self, lives: list[Life], now_ns: int) -> bool:
        if dict(lives) == self._current.lives:
            return False
        self._since_ns = now_ns
        old, self._current = self._current, _View(lives, self._count)
        self._closed.clear()  # any of them may have been the present one of others meanwhile
        if self.used:
            self._open_view(old)
        self.used = False
        self._open.pop(self._current.number, None)
        others = [each for each in self._current.lives if each != self._node_id]
        self._unheard = dict.fromkeys(others if len(lives) <= self._mesh_max else ())
        self._begin()
        return True

    def _begin(self) -> None:
        """Nothing is known yet of who holds what."""
        self._moved.clear()
        for share in range(SHARES):
            found: dict[Part, None] = {}
            for view in self._open.values():
                there = self._there(view, share)
                found[min(len(view.of(share)) // 2 + 1, len(there)), there] = None
            self._sets[share] = list(found)
            self._told[share] = {}
            self._drawn[share] = False
            if self._open:  # else there is nothing to hear; and to draw all replicas takes long
                self._hear(share, self._node_id)

    def of(self, share: int) -> tuple[str, ...]:
        """The replicas of a share now, by name."""
        return self._current.of(share)

    def parts(self, share: int, need: int) -> tuple[Part, ...]:
        """Who must answer where ``need`` of the replicas are wanted: that, and as much of the old sets, if
        it is a majority or more."""
        now = self._current.of(share)
        found: dict[Part, None] = {(need, now): None}
        if 2 * need > len(now) and share not in self._moved:
            for view in self._open.values():
                there = self._there(view, share)
                wanted = len(view.of(share)) if need == len(now) else len(view.of(share)) // 2 + 1
                if there:
                    found[min(wanted, len(there)), there] = None
        return tuple(found)

    def _there(self, view: _View, share: int) -> tuple[str, ...]:
        """Those of an old set that are what they were, or were when they were lost."""
        lives, away = self._current.lives, self._away
        return tuple(each for each in view.of(share) if view.lives[each] in (lives.get(each), away.get(each)))

    # -- what closes old views

    def heard(self, node_id: str, view: int, same: Iterable[int]) -> None:
        """A node that has that view holds of these shares what this one holds."""
        if self._open and view == self._current.number and node_id in self._current.lives:
            for share in same:
                self._hear(share, node_id)
            if len(self._moved) == SHARES:
                for number in self._open:
                    self._note_closed(number)
                self._open.clear()

    def _hear(self, share: int, node_id: str) -> None:
        told = self._told[share]
        if node_id in told or share in self._moved:
            return
        told[node_id] = None
        if not self._drawn[share]:
            if any(sum(each in told for each in there) < need for need, there in self._sets[share]):
                return
            self._drawn[share] = True
            told.clear()
            told[self._node_id] = None
        now = self._current.of(share)
        if 2 * sum(each in told for each in now) > len(now):
            self._moved[share] = None

    def to_ask(self, most: int) -> list[str]:
        """Nodes whose word may close an old view, some of them."""
        found = dict(self._unheard)
        for share in range(SHARES if self._open else 0):
            if share in self._moved:
                continue
            sets = (
                [self._current.of(share)] if self._drawn[share] else [there for _, there in self._sets[share]]
            )
            for each in dict.fromkeys(each for them in sets for each in them):
                if each not in self._told[share] and each not in self._away:
                    found[each] = None
            if len(found) >= most:
                break
        return list(found)[:most]

    # -- what others know of old views

    def changes(self) -> list[Change]:
        """The old views that are open, as they differ from the present one."""
        now = self._current.lives
        return [
            (
                [(each, life) for each, life in view.lives.items() if now.get(each) != life],
                [(each, life) for each, life in now.items() if view.lives.get(each) != life],
            )
            for view in self._open.values()
        ]

    def learn(self, node_id: str, view: int, changes: Iterable[Change]) -> None:
        """Old views that a node of that view has open."""
        if view != self._current.number:
            return
        self._unheard.pop(node_id, None)
        added = False
        for more, fewer in changes:
            lives = dict(self._current.lives)
            for each, life in fewer:
                if lives.get(each) == life:
                    del lives[each]
            lives.update(more)
            number = number_of(dict(sorted(lives.items())))
            if not lives or number in (view, *self._closed, *self._open):
                continue
            if len(self._open) < self._views_max:
                self._open_view(_View(lives.items(), self._count))
                added = True
            else:  # nobody else's word takes the place of what was seen here
                self.dropped += 1
        if added:
            self._begin()

    def _open_view(self, view: _View) -> None:
        self._open.pop(view.number, None)
        if len(self._open) >= self._views_max:
            oldest = next(iter(self._open))
            del self._open[oldest]
            self._note_closed(oldest)
            self.dropped += 1
        self._open[view.number] = view

    def _note_closed(self, number: int) -> None:
        self._closed[number] = None
        if len(self._closed) > CLOSED_MAX:
            del self._closed[next(iter(self._closed))]
