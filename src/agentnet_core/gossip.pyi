from typing import ClassVar, Final, Self, final

from typing_extensions import disjoint_base

from agentnet_core.signing import Seal

GOSSIP: Final = 24
IHAVE: Final = 25
GRAFT: Final = 26
PRUNE: Final = 27
GONE: Final = 28

CHANGES: Final = 1
MESSAGES: Final = 2
STATES: Final = 3
"""What the first byte of a payload says: a change of a list of agents, as in an AGENTS frame; a user's
message, as in a MESSAGE frame; changes of states, as in a STATE frame."""

HOPS_MAX: Final = 255
"""Where hops are counted no further."""
ID_BYTES: Final = 96
"""What an id takes in a body, at most."""
IDS_MAX: Final[int]
"""Ids in one frame; the rest goes into the next."""

def pack_id(origin: str, incarnation: int, sequence: int) -> bytes:
    """The id of a broadcast. ``sequence``: the origin's broadcasts in that incarnation, from 1."""

def read_id(broadcast: bytes) -> tuple[str, int, int]: ...

@disjoint_base
class Frame:
    def __eq__(self, other: object, /) -> bool: ...
    __hash__: ClassVar[None]  # type: ignore[assignment]
    @property
    def kind(self) -> int: ...

@final
class Gossip(Frame):
    """A broadcast. ``hops``: links that it has crossed when it arrives. ``age_ms``: how long it has rested
    on nodes, for its time to live. ``shapes``: whether it may prune links. ``seal``: its origin's, if any."""

    def __new__(
        cls,
        broadcast: bytes,
        hops: int,
        age_ms: int,
        shapes: bool,
        payload: bytes,
        seal: Seal | None = None,
    ) -> Self: ...
    @property
    def broadcast(self) -> bytes: ...
    @property
    def origin(self) -> str: ...
    @property
    def incarnation(self) -> int: ...
    @property
    def sequence(self) -> int: ...
    @property
    def hops(self) -> int: ...
    @property
    def age_ms(self) -> int: ...
    @property
    def shapes(self) -> bool: ...
    @property
    def payload(self) -> bytes: ...
    @property
    def seal(self) -> Seal | None: ...

@disjoint_base
class Ids(Frame):
    def __new__(cls, broadcasts: tuple[bytes, ...]) -> Self: ...
    @property
    def broadcasts(self) -> tuple[bytes, ...]: ...

@final
class Ihave(Ids): ...

@final
class Graft(Ids): ...

@final
class Gone(Ids): ...

@final
class Prune(Frame):
    def __new__(cls) -> Self: ...

def encode(frame: Frame) -> tuple[int, bytes]: ...
def decode(kind: int, body: bytes) -> Frame: ...
