from collections.abc import Callable, Mapping
from typing import Final, Self

from typing_extensions import disjoint_base

from agentnet_core.config import EngineConfig
from agentnet_core.engine import Engine
from agentnet_core.errors import MessageTooLarge
from agentnet_core.gossip import Gossip
from agentnet_core.message import AgentMessage
from agentnet_core.session import Session
from agentnet_core.signing import Seals

KINDS: Final[range]

@disjoint_base
class Broadcasts:
    refused: int
    """Bodies that came from afar and were not what they should be."""
    def __new__(
        cls,
        engine: Engine,
        config: EngineConfig,
        seals: Seals | None = None,
        certificate_of: Callable[[str, int], bytes] | None = None,
    ) -> Self: ...
    @property
    def engine(self) -> Engine: ...
    @property
    def sent(self) -> int:
        """Users' that went out."""
    @property
    def _peers(self) -> dict[str, None]: ...
    @property
    def _takers(self) -> dict[int, Callable[[str, Gossip, bytes], None]]: ...
    def take(self, what: int, deliver: Callable[[str, Gossip, bytes], None]) -> None:
        """``deliver`` is called with the linked node that brought a body, what brought it, and the body."""

    def publish(self, what: int, body: bytes) -> None: ...
    def fits(self, message: AgentMessage) -> bool: ...
    def too_large(self, message: AgentMessage) -> MessageTooLarge: ...
    def offer(self, what: int, body: bytes) -> int: ...
    def stats(self) -> dict[str, int]: ...
    def take_up(self, listeners: Mapping[str, object], nodes: int) -> None: ...
    def link_down(self, node_id: str) -> None: ...
    def receive(self, session: Session, kind: int, body: bytes) -> None: ...
    def tick(self, now_ns: int) -> int: ...
