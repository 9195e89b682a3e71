from typing import Any

from typing_extensions import disjoint_base

from agentnet_core.message import AgentMessage
from agentnet_core.outflow import Outflow

@disjoint_base
class Pending: ...

@disjoint_base
class Calls(Outflow):
    @property
    def pending(self) -> dict[int, Pending]: ...
    def nanoseconds(self, timeout: float) -> int: ...
    def reply(
        self,
        request: AgentMessage,
        payload: bytes,
        content: int = 0,
        failure: tuple[int, str] | None = None,
    ) -> Any | None: ...  # None: it is on its way; else the driver's token to await
