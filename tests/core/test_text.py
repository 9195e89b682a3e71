"""Texts: what is written at one place is not mixed, and what a peer may send of one is bounded."""

from __future__ import annotations

from random import Random
from typing import Any

import msgpack
import pytest

from agentnet_core.config import EngineConfig
from agentnet_core.crdt import LWWMap, ORMap, Site, Text
from agentnet_core.errors import LimitReached, PayloadMismatch, ProtocolError, UsageError

HASH_KEY = bytes(range(16))


def made(actor: str, text: str = "", **limits: Any) -> Text:
    state = Text(Site(actor, HASH_KEY, EngineConfig(**limits)))
    if text:
        state.splice(0, 0, text)
    return state


def copy(state: Text, actor: str | None) -> Text:
    other = Text(Site(actor, HASH_KEY))
    other.merge(state.encode())
    return other


def meet(*states: Text) -> str:
    """All of them take in all; the text that they have then."""
    for state in states:
        for other in states:
            state.merge(other.encode())
    (text,) = {state.value for state in states}
    (data,) = {state.encode() for state in states}
    assert copy(states[0], None).encode() == data
    return text


def write(state: Text, index: int, text: str, *, forwards: bool, rng: Random) -> None:
    """One passage, a few characters at a time."""
    while text:
        size = rng.randint(1, min(3, len(text)))
        if forwards:
            part, text = text[:size], text[size:]
            state.splice(index, index, part)
            index += size
        else:
            part, text = text[-size:], text[:-size]
            state.splice(index, index, part)


class TestOrder:
    @pytest.mark.parametrize("forwards", [(True, True, True), (False, False, False), (True, False, True)])
    def test_what_is_written_at_one_place_is_not_mixed(self, forwards: tuple[bool, ...]) -> None:
        """Nor is it if the writers began anew somewhere else in between, or deleted around there before."""
        passages = ("aaaaaaaaa", "bbbbbbbbb", "ccccccccc")
        for seed in range(100):
            rng = Random(seed)
            base = made("base:1", "0123456789")
            for _ in range(rng.randrange(6)):
                first = rng.randrange(len(base) + 1)
                base.splice(first, min(len(base), first + rng.randrange(4)), rng.choice(("", "xy", "z")))
            index, length = rng.randint(0, len(base)), len(base)
            states = [copy(base, f"n{number}:1") for number in rng.sample(range(9), 3)]
            for state, text, ahead in zip(states, passages, forwards, strict=True):
                write(state, index, text, forwards=ahead, rng=rng)
                if rng.random() < 0.5:
                    state.splice(0, 0, "-")
            text = meet(*states)
            assert all(passage in text for passage in passages), (seed, text)
            assert len(text.replace("-", "")) == length + 27
            assert [text.replace("-", "")[:index], text.replace("-", "")[index + 27 :]] == [
                base.value[:index],
                base.value[index:],
            ]

    def test_lines_at_the_end_by_turns_and_apart(self) -> None:
        one, other = made("a:1"), made("b:1")
        for number in range(200):
            one.splice(len(one), len(one), f"a{number}\n")
            other.splice(len(other), len(other), f"b{number}\n")
            if number % 10 == 9:
                meet(one, other)
        lines = one.value.splitlines()
        assert len(lines) == 400
        for name in "ab":
            assert [line for line in lines if line[0] == name] == [f"{name}{each}" for each in range(200)]
        for at in range(0, 400, 10):
            assert len({line[0] for line in lines[at : at + 10]}) == 1

    def test_typing_makes_passages_and_not_an_entry_a_character(self) -> None:
        state = made("a:1")
        for number in range(1000):
            state.splice(number, number, "x")
        assert state.elements == 4
        assert state.value == "x" * 1000
        assert copy(state, None).value == state.value

    def test_changes_of_one_passage_that_did_not_see_each_other(self) -> None:
        one = made("a:1", "hello")
        other = copy(one, "b:1")
        one.splice(1, 4, "")  # ho
        one.splice(2, 2, " there")  # the same passage goes on
        other.splice(3, 5, "")  # hel
        assert meet(one, other) == "h there"

    def test_the_kept_order_is_the_one_that_comes_of_the_bytes(self) -> None:
        rng = Random(7)
        one, other = made("a:1"), made("b:1")
        for number in range(300):
            state = rng.choice((one, other))
            first = rng.randint(0, len(state))
            before, end = state.value, min(len(state), first + rng.choice((0, 0, 0, 4)))
            text = rng.choice(("", "q", "word ", "ü" * 300))
            state.splice(first, end, text)
            assert state.value == before[:first] + text + before[end:]
            if number % 20 == 0:
                assert copy(state, None).value == state.value
                one.merge(other.encode())
        meet(one, other)

    def test_who_clears_does_not_take_what_is_written_meanwhile(self) -> None:
        one = made("a:1", "draft ")
        other = copy(one, "b:1")
        other.splice(6, 6, "new")
        one.splice(6, 6, "end")
        other.clear()
        assert meet(one, other) == "end"

    def test_a_passage_whose_parent_has_not_come_stands_at_the_end(self) -> None:
        one = made("a:1", "one ")
        other = copy(one, "b:1")
        one.delta.encode()
        one.splice(4, 4, "y" * 300)
        late = one.delta.encode()
        between = copy(one, "c:1")
        between.splice(4, 4, "TWO")
        other.merge(between.delta.encode())
        other.splice(7, 7, ".")
        assert other.value == "one TWO."
        other.merge(late)
        assert other.value == "one TWO." + "y" * 300

    def test_in_a_map(self) -> None:
        one, other = (ORMap(Site(f"{name}:1", HASH_KEY)) for name in "ab")
        one.at("page", Text).splice(0, 0, "hello")
        one.at("page", LWWMap).set("k", 1, 1)
        other.merge(one.encode())
        other.at("page", Text).splice(5, 5, " world")
        one.merge(other.delta.encode())
        assert one.value == {("page", "Text"): "hello world", ("page", "LWWMap"): {"k": 1}}
        assert len(one.at("page", Text)) == 11
        one.delete("page", Text)
        assert ("page", "Text") not in one.value


class TestRefusals:
    @pytest.mark.parametrize(("first", "end"), [(-1, 0), (0, 4), (2, 1), (True, 2), (0.0, 1), (4, 4)])
    def test_indexes_are_of_the_text(self, first: Any, end: Any) -> None:
        state = made("a:1", "abc")
        with pytest.raises(UsageError):
            state.splice(first, end, "x")
        assert state.value == "abc"

    def test_text_is_text(self) -> None:
        state = made("a:1", "abc")
        before = state.encode()
        with pytest.raises(UsageError):
            state.splice(0, 0, b"x")  # type: ignore[arg-type]
        with pytest.raises(PayloadMismatch):
            state.splice(0, 0, "\ud800")
        assert state.encode() == before

    def test_all_of_a_change_or_nothing_at_the_limits(self) -> None:
        state = made("a:1", "x" * 256, state_elements_max=3)
        state.splice(0, 0, "y" * 512)
        before = state.encode()
        with pytest.raises(LimitReached, match="state_elements_max=3"):
            state.splice(768, 768, "z" * 257)
        assert state.encode() == before
        state.splice(300, 768, "")
        assert state.value == "y" * 300
        tight = made("a:1", "x" * 200, state_bytes_max=1000)
        before = tight.encode()
        with pytest.raises(LimitReached, match="state_bytes_max=1000"):
            tight.splice(200, 200, "z" * 900)
        assert (tight.encode(), tight.value) == (before, "x" * 200)
        small = made("a:1", state_value_bytes_max=100)
        with pytest.raises(LimitReached, match="state_value_bytes_max=100"):
            small.splice(0, 0, "z" * 300)
        with pytest.raises(LimitReached, match="state_value_bytes_max=100"):
            small.splice(0, 0, "z" * 200)
        small.splice(0, 0, "z" * 50)

    def test_what_is_deleted_gives_its_bytes_back(self) -> None:
        state = made("a:1", "x" * 100_000)
        full = state.size
        state.clear()
        assert state.value == ""
        assert state.size < full / 4
        assert copy(state, "b:1").value == ""


FORM: list[Any] = [1, 13, ["a"], [[0, 1]], [[0, 1]], [["a", 1], [None, 0, [1, 2], "xy"]]]


class TestRemoval:
    """Of a text in a map, while another writer is at it."""

    @staticmethod
    def both() -> tuple[ORMap, ORMap, Text, Text]:
        """Two replicas of a text of two passages."""
        one, other = ORMap(Site("a:1", bytes(16))), ORMap(Site("b:1", bytes(16)))
        text, theirs = one.at("t", Text), other.at("t", Text)
        text.splice(0, 0, "first ")
        other.merge(one.encode())
        theirs.splice(6, 6, "second")
        one.merge(other.encode())
        return one, other, text, theirs

    @staticmethod
    def join(one: ORMap, other: ORMap) -> object:
        whole = one.encode()
        one.merge(other.encode())
        other.merge(whole)
        assert one.encode() == other.encode()
        return one.value

    def test_what_nobody_changes_is_gone(self) -> None:
        one, other, _, theirs = self.both()
        one.delete("t", Text)
        assert self.join(one, other) == {}
        theirs.splice(0, 0, "anew")
        assert self.join(one, other) == {("t", "Text"): "anew"}

    @pytest.mark.parametrize(
        ("first", "end", "text", "left"),
        [(12, 12, " more", "second more"), (6, 9, "", "ond"), (0, 6, "", ""), (0, 0, "new ", "new ")],
    )
    def test_a_passage_that_is_changed_stays_and_no_other(
        self, first: int, end: int, text: str, left: str
    ) -> None:
        one, other, _, theirs = self.both()
        theirs.splice(first, end, text)
        one.delete("t", Text)
        assert self.join(one, other) == {("t", "Text"): left}

    @pytest.mark.parametrize(
        ("first", "end", "text", "left"),
        [(12, 12, " more", " more"), (6, 9, "", ""), (0, 6, "", ""), (0, 0, "new ", "new ")],
    )
    def test_of_one_that_is_cleared_only_what_is_new_stays(
        self, first: int, end: int, text: str, left: str
    ) -> None:
        one, other, mine, theirs = self.both()
        theirs.splice(first, end, text)
        mine.clear()
        assert self.join(one, other) == {("t", "Text"): left}


def changed(*path_and_value: Any) -> bytes:
    *path, last, value = path_and_value
    form: Any = msgpack.unpackb(msgpack.packb(FORM))
    place = form
    for step in path:
        place = place[step]
    place[last] = value
    return msgpack.packb(form)


class TestBadInput:
    def test_the_form_is_right_before_it_is_made_wrong(self) -> None:
        state = made("c:1")
        assert state.merge(msgpack.packb(FORM))
        assert state.value == "xy"

    @pytest.mark.parametrize(
        "data",
        [
            changed(5, 0, "a"),
            changed(5, 0, ["a"]),
            changed(5, 0, ["a", 0]),
            changed(5, 0, ["a", -1]),
            changed(5, 0, ["", 1]),
            changed(5, 0, [1, 1]),
            changed(5, 0, ["a" * 129, 1]),
            changed(5, 1, None),
            changed(5, 1, []),
            changed(5, 1, [None, 0, [], "xy", 1]),
            changed(5, 1, 0, "a"),
            changed(5, 1, 0, ["a"]),
            changed(5, 1, 1, 1),
            changed(5, 1, 1, None),
            changed(5, 1, [["a", 7], 512, [], "x"]),
            changed(5, 1, [["a", 7], -1, [], "x"]),
            changed(5, 1, 2, None),
            changed(5, 1, 2, [1]),
            changed(5, 1, 2, [1, 0]),
            changed(5, 1, 2, [1, 2, 0, 1]),
            changed(5, 1, 2, [3, 1]),
            changed(5, 1, 2, [0, 2**40]),
            changed(5, 1, 2, [0, 255]),
            changed(5, 1, 3, None),
            changed(5, 1, 3, b"xy"),
            changed(5, 1, 3, "x" * 255),
            changed(5, 1, [None, 0, [], ""]),
        ],
    )
    def test_malformed(self, data: bytes) -> None:
        state = made("c:1", "own")
        before = state.encode()
        with pytest.raises(ProtocolError):
            state.merge(data)
        assert (state.encode(), state.value) == (before, "own")

    def test_forged_passages_have_an_order_too(self) -> None:
        """Rings, parents that never were, two origins of one passage: all nodes read the same."""
        rng = Random(3)
        for _ in range(200):
            count = rng.randint(1, 6)
            entries: list[Any] = []
            for number in range(count):
                key = ["a", rng.randint(1, 4)]
                parent = rng.choice((None, ["a", rng.randint(1, 4)], ["b", 2]))
                place = rng.randrange(12) if parent else 0
                dead = rng.choice(([], [1, 1], [0, 2]))
                entries += [key, [parent, place, dead, "mnopq"[number % 5] * rng.randint(1, 4)]]
            data = msgpack.packb([1, 13, ["a"], [[0, count]], [[0, count]], entries])
            states = [made(f"n{number}:1", "own ") for number in range(2)]
            for state in states:
                state.merge(data)
                state.splice(rng.randint(0, len(state)), len(state), "more")
            assert "more" in meet(*states)
