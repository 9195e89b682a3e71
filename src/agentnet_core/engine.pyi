from collections.abc import Awaitable, Callable
from typing import Any

from typing_extensions import disjoint_base

from agentnet_core.calls import Calls
from agentnet_core.config import EngineConfig
from agentnet_core.errors import NetworkError
from agentnet_core.framing import Arena
from agentnet_core.membership import Dial
from agentnet_core.message import AgentMessage
from agentnet_core.outflow import Route
from agentnet_core.records import AgentRecord, MessagePriority, MessageType
from agentnet_core.session import Session

@disjoint_base
class Port(Route):
    parked: bool
    def __init__(self, engine: Engine, record: AgentRecord) -> None: ...
    @property
    def engine(self) -> Engine: ...
    @property
    def served_ns(self) -> int: ...
    @property
    def pending_messages(self) -> int: ...
    def send(
        self,
        to: int | str,
        payload: Any,
        *,
        message_type: MessageType | int = ...,
        priority: MessagePriority | int = ...,
        ttl: float = 0.0,
        message_id: str | None = None,
    ) -> Awaitable[None]:
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
    ) -> Awaitable[Any]:
        """Ask agent `to`; await the result for what its handler returned.

        `timeout`: seconds. `reply`: a type to decode the answer to.  Raises, when awaited:
        NoSuchAgent, AgentUnreachable, Expired, Congested (definite: not executed); HandlerFailed,
        RequestTimeout, LinkLost (not definite).
        """

    def breathe(self) -> Awaitable[None]: ...
    def take(self) -> AgentMessage | None: ...
    def rest(self) -> None: ...

@disjoint_base
class Engine(Calls):
    def __init__(
        self,
        node_id: str,
        incarnation: int,
        config: EngineConfig,
        now_ns: int,
        *,
        make_token: Callable[[], Any],
        to_bytes: Callable[[Any], tuple[bytes, int]],
        wake: Callable[[], object],
    ) -> None: ...
    @property
    def arena(self) -> Arena: ...
    @property
    def ports(self) -> dict[int, Port]: ...
    @property
    def links(self) -> list[Session]: ...
    def broadcast(self, message: AgentMessage, from_agent: int, content: int = 0) -> list[Any]: ...
    def receive(self, session: Session, n: int) -> None: ...
    def put_control(self, session: Session, kind: int, body: bytes) -> None: ...
    def ping(self, session: Session) -> None: ...
    def open(
        self, *, secure: bool, address: str, certified: str | None = None, dial: Dial | None = None
    ) -> Session: ...
    def rouse_session(self, session: Session) -> None: ...
    def welcome(self, session: Session) -> None: ...
    def fail(self, session: Session, error: NetworkError) -> None: ...
    def down(self, session: Session, error: NetworkError) -> None: ...
    def forget_session(self, session: Session) -> None: ...
    def resume(self, session: Session) -> None: ...
    def add_port(self, port: Port) -> None: ...
    def remove_port(self, port: Port) -> None: ...
    def drop_routes(self, record: AgentRecord) -> None: ...
    def tick(self, now_ns: int) -> None: ...
    def stats(self) -> dict[str, int]: ...
