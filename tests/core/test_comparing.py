"""Two nodes that find what one has and the other has not: any single thing, at the cost of the difference."""

from __future__ import annotations

from collections import deque
from random import Random
from typing import Any

import pytest

from agentnet_core.comparing import SMALL_BYTES, WORKS_MAX, Comparing
from agentnet_core.config import EngineConfig
from agentnet_core.crdt import LWWMap, ORSet, Site
from agentnet_core.errors import NetworkError
from agentnet_core.parts import CONTEXT, FETCH, LIVE, PART, PRINTS, RANGES, SUMS, read
from agentnet_core.states import Held, Key, States

SET, MAP = (kind(Site("a", bytes(16))).type_code for kind in (ORSet, LWWMap))
KEY = Key(SET, "s")
ANY = 2**62 - 1


class Side:
    """One node: its states, and what it says to the other."""

    def __init__(self, name: str, config: EngineConfig) -> None:
        self.states = States(config, lambda: Site(name, bytes(16), config))
        self.comparing = Comparing(self.states, self, config)
        self.out: deque[bytes] = deque()
        self.again = self.said = self.frames = 0
        self.waiting = 0
        self.due = False
        self.turns = 0
        self.verbs = {
            SUMS: lambda node_id, sums, _: self.comparing.on_sums(node_id, sums),
            PRINTS: self.comparing.on_prints,
            CONTEXT: self.comparing.on_context,
            PART: self.comparing.on_part,
            RANGES: self.comparing.on_ranges,
            FETCH: self.comparing.on_fetch,
            LIVE: self.comparing.on_live,
        }

    def send(self, node_id: str, body: bytes) -> bool:
        self.out.append(body)
        self.said += len(body)
        self.frames += 1
        return True

    def backlog(self, node_id: str) -> int:
        return self.waiting

    def later(self, node_id: str) -> None:
        self.again += 1

    def next_turn(self) -> None:
        self.due = True

    def turn(self) -> bool:
        due, self.due = self.due, False
        if due:
            self.turns += 1
            self.comparing.tick()
        return due

    def take(self, node_id: str, key: Key, data: bytes, author: str | None) -> NetworkError | bool:
        try:
            return self.states.merge(key, data, author=author, stamp_max=ANY)
        except NetworkError as error:
            return error

    def withholds(self, node_id: str, key: Key) -> bool:
        return False

    def state(self, key: Key = KEY) -> Any:
        return self.states.hold(key).state

    def held(self, key: Key = KEY) -> Held:
        return self.states.hold(key)

    def change(self, key: Key = KEY) -> bytes:
        """What was changed since the last time."""
        self.states.touched(self.held(key))
        return self.state(key).delta.encode()


class Pair:
    def __init__(self, **limits: int) -> None:
        config = EngineConfig(**limits)
        self.one, self.other = Side("a", config), Side("b", config)

    def compare(self, most: int = 1000) -> None:
        """One comparison, begun by the first; it must end."""
        sides = {"a": self.one, "b": self.other}
        self.one.comparing.start("b")
        while self.one.out or self.other.out or self.one.turn() or self.other.turn():
            for name, side, there in (("a", self.one, "b"), ("b", self.other, "a")):
                if side.out:
                    verb, parts = read(side.out.popleft())
                    sides[there].verbs[verb](name, *parts)
            assert self.one.frames + self.other.frames < most, "they go on for ever"

    @property
    def equal(self) -> bool:
        return self.one.states.sums() == self.other.states.sums()

    @property
    def said(self) -> int:
        return self.one.said + self.other.said

    def fill(self, count: int, key: Key = KEY) -> None:
        """Both hold so many elements, each made half of them."""
        for side, there, first in ((self.one, self.other, 0), (self.other, self.one, 1)):
            for element in range(first, count, 2):
                side.state(key).add(f"element {element}")
            there.states.merge(key, side.change(key), author=None, stamp_max=ANY)
        assert self.equal


@pytest.mark.parametrize("count", [0, 10, 5_000])
def test_equal_nodes_say_one_frame(count: int) -> None:
    pair = Pair()
    pair.fill(count)
    pair.compare()
    assert pair.one.frames + pair.other.frames == 1
    assert pair.one.said < 600


@pytest.mark.parametrize("count", [10, 200, 5_000])
@pytest.mark.parametrize("what", ["add", "remove", "replace", "all at once"])
@pytest.mark.parametrize("at_one", [True, False])
def test_any_single_change_that_got_lost_is_found(count: int, what: str, at_one: bool) -> None:
    pair = Pair()
    pair.fill(count)
    side = pair.one if at_one else pair.other
    if what in ("add", "all at once"):
        side.state().add("new")
    if what in ("remove", "all at once"):
        side.state().discard("element 4")
    if what in ("replace", "all at once"):
        side.state().add("element 5")
    side.change()  # and it is lost
    assert not pair.equal
    pair.compare()
    assert pair.equal
    assert side.state().value == pair.one.state().value == pair.other.state().value
    assert ("element 4" in side.state()) == (what not in ("remove", "all at once"))


@pytest.mark.parametrize("seed", range(20))
def test_any_number_of_changes_that_got_lost_on_both_sides(seed: int) -> None:
    rng, pair = Random(seed), Pair()
    keys = [Key(SET, f"s{number}") for number in range(rng.randrange(1, 40))]
    for key in keys[:5]:
        pair.fill(rng.choice((3, 300, 3000)), key)
    for _ in range(rng.randrange(1, 200)):
        side, key = rng.choice((pair.one, pair.other)), rng.choice(keys)
        state = side.state(key)
        if rng.random() < 0.5 and len(state):
            state.discard(f"element {rng.randrange(300)}")
        else:
            state.add(rng.randrange(100))
        data = side.change(key)
        if rng.random() < 0.2:
            there = pair.other if side is pair.one else pair.one
            there.states.merge(key, data, author=None, stamp_max=ANY)
    pair.compare(3000)
    assert pair.equal
    for key in keys:
        assert pair.one.state(key).encode() == pair.other.state(key).encode()


def test_it_costs_what_differs_not_what_is_there() -> None:
    """100 removals of 100,000, that nobody saw: the hardest, as no event tells of them."""
    pair = Pair()
    pair.fill(100_000)
    whole = len(pair.one.state().encode())
    for number in range(100):
        pair.one.state().discard(f"element {number * 997}")
    pair.one.change()
    pair.compare(3000)
    assert pair.equal
    assert len(pair.other.state()) == 99_900
    assert pair.said < whole / 25, (pair.said, whole)


def test_a_hundred_writes_cost_a_hundredth() -> None:
    pair = Pair()
    pair.fill(100_000)
    whole = len(pair.one.state().encode())
    for number in range(100):
        pair.one.state().add(f"new {number}")
    pair.one.change()
    pair.compare()
    assert pair.equal
    assert pair.said < whole / 100, (pair.said, whole)


def test_what_one_has_alone_goes_over_whole_in_both_directions() -> None:
    pair = Pair()
    pair.one.state(Key(SET, "mine")).add(1)
    pair.one.change(Key(SET, "mine"))
    pair.other.state(Key(MAP, "theirs")).set("k", bytes(SMALL_BYTES + 1), 1)
    pair.other.change(Key(MAP, "theirs"))
    pair.compare()
    assert pair.equal
    assert pair.one.state(Key(MAP, "theirs")).value.keys() == {"k"}


def test_what_cannot_be_taken_ends_the_comparison() -> None:
    pair = Pair()
    pair.fill(500)
    pair.other.states._bytes_max = 0
    pair.one.state().add("one too many")
    pair.one.change()
    pair.compare()
    assert not pair.equal
    assert "one too many" not in pair.other.state()


def test_one_event_with_two_contents_does_not_go_on_for_ever() -> None:
    pair = Pair()
    for side, element in ((pair.one, "x"), (pair.other, "y")):
        twin = ORSet(Site("twin", bytes(16)))
        twin.add(element)
        side.states.merge(KEY, twin.encode(), author=None, stamp_max=ANY)
    assert not pair.equal
    pair.compare()
    assert not pair.equal


def test_who_does_not_read_is_told_later() -> None:
    pair = Pair()
    pair.other.state().add(1)
    pair.other.change()
    pair.other.waiting = 2 * 1024 * 1024
    pair.compare()
    assert not pair.equal
    assert pair.other.again == 1


# -- what it costs the one who is asked


def test_questions_that_cost_more_than_a_turn_take_several() -> None:
    pair = Pair(state_compare_blocks_max=64)
    pair.fill(20_000)
    for number in range(100):
        pair.one.state().discard(f"element {number * 197}")
    pair.one.change()
    pair.compare(3000)
    assert pair.equal
    assert pair.one.turns + pair.other.turns > 20


def test_what_anybody_asks_costs_a_bounded_number_of_blocks_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(state_compare_blocks_max=100)
    pair.fill(10_000)
    looked = 0
    look = Comparing._sum

    def count(self: Comparing, held: Held, actor: str, first: int, end: int) -> int:
        nonlocal looked
        looked += min(end - first, held.state.elements)
        return look(self, held, actor, first, end)

    monkeypatch.setattr(Comparing, "_sum", count)
    rows = [("a", 0, 300, 7)] * 300
    most = 300 + 300 + 16  # a row and its parts may begin with one block left
    for _ in range(WORKS_MAX):
        pair.one.comparing.on_ranges("b", KEY, rows)
    assert looked <= most
    assert pair.one.comparing.works == WORKS_MAX
    assert not pair.one.again
    pair.one.comparing.on_ranges("b", KEY, rows)
    assert pair.one.again == 1
    for _ in range(20):
        looked = 0
        assert pair.one.turn()
        assert 0 < looked <= most
    pair.one.comparing.link_down("b")
    assert not pair.one.comparing.works


# -- the tests themselves


def nothing(*_: object, **__: object) -> None:
    pass


@pytest.mark.parametrize(
    "broken", ["_descend", "on_fetch", "on_live", "on_ranges", "on_prints", "on_context", "on_part"]
)
def test_whatever_is_left_out_is_missed(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step is needed by some difference: without it, one of these is not found."""
    monkeypatch.setattr(Comparing, broken, nothing)
    found = []
    for count, at_one, remove in (
        (10, True, True),
        (5_000, True, True),
        (5_000, False, True),
        (5_000, False, False),
    ):
        pair = Pair()
        pair.fill(count)
        side = pair.one if at_one else pair.other
        side.state().discard("element 4") if remove else side.state().add("new")
        side.change()
        pair.compare()
        found.append(pair.equal)
    assert not all(found), broken
