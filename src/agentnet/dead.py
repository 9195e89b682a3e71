"""Dead letters: DURABLE messages that their handlers failed too often, or that were refused for good.

They lie with their sender's node, on its disk if it has one, until somebody replays or purges them: through
the node that runs, or, of one that does not, in its ``data_dir``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from time import monotonic_ns, time_ns

from agentnet.identity import FILE
from agentnet.payload import to_bytes
from agentnet.storage import Storage, log_directory
from agentnet_core.config import EngineConfig
from agentnet_core.engine import Engine
from agentnet_core.errors import ConfigError, NetworkError
from agentnet_core.recalls import Pending
from agentnet_core.records import DeadLetter


def list_dead(engine: Engine) -> list[DeadLetter]:
    """Those of a node, the oldest first."""
    found = []
    for number, letter in engine.dead.items():
        message = letter.message
        code, reason = letter.death or (0, "")
        ends = message.from_agent, message.to_agent or 0
        found.append(DeadLetter(number, *ends, message.payload, message.message_id, code, reason))
    return found


def pick(engine: Engine, numbers: Iterable[int] | None) -> list[int]:
    """Those numbers, or all; ConfigError if one is of no dead letter."""
    picked = list(engine.dead) if numbers is None else list(dict.fromkeys(numbers))
    for number in picked:
        if number not in engine.dead:
            raise ConfigError(f"dead letter {number!r}: there is none of that number")
    return picked


class _Nobody:
    """Nobody waits for what a closed mailbox tells."""

    def persisted(self, number: int) -> None: ...
    def refused(self, number: int, error: NetworkError) -> None: ...
    def failed(self, error: NetworkError) -> None: ...
    def held(self, owner: int, index: int) -> None: ...


class ClosedMail:
    """The letters of a node that does not run. ``async with ClosedMail(data_dir) as mail``: ConfigError,
    StorageLocked if the node runs, StorageDamaged."""

    def __init__(self, data_dir: str) -> None:
        try:
            who = json.loads((Path(data_dir) / FILE).read_text(encoding="utf-8"))
            self._node_id, network = str(who["node_id"]), str(who["network"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"data_dir={data_dir!r}: no node has been here: {error}") from None
        self._data_dir = data_dir
        self._config = EngineConfig(network=network)

    async def __aenter__(self) -> ClosedMail:
        where = log_directory(self._data_dir)
        self._storage = await Storage.start(where, self._config, self._node_id, _Nobody())
        self.engine = Engine(
            self._node_id,
            0,
            self._config,
            monotonic_ns(),
            make_token=object,
            call=Pending(),
            to_bytes=to_bytes,
            wake=lambda: None,
        )
        self.engine.wall_offset_ns = time_ns() - monotonic_ns()
        self.engine.recover(self._storage.found)
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._write()
        finally:
            await self._storage.close()

    async def _write(self) -> None:
        ready = self.engine.ready()
        if ready.persist is not None:
            await self._storage.wait_persisted(self._storage.append(ready.persist))
