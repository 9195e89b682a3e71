"""Writes and reads that wait for replicas: how many have answered, until when, and who has not.

The writes of one turn that went out in one frame are one batch: one ACK from a replica counts for all of
them, and all that have enough are settled at once.  A read counts a replica that has told what it has.
The caller's own node counts, if it is one of the replicas.

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

Settle = Callable[[Any, Any], None]
"""Called with a token, and what it failed with or None."""


class Wait:
    """Somebody waits for ``need`` of the ``replicas``. ``have``: those that count, once it is settled."""

    __slots__ = ("deadline_ns", "have", "key", "need", "replicas", "token")

    def __init__(self, key: Key, need: int, replicas: tuple[str, ...], deadline_ns: int, token: Any) -> None:
        self.key, self.need, self.replicas = key, need, replicas
        self.deadline_ns, self.token = deadline_ns, token
        self.have: tuple[str, ...] = ()


class _Batch:
    """What one frame is waited for: ``body`` is sent again where a link is new. ``refused``: by node and
    number in the list, why."""

    __slots__ = ("body", "deadline_ns", "have", "keys", "refused", "waits")

    def __init__(self, keys: Sequence[Key], waits: list[Wait], own: str) -> None:
        self.keys, self.waits = keys, waits
        self.body = b""
        self.have: dict[str, None] = {own: None}
        self.refused: dict[tuple[str, Key], str] = {}
        self.deadline_ns = min(wait.deadline_ns for wait in waits)


class Quorums:
    """All writes and reads of one node that wait."""

    def __init__(self, node_id: str, config: EngineConfig, settle: Settle) -> None:
        self._node_id, self._settle = node_id, settle
        self._waits_max = config.state_writes_max
        self._batches: dict[int, _Batch] = {}
        self._serial = 0
        self.waiting = 0
        self.failed = 0

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
        if batch is None:
            return  # enough had answered before
        batch.have[node_id] = None
        for number, _, text in refusals:
            if number < len(batch.keys):
                batch.refused[node_id, batch.keys[number]] = text
        self._review(serial, batch)

    def key_of(self, serial: int) -> Key | None:
        """What is read under that serial, if somebody still waits for it."""
        batch = self._batches.get(serial)
        return batch.keys[0] if batch is not None else None

    def link_up(self, node_id: str) -> list[bytes]:
        """What that replica has not answered, to be sent there."""
        found = []
        for batch in self._batches.values():
            if node_id not in batch.have and any(node_id in wait.replicas for wait in batch.waits):
                found.append(batch.body)
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
        counts: dict[tuple[Key, tuple[str, ...]], tuple[tuple[str, ...], int]] = {}
        for wait in batch.waits:
            which = wait.key, wait.replicas
            if which not in counts:
                have = tuple(each for each in wait.replicas if self._has(batch, each, wait.key))
                refused = sum((each, wait.key) in batch.refused for each in wait.replicas)
                counts[which] = have, len(wait.replicas) - refused
            have, possible = counts[which]
            if len(have) >= wait.need:
                wait.have = have
                self.waiting -= 1
                self._settle(wait.token, None)
            elif possible < wait.need:
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

    def _has(self, batch: _Batch, node_id: str, key: Key) -> bool:
        return node_id in batch.have and (node_id, key) not in batch.refused

    def _fail(self, batch: _Batch, wait: Wait, why: str) -> None:
        wait.have = tuple(each for each in wait.replicas if self._has(batch, each, wait.key))
        lacking = [each for each in wait.replicas if each not in wait.have]
        refused = [text for (_, key), text in batch.refused.items() if key == wait.key]
        because = f"; refused: {refused[0]}" if refused else ""
        self.waiting -= 1
        self.failed += 1
        self._settle(
            wait.token,
            TooFewReplicas(
                f"{wait.key.label}: {why}: {len(wait.have)} of {wait.need} replicas have it "
                f"({', '.join(wait.have) or 'none'}); not {', '.join(lacking)}{because}"
            ),
        )


def _others(own: str, waits: Iterable[Wait]) -> list[str]:
    """The replicas of all of them, but for the own node."""
    found = dict.fromkeys(each for replicas in dict.fromkeys(w.replicas for w in waits) for each in replicas)
    return [each for each in found if each != own]
