"""Nodes for tests: several in one event loop or in processes of their own, over loopback sockets.

`Cluster` makes them and, at its end, checks that leaving left nothing: no task, no descriptor.
`relay` is a wire that can be cut or frozen, `FakePeer` and `Impostor` speak the wire by hand, so that
they can say whatever is wrong.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import struct
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

from agentnet import AgentMessage, AgentNetworkManager, Event, NetworkConfig, NetworkError, NodeStatus
from agentnet.certs import init_authority, issue_certificate
from agentnet.testing import Weather
from agentnet.testing.relay import Relay, Ways
from agentnet.transport.tls import ALPN
from agentnet_core.agent_record import AgentRecord
from agentnet_core.config import EngineConfig
from agentnet_core.framing import crc32c
from agentnet_core.handshake import Close, Hello, Welcome
from agentnet_core.listing import write_whole
from agentnet_core.records import agent_id_of

HELLO, WELCOME, CLOSE, PING, PONG, CREDIT, STOP, GO = range(8)
MEMBERS, AGENTS, CONFIRM, PROBE, VOUCH, DIGEST = range(8, 14)
PULL = 19
MESSAGE, REFUSED = 16, 17
STATE_CHUNK, CARRY = 30, 33

CHECKED = 2
"""Flag of a frame: a checksum follows its body."""

WATCHDOG = "agentnet-watchdog"
SECONDS = 20.0
"""What a condition may take on a busy machine before the test has failed."""


async def until(condition: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """The first true result of ``condition``."""
    async with asyncio.timeout(seconds):
        while not (result := condition()):
            await asyncio.sleep(0.002)
        return result


async def soon(awaitable: Any, seconds: float = SECONDS) -> Any:
    """The result, or a failed test."""
    async with asyncio.timeout(seconds):
        return await awaitable


async def answered(net: AgentNetworkManager, to: int | str, payload: Any = b"", **options: Any) -> Any:
    """The answer to a request that is repeated for as long as it definitely was not carried out."""
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                return await net.request(to, payload, **options)
            except NetworkError as error:
                if not error.definite:
                    raise
            await asyncio.sleep(0.01)


async def echo(message: AgentMessage) -> bytes:
    return message.payload


class Inbox:
    """A handler that keeps what it gets."""

    def __init__(self) -> None:
        self.messages: list[AgentMessage] = []

    async def __call__(self, message: AgentMessage) -> int:
        self.messages.append(message)
        return len(self.messages)

    @property
    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.messages]

    async def wait(self, count: int) -> list[bytes]:
        await until(lambda: len(self.messages) >= count)
        return self.payloads


def open_files() -> list[str]:
    """What every descriptor of this process is, numbers left out."""
    found = []
    for number in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            continue  # the one of the listing itself
    return sorted(found)


def resident_bytes() -> int:
    """Memory that this process holds; 0 where that cannot be read."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:
        return 0


def own_threads() -> list[str]:
    """Names of the threads that nodes made, but for the one that all nodes of a process share."""
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith("agentnet-")]
    return [name for name in names if name != WATCHDOG]


def is_watched() -> bool:
    """Whether the thread that all nodes of a process share is there."""
    return any(thread.name == WATCHDOG for thread in threading.enumerate())


class Watch:
    """Every event of a node from now on, in a list; `wait` for one of a kind."""

    def __init__(self, net: AgentNetworkManager) -> None:
        self.seen: list[Event] = []
        self._stream = net.events()
        self._task = asyncio.get_running_loop().create_task(self._read(), name="watch")

    async def _read(self) -> None:
        async for event in self._stream:
            self.seen.append(event)

    def of(self, kind: str, **fields: Any) -> list[Event]:
        return [
            event
            for event in self.seen
            if event.kind == kind and all(getattr(event, name) == value for name, value in fields.items())
        ]

    async def wait(self, kind: str, seconds: float = SECONDS, **fields: Any) -> Event:
        event: Event = (await until(lambda: self.of(kind, **fields), seconds))[0]
        return event

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class Certificates:
    """One authority for a test run; a certificate for each node that asks."""

    def __init__(self, folder: Path, network: str = "default") -> None:
        self.folder = folder
        self.network = network
        init_authority(folder, network)

    def of(self, node_id: str) -> dict[str, str]:
        """What NetworkConfig takes."""
        if not (self.folder / f"{node_id}.pem").exists():
            issue_certificate(self.folder, self.network, node_id)
        return {
            "certificate": str(self.folder / f"{node_id}.pem"),
            "private_key": str(self.folder / f"{node_id}-key.pem"),
            "ca": str(self.folder / "ca.pem"),
        }

    def client(self, node_id: str) -> ssl.SSLContext:
        """For a peer that speaks by hand."""
        files = self.of(node_id)
        return client_context(files)


def client_context(files: dict[str, str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.load_verify_locations(files["ca"])
    context.load_cert_chain(files["certificate"], files["private_key"])
    context.set_alpn_protocols([ALPN])
    return context


class Cluster:
    """Makes nodes of one scheme, and ends them."""

    def __init__(self, scheme: str, certificates: Callable[[], Certificates]) -> None:
        self.scheme = scheme
        self.nets: list[AgentNetworkManager] = []
        self._certificates = certificates
        self._watches: list[Watch] = []
        self._peers: list[FakePeer] = []
        self._tasks = asyncio.all_tasks()
        self._files = open_files()
        self._watched = is_watched()

    @property
    def certificates(self) -> Certificates:
        return self._certificates()

    def config(self, node_id: str, **settings: Any) -> NetworkConfig:
        """A config for that node; ``settings`` go before the usual ones."""
        # Handlers that hang on purpose must not hold up the end of their test.
        usual: dict[str, Any] = {"listen": f"{self.scheme}://127.0.0.1:0", "leave_ms_max": 1000}
        if self.scheme == "tls":
            usual |= self.certificates.of(node_id)
        return NetworkConfig(**{**usual, **settings})

    def make(self, node_id: str, **settings: Any) -> AgentNetworkManager:
        """A node that has not joined."""
        net = AgentNetworkManager(node_id, self.config(node_id, **settings))
        self.nets.append(net)
        return net

    async def start(self, *node_ids: str, **settings: Any) -> list[AgentNetworkManager]:
        """Nodes that are linked, all with all; the first founds the network if there is none yet."""
        made = []
        for node_id in node_ids:
            known = [net for net in self.nets if linked(net)]
            net = self.make(node_id, **settings)
            await soon(net.join_network(known[0].addresses if known else []))
            made.append(net)
        await self.meshed()
        return made

    async def meshed(self) -> None:
        """Return when all nodes that have joined know and reach each other."""
        await until(lambda: all(len(active(net)) == len(self.joined) for net in self.joined))

    @property
    def joined(self) -> list[AgentNetworkManager]:
        return [net for net in self.nets if linked(net)]

    def watch(self, net: AgentNetworkManager) -> Watch:
        watch = Watch(net)
        self._watches.append(watch)
        return watch

    async def peer(self, net: AgentNetworkManager, context: ssl.SSLContext | None = None) -> FakePeer:
        """A connection to that node, by hand."""
        peer = await FakePeer.dial(net.addresses[0], context)
        self._peers.append(peer)
        return peer

    async def linked_to(self, agent: int | str) -> tuple[AgentNetworkManager, FakePeer]:
        """Node ``n1``, and a peer by hand, ``0-peer``, that it is linked to and that has that agent."""
        (net,) = await self.start("n1")
        peer = await self.peer(net)
        await peer.join("0-peer", network_uuid=net.control.network_uuid)
        name = agent if isinstance(agent, str) else None
        (body,) = write_whole("0-peer", 1, 1, [AgentRecord(agent_id_of(agent), "0-peer", name)], 4096)
        peer.send(AGENTS, body)
        await until(net.agents)
        return net, peer

    async def close(self) -> None:
        """Leave with all nodes; whatever is left then fails the test."""
        for peer in self._peers:
            await peer.close()
        for net in self.joined:
            for agent in list(net.busy):  # some handlers hang on purpose
                if agent in net.engine.ports.values():
                    await net.unregister_agent(agent)
        await soon(asyncio.gather(*(net.leave_network() for net in self.nets)))
        for watch in self._watches:
            await watch.close()
        await until_nothing_left(self._tasks, self._files)
        assert is_watched() == self._watched, "left behind: the watchdog"


def linked(net: AgentNetworkManager) -> bool:
    return net._engine is not None and not net._left


def active(net: AgentNetworkManager) -> list[str]:
    """Ids of the nodes that it is linked to, and its own."""
    return [member.node_id for member in net.members() if member.status is NodeStatus.ACTIVE]


async def until_nothing_left(tasks: set[asyncio.Task[Any]], files: list[str]) -> None:
    """Fail unless soon no task, socket or thread of a node is left."""

    def left() -> str:
        running = [repr(task) for task in asyncio.all_tasks() - tasks if task is not asyncio.current_task()]
        # Only sockets: an event loop opens other descriptors when it first needs them.
        sockets = sum("socket:" in name for name in open_files()) - sum("socket:" in name for name in files)
        return "; ".join([*running, *([f"{sockets} sockets"] if sockets > 0 else []), *own_threads()])

    try:
        await until(lambda: not left(), 10)
    except TimeoutError:
        raise AssertionError(f"left behind: {left()}") from None


# -- wires


@asynccontextmanager
async def relay() -> AsyncIterator[Relay]:
    made = Relay(Ways(Random(0), Weather(delay_ns=(0, 0))))
    await made.open()
    try:
        yield made
    finally:
        await made.close()


class FakePeer:
    """One end of a link, by hand: sends whatever it is told to, reads frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, secure: bool) -> None:
        self.reader = reader
        self.writer = writer
        self.secure = secure
        self.checksum = True  # until a Hello has been said; under TLS none after that
        self.hello: Hello | None = None
        # A checksum goes on from that of the frame before it in its lane: data, all else.
        self._chains_in = {True: 0, False: 0}
        self._chains_out = {True: 0, False: 0}

    @classmethod
    async def dial(cls, address: str, context: ssl.SSLContext | None = None) -> FakePeer:
        host, _, port = address.rpartition("://")[2].rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
        return cls(reader, writer, context is not None)

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    def send(self, kind: int, body: bytes, flags: int = 0) -> None:
        """A frame as the wire has it."""
        inner = struct.pack(">BB", kind, flags | CHECKED if self.checksum else flags) + body
        if self.checksum:
            lane = kind in (MESSAGE, STATE_CHUNK, CARRY)
            self._chains_out[lane] = crc32c(inner, self._chains_out[lane])
            inner += struct.pack(">I", self._chains_out[lane])
        self.writer.write(struct.pack(">I", len(inner)) + inner)

    async def read(self) -> tuple[int, bytes] | None:
        """The next frame, None at the end of the connection."""
        try:
            (length,) = struct.unpack(">I", await soon(self.reader.readexactly(4)))
            data = await soon(self.reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        end = length
        if data[1] & CHECKED:
            end -= 4
            lane = data[0] in (MESSAGE, STATE_CHUNK, CARRY)
            self._chains_in[lane] = crc32c(data[:end], self._chains_in[lane])
            assert struct.unpack(">I", data[end:])[0] == self._chains_in[lane]
        else:
            assert self.secure
        if data[0] == HELLO:
            self.hello = Hello.decode(data[2:end])
        return data[0], data[2:end]

    async def expect(self, kind: int) -> bytes:
        """The body of the next frame of that kind; others are passed over."""
        while (got := await self.read()) is not None:
            if got[0] == kind:
                return got[1]
            assert got[0] != CLOSE, Close.decode(got[1])
        raise AssertionError(f"the connection ended before a frame of kind {kind}")

    async def closing(self) -> Close | None:
        """Why the other side closed, as far as it said so; returns when it has closed."""
        said = None
        while (got := await self.read()) is not None:
            if got[0] == CLOSE:
                said = Close.decode(got[1])
        return said

    def greet(self, node_id: str, **fields: Any) -> None:
        """Say HELLO as that node; ``fields`` go before the usual ones."""
        usual = {"checksum": int(not self.secure), "features_required": int(self.secure)}  # it signs
        self.send(HELLO, hello(node_id, **{**usual, **fields}).encode())
        self.checksum = not self.secure

    async def join(self, node_id: str, **fields: Any) -> None:
        """Pass the handshake; ``node_id`` must be lower than the other's, which then says WELCOME."""
        self.greet(node_id, **fields)
        await self.expect(HELLO)
        assert self.hello is not None
        assert node_id < self.hello.node_id
        Welcome.decode(await self.expect(WELCOME))

    async def close(self) -> None:
        self.writer.transport.abort()
        with suppress(OSError, asyncio.CancelledError):
            await self.writer.wait_closed()


def hello(node_id: str, **fields: Any) -> Hello:
    usual: dict[str, Any] = {
        "network": "default",
        "incarnation": 1,
        "credit_bytes": EngineConfig().link_window_bytes,
    }
    return Hello(node_id=node_id, **{**usual, **fields})


class Impostor:
    """A server at a port of its own that does with each connection what ``behave`` does."""

    def __init__(self, behave: Callable[[FakePeer], Any]) -> None:
        self._behave = behave
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        peer = FakePeer(reader, writer, secure=False)
        try:
            await self._behave(peer)
        except asyncio.CancelledError:
            pass  # the test is over
        finally:
            await peer.close()
            self._tasks.discard(task)

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await until(lambda: not self._tasks)


# -- processes


class NodeProcess:
    """A node in a process of its own: agents ``echo-ID`` (answers what it got), ``count-ID`` and others."""

    def __init__(self, process: asyncio.subprocess.Process, ready: dict[str, Any]) -> None:
        self.process = process
        self.addresses: list[str] = ready["addresses"]
        self.events: list[tuple[str, str]] = []
        """Kind and node of each event that it told of."""
        self._answers: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self._reading = asyncio.create_task(self._read(), name="read events")

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            told = json.loads(line)
            if isinstance(told, dict):
                self._answers.put_nowait((told["said"], told["relay"]))
            else:
                self.events.append((told[0], told[1]))

    async def ask(self, node_id: str, size: int, seconds: float = SECONDS) -> tuple[str, str]:
        """What became of so many bytes that the node was to send back, "same" if it did; who relays."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{node_id} {size}\n".encode())
        return await soon(self._answers.get(), seconds)

    def told(self, kind: str) -> list[str]:
        """The nodes that it told that of, in order of their names."""
        return sorted(node_id for told, node_id in self.events if told == kind)

    def told_last(self, node_id: str) -> str:
        """What it told last of that node: that it has joined, is lost or has left."""
        kinds = (Event.JOINED, Event.LOST, Event.LEFT)
        return [kind for kind, about in self.events if about == node_id and kind in kinds][-1]

    @classmethod
    async def start(
        cls, node_id: str, bootstrap: Iterable[str], settings: dict[str, Any], prefix: Iterable[str] = ()
    ) -> NodeProcess:
        order = json.dumps({"node_id": node_id, "bootstrap": list(bootstrap), "settings": settings})
        process = await asyncio.create_subprocess_exec(
            *prefix,
            sys.executable,
            str(Path(__file__).with_name("node_process.py")),
            order,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert process.stdout is not None
        line = await soon(process.stdout.readline())
        if not line:
            await process.wait()
            raise AssertionError(f"node {node_id} did not start")
        return cls(process, json.loads(line))

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def end(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        assert self.process.stdin is not None
        self.process.stdin.close()
        await soon(self.process.wait())
        await soon(self._reading)


@asynccontextmanager
async def node_process(
    node_id: str, bootstrap: Iterable[str] = (), *, prefix: Iterable[str] = (), **settings: Any
) -> AsyncIterator[NodeProcess]:
    """``prefix``: what goes before its command."""
    process = await NodeProcess.start(node_id, bootstrap, settings, prefix)
    try:
        yield process
    finally:
        await process.end()


STOP_SIGNAL, CONTINUE_SIGNAL = (
    (signal.SIGSTOP, signal.SIGCONT) if hasattr(signal, "SIGSTOP") else (signal.SIGTERM, signal.SIGTERM)
)
