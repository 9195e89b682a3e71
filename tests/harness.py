"""What the core's tests share: the simulator, and the numbers that frames are told by."""

from __future__ import annotations

from agentnet.sim import MS, Agent, Link, Node, Pipe, Token, Weather, World
from agentnet.sim.node import address_of
from agentnet.sim.world import UUID

__all__ = ["MS", "UUID", "Agent", "Link", "Node", "Pipe", "Token", "Weather", "World", "address_of"]

HELLO, WELCOME, CLOSE, PING, PONG, CREDIT, STOP, GO = range(8)
MEMBERS, AGENTS, CONFIRM, PROBE, VOUCH, DIGEST, RETIRE, STAY = range(8, 16)
STATUS, PULL = 18, 19
DONE, RETURN = 22, 23
GOSSIP = 24
TUNNEL, CARRY = 31, 33
MESSAGE, REFUSED, STATE_CHUNK = 16, 17, 30
CANCEL, GRANT, TAKE = 32, 34, 41
OPTIONAL_FIELDS, CHECKED = 1, 2
