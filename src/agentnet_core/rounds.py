"""The rounds in which all nodes together rename what actors that are gone did; see `crdt.renaming`.

Rounds are numbered, and each names the one before it by 64 bits of its content: so two nodes that had the
same round have had the same ones before it, and two networks that decided each for itself can tell.  A round
says, state by state, whose dots are renamed and how, and which nodes, each in its incarnation, decide on
the next one.

The last rounds are kept, `state_rounds_max` of them and `state_rounds_bytes_max` bytes: what somebody says
that has not heard of them is renamed as it comes, and who missed some of them gets them.  Of what was before,
nothing is known any more; whoever knows no more than that must not be listened to, see `pruning`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from agentnet_core.body import (
    U64_MAX,
    expect_bytes,
    expect_int,
    expect_list,
    expect_name,
    pack,
    unpack,
    wrong,
)
from agentnet_core.config import ACTOR_BYTES_MAX, BODY_BYTES, STATE_NAME_BYTES_MAX, VERSION_MAX, EngineConfig
from agentnet_core.crdt.base import BY_CODE
from agentnet_core.crdt.renaming import COUNTERS, STAR, TOTAL_MAX, Renaming, Totals
from agentnet_core.errors import ProtocolError
from agentnet_core.states import Key

ID_BYTES = 8
ITEMS_MAX = 64
VOTERS_MAX = 1024
ROUND_BYTES_MAX = BODY_BYTES // 2

Life = tuple[str, int]
"""A node, and its incarnation."""


class Item(NamedTuple):
    """One state, and how one actor's dots in it are renamed."""

    key: Key
    renaming: Renaming


class Round:
    """One of them. ``data``: its form; ``id``: what the next one names it by."""

    __slots__ = ("data", "id", "items", "number", "prev", "voters")

    def __init__(self, number: int, prev: int, voters: Sequence[Life], items: Sequence[Item]) -> None:
        self.number, self.prev = number, prev
        self.voters, self.items = tuple(voters), tuple(items)
        forms = [[each.key, each.renaming] for each in self.items]
        self.data = pack([number, prev, [list(each) for each in self.voters], forms])
        self.id = int.from_bytes(blake2b(self.data, digest_size=ID_BYTES).digest(), "big") or 1

    @classmethod
    def decode(cls, data: bytes) -> Round:
        """What ``data`` says; ProtocolError if that is no round."""
        if len(data) > ROUND_BYTES_MAX:
            raise wrong("ROUND", f"at most {ROUND_BYTES_MAX} bytes", len(data))
        number, prev, voters, items = expect_list("ROUND", unpack("ROUND", data), range(4, 5))
        lives = []
        for each in expect_list("ROUND voters", voters, range(1, VOTERS_MAX + 1)):
            node_id, incarnation = expect_list("ROUND voter", each, range(2, 3))
            life = expect_name("ROUND voter", node_id), expect_int("ROUND life", incarnation, 0, U64_MAX)
            lives.append(life)
        made = cls(
            expect_int("ROUND number", number, 1, VERSION_MAX),
            expect_int("ROUND before", prev, 0, U64_MAX),
            lives,
            read_items(items),
        )
        if made.data != data:
            raise ProtocolError("ROUND: not in its one form")
        return made


def read_items(value: object) -> list[Item]:
    """The renamings of a round."""
    found = []
    seen: dict[tuple[Key, str], None] = {}
    for item in expect_list("ROUND items", value, range(ITEMS_MAX + 1)):
        (code, name), form = [expect_list("ROUND item", part) for part in _pair(item)]
        actor, number, base, before, after = expect_list("ROUND renaming", form, range(5, 6))
        key = Key(expect_int("ROUND type", code, 0, U64_MAX), _name(name, STATE_NAME_BYTES_MAX))
        if key.code not in BY_CODE:
            raise wrong("ROUND type", "a type of states", code)
        renaming = Renaming(
            _name(actor, ACTOR_BYTES_MAX - 1),
            expect_int("ROUND number", number, 1, VERSION_MAX),
            expect_int("ROUND base", base, 0, VERSION_MAX),
            _totals(key.code, before),
            _totals(key.code, after),
        )
        if renaming.actor == STAR or renaming.top >= VERSION_MAX or (key, renaming.actor) in seen:
            raise wrong("ROUND item", "an actor that is renamed once", item)
        if any(one > both for one, both in zip(renaming.before, renaming.after, strict=True)):
            raise wrong("ROUND totals", "no more than all together", form)
        seen[key, renaming.actor] = None
        found.append(Item(key, renaming))
    return found


def _pair(value: object) -> list[Any]:
    return expect_list("ROUND item", value, range(2, 3))


def expect_actor(value: object) -> str:
    """A name under which states are changed."""
    return _name(value, ACTOR_BYTES_MAX)


def _name(value: object, size: int) -> str:
    if type(value) is not str or not 0 < len(value.encode()) <= size:
        raise wrong("ROUND name", f"1 to {size} bytes of text", value)
    return value


def _totals(code: int, value: object) -> Totals:
    count = COUNTERS.index(code) + 1 if code in COUNTERS else 0
    found = expect_list("ROUND totals", value, range(count, count + 1))
    return tuple(expect_int("ROUND total", each, 0, TOTAL_MAX) for each in found)


class Chain:
    """Those that a node has had. ``number``, ``id``: of the last one, 0 before the first; ``voters``: who
    decides on the next."""

    def __init__(self, config: EngineConfig) -> None:
        self._count_max, self._bytes_max = config.state_rounds_max, config.state_rounds_bytes_max
        self.begin(0, 0)

    def begin(self, number: int, last: int) -> None:
        """As if that round had been the last, with none kept."""
        self.number, self.id = number, last
        self.voters: tuple[Life, ...] = ()
        self.kept: deque[Round] = deque()
        self.bytes = 0
        self._names: dict[Key, list[Renaming]] = {}

    @property
    def oldest(self) -> int:
        """The first that is kept, or the one to come."""
        return self.number + 1 - len(self.kept)

    def id_of(self, number: int) -> int | None:
        """Of a round, or None if it is not known any more, or not yet."""
        if number == self.number:
            return self.id
        if self.oldest - 1 <= number < self.number:
            return self.kept[number + 1 - self.oldest].prev
        return None

    def since(self, number: int) -> list[Round]:
        """Those that are kept from that one on."""
        return [each for each in self.kept if each.number >= number]

    def follows(self, one: Round) -> bool:
        """Whether it is the next."""
        return one.number == self.number + 1 and one.prev == self.id

    def add(self, one: Round) -> None:
        """The next one; the oldest of those kept may go."""
        self.number, self.id, self.voters = one.number, one.id, one.voters
        self.kept.append(one)
        self.bytes += len(one.data)
        for key, renaming in one.items:
            self._names.setdefault(key, []).append(renaming)
        while len(self.kept) > self._count_max or self.bytes > self._bytes_max:
            gone = self.kept.popleft()
            self.bytes -= len(gone.data)
            for key, _ in gone.items:
                names = self._names[key]
                del names[0]
                if not names:
                    del self._names[key]

    def names(self, key: Key) -> Sequence[Renaming]:
        """What is renamed in a state, in order."""
        return self._names.get(key, ())

    def renamed(self) -> Iterable[Key]:
        """States in which something is."""
        return list(self._names)

    # -- as it is kept

    def encode(self) -> bytes:
        """Its form."""
        first = self.kept[0].prev if self.kept else self.id
        return pack([self.oldest - 1, first, [each.data for each in self.kept]])

    def decode(self, data: bytes) -> None:
        """What `encode` wrote; ProtocolError."""
        number, last, forms = expect_list("CHAIN", unpack("CHAIN", data), range(3, 4))
        self.begin(
            expect_int("CHAIN number", number, 0, VERSION_MAX), expect_int("CHAIN id", last, 0, U64_MAX)
        )
        for form in expect_list("CHAIN rounds", forms):
            one = Round.decode(expect_bytes("CHAIN round", form, range(1, ROUND_BYTES_MAX + 1)))
            if not self.follows(one):
                raise ProtocolError(f"CHAIN: round {one.number} does not follow round {self.number}")
            self.add(one)
