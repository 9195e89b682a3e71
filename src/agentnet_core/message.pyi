from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Any, Final, Self

from typing_extensions import disjoint_base

from agentnet_core.envelope import Envelope
from agentnet_core.records import MessagePriority, MessageType
from agentnet_core.slip import Slip

FIELDS: Final[dict[int, str]]
NOWHERE: Final[Origin]

@disjoint_base
class Origin:
    session: Any  # the engine's Session while there is a link, else None
    def __init__(self, node_id: str, incarnation: int) -> None: ...
    @property
    def node_id(self) -> str: ...
    @property
    def incarnation(self) -> int: ...

@disjoint_base
class AgentMessage:
    """One message between agents.

    `to_agent`: id or name of the receiver, None for all agents, or for those of `group`. `ttl`: seconds
    until it is no longer worth executing, 0 never. `timestamp`: nanoseconds since the epoch, 0 to have it
    stamped when sent. `message_id`: any string, or None to have one generated when it is read.
    """

    timestamp: int
    def __init__(
        self,
        payload: bytes = b"",
        *,
        to_agent: int | str | None = None,
        from_agent: int | str = 0,
        message_type: MessageType | int = ...,
        priority: MessagePriority | int = ...,
        ttl: float = 0.0,
        message_id: str | None = None,
        timestamp: int = 0,
        group: str | None = None,
    ) -> None: ...
    @property
    def payload(self) -> bytes: ...
    @property
    def to_agent(self) -> int | None:
        """Id of the receiver; None for a broadcast, and for a message to a group."""

    @property
    def group(self) -> str | None:
        """Name of the group of agents that it goes to; None if it goes to one agent, or to all."""

    @property
    def from_agent(self) -> int: ...
    @property
    def message_type(self) -> MessageType | int:
        """What it is for; a number if a newer version sent a type that this one does not know."""

    @property
    def priority(self) -> MessagePriority: ...
    @property
    def ttl(self) -> float:
        """Seconds that were left when it was sent on to this node; 0 never expires."""

    @property
    def message_id(self) -> str: ...
    @property
    def from_node(self) -> str:
        """Id of the node that it came from; empty before it is sent."""

    @property
    def sequence(self) -> int:
        """Number of the message at its node."""

    @property
    def slip(self) -> Slip | None: ...
    @property
    def correlation(self) -> int:
        """Number of a request at its node, and of the answer to it; 0 of what wants no answer."""

    @property
    def origin(self) -> Origin: ...
    @property
    def is_value(self) -> bool:
        """Whether the payload is the MessagePack form of a value."""

    @property
    def value(self) -> Any:
        """The payload as it was given: bytes, or the value that was sent."""

    @property
    def error(self) -> tuple[int, bytes] | None:
        """(code, text) if this is the answer of a request that failed, else None."""

    @property
    def envelope(self) -> Envelope | None:
        """What it is to a chain of calls or to a stream; None if to neither."""

    @property
    def operation_id(self) -> str | None:
        """Its sender's name for what it asks, under which that is done once; None if it has none."""

    @property
    def store(self) -> Mapping[str, bytes]:
        """The store of the agent that handles it: what `once` has put there."""

    def once(self, changes: Mapping[str, bytes | None] | None = None, result: Any = b"") -> Awaitable[None]:
        """Commit in its handler that it is done, with its result and ``changes`` to the agent's store.

        All of it is on the node's disk when that is awaited, if it has one, or nothing is; a message that
        comes again, after a restart too, is not handled again, and who asks again gets ``result``. What the
        handler returns or raises afterwards changes nothing of it. ``changes``: None as a value removes the
        key.

        Raises, when awaited: LimitReached, PayloadMismatch, StorageFull, StorageBusy, ConfigError, and
        LeaseExpired if the message was given back meanwhile: nothing was committed. StorageFailed: it may be.
        UsageError if it was committed already, or is a message that nobody would send again.

        In a plain function, which runs in a thread, the call itself waits, and raises.

        It is the node that knows what was done there. An agent that is registered on another node begins with
        an empty store, and what was done on the node before may be done there again; what it had is where it
        was, and counts when it is back.
        """

    @property
    def fields(self) -> dict[int, Any]:
        """Optional fields that this version carries and does not read, by number."""

    def parts(self) -> AsyncIterator[Any]:
        """Its input, `async for part in message.parts()`; ConfigError if it has none, see `Agent.stream`."""

    def with_fields(self, fields: dict[int, Any]) -> Self:
        """The same message carrying optional `fields` {number: MessagePack value}; itself returned."""

    def encode(self) -> bytes:
        """The MessagePack form, alone: any MessagePack library reads it."""

    @staticmethod
    def decode(data: bytes, origin: Origin = ...) -> AgentMessage:
        """The message in `data`, as `encode` or another MessagePack library wrote it; ProtocolError."""

def check_group(group: str) -> str:
    """The name of a group, if it can be one; ConfigError otherwise."""

def unpack_value(data: bytes) -> Any: ...
