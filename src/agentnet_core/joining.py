"""How a join ends: linked and told all, founding, refused, or out of time.

In: the addresses to try and who refused there.  Out: None while it goes on, then an outcome.  The node
whose own address is the first of the list founds the network once each of the others has been tried
and none was in one; everybody else waits for a node that lets it in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agentnet_core.config import EngineConfig
from agentnet_core.errors import DuplicateLink, HandshakeRefused, JoinFailed, NetworkError

MS = 1_000_000
ADDRESSES_TOLD_MAX = 8


@dataclass(frozen=True, slots=True)
class Joined:
    """The end of a join. ``found``: the uuid of the network to found, empty if there is one."""

    error: NetworkError | None = None
    found: bytes = b""


class Joining:
    """One `join_network`; ``token`` is what waits for it. ``first``: this node's is the first address."""

    def __init__(
        self,
        config: EngineConfig,
        token: Any,
        bootstrap: tuple[str, ...],
        now_ns: int,
        *,
        first: bool,
        new_uuid: bytes,
    ) -> None:
        self.token = token
        self._config = config
        self._bootstrap = bootstrap
        self._deadline_ns = now_ns + config.join_ms_max * MS
        self._founds = first
        self._new_uuid = new_uuid
        self._refusals: dict[str, NetworkError] = {}

    def refused(self, address: str, error: NetworkError) -> None:
        """Nobody at ``address`` let this node in, and why."""
        if not isinstance(error, DuplicateLink):
            self._refusals[address] = error

    def is_self(self, address: str) -> None:
        """The node itself is at ``address``."""
        self._founds = self._founds or address == self._bootstrap[0]

    def outcome(self, now_ns: int, left: list[str], *, linked: bool, complete: bool) -> Joined | None:
        """``left``: the addresses that are not this node's own. ``linked``: somebody let it in;
        ``complete``: and it knows all that they know."""
        tried = [self._refusals.get(address) for address in left]
        if linked and complete:
            return Joined()
        if not linked and self._founds and None not in tried:
            return Joined(found=self._new_uuid)
        if not linked and tried and all(isinstance(error, HandshakeRefused) for error in tried):
            return Joined(tried[0])
        if now_ns >= self._deadline_ns:
            return Joined(None if linked else self._too_late())
        return None

    def _too_late(self) -> JoinFailed:
        reasons = "; ".join(
            f"{address}: {self._refusals.get(address, 'no answer')}"
            for address in self._bootstrap[:ADDRESSES_TOLD_MAX]
        )
        return JoinFailed(
            f"no node of network {self._config.network!r} let this one in within {self._config.join_ms_max} "
            f"ms ({reasons}); start the first node with join_network([])"
        )
