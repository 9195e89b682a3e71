from typing import Any

from typing_extensions import disjoint_base

from agentnet_core.crdt.base import Crdt, Delta

@disjoint_base
class LWWRegister(Crdt):
    @property
    def value(self) -> Any: ...
    def set(self, value: Any, stamp: int) -> Delta: ...
    def clear(self) -> Delta: ...
