from collections.abc import Iterator
from typing import Any, Self

from typing_extensions import disjoint_base

from agentnet_core.message import AgentMessage, Origin

@disjoint_base
class Letter:
    @property
    def message(self) -> AgentMessage: ...
    @property
    def number(self) -> int: ...
    @property
    def death(self) -> tuple[int, str] | None: ...
    @property
    def sent(self) -> int: ...
    @property
    def failures(self) -> int: ...

@disjoint_base
class Book:
    """Letters by their numbers. It does not hold them: who leaves its line is taken out of here before."""

    def __len__(self) -> int: ...
    def __contains__(self, number: int, /) -> bool: ...
    def __iter__(self) -> Iterator[Letter]: ...

@disjoint_base
class Watch: ...

@disjoint_base
class OutLine:
    def __new__(
        cls,
        from_id: int,
        to_id: int,
        to: Any,
        level: int,
        durable: bool,
        origin: Origin | None = None,
        epoch: int = 0,
    ) -> Self: ...
    @property
    def from_id(self) -> int: ...
    @property
    def to_id(self) -> int: ...
    @property
    def to(self) -> Any: ...
    @property
    def level(self) -> int: ...
