"""`sync_state`, `get_state`, `watch_state`, and the handles of shared states: what a node does with states.

The opaque ``data`` of a DistributedState is one version, told apart by dots: a write replaces what its
writer had seen, and of concurrent writes all are kept, as siblings.  What a reader gets of siblings is the
state's policy, which each process sets for itself: the last writer by hybrid clock (the default), all
of them, the merge of a type of mergeable state, or a function of two.  A policy that fails is told as an
event, and the siblings are kept.

CAUSAL is kept by readers: a version carries the clocks of what its writer had read and written before, and
is given to a CAUSAL reader only when that is here, too; in vain after a while it is CausalGap.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from agentnet.state import (
    EVENTUAL,
    Consistency,
    ConsistencyLevel,
    Counter,
    Document,
    Flag,
    Hub,
    Register,
    SharedMap,
    SharedSet,
    SharedText,
    Siblings,
    State,
    catch_up,
    check_disk,
    needed,
    to_ns,
)
from agentnet_core.body import U64_MAX
from agentnet_core.config import VERSION_MAX
from agentnet_core.crdt import Crdt, MVRegister, Site
from agentnet_core.errors import CausalGap, StateConflict, UsageError
from agentnet_core.records import Event
from agentnet_core.states import Held

if TYPE_CHECKING:
    from agentnet_core.engine import Engine
    from agentnet_core.replication import Replication

H = TypeVar("H", bound=State)

Merge = Callable[[bytes, bytes], bytes]
"""Of two siblings; commutative, and deterministic on every node."""
Policy = str | type[Crdt] | Merge
LAST_WRITER, SIBLINGS = "last_writer", "siblings"

PREFIX = "sync/"
DEPENDENCIES_MAX = 64
"""States that one version depends on; of more, those read longest ago are not told."""
HASH_KEY = bytes(16)
"""Of states that live for one merge of values that this process holds anyway."""


@dataclass(frozen=True, kw_only=True)
class DistributedState:
    """One state, as it is written and read.

    ``vector_clock``: what the writer had seen, as it was read; None for all that this node holds. A write
    with an old one becomes a sibling. ``replicas``: the nodes whose answers count; none for
    ``state_replicas`` nodes that are chosen by the state's name and move with the network; every node holds
    it in any case. ``consistency_level``: a level, or how many replicas. Of a state that was
    read: ``version`` counts its events, ``siblings`` are all versions that no other has replaced, more than
    one if they are concurrent, and ``data`` is what the policy makes of them.
    """

    state_id: str
    data: bytes
    agent_id: int = 0
    version: int = 0
    vector_clock: Mapping[str, int] | None = None
    replicas: Sequence[str] = ()
    consistency_level: Consistency = EVENTUAL
    siblings: Sequence[bytes] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class SyncReceipt:
    """What became of a write. ``in_memory``: nodes that surely have it, this one among them; ``on_disk``:
    those that have told that they have it on disk, too, which only a write that waits for that learns."""

    state_id: str
    version: int
    vector_clock: dict[str, int]
    in_memory: tuple[str, ...]
    on_disk: tuple[str, ...] = ()


class _Version(NamedTuple):
    """One sibling. ``needs``: by name of state, the clock that its writer had seen."""

    data: bytes
    agent_id: int
    stamp: int
    needs: Mapping[str, Mapping[str, int]]


class StateSharing(ABC):
    """The part of a manager that has states."""

    node_id: str

    def __init__(self) -> None:
        self.hub = Hub()
        self.state_conflicts = 0
        self._policies: dict[str, Policy] = {}
        self._seen: dict[str, dict[str, int]] = {}
        """What CAUSAL writes of this node depend on: by name, the clocks of what was read or written."""

    # -- what the manager has

    @property
    @abstractmethod
    def engine(self) -> Engine:
        """Of the node that runs; else NotRunning."""

    @property
    @abstractmethod
    def replication(self) -> Replication:
        """The engine's."""

    @abstractmethod
    def tell_time(self) -> None:
        """Let the engine know what time it is."""

    # -- handles

    def _handle(self, kind: type[H], name: str) -> H:
        return kind(self, self.replication.hold(kind.kind, name))

    def counter(self, name: str) -> Counter:
        """The counter of that name, on every node the same; LimitReached beyond ``states_max``."""
        return self._handle(Counter, name)

    def set(self, name: str) -> SharedSet:
        """The set of that name; see `counter`."""
        return self._handle(SharedSet, name)

    def map(self, name: str) -> SharedMap:
        """The map of that name, of values by key; see `counter`."""
        return self._handle(SharedMap, name)

    def register(self, name: str) -> Register:
        """The register of that name, whose last writer counts; see `counter`."""
        return self._handle(Register, name)

    def siblings(self, name: str) -> Siblings:
        """The register of that name that keeps concurrent values; see `counter`."""
        return self._handle(Siblings, name)

    def flag(self, name: str) -> Flag:
        """The flag of that name; see `counter`."""
        return self._handle(Flag, name)

    def text(self, name: str) -> SharedText:
        """The text of that name; see `counter`."""
        return self._handle(SharedText, name)

    def document(self, name: str) -> Document:
        """The document of that name, a map of states; see `counter`."""
        return self._handle(Document, name)

    # -- opaque states

    def set_state_policy(self, state_id: str, policy: Policy) -> None:
        """What readers in this process get of siblings: LAST_WRITER ("last_writer"), SIBLINGS ("siblings"),
        a type of `agentnet_core.crdt` of which ``data`` is an encoded state, or a function of two siblings
        that must be commutative. StateConflict if it has another one already."""
        if isinstance(policy, str) and policy not in (LAST_WRITER, SIBLINGS):
            raise UsageError(f"policy {policy!r}: expected 'last_writer', 'siblings', a type or a function")
        if self._policies.setdefault(state_id, policy) is not policy and self._policies[state_id] != policy:
            raise StateConflict(f"state {state_id!r} has policy {self._policies[state_id]!r} in this process")

    async def sync_state(
        self, state: DistributedState, *, on_disk: bool = False, timeout: float | None = None
    ) -> SyncReceipt:
        """Write ``state`` and return when as many replicas have it as its consistency level says.

        ``on_disk``: have it on disk, which takes a ``data_dir``; for EVENTUAL and CAUSAL, this node has.
        The receipt says which. TooFewReplicas names those that did not answer in ``timeout`` seconds
        (``state_write_ms_max``); it is definite if too few live, and nothing was written. LimitReached
        for data over ``state_value_bytes_max``.
        """
        _check_state(state)
        self.tell_time()
        replication, timeout_ns = self.replication, to_ns(timeout)
        held = self._hold(state.state_id)
        try:
            need, replicas, chosen = self._admit(held, state, on_disk=on_disk)
            clock = self._write(held, state, need)
        except BaseException:
            replication.states.forget(held.key)
            raise
        replication.changed(held)
        have: tuple[str, ...] = (self.node_id,)
        kept: tuple[str, ...] = ()
        if need:
            token = asyncio.get_running_loop().create_future()
            wait = replication.wait(held, need, replicas, token, timeout_ns, on_disk=on_disk, chosen=chosen)
            await token
            have, kept = tuple(dict.fromkeys((*have, *wait.have))), wait.kept
        return SyncReceipt(state.state_id, sum(clock.values()), clock, have, kept)

    async def get_state(
        self,
        state_id: str,
        *,
        consistency: Consistency = EVENTUAL,
        replicas: Sequence[str] = (),
        timeout: float | None = None,
    ) -> DistributedState | None:
        """What this node holds of the state, None if nobody has written it as far as is known.

        CAUSAL: once all that it depends on is here; CausalGap, which names what is missing, if that takes
        longer than ``timeout`` seconds. QUORUM, ALL or a number: what so many of the replicas hold has been
        merged before, and replicas that lacked it get it; TooFewReplicas. So a QUORUM read sees every write
        that a QUORUM had acknowledged before.
        """
        self.tell_time()
        replication = self.replication
        held = replication.get(MVRegister, PREFIX + state_id)
        if held is None:
            is_level = isinstance(consistency, ConsistencyLevel)
            if is_level and not needed(consistency, (self.node_id,), replication.quorums.majority):
                return None
            held = self._hold(state_id)
        try:
            _check_names(replicas)
            await catch_up(replication, held, consistency, replicas, timeout)
            if consistency is ConsistencyLevel.CAUSAL:
                await self._wait_causal(held, timeout)
                self._note_seen(held)
        finally:
            replication.states.forget(held.key)
        # Another reader may have forgotten it meanwhile.
        found = replication.get(MVRegister, held.key.name)
        return None if found is None else self._read(state_id, found)

    async def watch_state(
        self, state_id: str, *, consistency: ConsistencyLevel = EVENTUAL
    ) -> AsyncIterator[DistributedState]:
        """The state now, if it has been written, and after each change from now on; of fast changes the last.

        ``consistency``: EVENTUAL or CAUSAL, as of `get_state`.
        """
        if needed(consistency, (self.node_id,), self.replication.quorums.majority):
            raise UsageError(f"watch_state with {consistency}: expected EVENTUAL or CAUSAL")
        held = self._hold(state_id)
        changes = self.hub.open(held.key)
        try:
            while True:
                state = await self.get_state(state_id, consistency=consistency)
                if state is not None:
                    yield state
                await anext(changes)
        except StopAsyncIteration:
            return
        finally:
            await changes.aclose()

    # -- own

    def _admit(
        self, held: Held, state: DistributedState, *, on_disk: bool
    ) -> tuple[int, tuple[str, ...], bool]:
        """How many are waited for, of whom, and whether those are chosen; it counts that somebody waits."""
        replication = self.replication
        replicas = replication.replicas(held.key, state.replicas)
        need = needed(state.consistency_level, replicas, replication.quorums.majority)
        chosen = need > 0 and not state.replicas
        if on_disk and not need:
            check_disk(replication)
            need, replicas = 1, (self.node_id,)
        if need:
            replication.check_reach(held.key, need, replicas, chosen=chosen)
            replication.quorums.admit()
        return need, replicas, chosen

    def _write(self, held: Held, state: DistributedState, need: int) -> dict[str, int]:
        """Make it a version here; the clock that it has then."""
        is_causal = state.consistency_level is ConsistencyLevel.CAUSAL
        needs = dict(list(self._seen.items())[-DEPENDENCIES_MAX:]) if is_causal else {}
        value = [state.data, state.agent_id, self.replication.stamp(), needs]
        try:
            seen = self.replication.pruning.clock(held.key, state.vector_clock)
            held.state.set(value, seen)  # type: ignore[attr-defined]
        except BaseException:
            self.replication.quorums.waiting -= bool(need)
            raise
        clock = held.state.context.clock()
        if is_causal:
            # What it depends on comes with it.
            self._seen = {held.key.name: clock}
        return clock

    def _hold(self, state_id: str) -> Held:
        if not isinstance(state_id, str) or not state_id:
            raise UsageError(f"state_id {state_id!r}: expected a name")
        return self.replication.hold(MVRegister, PREFIX + state_id)

    def _read(self, state_id: str, held: Held) -> DistributedState | None:
        versions = [version for version in map(_version, held.state.value) if version is not None]
        if not versions:
            return None
        for version in versions:
            self.replication.observe(version.stamp)
        clock = held.state.context.clock()
        latest = self.replication.latest_stamp()
        if len(versions) > 1 and any(version.stamp > latest for version in versions):
            self._tell_conflict(state_id, "a version from the future; it counts as the oldest")
        # One whose writer's clock is wrong is not the last until that time has come.
        last = max(versions, key=lambda each: (each.stamp <= latest, each.stamp, each.agent_id, each.data))
        siblings = tuple(sorted(dict.fromkeys(version.data for version in versions)))
        return DistributedState(
            state_id=state_id,
            agent_id=last.agent_id,
            version=sum(clock.values()),
            vector_clock=clock,
            data=self._resolve(state_id, last.data, siblings),
            siblings=siblings,
        )

    def _resolve(self, state_id: str, last: bytes, siblings: tuple[bytes, ...]) -> bytes:
        """What the policy makes of the siblings; if it fails, the last writer's."""
        policy = self._policies.get(state_id, LAST_WRITER)
        if isinstance(policy, str) or len(siblings) == 1:
            return last
        try:
            if isinstance(policy, type):
                merged = policy(Site(None, HASH_KEY, self.engine.config))
                for sibling in siblings:
                    merged.merge(sibling)
                whole: bytes = merged.encode()
                return whole
            return _fold(policy, siblings)
        except Exception as error:  # noqa: BLE001 - whatever a user's function raises
            detail = f"{len(siblings)} siblings are kept: {type(error).__name__}: {error}"
            self._tell_conflict(state_id, detail, error)
            return last

    def _tell_conflict(self, state_id: str, detail: str, error: Exception | None = None) -> None:
        self.state_conflicts += 1
        self.engine.event(
            Event(Event.STATE_CONFLICT, self.node_id, name=state_id, detail=detail, error=error)
        )

    # -- causality

    def _note_seen(self, held: Held) -> None:
        self._seen.pop(held.key.name, None)
        self._seen[held.key.name] = held.state.context.clock()
        while len(self._seen) > DEPENDENCIES_MAX:
            del self._seen[next(iter(self._seen))]

    def _missing(self, held: Held) -> str:
        """The first thing that the state depends on and that is not here; empty if all is."""
        looked: dict[str, None] = {}
        left = [held]
        while left:
            for version in map(_version, left.pop().state.value):
                for name, clock in version.needs.items() if version is not None else ():
                    needed_state, has = self._held_of(name), self.replication.pruning.has
                    for actor, number in clock.items():
                        if needed_state is None or not has(needed_state, actor, number):
                            return f"event {number} of {actor} in state {name.removeprefix(PREFIX)!r}"
                    if name not in looked and needed_state is not None:
                        looked[name] = None
                        left.append(needed_state)
        return ""

    def _held_of(self, name: str) -> Held | None:
        return self.replication.get(MVRegister, name)

    async def _wait_causal(self, held: Held, timeout: float | None) -> None:
        missing = self._missing(held)
        if not missing:
            return
        seconds = self.engine.config.state_write_ms_max / 1000 if timeout is None else timeout
        self.replication.compare_all()
        try:
            async with asyncio.timeout(seconds):
                while missing := self._missing(held):
                    await self.hub.wait_any()
        except TimeoutError:
            raise CausalGap(
                f"state {held.key.name.removeprefix(PREFIX)!r} depends on {missing}, which has not come in "
                f"{seconds:g} s"
            ) from None


def _check_state(state: DistributedState) -> None:
    if not isinstance(state.data, bytes):
        raise UsageError(f"state {state.state_id!r}: data of {type(state.data).__name__}: expected bytes")
    if type(state.agent_id) is not int or not 0 <= state.agent_id <= U64_MAX:
        raise UsageError(f"state {state.state_id!r}: agent_id {state.agent_id!r}: expected 0 to 2^64 - 1")
    _check_names(state.replicas)


def _check_names(replicas: Sequence[str]) -> None:
    if isinstance(replicas, str):
        raise UsageError(f"replicas={replicas!r}: expected several node ids, such as [{replicas!r}]")


def _version(value: Any) -> _Version | None:
    """What `sync_state` wrote; None for anything else that somebody may have written there."""
    match value:
        case [bytes() as data, int() as agent_id, int() as stamp, dict() as needs] if all(
            isinstance(name, str) and _is_clock(clock) for name, clock in needs.items()
        ):
            return _Version(data, agent_id, stamp, needs)
    return None


def _is_clock(clock: Any) -> bool:
    return isinstance(clock, dict) and all(
        isinstance(actor, str) and type(number) is int and 0 < number <= VERSION_MAX
        for actor, number in clock.items()
    )


def _fold(merge: Merge, siblings: tuple[bytes, ...]) -> bytes:
    """All merged into one, each step both ways round."""
    merged = siblings[0]
    for sibling in siblings[1:]:
        one, other = merge(merged, sibling), merge(sibling, merged)
        if one != other:
            raise StateConflict("the merge function is not commutative")
        if not isinstance(one, bytes):
            raise StateConflict(f"the merge function gave {type(one).__name__}, expected bytes")
        merged = one
    return merged
