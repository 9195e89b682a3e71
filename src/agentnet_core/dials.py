"""When to dial: backoff, courtesy, and the addresses that a user named.

Dials of one node back off from `redial_ms_min` to `redial_ms_max`, half of each wait is chance, so
that many nodes do not dial in step.  So that dials of a pair do not cross, the greater node id goes
first and the lesser waits a tenth of `redial_ms_max`.  At most one dial of an address is in progress.

A named address is a `Seed`: somebody may be there. It is dialled until its node is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from agentnet_core.config import EngineConfig
from agentnet_core.node import Redial

NS_PER_MS = 1_000_000


class Random(Protocol):
    """Where jitter comes from."""

    def random(self) -> float:
        """A number from 0 up to 1."""


@dataclass(frozen=True, slots=True)
class Dial:
    """Open a link to ``address``. ``node_id``: who should be there, None for a bootstrap address.
    ``relay``: through whose tunnel, if not straight."""

    address: str
    node_id: str | None = None
    relay: str = ""


class Seed:
    """An address that a user named, and the node that was found there."""

    __slots__ = ("address", "node_id", "redial")

    def __init__(self, address: str, now_ns: int) -> None:
        self.address = address
        self.node_id: str | None = None
        self.redial = Redial(now_ns)


class Dials:
    """The dials in progress, and the seeds. ``is_known``: whether a node needs no seed to be found."""

    def __init__(
        self, node_id: str, config: EngineConfig, rng: Random, is_known: Callable[[str], bool]
    ) -> None:
        self.node_id = node_id
        self.seeds: dict[str, Seed] = {}
        self.redial_ns_max = config.redial_ms_max * NS_PER_MS
        self._redial_ns_min = config.redial_ms_min * NS_PER_MS
        self._rng = rng
        self._is_known = is_known
        self._in_progress: dict[str, Dial] = {}

    # -- seeds

    def name(self, addresses: Iterable[str], now_ns: int) -> None:
        """Take addresses that a user named."""
        for address in addresses:
            if address not in self.seeds:
                self.seeds[address] = Seed(address, now_ns)

    def found(self, node_id: str, addresses: Iterable[str]) -> None:
        """A node says that it is there: seeds of these addresses are its."""
        for address in addresses:
            seed = self.seeds.get(address)
            if seed is not None and not self._is_resolved(seed):
                seed.node_id = node_id

    def found_of(self, node_id: str) -> list[str]:
        """The seeds where that node was found."""
        return [seed.address for seed in self.seeds.values() if seed.node_id == node_id]

    def unresolved(self) -> list[Seed]:
        """Seeds to dial, now or later."""
        return [
            seed for seed in self.seeds.values() if seed.redial.dial is None and not self._is_resolved(seed)
        ]

    def _is_resolved(self, seed: Seed) -> bool:
        return seed.node_id is not None and self._is_known(seed.node_id)

    # -- dials

    def start(self, redial: Redial, dial: Dial, now_ns: int) -> list[Dial]:
        """The dial, unless one of that address is in progress: then it is tried again soon."""
        if dial.address in self._in_progress:
            redial.next_ns = now_ns + self._redial_ns_min
            return []
        redial.dial = self._in_progress[dial.address] = dial
        return [dial]

    def end(self, dial: Dial, redial: Redial | None, node_id: str | None) -> Redial | None:
        """The dial, ``redial``'s or a seed's, is over, and ``node_id`` answered, if anybody did. Whose it
        was; None if that is not known any more."""
        if self._in_progress.get(dial.address) == dial:
            del self._in_progress[dial.address]
        seed = self.seeds.get(dial.address)
        if dial.node_id is None and seed is not None:
            seed.node_id = node_id if node_id is not None else seed.node_id
            redial = seed.redial
        if redial is None or redial.dial != dial:
            return None
        redial.dial = None
        return redial

    def courtesy_ns(self, node_id: str) -> int:
        """How long the lesser of two nodes leaves the dialling to the greater."""
        return 0 if self.node_id > node_id else self.redial_ns_max // 10

    def backoff_ns(self, failures: int) -> int:
        """The wait after so many failures."""
        if failures == 0:
            return 0
        # 2 ** 32 times any minimum is over any maximum.
        longest = self._redial_ns_min << min(failures - 1, 32)
        return self.jitter_ns(min(longest, self.redial_ns_max))

    def jitter_ns(self, longest_ns: int) -> int:
        """Between half of it and all of it."""
        half = longest_ns // 2
        return half + int(self._rng.random() * (longest_ns - half))
