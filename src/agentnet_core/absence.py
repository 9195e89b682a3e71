"""A node that was away for longer than the rounds are kept takes what the others have, in place of merging.

It knows actors that they have pruned and cannot tell any more, so what it holds cannot be merged as it is.
It puts that aside, begins with nothing at their round, and takes all by comparing.  When it holds just what
one of them holds, it takes back what still means the same, whose actors they know; and what it did itself
while no node was linked with it, so that nobody can have it, it makes anew under another name.  What it had
done before under a name that they do not know any more, and what others did that they do not know, may be
in what they hold or not: that is not made anew, but counted, and an event tells.

Until then the log keeps what it had, so that who stops in between begins anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from agentnet_core.archive import Archive
from agentnet_core.crdt import Crdt, ORMap
from agentnet_core.crdt.base import BY_CODE
from agentnet_core.crdt.renaming import COUNTERS, STAR, Totals, dots, shift, total_of
from agentnet_core.dots import CausalContext
from agentnet_core.errors import LimitReached, StatesPruned
from agentnet_core.naming import Naming
from agentnet_core.records import Event
from agentnet_core.rounds import Chain
from agentnet_core.states import Held, Key, States

if TYPE_CHECKING:
    from agentnet_core.engine import Engine

COUNTER_NAMES = ("GCounter", "PNCounter")


class _Told(NamedTuple):
    """Of the own events of a state, up to which others may have them, and a counter's total there."""

    number: int
    totals: Totals


class _Aside(NamedTuple):
    """What was put aside: all states, under which name they were changed, what of that others may have, and
    the states of which it is not known that all others have all."""

    actor: str
    told: dict[Key, _Told] | None
    doubtful: dict[Key, None]
    forms: dict[Key, bytes]


class Absence:
    """How one node comes back. ``whole``: it holds what its round says; ``remade``: states in which it made
    its own events anew; ``unknown``: states of which something may be lost."""

    def __init__(
        self, states: States, chain: Chain, archive: Archive, naming: Naming, engine: Engine
    ) -> None:
        self._states, self._chain, self._archive = states, chain, archive
        self._naming, self._engine = naming, engine
        self._source: str | None = None
        self._aside: list[_Aside] = []
        self._told: dict[Key, _Told] | None = {}
        """None while others are linked."""
        self._doubtful: dict[Key, None] = {}
        self._equal: dict[str, None] = {}
        """Who held just the same since something changed last."""
        self.whole = True
        self.merges = False
        """A planted bug: what it held is merged as it is."""
        self.remade = self.unknown = 0

    # -- who may have what

    def alone(self) -> None:
        """No node is linked with this one from now on."""
        self._source = None
        if self._told is None:
            self._told = {}
            for key in self._states.names():
                held = self._states.get(key)
                if held is not None:
                    self._note(held)

    def opened(self) -> None:
        """What is held now was there before this node began: others may have it."""
        self._told = None
        self.alone()

    def met(self) -> None:
        """From now on others may have all that is done here."""
        self._told = None

    def changed(self, key: Key) -> None:
        """A state was changed, here or by another; that goes to those that are linked."""
        if self._told is None:
            self._doubtful[key] = None
            self._equal.clear()
        elif key.code not in COUNTERS:  # something may have been removed
            self._doubtful[key] = None

    def equal(self, node_id: str, known: int) -> None:
        """That node, one of so many that are known, holds just what this one holds."""
        self._equal[node_id] = None
        if len(self._equal) + 1 >= known:  # most are not enough: others may know of fewer
            self._doubtful.clear()

    def _note(self, held: Held) -> None:
        runs = held.state.context.runs(self._naming.actor)
        if runs and self._told is not None:
            is_counter = held.key.code in COUNTERS
            totals = total_of(held.state, self._naming.actor) if is_counter else ()
            self._told[held.key] = _Told(runs[-1][1], totals)

    # -- coming back

    def seek(self, node_id: str) -> bool:
        """Take the rounds of that node, unless another's are on their way."""
        if self._source is not None and self._source in self._engine.sessions:
            return False
        self._source = node_id
        return True

    def begins(self, node_id: str) -> bool:
        """Whether the rounds of that node are taken without those before them."""
        return node_id == self._source

    def begin(self, number: int, last: int) -> bool:
        """Put aside what is held, and begin at that round; False if that has to wait."""
        actor, told = self._naming.actor, self._told
        error = StatesPruned(f"this node was away, and round {number} is the first that others still know")
        if not self._naming.renew(self._source or "", "", error):
            return False
        forms = {}
        self._archive.hold()
        for key in self._states.names():
            held = self._states.get(key)
            if held is not None:
                if held.state.context:
                    forms[key] = held.state.encode()
                held.state.become(BY_CODE[key.code](self._states.site.unbound()))
                self._states.renamed(held)
        if forms:
            told = None if told is None else dict(told)
            self._aside.append(_Aside(actor, told, dict(self._doubtful), forms))
        if self._told is not None:
            self._told = {}  # all under the new name is this node's alone
        self._chain.begin(number, last)
        self.whole = self._states.whole = False
        return True

    def complete(self) -> bool:
        """It holds what another holds that holds all; whether anything was taken back since."""
        self._source = None
        if self.whole:
            return False
        self.whole = self._states.whole = True
        aside, self._aside = self._aside, []
        for each in aside:
            for key, form in each.forms.items():
                told = None if each.told is None else each.told.get(key, _Told(0, ()))
                self._take_back(key, form, each.actor, told, doubtful=key in each.doubtful)
        self._archive.release()
        if aside:
            error = StatesPruned(
                f"this node was away for longer than rounds are kept: it took what others hold, made anew "
                f"what it alone had, of {self.remade} states, and of {self.unknown} something may be lost"
            )
            self._engine.event(Event(Event.STATE_CONFLICT, "", detail=str(error), error=error))
        return bool(aside)

    def _take_back(self, key: Key, form: bytes, actor: str, told: _Told | None, *, doubtful: bool) -> None:
        free = self._states.site.unbound()
        old = BY_CODE[key.code].decode(form, free)
        try:
            held = self._states.hold(key)
            if self.merges:
                held.state.restore(form)
            known = held.state.context
            same, rest, lost = CausalContext(), [], False
            for each in old.context:
                runs = old.context.runs(each)
                if each == STAR and key.code in COUNTERS:
                    continue
                if known.runs(each):
                    same.merge(dots(each, runs))
                elif each == actor and told is not None:
                    rest = [(max(first, told.number + 1), last) for first, last in runs if last > told.number]
                    lost = lost or (doubtful and runs[0][0] <= told.number)
                else:
                    lost = lost or doubtful
            if same:
                held.state.restore(old.encode(same))
            if rest and told is not None:
                lost = not self._make_anew(held, old, actor, rest, told) or lost
        except LimitReached:
            lost = True
            held = self._states.hold(key)
        self.unknown += lost
        self._states.renamed(held)

    def _make_anew(self, held: Held, old: Crdt, actor: str, rest: list[tuple[int, int]], told: _Told) -> bool:
        """Own events that nobody has; False if some of it cannot be."""
        data = old.encode(dots(actor, rest))
        if not told.number:  # nobody ever knew that name in this state
            held.state.restore(data)
            self.remade += 1
            return True
        if isinstance(old, ORMap):
            part = type(old).decode(data, self._states.site.unbound())
            if any(name in COUNTER_NAMES for _, name in part.value):
                return False  # their totals hold what others may have
        runs = held.state.context.runs(self._naming.actor)
        by = (runs[-1][1] if runs else 0) - told.number
        less: Totals = ()
        if held.key.code in COUNTERS:  # what is counted under the new name already goes on
            now = total_of(held.state, self._naming.actor)
            less = tuple(one - other for one, other in zip(told.totals, now, strict=True))
        held.state.restore(shift(data, self._naming.actor, by, less))
        self.remade += 1
        return True
