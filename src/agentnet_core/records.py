"""The nouns of the network: what a message, an agent and a node are called and can be.

Plain data, no behaviour; every room below may hold these.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, IntEnum, StrEnum
from hashlib import blake2b
from typing import Any, NamedTuple

from agentnet_core.agent_record import AgentRecord


class MessageType(IntEnum):
    """What a message is for; the number is its form on the wire."""

    STATE_SYNC = 0
    COMMAND = 1
    QUERY = 2
    RESPONSE = 3
    HEARTBEAT = 4
    BROADCAST = 5


class MessagePriority(IntEnum):
    """Strict within a mailbox, but one in sixteen goes to the longest waiting lower level."""

    LOW = 0
    NORMAL = 1
    HIGH = 2
    CRITICAL = 3


class Delivery(IntEnum):
    """What a send promises; the number is its form on the wire.

    AT_MOST_ONCE: it is on its way. ACKNOWLEDGED: the other side said that it has it, or has processed it; it
    is sent again until then, or until the deadline, and handled once while the receiver's process lives.
    DURABLE: it is on this node's disk, if there is one, and is kept and sent again, across restarts of either
    side, until it is processed.
    """

    AT_MOST_ONCE = 0
    ACKNOWLEDGED = 1
    DURABLE = 2


class Reached(IntEnum):
    """How far a message has come."""

    KEPT = 1
    """The sender's node keeps it until it is processed."""
    MAILBOXED = 2
    """It is in the mailbox of its receiver, and is lost with that process."""
    PROCESSED = 3
    """Its handler has returned."""


class Receipt(NamedTuple):
    """How far a message has come, and on which node that is. ``on_disk``: what is said is on the disk of that
    node, else only in its memory. ``attempts``: how often it was sent until then."""

    reached: Reached
    node_id: str
    attempts: int
    on_disk: bool


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A DURABLE message that could not be processed. ``number``: its name at its node. ``code``: of the error
    that it died of, ``reason``: the words."""

    number: int
    from_agent: int
    to_agent: int
    payload: bytes
    message_id: str
    code: int
    reason: str


class NodeStatus(Enum):
    """ACTIVE: fresh heartbeats. INACTIVE: alive, its event loop does not answer.
    DISCONNECTED: unreachable. MAINTENANCE: draining by request."""

    ACTIVE = "active"
    INACTIVE = "inactive"
    DISCONNECTED = "disconnected"
    MAINTENANCE = "maintenance"


@dataclass(frozen=True, slots=True)
class Member:
    """A node as another sees it. ``incarnation`` grows with each start of the same node id.

    ``lag_ms``: for how long its event loop has stood, if it is INACTIVE. ``liveness``: "port" if its
    liveness port answers, so that a busy node is told from a dead one; "link" if none can be reached,
    so that only the silence of the link tells, and a node that is DISCONNECTED may have been busy; ""
    for this node itself, and for one that was never linked.

    What its link has proven: ``rtt_ms``, the last successful round trip, None if there was none yet;
    ``proven``, when that was, in nanoseconds since the epoch; ``load``, the messages that waited in the
    mailboxes of the node then.

    ``relay``: the node through which it is linked, if it cannot be dialled; else empty.
    """

    node_id: str
    incarnation: int
    addresses: tuple[str, ...]
    status: NodeStatus = NodeStatus.ACTIVE
    last_heartbeat: int = 0
    plaintext: bool = False
    lag_ms: int = 0
    liveness: str = ""
    rtt_ms: float | None = None
    proven: int = 0
    load: int = 0
    relay: str = ""

    @property
    def place(self) -> tuple[str, int]:
        """Host and port of the first address, which may be of a scheme that this version does not know."""
        if not self.addresses:
            return "", 0
        host, _, port = self.addresses[0].partition("://")[2].rpartition(":")
        return host.strip("[]"), int(port)


@dataclass(frozen=True, slots=True)
class AgentNode:
    """One registered agent on its node; address and port are the node's advertised ones.

    ``last_heartbeat``: nanoseconds since the epoch at which the node was last heard from. ``health``:
    why the agent cannot work now, as it says itself; empty when it is well. ``rtt_ms``, ``proven`` and
    ``load`` are the node's, as of `Member`.
    """

    node_id: str
    agent_id: int
    address: str
    port: int
    capabilities: list[str]
    status: NodeStatus
    last_heartbeat: int
    metadata: dict[str, str]
    name: str | None = None
    health: str = ""
    rtt_ms: float | None = None
    proven: int = 0
    load: int = 0
    groups: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, record: AgentRecord, member: Member, place: tuple[str, int]) -> AgentNode:
        """The agent of ``record`` on ``member``, whose ``place`` is given: nodes have many agents."""
        return cls(
            node_id=record.node_id,
            agent_id=record.agent_id,
            address=place[0],
            port=place[1],
            capabilities=list(record.capabilities),
            status=member.status,
            last_heartbeat=member.last_heartbeat,
            metadata=dict(record.metadata or {}),
            name=record.name,
            health=record.health,
            rtt_ms=member.rtt_ms,
            proven=member.proven,
            load=member.load,
            groups=list(record.groups),
        )

    @classmethod
    def all_of(cls, records: Iterable[AgentRecord], members: Iterable[Member]) -> list[AgentNode]:
        """The agents of these records whose nodes are among the members."""
        nodes = {member.node_id: (member, member.place) for member in members}
        return [cls.of(record, *nodes[record.node_id]) for record in records if record.node_id in nodes]


class WhenFull(StrEnum):
    """What a mailbox does that is full: its limits are the agent's, or the config's."""

    BLOCK = "block"
    """Senders wait, from three quarters on."""
    DROP_OLDEST = "drop-oldest"
    """The oldest message of the lowest priority goes."""
    DROP_NEWEST = "drop-newest"
    """The message that came goes."""
    DEAD_LETTER = "dead-letter"
    """The message that came is a dead letter: of its sender, if that was promised something, else of this
    node."""

    @property
    def number(self) -> int:
        return list(WhenFull).index(self)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, by value. ``kind`` is one of the constants of this class."""

    kind: str
    node_id: str = ""
    agent_id: int = 0
    name: str | None = None
    detail: str = ""
    count: int = 1
    error: BaseException | None = field(default=None, compare=False)

    JOINED = "joined"
    LEFT = "left"
    LOST = "lost"
    AGENT_REGISTERED = "agent_registered"
    AGENT_GONE = "agent_gone"
    AGENT_CONFLICT = "agent_conflict"
    UNDELIVERABLE = "undeliverable"
    HANDLER_FAILED = "handler_failed"
    LINK_REFUSED = "link_refused"
    LINK_LOST = "link_lost"
    INACTIVE = "inactive"
    """A node is alive, but its event loop stands; ``detail``: since when, and where."""
    ACTIVE = "active"
    """The event loop of an INACTIVE node turns again."""
    BLOCKED = "blocked"
    """The event loop of this node itself stood for a while; ``detail``: for how long, and where."""
    FORGED = "forged"
    """A node told what the node that it is about did not sign; ``detail`` names both."""
    STATE_REFUSED = "state_refused"
    """A change of a state came that was not taken; ``name``: the state, ``detail``: why not."""
    STATE_CONTRADICTION = "state_contradiction"
    """Likewise, of an event that has two contents, or that this node is said to have made and did not: two
    processes use one name, or somebody lies."""
    STATE_UNCONFIRMED = "state_unconfirmed"
    """What a node that is gone did to a state is known of one other node alone, so it was taken on its word;
    told once for each actor."""
    STATE_CONFLICT = "state_conflict"
    """A rule for conflicts failed, so the siblings are kept; ``name``: the state, ``detail``: how."""
    DEAD_LETTER = "dead_letter"
    """A DURABLE message of this node is a dead letter; ``agent_id``: to whom, ``detail``: why."""
    LEASE_EXPIRED = "lease_expired"
    """A handler had a message that was sent with a promise for too long, or left it; it was given back."""
    STORAGE_FAILED = "storage_failed"
    """The disk of this node failed: nothing is written any more until it is started again."""
    MAILBOX_FULL = "mailbox_full"
    """An agent's mailbox dropped ``count`` messages, as its policy says."""
    EVENTS_MISSED = "events_missed"


def agent_id_of(agent: int | str) -> int:
    """The id of an agent given by id or by name: an id stays, a name is hashed (BLAKE2b, 8 bytes).

    >>> agent_id_of(7)
    7
    >>> agent_id_of("reader") == agent_id_of("reader")
    True
    """
    if isinstance(agent, str):
        # What UTF-8 cannot hold is registered nowhere, but asking for it is no error of its own.
        name = agent.encode("utf-8", "surrogatepass")
        return int.from_bytes(blake2b(name, digest_size=8).digest(), "big") or 1
    return agent


def describe(value: Any, limit: int = 80) -> str:
    """A short form of a value that a peer sent, safe to print: control characters escaped."""
    text = ascii(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
