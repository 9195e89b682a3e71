"""Writes and reads that wait for replicas."""

from __future__ import annotations

from typing import Any

import pytest

from agentnet_core.config import EngineConfig
from agentnet_core.errors import LimitReached, TooFewReplicas
from agentnet_core.quorums import NEVER, Quorums, Wait
from agentnet_core.states import Key

KEY, OTHER = Key(1, "s"), Key(1, "t")
ALL = ("a", "b", "c", "d", "e")


class Book(Quorums):
    """Of node a. ``settled``: by token."""

    def __init__(self, **limits: int) -> None:
        self.settled: dict[Any, Any] = {}
        super().__init__("a", EngineConfig(**limits), self._settle_token)

    def _settle_token(self, token: Any, outcome: Any) -> None:
        assert token not in self.settled
        self.settled[token] = outcome

    def wait(
        self, token: str, need: int, replicas: tuple[str, ...] = ALL, key: Key = KEY, by: int = 10
    ) -> Wait:
        self.admit()
        return Wait(key, need, replicas, by, token)


def test_it_is_settled_when_enough_have_it_and_not_before() -> None:
    book = Book()
    one = book.wait("majority", 3)
    waits = [one, book.wait("all", 5), book.wait("own", 1), book.wait("two", 2, ("d", "e"))]
    serial = book.open([KEY], waits)
    assert book.sent(serial, b"body") == ["b", "c", "d", "e"]
    assert book.settled == {"own": None}
    book.answered("b", serial)
    book.answered("b", serial)
    assert book.settled == {"own": None}
    book.answered("d", serial)
    assert book.settled == {"own": None, "majority": None}
    assert one.have == ("a", "b", "d")
    book.answered("e", serial)
    assert "two" in book.settled
    book.answered("c", serial)
    assert book.settled.keys() == {"own", "majority", "two", "all"}
    assert book.waiting == 0
    book.answered("c", serial)
    book.answered("c", 99)


def test_when_time_is_up_the_error_says_who_has_it() -> None:
    book = Book()
    serial = book.open([KEY], [book.wait("soon", 3, by=10), book.wait("later", 3, by=20)])
    book.sent(serial, b"body")
    book.answered("c", serial)
    assert book.next_deadline_ns() == 10
    book.tick(9)
    assert not book.settled
    book.tick(10)
    error = book.settled["soon"]
    assert isinstance(error, TooFewReplicas)
    assert not error.definite
    assert "2 of 3 replicas have it (a, c); not b, d, e" in str(error)
    assert book.next_deadline_ns() == 20
    book.answered("d", serial)
    assert book.settled["later"] is None
    assert book.next_deadline_ns() == NEVER
    assert book.failed == 1


def test_who_refused_does_not_count_and_others_of_the_frame_do() -> None:
    book = Book()
    serial = book.open([KEY, OTHER], [book.wait("s", 4), book.wait("t", 4, key=OTHER)])
    book.sent(serial, b"body")
    book.answered("b", serial, [(0, 107, "full"), (7, 107, "no such")])
    assert not book.settled
    book.answered("c", serial, [(0, 107, "full")])
    error = book.settled["s"]
    assert isinstance(error, TooFewReplicas)  # four of five cannot have it any more
    assert "refused: full" in str(error)
    book.answered("d", serial)
    assert book.settled["t"] is None


def test_a_new_link_gets_what_it_has_not_answered() -> None:
    book = Book()
    first, second = (book.open([KEY], [book.wait(name, 5)]) for name in ("x", "y"))
    book.sent(first, b"first")
    book.sent(second, b"second")
    book.answered("b", first)
    assert book.link_up("b") == [b"second"]
    assert book.link_up("c") == [b"first", b"second"]
    assert book.link_up("stranger") == []


def test_so_many_wait_and_no_more() -> None:
    book = Book(state_writes_max=2)
    serial = book.open([KEY], [book.wait("x", 2), book.wait("y", 2)])
    with pytest.raises(LimitReached, match="state_writes_max=2; nothing was done") as refusal:
        book.admit()
    assert refusal.value.definite
    book.sent(serial, b"body")
    book.answered("b", serial)
    book.admit()


def test_when_the_node_leaves_all_are_told() -> None:
    book = Book()
    book.sent(book.open([KEY], [book.wait("x", 2)]), b"body")
    book.end("it leaves")
    assert isinstance(book.settled["x"], TooFewReplicas)
    assert book.waiting == 0


# -- disks


def on_disk(book: Book, token: str, need: int, replicas: tuple[str, ...] = ALL) -> Wait:
    wait = book.wait(token, need, replicas)
    wait.on_disk = True
    return wait


def test_disks_count_once_they_have_told_and_only_for_who_waits_for_them() -> None:
    book = Book()
    kept = on_disk(book, "kept", 2)
    serial = book.open([KEY], [kept, book.wait("had", 2)])
    book.sent(serial, b"body")
    book.answered("b", serial)
    assert book.settled == {"had": None}
    book.kept("b", serial)
    assert "kept" not in book.settled, "the own disk has not told"
    book.kept("c", serial)
    assert "kept" not in book.settled, "what is kept is had before"
    book.kept("a", serial)
    assert book.settled == {"had": None, "kept": None}
    assert (kept.have, kept.kept) == (("a", "b"), ("a", "b"))
    book.kept("d", serial)
    assert book.waiting == 0


def test_where_disks_refuse_it_fails_as_soon_as_it_cannot_be() -> None:
    book = Book()
    serial = book.open(
        [KEY, OTHER], [on_disk(book, "both", 2, ("a", "b")), on_disk(book, "one", 1, ("a", "b"))]
    )
    book.sent(serial, b"body")
    book.answered("b", serial)
    book.kept("b", serial, [(1, 1, "of the other"), (7, 1, "of nothing")])
    assert book.settled == {"one": None}
    book.kept("a", serial, [(0, 1, "no disk")])
    error = book.settled["both"]
    assert isinstance(error, TooFewReplicas)
    assert "1 of 2 replicas have it on disk (b); not a; refused: no disk" in str(error)


def test_who_has_it_and_has_not_told_of_its_disk_is_sent_it_again() -> None:
    book = Book()
    serial = book.open([KEY], [on_disk(book, "kept", 3, ("a", "b", "c"))])
    book.sent(serial, b"body")
    book.answered("b", serial)
    book.answered("c", serial)
    book.kept("c", serial)
    assert book.link_up("b") == [b"body"]
    assert book.link_up("c") == []


@pytest.mark.parametrize(
    ("least", "wanted"),
    [(1, [1, 2, 2, 3, 3, 4]), (3, [1, 2, 3, 3, 3, 4]), (4, [1, 2, 3, 4, 4, 4]), (9, [1, 2, 3, 4, 5, 6])],
)
def test_a_majority_has_a_minimum(least: int, wanted: list[int]) -> None:
    book = Book(state_quorum_min=least)
    assert [book.majority(count) for count in range(1, 7)] == wanted
