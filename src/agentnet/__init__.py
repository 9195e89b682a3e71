"""agentnet: agents that find each other, talk, and survive failure across machines."""

from __future__ import annotations

from agentnet.agent import Agent, AgentSpec
from agentnet.app import run
from agentnet.config import NetworkConfig
from agentnet.manager import AgentNetworkManager
from agentnet_core.errors import (
    AgentExists,
    AgentStopped,
    AgentUnreachable,
    ConfigError,
    Congested,
    Expired,
    HandlerFailed,
    HandlerStuck,
    HandshakeRefused,
    JoinFailed,
    LimitReached,
    LinkLost,
    MessageTooLarge,
    NetworkError,
    NoSuchAgent,
    NotRunning,
    PayloadMismatch,
    ProtocolError,
    RequestTimeout,
    Unconfirmed,
)
from agentnet_core.message import AgentMessage
from agentnet_core.records import AgentNode, Event, Member, MessagePriority, MessageType, NodeStatus

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
    "ConfigError",
    "Congested",
    "Event",
    "Expired",
    "HandlerFailed",
    "HandlerStuck",
    "HandshakeRefused",
    "JoinFailed",
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
    "NotRunning",
    "PayloadMismatch",
    "ProtocolError",
    "RequestTimeout",
    "Unconfirmed",
    "run",
]
