from collections.abc import Callable, Iterable

from typing_extensions import disjoint_base

from agentnet_core.roster import join_members as join_members

NEVER: int
NODES_A_NEWS_MS: int
CALM: int
CALM_MS_MAX: int

@disjoint_base
class News:
    @property
    def tellers(self) -> dict[str, tuple[str, ...]]: ...
    def note(self, node_id: str, source: str | None = None, urgent: bool = True) -> None: ...
    def echoed(self, node_id: str, source: str | None) -> None: ...
    def due_ns(self, nodes: int, along: bool = False) -> int: ...
    def drain(
        self, peers: Iterable[str], now_ns: int, pack: Callable[[str], list[bytes]]
    ) -> list[tuple[str, list[bytes]]]: ...
