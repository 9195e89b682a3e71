"""Where agents are that this node does not know: questions to the nodes that keep their ids, and the answers.

WHERE  [number, [agent id, ...]]
THERE  [number, [[agent id, owner node, incarnation, version of its list], ...]]   of those that it knows

In: ids and whom to ask about each, THERE frames, nodes that cannot answer.  Out: WHERE frames, and the
Question again whenever there is news of it.  It is over when all that were asked have answered or cannot,
and late when its time is up; an id that nobody told of then is nobody's, as far as those know who answered.

At most `lookups_max` questions are open; one more is Congested.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from agentnet_core.body import U64_MAX, expect_int, expect_list, expect_name, pack, unpack, wrong
from agentnet_core.config import BODY_BYTES, VERSION_MAX, EngineConfig
from agentnet_core.errors import Congested

NEVER = 2**63 - 1
AT_NEXT_TICK = 0
"""The clock may be older than whoever asks: a deadline runs from when it was set."""
PLACE_BYTES = 96
"""What one agent in a THERE takes, at most."""
IDS_MAX = BODY_BYTES // PLACE_BYTES
"""Ids in one WHERE: the answer is one frame."""


class Place(NamedTuple):
    """Whose an agent is, and the version of the owner's list that says so."""

    agent_id: int
    owner: str
    incarnation: int
    version: int


class Question:
    """``found``: what was told, the first word on each id. ``silent``: who was asked and cannot answer any
    more, or has not in time; ``answered``: somebody has.

    ``tell``: called with it when there is news, until `Lookups.close`.
    """

    __slots__ = ("answered", "deadline_ns", "found", "is_late", "parts", "silent", "tell", "wait_ns")

    def __init__(self, tell: Callable[[Question], None], wait_ns: int) -> None:
        self.tell = tell
        self.wait_ns = wait_ns
        self.deadline_ns = AT_NEXT_TICK
        self.found: dict[int, Place] = {}
        self.silent: dict[str, None] = {}
        self.answered = self.is_late = False
        self.parts: dict[int, str] = {}

    @property
    def is_over(self) -> bool:
        """Whether nobody is expected to say more."""
        return not self.parts


class Lookups:
    """The open questions of one node."""

    def __init__(self, config: EngineConfig) -> None:
        self._max = config.lookups_max
        self._number = 0
        self._open: dict[Question, None] = {}
        self._news: dict[Question, None] = {}
        self._parts: dict[int, Question] = {}

    def __len__(self) -> int:
        return len(self._open)

    def ask(self, question: Question, asked: Mapping[str, Sequence[int]]) -> list[tuple[str, int, bytes]]:
        """Open the question; the WHERE frames: whom to send it to, its number, its body. Congested, definite,
        if too many are open."""
        if len(self._open) >= self._max:
            raise Congested(f"{self._max} agents are being looked for already (lookups_max): try again")
        self._open[question] = self._news[question] = None
        frames = []
        for node_id, ids in asked.items():
            for at in range(0, len(ids), IDS_MAX):
                self._number += 1
                question.parts[self._number] = node_id
                self._parts[self._number] = question
                frames.append((node_id, self._number, pack([self._number, list(ids[at : at + IDS_MAX])])))
        return frames

    def there(self, node_id: str, number: int, places: Iterable[Place]) -> Question | None:
        """The answer of a node; the question that it is news for."""
        question = self._parts.pop(number, None)
        if question is None:
            return None  # it is closed
        if question.parts[number] != node_id:
            raise wrong("THERE number", "one that this node was asked with", number)
        del question.parts[number]
        question.answered = True
        for place in places:
            question.found.setdefault(place.agent_id, place)
        return question

    def unasked(self, number: int) -> None:
        """That frame was not sent, or no answer to it can come any more."""
        question = self._parts.pop(number, None)
        if question is not None:
            question.silent[question.parts.pop(number)] = None
            self._news[question] = None

    def lost(self, node_id: str) -> None:
        """No answer of that node can come any more."""
        for number in [n for n, question in self._parts.items() if question.parts[n] == node_id]:
            self.unasked(number)

    def tick(self, now_ns: int) -> list[Question]:
        """The questions of which there is something to tell."""
        for question in self._open:
            if question.deadline_ns == AT_NEXT_TICK:
                question.deadline_ns = now_ns + question.wait_ns
            elif question.deadline_ns <= now_ns and not question.is_late:
                question.is_late = True
                question.silent |= dict.fromkeys(question.parts.values())
                self._news[question] = None
        news, self._news = self._news, {}
        return list(news)

    def next_deadline_ns(self) -> int:
        """When `tick` will have something to tell; NEVER if only news can change that."""
        if self._news:
            return AT_NEXT_TICK
        if not self._open:
            return NEVER
        return min((question.deadline_ns for question in self._open if not question.is_late), default=NEVER)

    def open(self) -> list[Question]:
        """The questions that are not closed."""
        return list(self._open)

    def close(self, question: Question) -> None:
        """Nobody needs to know any more."""
        self._open.pop(question, None)
        self._news.pop(question, None)
        for number in question.parts:
            del self._parts[number]
        question.parts.clear()


def read_where(body: bytes | memoryview) -> tuple[int, list[int]]:
    """The number and the ids in the body of a WHERE frame."""
    number, ids = expect_list("WHERE", unpack("WHERE", body), range(2, 3))
    expect_list("WHERE ids", ids, range(IDS_MAX + 1))
    ids = [expect_int("WHERE agent id", agent_id, 1, U64_MAX) for agent_id in ids]
    return expect_int("WHERE number", number, 0, U64_MAX), ids


def write_there(number: int, places: Sequence[Place]) -> bytes:
    """The body of a THERE frame."""
    return pack([number, places])


def read_there(body: bytes | memoryview) -> tuple[int, list[Place]]:
    """The number and the places in the body of a THERE frame."""
    number, items = expect_list("THERE", unpack("THERE", body), range(2, 3))
    places = []
    for item in expect_list("THERE places", items):
        agent_id, owner, incarnation, version = expect_list("THERE place", item, range(4, 5))
        places.append(
            Place(
                expect_int("THERE agent id", agent_id, 1, U64_MAX),
                expect_name("THERE owner", owner),
                expect_int("THERE incarnation", incarnation, 0, U64_MAX),
                expect_int("THERE version", version, 0, VERSION_MAX),
            )
        )
    return expect_int("THERE number", number, 0, U64_MAX), places
