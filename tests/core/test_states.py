"""The states that a node holds: what they come to, their limits, and sums of ranges of events."""

from __future__ import annotations

from random import Random

import pytest

from agentnet_core.config import STATE_NAME_BYTES_MAX, EngineConfig
from agentnet_core.crdt import GCounter, LWWMap, ORSet, Site
from agentnet_core.crdt.base import BLOCK_DOTS, Crdt
from agentnet_core.errors import LimitReached, NotOwner, ProtocolError, UsageError
from agentnet_core.states import STATE_OVERHEAD_BYTES, Held, Key, States

HASH_KEYS = bytes(16), bytes(range(16))
SET, COUNTER, MAP = (kind(Site("a", bytes(16))).type_code for kind in (ORSet, GCounter, LWWMap))


def states(actor: str = "a", **limits: int) -> States:
    config = EngineConfig(**limits)
    return States(config, lambda: Site(actor, HASH_KEYS[actor == "a"], config))


def change(held: Held, of: States, element: str) -> bytes:
    held.state.add(element)  # type: ignore[attr-defined]
    of.touched(held)
    return held.state.delta.encode()


def sum_by_hand(state: Crdt, actor: str, first: int, end: int) -> int:
    """The sum of a range, as the sum of a state that has nothing else."""
    context = state.context
    part = type(context)()
    part.add_run(actor, max(1, first * BLOCK_DOTS), end * BLOCK_DOTS - 1)
    other = type(state)(Site(None, bytes(16)))
    other.merge(state.encode(part))
    return other.sum


# -- sums


@pytest.mark.parametrize("seed", range(5))
def test_sums_are_those_of_what_is_there_whatever_came_and_went(seed: int) -> None:
    rng = Random(seed)
    one, other = ORSet(Site("a", HASH_KEYS[0])), ORSet(Site("b", HASH_KEYS[1]))
    for _ in range(3000):
        state, there = (one, other) if rng.random() < 0.5 else (other, one)
        if rng.random() < 0.3 and len(state):
            state.discard(rng.randrange(200))
        else:
            state.add(rng.randrange(200))
        if rng.random() < 0.1:
            there.merge(state.delta.encode())
    for actor in ("a", "b"):
        for first, end in ((0, 1), (0, 4), (3, 9), (0, 1000)):
            assert one.sum_of(actor, first, end) == sum_by_hand(one, actor, first, end)
    one.merge(other.encode())
    other.merge(one.encode())
    assert one.sum == other.sum
    assert all(one.sum_of(actor, 2, 5) == other.sum_of(actor, 2, 5) for actor in "ab")
    one.clear()
    assert one.sum == one.sum_of("a", 0, 1000) == 0
    assert one.sum_of("nobody", 0, 5) == one.sum_of("a", 7, 7) == 0


def test_one_change_of_content_is_another_sum() -> None:
    sums = set()
    for key, value, stamp, actor in (
        (1, 2, 3, "a"),
        (2, 2, 3, "a"),
        (1, 3, 3, "a"),
        (1, 2, 4, "a"),
        (1, 2, 3, "b"),
    ):
        state = LWWMap(Site(actor, bytes(16)))
        state.set(key, value, stamp)
        sums.add(state.sum)
    assert len(sums) == 5


def test_gaps_are_what_has_not_come() -> None:
    one, other = ORSet(Site("a", bytes(16))), ORSet(Site("b", bytes(16)))
    changes = []
    for element in range(3):
        one.add(element)
        changes.append(one.delta.encode())
    other.merge(changes[2])
    assert other.gaps == 1
    other.merge(changes[0])
    assert other.gaps == 1
    other.merge(changes[1])
    assert other.gaps == 0


# -- what they come to


def test_equal_states_have_equal_sums_on_two_nodes() -> None:
    one, other = states("a"), states("b")
    for number in range(100):
        key = Key(SET, f"s{number}")
        data = change(one.hold(key), one, "x")
        assert other.merge(key, data, author="a", stamp_max=1)
    assert one.sums() == other.sums()
    assert [held.key for share in range(64) for held in one.share(share)] == [
        held.key for share in range(64) for held in other.share(share)
    ]
    change(one.hold(Key(SET, "s7")), one, "y")
    assert sum(a != b for a, b in zip(one.sums(), other.sums(), strict=True)) == 1


def test_one_name_of_two_types_is_two_states() -> None:
    held = states()
    assert held.hold(Key(SET, "x")) is not held.hold(Key(COUNTER, "x"))
    assert isinstance(held.hold(Key(COUNTER, "x")).state, GCounter)


def test_a_state_in_which_nothing_ever_was_counts_for_nothing() -> None:
    one = states()
    one.hold(Key(SET, "x"))
    assert one.sums() == states().sums()
    assert not any(one.share(share) for share in range(64))


def test_what_is_refused_leaves_no_state_behind() -> None:
    one, other = states("a"), states("b")
    data = change(one.hold(Key(SET, "x")), one, "e")
    for bad, author, error in (
        (data, "c", NotOwner),
        (data[:-1], "a", ProtocolError),
        (b"", "a", ProtocolError),
    ):
        with pytest.raises(error):
            other.merge(Key(SET, "x"), bad, author=author, stamp_max=1)
        assert len(other) == other.bytes == 0
    assert other.sums() == states().sums()


# -- limits


def test_so_many_states_and_no_more() -> None:
    one = states(states_max=2)
    one.hold(Key(SET, "a"))
    one.hold(Key(SET, "b"))
    with pytest.raises(LimitReached, match="states_max=2"):
        one.hold(Key(SET, "c"))
    assert one.hold(Key(SET, "a")) is one.get(Key(SET, "a"))


def test_so_many_bytes_and_no_more_but_what_removes() -> None:
    maker = states("b")
    key, held = Key(SET, "x"), maker.hold(Key(SET, "x"))
    first = change(held, maker, "e" * 100)
    second = change(held, maker, "f" * 100)
    held.state.discard("e" * 100)  # type: ignore[attr-defined]
    removal = held.state.delta.encode()
    one = states(states_bytes_max=STATE_OVERHEAD_BYTES + 102 + len(second))
    assert one.merge(key, first, author="b", stamp_max=1)
    assert one.bytes == STATE_OVERHEAD_BYTES + 102
    assert one.merge(key, second, author="b", stamp_max=1)
    one = states(states_bytes_max=STATE_OVERHEAD_BYTES + 102 + len(second) - 1)
    one.merge(key, first, author="b", stamp_max=1)
    with pytest.raises(LimitReached, match="states_bytes_max"):
        one.merge(key, second, author="b", stamp_max=1)
    assert one.merge(key, removal, author="b", stamp_max=1)
    assert one.bytes == STATE_OVERHEAD_BYTES


@pytest.mark.parametrize("name", ["", "n" * (STATE_NAME_BYTES_MAX + 1), "\ud800", 7])
def test_what_can_name_no_state(name: str) -> None:
    with pytest.raises(UsageError, match="1 to 256 bytes"):
        states().hold(Key(SET, name))
    assert states().hold(Key(SET, "n" * STATE_NAME_BYTES_MAX))
