"""Reads of a state that wait for what replicas have: who is asked what, and what an answer is worth.

READ asks for all that a replica has, unless its print is that of the reader.  What it answers is merged
first and counts then: where some of it is doubted (`doubts`), once that is over; refused if it was let go.
When enough have answered, those that had less than what came of it get that.
"""

from __future__ import annotations

from functools import partial
from typing import Protocol

from agentnet_core.comparing import Comparing
from agentnet_core.doubts import Doubts
from agentnet_core.errors import NetworkError
from agentnet_core.parts import ANSWER, READ, Refusals, write
from agentnet_core.quorums import Quorums, Wait
from agentnet_core.states import Held, Key, States


class House(Protocol):
    """What this room asks of the one that composes it."""

    doubts: Doubts | None

    def take(self, node_id: str, key: Key, data: bytes, author: str | None, /) -> NetworkError | bool: ...
    def send(self, node_id: str, body: bytes, /) -> bool: ...
    def ask(self, node_id: str, body: bytes, /) -> None: ...
    def later(self, node_id: str, /) -> None: ...


class Reading:
    """The reads of one node, and its answers to those of others."""

    def __init__(self, house: House, states: States, quorums: Quorums, comparing: Comparing) -> None:
        self._house, self._states, self._quorums, self._comparing = house, states, quorums, comparing
        self._prints: dict[int, dict[str, int]] = {}
        """By read that waits, the print of each replica that has answered."""

    def start(self, held: Held, wait: Wait) -> tuple[list[str], bytes]:
        """Let that one wait: the replicas that are to be asked, and what."""
        serial = self._quorums.open([held.key], [wait])
        body = write(READ, serial, held.key, held.print)
        return self._quorums.sent(serial, body), body

    def tick(self) -> None:
        """Forget those that nobody waits for."""
        for serial in [serial for serial in self._prints if self._quorums.key_of(serial) is None]:
            del self._prints[serial]

    def on_ack(self, node_id: str, serial: int, refusals: Refusals) -> None:
        doubts = self._house.doubts
        if doubts is None or not doubts.answered(serial):
            self._quorums.answered(node_id, serial, refusals)

    def on_read(self, node_id: str, serial: int, key: Key, number: int) -> None:
        held = self._states.get(key)
        own = held.print if held is not None and held.state.context else 0
        part = held.state.encode() if held is not None and own and own != number else b""
        if not self._house.send(node_id, write(ANSWER, serial, own, part)):
            self._house.later(node_id)

    def on_answer(self, node_id: str, serial: int, number: int, part: bytes) -> None:
        key = self._quorums.key_of(serial)
        if key is None:
            return
        error = self._house.take(node_id, key, part, None) if part else None
        then = partial(self._count, node_id, serial, key, number)
        doubts = self._house.doubts
        if isinstance(error, NetworkError):
            then(error, False)
        elif doubts is None or not doubts.waits(node_id, key, serial, then):
            then(None, False)

    def _count(
        self, node_id: str, serial: int, key: Key, number: int, error: NetworkError | None, again: bool
    ) -> None:
        held = self._states.get(key)
        if error is not None:
            self._quorums.answered(node_id, serial, [(0, error.code, str(error))])
        elif self._quorums.key_of(serial) is None:
            return
        elif again:
            self._house.ask(node_id, write(READ, serial, key, held.print if held is not None else 0))
        else:
            self._prints.setdefault(serial, {})[node_id] = number
            self._quorums.answered(node_id, serial)
            if self._quorums.key_of(serial) is None and held is not None and held.state.context:
                for replica, known in self._prints.pop(serial).items():
                    if known != held.print:
                        self._comparing.show(replica, held)
