"""A text as a model has it: one node for each character, in a tree that is walked anew each time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import zip_longest
from random import Random
from typing import Any

PASSAGE_MAX = 256
Key = tuple[str, int]


@dataclass(slots=True, eq=False)
class Node:
    key: Key
    offset: int
    text: str | None
    """None if it was deleted."""
    left: list[Node] = field(default_factory=list)
    right: list[Node] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Content:
    """What one event wrote of a passage. ``text``: by offset a character, or None."""

    parent: Key | None
    place: int
    text: tuple[str | None, ...]


def nodes_of(events: Iterable[Any]) -> list[Node]:
    """All characters in order, deleted ones too."""
    groups: dict[Key, list[Any]] = {}
    for event in sorted(events, key=lambda event: (event.actor, event.number)):
        groups.setdefault(event.path[-1], []).append(event)
    passages: dict[Key, list[Node]] = {}
    for key, group in groups.items():
        texts = [event.content.text for event in group]
        passages[key] = [
            Node(key, offset, None if None in found else next(each for each in found if each))
            for offset, found in enumerate(zip_longest(*texts, fillvalue=""))
        ]
        for one, other in zip(passages[key], passages[key][1:], strict=False):
            one.right.append(other)
    roots: list[Node] = []
    astray: list[tuple[Any, Node]] = []
    for key, group in groups.items():
        content, first = group[0].content, passages[key][0]
        if content.parent is None:
            roots.append(first)
        elif content.parent not in passages:
            astray.append(((content.parent, content.place, key), first))
        else:
            there = passages[content.parent]
            parent = there[min(content.place >> 1, len(there) - 1)]
            is_right = content.place & 1 or content.place >> 1 >= len(there)
            (parent.right if is_right else parent.left).append(first)
    roots.sort(key=lambda node: node.key)
    return walk(roots + [first for _, first in sorted(astray, key=lambda each: each[0])])


def walk(roots: list[Node]) -> list[Node]:
    order: list[Node] = []
    stack = [(node, False) for node in reversed(roots)]
    while stack:
        node, has_left = stack.pop()
        while has_left or not node.left:
            order.append(node)
            if len(node.right) != 1:
                stack += [(each, False) for each in in_order(node.right)]
                break
            node, has_left = node.right[0], False
        else:
            stack.append((node, True))
            stack += [(each, False) for each in in_order(node.left)]
    return order


def in_order(nodes: list[Node]) -> list[Node]:
    """The last first, as a stack wants them."""
    return sorted(nodes, key=lambda node: (node.key, node.offset), reverse=True)


def read(events: Iterable[Any]) -> str:
    return "".join(node.text for node in nodes_of(events) if node.text is not None)


def words(rng: Random) -> str:
    if rng.random() < 0.005:
        return "long " * rng.randint(40, 110)
    return "".join(rng.choice("abcdeXYZ \N{EURO SIGN}\N{GRINNING FACE}") for _ in range(rng.randint(1, 9)))


def edit(hand: Any, rng: Random) -> None:
    """One change of a random place, told to the state and, event by event, to the model."""
    history = hand.history
    events = [each for at, each in enumerate(history.events) if hand.replica.live >> at & 1]
    events = [each for each in events if each.path[: len(hand.path) + 1] == (*hand.path, hand.kind)]
    order = nodes_of(events)
    living = [node for node in order if node.text is not None]
    chance, size = rng.random(), len(living)
    first = end = size if rng.random() < 0.3 else rng.randint(0, size)
    text = words(rng) if chance < 0.7 else ""
    if chance > 0.6:
        end = min(size, first + rng.randint(0, 6))
    if chance > 0.97:
        first, end = 0, size
        hand.state.clear()
    else:
        hand.state.splice(first, end, text)
    of_key: dict[Key, list[Node]] = {}
    for node in order:
        of_key.setdefault(node.key, []).append(node)
    first_of: dict[Key, Any] = {}
    for event in sorted(events, key=lambda event: (event.actor, event.number)):
        first_of.setdefault(event.path[-1], event)
    if text:
        insert(hand, order, living, of_key, first_of, first, text)
    gone = set(living[first:end])
    for key in dict.fromkeys(node.key for node in living[first:end]):
        old = first_of[key].content
        left = tuple(
            None if node in gone else node.text for node in sorted(of_key[key], key=lambda node: node.offset)
        )
        hand.write(Content(old.parent, old.place, left), key=key)


def insert(
    hand: Any,
    order: list[Node],
    living: list[Node],
    of_key: dict[Key, list[Node]],
    first_of: dict[Key, Any],
    index: int,
    text: str,
) -> None:
    parent: Key | None
    left = living[index - 1] if index else None
    at = order.index(left) + 1 if left is not None else 0
    if left is None and not order:
        parent, place = None, 0
    elif left is not None and (not left.right or at == len(order)):
        parent, place = left.key, 2 * left.offset + 1
        size = len(of_key[left.key])
        if left.key[0] == hand.replica.actor and left.offset + 1 == size < PASSAGE_MAX:
            part, text = text[: PASSAGE_MAX - size], text[PASSAGE_MAX - size :]
            now = [node.text for node in sorted(of_key[left.key], key=lambda node: node.offset)]
            old = first_of[left.key].content
            hand.write(Content(old.parent, old.place, (*now, *part)), key=left.key)
            place = 2 * (size + len(part) - 1) + 1
    else:
        parent, place = order[at].key, 2 * order[at].offset
    for start in range(0, len(text), PASSAGE_MAX):
        part = text[start : start + PASSAGE_MAX]
        key = (hand.replica.actor, hand.replica.number + 1)
        hand.write(Content(parent, place, tuple(part)), key=key)
        parent, place = key, 2 * len(part) - 1
