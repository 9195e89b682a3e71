from typing_extensions import disjoint_base

from agentnet_core.crdt.base import Crdt, Delta

@disjoint_base
class EWFlag(Crdt):
    @property
    def value(self) -> bool: ...
    def enable(self) -> Delta: ...
    def disable(self) -> Delta: ...
