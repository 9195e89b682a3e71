"""The laws of mergeable state: random histories of real replicas beside a model that knows no dots.

The model is a set of events, as the bits of an int: what a replica has seen, and what of it was replaced.
A change is the events that it speaks of, a merge is two ors; what lives is told by subtraction, and the
value of a type is read from the events that live. Replicas exchange changes that are lost, doubled and
late, and whole states; they crash, and come back with an older state and a new name.

After every step: the answer of `merge` is whether the model changed, and states of equal events have equal
bytes, others others. Now and then, and at the end, when all have merged all: the values are the model's,
`decode(encode(x)) == x`, and any order of any repetition of messages gives the same bytes.

``python -m tests.laws 100000 [TYPE ...]`` plays that many histories of each type, on all cores.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from random import Random
from typing import Any

from agentnet_core.config import EngineConfig
from agentnet_core.crdt import TYPES, Site
from agentnet_core.crdt.base import Crdt
from tests import texts

HASH_KEY = bytes(range(16))
CONFIG = EngineConfig()
KEYS: tuple[Any, ...] = ("x", "y", 7, b"z", ("x", 1))
SINGLE = {"GCounter", "PNCounter", "LWWRegister", "MVRegister", "EWFlag"}
"""Types whose changes speak of all that their actor ever did."""
MAPS = {"ORMap"}
"""Types that hold others under paths of their own."""


@dataclass(slots=True)
class Event:
    path: tuple[Any, ...]
    kind: str
    content: Any
    stamp: int
    actor: str
    number: int


@dataclass(slots=True)
class Replica:
    state: Any
    actor: str
    known: int = 0
    gone: int = 0
    own: int = 0
    number: int = 0
    touched: int = 0
    saved: tuple[bytes, int, int] | None = None

    @property
    def live(self) -> int:
        return self.known & ~self.gone


@dataclass(slots=True)
class Message:
    data: bytes
    known: int
    gone: int
    author: str | None


def bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


@dataclass
class History:
    """One random history of one type. AssertionError or an error of the core: a law does not hold."""

    name: str
    seed: int
    steps: int = 100
    make: Callable[[Site], Any] | None = None
    """Makes a replica; a test that plants a defect has its own."""
    keep_names: bool = False
    """A defect: who has lost his state goes on under his old name."""
    events: list[Event] = field(default_factory=list)
    at: dict[tuple[Any, ...], int] = field(default_factory=dict)
    bytes_of: dict[tuple[int, int], bytes] = field(default_factory=dict)
    state_of: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)

    def play(self) -> None:
        self.rng = rng = Random(f"{self.name} {self.seed}")
        self.kind = TYPES[self.name]
        self.stamps = 0
        self.replicas = [self.born(f"n{number}:1") for number in range(rng.randint(3, 7))]
        flights: list[tuple[int, Message]] = []
        for step in range(self.steps):
            place = rng.randrange(len(self.replicas))
            replica, chance = self.replicas[place], rng.random()
            if chance < 0.55:
                self.change(replica)
                if rng.random() < 0.8:  # else it goes along with the next
                    flights += self.send(place, self.delta(replica))
            elif chance < 0.9 and flights:
                number = rng.randrange(len(flights))
                to, message = flights[number]
                if rng.random() < 0.8:  # else it comes again
                    flights[number] = flights[-1]
                    flights.pop()
                self.take(self.replicas[to], message)
            elif chance < 0.95:
                self.take(self.replicas[rng.randrange(len(self.replicas))], self.whole(replica))
            elif chance < 0.98:
                replica.saved = (replica.state.encode(), replica.known, replica.gone)
            else:
                self.replicas[place] = self.crash(replica, step)
            self.check(self.replicas[place])
        self.heal()
        self.orders()

    # -- steps

    def born(self, actor: str) -> Replica:
        return Replica((self.make or self.kind)(Site(actor, HASH_KEY, CONFIG)), actor)

    def change(self, replica: Replica) -> None:
        OPERATIONS[self.name](Hand(self, replica, replica.state, (), self.name), self.rng)

    def delta(self, replica: Replica) -> Message:
        data = replica.state.delta.encode()
        touched, replica.touched = replica.touched, 0
        return Message(data, touched & replica.live, touched & ~replica.live, None)

    def send(self, place: int, message: Message) -> list[tuple[int, Message]]:
        self.messages.append(message)
        others = [to for to in range(len(self.replicas)) if to != place and self.rng.random() < 0.7]
        return [(to, message) for to in others]

    def whole(self, replica: Replica) -> Message:
        return Message(replica.state.encode(), replica.known, replica.gone, None)

    def take(self, replica: Replica, message: Message) -> None:
        seen, live = replica.known | replica.gone, replica.live
        replica.known |= message.known
        replica.gone |= message.gone
        changed = replica.state.merge(message.data)
        assert changed == ((seen, live) != (replica.known | replica.gone, replica.live)), "merge told a lie"

    def crash(self, replica: Replica, step: int) -> Replica:
        actor = replica.actor if self.keep_names else f"{replica.actor.split(':')[0]}:{step + 2}"
        back = self.born(actor)
        if replica.saved is not None:
            data, back.known, back.gone = back_to = replica.saved
            back.state.merge(data)
            back.saved = back_to
        return back

    # -- laws

    def check(self, replica: Replica) -> None:
        data, key = replica.state.encode(), (replica.known | replica.gone, replica.live)
        assert self.bytes_of.setdefault(key, data) == data, "equal events, other bytes"
        assert self.state_of.setdefault(data, key) == key, "other events, equal bytes"
        if self.rng.random() < 0.1:
            self.check_value(replica)

    def check_value(self, replica: Replica) -> None:
        events = [self.events[number] for number in bits(replica.live)]
        assert replica.state.value == READ[self.name](events), "not the value of the model"
        again = self.kind.decode(replica.state.encode(), Site(None, HASH_KEY, CONFIG))
        assert again.encode() == replica.state.encode(), "decoded otherwise than encoded"
        assert again.value == replica.state.value

    def heal(self) -> None:
        """When all have told all, all are the same."""
        first = self.replicas[0]
        for replica in self.replicas[1:]:
            before = first.state.context
            self.take(first, self.whole(replica))
            assert first.state.context.covers(before), "something seen is seen no more"
        for replica in self.replicas[1:]:
            self.take(replica, self.whole(first))
            assert replica.state.encode() == first.state.encode(), "they do not converge"
        self.check(first)
        self.check_value(first)

    def orders(self) -> None:
        """Whatever the order, the grouping and the repetition, the same comes of it."""
        some = self.rng.sample(self.messages, min(6, len(self.messages)))
        found = []
        for _ in range(3):
            self.rng.shuffle(some)
            left, right = self.born("left"), self.born("right")
            for number, message in enumerate([*some, *some[:2]]):
                self.take(left if number % 2 else right, message)
            self.take(left, self.whole(right))
            found.append(left.state.encode())
        assert len(set(found)) <= 1, "the order of messages matters"


@dataclass
class Hand:
    """What changes one state of one replica, in the state itself and in the model."""

    history: History
    replica: Replica
    state: Crdt
    path: tuple[Any, ...]
    kind: str

    def path_of(self, key: Any) -> tuple[Any, ...]:
        return (*self.path, self.kind) if key is None else (*self.path, self.kind, key)

    def here(self, key: Any = None) -> int:
        return self.replica.live & self.history.at.get(self.path_of(key), 0)

    def write(
        self, content: Any = None, *, key: Any = None, stamp: int = 0, replaced: int | None = None
    ) -> None:
        history, replica, path = self.history, self.replica, self.path_of(key)
        replaced = self.here(key) if replaced is None else replaced
        event = 1 << len(history.events)
        replica.number += 1
        history.events.append(Event(path, self.kind, content, stamp, replica.actor, replica.number))
        history.at[path] = history.at.get(path, 0) | event
        replica.known |= event
        replica.own |= event
        replica.gone |= replaced
        replica.touched |= event | replaced | (replica.own if history.name in SINGLE else 0)

    def erase(self, gone: int) -> None:
        self.replica.gone |= gone
        self.replica.touched |= gone

    def stamp(self) -> int:
        """Mostly rising; sometimes of a clock that is behind, or ahead."""
        self.history.stamps += 1
        return max(1, self.history.stamps + self.history.rng.choice((0, 0, 0, -5, 9)))


# -- what can be done to each type, and what it then is


def count_up(hand: Hand, rng: Random) -> None:
    amount = rng.randint(1, 300)
    mine = latest(hand)
    hand.state.increment(amount)
    hand.write((mine.content if mine else 0) + amount, replaced=own(hand))


def count_both(hand: Hand, rng: Random) -> None:
    amount, mine = rng.randint(1, 300), latest(hand)
    added, taken = mine.content if mine else (0, 0)
    if rng.random() < 0.5:
        hand.state.increment(amount)
        added += amount
    else:
        hand.state.decrement(amount)
        taken += amount
    hand.write((added, taken), replaced=own(hand))


def own(hand: Hand) -> int:
    return sum(1 << bit for bit in bits(hand.here()) if hand.history.events[bit].actor == hand.replica.actor)


def latest(hand: Hand) -> Event | None:
    return max(
        (hand.history.events[bit] for bit in bits(own(hand))), key=lambda event: event.number, default=None
    )


def register(hand: Hand, rng: Random) -> None:
    if rng.random() < 0.2:
        hand.state.clear()
        hand.erase(hand.here())
    else:
        value, stamp = rng.choice((None, 1, "text", b"bytes", [1, {"a": 2.5}])), hand.stamp()
        hand.state.set(value, stamp)
        hand.write(value, stamp=stamp)


def siblings(hand: Hand, rng: Random) -> None:
    chance, value = rng.random(), rng.randrange(1000)
    if chance < 0.1:
        hand.state.clear()
        hand.erase(hand.here())
    elif chance < 0.5:
        hand.state.set(value)
        hand.write(value)
    else:  # of what is here, the writer has seen a part
        seen = [bit for bit in bits(hand.here()) if rng.random() < 0.5]
        context: dict[str, int] = {}
        for bit in seen:
            event = hand.history.events[bit]
            context[event.actor] = max(context.get(event.actor, 0), event.number)
        replaced = sum(
            1 << bit
            for bit in bits(hand.here())
            if hand.history.events[bit].number <= context.get(hand.history.events[bit].actor, 0)
        )
        hand.state.set(value, context)
        hand.write(value, replaced=replaced)


def flag(hand: Hand, rng: Random) -> None:
    if rng.random() < 0.6:
        hand.state.enable()
        hand.write()
    else:
        hand.state.disable()
        hand.erase(hand.here())


def under(hand: Hand) -> int:
    """All that lives at its path or below."""
    return sum(
        1 << bit
        for bit in bits(hand.replica.live)
        if hand.history.events[bit].path[: len(hand.path) + 1] == (*hand.path, hand.kind)
    )


def members(hand: Hand, rng: Random) -> None:
    chance, key = rng.random(), rng.choice(KEYS)
    if chance < 0.6:
        hand.state.add(key)
        hand.write(key=key)
    elif chance < 0.95:
        hand.state.discard(key)
        hand.erase(hand.here(key))
    else:
        hand.state.clear()
        hand.erase(under(hand))


def entries(hand: Hand, rng: Random) -> None:
    chance, key = rng.random(), rng.choice(KEYS)
    if chance < 0.65:
        value, stamp = rng.choice((None, True, -1, "v", {"a": [1]})), hand.stamp()
        hand.state.set(key, value, stamp)
        hand.write(value, key=key, stamp=stamp)
    elif chance < 0.95:
        hand.state.delete(key)
        hand.erase(hand.here(key))
    else:
        hand.state.clear()
        hand.erase(under(hand))


def nested(hand: Hand, rng: Random) -> None:
    name, key = rng.choice(sorted(TYPES)), rng.choice(KEYS[:2])
    if name in MAPS and len(hand.path) > 4:
        name = "ORSet"
    inner = Hand(
        hand.history, hand.replica, hand.state.at(key, TYPES[name]), (*hand.path, hand.kind, key), name
    )
    if rng.random() < 0.15:
        hand.state.delete(key, TYPES[name])
        inner.erase(under(inner))
    else:
        OPERATIONS[name](inner, rng)


def newest(events: list[Event]) -> list[Event]:
    best: dict[str, Event] = {}
    for event in events:
        if event.actor not in best or best[event.actor].number < event.number:
            best[event.actor] = event
    return list(best.values())


def read_register(events: list[Event]) -> Any:
    best = max(events, key=lambda event: (event.stamp, event.actor, event.number), default=None)
    return best.content if best else None


def read_entries(events: list[Event]) -> dict[Any, Any]:
    groups: dict[Any, list[Event]] = {}
    for event in events:
        groups.setdefault(event.path[-1], []).append(event)
    return {key: read_register(group) for key, group in groups.items()}


def read_nested(events: list[Event], deep: int = 0) -> dict[Any, Any]:
    groups: dict[Any, list[Event]] = {}
    for event in events:
        groups.setdefault((event.path[deep + 1], event.path[deep + 2]), []).append(event)
    return {
        (key, name): read_nested(group, deep + 2) if name in MAPS else READ[name](group)
        for (key, name), group in groups.items()
    }


OPERATIONS: dict[str, Callable[[Hand, Random], None]] = {
    "GCounter": count_up,
    "PNCounter": count_both,
    "LWWRegister": register,
    "MVRegister": siblings,
    "EWFlag": flag,
    "ORSet": members,
    "LWWMap": entries,
    "ORMap": nested,
    "Text": texts.edit,
}
READ: dict[str, Callable[[list[Event]], Any]] = {
    "GCounter": lambda events: sum(event.content for event in newest(events)),
    "PNCounter": lambda events: sum(event.content[0] - event.content[1] for event in newest(events)),
    "LWWRegister": read_register,
    "MVRegister": lambda events: [
        event.content for event in sorted(events, key=lambda event: (event.actor, event.number))
    ],
    "EWFlag": bool,
    "ORSet": lambda events: {event.path[-1] for event in events},
    "LWWMap": read_entries,
    "ORMap": read_nested,
    "Text": texts.read,
}


def play_some(name: str, seeds: range, steps: int) -> None:
    for seed in seeds:
        try:
            History(name, seed, steps).play()
        except Exception as error:
            raise AssertionError(f"History({name!r}, {seed}, {steps}).play(): {error!r}") from error


def main(count: int, names: list[str], steps: int = 100, batch: int = 500) -> None:
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        for name in names or TYPES:
            starts = range(0, count, batch)
            parts = [pool.submit(play_some, name, range(at, min(at + batch, count)), steps) for at in starts]
            for part in parts:
                part.result()
            print(f"{name}: {count} histories of {steps} steps", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000, sys.argv[2:])
