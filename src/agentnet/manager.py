"""AgentNetworkManager: the asyncio driver of one engine, and the owner of every task of its node.

It feeds the engine (bytes through its links, commands, time) and carries out its Ready once per
loop turn, in the order of its fields.  It holds no protocol.  Every task, listener and link that it
starts ends in `leave_network`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, Unpack, cast

from agentnet.agent import Agent, AgentOptions, AgentSpec, H, RequestOptions
from agentnet.authority import open_authority
from agentnet.call import Call, Waker
from agentnet.config import Address, NetworkConfig
from agentnet.dead import list_dead, pick
from agentnet.doors import Doors
from agentnet.events import EventStreams
from agentnet.handlers import Handler, HandlerThreads
from agentnet.health import HealthChecks
from agentnet.host import HOST, Host
from agentnet.identity import NodeIdentity, load_identity
from agentnet.keeping import Keeper
from agentnet.leaving import Drain, LeaveReport
from agentnet.link import Link
from agentnet.liveness import Vitals
from agentnet.payload import AnswerOf, decode, to_bytes
from agentnet.registry import Registry
from agentnet.runner import settle
from agentnet.syncing import StateSharing
from agentnet_core.config import check_name
from agentnet_core.control import Control
from agentnet_core.engine import Engine
from agentnet_core.errors import (
    ConfigError,
    NetworkError,
    NotRunning,
)
from agentnet_core.message import AgentMessage, check_group
from agentnet_core.records import AgentNode, DeadLetter, Event, Member, MessageType, agent_id_of
from agentnet_core.replication import Replication

MS = 1_000_000
SETTLE_MIN = 12
"""Outcomes that are handed out in one turn, at least."""


class AgentNetworkManager(StateSharing):
    """One node of an agent network, in this process and event loop.

    >>> async def main() -> None:
    ...     async with AgentNetworkManager("node-1") as net:
    ...         await net.join_network([])
    """

    def __init__(self, node_id: str, config: NetworkConfig | None = None, *, host: Host = HOST) -> None:
        super().__init__()
        self.node_id = check_name("node", node_id)
        self.config = config if config is not None else NetworkConfig()
        self.host = host
        self.handlers_failed = 0
        self.turned_ns = 0
        self.busy: dict[Agent, None] = {}
        self._engine: Engine | None = None
        self._identity: NodeIdentity | None = None
        self._keeper: Keeper | None = None
        self._registry = Registry(self)
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._streams = EventStreams(self.config.events_max)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = 0
        self._links: list[Link] = []
        self._joining: asyncio.Future[None] | None = None
        self._leaving: asyncio.Future[None] | None = None
        self._left = False
        self._outcomes: list[Any] = []

    # -- life

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.leave_network()

    async def join_network(self, bootstrap_nodes: Sequence[str] = ()) -> None:
        """Listen, and link with the network that the bootstrap addresses belong to.

        An empty list starts a network; of a list that all nodes share, the first one starts it if
        none of the others is in one.  What its log in ``data_dir`` has is taken up first.  Returns
        when this node has met its peers and knows their agents.  JoinFailed when nobody answered before
        ``join_ms_max``; HandshakeRefused when all that answered would not have it; ConfigError for a bad
        address; StorageLocked, StorageDamaged, StorageFull, StorageFailed for its log.
        """
        if self._engine is not None or self._leaving is not None:
            state = "joined already" if self._leaving is None else "left its network"
            raise NotRunning(f"node {self.node_id} has {state}: a manager joins once, make a new one")
        if isinstance(bootstrap_nodes, str):
            raise ConfigError(
                f"bootstrap_nodes={bootstrap_nodes!r}: expected a list of addresses, write [...]"
            )
        bootstrap = tuple(str(Address.parse(text, "bootstrap node")) for text in bootstrap_nodes)
        identity = self._start()
        try:
            self._keeper = await Keeper.open(self.config, self.engine, self.host, self.turn, self.hand_out)
            self.control.set_addresses(await self._doors.open(self._vitals))
            if bootstrap:
                self._joining = asyncio.get_running_loop().create_future()
                uuid = identity.new_uuid(self._rng)
                await self.wait_settled(
                    lambda token: self.control.join(bootstrap, uuid, token), self._joining
                )
            else:
                self.control.found(identity.new_uuid(self._rng))
            identity.keep(self.control.network_uuid)
            await self._registry.register_declared()
        except BaseException:
            await self.leave_network()
            raise

    async def leave_network(self) -> LeaveReport:
        """Take no new work, finish what is in the mailboxes, tell the others, close everything.

        What other nodes send or ask from now on is refused, definitely; what has come is done and answered.
        Handlers that are not done after ``leave_ms_max`` are cancelled, and messages that they have not
        begun refused: the report tells.  Doing it twice is fine.  If the leaving itself is cancelled,
        everything is closed at once.
        """
        if self._leaving is not None:
            await asyncio.wait([self._leaving])
            if self._identity is not None:  # a leaving that was cancelled did not wait
                await self._drain.wait()
                await self._wait_closed(self.loop.time())
            return self._report()
        self._leaving = asyncio.get_running_loop().create_future()
        try:
            if self._identity is not None:
                await self._leave()
        finally:
            if self._identity is not None:
                self._close(self._identity)
            self._left = True
            self._leaving.set_result(None)
        return self._report()

    def _report(self) -> LeaveReport:
        return self._drain.report if self._identity is not None else LeaveReport()

    async def _leave(self) -> None:
        deadline = self.loop.time() + self.config.leave_ms_max / 1000
        if self._joining is not None and not self._joining.done():
            self._joining.set_exception(NotRunning(f"node {self.node_id} left while it was joining"))
        self._doors.close()
        await self._drain.finish(deadline)
        self._drain.stop()
        await self._drain.wait()
        self._part()
        await self._wait_closed(deadline)
        await self._close_log()

    async def _close_log(self) -> None:
        if self._keeper is not None:
            keeper, self._keeper = self._keeper, None
            await keeper.close()

    def _part(self) -> None:
        """Say farewell on every link; what is dialled now is given up."""
        self.control.leave()
        self._links = [session.link for session, _ in self.turn_out()]
        for task in self._other_tasks():
            task.cancel()

    def _close(self, identity: NodeIdentity) -> None:
        """Close, without waiting, whatever is open still: nothing, unless the leaving was cancelled."""
        self._drain.stop()
        if not self.control.leaving:
            self._part()
        for link in self._links:
            link.shut()
            link.abort()
        self._doors.close()
        if self._timer is not None:
            self._timer.cancel()
        self._vitals.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._streams.end()
        self.hub.end()
        if self._keeper is not None:
            self.spawn(self._close_log())
        identity.close()

    async def _wait_closed(self, deadline: float) -> None:
        """Return when all tasks, links and listeners, which were told to end, have ended."""
        await asyncio.gather(*self._other_tasks(), return_exceptions=True)
        await asyncio.gather(*(link.wait_closed(deadline) for link in self._links))
        await self._doors.wait_closed()

    def unfinished(self) -> list[str]:
        """Agents whose handlers are at work; after the leave, those that would not stop.

        A plain function cannot be stopped, nor a coroutine that keeps its CancelledError to itself.
        """
        return self._drain.unfinished() if self._identity is not None else []

    def _start(self) -> NodeIdentity:
        self.loop = loop = asyncio.get_running_loop()
        self._rng = self.host.make_rng()
        config = self.config
        signer = open_authority(config, self._now)
        identity = load_identity(config.data_dir, self.node_id, config.network, self.host.time_ns())
        self._identity = identity
        self._threads = self._registry.threads = HandlerThreads(self.node_id, config.handler_threads)
        self._engine = engine = Engine(
            self.node_id,
            identity.incarnation,
            config,
            self.host.monotonic_ns(),
            make_token=loop.create_future,
            call=Call(Waker(loop)),
            to_bytes=to_bytes,
            wake=lambda: loop.call_soon(self.turn),
        )
        engine.wall_offset_ns = self.host.time_ns() - self.host.monotonic_ns()
        self.control = engine.control = Control(
            engine,
            config,
            rng=self._rng,
            network_uuid=identity.network_uuid,
            plaintext=any(not address.secure for address in config.listen_addresses),
            signer=signer,
        )
        self.health_checks = HealthChecks(config, self._threads, self.spawn)
        self._drain = Drain(self.control, self.busy, self._threads, self.host)
        self._vitals = Vitals(engine, self.control, config, self.spawn)
        self.control.replication.on_change = self.hub.changed
        self.control.catalogue.watched = bool(self._streams)
        self._doors = Doors(self, engine)
        self._node = Agent(self.engine, self, self.control.node_record, None, 1)
        return identity

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.host.time_ns() / 1e9, UTC)

    # -- the driver

    @property
    def engine(self) -> Engine:
        if self._left:
            raise NotRunning(f"node {self.node_id} has left its network")
        if self._engine is None:
            raise NotRunning(
                f"node {self.node_id} has not joined a network: await net.join_network([...]) first"
            )
        return self._engine

    @property
    def replication(self) -> Replication:
        return cast(Control, self.engine.control).replication

    def tell_time(self) -> None:
        self.engine.now_ns = self.host.monotonic_ns()

    def turn(self) -> None:
        """Carry out what the engine has ready; at most once per loop turn and read."""
        for _, link in self.turn_out():
            link.shut()

    def turn_out(self) -> list[tuple[Any, Any]]:
        """Carry out all but the closing of links, which is returned."""
        engine = self._engine
        assert engine is not None
        engine.now_ns = self.turned_ns = now = self.host.monotonic_ns()
        ready = engine.ready()
        if ready.persist is not None and self._keeper is not None:
            self._keeper.put(ready.persist, ready.batch)
        for session in ready.send:
            session.link.flush()
        closing = [(session, session.link) for session, _ in ready.close]
        for dial in ready.dial:
            self.spawn(self._doors.dial(dial))
        for tunnel in ready.tunnels:
            self._doors.look(tunnel)
        for session in ready.probe:
            self._vitals.ask(session)
        for port in ready.deliver:
            port.wake()
        for port in ready.stop:
            port.cancel()
        for port, origin, correlation in ready.recall:
            for agent in [port] if port is not None else list(self.busy):
                agent.recall(origin, correlation)
        for call, outcome in ready.learn:
            call.learn(outcome)
        self._outcomes += ready.settle
        if self._outcomes:
            self._settle(len(engine.pending) + engine.letters_awaited, engine.letters_writing)
        if ready.events:
            self._streams.put(ready.events)
        if (engine.wake_ns < self._timer_ns or self._timer is None) and not self._left:
            self._arm(min(engine.wake_ns, now + engine.tick_ns_max))
        return closing

    def hand_out(self) -> None:
        """Let those go on first whose outcome is there; what the engine has ready is carried out then."""
        engine = self._engine
        assert engine is not None
        self._outcomes += engine.take_settled()
        if self._outcomes:
            self._settle(len(engine.pending) + engine.letters_awaited, engine.letters_writing)
        if not self._outcomes:
            self.loop.call_soon(self.turn)

    def _settle(self, asking: int, writing: int) -> None:
        """Hand out some of the outcomes, the rest in the next turns; ``asking`` others wait for peers,
        ``writing`` for the disk.

        Whoever gets one may ask again, and the peer can work on that meanwhile: if all were handed out at
        once, the two nodes would work in turns.  A fifth keeps both at it; few cost more turns than they
        gain.  The disk is at it with halves.
        """
        parts = 2 if writing > asking else 5
        share = max(SETTLE_MIN, (len(self._outcomes) + asking + writing) // parts)
        some, self._outcomes = self._outcomes[:share], self._outcomes[share:]
        settle(some, self.decode)
        if self._outcomes:
            self.loop.call_soon(self.turn)

    def _arm(self, when_ns: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ns = when_ns
        delay = max(when_ns - self.host.monotonic_ns(), MS) / 1e9
        self._timer = self.loop.call_later(delay, self._tick)

    def _tick(self) -> None:
        engine = self.engine
        now = self.host.monotonic_ns()
        if now < self._timer_ns:  # the loop rounds to milliseconds, and nothing is due yet
            return self._arm(self._timer_ns)
        engine.wall_offset_ns = self.host.time_ns() - now
        engine.tick(now)
        engine.load = sum(agent.pending_messages for agent in self.busy)
        for agent in list(self.busy):
            agent.rest_if_idle(now - self.config.agent_idle_ms * MS)
        self.control.catalogue.watched = bool(self._streams)
        self._timer = None
        self.turn()

    def _other_tasks(self) -> list[asyncio.Task[None]]:
        """All that was spawned, but for the one that asks."""
        return [task for task in self._tasks if task is not asyncio.current_task()]

    def spawn(self, work: Coroutine[Any, Any, None], /) -> asyncio.Task[None]:
        """A task that ends with this node, at the latest."""
        task = self.loop.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)
        return task

    async def wait_settled(
        self, start: Callable[[asyncio.Future[None]], None], token: asyncio.Future[None] | None = None
    ) -> None:
        """Start something that settles a token, and wait for it."""
        token = token or self.loop.create_future()
        self.engine.now_ns = self.host.monotonic_ns()
        start(token)
        self.turn()
        await token

    def decode(self, message: AgentMessage, hint: Any) -> Any:
        return decode(message, hint, AnswerOf(message.from_agent, self.control.directory.label))

    # -- agents

    async def register_agent(
        self,
        agent: int | str,
        capabilities: Iterable[str] = (),
        handler: Handler | None = None,
        *,
        timeout: float | None = None,
        **options: Unpack[AgentOptions],
    ) -> Agent:
        """Register an agent of this node, by id or by name; it returns when every node reaches it.

        That is when every linked node knows it, or, in a network of more than ``mesh_nodes_max`` nodes,
        when those do that keep its id: they are asked where it is not known.

        ``handler``: an async function of one message, whose result answers a request; a plain
        function runs in a thread.  ``concurrency``: messages that it may work on at once.
        ``health``: a function of no argument, plain or async, that is asked every
        ``health_interval_ms``: None when the agent is well, else a short text that says why not, which
        every node shows as `AgentNode.health`.  ``groups``: whose multicasts it gets (`Agent.join_group`).
        ``reentrant``: it answers calls of chains that wait for it already, out of turn.  ``when_full``: what
        its mailbox does that holds ``mailbox_messages_max`` or ``mailbox_bytes_max``, see `WhenFull`.
        Registering one's own agent again replaces it.  AgentExists if it is another node's;
        Unconfirmed, and it is registered all the same, names the nodes that had not confirmed after
        ``timeout`` seconds or have no room for it.
        """
        spec = AgentSpec(agent=agent, capabilities=capabilities, handler=handler, **options)
        return (await self.register_agents([spec], timeout=timeout))[0]

    async def register_agents(
        self, agents: Sequence[AgentSpec | int | str], *, timeout: float | None = None
    ) -> list[Agent]:
        """Register many agents at once: one confirmation for all. See `register_agent`."""
        return await self._registry.register(agents, timeout)

    def agent(
        self, agent: int | str, capabilities: Iterable[str] = (), **options: Unpack[AgentOptions]
    ) -> Callable[[H], H]:
        """Decorator: the function becomes the handler of ``agent`` when the node joins.

        Used after the join, it registers in the background; a failure is an event and a log line.
        NotRunning once the node leaves.
        """

        def declare(handler: H) -> H:
            if self._leaving is not None:
                raise NotRunning(f"agent {agent}: node {self.node_id} has left its network")
            spec = AgentSpec(agent=agent, capabilities=capabilities, handler=handler, **options)
            if self._engine is None:
                self._registry.declare(spec)
            else:
                self.spawn(self._registry.register_late(spec))
            return handler

        return declare

    async def unregister_agent(self, agent: Agent | int | str) -> None:
        """Take an agent of this node away; what it had not handled is refused, definitely.

        Its handler is cancelled. One that has not ended after a second is HandlerStuck.
        """
        await self._registry.unregister(agent)

    async def set_maintenance(self, on: bool) -> None:
        """Take no new work of other nodes from now on, or take it again.

        In maintenance, what agents of other nodes send to or ask of agents here is refused: AgentUnreachable,
        definite.  What is in the mailboxes is done; agents here may use each other and ask others, whose
        answers come, and broadcasts do.  Every node shows this one and its agents as NodeStatus.MAINTENANCE.
        Returns when the linked nodes know it and no work of theirs is on its way; one that does not answer
        for ``node_silence_ms_max`` is not waited for.
        """
        self.engine  # noqa: B018 - which raises unless the node has joined
        await self._drain.set_maintenance(on, math.inf)

    # -- messages

    def _sender(self, sender: Agent | int | str | None, from_agent: int = 0) -> Agent:
        if isinstance(sender, Agent):
            return sender
        wanted = agent_id_of(sender) if sender is not None else from_agent
        ports = self.engine.ports
        if wanted:
            port = ports.get(wanted)
            if not isinstance(port, Agent):
                raise ConfigError(f"sender {sender or from_agent!r} is not an agent of node {self.node_id}")
            return port
        first = next(iter(ports.values()), None)
        return first if isinstance(first, Agent) else self._node

    async def send_message(self, message: AgentMessage, sender: Agent | int | str | None = None) -> None:
        """Send a message of any type; ``to_agent=None`` makes it a broadcast, or one to its ``group``.

        It comes from ``sender``, else from its ``from_agent``, else from the first agent of this
        node, else from the node itself (id 0).  Errors as of `Agent.send`.
        """
        port = self._sender(sender, message.from_agent)
        if message.to_agent is None:
            await self._broadcast(message, port.agent_id)
        else:
            await self.engine.send_message(message, port.agent_id)

    async def broadcast_message(self, payload: Any, sender: Agent | int | str | None = None) -> None:
        """Send a payload to every registered agent but those with ``broadcasts=False``.

        Where not every node is linked, it goes from node to node: each agent gets it once, in any order
        with others, and it may have ``broadcast_bytes_max``.  It returns when it is on its way, and waits
        while there is no room.  Errors as of `Agent.send`; one that names the nodes that did not get it is
        not definite.
        """
        body, content = to_bytes(payload)
        message = AgentMessage(body, message_type=MessageType.BROADCAST)
        await self._broadcast(message, self._sender(sender).agent_id, content)

    async def multicast(self, group: str, payload: Any, sender: Agent | int | str | None = None) -> None:
        """Send a payload to every agent of a group, the sender too if it is in it, and those that were
        registered with ``broadcasts=False``; see `Agent.join_group`.

        Only nodes that have agents in the group get it, once for all of them. NoSuchAgent, definite, if
        nobody is in it, as far as this node knows; errors as of `broadcast_message`, but definite if surely
        no node got it.
        """
        body, content = to_bytes(payload)
        message = AgentMessage(body, message_type=MessageType.BROADCAST, group=check_group(group))
        await self._broadcast(message, self._sender(sender).agent_id, content)

    async def _broadcast(self, message: AgentMessage, from_agent: int, content: int = 0) -> None:
        tokens, reached = self.engine.broadcast(message, from_agent, content)
        outcomes = await asyncio.gather(*tokens, return_exceptions=True)
        failed = [outcome for outcome in outcomes if isinstance(outcome, NetworkError)]
        if failed:
            reasons = "; ".join(str(error) for error in failed[:8])
            definite = not reached and len(failed) == len(tokens) and all(error.definite for error in failed)
            who = "no node got the message" if definite else "some nodes did not get the broadcast"
            raise type(failed[0])(f"{who}: {reasons}", definite=definite)

    def request(self, to: int | str, payload: Any, **options: Unpack[RequestOptions]) -> Call[Any]:
        """As `Agent.request`, from the first agent of this node or the node itself; its errors, too."""
        return self._sender(None).request(to, payload, **options)

    # -- dead letters

    def dead_letters(self) -> list[DeadLetter]:
        """DURABLE messages of this node that could not be processed, the oldest first."""
        return list_dead(self.engine)

    def replay_dead_letters(self, numbers: Iterable[int] | None = None) -> int:
        """Send those dead letters again, or all, as new messages without a ttl; how many.

        ConfigError, and nothing is sent, if a number is of none; LimitReached or StorageBusy, and the rest
        stays, if there is no room for all.
        """
        picked = pick(self.engine, numbers)
        self.engine.replay_dead(picked)
        return len(picked)

    def purge_dead_letters(self, numbers: Iterable[int] | None = None) -> int:
        """Forget those dead letters, or all; how many. ConfigError, and none is, if a number is of none."""
        picked = pick(self.engine, numbers)
        self.engine.purge_dead(picked)
        return len(picked)

    # -- views

    @property
    def addresses(self) -> list[str]:
        """Where other nodes reach this one."""
        return list(self.control.membership.addresses) if self._engine is not None else []

    def members(self) -> list[Member]:
        """Every node known, this one among them."""
        return cast(Control, self.engine.control).members()

    def agents(
        self,
        capability: str | None = None,
        *,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        healthy: bool | None = None,
        group: str | None = None,
    ) -> list[AgentNode]:
        """The agents known, in the order of their ids: all, or those to which all applies that is given.

        ``metadata``: these pairs are among the agent's own.  ``healthy``: True for those that are well,
        as they say themselves, False for those that are not; nothing is said of their nodes.
        """
        directory = cast(Control, self.engine.control).directory
        return AgentNode.all_of(directory.select(capability, name, metadata, healthy, group), self.members())

    def stats(self) -> dict[str, int]:
        """Every counter of this node, by name."""
        engine = self._engine if self._engine is not None else self.engine
        return {
            **engine.stats(),
            **self.control.stats(),
            **self._vitals.stats(),
            "nodes": len(self.control.membership),
            "agents": len(self.control.directory),
            "handlers_failed": self.handlers_failed,
            "state_conflicts": self.state_conflicts,
            "connections_refused": self._doors.refused,
            "events_missed": self._streams.missed,
        }

    def events(self) -> AsyncIterator[Event]:
        """What happens from now on: joined, left, lost, agents registered and gone, undeliverable...

        Each call gives a stream of its own, whose events the tasks that read it share.  Who reads too
        slowly misses the oldest; an EVENTS_MISSED event says how many.
        """
        stream = self._streams.open()
        if self._left:
            stream.end()
        if self._engine is not None:
            self.control.catalogue.watched = True
        return stream
