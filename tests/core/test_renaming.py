"""Dots under other names: nothing is lost or counted twice, in whatever order names and changes come."""

from __future__ import annotations

import random
from typing import Any

import pytest

from agentnet_core.config import EngineConfig
from agentnet_core.crdt import (
    TYPES,
    Crdt,
    EWFlag,
    GCounter,
    LWWMap,
    LWWRegister,
    MVRegister,
    ORMap,
    ORSet,
    PNCounter,
    Site,
    Text,
)
from agentnet_core.crdt.renaming import (
    STAR,
    Renaming,
    actors_of,
    prune,
    renamed,
    renamed_context,
    renaming_of,
    total_of,
)
from agentnet_core.dots import CausalContext
from agentnet_core.errors import ProtocolError

KEY = bytes(16)
READER = Site(None, KEY)


def site(actor: str) -> Site:
    return Site(actor, KEY)


def change(state: Any, rng: random.Random, stamp: int) -> None:
    """Something that a state of that type can do."""
    match state:
        case GCounter():
            state.increment(rng.randrange(1, 9))
        case PNCounter():
            (state.increment if rng.random() < 0.7 else state.decrement)(rng.randrange(1, 9))
        case LWWRegister():
            state.set(rng.randrange(100), stamp)
        case MVRegister():
            state.set(rng.randrange(100))
        case EWFlag():
            state.enable() if rng.random() < 0.6 else state.disable()
        case ORSet():
            state.add(rng.randrange(6)) if rng.random() < 0.6 else state.discard(rng.randrange(6))
        case LWWMap():
            state.set(rng.randrange(6), stamp, stamp)
        case ORMap():
            if rng.random() < 0.2:
                state.delete(rng.randrange(3), rng.choice((GCounter, ORSet)))
            else:
                change(state.at(rng.randrange(3), rng.choice((GCounter, ORSet))), rng, stamp)
        case Text():
            length = len(state)
            first = rng.randrange(length + 1)
            end = rng.randrange(first, min(length, first + 3) + 1)
            state.splice(first, end, rng.choice(("", "ab", "xyz")) if end > first else "word")


class Group:
    """Replicas of one state that hear each other by chance, as forms that may be old, lost or twice."""

    def __init__(self, kind: type[Crdt], seed: int) -> None:
        self.kind, self.rng = kind, random.Random(seed)
        self.replicas = {name: kind(site(name)) for name in "abcd"}
        self.sent: list[bytes] = []
        self.stamp = 0

    def step(self, names: str) -> None:
        name = self.rng.choice(names)
        self.stamp += 1
        change(self.replicas[name], self.rng, self.stamp)
        self.sent.append(self.replicas[name].delta.encode())

    def mix(self, names: str, count: int) -> None:
        for _ in range(count):
            if self.sent:
                self.replicas[self.rng.choice(names)].merge(self.rng.choice(self.sent))

    def level(self, names: str) -> None:
        for _ in range(2):
            for one in names:
                for other in names:
                    if one != other:
                        self.replicas[one].restore(self.replicas[other].encode())


@pytest.mark.parametrize("kind", TYPES.values(), ids=TYPES)
@pytest.mark.parametrize("seed", range(60))
def test_who_renames_early_or_late_ends_where_all_do_and_where_nobody_did(
    kind: type[Crdt], seed: int
) -> None:
    group = Group(kind, seed)
    rng = group.rng
    for _ in range(rng.randrange(2, 30)):
        group.step("abcd")
        group.mix("abcd", 2)
    # d goes; a and b know all that c does, d itself has more, and c is away.
    group.level("ab")
    for _ in range(rng.randrange(0, 5)):
        group.step("dc")
        if rng.random() < 0.3:
            group.replicas["c"].merge(group.sent[-1]) if group.sent else None
    plain = {name: kind.decode(each.encode(), site(name)) for name, each in group.replicas.items()}
    one = renaming_of(group.replicas["a"], "d")
    if one is None:
        return
    prune(group.replicas["a"], READER, [one])
    assert not group.replicas["a"].context.runs("d")
    assert total(group.replicas["a"]) == total(plain["a"])
    then = rng.getstate()
    change(group.replicas["a"], rng, 1_000)
    last = group.replicas["a"].delta.encode()
    rng.setstate(then)
    change(plain["a"], rng, 1_000)
    for name in "bcd":
        old = group.replicas[name].encode()  # made before it knew
        prune(group.replicas[name], READER, [one])
        prune(group.replicas[name], READER, [one])
        group.replicas["a"].restore(renamed(kind, READER.unbound(), old, [one]))
        group.replicas[name].restore(last)
    group.level("abcd")
    assert len({each.encode() for each in group.replicas.values()}) == 1
    a = group.replicas["a"]
    assert not a.context.runs("d")
    assert [first for first, _ in a.context.runs(STAR)] == [1]
    for each in plain.values():
        plain["a"].restore(each.encode())
    assert total(a) == total(plain["a"])


def total(state: Any) -> Any:
    value = state.value
    return sorted(value, key=repr) if isinstance(value, (list, set)) else value


# -- bad input, and limits


def grown(actor: str, *amounts: int) -> GCounter:
    state = GCounter(site(actor))
    for amount in amounts:
        state.increment(amount)
    state.delta.encode()
    return state


def test_a_total_below_that_at_the_renaming_is_malformed() -> None:
    state = grown("d", 5, 1)
    one = Renaming("d", 1, 0, (7,), (7,))  # at 2 the total is 6
    with pytest.raises(ProtocolError, match="below what it was"):
        renamed(GCounter, READER.unbound(), state.encode(), [one])
    before = state.encode()
    with pytest.raises(ProtocolError):
        prune(state, READER, [one])
    assert state.encode() == before


def test_only_what_is_known_without_a_gap_is_renamed() -> None:
    state = ORSet(site("a"))
    source = ORSet(site("d"))
    source.add(1)
    first = source.delta.encode()
    source.add(2)
    state.merge(source.delta.encode())
    assert renaming_of(state, "d") is None
    state.merge(first)
    assert renaming_of(state, "d") == Renaming("d", 2, 0, (), ())
    assert renaming_of(state, "nobody") is None


@pytest.mark.parametrize(("size", "fits"), [(127, True), (128, False)])
def test_a_name_that_has_no_room_for_its_rest_is_not_renamed(size: int, fits: bool) -> None:
    state = grown("d" * size, 1)
    assert (renaming_of(state, "d" * size) is not None) == fits


def test_a_total_that_would_pass_what_a_counter_holds_is_not_folded() -> None:
    most = 2**62 - 1
    state = grown("d", most - 1)
    state.restore(grown("e", 1).encode())
    one = renaming_of(state, "d")
    assert one is not None
    prune(state, READER, [one])
    last = renaming_of(state, "e")
    assert last is not None
    assert last.after == (most,)
    state.restore(grown("f", 2).encode())
    assert renaming_of(state, "f") is None
    assert state.value == most + 2


def test_a_state_of_as_many_actors_as_may_be_can_be_pruned() -> None:
    full = Site("a", KEY, EngineConfig(state_actors_max=2))
    state = ORSet(full)
    state.add(1)
    state.delta.encode()
    other = ORSet(site("d"))
    other.add(2)
    state.merge(other.encode())
    one = renaming_of(state, "d")
    assert one is not None
    prune(state, full, [one])
    assert set(state.context) == {"a", STAR}
    assert state.value == {1, 2}


def test_what_is_no_form_speaks_of_nobody() -> None:
    for data in (
        b"",
        b"\xc1",
        b"\x90",
        b"\x96\x01",
        b"\x96\x01\x05\x07\x90\x90\x90",
        b"\x93\x01\x02\x91\xa1a",
    ):
        assert actors_of(data) == []


def test_the_dots_of_a_context_are_renamed_likewise() -> None:
    context = CausalContext({"d": 5, "a": 2})
    one = Renaming("d", 3, 10, (), ())
    assert renamed_context(5, context, [one]) == made_of({"*": (11, 13), "d~": (1, 2), "a": (1, 2)})
    counted = Renaming("d", 3, 10, (4,), (9,))
    assert renamed_context(4, context, [counted]) == made_of({"d~": (1, 2), "a": (1, 2)})


def made_of(runs: dict[str, tuple[int, int]]) -> CausalContext:
    context = CausalContext()
    for actor, (first, last) in runs.items():
        context.add_run(actor, first, last)
    return context


def test_totals_are_those_of_the_latest() -> None:
    state = grown("d", 3, 4)
    assert total_of(state, "d") == (7,)
    assert total_of(state, "x") == (0,)
    assert total_of(PNCounter(site("a")), "x") == (0, 0)
