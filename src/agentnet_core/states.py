"""The named states that a node holds, and what they come to: one print each, one sum for each share.

A state is of a name and a type: two nodes that use one name for different types have two states.  The
print of a state is 64 bits that its entries and its context decide; states are dealt into `SHARES`
shares by name, and the sum of a share is that of the prints in it.  So equal sums mean equal states, and
what is asked again after a change costs what has changed.

Held here: `states_max` states of `states_bytes_max` in all; what would pass either raises LimitReached
and changes nothing.  A change that only removes is always taken.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import NamedTuple

from agentnet_core.body import unpack
from agentnet_core.config import ACTOR_BYTES_MAX, STATE_NAME_BYTES_MAX, EngineConfig
from agentnet_core.crdt import Crdt, Site
from agentnet_core.crdt.base import BY_CODE
from agentnet_core.errors import LimitReached, UsageError
from agentnet_core.records import describe

SHARES = 64
PRINT_BYTES = 8
MASK = (1 << 8 * PRINT_BYTES) - 1
STATE_OVERHEAD_BYTES = 256
"""What a state costs beside its keys and values."""
VALUES = 5
"""Where the values are in the form of a state or a change; see `crdt.wire`."""


class Key(NamedTuple):
    """Which state: the code of its type, and its name."""

    code: int
    name: str

    @property
    def label(self) -> str:
        """What errors and events call it."""
        kind = BY_CODE.get(self.code)
        return f"{kind.__name__ if kind is not None else self.code} {describe(self.name)}"


class Held:
    """One state. ``total``: its sum, when it was known to have changed last."""

    __slots__ = ("_print", "counted", "key", "share", "size", "state", "total")

    def __init__(self, key: Key, state: Crdt) -> None:
        self.key, self.state = key, state
        self.share = share_of(key)
        self.size = STATE_OVERHEAD_BYTES
        self.counted = 0
        """What of it is in the sum of its share."""
        self.total = 0
        self._print: int | None = None

    @property
    def print(self) -> int:
        """64 bits for all that it holds and has seen."""
        if self._print is None:
            self._print = (self.state.sum + _number(self.state.context.encode())) & MASK
        return self._print

    def changed(self) -> None:
        self.total = self.state.sum
        self._print = None


class States:
    """All states of a node. ``changed``: called with each that changes, and whether others made it so."""

    def __init__(self, config: EngineConfig, make_site: Callable[[], Site]) -> None:
        self._states_max, self._bytes_max = config.states_max, config.states_bytes_max
        self._make_site = make_site
        self._site: Site | None = None
        self._held: dict[Key, Held] = {}
        self._shares: list[dict[Key, Held]] = [{} for _ in range(SHARES)]
        self._sums = [0] * SHARES
        self._stale: dict[Key, Held] = {}
        self.bytes = 0
        self.whole = True
        """Whether what is empty was always so; see `absence`."""
        self.on_change: Callable[[Held, bool], None] = lambda _held, _others: None

    def __len__(self) -> int:
        return len(self._held)

    @property
    def site(self) -> Site:
        """Whose changes, under which limits."""
        if self._site is None:
            self._site = self._make_site()
        return self._site

    def get(self, key: Key) -> Held | None:
        """The state, if it is held."""
        return self._held.get(key)

    def hold(self, key: Key) -> Held:
        """The state, made if it is not held."""
        held = self._held.get(key)
        if held is None:
            check_name(key.name)
            if len(self._held) >= self._states_max:
                raise LimitReached(
                    f"{key.label}: {len(self._held)} states are held already: expected at most "
                    f"states_max={self._states_max}"
                )
            self._check_bytes(key, STATE_OVERHEAD_BYTES)
            held = self._held[key] = Held(key, BY_CODE[key.code](self.site))
            self._shares[held.share][key] = held
            self._stale[key] = held
            self.bytes += held.size
        return held

    def forget(self, key: Key) -> None:
        """Hold it no more, if nothing was ever in it."""
        held = self._held.get(key)
        if self.whole and held is not None and not held.state.context:
            self._drop(held)

    def check_room(self, held: Held, more: int) -> None:
        """LimitReached if all states together could not hold that many bytes more."""
        self._check_bytes(held.key, more)

    def touched(self, held: Held) -> None:
        """The state was changed here."""
        self._note(held)
        self.on_change(held, False)

    def merge(self, key: Key, data: bytes, *, author: str | None, stamp_max: int) -> bool:
        """Take what ``data`` knows of the state; whether anything changed. Fails as `Crdt.merge` does."""
        held = self._held.get(key)
        if self.bytes + len(data) > self._bytes_max and _adds(data):
            self._check_bytes(key, len(data))
        fresh = held is None
        held = held or self.hold(key)
        try:
            changed = held.state.merge(data, author=author, stamp_max=stamp_max)
        except BaseException:
            if fresh:
                self._drop(held)
            raise
        if changed:
            self._note(held)
            self.on_change(held, True)
        elif fresh and not held.state.context:
            self._drop(held)
        return changed

    def restore(self, key: Key, data: bytes) -> None:
        """Take back what this node had in an earlier life; fails as `Crdt.merge` and `hold` do."""
        held = self.hold(key)
        if held.state.restore(data):
            self._note(held)

    def names(self) -> list[Key]:
        """Those that are held, in order."""
        return sorted(self._held)

    def renamed(self, held: Held) -> None:
        """The state holds something else under its name, see `crdt.renaming` and `absence`."""
        self._note(held)
        self.on_change(held, True)

    def rename(self, actor: str) -> None:
        """Change them under that name from now on. No delta is open."""
        self.site.rename(actor)
        for held in self._held.values():
            held.state.disown()

    # -- what they come to

    def sums(self) -> list[int]:
        """The sum of each share."""
        for held in self._stale.values():
            element = _number(f"{held.key.code} {held.key.name} {held.print}".encode())
            if not held.state.context:
                element = 0  # nothing was ever in it: as if it were not held
            self._sums[held.share] = (self._sums[held.share] + element - held.counted) & MASK
            held.counted = element
        self._stale.clear()
        return self._sums

    def share(self, share: int) -> list[Held]:
        """What is in a share, in order, but for what nothing was ever in."""
        return [held for _, held in sorted(self._shares[share].items()) if held.state.context]

    # -- own

    def _check_bytes(self, key: Key, more: int) -> None:
        if self.bytes + more > self._bytes_max:
            raise LimitReached(
                f"{key.label}: {more} bytes more than the {self.bytes} of all states: expected at most "
                f"states_bytes_max={self._bytes_max}"
            )

    def _note(self, held: Held) -> None:
        size = held.state.size + STATE_OVERHEAD_BYTES
        self.bytes += size - held.size
        held.size = size
        held.changed()
        self._stale[held.key] = held

    def _drop(self, held: Held) -> None:
        del self._held[held.key]
        del self._shares[held.share][held.key]
        self._stale.pop(held.key, None)
        self.bytes -= held.size


def actor_of(node_id: str, incarnation: int) -> str:
    """In whose name a node changes states."""
    actor = f"{node_id}:{incarnation}"
    assert len(actor) <= ACTOR_BYTES_MAX
    return actor


def code_of(kind: type[Crdt]) -> int:
    """The code of a type of state; UsageError if it is none."""
    for code, known in BY_CODE.items():
        if known is kind:
            return code
    raise UsageError(f"{kind!r}: expected one of the types of agentnet_core.crdt")


def check_name(name: object) -> str:
    """``name``, if a state can have it; UsageError otherwise."""
    if isinstance(name, str):
        try:
            if 0 < len(name.encode()) <= STATE_NAME_BYTES_MAX:
                return name
        except UnicodeEncodeError:
            pass
    raise UsageError(f"state {describe(name)}: expected a name of 1 to {STATE_NAME_BYTES_MAX} bytes of UTF-8")


def share_of(key: Key) -> int:
    return blake2b(f"{key.code} {key.name}".encode(), digest_size=1).digest()[0] % SHARES


def _number(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=PRINT_BYTES).digest(), "big")


def _adds(data: bytes) -> bool:
    """Whether a change may add something; its merge says whether it is one at all."""
    parts = unpack("a change of a state", data)
    return not (isinstance(parts, list) and len(parts) > VALUES and parts[VALUES] == [])
