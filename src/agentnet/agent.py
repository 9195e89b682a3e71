"""Agent: what a user holds of an agent of this node.

It is the engine's Port with a handler behind it: one long-lived task awaits the handler message by
message (`concurrency` of them, if asked), is made at the first message and given back when idle.
A handler's exception stays here: it is logged, counted, an event, and the answer to a request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, TypeVar, Unpack, cast, overload

from agentnet.call import Call
from agentnet.handlers import (
    Handler,
    HandlerShape,
    HandlerThreads,
    Health,
    prepare_handler,
    say,
    shape_of,
    wait_in_thread,
)
from agentnet.payload import to_bytes
from agentnet.runner import Runner
from agentnet.streams import Refusal, Stream, feed
from agentnet_core.agent_record import AgentRecord
from agentnet_core.errors import ConfigError, HandlerStuck, Nack, failure_of
from agentnet_core.message import AgentMessage, Origin, check_group
from agentnet_core.port import Port
from agentnet_core.records import (
    Event,
    MessagePriority,
    WhenFull,
    agent_id_of,
    describe,
)
from agentnet_core.route import Pause

if TYPE_CHECKING:
    from agentnet.config import NetworkConfig
    from agentnet.host import Host
    from agentnet_core.control import Control
    from agentnet_core.engine import Engine

    class _Node(Protocol):
        """What an agent asks of its node; the manager is one."""

        node_id: str
        host: Host
        busy: dict[Agent, None]
        handlers_failed: int
        turned_ns: int
        control: Control
        config: NetworkConfig
        loop: asyncio.AbstractEventLoop

        @property
        def health_checks(self) -> HealthChecks: ...

        @property
        def engine(self) -> Engine: ...
        def decode(self, message: AgentMessage, hint: Any, /) -> Any: ...
        def spawn(self, work: Coroutine[Any, Any, None], /) -> asyncio.Task[None]: ...
        async def wait_settled(self, start: Callable[[Any], None]) -> None: ...

    class HealthChecks(Protocol):
        """What an agent asks of those who ask it how it is."""

        def stop(self, agent: Agent, /) -> None: ...


T = TypeVar("T")
H = TypeVar("H", bound=Handler)
log = logging.getLogger("agentnet.agent")

LOG_INTERVAL_NS = 1_000_000_000
"""An agent's failures are logged at most this often; the rest are counted."""
MS = 1_000_000
STOP_S_MAX = 1.0
"""How long handlers that were cancelled are waited for."""


@dataclass(frozen=True, kw_only=True)
class AgentSpec:
    """What `register_agents` takes for each agent; see `register_agent`."""

    agent: int | str
    capabilities: Iterable[str] = ()
    handler: Handler | None = None
    metadata: dict[str, str] | None = None
    concurrency: int = 1
    broadcasts: bool = True
    health: Health | None = None
    groups: Iterable[str] = ()
    reentrant: bool = False
    when_full: WhenFull | str = WhenFull.BLOCK
    mailbox_messages_max: int | None = None
    mailbox_bytes_max: int | None = None

    def __post_init__(self) -> None:
        for name in ("capabilities", "groups"):
            words = getattr(self, name)
            if isinstance(words, str):
                raise ConfigError(f"agent {self.agent}: {name}={words!r}: expected a list, write [...]")
            if type(words) is not tuple:
                object.__setattr__(self, name, tuple(words))


class AgentOptions(TypedDict, total=False):
    """What a handler's decorator takes beside id and capabilities; see `register_agent`."""

    metadata: dict[str, str] | None
    concurrency: int
    broadcasts: bool
    health: Health | None
    groups: Iterable[str]
    reentrant: bool
    when_full: WhenFull | str
    mailbox_messages_max: int | None
    mailbox_bytes_max: int | None


class RequestOptions(TypedDict, total=False):
    """What `request` takes beside receiver and payload; see `Port.request`."""

    timeout: float | None
    priority: MessagePriority | int
    reply: Any
    operation_id: str | None


class Agent(Port):
    """An agent of this node: `send`, `request`, `messages`; made by `register_agent`."""

    __slots__ = (
        "_concurrency",
        "_failures",
        "_handler",
        "_logged_ns",
        "_net",
        "_readers",
        "_reading",
        "_returned",
        "_runners",
    )

    def __init__(
        self, engine: Engine, net: _Node, record: AgentRecord, handler: Handler | None, concurrency: int
    ) -> None:
        super().__init__(engine, record)
        self._net = net
        self._handler = handler
        self._concurrency = concurrency
        self._runners: list[Runner] | None = None
        # Those of calls that came back to this agent. A tuple: most agents share the empty one.
        self._returned: tuple[Runner, ...] = ()
        # A tuple: an idle agent shares the empty one.
        self._readers: tuple[asyncio.Future[None], ...] = ()
        self._reading: tuple[AgentMessage, ...] = ()
        self._failures = 0
        self._logged_ns = 0

    @property
    def id(self) -> int:
        return self.agent_id

    @property
    def name(self) -> str | None:
        return self.record.name

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that it is in."""
        return tuple(self.record.groups)

    if TYPE_CHECKING:
        # At run time this is the Port's own; here what it returns is known.
        @overload
        def request(
            self,
            to: int | str,
            payload: Any,
            *,
            timeout: float | None = None,
            priority: MessagePriority | int = ...,
            operation_id: str | None = None,
            reply: type[T],
        ) -> Call[T]: ...
        @overload
        def request(self, to: int | str, payload: Any, **options: Unpack[RequestOptions]) -> Call[Any]: ...
        def request(self, to: int | str, payload: Any, **options: Any) -> Call[Any]: ...

    def stream(
        self,
        to: int | str,
        payload: Any = b"",
        *,
        parts: AsyncIterable[Any] | None = None,
        idle: float | None = None,
        part: Any = None,
    ) -> Stream[Any]:
        """Ask agent ``to``; iterate over the parts of its answer, which its handler yields.

        ``idle``: seconds that one part may take, `stream_idle_ms_max` if None. ``part``: a type to decode
        each one to. The handler is at most a window ahead of who reads (`stream_parts_max`,
        `stream_bytes_max`). A stream whose link is lost goes on by another one.

        ``parts``: the input, beside the payload: what this yields, the handler gets by `async for part in
        message.parts()`. It is read as fast as the handler reads, a window ahead at most, and closed when
        the stream is over; what it raises ends the stream, and the handler is cancelled.

        Raises, here: as `request` of what was not sent, and LimitReached. Raises, when iterated: what
        `request` does when awaited; RequestTimeout if no part came in time; StreamLost if it cannot go on.
        """
        engine = self._net.engine
        if parts is None:
            return Stream(engine.stream(self, to, payload, idle), self._net.decode, part)
        if not isinstance(parts, AsyncIterable):
            raise ConfigError(f"parts={describe(parts)}: expected an async iterator")
        reader = engine.stream(self, to, payload, idle, gives=True)
        feeding = None
        if reader.giver is not None:  # else it has ended already
            feeding = self._net.spawn(feed(reader, reader.giver, parts, engine, to_bytes))
        return Stream(reader, self._net.decode, part, feeding)

    async def upload(
        self,
        to: int | str,
        parts: AsyncIterable[Any],
        payload: Any = b"",
        *,
        idle: float | None = None,
        reply: Any = None,
    ) -> Any:
        """Ask agent ``to`` with an input in ``parts``; what its handler returns.

        As of `stream`: ``idle`` is for one part of the input, too. ``reply``: a type to decode the answer to.
        """
        answer = None
        async with self.stream(to, payload, parts=parts, idle=idle, part=reply) as stream:
            async for answer in stream:  # noqa: B007 - until it has ended
                pass
        return answer

    def breathe(self) -> Awaitable[None]:
        # The clock may be looked at here, not in the core: a millisecond without a turn is enough.
        now = self._net.host.monotonic_ns()
        if now - self._net.turned_ns >= 1_000_000:
            return Pause()
        self.engine.now_ns = now
        return Port.breathe(self)

    # -- mail

    async def messages(self) -> AsyncIterator[AgentMessage]:
        """Its mail, message by message, instead of a handler; answer requests with `reply`."""
        if self._handler is not None:
            raise ConfigError(
                f"agent {self.record.label} has a handler: messages() is for agents without one"
            )
        while self._is_registered():
            message = self.take()
            if message is not None:
                if message.slip is None:
                    yield message
                    continue
                self._reading += (message,)
                done = False
                try:
                    yield message
                    done = True
                finally:
                    if self._put_down(message):
                        # Who asks for the next one has processed it; who leaves has not.
                        self.engine.reply(message, b"", 0, None if done else self._left_at(message))
                continue
            waiter = asyncio.get_running_loop().create_future()
            self._readers += (waiter,)
            try:
                await waiter
            finally:
                self._readers = tuple(other for other in self._readers if other is not waiter)

    async def reply(self, message: AgentMessage, payload: Any) -> None:
        """Answer a request that came out of `messages`."""
        body, content = to_bytes(payload)
        token = self.engine.reply(message, body, content)
        if token is not None:
            await token

    def _put_down(self, message: AgentMessage) -> bool:
        """Who reads it has ended; whether nothing was said of it yet."""
        before = len(self._reading)
        self._reading = tuple(other for other in self._reading if other is not message)
        return len(self._reading) < before

    def _left_at(self, message: AgentMessage) -> tuple[int, str]:
        return Nack.code, f"agent {self.record.label}: who read its messages has left at this one"

    async def nack(self, message: AgentMessage, delay: float | None = None) -> None:
        """Say of a message out of `messages` that it is to come again, as a handler that raises `Nack`."""
        self._put_down(message)
        told = failure_of(Nack(delay=delay), f"agent {self.record.label} wants it again")
        token = self.engine.reply(message, b"", 0, told)
        if token is not None:
            await token

    def once(self, message: AgentMessage, changes: Mapping[str, bytes | None] | None, result: Any) -> Any:
        try:
            asyncio.get_running_loop()
        except RuntimeError:  # a plain function, in a thread: by the message, which knows who has it still
            return wait_in_thread(self._net.loop, lambda: message.once(changes, result))
        return super().once(message, changes, result)

    def attends(self, message: AgentMessage) -> bool:
        return any(other is message for other in self._reading) or any(
            runner.message is message and not runner.task.done() for runner in self._all()
        )

    def report_health(self, text: str | None) -> None:
        """Say at once why this agent cannot work now, in a few words, or None when it can again.

        Every node shows it as `AgentNode.health`, cut to 256 bytes. The next answer of a ``health``
        function that it registered with takes its place. NoSuchAgent once it is not registered any more.
        """
        if text is not None and not isinstance(text, str):
            raise ConfigError(f"agent {self.record.label}: health {describe(text)}: expected a text or None")
        self._net.engine  # noqa: B018 - which raises once the node has left
        self._net.control.catalogue.report_health(self, text)

    async def join_group(self, group: str, *, timeout: float | None = None) -> None:
        """Get what is sent to that group with `net.multicast`; to be in it already is fine.

        Returns when every linked node knows it, as `register_agent` does, and raises Unconfirmed, and it is
        in the group all the same, for those that do not after ``timeout`` seconds. In a network of more than
        ``mesh_nodes_max`` nodes the keepers of the agent are waited for; who else sends to the group learns
        of it within a moment. ConfigError and LimitReached are definite: a name or a number of groups that
        cannot be.
        """
        check_group(group)
        before = self.groups
        await self._regroup(before if group in before else (*before, group), timeout)

    async def leave_group(self, group: str, *, timeout: float | None = None) -> None:
        """Get nothing more that is sent to that group, but for what is on its way; errors as of `join_group`.

        Not to be in it is fine.
        """
        check_group(group)
        await self._regroup(tuple(other for other in self.groups if other != group), timeout)

    async def _regroup(self, groups: tuple[str, ...], timeout: float | None) -> None:
        net, engine = self._net, self._net.engine
        timeout_ns = net.config.register_ms_max * MS if timeout is None else engine.nanoseconds(timeout)
        await net.wait_settled(lambda token: net.control.catalogue.regroup(self, groups, token, timeout_ns))

    def wake(self) -> None:
        """There is mail and nobody to handle it: called by the manager."""
        if self._handler is None:
            self._net.busy[self] = None
            self._wake_readers()
            return
        if self.reentrant:
            self._answer_returned(self._handler)
            if not self.pending_messages:
                return
        runners = self._runners
        if runners is None:
            self._runners = runners = []
            self._net.busy[self] = None
        if self._concurrency == 1 and runners:
            runners[0].unpark()
            return
        wanted = self.pending_messages
        for runner in runners:
            if wanted and runner.idle:
                runner.unpark()
                wanted -= 1
        while wanted and len(runners) < self._concurrency:
            runners.append(self._start(self._handler))
            wanted -= 1
        # More mail must wake the others, too.
        self.parked = len(runners) < self._concurrency or any(runner.idle for runner in runners)

    def recall(self, origin: Origin, correlation: int) -> None:
        """That request of that node was given up, or all of it if that is 0: cancel who is at it."""
        for runner in self._all():
            runner.recall(origin, correlation)

    def _answer_returned(self, handler: Handler) -> None:
        """Begin what is asked by those that this agent waits for: at once, beside what it is at."""
        while (message := self.take_returned()) is not None:
            runner = Runner(
                self, handler, asyncio.get_running_loop(), self._report, self._net.host.monotonic_ns
            )
            runner.begin(message)
            self._returned += (runner,)
            self._net.busy[self] = None
            runner.task = asyncio.get_running_loop().create_task(runner, name=f"agent {self.record.label}")
            runner.task.add_done_callback(partial(self._end_returned, runner))

    def _end_returned(self, runner: Runner, task: asyncio.Task[None]) -> None:
        self._returned = tuple(other for other in self._returned if other is not runner)
        self.end_returned()

    def _start(self, handler: Handler) -> Runner:
        loop = asyncio.get_running_loop()
        runner = Runner(self, handler, loop, self._report, self._net.host.monotonic_ns)
        runner.task = loop.create_task(runner, name=f"agent {self.record.label}")
        runner.task.add_done_callback(lambda task: self._ended(runner, task))
        return runner

    def _ended(self, runner: Runner, task: asyncio.Task[None]) -> None:
        if self._runners is not None and runner in self._runners:
            self._runners.remove(runner)
            if not self._runners:
                self._runners = None
                self._rest()
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("agent %s: its task ended", self.record.label, exc_info=error)
        # A handler that ended its task did not park it, and the next message must make a new one.
        self.parked = True
        if self.pending_messages and self._is_registered():
            self.wake()

    def _is_registered(self) -> bool:
        # Asked of the engine itself: the node may have left, and then its `engine` raises.
        return cast("Engine", self.engine).ports.get(self.agent_id) is self

    def rest_if_idle(self, since_ns: int) -> None:
        """Give the task and the ring back if nothing came since then."""
        if self.served_ns > since_ns:
            return
        if self._handler is not None:
            if self.parked:
                self.retire()
        elif not self.pending_messages:
            # Who reads may have taken the last message and not asked for another.
            self.parked = True
            self._rest()

    def _rest(self) -> None:
        self._net.busy.pop(self, None)
        self.rest()

    def _all(self) -> tuple[Runner, ...]:
        return (*(self._runners or ()), *self._returned)

    def tasks(self) -> list[asyncio.Task[None]]:
        """Those that its handler runs in; an idle agent has none."""
        return [runner.task for runner in self._all()]

    def at_work(self) -> list[asyncio.Task[None]]:
        """Those of its tasks whose handler is at a message."""
        return [runner.task for runner in self._all() if not runner.idle]

    def retire(self) -> list[asyncio.Task[None]]:
        """Let its tasks end once the mailbox is empty; the tasks."""
        tasks = self.tasks()
        for runner in self._all():
            runner.retire()
        return tasks

    def cancel(self) -> list[asyncio.Task[None]]:
        """Stop its handlers now; their tasks. A handler that asks for this itself is let finish."""
        tasks = []
        self._net.health_checks.stop(self)
        for runner in self._all():
            runner.retire()  # so that one whose handler will not be cancelled ends after it
            if runner.task is not asyncio.current_task():
                runner.task.cancel()
                tasks.append(runner.task)
        if self._handler is None:
            self._rest()
        self._wake_readers()
        return tasks

    async def stop(self) -> None:
        """`cancel`, and wait ``STOP_S_MAX`` at most; HandlerStuck if a handler goes on after that."""
        tasks = self.cancel()
        if tasks and (await asyncio.wait(tasks, timeout=STOP_S_MAX))[1]:
            raise HandlerStuck(
                f"agent {self.record.label} is unregistered, but its handler, which was cancelled "
                f"{STOP_S_MAX:g} s ago, has not ended: it may be at work still"
            )

    def _wake_readers(self) -> None:
        for waiter in self._readers:
            if not waiter.done():
                waiter.set_result(None)

    # -- failures

    def _report(self, message: AgentMessage, error: BaseException) -> asyncio.Future[None] | None:
        engine, label = self.engine, self.record.label
        self._net.handlers_failed += not isinstance(error, Nack)
        cause: BaseException
        trace: BaseException | None
        if isinstance(error, Refusal):
            text, cause, trace = str(error.error), error.error, None
            told: tuple[int, str] | tuple[int, str, int] = (error.error.code, text)
        else:
            text, cause, trace = f"agent {label} on node {engine.node_id}: {say(error)}", error, error
            told = failure_of(error, text)
        if not isinstance(error, Nack):
            self._log(message, trace, text)
            engine.event(
                Event(
                    Event.HANDLER_FAILED, engine.node_id, self.agent_id, self.name, detail=text, error=cause
                )
            )
        token: asyncio.Future[None] | None = engine.reply(message, b"", 0, told)
        return token

    def _log(self, message: AgentMessage, error: BaseException | None, text: str) -> None:
        self._failures += 1
        now = self._net.host.monotonic_ns()
        if now - self._logged_ns >= LOG_INTERVAL_NS:
            more = f" ({self._failures} times since the last such line)" if self._failures > 1 else ""
            log.error("%s, at message %s%s", text, message.message_id, more, exc_info=error)
            self._logged_ns = now
            self._failures = 0

    def __repr__(self) -> str:
        return f"<Agent {self.record.label} on {self.engine.node_id}>"


def make_agent(
    net: _Node, spec: AgentSpec, threads: HandlerThreads, shapes: dict[int, HandlerShape]
) -> Agent:
    """The agent that ``spec`` asks for; ConfigError if there can be none.

    ``shapes``: what was found of the handlers so far, since many agents may share one.
    """
    agent = spec.agent
    if isinstance(agent, bool) or not isinstance(agent, (int, str)):
        raise ConfigError(f"agent {agent!r}: expected an id (int) or a name (str)")
    if isinstance(agent, int) and not 0 < agent < 2**64:
        raise ConfigError(f"agent {agent}: expected an id of 1 to 2**64-1; 0 is the node itself")
    if spec.concurrency < 1:
        raise ConfigError(f"agent {agent}: concurrency={spec.concurrency}: expected 1 or more")
    name = agent if isinstance(agent, str) else None
    record = AgentRecord(
        agent_id_of(agent),
        net.node_id,
        name,
        tuple(spec.capabilities),
        spec.metadata,
        spec.broadcasts,
        groups=tuple(spec.groups),
    )
    handler = spec.handler
    if handler is not None:
        shape = shapes.get(id(handler))
        if shape is None:
            shape = shapes[id(handler)] = shape_of(handler, record.label)
        if not shape.is_plain:
            handler = prepare_handler(handler, shape, record.label, threads, net.engine)
    elif spec.reentrant:
        raise ConfigError(
            f"agent {agent}: reentrant=True: it has no handler that could be called out of turn"
        )
    made = Agent(net.engine, net, record, handler, spec.concurrency)
    made.reentrant = spec.reentrant
    limits = spec.mailbox_messages_max, spec.mailbox_bytes_max
    if spec.when_full is not WhenFull.BLOCK or limits != (None, None):  # a hundred thousand are in a hurry
        try:
            made.bound(WhenFull(spec.when_full), *limits)
        except (ConfigError, ValueError) as error:
            raise ConfigError(f"agent {agent}: {error}") from None
    return made
