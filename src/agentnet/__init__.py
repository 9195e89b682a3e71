"""agentnet: agents that find each other, talk, and survive failure across machines.

A name is imported when it is first asked for: pytest imports this package in every run, for the plugin
`agentnet.testing`, and should not load all of it where no test uses that.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentnet.agent import Agent, AgentSpec
    from agentnet.app import run
    from agentnet.call import Call, Fate
    from agentnet.config import NetworkConfig
    from agentnet.leaving import LeaveReport
    from agentnet.manager import AgentNetworkManager
    from agentnet.state import ConsistencyLevel, StateChange
    from agentnet.syncing import DistributedState, SyncReceipt
    from agentnet_core.errors import (
        AgentExists,
        AgentStopped,
        AgentUnreachable,
        CallCycle,
        CausalGap,
        ChainSpent,
        ConfigError,
        Congested,
        Contradiction,
        DeadLettered,
        DeliveryForgotten,
        DeliveryTimeout,
        DeliveryUnsupported,
        Expired,
        Forged,
        FromFuture,
        HandlerFailed,
        HandlerStuck,
        HandshakeRefused,
        JoinFailed,
        LimitReached,
        LinkLost,
        MessageTooLarge,
        NetworkError,
        NoSuchAgent,
        NotOwner,
        NotRunning,
        PayloadMismatch,
        ProtocolError,
        Recalled,
        RelayRefused,
        RequestTimeout,
        StateConflict,
        StorageBusy,
        StorageDamaged,
        StorageFailed,
        StorageFull,
        StorageLocked,
        TooFewReplicas,
        Unconfirmed,
        UsageError,
    )
    from agentnet_core.message import AgentMessage
    from agentnet_core.records import (
        AgentNode,
        DeadLetter,
        Delivery,
        Event,
        Member,
        MessagePriority,
        MessageType,
        NodeStatus,
        Reached,
        Receipt,
    )

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "AgentExists",
    "AgentMessage",
    "AgentNetworkManager",
    "AgentNode",
    "AgentSpec",
    "AgentStopped",
    "AgentUnreachable",
    "Call",
    "CallCycle",
    "CausalGap",
    "ChainSpent",
    "ConfigError",
    "Congested",
    "ConsistencyLevel",
    "Contradiction",
    "DeadLetter",
    "DeadLettered",
    "Delivery",
    "DeliveryForgotten",
    "DeliveryTimeout",
    "DeliveryUnsupported",
    "DistributedState",
    "Event",
    "Expired",
    "Fate",
    "Forged",
    "FromFuture",
    "HandlerFailed",
    "HandlerStuck",
    "HandshakeRefused",
    "JoinFailed",
    "LeaveReport",
    "LimitReached",
    "LinkLost",
    "Member",
    "MessagePriority",
    "MessageTooLarge",
    "MessageType",
    "NetworkConfig",
    "NetworkError",
    "NoSuchAgent",
    "NodeStatus",
    "NotOwner",
    "NotRunning",
    "PayloadMismatch",
    "ProtocolError",
    "Reached",
    "Recalled",
    "Receipt",
    "RelayRefused",
    "RequestTimeout",
    "StateChange",
    "StateConflict",
    "StorageBusy",
    "StorageDamaged",
    "StorageFailed",
    "StorageFull",
    "StorageLocked",
    "SyncReceipt",
    "TooFewReplicas",
    "Unconfirmed",
    "UsageError",
    "run",
]

_HOMES = {
    "Agent": "agentnet.agent",
    "AgentExists": "agentnet_core.errors",
    "AgentMessage": "agentnet_core.message",
    "AgentNetworkManager": "agentnet.manager",
    "AgentNode": "agentnet_core.records",
    "AgentSpec": "agentnet.agent",
    "AgentStopped": "agentnet_core.errors",
    "AgentUnreachable": "agentnet_core.errors",
    "Call": "agentnet.call",
    "CallCycle": "agentnet_core.errors",
    "CausalGap": "agentnet_core.errors",
    "ChainSpent": "agentnet_core.errors",
    "ConfigError": "agentnet_core.errors",
    "Congested": "agentnet_core.errors",
    "Contradiction": "agentnet_core.errors",
    "DeadLetter": "agentnet_core.records",
    "DeadLettered": "agentnet_core.errors",
    "Delivery": "agentnet_core.records",
    "DeliveryForgotten": "agentnet_core.errors",
    "DeliveryTimeout": "agentnet_core.errors",
    "DeliveryUnsupported": "agentnet_core.errors",
    "DistributedState": "agentnet.syncing",
    "Event": "agentnet_core.records",
    "ConsistencyLevel": "agentnet.state",
    "Expired": "agentnet_core.errors",
    "Fate": "agentnet.call",
    "Forged": "agentnet_core.errors",
    "FromFuture": "agentnet_core.errors",
    "HandlerFailed": "agentnet_core.errors",
    "HandlerStuck": "agentnet_core.errors",
    "HandshakeRefused": "agentnet_core.errors",
    "JoinFailed": "agentnet_core.errors",
    "LeaveReport": "agentnet.leaving",
    "LimitReached": "agentnet_core.errors",
    "LinkLost": "agentnet_core.errors",
    "Member": "agentnet_core.records",
    "MessagePriority": "agentnet_core.records",
    "MessageTooLarge": "agentnet_core.errors",
    "MessageType": "agentnet_core.records",
    "NetworkConfig": "agentnet.config",
    "NetworkError": "agentnet_core.errors",
    "NoSuchAgent": "agentnet_core.errors",
    "NodeStatus": "agentnet_core.records",
    "NotOwner": "agentnet_core.errors",
    "NotRunning": "agentnet_core.errors",
    "PayloadMismatch": "agentnet_core.errors",
    "ProtocolError": "agentnet_core.errors",
    "Reached": "agentnet_core.records",
    "Recalled": "agentnet_core.errors",
    "Receipt": "agentnet_core.records",
    "RelayRefused": "agentnet_core.errors",
    "RequestTimeout": "agentnet_core.errors",
    "StateChange": "agentnet.state",
    "StateConflict": "agentnet_core.errors",
    "StorageBusy": "agentnet_core.errors",
    "StorageDamaged": "agentnet_core.errors",
    "StorageFailed": "agentnet_core.errors",
    "StorageFull": "agentnet_core.errors",
    "StorageLocked": "agentnet_core.errors",
    "SyncReceipt": "agentnet.syncing",
    "TooFewReplicas": "agentnet_core.errors",
    "Unconfirmed": "agentnet_core.errors",
    "UsageError": "agentnet_core.errors",
    "run": "agentnet.app",
}

if not TYPE_CHECKING:  # which would take every name for one of this package

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
