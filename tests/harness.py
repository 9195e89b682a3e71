"""A seeded world of engines: a virtual clock, pipes between them, and what can go wrong with bytes.

A `Node` drives one production Engine and Control by their public contract alone, as `manager.py` and
`link.py` do with asyncio: it fills the arena and calls `receive`, carries out each `Ready` in the
order of its fields, and ticks when `wake_ns` says so.  A `World` owns the clock, the heap of what is
to come, and the only source of chance: one seed, one history, one `trace`.

    world = World(seed=1)
    a, b = world.join("a", "b")
    sink = b.agent("sink")
    a.agent("source").send("sink", b"hello")
    world.until(lambda: sink.received)

Nothing here sleeps, reads a clock or opens a socket.  A wait that fails raises AssertionError with
the virtual time; an engine that settles a token twice, or raises where it should not, fails the test.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import Any

import msgpack

from agentnet_core.config import EngineConfig
from agentnet_core.control import Control
from agentnet_core.engine import Engine
from agentnet_core.errors import HandlerFailed, LinkLost, OutageError
from agentnet_core.membership import Dial
from agentnet_core.message import AgentMessage
from agentnet_core.port import Port
from agentnet_core.records import AgentRecord, Event, agent_id_of
from agentnet_core.session import Session

MS = 1_000_000
TICK_NS_MAX = 250 * MS
READ_BYTES = 32768
WALL_NS = 1_700_000_000 * 10**9
UUID = bytes(range(16))

HELLO, WELCOME, CLOSE, PING, PONG, CREDIT, STOP, GO = range(8)
MEMBERS, AGENTS, CONFIRM = range(8, 11)
MESSAGE, REFUSED = 16, 17
OPTIONAL_FIELDS, CHECKED = 1, 2

Action = Callable[[], None]


def to_bytes(value: Any) -> tuple[bytes, int]:
    """What a driver lends the engine: bytes as they are, anything else as MessagePack."""
    return (value, 0) if isinstance(value, bytes) else (msgpack.packb(value), 1)


def address_of(name: str) -> str:
    return f"sim://{name}:1"


class Token:
    """What the engine hands back, once, with an outcome: None, a message or an error."""

    __slots__ = ("_cancelled", "done", "hint", "outcome", "then")

    def __init__(self) -> None:
        self.then: Action | None = None
        self.done = self._cancelled = False
        self.outcome: AgentMessage | BaseException | None = None
        self.hint: Any = None

    def cancel(self) -> None:
        self._cancelled = not self.done

    def cancelled(self) -> bool:
        return self._cancelled

    def settle(self, outcome: AgentMessage | BaseException | None, hint: Any) -> None:
        assert not self.done, f"settled twice: {self.outcome!r}, then {outcome!r}"
        self.done, self.outcome, self.hint = True, outcome, hint
        if self.then is not None:
            self.then()

    @property
    def error(self) -> BaseException | None:
        return self.outcome if isinstance(self.outcome, BaseException) else None

    @property
    def answer(self) -> bytes:
        """The payload of the answer; raises what the request failed with."""
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        assert isinstance(self.outcome, AgentMessage), f"no answer: {self.outcome!r}, done={self.done}"
        return self.outcome.payload


@dataclass(frozen=True)
class Weather:
    """What a pipe does to bytes. Delays are drawn for each piece; the shares are chances for each piece.

    ``piece_bytes``: the largest piece that arrives at once. ``lose``, ``swap`` (with the one before),
    ``repeat``, ``flip`` (one bit), ``cut`` (the link ends there). ``room_bytes``: what a pipe holds before
    its writer must pause, as a socket's buffer does.
    """

    delay_ns: tuple[int, int] = (20_000, 200_000)
    piece_bytes: int = READ_BYTES
    lose: float = 0.0
    swap: float = 0.0
    repeat: float = 0.0
    flip: float = 0.0
    cut: float = 0.0
    room_bytes: int = 256 * 1024


class World:
    """The clock, the heap and the seed. Time is virtual nanoseconds."""

    def __init__(self, seed: int = 0, weather: Weather | None = None, *, secure: bool = False) -> None:
        self.rng = Random(seed)
        self.now_ns = 1_000 * MS
        self.weather = weather if weather is not None else Weather()
        self.secure = secure
        self.nodes: dict[str, Node] = {}
        self.pipes: list[Pipe] = []
        self.walls: dict[tuple[str, str], bool] = {}
        """Pairs of names, both ways round, between which no dial succeeds."""
        self._coming: list[tuple[int, int, Action]] = []
        self._number = 0
        self._trace = blake2b(digest_size=16)

    # -- time

    def at(self, when_ns: int, action: Action) -> None:
        self._number += 1
        heapq.heappush(self._coming, (max(when_ns, self.now_ns), self._number, action))

    def step(self) -> bool:
        """Let the next thing happen; False if nothing is to come."""
        if not self._coming:
            return False
        self.now_ns, _, action = heapq.heappop(self._coming)
        action()
        return True

    def run(self, ms: float) -> None:
        """Let that much time pass."""
        end = self.now_ns + int(ms * MS)
        while self._coming and self._coming[0][0] <= end:
            self.step()
        self.now_ns = end

    def until(self, condition: Callable[[], Any], ms: float = 60_000) -> None:
        """Run until the condition holds; AssertionError when it does not within that much time."""
        end = self.now_ns + int(ms * MS)
        while not condition():
            assert self._coming, f"not within {ms} ms of virtual time"
            assert self._coming[0][0] <= end, f"not within {ms} ms of virtual time"
            self.step()

    def note(self, *what: object) -> None:
        """Add to the trace what happened now."""
        self._trace.update(repr((self.now_ns, *what)).encode())

    @property
    def trace(self) -> str:
        """A digest of all that has happened: equal for equal seeds."""
        return self._trace.hexdigest()

    # -- nodes and links

    def node(self, name: str, **options: Any) -> Node:
        """A node that is in no network yet; `Node` has the options."""
        node = Node(self, name, **options)
        self.nodes[name] = node
        return node

    def join(self, *names: str, config: EngineConfig | None = None) -> list[Node]:
        """Nodes of one network, all linked; the first founded it."""
        nodes = [self.node(name, config=config) for name in names]
        nodes[0].control.found(UUID)
        for node in nodes[1:]:
            token = node.join(names[0])
            self.until(lambda token=token: token.done)
            assert token.error is None, token.error
        self.until(lambda: all(len(node.engine.sessions) == len(nodes) - 1 for node in nodes))
        return nodes

    def dial(self, node: Node, dial: Dial) -> None:
        self.at(self.now_ns + self.delay(), lambda: self._connect(node, dial))

    def delay(self) -> int:
        return self.rng.randint(*self.weather.delay_ns)

    def _connect(self, node: Node, dial: Dial) -> None:
        name = dial.address.removeprefix("sim://").rpartition(":")[0]
        there = self.nodes.get(name)
        if node.dead:
            return
        if there is None or there.dead or (node.name, name) in self.walls:
            self.note("dial failed", node.name, dial.address)
            node.engine.now_ns = self.now_ns
            node.control.dial_failed(dial, OutageError(f"{dial.address}: connection refused"))
            return
        self.note("dial", node.name, dial.address)
        out, back = Pipe(self), Pipe(self)
        Link(node, out, back, dial.address, there.certificate, dial)
        Link(there, back, out, address_of(node.name), node.certificate, None)

    def wall(self, one: str, other: str, *, up: bool = True) -> None:
        """No dial between the two gets through; links that are there stay."""
        for pair in ((one, other), (other, one)):
            if up:
                self.walls[pair] = True
            else:
                self.walls.pop(pair, None)


class Pipe:
    """One direction of a connection: bytes go in, arrive in order in pieces, and then perhaps it ends."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.reader: Any = None
        self.writer: Any = None
        self.mute = False
        """What is written from now on is lost, and so is the end: the host or the network is gone."""
        self.ended = False
        self._pieces: deque[bytes | memoryview] = deque()
        self._held = 0
        self._last_ns = 0
        world.pipes.append(self)

    def write(self, data: bytes | memoryview) -> None:
        # A transport may hold the view that it was given until its last byte is gone.
        view, rng, weather = memoryview(data), self.world.rng, self.world.weather
        while view:
            n = rng.randint(1, weather.piece_bytes)
            self._put(view[:n], weather, rng)
            view = view[n:]
        if self._held >= weather.room_bytes:
            self.writer.pause()

    def _put(self, piece: memoryview, weather: Weather, rng: Random) -> None:
        if self.ended or self.mute or rng.random() < weather.lose:
            return
        if rng.random() < weather.cut:
            self.ended = True
            self.world.at(self.world.now_ns, lambda: self.cut("connection reset"))
            return
        whole: bytes | memoryview = piece
        if rng.random() < weather.flip:
            damaged = bytearray(piece)
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
            whole = bytes(damaged)
        at = len(self._pieces) - 1 if self._pieces and rng.random() < weather.swap else len(self._pieces)
        self._pieces.insert(at, whole)
        self._arrive_later(len(piece))
        if rng.random() < weather.repeat:
            self._pieces.append(bytes(piece))
            self._arrive_later(len(piece))

    def _arrive_later(self, size: int) -> None:
        self._held += size
        self._last_ns = max(self._last_ns, self.world.now_ns + self.world.delay())
        self.world.at(self._last_ns, self._arrive)

    def _arrive(self) -> None:
        if not self._pieces:
            return
        piece = self._pieces.popleft()
        self._held -= len(piece)
        if self._held < self.world.weather.room_bytes // 2:
            self.writer.resume()
        for at in range(0, len(piece), READ_BYTES):
            self.reader.received(piece[at : at + READ_BYTES])

    def end(self) -> None:
        """Nothing more will be written; the reader learns it after the last byte."""
        if not (self.ended or self.mute):
            self.ended = True
            self._last_ns = max(self._last_ns, self.world.now_ns + self.world.delay())
            self.world.at(self._last_ns, lambda: self.reader.lost("end of stream"))

    def cut(self, reason: str) -> None:
        """The connection breaks: what is under way is lost, both ends learn it."""
        self.ended = True
        self._pieces.clear()
        self._held = 0
        self.reader.lost(reason)
        self.writer.lost(reason)


class Link:
    """One end of a connection, between a pipe and an engine: what `agentnet.link` is to a socket."""

    def __init__(
        self, node: Node, out: Pipe, back: Pipe, address: str, certificate: str, dial: Dial | None
    ) -> None:
        self.node, self.out, self.back = node, out, back
        out.writer, back.reader = self, self
        node.engine.now_ns = node.world.now_ns
        secure = node.world.secure
        self.session: Session = node.engine.open(
            secure=secure, address=address, certified=certificate if secure else None, dial=dial
        )
        self.session.link = self

    # -- from the pipes

    def received(self, data: bytes | memoryview) -> None:
        node = self.node
        if node.dead:
            return
        node.world.note("read", node.name, len(data), bytes(data[:16]))
        node.engine.now_ns = node.world.now_ns
        memoryview(node.engine.arena.view)[: len(data)] = data
        node.engine.receive(self.session, len(data))
        if node.engine.has_mail:
            node.turn()

    def lost(self, reason: str) -> None:
        self.out.ended = True
        if not (self.node.dead or self.session.closed):
            self.node.engine.now_ns = self.node.world.now_ns
            self.node.engine.down(
                self.session, LinkLost(f"{self.session.address} closed the connection: {reason}")
            )

    def pause(self) -> None:
        self.session.paused = True

    def resume(self) -> None:
        if self.session.paused and not self.node.dead:
            self.node.engine.resume(self.session)

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
        self.node.engine.forget_session(self.session)

    # -- for tests

    def mute(self) -> None:
        """From now on nothing that either end writes arrives, and neither end learns why."""
        self.out.mute = self.back.mute = True

    def cut(self, reason: str = "cut by the test") -> None:
        self.out.cut(reason)
        self.back.cut(reason)


class Agent(Port):
    """An agent of a node. ``handle``: called for each message, ``service_ns`` apart; what it returns
    answers a request, what it raises fails it.  Without one nothing is taken until the test does."""

    def __init__(
        self, node: Node, record: AgentRecord, handle: Callable[[AgentMessage], Any] | None, service_ns: int
    ) -> None:
        super().__init__(node.engine, record)
        self.node = node
        self.received: list[AgentMessage] = []
        self._handle = handle
        self._service_ns = service_ns

    @property
    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.received]

    def wake(self) -> None:
        if self._handle is not None:
            self._later()

    def serve(self, handle: Callable[[AgentMessage], Any] | None) -> None:
        """Handle what waits, and what comes from now on."""
        self._handle = handle
        self._later()

    def _later(self) -> None:
        self.node.world.at(self.node.world.now_ns + self._service_ns, self._serve)

    def _serve(self) -> None:
        if self.node.dead or self._handle is None:
            return
        self.engine.now_ns = self.node.world.now_ns
        message = self.take()
        if message is None:
            return
        self.received.append(message)
        self.node.world.note("handle", self.record.label, message.payload[:32], len(message.payload))
        try:
            result, failure = self._handle(message), None
        except Exception as error:  # noqa: BLE001 - as of any handler: whatever it raises is the answer
            result, failure = b"", (HandlerFailed.code, f"agent {self.record.label}: {error}")
        body, content = to_bytes(b"" if result is None else result)
        token = self.engine.reply(message, body, content, failure)
        if token is None:
            self._later()
        else:
            token.then = self._later

    def take_all(self) -> list[AgentMessage]:
        """Take what is in the mailbox, as a handler would that is there at last."""
        self.engine.now_ns = self.node.world.now_ns
        return list(iter(self.take, None))


class Node:
    """One engine with its control, driven in virtual time."""

    def __init__(
        self,
        world: World,
        name: str,
        *,
        incarnation: int = 1,
        config: EngineConfig | None = None,
        uuid: bytes = b"",
        certificate: str | None = None,
    ) -> None:
        self.world, self.name, self.dead = world, name, False
        self.certificate = name if certificate is None else certificate
        self.config = config if config is not None else EngineConfig()
        self.events: list[Event] = []
        self._tick_ns: int | None = None
        self.engine = Engine(
            name, incarnation, self.config, world.now_ns, make_token=Token, to_bytes=to_bytes, wake=self._wake
        )
        self.engine.wall_offset_ns = WALL_NS
        self.control = Control(self.engine, self.config, rng=Random(world.rng.random()), network_uuid=uuid)
        self.engine.control = self.control
        self.control.watched = True
        self.control.set_addresses((address_of(name),))

    # -- the driver

    def _wake(self) -> None:
        self.world.at(self.world.now_ns, self.turn)

    def turn(self) -> None:
        """Carry out what the engine has ready."""
        if self.dead:
            return
        engine, world = self.engine, self.world
        engine.now_ns = world.now_ns
        ready = engine.ready()
        for session in ready.send:
            session.link.flush()
        closing = list(ready.close)
        for dial in ready.dial:
            world.dial(self, dial)
        for agent in ready.deliver:
            agent.wake()
        for token, outcome, hint in ready.settle:
            world.note("settle", self.name, type(outcome).__name__)
            token.settle(outcome, hint)
        for event in ready.events:
            world.note("event", self.name, event.kind, event.node_id, event.agent_id)
            self.events.append(event)
        for session, _ in closing:
            session.link.shut()
        when = min(engine.wake_ns, world.now_ns + TICK_NS_MAX)
        if self._tick_ns is None or when < self._tick_ns:
            self._tick_ns = max(when, world.now_ns + MS)
            world.at(self._tick_ns, lambda when=self._tick_ns: self._tick(when))

    def _tick(self, when_ns: int) -> None:
        if self.dead or when_ns != self._tick_ns:
            return  # an earlier one was armed since
        self._tick_ns = None
        self.engine.tick(self.world.now_ns)
        self.turn()

    # -- commands

    def do(self, command: Callable[..., None], *args: Any) -> Token:
        """Give a command that settles a token, which comes first but for ``args``."""
        token = Token()
        self.engine.now_ns = self.world.now_ns
        command(*args, token)
        self.turn()
        return token

    def join(self, *names: str, uuid: bytes = bytes(16)) -> Token:
        return self.do(self.control.join, tuple(address_of(name) for name in names), uuid)

    def agent(
        self,
        agent: int | str,
        handle: Callable[[AgentMessage], Any] | None = None,
        *,
        capabilities: Iterable[str] = (),
        broadcasts: bool = True,
        service_ns: int = 1_000,
    ) -> Agent:
        """An agent that every linked node knows."""
        made = self.make(
            agent, handle, capabilities=capabilities, broadcasts=broadcasts, service_ns=service_ns
        )
        token = self.register(made)
        self.world.until(lambda: token.done)
        assert token.error is None, token.error
        return made

    def make(
        self,
        agent: int | str,
        handle: Callable[[AgentMessage], Any] | None = None,
        *,
        capabilities: Iterable[str] = (),
        metadata: dict[str, str] | None = None,
        broadcasts: bool = True,
        service_ns: int = 1_000,
    ) -> Agent:
        """An agent that is not registered yet."""
        name = agent if isinstance(agent, str) else None
        record = AgentRecord(agent_id_of(agent), self.name, name, tuple(capabilities), metadata, broadcasts)
        return Agent(self, record, handle, service_ns)

    def register(self, *agents: Agent, timeout_ms: int = 10_000) -> Token:
        return self.do(lambda token: self.control.register(list(agents), token, timeout_ms * MS))

    def unregister(self, *agents: Agent) -> None:
        self.engine.now_ns = self.world.now_ns
        self.control.unregister(list(agents))

    def leave(self) -> None:
        """Tell the others, close the links, and be gone once the last byte is written."""
        self.engine.now_ns = self.world.now_ns
        self.control.leave()
        self.turn()
        self.dead = True

    def kill(self, *, silently: bool = False) -> None:
        """The process dies; ``silently``: the host with it, so that nobody is told."""
        self.dead = True
        for session in list(self.engine.links):
            if silently:
                session.link.mute()
            else:
                session.link.out.end()

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
        return self.engine.stats()
