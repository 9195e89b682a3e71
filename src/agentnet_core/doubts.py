"""Whom to believe where two nodes compare states, in a network whose nodes prove who they are.

A node's word on its own events is good: its link has proven whose it is, and on the broadcast tree they
bear its signature.  What it tells of another's events, alive or gone, and is not known here, is doubted:

    the owner is linked     it is asked, and its word alone counts. If it is there and does not know them,
                            whoever told them lies
    it is not               what came is kept, and other nodes are asked, one after the other. What two tell
                            alike is taken; of two contents none is, and that is an alarm. If all were asked
                            and nobody knows of it: an owner that lives is linked, and asked; of one that is
                            gone the one word is taken, for of a write that was acknowledged one node alone
                            may be left. That is counted, and told once for each actor

The owner of an actor is the node that changes states under that name now.  Events of the names of before, of
the reserved one and of nodes that nobody knows are those of somebody who is gone.  So nothing can be made up
in the name of a node that lives; in one that is gone only what no linked node contradicts, and that is told.

Who asks sends a FETCH, and a DELTA of nothing behind it: its ACK says that the FETCH was read.
Nothing here is about what is removed of what is known: every member may do that.

Held here, for each node that tells: `state_doubts_max` doubts and `state_doubts_bytes_max` bytes of them, or
one that is larger; one more is refused with LimitReached and comes with the next comparison.  None stays for
longer than `LOOKS_MAX` looks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from agentnet_core.config import EngineConfig
from agentnet_core.crdt import Crdt
from agentnet_core.crdt.base import BY_CODE
from agentnet_core.crdt.renaming import dots
from agentnet_core.crdt.wire import seen_in
from agentnet_core.dots import CausalContext
from agentnet_core.errors import Contradiction, Forged, LimitReached, NetworkError
from agentnet_core.parts import DELTA, FETCH, write
from agentnet_core.records import Event
from agentnet_core.states import Key, States

MS = 1_000_000
NEVER = 2**63 - 1
FIRST_LOOK_NS = 50 * MS
"""How long others have to bring it by themselves."""
LOOKS_MAX = 40
ALONE_LOOKS = 4
"""How many looks a node that is linked with nobody else waits for others that live."""
ASKS = 3
"""How often an owner is asked, and says nothing, before its silence counts."""
WITNESSES_MAX = 8
OWNERS_MAX = 8
"""Owners to be linked with for one doubt."""
TOLD_MAX = 256
SERIALS = 1 << 62
"""Of what is asked here; those of writes and reads are smaller."""

Then = Callable[[NetworkError | None, bool], None]
"""Called when nothing of what a node told of a state is doubted any more: with the error if it was let go,
or with True if it is to be told again."""


class House(Protocol):
    """What this room asks of the one that composes it."""

    @property
    def actor(self) -> str: ...
    def ask(self, node_id: str, body: bytes, /) -> None:
        """Say that to a node, linked or not."""

    def believe(self, node_id: str, key: Key, data: bytes, /) -> NetworkError | bool: ...
    def refuse(self, node_id: str, name: str, error: NetworkError, /) -> None: ...
    def later(self, node_id: str, /) -> None: ...


class Names(Protocol):
    """What `pruning` knows of names."""

    @property
    def round(self) -> int: ...
    def neighbours(self) -> dict[str, str]: ...
    def lives(self) -> dict[str, str]: ...


class Engine(Protocol):
    """What this room asks of the engine."""

    now_ns: int

    def wake_by(self, when_ns: int, /) -> None: ...
    def event(self, event: Event, /) -> None: ...


class _Doubt:
    """What ``source`` told: events that were not known. ``form``: what it says of them, nothing if only the
    ``owner`` is asked. ``asked``: how often each has read the question; ``open``: who has not yet."""

    __slots__ = (
        "asked",
        "context",
        "disputed",
        "form",
        "key",
        "looks",
        "open",
        "owner",
        "round",
        "size",
        "source",
    )

    def __init__(self, source: str, key: Key, owner: str) -> None:
        self.source, self.key, self.owner = source, key, owner
        self.context, self.form = CausalContext(), b""
        self.size = self.looks = self.round = 0
        self.asked: dict[str, int] = {}
        self.open: dict[str, int] = {}
        self.disputed = False


class Doubts:
    """What one node does not believe yet. ``comes``: tells whether something large is on its way from a node.

    ``lone``: what was taken on one word; ``forged``: what an owner did
    not know, or two told differently; ``unheard``: what was let go, for nobody answered."""

    def __init__(
        self,
        engine: Engine,
        house: House,
        states: States,
        names: Names,
        comes: Callable[[str], bool],
        config: EngineConfig,
    ) -> None:
        self._engine, self._house, self._states, self._names = engine, house, states, names
        self._comes = comes
        self._actors_max, self._runs_max = config.state_actors_max, config.state_runs_max
        self._count_max, self._bytes_max = config.state_doubts_max, config.state_doubts_bytes_max
        self._look_ns = config.state_doubt_ms * MS // ALONE_LOOKS
        self._by_key: dict[Key, dict[tuple[str, str], _Doubt]] = {}
        self._due: dict[_Doubt, int] = {}
        self._room: dict[str, tuple[int, int]] = {}
        """By node that tells, how many doubts there are, of how many bytes."""
        self._serials: dict[int, tuple[_Doubt, str]] = {}
        self._serial = SERIALS
        self._waiting: dict[tuple[str, Key], dict[int, Then]] = {}
        self._told: dict[str, None] = {}
        self.lone = self.forged = self.unheard = 0

    # -- what comes

    def sift(self, node_id: str, key: Key, data: bytes) -> bytes:
        """What of it is taken from that node, empty if nothing; the rest is doubted. Fails as `merge`, and
        with LimitReached."""
        seen = seen_in(data, actors_max=self._actors_max, runs_max=self._runs_max)
        seen = self._read(key, data).context if seen is None else seen
        doubted = self._of_others(node_id, seen.minus(self._known(key)))
        if not doubted:
            return data
        names = {name: owner for owner, name in self._names.neighbours().items() if owner != node_id}
        parts: dict[str, CausalContext] = {}
        for actor in doubted:
            part = parts.setdefault(names.get(actor, ""), CausalContext())
            part.merge(dots(actor, doubted.runs(actor)))
        cut = _Cutter(partial(self._read, key, data), data, seen)
        for owner, context in parts.items():
            if owner:
                self._doubt(node_id, key, owner, context, b"")
            else:
                self._weigh(node_id, key, context, cut.of(context))
        return cut.of(seen.minus(doubted))

    def withholds(self, node_id: str, key: Key) -> bool:
        """Whether something that the node told of the state is doubted."""
        return any(source == node_id for source, _ in self._by_key.get(key, ()))

    def waits(self, node_id: str, key: Key, serial: int, then: Then) -> bool:
        """Whether it is; ``then`` is called when that is over, once for each serial."""
        if not self.withholds(node_id, key):
            return False
        self._waiting.setdefault((node_id, key), {})[serial] = then
        return True

    def settle(self, key: Key) -> None:
        """More is known of the state: what of it was doubted is not any more."""
        if key in self._by_key:
            known = self._known(key)
            for doubt in list(self._by_key[key].values()):
                doubt.context = doubt.context.minus(known)
                if not doubt.context:
                    self._close(doubt)

    def answered(self, serial: int) -> bool:
        """An ACK of that serial came; whether it is one of those here."""
        if serial <= SERIALS:
            return False
        doubt, node_id = self._serials.pop(serial, (None, ""))
        if doubt is not None:
            del doubt.open[node_id]
            doubt.asked[node_id] = doubt.asked.get(node_id, 0) + 1
        return True

    def link_down(self, node_id: str) -> None:
        """That node answers no more."""
        for doubt in list(self._due):
            self._serials.pop(doubt.open.pop(node_id, 0), None)
            doubt.asked.pop(node_id, None)
            if doubt.owner == node_id:
                self._close(doubt, again=True)

    def tick(self, now_ns: int) -> int:
        """Look after what is due; when to do so again."""
        for doubt in [doubt for doubt, due_ns in self._due.items() if due_ns <= now_ns]:
            if doubt in self._due:
                self._look(doubt, now_ns)
        return min(self._due.values(), default=NEVER)

    def stats(self) -> dict[str, int]:
        """Every counter, by name."""
        return {
            "states_doubted": len(self._due),
            "states_doubted_bytes": sum(size for _, size in self._room.values()),
            "states_forged": self.forged,
            "states_lone": self.lone,
            "states_unheard": self.unheard,
        }

    # -- own

    def _known(self, key: Key) -> CausalContext:
        held = self._states.get(key)
        return held.state.context if held is not None else CausalContext()

    def _of_others(self, node_id: str, context: CausalContext) -> CausalContext:
        """The dots of neither that node nor this one; of its own, `Crdt.merge` sees to it."""
        found = CausalContext()
        for actor in context:
            if actor != self._house.actor and not actor.startswith(node_id + ":"):
                found.merge(dots(actor, context.runs(actor)))
        return found

    def _read(self, key: Key, data: bytes) -> Crdt:
        return BY_CODE[key.code].decode(data, self._states.site.unbound())

    def _weigh(self, source: str, key: Key, context: CausalContext, form: bytes) -> None:
        """Hold it beside what others tell of the same events."""
        disputed = False
        for other in list(self._by_key.get(key, {}).values()):
            common = _both(context, other.context)
            if other.source == source or other.owner or not common:
                continue
            alike = form if form == other.form else self._alike(key, other.form, form, common)
            if not alike or isinstance(self._house.believe(source, key, alike), NetworkError):
                disputed = other.disputed = True
            else:
                context = context.minus(common)
        if context:
            self._doubt(source, key, "", context, form).disputed |= disputed

    def _alike(self, key: Key, one: bytes, other: bytes, common: CausalContext) -> bytes:
        """What both say of these, less what either has removed; nothing if they contradict each other."""
        state = self._read(key, one)
        try:
            state.merge(self._read(key, other).encode(common))
        except Contradiction:
            return b""
        return state.encode(common)

    def _doubt(self, source: str, key: Key, owner: str, context: CausalContext, form: bytes) -> _Doubt:
        doubt = self._by_key.get(key, {}).get((source, owner)) or _Doubt(source, key, owner)
        is_new, more = doubt not in self._due, bool(context.minus(doubt.context))
        if owner:
            context.merge(doubt.context)
        size = len(form) + len(context.encode())
        count, total = self._room.get(source, (0, 0))
        others = total - doubt.size
        if count + is_new > self._count_max or (others and others + size > self._bytes_max):
            raise LimitReached(
                f"{key.label}: {count} doubts of {others} bytes of what node {source} tells of others, and "
                f"{size} more: expected at most state_doubts_max={self._count_max} and "
                f"state_doubts_bytes_max={self._bytes_max}; it is not taken now"
            )
        self._room[source] = count + is_new, others + size
        if more or form != doubt.form:  # who was asked knows nothing of this
            self._forget_asked(doubt)
            doubt.looks = 0
        doubt.context, doubt.form, doubt.size, doubt.round = context, form, size, self._names.round
        if is_new:
            self._by_key.setdefault(key, {})[source, owner] = doubt
            self._due[doubt] = self._engine.now_ns + FIRST_LOOK_NS
            self._engine.wake_by(self._due[doubt])
        if owner and more:
            self._ask(doubt, owner)
        return doubt

    def _ask(self, doubt: _Doubt, node_id: str) -> None:
        if node_id not in doubt.open:
            self._serial += 1
            doubt.open[node_id] = self._serial
            self._serials[self._serial] = doubt, node_id
            self._house.ask(node_id, write(FETCH, doubt.key, doubt.context.encode()))
            self._house.ask(node_id, write(DELTA, self._serial, []))

    def _forget_asked(self, doubt: _Doubt) -> None:
        for serial in doubt.open.values():
            self._serials.pop(serial, None)
        doubt.open.clear()
        doubt.asked.clear()

    def _close(self, doubt: _Doubt, error: NetworkError | None = None, *, again: bool = False) -> None:
        if self._due.pop(doubt, None) is None:
            return
        self._forget_asked(doubt)
        source, key = doubt.source, doubt.key
        del self._by_key[key][source, doubt.owner]
        if not self._by_key[key]:
            del self._by_key[key]
        count, total = self._room.pop(source)
        if count > 1:
            self._room[source] = count - 1, total - doubt.size
        if error is None:
            self._house.later(source)
        if error is not None or again or not self.withholds(source, key):
            for then in self._waiting.pop((source, key), {}).values():
                then(error, again)

    # -- looks

    def _look(self, doubt: _Doubt, now_ns: int) -> None:
        doubt.looks += 1
        self._due[doubt] = now_ns + self._look_ns
        linked = self._names.neighbours()
        if doubt.round != self._names.round:
            self._close(doubt, again=True)
        elif doubt.looks >= LOOKS_MAX:
            self._end(doubt)
        elif doubt.owner:
            if doubt.asked.get(doubt.owner, 0) < ASKS or doubt.looks <= ASKS:
                self._ask(doubt, doubt.owner)
            elif doubt.owner in linked and not self._comes(doubt.owner):
                self._end(doubt)
        elif not any(map(self._comes, linked)):
            self._ask_next(doubt, _others(list(linked), doubt.source))

    def _ask_next(self, doubt: _Doubt, witnesses: list[str]) -> None:
        fresh = [each for each in witnesses if each not in doubt.open and not doubt.asked.get(each)]
        if fresh:
            self._ask(doubt, fresh[0])
        elif not doubt.open and (
            witnesses or doubt.looks >= ALONE_LOOKS or not self._has_others(doubt.source)
        ):
            self._end(doubt)

    def _has_others(self, source: str) -> bool:
        return any(node_id != source for node_id in self._names.lives())

    def _end(self, doubt: _Doubt) -> None:
        """Nobody says more about it."""
        if doubt.owner:
            knows_not = doubt.asked.get(doubt.owner, 0) >= ASKS
            self._let_go(doubt, self._lie(doubt) if knows_not else None)
        elif doubt.disputed:
            text = f"{doubt.key.label}: events of {_names(doubt)} have two contents: somebody lies"
            self._let_go(doubt, Contradiction(text))
        else:
            self._take_one_word(doubt)

    def _lie(self, doubt: _Doubt) -> NetworkError:
        return Forged(
            f"{doubt.key.label}: node {doubt.source} tells events of {_names(doubt)}, which node "
            f"{doubt.owner}, whose they would be, does not know; they are not taken"
        )

    def _let_go(self, doubt: _Doubt, error: NetworkError | None) -> None:
        if error is None:
            self.unheard += 1
            text = (
                f"{doubt.key.label}: node {doubt.owner} did not say whether it made events of {_names(doubt)}"
            )
            self._close(doubt, LimitReached(text))
            return
        self.forged += 1
        self._house.refuse(doubt.source, doubt.key.name, error)
        self._close(doubt, error)

    def _take_one_word(self, doubt: _Doubt) -> None:
        owners = {name: node_id for node_id, name in self._names.lives().items() if node_id != doubt.source}
        gone, living = CausalContext(), dict[str, CausalContext]()
        for actor in doubt.context:
            part = living.setdefault(owners[actor], CausalContext()) if actor in owners else gone
            part.merge(dots(actor, doubt.context.runs(actor)))
        source, key, error = doubt.source, doubt.key, self._ask_owners(doubt, living)
        if gone:
            self._tell_lone(source, key, gone)
            taken = self._house.believe(source, key, self._read(key, doubt.form).encode(gone))
            error = taken if isinstance(taken, NetworkError) else error
        self._close(doubt, error)

    def _ask_owners(self, doubt: _Doubt, living: dict[str, CausalContext]) -> NetworkError | None:
        try:
            for number, (owner, context) in enumerate(living.items()):
                if number == OWNERS_MAX:
                    raise LimitReached(f"{doubt.key.label}: {len(living)} nodes to be asked: try again")
                self._doubt(doubt.source, doubt.key, owner, context, b"")
        except LimitReached as error:
            self.unheard += 1
            return error
        return None

    def _tell_lone(self, source: str, key: Key, context: CausalContext) -> None:
        self.lone += 1
        for actor in context:
            if actor not in self._told and len(self._told) < TOLD_MAX:
                self._told[actor] = None
                detail = f"{key.label}: what {actor} did, whose node is gone, is known of node {source} alone"
                self._engine.event(Event(Event.STATE_UNCONFIRMED, source, name=key.name, detail=detail))


class _Cutter:
    """Parts of a form, which is read once, and not at all where all of it is wanted, or nothing."""

    def __init__(self, read: Callable[[], Crdt], data: bytes, seen: CausalContext) -> None:
        self._read, self._data, self._seen = read, data, seen
        self._state: Crdt | None = None

    def of(self, context: CausalContext) -> bytes:
        if not context or context == self._seen:
            return self._data if context else b""
        self._state = self._state or self._read()
        return self._state.encode(context)


def _both(one: CausalContext, other: CausalContext) -> CausalContext:
    return one.minus(one.minus(other))


def _others(linked: list[str], source: str) -> list[str]:
    """Those to be asked, beginning behind the one that told it: not always with the same."""
    behind = [each for each in linked if each > source]
    return (behind + [each for each in linked if each < source])[:WITNESSES_MAX]


def _names(doubt: Any) -> str:
    return ", ".join(list(doubt.context)[:4])
