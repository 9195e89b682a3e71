"""Writes and reads that wait for replicas: how many have answered, until when, and who has not.

The writes of one turn that went out in one frame are one batch: one ACK from a replica counts for all of
them, and all that have enough are settled at once.  A read counts a replica that has told what it has.
The caller's own node counts, if it is one of the replicas.  Who waits for replicas that were chosen waits for
several sets of them while these move (`placement`), and has enough of each.  Some wait for the disks of the
replicas: these count once they have told that too, or never, if a replica has none.

Fails with TooFewReplicas, which names those that have it, refused it or did not answer; a write
is kept here then and goes on to the others, so that error is not definite.  At most
`state_writes_max` wait; one more raises LimitReached, and it surely did not happen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from agentnet_core.config import EngineConfig
from agentnet_core.errors import LimitReached, TooFewReplicas
from agentnet_core.states import Key

NEVER = 2**63 - 1

Parts = tuple[tuple[int, tuple[str, ...]], ...]
"""How many must answer, and of whom; of each."""
Settle = Callable[[Any, Any], None]
"""Called with a token, and what it failed with or None."""


class Wait:
    """Somebody waits for ``need`` of the ``replicas``, or for their disks. ``have``: those that have it once
    it is settled, in memory at least; ``kept``: those that do on disk. ``place``: gives those that are chosen
    now, and how many of them are wanted."""

    __slots__ = (
        "deadline_ns",
        "have",
        "kept",
        "key",
        "need",
        "on_disk",
        "parts",
        "place",
        "replicas",
        "token",
    )
    parts: Parts
    replicas: tuple[str, ...]

    def __init__(
        self,
        key: Key,
        need: int,
        replicas: tuple[str, ...],
        deadline_ns: int,
        token: Any,
        *,
        on_disk: bool = False,
        place: Callable[[], Parts] | None = None,
    ) -> None:
        self.key, self.need = key, need
        self.deadline_ns, self.token, self.on_disk = deadline_ns, token, on_disk
        self.have: tuple[str, ...] = ()
        self.kept: tuple[str, ...] = ()
        self.place = place
        self.parts, self.replicas = ((need, replicas),), replicas
        self.move()

    def move(self) -> None:
        """Those that are chosen may be others now."""
        if self.place is not None:
            self.parts = self.place()
            self.need = self.parts[0][0]
            self.replicas = tuple(dict.fromkeys(each for _, replicas in self.parts for each in replicas))


class _Batch:
    """What one frame is waited for: ``body`` is sent again where a link is new. ``refused``: by node and
    number in the list, why; ``unkept``: likewise, by their disks."""

    __slots__ = ("body", "deadline_ns", "have", "kept", "keys", "refused", "unkept", "waits")

    def __init__(self, keys: Sequence[Key], waits: list[Wait], own: str) -> None:
        self.keys, self.waits = keys, waits
        self.body = b""
        self.have: dict[str, None] = {own: None}
        self.kept: dict[str, None] = {}
        self.refused: dict[tuple[str, Key], str] = {}
        self.unkept: dict[tuple[str, Key], str] = {}
        self.deadline_ns = min(wait.deadline_ns for wait in waits)


class Quorums:
    """All writes and reads of one node that wait."""

    def __init__(self, node_id: str, config: EngineConfig, settle: Settle) -> None:
        self._node_id, self._settle = node_id, settle
        self._waits_max, self._least = config.state_writes_max, config.state_quorum_min
        self._batches: dict[int, _Batch] = {}
        self.wrap: Callable[[bytes], bytes] = lambda body: body
        """How those are asked that were chosen."""
        self.ready: Callable[[], bool] = lambda: True
        """Whether it is known of which sets they are."""
        self._serial = 0
        self.waiting = 0
        self.failed = 0

    def majority(self, count: int) -> int:
        """How many of so many replicas are a QUORUM."""
        return majority_of(count, self._least)

    def admit(self) -> None:
        """LimitReached if one more cannot wait."""
        if self.waiting >= self._waits_max:
            raise LimitReached(
                f"{self.waiting} writes and reads of states wait for replicas already: expected at most "
                f"state_writes_max={self._waits_max}; nothing was done"
            )
        self.waiting += 1

    def open(self, keys: Sequence[Key], waits: list[Wait]) -> int:
        """They went out together, and wait from now on; the serial by which replicas answer."""
        self._serial += 1
        self._batches[self._serial] = _Batch(keys, waits, self._node_id)
        return self._serial

    def sent(self, serial: int, body: bytes) -> list[str]:
        """That body is what they wait for; the replicas that are to answer it."""
        batch = self._batches[serial]
        batch.body = body
        self._review(serial, batch)
        return _others(self._node_id, batch.waits)

    def answered(self, node_id: str, serial: int, refusals: Iterable[tuple[int, int, str]] = ()) -> None:
        """A replica has all of it, but what it refused."""
        batch = self._batches.get(serial)
        if batch is not None:  # else enough had answered before
            self._note(batch.have, batch.refused, batch.keys, node_id, refusals)
            self._review(serial, batch)

    def kept(self, node_id: str, serial: int, refusals: Iterable[tuple[int, int, str]] = ()) -> None:
        """A replica has all of it on its disk, but what it refused."""
        batch = self._batches.get(serial)
        if batch is not None:
            self._note(batch.kept, batch.unkept, batch.keys, node_id, refusals)
            self._review(serial, batch)

    @staticmethod
    def _note(
        told: dict[str, None],
        refused: dict[tuple[str, Key], str],
        keys: Sequence[Key],
        node_id: str,
        refusals: Iterable[tuple[int, int, str]],
    ) -> None:
        told[node_id] = None
        for number, _, text in refusals:
            if number < len(keys):
                refused[node_id, keys[number]] = text

    def key_of(self, serial: int) -> Key | None:
        """What is read under that serial, if somebody still waits for it."""
        batch = self._batches.get(serial)
        return batch.keys[0] if batch is not None else None

    def link_up(self, node_id: str) -> list[bytes]:
        """What that replica has not answered, to be sent there."""
        found = []
        for batch in self._batches.values():
            lacks = node_id not in batch.have
            if any(
                node_id in wait.replicas and (lacks or (wait.on_disk and node_id not in batch.kept))
                for wait in batch.waits
            ):
                found.append(self._ask(batch))
        return [body for body in found if body]

    def _ask(self, batch: _Batch) -> bytes:
        chosen = any(wait.place is not None for wait in batch.waits)
        return self.wrap(batch.body) if chosen and batch.body else batch.body

    def move(self, *, forget: bool = True) -> list[tuple[str, bytes]]:
        """The chosen replicas are others: what is to be sent to whom. ``forget``: what they answered before,
        for who started again has it no more."""
        found = []
        for serial, batch in list(self._batches.items()):
            if any(wait.place is not None for wait in batch.waits):
                if forget:
                    batch.have, batch.kept = {self._node_id: None}, {}
                for wait in batch.waits:
                    wait.move()
                found += [
                    (each, self._ask(batch))
                    for each in _others(self._node_id, batch.waits)
                    if batch.body and (each not in batch.have or any(wait.on_disk for wait in batch.waits))
                ]
                self._review(serial, batch)
        return found

    def next_deadline_ns(self) -> int:
        return min((batch.deadline_ns for batch in self._batches.values()), default=NEVER)

    def tick(self, now_ns: int) -> None:
        """Fail those whose time has come."""
        for serial, batch in list(self._batches.items()):
            if batch.deadline_ns <= now_ns:
                late = [wait for wait in batch.waits if wait.deadline_ns <= now_ns]
                for wait in late:
                    self._fail(batch, wait, "not in time")
                self._keep(serial, batch, [wait for wait in batch.waits if wait.deadline_ns > now_ns])

    def end(self, reason: str) -> None:
        """Nobody will answer any more."""
        for batch in self._batches.values():
            for wait in batch.waits:
                self._fail(batch, wait, reason)
        self._batches.clear()

    def _review(self, serial: int, batch: _Batch) -> None:
        """Settle those that have enough, and those that cannot have it any more."""
        left = []
        counts: dict[tuple[Key, tuple[str, ...], bool], tuple[int, int]] = {}
        ready = self.ready()
        for wait in batch.waits:
            enough = possible = True
            for number, (need, replicas) in enumerate(wait.parts):
                # Of sets of before memory is enough: they do not promise the disk any more.
                on_disk = wait.on_disk and number == 0
                which = wait.key, replicas, on_disk
                if which not in counts:
                    counts[which] = self._count(batch, wait.key, replicas, on_disk=on_disk)
                has, may_have = counts[which]
                enough, possible = enough and has >= need, possible and may_have >= need
            if enough and wait.place is not None and not ready:
                left.append(wait)
            elif enough:
                self._tell(batch, wait)
                self.waiting -= 1
                self._settle(wait.token, None)
            elif not possible:
                self._fail(batch, wait, "refused")
            else:
                left.append(wait)
        self._keep(serial, batch, left)

    def _keep(self, serial: int, batch: _Batch, waits: list[Wait]) -> None:
        if waits:
            batch.waits = waits
            batch.deadline_ns = min(wait.deadline_ns for wait in waits)
        else:
            del self._batches[serial]

    def _count(self, batch: _Batch, key: Key, replicas: tuple[str, ...], *, on_disk: bool) -> tuple[int, int]:
        """How many of these count for it now, and how many may."""
        refused = sum(
            (each, key) in batch.refused or (on_disk and (each, key) in batch.unkept) for each in replicas
        )
        has = self._keeps if on_disk else self._has
        return sum(has(batch, each, key) for each in replicas), len(replicas) - refused

    def _has(self, batch: _Batch, node_id: str, key: Key) -> bool:
        return node_id in batch.have and (node_id, key) not in batch.refused

    def _keeps(self, batch: _Batch, node_id: str, key: Key) -> bool:
        return self._has(batch, node_id, key) and node_id in batch.kept and (node_id, key) not in batch.unkept

    def _tell(self, batch: _Batch, wait: Wait) -> None:
        """Note who has it."""
        wait.have = tuple(each for each in wait.replicas if self._has(batch, each, wait.key))
        wait.kept = tuple(each for each in wait.have if self._keeps(batch, each, wait.key))

    def _fail(self, batch: _Batch, wait: Wait, why: str) -> None:
        self._tell(batch, wait)
        there, where = (wait.kept, " on disk") if wait.on_disk else (wait.have, "")
        lacking = [each for each in wait.replicas if each not in there]
        if wait.place is not None and not self.ready():
            why += ", as not all have told who was a replica before"
        refusals = batch.refused | batch.unkept if wait.on_disk else batch.refused
        refused = [text for (_, key), text in refusals.items() if key == wait.key]
        because = f"; refused: {refused[0]}" if refused else ""
        self.waiting -= 1
        self.failed += 1
        self._settle(
            wait.token,
            TooFewReplicas(
                f"{wait.key.label}: {why}: {len(there)} of {wait.need} replicas have it{where} "
                f"({', '.join(there) or 'none'}); not {', '.join(lacking)}{because}"
            ),
        )


def check_alive(key: Key, parts: Parts, alive: Sequence[str]) -> None:
    """TooFewReplicas, definite, if those that live are too few of any of them."""
    for number, (need, replicas) in enumerate(parts):
        there = [each for each in replicas if each in alive]
        if len(there) < need:
            lost = [each for each in replicas if each not in there]
            raise TooFewReplicas(
                f"{key.label}: {need} replicas {'of before ' * bool(number)}are wanted, and "
                f"{len(there)} of {len(replicas)} live ({', '.join(there) or 'none'}); not "
                f"{', '.join(lost)}; nothing was done",
                definite=True,
            )


def majority_of(count: int, least: int) -> int:
    """More than half of so many, and no fewer than ``least``, or all of them."""
    return min(max(count // 2 + 1, least), count)


def _others(own: str, waits: Iterable[Wait]) -> list[str]:
    """The replicas of all of them, but for the own node."""
    found = dict.fromkeys(each for replicas in dict.fromkeys(w.replicas for w in waits) for each in replicas)
    return [each for each in found if each != own]
