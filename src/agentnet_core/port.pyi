from collections.abc import Awaitable, Mapping
from typing import Any, Literal, Self, overload

from typing_extensions import disjoint_base

from agentnet_core.agent_record import AgentRecord
from agentnet_core.calls import Calls
from agentnet_core.deeds import Store
from agentnet_core.message import AgentMessage
from agentnet_core.records import Delivery, MessagePriority, MessageType, Receipt
from agentnet_core.route import Route

@disjoint_base
class Work:
    def __new__(cls, port: Port, *args: Any) -> Self: ...
    message: AgentMessage | None
    @property
    def port(self) -> Port: ...

@disjoint_base
class Overfill: ...

@disjoint_base
class Port(Route):
    parked: bool
    reentrant: bool
    def __new__(cls, engine: Calls, *args: Any) -> Self: ...
    def __init__(self, engine: Calls, record: AgentRecord) -> None: ...
    @property
    def engine(self) -> Calls: ...
    @property
    def served_ns(self) -> int: ...
    @property
    def pending_messages(self) -> int: ...
    @overload
    def send(
        self,
        to: int | str,
        payload: Any,
        *,
        message_type: MessageType | int = ...,
        priority: MessagePriority | int = ...,
        ttl: float = 0.0,
        message_id: str | None = None,
    ) -> Awaitable[None]: ...
    @overload
    def send(
        self,
        to: int | str,
        payload: Any,
        *,
        message_type: MessageType | int = ...,
        priority: MessagePriority | int = ...,
        ttl: float = 0.0,
        message_id: str | None = None,
        delivery: Literal[Delivery.ACKNOWLEDGED, Delivery.DURABLE],
        until: Literal["kept", "mailboxed", "processed"] | None = None,
        timeout: float | None = None,
        operation_id: str | None = None,
    ) -> Awaitable[Receipt]: ...
    @overload
    def send(
        self,
        to: int | str,
        payload: Any,
        *,
        message_type: MessageType | int = ...,
        priority: MessagePriority | int = ...,
        ttl: float = 0.0,
        message_id: str | None = None,
        delivery: Delivery | None,
        until: Literal["kept", "mailboxed", "processed"] | None = None,
        timeout: float | None = None,
        operation_id: str | None = None,
    ) -> Awaitable[Receipt | None]:
        """Send `payload` to agent `to` (id or name); await the result.

        Awaiting returns once the message is on its way (at most once; see the errors of a lost
        link), and waits while the receiver or the link to it has no room.  `ttl`: seconds until it
        is not worth executing any more, 0 never.

        Raises NoSuchAgent, AgentUnreachable, MessageTooLarge, PayloadMismatch, Congested: all
        definite.
        """

    def send_nowait(
        self,
        to: int | str,
        payload: Any,
        *,
        message_type: MessageType | int = ...,
        priority: MessagePriority | int = ...,
        ttl: float = 0.0,
        message_id: str | None = None,
    ) -> None:
        """As `send`, but raises Congested where `send` would wait."""

    def request(
        self,
        to: int | str,
        payload: Any,
        *,
        timeout: float | None = None,
        priority: MessagePriority | int = ...,
        reply: Any = None,
        operation_id: str | None = None,
    ) -> Awaitable[Any]:
        """Ask agent `to`; await the result for what its handler returned.

        `operation_id`: a text, this agent's name for what it asks. It is done once: who asks again under it,
        after a timeout, a lost link or a restart of either side, gets the same result, for `operation_ms`.
        Its handler is not cancelled when nobody waits any more. DeliveryUnsupported, definite, if the other
        node is of a release before that; ResultForgotten if the result was too large to be kept.

        `timeout`: seconds. `reply`: a type to decode the answer to.  Raises, when awaited:
        NoSuchAgent, AgentUnreachable, AgentStopped, Expired, Congested, and MessageTooLarge or
        PayloadMismatch of the request (definite: not executed); HandlerFailed, RequestTimeout, LinkLost,
        and MessageTooLarge or PayloadMismatch of the answer (not definite: the handler ran, or may have).
        """

    def breathe(self) -> Awaitable[None]: ...
    @property
    def when_full(self) -> int: ...
    def bound(self, when_full: str, messages_max: int | None, bytes_max: int | None) -> None:
        """What its mailbox holds, None as the config says, and does when it is full; before it gets mail."""

    def take_returned(self) -> AgentMessage | None: ...
    def once(self, message: AgentMessage, changes: Mapping[str, bytes | None] | None, result: Any) -> Any: ...
    @property
    def store(self) -> Store: ...
    def attends(self, message: AgentMessage) -> bool: ...
    def end_returned(self) -> None: ...
    def take(self) -> AgentMessage | None: ...
    def rest(self) -> None: ...
