"""One agent's mailbox: priorities, nobody starves, marks at their exact place, memory given back."""

from __future__ import annotations

import gc
import sys
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentnet_core.mailbox import Mailbox
from agentnet_core.message import AgentMessage

OVERHEAD = 200
"""What a message counts beside its payload."""

quick = settings(max_examples=100, deadline=None)


def letter(number: int, priority: int = 1, size: int = 0) -> AgentMessage:
    return AgentMessage(b"%d:" % number + bytes(size), priority=priority)


def numbers(messages: list[AgentMessage]) -> list[int]:
    return [int(message.payload.split(b":")[0]) for message in messages]


def emptied(box: Mailbox) -> list[AgentMessage]:
    return list(iter(box.pop, None))


def test_an_empty_box() -> None:
    box = Mailbox(10, 1000)
    assert box.pop() is None
    assert (len(box), box.count, box.bytes) == (0, 0, 0)
    assert (box.full, box.high, box.low) == (False, False, True)
    box.trim()
    assert box.pop() is None


def test_order_within_a_priority_over_many_growths_of_the_ring() -> None:
    box = Mailbox(100_000, 1 << 30)
    put = taken = 0
    wanted, got = [], []
    for step in range(300):
        for _ in range(step % 37):
            box.put(letter(put))
            wanted.append(put)
            put += 1
        for _ in range(step % 29):
            message = box.pop()
            if message is not None:
                got += numbers([message])
                taken += 1
    assert len(box) == put - taken
    assert got + numbers(emptied(box)) == wanted


def test_a_higher_priority_goes_first() -> None:
    box = Mailbox(100, 1 << 20)
    for number, priority in enumerate([1, 0, 3, 2, 1, 3]):
        box.put(letter(number, priority))
    assert numbers(emptied(box)) == [2, 5, 3, 0, 4, 1]


def test_one_in_sixteen_goes_to_the_longest_waiting_lower_level() -> None:
    box = Mailbox(1000, 1 << 20)
    box.put(letter(1000, 1))
    box.put(letter(1001, 0))
    box.put(letter(1002, 2))
    for number in range(64):
        box.put(letter(number, 3))
    order = numbers([box.pop() for _ in range(51)])
    assert order[:15] == list(range(15))
    assert [order[15], order[31], order[47]] == [1000, 1001, 1002]
    assert [n for n in order if n < 1000] == list(range(48))


def test_the_turn_of_the_lower_is_not_saved_up_while_nobody_waits_below() -> None:
    box = Mailbox(1000, 1 << 20)
    for number in range(100):
        box.put(letter(number, 3))
    assert numbers([box.pop() for _ in range(50)]) == list(range(50))
    box.put(letter(1000, 0))
    assert numbers([box.pop() for _ in range(16)]) == [*range(50, 65), 1000]


@pytest.mark.parametrize("flood", [3, 2, 1])
def test_nobody_starves_under_a_flood(flood: int) -> None:
    box = Mailbox(10_000, 1 << 30)
    for number in range(flood):
        for _ in range(3):
            box.put(letter(10_000 + number, number))
    seen: list[int] = []
    for number in range(16 * 3 * flood):
        box.put(letter(number, flood))
        seen += numbers([box.pop()])
    assert sum(number >= 10_000 for number in seen) == 3 * flood


@quick
@given(st.lists(st.integers(0, 3) | st.none(), max_size=300))
def test_against_a_model(steps: list[int | None]) -> None:
    """The law written plainly: strict, but each sixteenth turn with somebody below is the oldest's."""
    box = Mailbox(10_000, 1 << 30)
    levels: list[deque[int]] = [deque() for _ in range(4)]
    streak = 0
    for number, priority in enumerate(steps):
        if priority is not None:
            box.put(letter(number, priority))
            levels[priority].append(number)
            continue
        waiting = [level for level in levels if level]
        if not waiting:
            assert box.pop() is None
            continue
        chosen = waiting[-1]
        streak = streak + 1 if len(waiting) > 1 else 0
        if streak == 16:
            streak = 0
            chosen = min(waiting[:-1], key=lambda level: level[0])
        assert numbers([box.pop()]) == [chosen.popleft()]
        assert box.count == sum(map(len, levels))


# -- limits


@pytest.mark.parametrize(("limit", "high", "low"), [(1, 1, 0), (2, 2, 1), (4, 3, 2), (10, 8, 5), (16, 12, 8)])
def test_the_marks_by_count(limit: int, high: int, low: int) -> None:
    box = Mailbox(limit, 1 << 30)
    for count in range(1, limit + 2):
        box.put(letter(count))
        assert (box.count, box.high, box.full, box.low) == (
            count,
            count >= high,
            count >= limit,
            count <= low,
        )


def test_the_marks_by_bytes() -> None:
    size = 1000 - OVERHEAD - 2
    for limit, high, full, low in [(4000, 3, 4, 2), (4001, 4, 5, 2), (3999, 3, 4, 1)]:
        box = Mailbox(1000, limit)
        for count in range(1, 6):
            box.put(letter(count, size=size))
            assert box.bytes == 1000 * count
            assert (box.high, box.full, box.low) == (count >= high, count >= full, count <= low), (
                limit,
                count,
            )


def test_it_does_not_refuse_what_is_beyond_its_limits() -> None:
    # Its owner holds senders back; what was on its way already must go somewhere.
    box = Mailbox(2, 100)
    for number in range(10):
        box.put(letter(number))
    assert (box.full, len(box)) == (True, 10)
    assert numbers(emptied(box)) == list(range(10))
    assert (box.bytes, box.low, box.high) == (0, True, False)


# -- memory


def test_messages_are_let_go_when_taken_and_when_the_box_goes() -> None:
    payload = bytes(5000)
    before = sys.getrefcount(payload)
    box = Mailbox(1000, 1 << 30)
    for _ in range(100):
        box.put(AgentMessage(payload, priority=_ % 4))
    assert sys.getrefcount(payload) == before + 100
    for _ in range(60):
        box.pop()
    assert sys.getrefcount(payload) == before + 40
    del box
    gc.collect()
    assert sys.getrefcount(payload) == before


def test_trim_gives_the_rings_back_and_the_box_works_on() -> None:
    box = Mailbox(1000, 1 << 30)
    for round_ in range(3):
        for number in range(100):
            box.put(letter(number, round_ % 4))
        box.trim()  # not empty: nothing may be lost
        assert numbers(emptied(box)) == list(range(100))
        box.trim()
        assert box.pop() is None


def test_only_messages_enter() -> None:
    box = Mailbox(10, 1000)
    with pytest.raises(TypeError):
        box.put(b"bytes")
    with pytest.raises(TypeError):
        box.put(None)
    assert len(box) == 0
