from typing_extensions import disjoint_base

from agentnet_core.crdt.base import Crdt, Delta

@disjoint_base
class GCounter(Crdt):
    @property
    def value(self) -> int: ...
    def increment(self, amount: int = 1) -> Delta: ...
