from collections.abc import Callable, Sequence

from typing_extensions import disjoint_base

from agentnet_core.agent_record import AgentRecord
from agentnet_core.config import VERSION_MAX as VERSION_MAX
from agentnet_core.signing import Head
from agentnet_core.tally import Tally

@disjoint_base
class Update:
    head: Head | None
    source: str
    tally: Tally | None
    over: Sequence[int]
    def __init__(
        self,
        owner: str,
        incarnation: int,
        base: int,
        version: int,
        first: bool,
        last: bool,
        records: list[AgentRecord],
        removals: list[int],
        head: Head | None = None,
    ) -> None: ...
    @property
    def owner(self) -> str: ...
    @property
    def incarnation(self) -> int: ...
    @property
    def base(self) -> int: ...
    @property
    def version(self) -> int: ...
    @property
    def first(self) -> bool: ...
    @property
    def last(self) -> bool: ...
    @property
    def records(self) -> list[AgentRecord]: ...
    @property
    def removals(self) -> list[int]: ...

def read_plain(
    body: bytes, words_of: Callable[[bytes], tuple[str, ...] | None], known: dict[bytes, tuple[str, ...]]
) -> Update | None: ...
