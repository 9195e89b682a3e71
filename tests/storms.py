"""A network at work in bad weather: what its agents do, and what must hold whatever happens to the bytes.

    storm = Storm(seed, Weather(flip=0.01))
    storm.blow(ms=1000)   # agents talk, come and go; what holds at any time is checked all the time
    storm.clear()         # the weather is fair again: all nodes find together
    storm.check()         # the books: what was sent, what came, what the counters say, what is still held

`ride_out` does all that, and tells the seed of a failure.  One seed, one history: every choice comes
from the world's own source of chance.  `history` is one as a digest, for another process to repeat.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from hashlib import blake2b
from typing import Any

from harness import MS, Agent, Node, Token, Weather, World

from agentnet_core.config import EngineConfig
from agentnet_core.errors import HandlerFailed, NetworkError
from agentnet_core.message import AgentMessage
from agentnet_core.records import Event, MessageType

CONFIG = EngineConfig(
    fragment_bytes=4096,
    bulk_window_bytes=16_384,
    link_window_bytes=32_768,
    message_bytes_max=200_000,
    mailbox_messages_max=64,
    sends_waiting_max=32,
    send_wait_ms_max=600,
    request_timeout_ms=600,
    handshake_ms_max=300,
    ping_interval_ms=100,
    link_silence_ms_max=500,
    redial_ms_min=5,
    redial_ms_max=100,
    node_silence_ms_max=300,
    probe_ms_max=100,
    suspicion_ms_min=300,
    suspicion_ms_max=900,
)
REGISTER_MS = 400
SLACK_MS = 20
"""What an outcome may come late; engines wake at their deadlines, to the millisecond."""
FAIR = Weather()
SIZES = (0, 10, 10, 200, 200, 3000, 5000, 40_000)

Key = tuple[str, str, int]
"""Sender, receiver and priority."""


def body_of(number: int, size: int) -> bytes:
    return (b"%d." % number * (size // 2 + 1))[:size]


def answer_to(payload: bytes) -> bytes:
    """What a handler makes of a request; some answers are large."""
    digest = blake2b(payload, digest_size=16).digest()
    return digest * (1 if digest[0] & 7 else 600)


class Expected:
    """A token, and when it must have been settled."""

    def __init__(self, token: Token, by_ns: int, what: str) -> None:
        self.token, self.by_ns, self.what = token, by_ns, what


class Storm:
    """Some nodes that are linked, agents that stay, agents that come and go, and the books of it all."""

    def __init__(
        self, seed: int, weather: Weather, *, names: str = "abc", secure: bool = False, **config: Any
    ) -> None:
        self.world = world = World(seed, FAIR, secure=secure)
        self.weather = weather
        self.config = replace(CONFIG, **config)
        self.nodes = world.join(*names, config=self.config)
        self.expected: list[Expected] = []
        self.asked: list[tuple[Token, bytes]] = []
        self.told: list[tuple[Any, bytes]] = []
        self.handled: dict[bytes, int] = {}
        self.last: dict[Key, int] = {}
        self.number = self.links_lost = 0
        self.stay: list[Agent] = [
            node.agent(f"{kind}-{node.name}", partial(self.handle, node), capabilities=[kind])
            for node in self.nodes
            for kind in ("one", "two")
        ]
        # Each of two nodes wants these, and gives them up again.
        self.names = [f"guest-{i}" for i in range(6)]

    # -- what agents do

    def handle(self, node: Node, message: AgentMessage) -> bytes:
        """Check what came against what it says of itself; answer a request."""
        head, _, body = message.payload.partition(b":")
        kind, sender, receiver, priority, number, size = head.decode().split()
        assert body == body_of(int(number), int(size)), f"altered: {head!r}"
        assert int(message.priority) == int(priority), f"another priority: {head!r}"
        assert self.handled.setdefault(message.payload, 0) == 0, f"twice: {head!r}"
        self.handled[message.payload] += 1
        key = (f"{kind} {sender}", receiver, int(priority))
        if not receiver.startswith("guest"):
            assert self.last.get(key, -1) < int(number), f"{head!r} came after {self.last[key]}"
            self.last[key] = int(number)
        if int(number) % 13 == 0:
            raise ValueError(f"no {number}")
        return answer_to(message.payload)

    def act(self) -> None:
        """One thing that somebody does."""
        what = self.world.rng.random()
        if what < 0.45:
            self.tell()
        elif what < 0.85:
            self.ask()
        elif what < 0.90:
            self.broadcast()
        else:
            self.come_or_go()

    def payload(self, kind: str, sender: Agent, receiver: str, priority: int) -> bytes:
        rng = self.world.rng
        self.number += 1
        size = rng.choice(SIZES)
        head = f"{kind} {sender.record.label} {receiver} {priority} {self.number} {size}:"
        return head.encode() + body_of(self.number, size)

    def pair(self) -> tuple[Agent, str, int]:
        rng = self.world.rng
        sender = rng.choice(self.stay)
        receiver = rng.choice(self.names) if rng.random() < 0.1 else rng.choice(self.stay).record.label
        return sender, receiver, rng.randrange(4)

    def tell(self) -> None:
        sender, receiver, priority = self.pair()
        payload = self.payload("tell", sender, receiver, priority)
        try:
            token = sender.send(receiver, payload, priority=priority)
        except NetworkError as error:
            assert error.definite, error
            self.told.append((error, payload))
            return
        self.told.append((token, payload))
        # What has begun to go in fragments ends with them, or with its link.
        if isinstance(token, Token) and len(payload) <= self.config.fragment_bytes:
            self.expect(token, self.config.send_wait_ms_max, payload[:40].decode())

    def ask(self) -> None:
        sender, receiver, priority = self.pair()
        payload = self.payload("ask", sender, receiver, priority)
        token = sender.request(receiver, payload, priority=priority)
        assert isinstance(token, Token)
        self.asked.append((token, payload))
        self.expect(token, self.config.request_timeout_ms, payload[:40].decode())

    def broadcast(self) -> None:
        """To agents that pass it over: what matters is that it upsets nothing."""
        node = self.world.rng.choice(self.nodes)
        message = AgentMessage(b"tell", message_type=MessageType.BROADCAST)
        for token in node.engine.broadcast(message, 0)[0]:
            self.expect(token, self.config.send_wait_ms_max, "broadcast")

    def come_or_go(self) -> None:
        rng = self.world.rng
        node, name = rng.choice(self.nodes[:2]), rng.choice(self.names)
        mine = [port for port in node.engine.ports.values() if port.record.name == name]
        if mine and rng.random() < 0.5:
            node.unregister(*mine)
            return
        guest = node.make(name, partial(self.handle, node), capabilities=[f"of-{node.name}"])
        try:
            token = node.register(guest, timeout_ms=REGISTER_MS)
        except NetworkError as error:
            assert error.definite, error
        else:
            self.expect(token, REGISTER_MS, f"register {name} on {node.name}")

    # -- time

    def expect(self, token: Token, ms: int, what: str) -> None:
        self.expected.append(Expected(token, self.world.now_ns + (ms + SLACK_MS) * MS, what))

    def look(self) -> None:
        """What must hold at any time: no outcome is overdue."""
        for item in self.expected:
            assert item.token.done or self.world.now_ns <= item.by_ns, f"overdue: {item.what}"
        self.expected = [item for item in self.expected if not item.token.done]

    def blow(self, ms: int) -> None:
        """Let agents work in that weather for so long."""
        world = self.world
        world.network.weather = self.weather
        end = world.now_ns + ms * MS
        while world.now_ns < end:
            self.act()
            world.run(world.rng.choice((0, 0.2, 2, 6)))
            self.look()

    def clear(self) -> None:
        """Fair weather: all are linked again, know the same, and reach each other."""
        world = self.world
        world.network.weather = FAIR
        world.until(self.linked, ms=5_000)
        world.until(self.agreed, ms=5_000)
        for node in self.nodes:
            for agent in node.control.directory.agents():
                self.reach(node, agent.label)
        world.until(lambda: all(item.token.done for item in self.expected), ms=5_000)
        # A link whose last bytes were lost may be found out only now, and is made again.
        world.until(lambda: self.quiet() and self.linked() and self.agreed(), ms=5_000)

    def reach(self, node: Node, name: str) -> None:
        """An agent is reached; the first attempt may find a link damaged that looked sound."""
        asker = next(agent for agent in self.stay if agent.node is node)
        for _ in range(3):
            payload = self.payload("ask", asker, name, 1)
            token = asker.request(name, payload)
            self.world.until(lambda token=token: token.done, ms=2_000)
            self.asked.append((token, payload))
            if isinstance(token.error, HandlerFailed) or token.error is None:
                return
            self.world.until(self.linked, ms=5_000)
        raise AssertionError(f"{node.name} does not reach {name}: {token.error!r}")

    def linked(self) -> bool:
        names = sorted(node.name for node in self.nodes)
        return all(sorted([node.name, *node.engine.sessions]) == names for node in self.nodes)

    def agreed(self) -> bool:
        """All directories say the same, and it is what the owners themselves say."""
        views = [
            [
                (record.agent_id, record.node_id, record.capabilities)
                for record in node.control.directory.agents()
            ]
            for node in self.nodes
        ]
        owned = sorted(
            (port.agent_id, node.name) for node in self.nodes for port in node.engine.ports.values()
        )
        return all(view == views[0] for view in views) and [row[:2] for row in views[0]] == owned

    def quiet(self) -> bool:
        """Nothing is on its way, and nothing is owed."""
        return not any(self.held(node) for node in self.nodes)

    def end(self) -> None:
        """All leave, so that the world is garbage: a message knows its origin, and that its link."""
        for node in self.nodes:
            node.leave()
            assert not node.engine.links
            assert not node.engine.pending

    # -- the books

    def check(self) -> None:
        """All that must hold in the end."""
        self.check_outcomes()
        for node in self.nodes:
            assert self.held(node) == []
            self.check_counters(node)
        self.check_sums()

    def check_outcomes(self) -> None:
        for token, payload in self.asked:
            assert token.done
            if token.error is None:
                assert token.answer == answer_to(payload), "the answer to something else"
            elif isinstance(token.error, HandlerFailed) and "stopped" not in str(token.error):
                assert self.handled.get(payload) == 1
                assert str(token.error).endswith(f"no {payload.split()[4].decode()}")
            self.check_definite(token.error, payload)
        for token, payload in self.told:
            if isinstance(token, Token):
                assert token.done, payload[:40]
                self.check_definite(token.error, payload)
            elif isinstance(token, NetworkError):
                self.check_definite(token, payload)

    def check_definite(self, error: BaseException | None, payload: bytes) -> None:
        if isinstance(error, NetworkError) and error.definite:
            assert payload not in self.handled, f"{error!r}, and it was done"

    def held(self, node: Node) -> list[str]:
        """What an engine holds that work or a lost link left behind."""
        engine, control = node.engine, node.control
        found = [f"{len(engine.pending)} pending"] if engine.pending else []
        if not (len(engine.links) == len(engine.sessions) and all(link.welcomed for link in engine.links)):
            found.append(f"links {engine.links}")
        for session in engine.links:
            counts = {
                "outstanding": session.outstanding,
                "unconfirmed": session.unconfirmed,
                "withheld": session.withheld,
                "waiting_bytes": session.waiting_bytes,
                "blocked": len(session.blocked),
                "bulk": len(session.bulk),
                "assembling": session.assembling[0] + session.assembling[1],
            }
            found += [f"{session.node_id}: {name} {count}" for name, count in counts.items() if count]
        for port in engine.ports.values():
            found += [f"{port.record.label}: mail"] if port.pending_messages else []
        catalogue = control.catalogue
        registrations = catalogue.registrations
        tables = {
            "dials": (control.admission._dials, 0),
            "agreed": (control.admission._agreed, len(engine.links)),
            "probes": (control.admission._probes, 0),
            "questions": (control.admission._asked, 0),
            "met": (catalogue._met, len(engine.links)),
            "wanted": (catalogue._pulls._wants, 0),
            "asked": (catalogue._pulls._open, 0),
            "registrations": (registrations._waiting, 0),
            "dialling": (control.membership._dials._in_progress, 0),
            "expected": (
                [queue for queue in registrations._confirmations._expected.values() if queue],
                0,
            ),
            "waiting": (registrations._confirmations._waiting, 0),
            "heard": (registrations._confirmations._heard, 0),
            "doubts": (control.membership._detector._doubts, 0),
            "accused": (control.membership._detector._accused_ns, 0),
        }
        return found + [
            f"{len(table)} {name}" for name, (table, size) in tables.items() if len(table) != size
        ]

    def check_counters(self, node: Node) -> None:
        """What is counted was told, and the other way round."""
        stats = node.stats
        assert stats["links"] == len(self.nodes) - 1
        assert stats["requests_pending"] == 0
        assert stats["links_lost"] == len(node.told(Event.LINK_LOST))
        assert stats["links_refused"] >= len(node.told(Event.LINK_REFUSED))
        undeliverable = sum(event.count for event in node.told(Event.UNDELIVERABLE))
        assert undeliverable >= stats["messages_unconfirmed"] + stats["broadcasts_dropped"]

    def check_sums(self) -> None:
        """Nothing comes that was not sent; what was sent and did not come was told as perhaps lost."""
        sums = {name: sum(node.stats[name] for node in self.nodes) for name in self.nodes[0].stats}
        self.links_lost = sums["links_lost"]
        # What goes on the tree is sent once, and received by each of the others.
        sent = [node.control.broadcasts.stats()["broadcasts_sent"] for node in self.nodes]
        often = sum(sent) * (len(self.nodes) - 2)
        lost = sums["messages_sent"] + often - sums["messages_received"]
        assert 0 <= lost <= sums["messages_unconfirmed"] + often
        answers = sum(token.error is None for token, _ in self.asked)
        assert answers <= sums["messages_received"] + sums["messages_local"]


def ride_out(seed: int, weather: Weather, ms: int, **options: Any) -> Storm:
    """A storm from its beginning to its end."""
    try:
        storm = Storm(seed, weather, **options)
        storm.blow(ms)
        storm.clear()
        storm.check()
        storm.end()
    except BaseException as error:
        error.add_note(f"seed={seed} {weather} ms={ms} {options}")
        raise
    return storm


def history(seed: int) -> str:
    """A digest of all that happens in a bad quarter of an hour: a node comes, one leaves, one dies."""
    mixed = Weather(piece_bytes=3000, lose=0.002, swap=0.004, repeat=0.002, flip=0.002, cut=0.002)
    storm = Storm(seed, mixed, names="abcd")
    world = storm.world
    storm.blow(200)
    late = world.node("e", config=storm.config)
    late.join("b", "c")
    storm.blow(200)
    storm.nodes[3].leave()
    storm.blow(200)
    storm.nodes[2].kill(silently=True)
    again = world.node("c", config=storm.config, incarnation=2)
    again.join("a", "e")
    storm.blow(200)
    world.network.weather = FAIR
    world.run(3_000)
    for node in (*storm.nodes[:2], late, again):
        directory = node.control.directory
        found = [[record.agent_id for record in directory.find(kind)] for kind in ("one", "two", "of-a")]
        world.clock.note(node.name, sorted(node.engine.sessions), found, node.stats)
        node.leave()
    return world.trace
