"""Vector clocks, sets of dots and hybrid clocks beside models of plain dicts, sets and ints."""

from __future__ import annotations

from collections.abc import Mapping

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentnet_core.clock import HybridClock, Order, VectorClock
from agentnet_core.config import VERSION_MAX
from agentnet_core.dots import CausalContext, Dot
from agentnet_core.errors import FromFuture, ProtocolError, UsageError

ACTORS = st.sampled_from(["a", "b", "c:1", "d\N{SNOWMAN}", "e"])
COUNTS = st.dictionaries(ACTORS, st.integers(0, 4))
DOTS = st.sets(st.tuples(ACTORS, st.integers(1, 12)))
LIMITS = {"actors_max": 10, "runs_max": 100}


def order_of(one: Mapping[str, int], other: Mapping[str, int]) -> Order:
    actors = one.keys() | other.keys()
    less = any(one.get(actor, 0) < other.get(actor, 0) for actor in actors)
    more = any(one.get(actor, 0) > other.get(actor, 0) for actor in actors)
    return Order(less + 2 * more)


class TestVectorClock:
    @given(COUNTS, COUNTS)
    def test_compares_and_merges_as_the_definition_says(
        self, one: dict[str, int], other: dict[str, int]
    ) -> None:
        left, right = VectorClock(one), VectorClock(other)
        order = order_of(one, other)
        assert left.compare(right) is order
        assert (left == right, left < right, left > right) == (order == 0, order == 1, order == 2)
        assert (left <= right, left >= right) == (order in (0, 1), order in (0, 2))
        joint = left.copy()
        joint.merge(right)
        most = {actor: max(one.get(actor, 0), other.get(actor, 0)) for actor in one | other}
        assert dict(joint) == {actor: number for actor, number in most.items() if number}
        assert dict(left) == {actor: number for actor, number in one.items() if number}
        joint.merge(left)
        right.merge(left)
        assert joint == right
        assert joint.encode() == right.encode()

    @given(COUNTS, st.lists(COUNTS, max_size=5))
    def test_one_against_many_is_one_against_each(
        self, one: dict[str, int], others: list[dict[str, int]]
    ) -> None:
        actors = ["e", "c:1", "a", "b"]
        rows = np.array([[other.get(actor, 0) for actor in actors] for other in others], dtype=np.uint64)
        found = VectorClock(one).compare_many(actors, rows.reshape(len(others), len(actors)))
        cut = [{actor: other.get(actor, 0) for actor in actors} for other in others]
        assert [Order(each) for each in found] == [order_of(one, other) for other in cut]

    def test_refuses_what_is_no_table_of_clocks(self) -> None:
        clock = VectorClock({"a": 1})
        with pytest.raises(UsageError, match="distinct"):
            clock.compare_many(["a", "a"], np.zeros((1, 2), np.uint64))
        with pytest.raises(UsageError, match="distinct"):
            clock.compare_many(["a"], np.zeros((1, 2), np.uint64))
        with pytest.raises(UsageError, match="at most"):
            clock.compare_many(["a"], np.array([[1 << 63]], np.uint64))
        assert list(clock.compare_many([], np.zeros((2, 0), np.uint64))) == [Order.AFTER] * 2

    @given(COUNTS)
    def test_its_form_is_one_and_comes_back(self, counts: dict[str, int]) -> None:
        clock = VectorClock(counts)
        again = VectorClock.decode(clock.encode(), actors_max=5)
        assert again == clock
        assert again.encode() == clock.encode()
        assert msgpack.unpackb(clock.encode()) == dict(clock)
        assert clock.context().clock() == dict(clock)

    def test_counts_events_of_its_actors(self) -> None:
        clock = VectorClock({"b": 2})
        assert (clock.increment("a"), clock.increment("a"), clock.increment("b")) == (1, 2, 3)
        assert (list(clock), clock["a"], clock.get("z"), "b" in clock, 7 in clock) == (
            ["a", "b"],
            2,
            None,
            True,
            False,
        )
        assert clock.covers(Dot("b", 3))
        assert not clock.covers(Dot("b", 4))
        with pytest.raises(KeyError):
            clock["z"]

    @pytest.mark.parametrize(
        "counts",
        [{"a": -1}, {"a": VERSION_MAX + 1}, {"a": 1.0}, {"a": True}, {1: 1}, {"": 1}, {"a" * 129: 1}],
    )
    def test_refuses_what_is_no_clock(self, counts: dict[str, int]) -> None:
        with pytest.raises(UsageError):
            VectorClock(counts)

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\x82\xa1b\x01\xa1a\x01",  # out of order
            b"\x82\xa1a\x01\xa1a\x01",  # twice
            b"\x81\xa1a\x00",
            b"\x81\xa1a\x01\x00",  # bytes behind it
            b"\x81\xa1\xff\x01",
            b"\x81\xa0\x01",
            b"\xdf\xff\xff\xff\xff",
            msgpack.packb({"a": VERSION_MAX + 1}),
            msgpack.packb({"a" * 129: 1}),
            msgpack.packb({f"{number:02}": 1 for number in range(11)}),
        ],
    )
    def test_refuses_other_bytes(self, data: bytes) -> None:
        with pytest.raises(ProtocolError):
            VectorClock.decode(data, actors_max=10)

    def test_the_last_number_is_the_last(self) -> None:
        clock = VectorClock({"a": VERSION_MAX})
        with pytest.raises(UsageError, match="last"):
            clock.increment("a")


class TestCausalContext:
    @given(DOTS, DOTS)
    def test_is_a_set_of_dots(self, one: set[tuple[str, int]], other: set[tuple[str, int]]) -> None:
        left, right = context(one), context(other)
        assert [dot in left for dot in sorted(one | other)] == [dot in one for dot in sorted(one | other)]
        assert (len(left), bool(left), left == right) == (len(one), bool(one), one == other)
        assert left.covers(right) == (one >= other)
        assert left.minus(right) == context(one - other)
        left.merge(right)
        assert left == context(one | other)
        assert left.encode() == context(one | other).encode()

    @given(DOTS)
    def test_its_form_is_one_and_comes_back(self, dots: set[tuple[str, int]]) -> None:
        one = context(dots)
        assert CausalContext.decode(one.encode(), **LIMITS) == one
        assert one.gaps == sum(number > 1 and (actor, number - 1) not in dots for actor, number in dots)
        for actor, number in one.clock().items():
            assert {(actor, each) for each in range(1, number + 1)} <= dots
            assert (actor, number + 1) not in dots

    def test_what_came_in_order_takes_no_room(self) -> None:
        one = CausalContext()
        for number in range(1, 10_001):
            one.add(("a", number))
        assert one.runs("a") == [(1, 10_000)]
        assert len(one.encode()) < 10

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\x81\xa1a\x90",
            b"\x81\xa1a\x91\x00",
            b"\x81\xa1a\x92\x00\x00",
            b"\x81\xa1a\x94\x00\x01\x00\x01",  # two runs that are one
            b"\x82\xa1b\x92\x00\x01\xa1a\x92\x00\x01",
            msgpack.packb({"a": [VERSION_MAX, 1]}),
            msgpack.packb({"a": [0, VERSION_MAX + 1]}),
            msgpack.packb({"a": [1, 1] * 101}),
            msgpack.packb({f"{number:02}": [0, 1] for number in range(11)}),
        ],
    )
    def test_refuses_other_bytes(self, data: bytes) -> None:
        with pytest.raises(ProtocolError):
            CausalContext.decode(data, **LIMITS)

    def test_the_limits_themselves_pass(self) -> None:
        wide = msgpack.packb({f"{number:02}": [1, 1] * 10 for number in range(10)})
        assert len(CausalContext.decode(wide, **LIMITS)) == 100
        assert len(CausalContext.decode(msgpack.packb({"a": [0, VERSION_MAX]}), **LIMITS)) == VERSION_MAX

    @pytest.mark.parametrize("dot", [("a", 0), ("a", -1), ("a", VERSION_MAX + 1), ("", 1), ("a" * 129, 1)])
    def test_refuses_what_is_no_dot(self, dot: tuple[str, int]) -> None:
        with pytest.raises(UsageError):
            CausalContext().add(dot)


def context(dots: set[tuple[str, int]]) -> CausalContext:
    made = CausalContext()
    for dot in sorted(dots, key=lambda dot: (-dot[1] % 5, dot)):
        made.add(dot)
    return made


class TestHybridClock:
    NOW_NS = 1_732_233_600_000_000_000

    def test_stamps_rise_though_time_stands_or_goes_back(self) -> None:
        clock = HybridClock(1_000)
        stamps = [clock.stamp(self.NOW_NS - number * 1_000_000) for number in range(100)]
        assert stamps == sorted(set(stamps))
        assert stamps[0] >> 16 == self.NOW_NS // 1_000_000

    def test_follows_what_it_has_seen_within_its_bound(self) -> None:
        clock = HybridClock(1_000)
        latest = clock.latest(self.NOW_NS)
        clock.observe(latest, self.NOW_NS)
        assert clock.stamp(self.NOW_NS) == latest + 1

    @pytest.mark.parametrize("ahead", [1, 10 * 365 * 86_400_000 << 16])
    def test_is_not_taken_along_by_a_clock_beyond_its_bound(self, ahead: int) -> None:
        clock = HybridClock(1_000)
        before = clock.stamp(self.NOW_NS)
        with pytest.raises(FromFuture, match="clocks of both"):
            clock.observe(clock.latest(self.NOW_NS) + ahead, self.NOW_NS)
        assert clock.stamp(self.NOW_NS) == before + 1

    def test_goes_on_after_the_last_stamp_of_an_earlier_run(self) -> None:
        last = HybridClock(1_000).stamp(self.NOW_NS)
        assert HybridClock(1_000, last).stamp(self.NOW_NS - 5_000_000_000) == last + 1
