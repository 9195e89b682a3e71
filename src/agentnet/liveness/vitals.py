"""The liveness of one node: its ports and its heartbeat, and what it asks of others.

A beat is told to the native thread four times a second (`heart`): one clock reading and one store, and
nothing at all per message.
"""

from __future__ import annotations

import logging
import secrets
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from agentnet.config import Address, NetworkConfig
from agentnet.liveness.heart import heart
from agentnet.liveness.packets import (
    LOCKED,
    LOCKED_TEXT,
    SALT_BYTES,
    SECRET_BYTES,
    STACK,
    STILL,
    Answer,
    make_ticket,
)
from agentnet.liveness.prober import Prober
from agentnet.transport.sockets import look_up, why
from agentnet_core.control import Control
from agentnet_core.engine import Engine
from agentnet_core.errors import NetworkError, OutageError
from agentnet_core.records import Event
from agentnet_core.session import Session

if TYPE_CHECKING:
    from agentnet.liveness.responder import Pulse

log = logging.getLogger("agentnet.liveness")

MS = 1_000_000
BACKLOG = 64


class Vitals:
    """Made when the node starts; `open` once it listens, `close` when it has left."""

    def __init__(
        self,
        engine: Engine,
        control: Control,
        config: NetworkConfig,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._engine = engine
        self._control = control
        self._config = config
        self._prober = Prober(config, spawn, self._hear)
        self._secret = secrets.token_bytes(SECRET_BYTES)
        self._sockets: tuple[socket.socket, ...] = ()
        self._pulse: Pulse | None = None
        self._heart = heart()
        self._counts = (0, 0)
        control.admission.offer_liveness = self.offer

    # -- answering

    async def open(self, addresses: Sequence[Address]) -> None:
        """Answer at two ports beside the first of ``addresses``, if there is one.

        OutageError if ``liveness_at`` says which, and it cannot be had; without one it is a warning.
        """
        if not (addresses and self._config.liveness_ports) or sys.platform == "win32":
            return
        # Not at the head of this file: on Windows there is no such thread.
        from agentnet.liveness import watchdog
        from agentnet.liveness.responder import Pulse

        try:
            self._sockets = await bind(addresses[0], self._config)
            udp, tcp = (sock.fileno() for sock in self._sockets)
            lag_ns_max = self._config.inactive_lag_ms * MS
            make = partial(Pulse, udp, tcp, self._secret, self._engine.incarnation, lag_ns_max)
            self._pulse = watchdog.watch(make, self._sockets)
        except NetworkError as error:
            self._close_sockets()
            if self._config.liveness_at:
                raise
            log.warning("node %s has no liveness ports: %s", self._engine.node_id, error)
        else:
            self._heart.add(self._beat)

    def offer(self) -> tuple[int, int, bytes] | None:
        """What the Hello of a new link says: the ports, and a key for that link alone."""
        if self._pulse is None:
            return None
        udp, tcp = (sock.getsockname()[1] for sock in self._sockets)
        return udp, tcp, make_ticket(self._secret, secrets.token_bytes(SALT_BYTES))

    def _beat(self) -> None:
        """The event loop turns; an event tells if it had stood."""
        stood = self._pulse.beat() if self._pulse is not None else None
        if stood is None:
            return
        lag_ns, state, stack = stood
        detail = f"the event loop of this node stood for {lag_ns // MS} ms"
        if state == STACK:
            detail += f", in\n{stack.decode('utf-8', 'replace')}"
        elif state == LOCKED:
            detail += f"; {LOCKED_TEXT}"
        elif state == STILL:
            detail += ", as its whole process was stopped or had no time to run"
        self._engine.event(Event(Event.BLOCKED, self._engine.node_id, detail=detail))

    # -- asking

    def ask(self, session: Session) -> None:
        """Ask the peer of that link; the engine hears what it answers."""
        self._prober.ask(session)

    def _hear(self, session: Session, answer: Answer) -> None:
        self._engine.now_ns = monotonic_ns()
        self._control.alive(session, answer.lag_ns, answer.stack)

    # -- life

    def close(self) -> None:
        """Answer and ask no more; with the last node of the process its threads end."""
        self._prober.close()
        if self._pulse is not None:
            from agentnet.liveness import watchdog

            self._heart.remove(self._beat)
            self._counts = self._pulse.counts()
            watchdog.unwatch(self._pulse)
            self._pulse = None
        self._close_sockets()

    def _close_sockets(self) -> None:
        for sock in self._sockets:
            sock.close()
        self._sockets = ()

    def stats(self) -> dict[str, int]:
        """Every counter, by name."""
        answered, dropped = self._pulse.counts() if self._pulse is not None else self._counts
        return {
            "probes_sent": self._prober.probes,
            "probes_heard": self._prober.answers,
            "probes_answered": answered,
            "probes_dropped": dropped + self._prober.forged,
        }


async def bind(address: Address, config: NetworkConfig) -> tuple[socket.socket, socket.socket]:
    """A UDP socket and a listening TCP socket at the host of ``address``."""
    failure: OSError | None = None
    for family, place in await look_up(address.with_port(config.liveness_at), config, "liveness port of"):
        made: list[socket.socket] = []
        try:
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                sock = socket.socket(family, kind)
                made.append(sock)
                sock.setblocking(False)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                if kind == socket.SOCK_STREAM:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(place)
            made[1].listen(BACKLOG)
        except OSError as error:
            failure = error
            for sock in made:
                sock.close()
        else:
            return made[0], made[1]
    assert failure is not None  # look_up gives at least one place
    raise OutageError(f"cannot have a liveness port at {address.host}: {why(failure)}") from failure
