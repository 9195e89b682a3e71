from typing import Any

from typing_extensions import disjoint_base

from agentnet_core.courier import Courier
from agentnet_core.lines import InLine
from agentnet_core.message import AgentMessage
from agentnet_core.session import Session

@disjoint_base
class Reception(Courier):
    def drop_lines(self, keys: list[tuple[str, int, int, int, int]]) -> None: ...
    def refuse_in(
        self, line: InLine, message: AgentMessage, code: int, text: bytes, delay_ms: int = 0
    ) -> None: ...
    def put_return_of(self, line: InLine, number: int, code: int, text: bytes, attempt: int) -> None: ...
    def put_refusal(
        self,
        session: Session,
        epoch: int,
        from_id: int,
        to_id: int,
        level: int,
        number: int,
        code: int,
        text: bytes,
        attempt: int,
        delay_ms: int,
    ) -> None: ...
    def letter_stats(self) -> dict[str, int]: ...
    def mark_again(self) -> None: ...
    def limit_letters(self) -> None: ...
    def puts_off(self) -> list[tuple[str, int]]: ...
    def rested(self) -> None: ...
    def ready(self) -> Any: ...
