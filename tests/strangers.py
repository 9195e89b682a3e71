"""A peer that speaks frames by hand, for what no engine would say."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from harness import (
    CARRY,
    CHECKED,
    CLOSE,
    HELLO,
    MESSAGE,
    STATE_CHUNK,
    UUID,
    WELCOME,
    Link,
    Node,
    Pipe,
    World,
    address_of,
)

from agentnet_core.agent_record import AgentRecord
from agentnet_core.body import pack
from agentnet_core.framing import Arena, Decoder, crc32c
from agentnet_core.handshake import FEATURE_SIGNED, FEATURE_STATES, Close, Hello, Welcome
from agentnet_core.listing import wire_form
from agentnet_core.member_record import NodeRecord, Standing
from agentnet_core.session import Session
from agentnet_core.signing import LEAVE, LIST, NODE, Head, Seal
from agentnet_core.tally import Tally


class Stranger:
    """Somebody at the other end of a link who speaks frames by hand: what no engine would say."""

    def __init__(self, world: World, node: Node, *, name: str = "stranger") -> None:
        self.world, self.name = world, name
        self.decoder = Decoder(Arena(1 << 20), True)
        self.heard: list[tuple[int, int, bytes]] = []
        self.ended: str | None = None
        self._chains = [0, 0]
        self._out, back = Pipe(world.network, name, node.name), Pipe(world.network, node.name, name)
        self._out.writer, back.reader = self, self
        self.link = Link(node, back, self._out, address_of(name), name, None)

    @property
    def session(self) -> Session:
        """The node's view of the link."""
        return self.link.session

    def say(self, kind: int, body: bytes, flags: int = 0) -> None:
        self.say_bytes(self.sealed(kind, body, flags))

    def sealed(self, kind: int, body: bytes, flags: int = 0) -> bytes:
        """The next frame of its lane."""
        lane = kind in (MESSAGE, STATE_CHUNK, CARRY)
        data = frame(kind, body, flags, self._chains[lane])
        self._chains[lane] = int.from_bytes(data[-4:], "big")
        return data

    def say_bytes(self, data: bytes) -> None:
        self._out.write(data)

    def introduce(self, **fields: Any) -> None:
        """Say HELLO, and WELCOME if that is for the stranger to say; the link is in use after that."""
        hello = Hello(
            **{"network": "default", "node_id": self.name, "incarnation": 1, "network_uuid": UUID}
            | {"credit_bytes": 512 * 1024, "checksum": 1}
            | {"features_optional": FEATURE_STATES}
            | {"features_required": 0 if self.world.notary is None else FEATURE_SIGNED}
            | fields
        )
        self.say(HELLO, hello.encode())
        if hello.node_id > self.link.node.name:
            self.world.until(lambda: any(self.bodies(HELLO)) or self.ended)
            self.say(WELCOME, Welcome(hello.network_uuid).encode())
        self.world.until(lambda: self.session.welcomed or self.ended)

    def bodies(self, kind: int) -> Iterator[bytes]:
        """What it has heard of that kind."""
        return (body for heard, _, body in self.heard if heard == kind)

    @property
    def close(self) -> Close | None:
        """Why the node closed the link, if it did."""
        return next((Close.decode(body) for body in self.bodies(CLOSE)), None)

    # -- as the pipes see it

    def received(self, data: bytes | memoryview) -> None:
        self.heard += self.decoder.feed(bytes(data))

    def lost(self, reason: str) -> None:
        self.ended = reason

    def later(self, pipe: Pipe) -> None:
        pipe.deliver()

    def pause(self) -> None:
        """It writes on, whatever the pipe holds."""

    def resume(self) -> None:
        """It never paused."""


class Pen:
    """What a node would sign by itself, in the form in which others tell it; ``key``: whose key is used."""

    def __init__(self, world: World, name: str, *, uuid: bytes = UUID, key: str = "") -> None:
        assert world.notary is not None
        self.name, self.uuid, self.key = name, uuid, world.notary.issue(key or name)

    def sign(self, word: str, *said: object) -> bytes:
        return self.key.sign(pack([word, self.uuid, *said]))

    def record(
        self, incarnation: int = 1, version: int = 0, addresses: tuple[str, ...] = (), **more: Any
    ) -> NodeRecord:
        """The node, as it says itself."""
        addresses = addresses or (address_of(self.name),)
        signature = self.sign(NODE, self.name, incarnation, version, list(addresses))
        fields = {"seal": Seal(signature, self.key.certificate)} | more
        return NodeRecord(self.name, incarnation, addresses, version, **fields)

    def farewell(self, incarnation: int = 1) -> NodeRecord:
        """That it has left."""
        seal = Seal(self.sign(LEAVE, self.name, incarnation), self.key.certificate)
        return NodeRecord(self.name, incarnation, (), standing=Standing.LEFT, seal=seal)

    def head(self, version: int, *agents: AgentRecord, incarnation: int = 1) -> Head:
        """What a version of its list comes to."""
        tally = Tally()
        for agent in agents:
            tally.add(pack(wire_form(agent)))
        said = tally.count, tally.digest()
        return Head(*said, self.sign(LIST, self.name, incarnation, version, *said))


def frame(kind: int, body: bytes, flags: int = 0, chain: int = 0) -> bytes:
    """One frame, written here a second time so that nothing is tested by itself.

    ``chain``: the checksum of the frame before it in its lane.
    """
    inner = bytes([kind, flags | CHECKED]) + body
    return struct.pack(">I", len(inner) + 4) + inner + struct.pack(">I", crc32c(inner, chain))
