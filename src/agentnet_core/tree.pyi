from collections.abc import Callable, Container, Sequence
from typing import Final, Self, final

from typing_extensions import disjoint_base

from agentnet_core.config import EngineConfig
from agentnet_core.gossip import Frame, Gossip
from agentnet_core.signing import Seal

CHANGE: Final[bytes]
NEVER: Final = 0x7FFFFFFFFFFFFFFF
EAGER_ENOUGH: Final = 4
"""A node with more eager links prunes one by any copy too many."""
ORIGIN_SHARES: Final = 4
"""An origin's young broadcasts may take one of so many shares of the store."""

@final
class Peer: ...

@final
class Missing:
    def __new__(cls, due_ns: int) -> Self: ...

@final
class Kept: ...

@disjoint_base
class Tree:
    seal: Callable[[bytes, bytes], Seal | None] | None
    """Of what is published."""
    listeners: Container[str] | None
    """The peers that are announced what is kept, or None for all: others have it from elsewhere."""
    def __new__(
        cls,
        node_id: str,
        incarnation: int,
        config: EngineConfig,
        crowded: Callable[[str, int], bool] | None = None,
    ) -> Self: ...
    @property
    def node_id(self) -> str: ...
    @property
    def incarnation(self) -> int: ...
    @property
    def put_off(self) -> int:
        """Times that a broadcast was announced to a peer that was to be sent it, but was crowded."""
    @property
    def duplicates(self) -> int:
        """Copies of what was here already."""
    @property
    def missed(self) -> int:
        """Broadcasts that were not here when they left their window; those before the first are not told."""
    @property
    def unanswered(self) -> int:
        """Announced broadcasts that nobody sent who was asked; they may come yet."""
    @property
    def announcements_refused(self) -> int:
        """Announcements beyond ``broadcasts_announced_max``."""
    @property
    def origins_refused(self) -> int:
        """Copies of broadcasts whose origin is beyond ``broadcast_origins_max``."""
    @property
    def kept(self) -> tuple[int, int]: ...
    @property
    def awaited(self) -> int: ...
    def eager(self) -> list[str]: ...
    def lazy(self) -> list[str]: ...
    def pending(self, name: str) -> list[bytes]: ...
    def next_deadline_ns(self) -> int: ...
    def drain_frames(self) -> Sequence[tuple[tuple[str, ...], Frame]]: ...
    def drain_delivered(self) -> Sequence[Gossip]: ...
    def link_up(self, name: str, now_ns: int) -> None: ...
    def link_down(self, name: str, now_ns: int) -> None: ...
    def room_ns(self, size: int, now_ns: int) -> int: ...
    def publish(self, payload: bytes, now_ns: int, *, own: bool = False) -> bytes: ...
    def receive(self, name: str, frame: Frame, now_ns: int) -> None: ...
    def pace(self, nodes: int) -> None: ...
    def tick(self, now_ns: int) -> None: ...
    def is_here(self, broadcast: bytes) -> bool: ...
