"""In which order the passages of a text stand: a tree of characters, read from left to right.

A passage is at most `PASSAGE_MAX` characters that one actor wrote one behind the other.  Each character is
the right child of the one before it; the first of a passage is a left or a right child of the character
beside which it was written, or of none if there was no other.  Right children of one character stand behind
it, left ones before it, each in order of key; what continues a passage has that passage's key.  Who writes
between two characters hangs what he writes on the left one if that has no right child yet, else on the right
one: so what two actors wrote at the same place at the same time stands side by side, never mixed, whether
they wrote forwards or backwards (the tree of Fugue: Weidner and Kleppmann, The Art of the Fugue, 2023).

What is deleted keeps its place in the tree, but not its characters.  A passage that hangs on one that is not
here stands at the end until that comes, or behind as much of it as is here.  Whatever the passages are,
forged ones too, the order depends on them alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

PASSAGE_MAX = 256
FILLER = "\0"

Key = tuple[str, int]
"""Of a passage: its actor, and the number of the event that began it."""
Form = list[object]
"""Of a passage: the key of its parent or None, where it hangs there, what of it is deleted, and its text."""


class Passage:
    """``place``: on which character of the parent it hangs, doubled, and 1 more behind it. ``dead``: bits of
    deleted characters. ``text``: all of it, with anything in the place of those."""

    __slots__ = ("after", "before", "dead", "key", "parent", "place", "text")

    def __init__(self, key: Key, parent: Key | None, place: int, dead: int, text: str) -> None:
        self.key, self.parent, self.place, self.dead, self.text = key, parent, place, dead, text
        self.before: dict[int, list[Passage]] = {}
        self.after: dict[int, list[Passage]] = {}

    def join(self, other: Passage) -> None:
        """Take in what another writer made of the same passage: what one of them has deleted is deleted."""
        text, more = self.text, other.text
        self.dead |= other.dead
        self.text = text + more[len(text) :]

    def form(self) -> Form:
        """As it is kept; `passage_of` reads it."""
        parent = None if self.parent is None else list(self.parent)
        if not self.dead:
            return [parent, self.place, [], self.text]
        dead: list[int] = []
        kept: list[str] = []
        gap = length = 0
        for offset, character in enumerate(self.text):
            if self.dead >> offset & 1:
                length += 1
                continue
            kept.append(character)
            if length:
                dead += (gap, length)
                gap = length = 0
            gap += 1
        if length:
            dead += (gap, length)
        return [parent, self.place, dead, "".join(kept)]


def passage_of(key: Key, form: Form) -> Passage:
    """What `Passage.form` wrote."""
    parent, place, dead, text = form
    assert isinstance(place, int)
    assert isinstance(dead, list)
    assert isinstance(text, str)
    mask = taken = 0
    parts: list[str] = []
    at = 0
    for gap, length in zip(dead[::2], dead[1::2], strict=True):
        parts += (text[taken : taken + gap], FILLER * length)
        taken += gap
        at += gap
        mask |= ((1 << length) - 1) << at
        at += length
    whole = "".join((*parts, text[taken:])) if parts else text
    return Passage(key, tuple(parent) if isinstance(parent, list) else None, place, mask, whole)


class Span:
    """Characters of one passage that follow each other. ``alive``: how many of them are not deleted."""

    __slots__ = ("alive", "end", "first", "passage")

    def __init__(self, passage: Passage, first: int, end: int) -> None:
        self.passage, self.first, self.end = passage, first, end
        self.count()

    def count(self) -> None:
        width = self.end - self.first
        self.alive = width - (self.passage.dead >> self.first & ((1 << width) - 1)).bit_count()

    def offset_of(self, index: int) -> int:
        """Of its living character of that index."""
        if self.alive == self.end - self.first:
            return self.first + index
        for offset in range(self.first, self.end):
            if not self.passage.dead >> offset & 1:
                if index == 0:
                    return offset
                index -= 1
        raise IndexError(index)

    def text(self) -> str:
        part = self.passage.text[self.first : self.end]
        if self.alive == len(part):
            return part
        dead = self.passage.dead >> self.first
        return "".join(each for offset, each in enumerate(part) if not dead >> offset & 1)


class Edit:
    """A change that was found out, but not made. ``changed``: passages that are here, as they are to be; the
    first is longer if `grown`. ``made``: new ones, which begin the events from `number` on. ``more``: how
    many characters the text gains."""

    __slots__ = ("at", "changed", "grown", "made", "more", "offset")

    def __init__(self) -> None:
        self.changed: list[Passage] = []
        self.made: list[Passage] = []
        self.grown = False
        self.more = 0
        self.at, self.offset = -1, 0
        """The span and the offset behind which what is new stands."""


class Sequence:
    """The passages in order."""

    def __init__(self, passages: Iterable[Passage]) -> None:
        self._passages: dict[Key, Passage] = {}
        for passage in passages:
            known = self._passages.setdefault(passage.key, passage)
            if known is not passage:
                known.join(passage)
        self._spans = self._order()
        self.length = sum(span.alive for span in self._spans)

    def text(self) -> str:
        return "".join(span.text() for span in self._spans if span.alive)

    # -- changes

    def edit(self, first: int, end: int, text: str, actor: str, number: int) -> Edit:
        """What is to be written so that ``text`` stands in the place of the characters from ``first`` up to,
        not with, ``end``. ``number``: of the actor's next event."""
        edit = Edit()
        edit.more = len(text) - (end - first)
        if text:
            self._plan_insert(edit, first, text, actor, number)
        masks: dict[Key, int] = {}
        for span, low, high in self._living(first, end):
            for index in range(low, high):
                masks[span.passage.key] = masks.get(span.passage.key, 0) | 1 << span.offset_of(index)
        for key, mask in masks.items():
            old = self._passages[key]
            edit.changed.append(Passage(key, old.parent, old.place, old.dead | mask, old.text))
        return edit

    def make(self, edit: Edit) -> None:
        """Make the change that `edit` has found out, of this very sequence."""
        for new in edit.changed:
            old = self._passages[new.key]
            old.dead, old.text = new.dead, new.text
        if edit.grown:
            span = self._spans[edit.at]
            span.end = len(span.passage.text)
        at = edit.at
        if edit.made:
            if at >= 0 and edit.offset + 1 < self._spans[at].end and not edit.grown:
                span = self._spans[at]
                self._spans.insert(at + 1, Span(span.passage, edit.offset + 1, span.end))
                span.end = edit.offset + 1
                span.count()
            for passage in edit.made:
                self._passages[passage.key] = passage
                self._hang(passage)
            self._spans[at + 1 : at + 1] = [Span(each, 0, len(each.text)) for each in edit.made]
        touched = {each.key for each in edit.changed}
        if touched:
            for span in self._spans:
                if span.passage.key in touched:
                    span.count()
        self.length += edit.more

    def _plan_insert(self, edit: Edit, first: int, text: str, actor: str, number: int) -> None:
        parent, place = self._find_place(edit, first)
        if parent is not None and place & 1 and parent.key[0] == actor:
            room = PASSAGE_MAX - len(parent.text)
            if room > 0 and place >> 1 == len(parent.text) - 1:
                part, text = text[:room], text[room:]
                edit.changed.append(
                    Passage(parent.key, parent.parent, parent.place, parent.dead, parent.text + part)
                )
                edit.grown = True
                number += 1
                place = 2 * (len(parent.text) + len(part) - 1) + 1
        key = parent.key if parent is not None else None
        for at in range(0, len(text), PASSAGE_MAX):
            part = text[at : at + PASSAGE_MAX]
            edit.made.append(Passage((actor, number), key, place, 0, part))
            key, place = (actor, number), 2 * len(part) - 1
            number += 1

    def _find_place(self, edit: Edit, first: int) -> tuple[Passage | None, int]:
        """On which passage and where there hangs what is written before the character of that index."""
        if first == 0:
            if not self._spans:
                return None, 0
            return self._spans[0].passage, 2 * self._spans[0].first
        index, at = first - 1, 0
        while index >= self._spans[at].alive:
            index -= self._spans[at].alive
            at += 1
        span = self._spans[at]
        left, offset = span.passage, span.offset_of(index)
        edit.at, edit.offset = at, offset
        if offset + 1 == len(left.text) and offset not in left.after:
            return left, 2 * offset + 1
        if offset + 1 < span.end:
            return left, 2 * (offset + 1)
        if at + 1 == len(self._spans):
            return left, 2 * offset + 1  # only of forged passages
        return self._spans[at + 1].passage, 2 * self._spans[at + 1].first

    def _living(self, first: int, end: int) -> Iterator[tuple[Span, int, int]]:
        """Spans with the indexes of those of their living characters that are in the range."""
        at = 0
        for span in self._spans:
            if at >= end:
                return
            low, high = max(first - at, 0), min(end - at, span.alive)
            if low < high:
                yield span, low, high
            at += span.alive

    # -- the order

    def _hang(self, passage: Passage) -> bool:
        """Hang it on its parent; False if that is not here."""
        parent = self._passages.get(passage.parent) if passage.parent is not None else None
        if parent is None:
            return False
        offset, last = passage.place >> 1, len(parent.text) - 1
        # Behind all of a parent whose further characters have not come.
        children = parent.after if passage.place & 1 or offset > last else parent.before
        offset = min(offset, last)
        children.setdefault(offset, []).append(passage)
        return True

    def _order(self) -> list[Span]:
        roots: list[Passage] = []
        astray: list[Passage] = []
        for key in sorted(self._passages):
            passage = self._passages[key]
            if not self._hang(passage):
                (roots if passage.parent is None else astray).append(passage)
        astray.sort(key=lambda each: (each.parent or each.key, each.place, each.key))
        spans: list[Span] = []
        left = dict(self._passages)
        self._walk([*roots, *astray], spans, left)
        while left:  # forged: passages that hang on each other in a ring
            self._walk([left[min(left)]], spans, left)
        return spans

    @staticmethod
    def _walk(roots: list[Passage], spans: list[Span], left: dict[Key, Passage]) -> None:
        """Put what stands under the roots behind the spans, and take it from what is left."""
        stack: list[Span | Passage] = [*reversed(roots)]
        while stack:
            each = stack.pop()
            if isinstance(each, Span):
                spans.append(each)
            elif left.pop(each.key, None) is not None:
                if each.before or each.after:
                    stack += _parts(each)[::-1]
                else:
                    spans.append(Span(each, 0, len(each.text)))


def _parts(passage: Passage) -> list[Span | Passage]:
    """Its characters and what hangs on them, in order."""
    parts: list[Span | Passage] = []
    behind: list[list[Passage]] = []
    done, size = 0, len(passage.text)
    for offset in sorted({*passage.before, *passage.after}):
        before, after = passage.before.get(offset), passage.after.get(offset)
        if before:
            if done < offset:
                parts.append(Span(passage, done, offset))
            parts += before
            done = offset
        if after:
            parts.append(Span(passage, done, offset + 1))
            done = offset + 1
            # What continues the passage is one of the right children, and has its key.
            parts += [each for each in after if each.key < passage.key]
            behind.append([each for each in after if each.key > passage.key])
    if done < size:
        parts.append(Span(passage, done, size))
    for after in reversed(behind):
        parts += after
    return parts
