from typing import Protocol

from typing_extensions import disjoint_base

from agentnet_core.reception import Reception
from agentnet_core.session import Session

class _Leg(Protocol):
    """What is asked of a tunnel on one link."""

    @property
    def number(self) -> int: ...
    def take(self, most: int, /) -> bytes | None: ...

@disjoint_base
class Freight(Reception):
    def haul(self, session: Session, leg: _Leg) -> None: ...
    def unhaul(self, session: Session, leg: _Leg) -> None: ...
    def tunnelled(self, tunnel: object) -> None: ...
