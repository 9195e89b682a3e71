"""A simulated process: one production Engine and Control, driven by their public contract alone.

A Node does with virtual time what the manager and the link do with asyncio: it fills the arena and
calls `receive`, carries out each `Ready` in the order of its fields, and ticks when `wake_ns` says so.
It can be paused, blocked, slow, killed, and started again with its disk or without.

An engine that settles a token twice, or raises where it should not, ends the simulation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

import msgpack

from agentnet.sim.clock import MS, Action, Clock
from agentnet.sim.disk import Disk
from agentnet.sim.link import Link
from agentnet.sim.network import READ_BYTES, End
from agentnet.sim.notary import Notary
from agentnet.sim.token import Token
from agentnet_core.agent_record import AgentRecord
from agentnet_core.config import EngineConfig
from agentnet_core.control import Control
from agentnet_core.dials import Dial
from agentnet_core.engine import Engine
from agentnet_core.errors import NetworkError, Recalled, failure_of
from agentnet_core.message import AgentMessage, Origin
from agentnet_core.port import Port, Work
from agentnet_core.records import Event, MessagePriority, agent_id_of
from agentnet_core.session import Session
from agentnet_core.tunnels import Tunnel

WALL_NS = 1_700_000_000 * 10**9
OFFER = (7401, 7402, bytes(range(48)))
"""Liveness ports and key: that there are some is all that matters here."""

Handle = Callable[[AgentMessage], Any]


class World(Protocol):
    """What a node asks of the world around it."""

    @property
    def clock(self) -> Clock: ...
    @property
    def notary(self) -> Notary | None: ...
    @property
    def nodes(self) -> Mapping[str, Node]: ...
    def dial(self, node: Node, dial: Dial) -> None: ...
    def probe(self, node: Node, session: Session) -> None: ...
    def acted(self, node: Node) -> None: ...


def address_of(name: str) -> str:
    return f"sim://{name}:1"


def to_bytes(value: Any) -> tuple[bytes, int]:
    """What a driver lends the engine: bytes as they are, anything else as MessagePack."""
    return (value, 0) if isinstance(value, bytes) else (msgpack.packb(value), 1)


class Mouth:
    """One end of a tunnel as a link has it, for both directions."""

    reader: End
    writer: End

    def __init__(self, node: Node, tunnel: Tunnel) -> None:
        self.ended = self.mute = False
        self._tunnel = tunnel
        there = node.world.nodes.get(tunnel.peer)
        certificate = there.certificate if there is not None else ""
        self.link = Link(node, self, self, tunnel.address, certificate, tunnel.dial, tunnel.relay)

    def write(self, data: bytes | memoryview) -> None:
        self._tunnel.write(data)
        self._tunnel.paused = self._tunnel.waiting > READ_BYTES
        if self._tunnel.paused:
            self.link.pause()

    def end(self) -> None:
        self.ended = True
        self._tunnel.close()

    def cut(self, reason: str) -> None:
        self._tunnel.abort(reason)
        self.link.lost(reason)

    def look(self) -> None:
        """There is something to read, or room to write, or the end."""
        tunnel = self._tunnel
        data = tunnel.read()
        for at in range(0, len(data), READ_BYTES):
            self.link.received(data[at : at + READ_BYTES])
        if tunnel.ended:
            self.link.lost(tunnel.lost or "end of stream")
        elif tunnel.paused and tunnel.waiting <= READ_BYTES:
            tunnel.paused = False
            self.link.resume()


class Agent(Port):
    """An agent of a node. ``handle``: called for each message, ``service_ns`` apart; what it returns
    answers a request, what it raises fails it, and a Token that it returns is waited for and answers when it
    is settled.  Without a handle nothing is taken until the test does."""

    def __init__(
        self, engine: Engine, node: Node, record: AgentRecord, handle: Handle | None, service_ns: int
    ) -> None:
        super().__init__(engine, record)
        self.node = node
        self.received: list[AgentMessage] = []
        self.recalled: list[AgentMessage] = []
        """Requests that it was at when they were given up."""
        self.gone = False
        """Whether its handlers, though they may come back, are taken for gone."""
        self._handle = handle
        self._service_ns = service_ns
        self._at: AgentMessage | None = None
        self._waits_for: Token | None = None
        self._work = Work(self)

    if TYPE_CHECKING:
        # At run time this is the Port's own; here its token is known.
        def request(  # type: ignore[override]  # nobody awaits here
            self,
            to: int | str,
            payload: Any,
            *,
            timeout: float | None = None,
            priority: MessagePriority | int = ...,
            reply: Any = None,
            operation_id: str | None = None,
        ) -> Token: ...

    @property
    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.received]

    def wake(self) -> None:
        if self._handle is not None:
            self._later()

    def serve(self, handle: Handle | None) -> None:
        """Handle what waits, and what comes from now on."""
        self._handle = handle
        self._later()

    def _later(self) -> None:
        self.node.clock.at(self.node.clock.now_ns + self._service_ns, self.node.act, self._serve)

    def _serve(self) -> None:
        if self._handle is None or self.engine is not self.node.engine:
            return
        self.engine.now_ns = self.node.clock.now_ns
        message = self.take_returned()
        if message is not None:
            self.end_returned()  # it is answered at once
        elif self._at is None:
            message = self.take()
        if message is None:
            return
        self.received.append(message)
        self.node.clock.note("handle", self.record.label, message.payload[:32], len(message.payload))
        self._work.message, self.engine.work = message, self._work
        failure: tuple[int, str, int] | None = None
        try:
            result = self._handle(message)
        except Exception as error:  # noqa: BLE001 - as of any handler: whatever it raises is the answer
            result, failure = b"", failure_of(error, f"agent {self.record.label}: {error}")
        finally:
            self.engine.work = None
        if isinstance(result, Token) and not result.done:
            self._at, self._waits_for = message, result
            result.then = lambda: self._answer(message, result.outcome)
            return
        self._answer(message, result, failure)

    def recall(self, origin: Origin, correlation: int) -> None:
        """That request of that node was given up, or all of it if that is 0: stop if it is at it."""
        at, waits_for = self._at, self._waits_for
        if (
            at is None
            or waits_for is None
            or at.origin is not origin
            or at.slip is not None
            or at.operation_id is not None
            or correlation not in (0, at.correlation)
            or (correlation == 0 and at.envelope is not None and at.envelope.streams)
        ):
            return
        self.recalled.append(at)
        waits_for.then = None
        waits_for.cancel()
        self._answer(
            at, b"", (Recalled.code, f"agent {self.record.label}: stopped, the request was given up")
        )

    def attends(self, message: AgentMessage) -> bool:
        return self._at is message and not self.gone

    def _answer(
        self,
        message: AgentMessage,
        result: Any,
        failure: tuple[int, str] | tuple[int, str, int] | None = None,
    ) -> None:
        self._at = self._waits_for = None
        self.engine.now_ns = self.node.clock.now_ns
        if isinstance(result, Token):
            result = result.outcome
        if isinstance(result, BaseException):
            result, failure = b"", failure_of(result, f"agent {self.record.label}: {result}")
        elif isinstance(result, AgentMessage):
            result = result.payload
        body, content = to_bytes(b"" if result is None else result)
        token = self.engine.reply(message, body, content, failure)
        if token is None:
            self._later()
        else:
            token.then = self._later

    def take_all(self) -> list[AgentMessage]:
        """Take what is in the mailbox, as a handler would that is there at last."""
        self.engine.now_ns = self.node.clock.now_ns
        return list(iter(self.take, None))


class Node:
    """One process, in virtual time. ``events``: all that it was told."""

    def __init__(
        self,
        world: World,
        name: str,
        *,
        incarnation: int = 1,
        config: EngineConfig | None = None,
        uuid: bytes = b"",
        certificate: str | None = None,
        ports: bool = True,
        disk: bool = False,
    ) -> None:
        self.world, self.clock, self.name = world, world.clock, name
        self.certificate = name if certificate is None else certificate
        self.config = config if config is not None else EngineConfig()
        self.events: list[Event] = []
        self.has_ports = ports
        self.disk = Disk(world.clock) if disk else None
        """Where it has its log; None if it has none."""
        self.defect = 0
        """Planted in each of its engines."""
        self.ports_open = True
        """Whether probes reach its liveness ports."""
        self.step_ns = 0
        """What each thing that it does takes, if it is slow."""
        self._start(incarnation, uuid)

    def _start(self, incarnation: int, uuid: bytes) -> None:
        self.dead = self.paused = False
        self.stack: str | None = None
        self._turned_ns = self.clock.now_ns
        self._backlog: deque[tuple[Action, tuple[Any, ...]]] = deque()
        self._going = False  # through the backlog
        self._busy_ns = 0
        self._tick_ns: int | None = None
        self.engine = Engine(
            self.name,
            incarnation,
            self.config,
            self.clock.now_ns,
            make_token=Token,
            call=Token(),
            to_bytes=to_bytes,
            wake=self._wake,
        )
        self.engine.wall_offset_ns = WALL_NS
        rng = Random(self.clock.rng.random())
        notary = self.world.notary
        signer = notary.issue(self.certificate) if notary is not None else None
        self.control = Control(self.engine, self.config, rng=rng, network_uuid=uuid, signer=signer)
        self.engine.control = self.control
        self.control.catalogue.watched = True
        self.control.admission.offer_liveness = lambda: OFFER if self.has_ports else None
        self.control.set_addresses((address_of(self.name),))
        self.engine.durable.defect = self.defect
        if self.disk is not None:
            self.engine.recover(self.disk.open(self, self.config))

    # -- the process

    def act(self, action: Action, *arguments: Any) -> None:
        """Let the process do this: now, or when it gets to it."""
        if self.dead:
            return
        if self.paused or self._backlog:
            self._backlog.append((action, arguments))
        elif self.step_ns:
            self._backlog.append((action, arguments))
            self._go_on()
        else:
            action(*arguments)
            self.world.acted(self)

    def _go_on(self) -> None:
        """Do what has waited, one thing after another, each as slowly as the process is."""
        engine = self.engine

        def one() -> None:
            if self.engine is not engine:
                return
            self._going = False
            if not (self.dead or self.paused):
                action, arguments = self._backlog.popleft()
                action(*arguments)
                self.world.acted(self)
                self._go_on()

        if self._backlog and not self._going:
            self._going = True
            self.clock.at(self.clock.now_ns + self.step_ns, one)

    def pause(self) -> None:
        """It stops, as by SIGSTOP: what comes for it waits."""
        self.paused, self.stack = True, None

    def unpause(self) -> None:
        if self.paused:
            self.paused, self.stack = False, None
            self._go_on()

    def block(self, stack: str = "handler.py:1 in handle") -> None:
        """Its event loop stops, as in a handler that blocks: only its liveness ports answer."""
        self.paused, self.stack = True, stack

    def unblock(self) -> None:
        self.unpause()

    def answer_probe(self) -> tuple[int, str] | None:
        """What its liveness port says: the lag of its loop, and where that stands; None if nothing."""
        stopped = self.paused and self.stack is None
        if self.dead or stopped or not (self.has_ports and self.ports_open):
            return None
        return self.clock.now_ns - self._turned_ns, self.stack or ""

    def kill(self, *, silently: bool = False) -> None:
        """The process dies; ``silently``: the host with it, so that nobody is told, for lack of power."""
        self.dead = True
        if self.disk is not None:
            self.disk.stop(power=silently)
        for session in list(self.engine.links):
            if silently:
                session.link.mute()
            else:
                session.link.out.end()

    def restart(self, *names: str, disk: bool = True) -> Token:
        """Start the dead process again and join by ``names``; without ``disk`` it has forgotten all."""
        assert self.dead, f"{self.name} runs"
        uuid = self.control.network_uuid if disk else b""
        if self.disk is not None and not disk:
            self.disk = Disk(self.clock)
        # Without a disk the incarnation is made from the time.
        self._start(self.engine.incarnation + 1 if disk else self.clock.now_ns, uuid)
        return self.join(*names, uuid=uuid or bytes(16))

    # -- the driver

    def _wake(self) -> None:
        self.clock.at(self.clock.now_ns, self.act, self.turn)

    def turn(self) -> None:
        """Carry out what the engine has ready."""
        if self.dead:
            return
        engine, clock = self.engine, self.clock
        engine.now_ns = clock.now_ns
        ready = engine.ready()
        if ready.persist is not None and self.disk is not None:
            self.disk.put(ready.persist, ready.batch)
            for owner, index, chunks in self.control.replication.archive.drain():
                self.disk.save(owner, index, chunks)
        for session in ready.send:
            session.link.flush()
        closing = list(ready.close)
        for dial in ready.dial:
            self.world.dial(self, dial)
        for tunnel in ready.tunnels:
            clock.at(clock.now_ns, self.act, self._look, engine, tunnel)
        for session in ready.probe:
            self.world.probe(self, session)
        for agent in ready.deliver:
            agent.wake()
        for item in ready.settle:
            token, outcome, hint = (item, *item.take_told()) if isinstance(item, Token) else item
            clock.note("settle", self.name, type(outcome).__name__)
            token.settle(outcome, hint)
        for port, origin, correlation in ready.recall:
            working: list[Any] = [port] if port is not None else list(engine.ports.values())
            for agent in working:
                agent.recall(origin, correlation)
        for call, outcome in ready.learn:
            clock.note("learn", self.name, type(outcome).__name__)
            call.learn(outcome)
        for event in ready.events:
            clock.note("event", self.name, event.kind, event.node_id, event.agent_id)
            self.events.append(event)
        for session, _ in closing:
            session.link.shut()
        when = min(engine.wake_ns, clock.now_ns + engine.tick_ns_max)
        if self._tick_ns is None or when < self._tick_ns:
            tick_ns = self._tick_ns = max(when, clock.now_ns + MS)
            clock.at(tick_ns, self.act, self._tick, engine, tick_ns)

    def _look(self, engine: Engine, tunnel: Tunnel) -> None:
        """One end of a tunnel of this process has something to tell."""
        if engine is not self.engine:
            return
        engine.now_ns = self.clock.now_ns
        if tunnel.handle is None and tunnel.lost is None:
            tunnel.handle = Mouth(self, tunnel)
        if tunnel.handle is not None:
            tunnel.handle.look()

    def _tick(self, engine: Engine, when_ns: int) -> None:
        if engine is not self.engine or when_ns != self._tick_ns:
            return  # an earlier one was armed since
        self._tick_ns = None
        self._turned_ns = self.clock.now_ns
        self.engine.tick(self.clock.now_ns)
        self.turn()

    # -- from its disk

    def persisted(self, batch: int) -> None:
        self.engine.now_ns = self.clock.now_ns
        self.clock.note("persisted", self.name, batch)
        self.engine.persisted(batch)
        self.turn()

    def unpersisted(self, error: NetworkError) -> None:
        self.engine.now_ns = self.clock.now_ns
        self.clock.note("unpersisted", self.name, type(error).__name__)
        self.engine.unpersisted(error)
        self.turn()

    def relieve(self, owner: int, index: int) -> None:
        self.engine.relieve(owner, index)

    def saved(self, owner: int, error: NetworkError | None) -> None:
        self.engine.now_ns = self.clock.now_ns
        self.control.replication.archive.saved(owner, error)
        self.turn()

    # -- commands

    def do(self, command: Callable[..., None], *args: Any) -> Token:
        """Give a command that settles a token, which comes first but for ``args``."""
        token = Token()
        self.engine.now_ns = self.clock.now_ns
        command(*args, token)
        self.turn()
        return token

    def join(self, *names: str, uuid: bytes = bytes(16)) -> Token:
        return self.do(self.control.join, tuple(address_of(name) for name in names), uuid)

    def make(
        self,
        agent: int | str,
        handle: Handle | None = None,
        *,
        capabilities: Iterable[str] = (),
        metadata: dict[str, str] | None = None,
        broadcasts: bool = True,
        groups: Iterable[str] = (),
        service_ns: int = 1_000,
    ) -> Agent:
        """An agent that is not registered yet."""
        name = agent if isinstance(agent, str) else None
        record = AgentRecord(agent_id_of(agent), self.name, name, tuple(capabilities), metadata, broadcasts)
        record.groups = tuple(groups)
        return Agent(self.engine, self, record, handle, service_ns)

    def register(self, *agents: Agent, timeout_ms: int = 10_000) -> Token:
        return self.do(lambda token: self.control.catalogue.register(list(agents), token, timeout_ms * MS))

    def regroup(self, agent: Agent, *groups: str, timeout_ms: int = 10_000) -> Token:
        """Let an agent be in these groups."""
        return self.do(lambda token: self.control.catalogue.regroup(agent, groups, token, timeout_ms * MS))

    def agent(self, agent: int | str, handle: Handle | None = None, **options: Any) -> Agent:
        """An agent that every linked node knows; ``options`` as of `make`."""
        made = self.make(agent, handle, **options)
        token = self.register(made)
        self.clock.until(lambda: token.done)
        assert token.error is None, token.error
        return made

    def unregister(self, *agents: Agent) -> None:
        self.engine.now_ns = self.clock.now_ns
        self.control.catalogue.unregister(list(agents))

    def leave(self) -> None:
        """Tell the others, close the links, and be gone once the last byte is written."""
        self.engine.now_ns = self.clock.now_ns
        self.control.leave()
        self.turn()
        self.dead = True
        if self.disk is not None:
            self.disk.close()

    # -- views

    def link(self, name: str) -> Link:
        """The link to that node."""
        link: Link = self.engine.sessions[name].link
        return link

    def told(self, kind: str) -> list[Event]:
        """The events of that kind, so far."""
        return [event for event in self.events if event.kind == kind]

    @property
    def stats(self) -> dict[str, int]:
        return self.engine.stats() | self.control.stats()
