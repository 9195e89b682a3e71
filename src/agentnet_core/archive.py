"""What of the states is on the disk: each state is an owner in the node's log, and STATES is what they share.

A change that was made here, or taken from others, is an entry: a form to be merged, so that any of them may
be there twice.  What begins a state is its name.  When the changes in the log outgrow the state it is
written again, whole, as an entry or, if it is large, as a snapshot, and what was before goes.

Nothing waits for the disk.  So a crash may lose what others have seen; who went on in the same name then
would give one event two contents, and count on from a total that is too low.  The name in which a node
changes states is therefore leased: the lease is over at the next start, unless the log says that the name
was given back, with all that was done in it on the disk.  That word is void as soon as the log is opened
again; and where the disk may be a copy that was put back: if it is old (`state_name_ms_max`), or others
know more of the name than this node does.  Likewise the clock: its cell is a second ahead of it, and no
stamp of the next life is below that.

Held here: `state_writes_max` promises to tell of the disk, and `log_waiting_bytes_max` / 2 bytes that wait
for it; a state that changes beyond that, and all that the disk has refused, is written whole later.  Of more
states than the log may have owners, the others are in memory alone (`log_owners_max`), and who waits for the
disk is told.  StorageDamaged: the log has what nobody wrote.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from agentnet_core.body import expect_int, pack, unpack
from agentnet_core.config import STATE_NAME_BYTES_MAX, VERSION_MAX, EngineConfig
from agentnet_core.crdt.base import BY_CODE
from agentnet_core.crdt.renaming import actors_of, prune, renamed
from agentnet_core.entries import FLEETING
from agentnet_core.errors import NetworkError, ProtocolError, StorageBusy, StorageDamaged, StorageFull
from agentnet_core.parts import Refusals, refusals_of
from agentnet_core.rounds import Chain
from agentnet_core.states import Held, Key, States

if TYPE_CHECKING:
    from agentnet_core.engine import Engine

MS = 1_000_000
NEVER = 2**63 - 1
STATES = 1 << 32
"""Owner of what all states share; the states themselves come behind it."""
NAME, CHANGE = 16, 17
CLOCK_CELL, CHAIN_CELL, RETURNED_CELL = 1, 2, FLEETING + 1
CLOCK_AHEAD = 1000 << 16
"""How far the clock on the disk is ahead: a second, as a stamp of `HybridClock`."""
OTHER_OWNERS = 16
"""Of the owners that a log may have, those that are no states."""
RECORD_BYTES = 32
CHUNK_BYTES = 1024 * 1024
WHOLE_PARTS = 4
"""How many times its size a state's changes may take in the log."""
AGAIN_NS = 1_000 * MS
DEFECTS = {"name kept": 101, "snapshot forgotten": 102, "told before the write": 103, "tail dropped": 104}
"""Bugs, planted by tests that must find them, as those of `durable`."""

Snapshot = tuple[int, int, list[bytes]]
"""Owner, index, chunks."""


class Shelf:
    """One state in the log. ``index``: its last; ``logged``: bytes of changes since it was whole; ``torn``:
    the log lacks some of it; ``saving``: a snapshot is on its way, ``alone`` with what no entry has."""

    __slots__ = ("alone", "index", "key", "logged", "owner", "saving", "torn", "whole")

    def __init__(self, owner: int, key: Key) -> None:
        self.owner, self.key = owner, key
        self.index = self.logged = self.whole = 0
        self.torn, self.saving, self.alone = True, False, False


class _Flight:
    """What goes with one batch."""

    __slots__ = ("batch", "shelves", "size")

    def __init__(self, batch: int) -> None:
        self.batch, self.size = batch, 0
        self.shelves: dict[int, Shelf] = {}


class _Promise(NamedTuple):
    """Who is told when a batch is on the disk: of so many changes, all but those that were refused."""

    batch: int
    node_id: str
    serial: int
    changes: int
    refusals: Refusals


class Archive:
    """The states of one engine in its log. ``life``: in whose name it changes them, an incarnation.
    ``persisted_batch``: all up to that one is on the disk. ``observe``: called with the last stamp of the
    life before. ``say``: with a node, a serial and refusals, when a promise is kept or cannot be."""

    def __init__(
        self,
        engine: Engine,
        states: States,
        config: EngineConfig,
        observe: Callable[[int], None],
        say: Callable[[str, int, Refusals], None],
    ) -> None:
        self._engine, self._states, self._observe, self._say = engine, states, observe, say
        self._durable = engine.durable
        self._waiting_max = config.log_waiting_bytes_max // 2
        self._whole_bytes = min(config.state_snapshot_bytes, self._waiting_max // 2)
        self._shelves: dict[Key, Shelf] = {}
        self._by_owner: dict[int, Shelf] = {}
        self._name_ns_max = config.state_name_ms_max * MS
        self._owner = STATES
        self._owners_max = config.log_owners_max - OTHER_OWNERS
        self._torn: dict[int, Shelf] = {}
        self._left_out: dict[Key, None] = {}
        """States for which the log has no room."""
        self._flying: deque[_Flight] = deque()
        self._waiting = 0
        self._snapshots: list[Snapshot] = []
        self._clock = 0
        self._again_ns = NEVER
        self.life = engine.incarnation
        self.chain = Chain(config)
        self._held_back = False
        """What is held is not what is to be kept: see `absence`."""
        self.on_open: Callable[[], None] = lambda: None
        self.persisted_batch = 0
        self._promises: deque[_Promise] = deque()
        self._promises_max = config.state_writes_max
        engine.durable.tenants.append(self)

    @property
    def on(self) -> bool:
        """Whether there is a log, and a disk under it."""
        return self._durable.on and self._durable.failure is None

    @property
    def batch(self) -> int:
        """The batch with which all that was noted is on the disk."""
        return self._durable.batch - (not self._durable.entries.count)

    @property
    def unsaved(self) -> int:
        """States of which the log lacks something now, or all."""
        alone = [shelf for shelf in self._by_owner.values() if shelf.saving and shelf.alone]
        return (
            len(self._left_out) + self._held_back + len(self._torn) + sum(not shelf.torn for shelf in alone)
        )

    def lacks(self, key: Key) -> NetworkError | None:
        """Why the disk will not have all of a state with `batch`, if it will not."""
        shelf = self._shelves.get(key)
        if self._held_back:
            return StorageBusy(f"{key.label}: node {self._engine.node_id} was away, and is not whole yet")
        if key in self._left_out:
            return StorageFull(
                f"{key.label}: {len(self._shelves)} states are in the log already (log_owners_max)"
            )
        if shelf is None or not (shelf.torn or (shelf.saving and shelf.alone)):
            return None
        return StorageBusy(f"{key.label}: node {self._engine.node_id} is to write it whole: try again")

    # -- what changes

    def note(self, held: Held, data: bytes, stamp: int = 0) -> None:
        """A change was made or taken: the form of it. ``stamp``: the node's last."""
        if not self.on or self._held_back:
            return
        shelf = self._shelves.get(held.key)
        if shelf is None and len(self._shelves) >= self._owners_max:
            self._left_out[held.key] = None  # see `lacks`
            return
        if shelf is None:
            shelf = self._add(self._owner + 1, held.key)
        if stamp > self._clock:
            self._put_clock(stamp)
        if shelf.torn or len(data) > self._waiting_max:
            self._tear(shelf)
            self._mend(shelf)
        elif not self._has_room(len(data)):
            self._tear(shelf)
        else:
            self._put(shelf, CHANGE, data)
            shelf.logged += len(data) + RECORD_BYTES
            if shelf.logged > self._whole_bytes + WHOLE_PARTS * shelf.whole and not shelf.saving:
                self._write_whole(shelf, held)

    def put_chain(self) -> None:
        """The rounds that were applied go to the disk, before the states in which they were."""
        if self.on and not self._held_back:
            self._durable.entries.cell(STATES, CHAIN_CELL, self.chain.encode())
            self._engine.write_log()

    def rewrite(self, held: Held) -> None:
        """The state is another under its name: it goes to the disk whole."""
        if self.on and not self._held_back and held.key in self._shelves:
            shelf = self._shelves[held.key]
            self._tear(shelf)
            self._mend(shelf)

    def hold(self) -> None:
        """Let the log as it is, until `release`."""
        self._held_back = True

    def release(self) -> None:
        """Write all that is held."""
        self._held_back = False
        self.put_chain()
        for key in self._states.names():
            held = self._states.get(key)
            if held is not None and held.state.context:
                self.rewrite(held) if key in self._shelves else self.note(held, b"", 0)

    def give_back(self) -> None:
        """Nothing will be changed in this name any more: whoever starts next may have it, if all that was is
        on the disk."""
        if self.on and not self.unsaved:
            body = self.life.to_bytes(8, "big") + max(self._wall_ns, 0).to_bytes(8, "big")
            self._durable.entries.cell(STATES, RETURNED_CELL, body)

    def drain(self) -> list[Snapshot]:
        """Snapshots to be saved now; of each `saved` tells. A batch always goes with them."""
        snapshots, self._snapshots = self._snapshots, []
        return snapshots

    def saved(self, owner: int, error: Exception | None) -> None:
        """What became of a snapshot."""
        shelf = self._by_owner[owner]
        shelf.saving = False
        if error is not None:
            self._tear(shelf)
        elif shelf.torn:
            self._mend(shelf)

    def promise(self, node_id: str, serial: int, keys: list[Key]) -> None:
        """Tell when what has been noted of these is on the disk, or that it will not be."""
        refusals: Refusals = []
        if not self.on:
            error = StorageFull(f"node {self._engine.node_id} has no disk that takes it (see data_dir)")
            self._say(node_id, serial, refusals_of(range(len(keys)), error))
            return
        for number, key in enumerate(keys):
            lacking = self.lacks(key)
            if len(self._promises) >= self._promises_max:
                lacking = StorageBusy(
                    f"node {self._engine.node_id}: {len(self._promises)} writes wait for its disk "
                    f"(state_writes_max)"
                )
            refusals += refusals_of((number,), lacking) if lacking is not None else []
        if len(refusals) == len(keys):
            self._say(node_id, serial, refusals)
            return
        self._promises.append(_Promise(self.batch, node_id, serial, len(keys), refusals))
        self._keep_promises()

    def _keep_promises(self) -> None:
        early = self._durable.defect == DEFECTS["told before the write"]
        while self._promises and (early or self._promises[0].batch <= self.persisted_batch):
            promise = self._promises.popleft()
            self._say(promise.node_id, promise.serial, promise.refusals)

    def tick(self, now_ns: int) -> int:
        """Try again what was refused; the time of the next thing."""
        if now_ns >= self._again_ns:
            self._again_ns = NEVER
            self._mend_all()
        return self._again_ns

    # -- as the log tells; see `Durable.tenants`

    def persisted(self, batch: int) -> None:
        self.persisted_batch = batch
        while self._flying and self._flying[0].batch <= batch:
            self._waiting -= self._flying.popleft().size
        if self._torn and not self._flying:
            self._mend_all()
        self._keep_promises()

    def refused(self, error: NetworkError) -> None:
        for flight in self._flying:
            for shelf in flight.shelves.values():
                self._tear(shelf)
        self._flying.clear()
        self._waiting = self._clock = 0
        while self._promises:
            promise = self._promises.popleft()
            self._say(promise.node_id, promise.serial, refusals_of(range(promise.changes), error))

    def relieve(self, owner: int, index: int) -> None:
        shelf = self._by_owner.get(owner)
        held = self._states.get(shelf.key) if shelf is not None else None
        if shelf is not None and held is not None and not (shelf.saving or shelf.torn or self._held_back):
            self._write_whole(shelf, held)

    def open(self, found: dict[int, Any]) -> None:
        shared = found.get(STATES)
        if shared is not None:
            life = self._returned(shared.cells.get(RETURNED_CELL, b""))
            if self._durable.defect == DEFECTS["name kept"]:
                life = life or self._engine.incarnation - 1
            self.life = life or self.life
            self._clock = int.from_bytes(shared.cells.get(CLOCK_CELL, b""), "big")
            self._observe(self._clock)
            if CHAIN_CELL in shared.cells:
                self.chain.decode(shared.cells[CHAIN_CELL])
        self._behind = False
        for owner in sorted(found):
            if STATES < owner < 2 * STATES:
                self._open_shelf(owner, found[owner])
        for key in self.chain.renamed():
            held = self._states.get(key)
            if held is not None:
                prune(held.state, self._states.site, self.chain.names(key))
                self._states.renamed(held)
        if self._behind:
            self.chain.begin(0, 0)  # see `absence`
        self.on_open()

    @property
    def _wall_ns(self) -> int:
        return self._engine.now_ns + self._engine.wall_offset_ns

    def _returned(self, body: bytes) -> int:
        """The life whose name was given back not long ago, or 0."""
        ago_ns = self._wall_ns - int.from_bytes(body[8:], "big")
        return int.from_bytes(body[:8], "big") if 0 <= ago_ns <= self._name_ns_max else 0

    def _open_shelf(self, owner: int, found: Any) -> None:
        key: Key | None = None
        number = 0
        datas: list[bytes] = []
        if self._durable.defect != DEFECTS["snapshot forgotten"]:
            chunks = list(found.chunks())
            if chunks:
                (key, number), datas = _read_name(chunks[0]), [b"".join(chunks[1:])]
        whole = sum(map(len, datas))
        for _, kind, body in found.entries:
            if kind == NAME:
                key, number = _read_name(body)
            else:
                datas.append(body)
        if self._durable.defect == DEFECTS["tail dropped"]:
            datas = datas[:-1]
        if key is None:
            self._owner = max(self._owner, owner)
            return
        # It was written when rounds were known that are not kept any more.
        self._behind = self._behind or number < self.chain.oldest - 1
        names = self.chain.names(key)
        for data in datas:
            try:
                if names and any(each.actor in actors_of(data) for each in names):
                    data = renamed(BY_CODE[key.code], self._states.site.unbound(), data, names)  # noqa: PLW2901
                self._states.restore(key, data)
            except ProtocolError as error:
                raise StorageDamaged(f"owner {owner} of the log, {key.label}: {error}") from None
        shelf = self._add(owner, key)
        shelf.index, shelf.whole, shelf.torn = found.last, whole, False
        shelf.logged = sum(map(len, datas)) - whole

    # -- own

    def _add(self, owner: int, key: Key) -> Shelf:
        self._owner = max(self._owner, owner)
        shelf = self._shelves[key] = self._by_owner[owner] = Shelf(owner, key)
        return shelf

    def _put(self, shelf: Shelf, kind: int, body: bytes) -> None:
        shelf.index += 1
        self._durable.entries.put(shelf.owner, kind, shelf.index, body)
        self._fly(shelf, len(body) + RECORD_BYTES)

    def _fly(self, shelf: Shelf, size: int) -> None:
        if not self._flying or self._flying[-1].batch != self._durable.batch:
            self._flying.append(_Flight(self._durable.batch))
        flight = self._flying[-1]
        flight.size += size
        flight.shelves[shelf.owner] = shelf
        self._engine.write_log()
        self._waiting += size

    def _put_clock(self, stamp: int) -> None:
        self._clock = stamp + CLOCK_AHEAD
        self._durable.entries.cell(STATES, CLOCK_CELL, self._clock.to_bytes(8, "big"))

    def _tear(self, shelf: Shelf) -> None:
        shelf.torn = True
        self._torn[shelf.owner] = shelf
        if self._again_ns == NEVER:
            self._again_ns = self._engine.now_ns + AGAIN_NS
            self._engine.wake_by(self._again_ns)

    def _mend_all(self) -> None:
        if self.on:
            for shelf in list(self._torn.values()):
                self._mend(shelf)
        if self._torn and self.on:
            self._again_ns = self._engine.now_ns + AGAIN_NS
            self._engine.wake_by(self._again_ns)

    def _mend(self, shelf: Shelf) -> None:
        """Write it whole, if there is room, and it is not being written."""
        held = self._states.get(shelf.key)
        if held is not None and not shelf.saving and self._has_room(min(held.size, self._whole_bytes)):
            self._write_whole(shelf, held)
            shelf.torn = False
            self._torn.pop(shelf.owner, None)

    def _has_room(self, size: int) -> bool:
        return not self._waiting or self._waiting + size <= self._waiting_max

    def _write_whole(self, shelf: Shelf, held: Held) -> None:
        """Put all of it behind what is in the log, in the place of that."""
        data, name = held.state.encode(), _write_name(shelf.key, self.chain.number)
        self._put(shelf, NAME, name)
        shelf.whole, shelf.logged = len(data), 0
        if len(data) <= self._whole_bytes:
            self._put(shelf, CHANGE, data)
            self._durable.entries.release(shelf.owner, shelf.index - 1)
            return
        shelf.index += 1
        shelf.saving, shelf.alone = True, shelf.torn
        chunks = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
        self._snapshots.append((shelf.owner, shelf.index, [name, *chunks]))


def _write_name(key: Key, number: int) -> bytes:
    """``number``: of the last round that is applied in it."""
    return pack([key.code, key.name, number] if number else [key.code, key.name])


def _read_name(data: bytes) -> tuple[Key, int]:
    with suppress(ProtocolError):
        match unpack("a state in the log", data):
            case [int() as code, str() as name, *rest] if (
                code in BY_CODE and 0 < len(name) <= STATE_NAME_BYTES_MAX and len(rest) <= 1
            ):
                return Key(code, name), expect_int("a state's round", rest[0] if rest else 0, 0, VERSION_MAX)
    raise StorageDamaged(f"the log names a state that this version does not know: {data[:64]!r}")
