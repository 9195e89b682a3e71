"""The laws of every type hold in random histories, and each planted defect breaks one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from laws import HASH_KEY, MAPS, OPERATIONS, READ, SINGLE, History, play_some

from agentnet_core.crdt import TYPES, Site
from agentnet_core.crdt.base import Crdt
from agentnet_core.errors import NetworkError

HISTORIES = 1_000
STEPS = 30
"""On average a history of the suite is short; `python -m tests.laws` plays long ones."""
LONG = 25


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", TYPES)
def test_laws_hold_in_random_histories(name: str) -> None:
    play_some(name, range(HISTORIES - LONG), STEPS)
    play_some(name, range(HISTORIES - LONG, HISTORIES), 100)


def test_every_type_has_its_model() -> None:
    assert TYPES.keys() == OPERATIONS.keys() == READ.keys()
    assert TYPES.keys() >= SINGLE | MAPS


# -- defects: each a replica whose messages or merges are wrong in one way


class Wrong:
    """A replica that hands on to a right one, but for what the defect is."""

    def __init__(self, state: Crdt) -> None:
        self.state = state

    def __getattr__(self, name: str) -> Any:
        return getattr(self.state, name)


def rewritten(data: bytes, change: Callable[[list[Any]], None]) -> bytes:
    body = msgpack.unpackb(data, strict_map_key=False)
    change(body)
    return msgpack.packb(body)


def forget_removals(body: list[Any]) -> None:
    body[3] = body[4]
    keep = [number for number, runs in enumerate(body[4]) if runs]
    for part in (2, 3, 4):
        body[part] = [body[part][number] for number in keep]


class LosesRemovals(Wrong):
    """What was removed is forgotten on the way."""

    def merge(self, data: bytes) -> bool:
        return self.state.merge(rewritten(data, forget_removals))


class HolesWorkAsDeletes(Wrong):
    """What lies between two events that were seen is taken for seen."""

    def merge(self, data: bytes) -> bool:
        def fill(body: list[Any]) -> None:
            for number, runs in enumerate(body[3]):
                body[3][number] = [0, sum(runs)]

        return self.state.merge(rewritten(data, fill))


class RemoveWins(Wrong):
    """What is removed anywhere goes, whoever adds it at that time."""

    def merge(self, data: bytes) -> bool:
        before = self.state.value
        changed = self.state.merge(data)
        for gone in before - self.state.value:
            self.state.discard(gone)
        added = self.state.value - before
        if len(added) > 1:
            self.state.discard(min(added, key=repr))
        return changed


class NeverChanged(Wrong):
    """Says that nothing is new, so that rumours stop."""

    def merge(self, data: bytes) -> bool:
        self.state.merge(data)
        return False


class AppliesTwice(Wrong):
    """A counter that adds what it is told, instead of taking the greater."""

    def merge(self, data: bytes) -> bool:
        changed = self.state.merge(data)
        self.state.increment(1)
        return changed


class OrderOfArrival(Wrong):
    """Encodes actors in the order in which it met them."""

    def encode(self) -> bytes:
        def turn(body: list[Any]) -> None:
            for part in (2, 3, 4):
                body[part].reverse()

        return rewritten(self.state.encode(), turn)


class LastOneWins(Wrong):
    """A register that takes whatever comes last."""

    def merge(self, data: bytes) -> bool:
        changed = self.state.merge(data)
        body = msgpack.unpackb(data)
        if changed and len(body[5]) > 1:
            self.state.set(body[5][0], body[5][1])
        return changed


class Resurrects(Wrong):
    """Adds again what a message brings, though it has seen it go."""

    def merge(self, data: bytes) -> bool:
        changed = self.state.merge(data)
        for element in msgpack.unpackb(data, use_list=False)[5]:
            if element not in self.state:
                self.state.add(element)
        return changed


class Misreads(Wrong):
    """Right in all that travels, and wrong in what it says."""

    @property
    def value(self) -> dict[Any, Any]:
        return {key: value for key, value in self.state.value.items() if key != "y"}


def is_found(name: str, **options: Any) -> bool:
    """Whether one of the first histories breaks a law."""
    for seed in range(100):
        try:
            History(name, seed, 100, **options).play()
        except (AssertionError, NetworkError):
            return True
    return False


@pytest.mark.parametrize(
    ("name", "defect"),
    [
        ("ORSet", LosesRemovals),
        ("LWWMap", LosesRemovals),
        ("ORSet", HolesWorkAsDeletes),
        ("ORMap", HolesWorkAsDeletes),
        ("ORSet", RemoveWins),
        ("MVRegister", NeverChanged),
        ("GCounter", AppliesTwice),
        ("EWFlag", OrderOfArrival),
        ("LWWRegister", LastOneWins),
        ("ORSet", Resurrects),
        ("LWWMap", Misreads),
    ],
)
def test_a_planted_defect_is_found(name: str, defect: type[Wrong]) -> None:
    assert is_found(name, make=lambda site: defect(TYPES[name](site)))


@pytest.mark.parametrize("name", TYPES)
def test_a_name_that_is_used_again_after_its_state_was_lost_is_found(name: str) -> None:
    assert is_found(name, keep_names=True)


def test_the_histories_are_not_empty() -> None:
    """Each type's histories have concurrent events, removals and values that are not the empty one."""
    for name, kind in TYPES.items():
        empty, found, removed = kind(Site(None, HASH_KEY)).value, 0, 0
        for seed in range(20):
            history = History(name, seed)
            history.play()
            found += history.replicas[0].state.value != empty
            removed += history.replicas[0].gone != 0
        assert found > 10, name
        assert removed > 10, name
