"""Dots under other names: so a state forgets an actor that is gone and keeps what that has done.

What an actor D made up to its event N is from then on the reserved actor's, `*`: its event n is `*`'s event
``base`` + n, alive or not, content, path and stamp as they were.  What D made beyond N, which was not known
where that was decided, is the event n - N of `D~`.  Everybody renames alike, so nothing is lost or there
twice, in whatever order names and changes come; one event of `*` behind these marks how far it goes.

Counters alone are folded: their total at N goes into the one entry of `*`, which replaces the one before it,
and what D counted beyond N counts for `D~`, less that total.  A renaming therefore says both totals.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgpack

from agentnet_core.body import pack
from agentnet_core.config import ACTOR_BYTES_MAX, VERSION_MAX
from agentnet_core.crdt.base import Crdt
from agentnet_core.crdt.table import Site
from agentnet_core.dots import CausalContext
from agentnet_core.errors import ProtocolError

STAR = "*"
TAIL = "~"
VERSION = 1
GCOUNTER, PNCOUNTER = 4, 8
COUNTERS = (GCOUNTER, PNCOUNTER)
TOTAL_MAX = 2**62 - 1
PARTS = 6
"""Of the form of a state; see `wire`."""

Runs = list[tuple[int, int]]
Totals = tuple[int, ...]
"""Of a counter: what was added, and of one that shrinks what was taken away; of other states nothing."""


class Renaming(NamedTuple):
    """``before``: the total of the actor; ``after``: that of `*`, with it."""

    actor: str
    number: int
    base: int
    before: Totals
    after: Totals

    @property
    def top(self) -> int:
        """The last event of `*` after it."""
        return self.base + 1 if self.after else self.base + self.number + 1


def actors_of(data: bytes) -> list[str]:
    """Whose dots a form speaks of; nothing of what is no form."""
    unpacker = _open(data)
    try:
        if unpacker.read_array_header() != PARTS:
            return []
        unpacker.skip()
        unpacker.skip()
        actors = unpacker.unpack()
    except (ValueError, msgpack.UnpackException):
        return []  # whoever merges it says what is wrong
    return actors if isinstance(actors, list) and all(isinstance(each, str) for each in actors) else []


def renaming_of(state: Crdt, actor: str) -> Renaming | None:
    """How the actor's dots are to be renamed, if all that is known of it and of `*` is here without a gap."""
    context = state.context
    runs, stars = context.runs(actor), context.runs(STAR)
    if len(runs) != 1 or runs[0][0] != 1 or len(stars) > 1 or (stars and stars[0][0] != 1):
        return None
    number, base = runs[0][1], stars[0][1] if stars else 0
    if base + number + 1 >= VERSION_MAX or len((actor + TAIL).encode()) > ACTOR_BYTES_MAX:
        return None
    if state.type_code not in COUNTERS:
        return Renaming(actor, number, base, (), ())
    before = total_of(state, actor)
    after = tuple(map(sum, zip(before, total_of(state, STAR), strict=True)))
    return Renaming(actor, number, base, before, after) if max(after) <= TOTAL_MAX else None


def total_of(state: Crdt, actor: str) -> Totals:
    """What a counter says that the actor has counted."""
    runs = state.context.runs(actor)
    nothing = (0,) if state.type_code == GCOUNTER else (0, 0)
    if not runs:
        return nothing
    _, live, values = _read(state.encode(dots(actor, runs)))
    found = msgpack.unpackb(values)
    return _totals(found[-1]) if live else nothing


def renamed(
    kind: type[Crdt], site: Site, data: bytes, renamings: Iterable[Renaming], author: str | None = None
) -> bytes:
    """A form, of a state or of a change, after these; fails as `Crdt.merge` does. The site is unbound."""
    state = kind(site)
    state.merge(data, author=author)
    for renaming in renamings:
        state = _rename(state, site, renaming)
    return state.encode()


def renamed_context(code: int, context: CausalContext, renamings: Iterable[Renaming]) -> CausalContext:
    """Which dots those are after these renamings."""
    for one in renamings:
        runs = context.runs(one.actor)
        context = context.minus(dots(one.actor, runs))
        low, high = _split(runs, one.number)
        for first, last in low if code not in COUNTERS else []:
            context.add_run(STAR, first + one.base, last + one.base)
        for first, last in high:
            context.add_run(one.actor + TAIL, first - one.number, last - one.number)
    return context


def prune(state: Crdt, site: Site, renamings: Sequence[Renaming]) -> None:
    """Rename what the state holds and has seen; twice is as once. All of it or nothing; no delta is open."""
    kind, free = type(state), site.unbound()
    made = kind.decode(state.encode(), free)
    for one in renamings:
        made = _rename(made, free, one)
        stars = made.context.runs(STAR)
        if not stars or stars[-1][1] < one.top:
            made.restore(_mark(state.type_code, one))
    state.become(made)


def _rename(state: Crdt, site: Site, one: Renaming) -> Crdt:
    runs = state.context.runs(one.actor)
    if not runs:
        return state
    made = type(state).decode(state.encode(state.context.minus(dots(one.actor, runs))), site)
    low, high = _split(runs, one.number)
    is_counter = state.type_code in COUNTERS
    if low and not is_counter:
        made.restore(shift(state.encode(dots(one.actor, low)), STAR, one.base, ()))
    if high:
        data = state.encode(dots(one.actor, high))
        made.restore(shift(data, one.actor + TAIL, -one.number, one.before if is_counter else ()))
    return made


def _split(runs: Runs, number: int) -> tuple[Runs, Runs]:
    low = [(first, min(last, number)) for first, last in runs if first <= number]
    return low, [(max(first, number + 1), last) for first, last in runs if last > number]


def dots(actor: str, runs: Runs) -> CausalContext:
    """Those of one actor, as a context."""
    context = CausalContext()
    for first, last in runs:
        context.add_run(actor, first, last)
    return context


# -- forms of a single actor


def _open(data: bytes) -> Any:
    unpacker = msgpack.Unpacker(strict_map_key=False, max_buffer_size=max(len(data), 1))
    unpacker.feed(data)
    return unpacker


def _read(data: bytes) -> tuple[list[int], list[int], bytes]:
    """The runs of its dots, those that live, and the rest as it is."""
    unpacker = _open(data)
    unpacker.read_array_header()
    for _ in range(PARTS - 4):
        unpacker.skip()
    unpacker.skip()
    (seen,), (live,) = unpacker.unpack(), unpacker.unpack()
    return seen, live, data[unpacker.tell() :]


def shift(data: bytes, actor: str, by: int, less: Totals) -> bytes:
    """The form of one actor's dots as another's, whose numbers are so much greater and totals smaller."""
    seen, live, values = _read(data)
    seen[0] += by
    if live:
        live[0] += by
    if less:
        rest = [[a - b for a, b in zip(_totals(each), less, strict=True)] for each in msgpack.unpackb(values)]
        if any(each < 0 for totals in rest for each in totals):
            raise ProtocolError(f"state: a total of {actor} below what it was before: {rest}")
        values = pack([each if len(less) > 1 else each[0] for each in rest])
    code = data[2]  # a list of six, the version, the code: one byte each
    return b"".join((b"\x96", pack(VERSION), pack(code), pack([actor]), pack([seen]), pack([live]), values))


def _mark(code: int, one: Renaming) -> bytes:
    """The form of what `*` has of a renaming beside what it renames."""
    if not one.after:
        return pack([VERSION, code, [STAR], [[one.top - 1, 1]], [[]], []])
    value = one.after[0] if code == GCOUNTER else list(one.after)
    return pack([VERSION, code, [STAR], [[0, one.top]], [[one.base, 1]], [value]])


def _totals(value: Any) -> Totals:
    return tuple(value) if isinstance(value, list) else (value,)
