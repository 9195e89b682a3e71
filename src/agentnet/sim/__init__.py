"""A seeded simulator: whole networks of production engines on virtual time, with faults.

One seed is one history.  See `agentnet.sim.world` for what it can do.
"""

from __future__ import annotations

from agentnet.sim.clock import MS, Clock
from agentnet.sim.forest import Forest
from agentnet.sim.link import Link
from agentnet.sim.network import Network, Pipe, Weather
from agentnet.sim.node import Agent, Node
from agentnet.sim.token import Token
from agentnet.sim.world import World

__all__ = ["MS", "Agent", "Clock", "Forest", "Link", "Network", "Node", "Pipe", "Token", "Weather", "World"]
