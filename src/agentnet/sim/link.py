"""One end of a simulated connection: what `agentnet.link` is to a socket, this is to a pipe."""

from __future__ import annotations

from typing import Any, Protocol
from zlib import crc32

from agentnet.sim.network import End, Pipe
from agentnet_core.dials import Dial
from agentnet_core.errors import LinkLost
from agentnet_core.session import Session


class Way(Protocol):
    """What a link writes to: a pipe, or a tunnel."""

    reader: End
    writer: End
    ended: bool
    mute: bool

    def write(self, data: bytes | memoryview) -> None: ...
    def end(self) -> None: ...
    def cut(self, reason: str) -> None: ...


class Link:
    """One end of a connection, between a pipe and an engine: what `agentnet.link` is to a socket."""

    def __init__(
        self,
        node: Any,
        out: Way,
        back: Way,
        address: str,
        certificate: str,
        dial: Dial | None,
        relay: str = "",
    ) -> None:
        self.node, self.out, self.back = node, out, back
        out.writer, back.reader = self, self
        engine = node.engine
        engine.now_ns = node.clock.now_ns
        self._engine = engine  # that of this process: a node that is started again has another
        self.session: Session = engine.open(
            secure=node.world.notary is not None,
            address=address,
            certified=certificate if node.world.notary is not None else None,
            dial=dial,
            relay=relay,
        )
        self.session.link = self

    # -- from the pipes

    def later(self, pipe: Pipe) -> None:
        if self._engine is self.node.engine:
            self.node.act(pipe.deliver)

    def received(self, data: bytes | memoryview) -> None:
        node = self.node
        if self._gone:
            return
        node.clock.note("read", node.name, len(data), crc32(data))
        node.engine.now_ns = node.clock.now_ns
        memoryview(node.engine.arena.view)[: len(data)] = data
        node.engine.receive(self.session, len(data))
        if node.engine.has_mail:
            node.turn()

    def lost(self, reason: str) -> None:
        self.out.ended = True
        if not (self._gone or self.session.closed):
            self._engine.now_ns = self.node.clock.now_ns
            self._engine.down(
                self.session,
                LinkLost(f"{self.session.address} closed the connection: {reason}"),
                hung_up=True,
            )

    @property
    def _gone(self) -> bool:
        return self.node.dead or self._engine is not self.node.engine

    def pause(self) -> None:
        self.session.paused = True

    def resume(self) -> None:
        if self.session.paused and not self._gone:
            self._engine.resume(self.session)

    # -- from the node

    def flush(self) -> None:
        while not (self.session.paused or self.out.ended):
            piece = self.session.take()
            if piece is None:
                return
            self.out.write(piece)

    def shut(self) -> None:
        self.session.paused = False
        self.flush()
        self.out.end()
        self._engine.forget_session(self.session)

    # -- faults

    def mute(self) -> None:
        """From now on nothing that either end writes arrives, and neither end learns why."""
        self.out.mute = self.back.mute = True

    def cut(self, reason: str = "connection reset") -> None:
        self.out.cut(reason)
        self.back.cut(reason)
