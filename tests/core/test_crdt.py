"""Mergeable states: what users count on, each limit from both sides, and whatever a peer may send."""

from __future__ import annotations

import sys
from random import Random
from typing import Any

import msgpack
import pytest
from laws import HASH_KEY, KEYS, History

from agentnet_core.clock import HybridClock
from agentnet_core.config import VERSION_MAX, EngineConfig
from agentnet_core.crdt import (
    TYPES,
    EWFlag,
    GCounter,
    LWWMap,
    LWWRegister,
    MVRegister,
    ORMap,
    ORSet,
    PNCounter,
    Site,
)
from agentnet_core.crdt.base import Crdt
from agentnet_core.dots import CausalContext
from agentnet_core.errors import (
    Contradiction,
    FromFuture,
    LimitReached,
    NetworkError,
    NotOwner,
    PayloadMismatch,
    ProtocolError,
    UsageError,
)
from agentnet_core.packing import check_key, check_value

NOW_NS = 1_732_233_600_000_000_000


def site(actor: str | None = "a:1", **limits: int) -> Site:
    return Site(actor, HASH_KEY, EngineConfig(**limits))


def refused(state: Crdt, data: bytes, error: type[NetworkError], **how: Any) -> NetworkError:
    """The error of a merge that must leave everything as it was."""
    before, value = state.encode(), state.value
    with pytest.raises(error) as caught:
        state.merge(data, **how)
    assert (state.encode(), state.value) == (before, value)
    assert caught.value.definite
    return caught.value


class TestWhatUsersCountOn:
    def test_of_an_addition_and_a_removal_at_the_same_time_the_addition_stays(self) -> None:
        one, other = ORSet(site("a:1")), ORSet(site("b:1"))
        other.merge(one.add("x").encode())
        removal, addition = one.discard("x").encode(), other.add("x").encode()
        one.merge(addition)
        other.merge(removal)
        assert one.value == other.value == {"x"}
        assert one.encode() == other.encode()

    def test_what_was_removed_may_be_added_again(self) -> None:
        one = ORSet(site())
        one.add("x")
        one.discard("x")
        assert "x" not in one
        one.add("x")
        assert "x" in one

    def test_a_clock_ten_years_ahead_freezes_no_key(self) -> None:
        wrong, right = LWWMap(site("a:1")), LWWMap(site("b:1"))
        clock = HybridClock(60_000)
        ahead = clock.stamp(NOW_NS) + (10 * 365 * 86_400_000 << 16)
        write = wrong.set("key", "wrong", ahead).encode()
        refused(right, write, FromFuture, stamp_max=clock.latest(NOW_NS))
        right.merge(write)  # even where it got in, who has seen it writes over it
        right.set("key", "right", clock.stamp(NOW_NS))
        wrong.merge(right.encode())
        assert wrong.get("key") == "right"

    def test_a_write_with_a_stale_context_is_a_sibling(self) -> None:
        one = MVRegister(site())
        one.set("first")
        seen = one.context
        one.set("second", seen)
        one.set("third", seen)
        assert one.value == ["second", "third"]
        one.set("fourth", one.context.clock())
        assert one.value == ["fourth"]

    def test_siblings_are_no_more_than_writers(self) -> None:
        one, other = MVRegister(site("a:1")), MVRegister(site("b:1"))
        for number in range(50):
            one.set(number)
            other.set(-number)
            one.merge(other.encode())
            other.merge(one.encode())
        assert len(one.value) <= 2

    def test_a_change_meets_a_removal_of_its_key(self) -> None:
        one, other = ORMap(site("a:1")), ORMap(site("b:1"))
        one.at("tags", ORSet).add("old")
        other.merge(one.encode())
        one.delete("tags", ORSet)
        other.at("tags", ORSet).add("new")
        one.merge(other.encode())
        other.merge(one.encode())
        assert one.value == other.value == {("tags", "ORSet"): {"new"}}

    def test_one_name_may_have_two_types(self) -> None:
        one = ORMap(site())
        one.at("x", PNCounter).decrement(3)
        one.at("x", LWWRegister).set("text", 1)
        one.at("x", ORMap).at("x", EWFlag).enable()
        assert one.value == {
            ("x", "PNCounter"): -3,
            ("x", "LWWRegister"): "text",
            ("x", "ORMap"): {("x", "EWFlag"): True},
        }
        assert one.at("x", PNCounter).value == -3

    def test_maps_are_eight_deep_at_most(self) -> None:
        one, other = ORMap(site("a:1")), ORMap(site("b:1"))
        inner = one
        for _ in range(7):
            inner = inner.at("x", ORMap)
        inner.at("x", EWFlag).enable()
        assert other.merge(one.encode())
        assert other.value == one.value
        with pytest.raises(UsageError, match="at most 8"):
            inner.at("x", ORMap)
        form = msgpack.unpackb(one.encode())
        form[5] = ["x", 16, *form[5]]
        refused(ORMap(site("b:1")), msgpack.packb(form), ProtocolError)

    def test_a_stamp_that_is_known_is_no_longer_from_the_future(self) -> None:
        """Else one state that let it in could not be brought to any other any more."""
        one, other = LWWMap(site("a:1")), LWWMap(site("b:1"))
        other.merge(one.set("x", 1, 1_000).encode())
        one.set("y", 2, 10)
        assert other.merge(one.encode(), stamp_max=10)

    @pytest.mark.parametrize("order", [1, -1])
    def test_many_siblings_go_in_any_order(self, order: int) -> None:
        one, count = MVRegister(site("a:1")), 2_000
        for number in range(count):
            one.set(number, {})
        assert one.value == list(range(count))
        for at in [*range(1, count + 1)][::order]:
            one.merge(msgpack.packb([1, 12, ["a:1"], [[at - 1, 1]], [[]], []]))
            if at % 500 == 0:
                assert one.value == [n for n in range(count) if (n + 1 - at) * order > 0]
        assert one.allocated < 1000

    def test_a_delta_is_open_until_it_is_encoded(self) -> None:
        one, other = LWWMap(site("a:1")), LWWMap(site("b:1"))
        delta = one.set("x", 1, 1)
        assert one.set("x", 2, 2) is one.set("y", 3, 3) is one.delete("z") is delta
        assert delta
        assert other.merge(delta.encode())
        assert not delta
        assert not other.merge(delta.encode())
        assert other.value == {"x": 2, "y": 3}

    def test_any_part_can_be_sent_again(self) -> None:
        one, other = ORSet(site("a:1")), ORSet(site("b:1"))
        for number in range(10):
            one.add(number)
        one.discard(3)
        lost = CausalContext()
        lost.add_run("a:1", 3, 5)
        lost.add(("stranger", 7))
        other.merge(one.encode(lost))
        assert other.value == {2, 4}
        assert other.context.runs("a:1") == [(3, 5)]
        other.merge(one.encode(one.context.minus(other.context)))
        assert other.encode() == one.encode()

    @pytest.mark.parametrize(
        "value",
        [
            None,
            True,
            -1,
            2**64 - 1,
            1.5,
            "text",
            b"bytes",
            [1, [2]],
            {"a": {2: b""}},
            msgpack.ExtType(5, b""),
        ],
    )
    def test_values_are_whatever_messagepack_has(self, value: Any) -> None:
        one, other = LWWRegister(site("a:1")), MVRegister(site("b:1"))
        one.set(value, 1)
        other.set(value)
        assert LWWRegister.decode(one.encode(), site(None)).value == value
        assert MVRegister.decode(other.encode(), site(None)).value == [value]

    @pytest.mark.parametrize("value", [object(), {1, 2}, 2**64, -(2**63) - 1, "\ud800", {(1,): 2}])
    def test_or_are_refused_at_once(self, value: Any) -> None:
        one = LWWMap(site())
        one.set("x", 1, 1)
        before = one.encode()
        with pytest.raises(PayloadMismatch):
            one.set("x", value, 2)
        assert one.encode() == before

    @pytest.mark.parametrize("key", [True, None, 1.0, [1], {"a": 1}, 2**64, "\ud800", (((((1,),),),),)])
    def test_keys_are_those_that_bytes_tell_apart(self, key: Any) -> None:
        with pytest.raises(PayloadMismatch):
            ORSet(site()).add(key)

    def test_a_replica_without_an_actor_merges_and_does_not_write(self) -> None:
        one = ORSet(site(None))
        with pytest.raises(UsageError, match="no actor"):
            one.add("x")
        assert one.merge(ORSet(site("b:1")).add("x").encode())

    @pytest.mark.parametrize("amount", [0, -1, 1.5, True, "1"])
    def test_counters_count_up_by_whole_numbers(self, amount: Any) -> None:
        with pytest.raises(UsageError):
            GCounter(site()).increment(amount)

    def test_a_counter_has_an_end(self) -> None:
        one = PNCounter(site())
        one.increment(2**62 - 1)
        with pytest.raises(LimitReached):
            one.increment()
        one.decrement(2**62 - 1)
        assert one.value == 0


class TestLimits:
    """At the limit it passes; one beyond is refused, whether it is written here or comes from a peer."""

    def held(self, name: str, most: int, just: LWWMap, beyond: LWWMap) -> None:
        tight = LWWMap(site("z:1", **{name: most}))
        assert tight.merge(just.encode())
        error = refused(LWWMap(site("z:1", **{name: most})), beyond.encode(), LimitReached)
        assert f"{name}={most}" in str(error)

    @staticmethod
    def filled(pairs: dict[Any, Any], actor: str = "a:1") -> LWWMap:
        state = LWWMap(site(actor))
        for key, value in pairs.items():
            state.set(key, value, 1)
        return state

    def test_elements(self) -> None:
        three, four = ({str(number): 0 for number in range(count)} for count in (3, 4))
        self.held("state_elements_max", 3, self.filled(three), self.filled(four))
        full = LWWMap(site("z:1", state_elements_max=3))
        full.merge(self.filled(three).encode())
        refused(full, self.filled({"other": 1}, "b:1").encode(), LimitReached)
        with pytest.raises(LimitReached, match="state_elements_max=3"):
            full.set("other", 1, 1)
        full.set("0", 1, 2)  # instead of another
        full.delete("0")
        full.set("other", 1, 1)

    def test_bytes(self) -> None:
        self.held("state_bytes_max", 20, self.filled({"k": bytes(16)}), self.filled({"k": bytes(17)}))
        full = LWWMap(site("z:1", state_bytes_max=20))
        full.set("k", bytes(16), 1)
        with pytest.raises(LimitReached, match="state_bytes_max=20"):
            full.set("k", bytes(17), 1)
        assert full.get("k") == bytes(16)
        refused(full, self.filled({"x": 1}).encode(), LimitReached)

    @pytest.mark.parametrize(
        ("name", "pair"), [("state_key_bytes_max", "kv"), ("state_value_bytes_max", "vk")]
    )
    def test_one_key_and_one_value(self, name: str, pair: str) -> None:
        def state(size: int) -> dict[str, str]:
            both = {"k": "x" * (size - 1), "v": ""}
            return {both[pair[0]]: both[pair[1]]}

        self.held(name, 10, self.filled(state(10)), self.filled(state(11)))
        with pytest.raises(LimitReached, match=f"{name}=10"):
            ((key, value),) = state(11).items()
            LWWMap(site("z:1", **{name: 10})).set(key, value, 1)

    def test_actors(self) -> None:
        one = ORSet(site(None, state_actors_max=2))
        messages = [ORSet(site(actor)).add("x").encode() for actor in ("a", "b", "c")]
        one.merge(messages[0])
        one.merge(messages[1])
        assert "state_actors_max=2" in str(refused(one, messages[2], LimitReached))
        late = ORSet(site("c", state_actors_max=2))
        late.merge(one.encode())
        with pytest.raises(LimitReached, match="state_actors_max=2"):
            late.add("y")
        three = ORSet(site(None))
        for message in messages:
            three.merge(message)
        refused(ORSet(site(None, state_actors_max=2)), three.encode(), LimitReached)

    def test_runs(self) -> None:
        one = ORSet(site("a"))
        deltas = [one.add(number).encode() for number in range(5)]
        other = ORSet(site("b", state_runs_max=2))
        other.merge(deltas[0])
        other.merge(deltas[2])
        assert "state_runs_max=2" in str(refused(other, deltas[4], LimitReached))
        with pytest.raises(LimitReached, match="state_runs_max=2"):
            other.add("x")
        assert other.merge(deltas[1])
        assert other.merge(deltas[4])

    def test_a_delta_of_too_many_removals_is_the_whole_state(self) -> None:
        one, other = ORSet(site("a:1", state_elements_max=8)), ORSet(site("b:1"))
        for number in range(200):
            one.add(number)
            one.discard(number)
        one.add("last")
        other.merge(one.delta.encode())
        assert other.encode() == one.encode()
        assert len(other.encode()) < 40


FORM = [1, 1, ["a", "b"], [[0, 3], [1, 2]], [[1, 1], [2, 1]], ["x", "y"]]
"""A set of two elements, as its form is read by any MessagePack library."""


def changed(*path_and_value: Any) -> bytes:
    """FORM with one place changed."""
    *path, last, value = path_and_value
    form: Any = msgpack.unpackb(msgpack.packb(FORM))
    place = form
    for step in path:
        place = place[step]
    place[last] = value
    return msgpack.packb(form)


class TestBadInput:
    def test_the_form_is_right_before_it_is_made_wrong(self) -> None:
        one = ORSet(site(None))
        assert one.merge(msgpack.packb(FORM))
        assert one.value == {"x", "y"}
        assert one.encode() == msgpack.packb(FORM)

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\x96",
            b"\x00",
            msgpack.packb(FORM)[:-1],
            msgpack.packb(FORM) + b"\x00",
            msgpack.packb([*FORM, 1]),
            changed(0, 2),
            changed(1, 0),
            changed(2, ["b", "a"]),
            changed(2, ["a", "a"]),
            changed(2, ["a", ""]),
            changed(2, ["a", "b" * 129]),
            changed(2, ["a", b"b"]),
            changed(2, ["a"]),
            changed(3, [[0, 3]]),
            changed(3, 1, []),
            changed(3, 1, [1]),
            changed(3, 1, [1, 0]),
            changed(3, 1, [1, 1, 0, 1]),
            changed(3, 0, [0, VERSION_MAX + 1]),
            changed(4, 0, [3, 1]),
            changed(4, 0, [0, 3]),
            changed(4, 0, [0, 3, 1]),
            changed(4, 0, [0, 2**60]),
            changed(5, ["x"]),
            changed(5, ["x", "y", "z"]),
            changed(5, ["x", 1.5]),
            changed(5, ["x", None]),
            changed(5, ["x", [[[[[1]]]]]]),
            msgpack.packb(FORM)[:-1] + b"\xff\x00",
            msgpack.packb(FORM)[:-4] + b"\xa1\xff\xa1y",
            msgpack.packb(FORM)[:-4] + b"\xd9\x01x\xa1y",  # a key that is longer than need be
            msgpack.packb(FORM)[:-4] + b"\xcc\x01\xa1y",
        ],
    )
    def test_malformed(self, data: bytes) -> None:
        one = ORSet(site("c"))
        one.add("own")
        refused(one, data, ProtocolError)

    def test_nothing_is_allocated_for_a_promise(self) -> None:
        for kind in TYPES.values():
            code = kind(site()).type_code
            for live in (2**50, 900_000):
                bomb = msgpack.packb([1, code, ["a"], [[0, live]], [[0, live]], []])
                refused(kind(site()), bomb, ProtocolError)

    def test_values_that_python_could_not_read(self) -> None:
        form = [1, 12, ["a"], [[0, 1]], [[0, 1]]]
        head = b"\x96" + b"".join(msgpack.packb(part) for part in form) + b"\x91"
        for value in (
            b"\xa1\xff",
            b"\x81\x90\x01",
            b"\xc1",
            b"\xd6\xff\x00\x00\x00\x00",
            b"\x91" * 33 + b"\x00",
        ):
            refused(MVRegister(site()), head + value, ProtocolError)
            assert not check_value(value)
        assert MVRegister(site()).merge(head + b"\x91" * 32 + b"\x00")

    def test_dots_of_another_actor_than_its_origin(self) -> None:
        one, honest = ORSet(site("c")), ORSet(site("a"))
        forged = ORSet(site("b")).add("x").encode()
        assert "'b'" in str(refused(one, forged, NotOwner, author="a"))
        assert one.merge(forged, author="b")
        honest.merge(forged)
        assert one.merge(honest.discard("x").encode(), author="a"), "who removes speaks of what others made"
        assert one.value == set()

    def test_dots_of_the_own_actor_that_it_never_made(self) -> None:
        one = ORSet(site("a"))
        one.add("x")
        twin = ORSet(site("a"))
        twin.add("x")
        assert not one.merge(twin.encode())
        twin.add("y")
        refused(one, twin.encode(), Contradiction)
        future = msgpack.packb([1, 1, ["a"], [[0, 2**40]], [[]], []])
        refused(one, future, Contradiction)

    @pytest.mark.parametrize(("key", "value", "stamp"), [("y", 1, 1), ("x", 2, 1), ("x", 1, 2)])
    def test_one_dot_with_two_contents(self, key: str, value: int, stamp: int) -> None:
        one, fork, other = LWWMap(site("a")), LWWMap(site("a")), LWWMap(site("b"))
        other.merge(one.set("x", 1, 1).encode())
        other.set("own", 1, 1)
        refused(other, fork.set(key, value, stamp).encode(), Contradiction)

    def test_all_or_nothing(self) -> None:
        """What is wrong at the very end undoes what was right before it."""
        one = ORSet(site(None))
        many = ORSet(site("a"))
        for number in range(1000):
            many.add(f"k{number}")
        refused(one, many.encode()[:-1], ProtocolError)
        refused(one, many.encode()[:-1] + b"\xc0", ProtocolError)

    @pytest.mark.parametrize("name", TYPES)
    def test_any_bytes_are_merged_or_refused(self, name: str) -> None:
        """Messages of real histories, cut and changed: an error of the tree, or a state like any."""
        rng = Random(name)
        history = History(name, 1)
        history.play()
        good = [message.data for message in history.messages] + [history.replicas[0].state.encode()]
        taken = 0
        here, nowhere = site("new:1", state_elements_max=1000), site(None)
        for _ in range(2000):
            data = bytearray(rng.choice(good))
            for _ in range(rng.randint(1, 3)):
                data[rng.randrange(len(data))] = rng.choice(
                    (0, 1, 0x7F, 0x80, 0x90, 0xC0, 0xDD, 0xFF, rng.randrange(256))
                )
            state = TYPES[name](here)
            state.merge(good[-1])
            before = state.encode()
            try:
                state.merge(bytes(data[: rng.choice((len(data), rng.randrange(len(data))))]), stamp_max=10**6)
                taken += 1
            except NetworkError as error:
                assert error.definite
                assert state.encode() == before
            again = TYPES[name].decode(state.encode(), nowhere)
            assert again.encode() == state.encode()
            assert again.value == state.value
        assert taken > 10

    def test_keys_have_one_form(self) -> None:
        for key in KEYS:
            assert check_key(msgpack.packb(key))
        for longer in ("cc7f", "cd00ff", "d001", "d1ffff", "dc000101", "c5000161", "d90161", "cb" + "00" * 8):
            assert not check_key(bytes.fromhex(longer))
        for other in ("", "c0", "c3", "80", "919191919101", "a1ff", "0101"):
            assert not check_key(bytes.fromhex(other))
        assert check_key(bytes.fromhex("9191919101"))


class TestTheTable:
    def test_what_was_removed_leaves_nothing(self) -> None:
        one, other = LWWMap(site("a:1")), LWWMap(site("b:1"))
        empty = len(one.set("x", 1, 1).encode())
        for number in range(10_000):
            one.set(number, "value", number + 1)
        other.merge(one.encode())
        assert other.allocated > 100_000
        one.clear()
        other.merge(one.delta.encode())
        for state in (one, other):
            assert state.elements == state.size == 0
            assert len(state.encode()) <= 2 * empty
            assert state.allocated < 1000

    @pytest.mark.parametrize("kind", [ORSet, LWWMap, ORMap])
    def test_of_what_all_have_removed_only_actors_remain(self, kind: Any) -> None:
        """In memory at most twice what a state has that each of them wrote once, and in bytes no more."""

        def fill(state: Any, number: int) -> None:
            if kind is ORSet:
                state.add(f"element {number}")
            elif kind is LWWMap:
                state.set(f"key {number}", "value", number + 1)
            else:
                state.at(f"key {number}", LWWRegister).set("value", number + 1)

        def replicas(count: int) -> list[Any]:
            states = [kind(site(f"actor-{each:03}:1")) for each in range(50)]
            for each, state in enumerate(states):
                for number in range(count):
                    fill(state, each * count + number)
            for state in states[1:]:
                states[0].merge(state.encode())
            states[0].clear()
            for state in states[1:]:
                state.merge(states[0].encode())
            return states

        for full, small in zip(replicas(400), replicas(1), strict=True):
            full.delta.encode()
            small.delta.encode()
            assert full.elements == full.size == 0
            assert len(full.encode()) <= len(small.encode()) + 50 * 8
            assert full.allocated <= 2 * small.allocated

    def test_writing_one_key_over_and_over_takes_no_room(self) -> None:
        one = LWWMap(site())
        for number in range(10_000):
            one.set("key", number, number + 1)
        assert one.allocated < 10_000

    def test_no_more_than_twice_a_dict(self) -> None:
        one = LWWMap(site())
        for number in range(100_000):
            one.set(f"k{number}", number, number + 1)
        one.delta.encode()
        plain = {f"k{number}": number for number in range(100_000)}
        most = sys.getsizeof(plain) + sum(
            sys.getsizeof(key) + sys.getsizeof(value) for key, value in plain.items()
        )
        assert one.allocated <= 2 * most

    def test_no_key_can_be_aimed_at_the_table(self) -> None:
        """The same keys fall elsewhere under another hash key, and states do not tell which it is."""
        states = [ORSet(Site("a:1", key)) for key in (HASH_KEY, bytes(16))]
        for state in states:
            for number in range(100):
                state.add(number)
        assert states[0].encode() == states[1].encode()
        with pytest.raises(UsageError, match="16"):
            Site("a:1", b"short")
