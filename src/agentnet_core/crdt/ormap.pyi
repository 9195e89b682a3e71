from typing import Any, TypeVar

from typing_extensions import disjoint_base

from agentnet_core.crdt.base import Crdt, Delta

T = TypeVar("T", bound=Crdt)

@disjoint_base
class ORMap(Crdt):
    @property
    def value(self) -> dict[tuple[Any, str], Any]: ...
    def at(self, key: Any, kind: type[T]) -> T: ...
    def delete(self, key: Any, kind: type[Crdt]) -> Delta: ...
    def clear(self) -> Delta: ...
