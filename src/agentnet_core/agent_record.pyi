from typing_extensions import disjoint_base

@disjoint_base
class AgentRecord:
    agent_id: int
    node_id: str
    name: str | None
    capabilities: tuple[str, ...]
    metadata: dict[str, str] | None
    broadcasts: bool
    health: str
    groups: tuple[str, ...]
    def __init__(
        self,
        agent_id: int,
        node_id: str,
        name: str | None = None,
        capabilities: tuple[str, ...] = (),
        metadata: dict[str, str] | None = None,
        broadcasts: bool = True,
        health: str = "",
        groups: tuple[str, ...] = (),
    ) -> None: ...
    @property
    def label(self) -> str: ...
