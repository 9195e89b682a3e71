from typing import Any

from typing_extensions import disjoint_base

from agentnet_core.links import Links
from agentnet_core.message import AgentMessage, Origin
from agentnet_core.port import Port

@disjoint_base
class Casting(Links):
    mesh_known: bool  # False: nodes or links have come or gone
    @property
    def groups(self) -> dict[str, dict[int, Port]]: ...
    def broadcast(
        self, message: AgentMessage, from_agent: int, content: int = 0
    ) -> tuple[list[Any], bool]: ...
    def hear(self, origin: Origin, body: bytes, age_ms: int) -> None: ...
