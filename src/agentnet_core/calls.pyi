from typing import Any, Final

from typing_extensions import disjoint_base

from agentnet_core.message import AgentMessage
from agentnet_core.recalls import Recalls

DEFECTS: Final[dict[str, int]]

@disjoint_base
class Calls(Recalls):
    work: Any  # the Work of the handler that runs now, if any
    call_defect: int  # planted by a test, 0 none
    def nanoseconds(self, timeout: float) -> int: ...
    def reply(
        self,
        request: AgentMessage,
        payload: bytes,
        content: int = 0,
        failure: tuple[int, str] | tuple[int, str, int] | None = None,
    ) -> Any | None: ...  # None: it is on its way; else the driver's token to await
