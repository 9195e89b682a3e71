"""What tests of deliveries share: sends that wait for nothing, and a peer that hands letters in by hand."""

from __future__ import annotations

from typing import Any

import msgpack
from harness import DONE, MESSAGE, OPTIONAL_FIELDS, RETURN, UUID, Agent, Node, Token, World
from strangers import Stranger

from agentnet_core.config import EngineConfig
from agentnet_core.handshake import FEATURE_DELIVERY
from agentnet_core.records import Delivery, Reached, agent_id_of

ACKNOWLEDGED, DURABLE = Delivery.ACKNOWLEDGED, Delivery.DURABLE
PROCESSED, MAILBOXED = Reached.PROCESSED, Reached.MAILBOXED


def send(agent: Agent, to: int | str, *payloads: bytes, **options: Any) -> list[Token]:
    """Send, and let the node turn."""
    node = agent.node
    options = {"delivery": ACKNOWLEDGED} | options
    node.engine.now_ns = node.clock.now_ns
    tokens: list[Any] = [agent.send(to, payload, **options) for payload in payloads]
    node.turn()
    return tokens


def numbers(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def settled(world: World, tokens: list[Token], ms: float = 60_000) -> list[Any]:
    world.until(lambda: all(token.done for token in tokens), ms)
    return [token.outcome for token in tokens]


def pair(world: World, **options: Any) -> tuple[Node, Node, Agent, Agent]:
    """Two nodes, an agent on the first that sends, and a sink on the second."""
    a, b = world.join("a", "b", config=EngineConfig(**options) if options else None)
    return a, b, a.agent("source"), b.agent("sink", lambda _: None)


class Hand(Stranger):
    """Sends letters to the agent `sink` of a node, and hears what it says of them."""

    def begin(self) -> None:
        self.introduce(features_optional=FEATURE_DELIVERY)
        self.seq = 0

    def letter(self, number: int, prior: int = 0, care: int = 9, attempt: int = 1, epoch: int = 7) -> None:
        self.seq += 1
        body = msgpack.packb([55, agent_id_of("sink"), self.seq, number, 1, 1, 0, 0, b"%d" % number])
        body += msgpack.packb({5: [care, attempt, epoch, prior]})
        self.say(MESSAGE, body, OPTIONAL_FIELDS)
        self.world.run(50)

    @property
    def done(self) -> list[list[int]]:
        """[reached, first, last] of each run."""
        return [run[4:] for body in self.bodies(DONE) for run in msgpack.unpackb(body)]

    @property
    def returned(self) -> list[tuple[int, int]]:
        return [tuple(msgpack.unpackb(body)[4:6]) for body in self.bodies(RETURN)]


def handed() -> tuple[Hand, Agent]:
    world = World()
    node = world.node("m")
    node.control.found(UUID)
    sink = node.agent("sink", lambda _: None)
    hand = Hand(world, node, name="a")
    hand.begin()
    return hand, sink
