from collections.abc import Mapping
from typing import Any

from typing_extensions import disjoint_base

from agentnet_core.deeds import Deeds, Kept, Store
from agentnet_core.leases import Leases
from agentnet_core.message import AgentMessage

@disjoint_base
class Begun:
    @property
    def owner(self) -> AgentMessage: ...

@disjoint_base
class Operations(Leases):
    @property
    def deeds(self) -> Deeds: ...
    @property
    def begun(self) -> dict[tuple[Any, ...], Begun]: ...
    def once(self, message: AgentMessage, changes: Mapping[str, bytes | None] | None, result: Any) -> Any: ...
    def say_all(self, kept: Kept) -> None: ...
    def undo_commit(self, kept: Kept, failure: tuple[int, str], final: bool) -> None: ...
    def store_of(self, agent_id: int) -> Store: ...
