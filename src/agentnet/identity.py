"""Who this node is across restarts: its incarnation and its network's uuid.

With a data directory they are kept in one small file, replaced atomically, and a lock keeps a
second process out.  Without one the incarnation is seeded by the clock, so that it still rises.
ConfigError if the file is damaged or another node's; it is never overwritten then.  StorageLocked if
another process has the directory.
"""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from random import Random

from agentnet.storage.files import DirectoryLock, sync_directory
from agentnet_core.errors import ConfigError, NetworkError, OutageError

FILE = "node.json"


class NodeIdentity:
    """``incarnation`` of this start; ``network_uuid`` as last kept, or empty."""

    def __init__(
        self,
        incarnation: int,
        network_uuid: bytes,
        path: Path | None,
        lock: DirectoryLock | None,
        who: dict[str, str],
    ):
        self.incarnation = incarnation
        self.network_uuid = network_uuid
        self._path = path
        self._lock = lock
        self._who = who

    def new_uuid(self, rng: Random) -> bytes:
        """The uuid under which a network is founded: the one kept, or one that is drawn now."""
        return self.network_uuid or uuid.UUID(int=rng.getrandbits(128), version=4).bytes

    def keep(self, network_uuid: bytes) -> None:
        """Remember the network and this incarnation; OutageError if the disk does not."""
        self.network_uuid = network_uuid
        if self._path is None:
            return
        try:
            self._write(self._path, network_uuid)
        except OSError as error:
            raise OutageError(f"{self._path} cannot be written: {error}") from None

    def _write(self, path: Path, network_uuid: bytes) -> None:
        body = json.dumps({**self._who, "incarnation": self.incarnation, "network_uuid": network_uuid.hex()})
        new = path.with_suffix(".new")
        with open(new, "w", encoding="utf-8") as file:
            file.write(body + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
        sync_directory(path.parent)

    def close(self) -> None:
        """Let another process have the directory."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def load_identity(data_dir: str | None, node_id: str, network: str, seed: int) -> NodeIdentity:
    """The identity kept in ``data_dir``, with a new incarnation; ConfigError if it cannot be had.

    ``seed``: the time, in nanoseconds since the epoch; the incarnation is that at least.
    """
    who = {"node_id": node_id, "network": network}
    if data_dir is None:
        return NodeIdentity(seed, b"", None, None, who)
    folder = Path(data_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = DirectoryLock(folder)
    except OSError as error:
        raise ConfigError(f"data_dir={data_dir!r}: {error}") from None
    path = folder / FILE
    incarnation, network_uuid = seed, b""
    if path.exists():
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            found = {key: kept[key] for key in who}
            incarnation = max(seed, _check_incarnation(kept["incarnation"]) + 1)
            network_uuid = bytes.fromhex(kept["network_uuid"])
            if len(network_uuid) not in (0, 16):
                raise ValueError(f"network_uuid of {len(network_uuid)} bytes")
        except (ValueError, KeyError, TypeError, OSError) as error:
            lock.close()
            raise ConfigError(f"{path} is damaged ({error}): restore it, or give an empty data_dir") from None
        if found != who:
            lock.close()
            raise ConfigError(f"{path} is of {found}, expected {who}: give each node a data_dir of its own")
    identity = NodeIdentity(incarnation, network_uuid, path, lock, who)
    try:
        identity.keep(network_uuid)
    except NetworkError:
        identity.close()
        raise
    return identity


def _check_incarnation(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"incarnation {value!r}")
    return value
