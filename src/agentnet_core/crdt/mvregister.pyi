from collections.abc import Mapping
from typing import Any

from agentnet_core.crdt.base import Crdt, Delta
from agentnet_core.dots import CausalContext

class MVRegister(Crdt):
    @property
    def value(self) -> list[Any]: ...
    def set(self, value: Any, context: CausalContext | Mapping[str, int] | None = None) -> Delta: ...
    def clear(self) -> Delta: ...
