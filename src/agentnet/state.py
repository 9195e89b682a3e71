"""Handles of shared states: plain reads, changes that can be awaited, and word of what others change.

A read gives what this node holds, at once; a node reads its own writes.  A change is made here at once and
leaves with this turn of the event loop.  Awaiting it costs nothing, unless its caller wants replicas to
have it first: ``consistency`` is then QUORUM, ALL, or how many; or their disks, ``on_disk=True``.
TooFewReplicas when they do not in time.

A state changes in place on every node; of concurrent changes each type has its own law, which it tells.
A value that is read is a copy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypedDict, Unpack, cast

from agentnet_core.crdt import (
    Crdt,
    EWFlag,
    LWWMap,
    LWWRegister,
    MVRegister,
    ORMap,
    ORSet,
    PNCounter,
    Text,
)
from agentnet_core.errors import TooFewReplicas, UsageError
from agentnet_core.route import SENT, Pause
from agentnet_core.states import Held, Key

if TYPE_CHECKING:
    from agentnet_core.replication import Replication


class ConsistencyLevel(Enum):
    """How much must be true before a write or a read of a state returns.

    EVENTUAL: it is made here and on its way. CAUSAL: likewise; who reads it with CAUSAL has what it depends
    on. QUORUM: a majority of the state's replicas has it, and at least ``state_quorum_min`` of them. ALL: all
    of them. STRONG: agreed on by Raft, which this version does not have.
    """

    STRONG = "strong"
    EVENTUAL = "eventual"
    CAUSAL = "causal"
    QUORUM = "quorum"
    ALL = "all"


Consistency = ConsistencyLevel | int
"""A level, or how many replicas."""
EVENTUAL = ConsistencyLevel.EVENTUAL
WRITES_A_TURN = 64
"""Writes that wait for nobody, before the loop turns."""


class WriteOptions(TypedDict, total=False):
    """What awaiting a change waits for: ``consistency``, nobody unless it is given; ``on_disk``: it is on the
    disks of so many, or on that of this node; ``timeout`` in seconds, ``state_write_ms_max`` if none."""

    consistency: Consistency
    on_disk: bool
    timeout: float | None


OPTIONS = frozenset(WriteOptions.__annotations__)


@dataclass(frozen=True, slots=True)
class StateChange:
    """A state has changed. ``count``: how often since the last one that was read. ``by_others``: whether
    other nodes changed it meanwhile."""

    name: str
    count: int
    by_others: bool


class Changes:
    """Word of the changes of one state, from now on. Who reads slowly gets several in one."""

    def __init__(self, hub: Hub, key: Key) -> None:
        self._hub, self._key = hub, key
        self._count, self._by_others = 0, False
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None

    def put(self, others: bool) -> None:
        self._count += 1
        self._by_others |= others
        self._notify()

    def end(self) -> None:
        self._ended = True
        self._notify()

    def _notify(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StateChange:
        if self._waiter is not None:
            raise UsageError(f"{self._key.label}: two tasks read the same changes; each needs its own")
        while not self._count:
            if self._ended:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        change = StateChange(self._key.name, self._count, self._by_others)
        self._count, self._by_others = 0, False
        return change

    async def aclose(self) -> None:
        """Read no more."""
        self._hub.drop(self._key, self)
        self.end()


class Hub:
    """Who wants to hear of which states. ``writes``: those of handles that waited for nobody."""

    def __init__(self) -> None:
        self.writes = 0
        self._readers: dict[Key, dict[Changes, None]] = {}
        self._any: asyncio.Future[None] | None = None
        self._ended = False

    def open(self, key: Key) -> Changes:
        changes = Changes(self, key)
        if self._ended:
            changes.end()
        else:
            self._readers.setdefault(key, {})[changes] = None
        return changes

    def drop(self, key: Key, changes: Changes) -> None:
        readers = self._readers.get(key, {})
        readers.pop(changes, None)
        if not readers:
            self._readers.pop(key, None)

    def changed(self, held: Held, others: bool) -> None:
        for changes in self._readers.get(held.key, ()):
            changes.put(others)
        self._rouse()

    async def wait_any(self) -> None:
        """Until any state changes."""
        if self._any is None:
            self._any = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._any)

    def _rouse(self) -> None:
        if self._any is not None:
            self._any.set_result(None)
            self._any = None

    def end(self) -> None:
        self._ended = True
        for readers in self._readers.values():
            for changes in readers:
                changes.end()
        self._readers.clear()
        self._rouse()


class Node(Protocol):
    """What a handle asks of its node; the manager is one."""

    @property
    def replication(self) -> Replication: ...
    @property
    def hub(self) -> Hub: ...
    def tell_time(self) -> None:
        """Set the clock of the engine."""


def needed(consistency: Consistency, replicas: tuple[str, ...], majority: Callable[[int], int]) -> int:
    """How many of the replicas must answer; 0 if nobody is waited for. ``majority``: how many of so many
    are a QUORUM. UsageError if it cannot be."""
    if isinstance(consistency, ConsistencyLevel):
        if consistency is ConsistencyLevel.STRONG:
            raise UsageError(
                "ConsistencyLevel.STRONG comes with Raft, which this version does not have; QUORUM is next "
                "to it: what a majority has is not lost, but concurrent writes are not put in one order"
            )
        if consistency is ConsistencyLevel.QUORUM:
            return majority(len(replicas))
        return len(replicas) if consistency is ConsistencyLevel.ALL else 0
    if isinstance(consistency, bool) or not isinstance(consistency, int) or not consistency >= 1:
        raise UsageError(f"consistency={consistency!r}: expected a ConsistencyLevel, or how many replicas")
    if consistency > len(replicas):
        raise UsageError(
            f"consistency={consistency}: there are {len(replicas)} replicas ({', '.join(replicas)})"
        )
    return consistency


async def catch_up(
    replication: Replication,
    held: Held,
    consistency: Consistency,
    named: Sequence[str],
    timeout: float | None,
) -> None:
    """Merge what so many of the replicas hold, those ``named`` or those that are chosen."""
    replicas, chosen = replication.replicas(held.key, named), not named
    need = needed(consistency, replicas, replication.quorums.majority)
    timeout_ns = to_ns(timeout)
    if not need:
        return
    replication.check_reach(held.key, need, replicas, chosen=chosen)
    replication.quorums.admit()
    token = asyncio.get_running_loop().create_future()
    replication.read(held, need, replicas, token, timeout_ns, chosen=chosen)
    await token


def check_disk(replication: Replication) -> None:
    """TooFewReplicas, definite, if this node has no disk that takes states."""
    if not replication.archive.on:
        raise TooFewReplicas(
            f"on_disk=True: node {replication.node_id} has no disk that takes states (see data_dir); nothing "
            "was done",
            definite=True,
        )


class State:
    """What all handles share. ``name``: of the state, on every node."""

    __slots__ = ("_held", "_node", "_state")
    kind: ClassVar[type[Crdt]]

    def __init__(self, node: Node, held: Held, state: Crdt | None = None) -> None:
        self._node, self._held = node, held
        self._state: Any = held.state if state is None else state

    @property
    def name(self) -> str:
        return self._held.key.name

    @property
    def clock(self) -> dict[str, int]:
        """What of it has been seen: by actor, a node and its incarnation, the number of its events."""
        return self._held.state.context.clock()

    @property
    def value(self) -> Any:
        """What it means now, as plain Python values; a copy."""
        return self._state.value

    async def read(
        self, *, consistency: Consistency = ConsistencyLevel.QUORUM, timeout: float | None = None
    ) -> Any:
        """`value`, after what so many of the replicas hold has been merged here; replicas that lack some of
        it get that. So a QUORUM read sees each change that a QUORUM had acknowledged before, and a removal
        after it removes that. TooFewReplicas after ``timeout`` seconds (``state_write_ms_max``)."""
        if consistency is ConsistencyLevel.CAUSAL:
            raise UsageError("read with CAUSAL: expected QUORUM, ALL or how many; only sync_state is causal")
        self._node.tell_time()
        await catch_up(self._node.replication, self._held, consistency, (), timeout)
        return self.value

    def changes(self) -> Changes:
        """Word of each change from now on, of this node's and of others', to be read by one task."""
        return self._node.hub.open(self._held.key)

    def _change(self, options: WriteOptions, mutate: Callable[..., Any], *arguments: Any) -> Awaitable[None]:
        """Make the change, and let it go; what is returned waits for those that are wanted."""
        node = self._node
        node.tell_time()
        replication = node.replication
        if options and not OPTIONS.issuperset(options):
            unknown = ", ".join(sorted({*options} - OPTIONS))
            raise UsageError(f"{unknown}: expected {', '.join(sorted(OPTIONS))}")
        consistency, on_disk = options.get("consistency", EVENTUAL), options.get("on_disk", False)
        waits = consistency is not EVENTUAL and consistency is not ConsistencyLevel.CAUSAL
        if not (waits or on_disk):
            mutate(*arguments)
            replication.changed(self._held)
            node.hub.writes += 1
            # Whoever writes on and on lets the loop turn now and then, or nothing would leave.
            return cast(Awaitable[None], SENT if node.hub.writes % WRITES_A_TURN else Pause())
        replicas = replication.replicas(self._held.key) if waits else (replication.node_id,)
        need = needed(consistency, replicas, replication.quorums.majority) if waits else 1
        timeout_ns = to_ns(options.get("timeout"))
        if not waits:
            check_disk(replication)
        replication.check_reach(self._held.key, need, replicas, chosen=waits)
        replication.quorums.admit()
        try:
            mutate(*arguments)
        except BaseException:
            replication.quorums.waiting -= 1
            raise
        replication.changed(self._held)
        token = asyncio.get_running_loop().create_future()
        replication.wait(self._held, need, replicas, token, timeout_ns, on_disk=on_disk, chosen=waits)
        return token

    def _stamp(self) -> int:
        self._node.tell_time()
        return self._node.replication.stamp()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.value!r})"


class Counter(State):
    """A number that grows and shrinks: the sum of what all nodes have added and taken."""

    __slots__ = ()
    kind = PNCounter

    def increment(self, amount: int = 1, **options: Unpack[WriteOptions]) -> Awaitable[None]:
        """Add ``amount``, at least 1."""
        return self._change(options, self._state.increment, amount)

    def decrement(self, amount: int = 1, **options: Unpack[WriteOptions]) -> Awaitable[None]:
        """Take ``amount`` away, at least 1."""
        return self._change(options, self._state.decrement, amount)

    def __int__(self) -> int:
        value: int = self.value
        return value


class SharedSet(State):
    """A set; what is added and removed at the same time is in it. Elements: str, bytes, int or tuples."""

    __slots__ = ()
    kind = ORSet

    def add(self, element: Any, **options: Unpack[WriteOptions]) -> Awaitable[None]:
        """Add ``element``; also if it is there, so that removals elsewhere do not take it away."""
        return self._change(options, self._state.add, element)

    def discard(self, element: Any, **options: Unpack[WriteOptions]) -> Awaitable[None]:
        """Remove ``element`` if it is there."""
        return self._change(options, self._state.discard, element)

    def clear(self, **options: Unpack[WriteOptions]) -> Awaitable[None]:
        """Remove all that is there."""
        return self._change(options, self._state.clear)

    def __contains__(self, element: Any) -> bool:
        return element in self._state

    def __len__(self) -> int:
        return len(self._state)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.value)


class SharedMap(State):
    """Values by key; of concurrent writes of one key the latest counts, by the hybrid clocks of the nodes."""

    __slots__ = ()
    kind = LWWMap

    def set(self, key: Any, value: Any, **options: Unpack[WriteOptions]) -> Awaitable[None]:
        """Write ``value``, any MessagePack value, under ``key``: a str, bytes, int or a tuple of these."""
        return self._change(options, self._state.set, key, value, self._stamp())

    def delete(self, key: Any, **options: Unpack[WriteOptions]) -> Awaitable[None]:
        """Remove ``key`` if it is there; a write of it that was not seen here stays."""
        return self._change(options, self._state.delete, key)

    def clear(self, **options: Unpack[WriteOptions]) -> Awaitable[None]:
        """Remove all keys that are there."""
        return self._change(options, self._state.clear)

    def get(self, key: Any, default: Any = None) -> Any:
        """The value under ``key``."""
        return self._state.get(key, default)

    def __contains__(self, key: Any) -> bool:
        return key in self._state

    def __len__(self) -> int:
        return len(self._state)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.value)


class Register(State):
    """One value; of concurrent writes the latest counts, by the hybrid clocks of the nodes. None at first."""

    __slots__ = ()
    kind = LWWRegister

    def set(self, value: Any, **options: Unpack[WriteOptions]) -> Awaitable[None]:
        """Write ``value``, any MessagePack value."""
        return self._change(options, self._state.set, value, self._stamp())

    def clear(self, **options: Unpack[WriteOptions]) -> Awaitable[None]:
        """Back to no value."""
        return self._change(options, self._state.clear)


class Siblings(State):
    """One value, or several that were written concurrently: `value` is the list; the reader decides."""

    __slots__ = ()
    kind = MVRegister

    def set(
        self,
        value: Any,
        *,
        seen: dict[str, int] | None = None,
        **options: Unpack[WriteOptions],
    ) -> Awaitable[None]:
        """Write ``value`` in the place of what was ``seen``: a `clock`; None for all that is here now."""
        return self._change(options, self._state.set, value, seen)

    def clear(self, **options: Unpack[WriteOptions]) -> Awaitable[None]:
        """Back to no value."""
        return self._change(options, self._state.clear)


class Flag(State):
    """On or off; of concurrent changes the one that turns it on counts."""

    __slots__ = ()
    kind = EWFlag

    def enable(self, **options: Unpack[WriteOptions]) -> Awaitable[None]:
        """Turn it on."""
        return self._change(options, self._state.enable)

    def disable(self, **options: Unpack[WriteOptions]) -> Awaitable[None]:
        """Turn it off, as far as is known here."""
        return self._change(options, self._state.disable)

    def __bool__(self) -> bool:
        value: bool = self.value
        return value


class SharedText(State):
    """A text that several write at the same time; what two of them write at one place stands side by side.

    Indexes count characters of the text as it is here now. What is deleted gives its bytes back, but for some
    dozen for each passage of up to 256 characters.
    """

    __slots__ = ()
    kind = Text

    def insert(self, index: int, text: str, **options: Unpack[WriteOptions]) -> Awaitable[None]:
        """Write ``text`` before the character of that index; at the end if it is the length."""
        return self._change(options, self._state.splice, index, index, text)

    def append(self, text: str, **options: Unpack[WriteOptions]) -> Awaitable[None]:
        """Write ``text`` at the end."""
        return self.insert(len(self), text, **options)

    def delete(self, first: int, end: int, **options: Unpack[WriteOptions]) -> Awaitable[None]:
        """Delete the characters from ``first`` up to, not with, ``end``."""
        return self._change(options, self._state.splice, first, end, "")

    def replace(self, first: int, end: int, text: str, **options: Unpack[WriteOptions]) -> Awaitable[None]:
        """Write ``text`` in the place of those characters."""
        return self._change(options, self._state.splice, first, end, text)

    def clear(self, **options: Unpack[WriteOptions]) -> Awaitable[None]:
        """Delete all that is there."""
        return self._change(options, self._state.clear)

    def __len__(self) -> int:
        return len(self._state)

    def __str__(self) -> str:
        text: str = self.value
        return text


class Document(State):
    """States by key, of any type, documents among them; `value` has them by (key, name of the type).

    A removal takes away what it has seen; what was changed concurrently stays: of a text the passages, of up
    to 256 characters, that were changed, as their writer left them; of a counter all that its node had added.
    """

    __slots__ = ()
    kind = ORMap

    def counter(self, key: Any) -> Counter:
        return Counter(self._node, self._held, self._state.at(key, PNCounter))

    def set(self, key: Any) -> SharedSet:
        return SharedSet(self._node, self._held, self._state.at(key, ORSet))

    def map(self, key: Any) -> SharedMap:
        return SharedMap(self._node, self._held, self._state.at(key, LWWMap))

    def register(self, key: Any) -> Register:
        return Register(self._node, self._held, self._state.at(key, LWWRegister))

    def siblings(self, key: Any) -> Siblings:
        return Siblings(self._node, self._held, self._state.at(key, MVRegister))

    def flag(self, key: Any) -> Flag:
        return Flag(self._node, self._held, self._state.at(key, EWFlag))

    def text(self, key: Any) -> SharedText:
        """Keep it: each new one puts the passages in order anew when it is used."""
        return SharedText(self._node, self._held, self._state.at(key, Text))

    def document(self, key: Any) -> Document:
        return Document(self._node, self._held, self._state.at(key, ORMap))

    def delete(self, key: Any, kind: type[State], **options: Unpack[WriteOptions]) -> Awaitable[None]:
        """Remove what is under ``key`` of that ``kind``, such as `Counter`. Of a text that is cleared instead
        nothing stays but what others newly write at the same time."""
        return self._change(options, self._state.delete, key, kind.kind)

    def clear(self, **options: Unpack[WriteOptions]) -> Awaitable[None]:
        """Remove all that is there."""
        return self._change(options, self._state.clear)


def to_ns(seconds: float | None) -> int | None:
    """A timeout as nanoseconds; UsageError if it is none."""
    if seconds is not None and not seconds > 0:
        raise UsageError(f"timeout={seconds!r}: expected seconds above 0")
    return None if seconds is None else int(seconds * 1e9)
