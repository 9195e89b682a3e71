"""Mail in a storm: what every delivery promises is held against what happens, at the moment that it does.

Agents of some nodes send each other numbered messages while links break, processes die, power fails in the
middle of writes and disks are full.  A Book has what was sent, told, handled and on which disk that is:

- nothing is told for processed that was not handled, nor for that on a disk that is not there;
- one process handles the messages of a line in order, and each once; none that is known on its node's disk to
  be processed is handled again, nor any whose sender was told so;
- before a message is handled, all have been that were kept before it in its line; in the end, all have.

Some handlers commit an effect to their store with `once`, and some are asked, again and again, under the id
of an operation:

- no effect is there twice, and none is missing that was committed, or told;
- whose result was told is not done again, and all who ask for it get the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from agentnet.sim.node import Agent, Node
from agentnet.sim.token import Token
from agentnet.sim.world import UUID, World
from agentnet_core.config import EngineConfig
from agentnet_core.errors import NetworkError
from agentnet_core.message import AgentMessage
from agentnet_core.records import Delivery, Reached, Receipt

CONFIG = EngineConfig(
    log_segment_bytes=8 * 1024,
    log_held_bytes=16 * 1024,
    mailbox_messages_max=32,
    suspicion_ms_min=400,
    suspicion_ms_max=1_500,
    register_ms_max=60_000,
)
Line = tuple[str, int, str, int]
"""Sender, its life (0 if it is durable), receiver, priority."""


@dataclass
class Sent:
    """One message of a line."""

    line: Line
    number: int
    durable: bool
    token: Token
    kept: bool = False
    handled: bool = False
    life: int = 0
    """Of its receiver, when it handled it last."""
    told: bool = False
    once: bool = False
    """Its handler commits an effect."""
    shy: bool = False
    """The disk has refused that once: it comes again behind others."""

    def __str__(self) -> str:
        return f"number {self.number} of {self.line}"


@dataclass
class Op:
    """What an agent asks for under an id."""

    box: str
    to: str
    number: int
    once: bool
    begun: int = 0
    committed: bytes | None = None
    answer: bytes | None = None

    @property
    def key(self) -> str:
        return f"op {self.number} of {self.box}"

    @property
    def payload(self) -> bytes:
        return b"?" + repr((self.box, self.number)).encode()


@dataclass
class Box:
    """The agent of one node, and what its present process has handled."""

    node: Node
    agent: Agent | None = None
    life: int = 1
    last: dict[Line, int] = field(default_factory=dict)
    handled: list[Sent] = field(default_factory=list)
    """In no batch yet."""
    marks: list[tuple[int, list[Sent]]] = field(default_factory=list)
    """Of each batch on its way, what it says was handled."""
    sealed: dict[bytes, None] = field(default_factory=dict)
    unsure: bool = False
    """Its disk has refused something in this life: of what was handled since it is not known where it is."""


class Book:
    """Sends, and judges what comes of it."""

    def __init__(self, world: World, nodes: list[Node]) -> None:
        self.world = world
        self.boxes = {node.name: Box(node) for node in nodes}
        self.sent: dict[bytes, Sent] = {}
        self.lines: dict[Line, list[Sent]] = {}
        self.ops: dict[bytes, Op] = {}
        self.results = 0
        self.wrong: list[AssertionError] = []
        world.each_step(self._check)
        for box in self.boxes.values():
            self.open(box)

    def _check(self, _: Node) -> None:
        if self.wrong:
            raise self.wrong[0]

    # -- nodes

    def open(self, box: Box) -> None:
        """Begin a process's book."""
        node, rng = box.node, self.world.rng
        box.last, box.handled, box.marks, box.unsure = {}, [], [], False
        box.agent = node.make(f"box-{node.name}", self._handle(box), service_ns=rng.choice((1_000, 300_000)))
        node.register(box.agent)
        self._look(box)
        assert node.disk is not None
        node.disk.on_put = lambda batch: self._put(box, batch)
        node.disk.on_refused = lambda: self._refused(box)
        node.disk.on_persisted = lambda batch: self._persisted(box, batch)

    def _look(self, box: Box) -> None:
        """What a former process has committed is in the store; of what it was not told, it may be."""
        assert box.agent is not None
        store = box.agent.store
        for sent in self.sent.values():
            if sent.once and sent.line[2] == box.node.name:
                there = self._key(sent).decode() in store
                assert there or not sent.handled, f"the effect of {sent} is gone"
                if there and not sent.handled:
                    sent.handled, sent.life = True, box.life - 1
        for op in self.ops.values():
            if op.once and op.to == box.node.name:
                found = store.get(op.key)
                assert op.committed in (None, found), f"{op.key}: {op.committed!r}, but {found!r} is there"
                op.committed = found

    def restart(self, box: Box, *through: str) -> None:
        box.life += 1
        if box.node.disk is not None:
            box.node.disk.files.capacity = None
        box.node.restart(*through)
        self.open(box)

    def _put(self, box: Box, batch: int) -> None:
        """What was handled is in that batch, but for the lines of which that is put off."""
        late = box.node.engine.puts_off()
        going = [sent for sent in box.handled if (sent.line[0], sent.line[3]) not in late]
        box.handled = [sent for sent in box.handled if (sent.line[0], sent.line[3]) in late]
        box.marks.append((batch, going))

    def _refused(self, box: Box) -> None:
        box.unsure = True
        box.marks.clear()

    def _persisted(self, box: Box, batch: int) -> None:
        while not box.unsure and box.marks and box.marks[0][0] <= batch:
            for sent in box.marks.pop(0)[1]:
                if sent.durable:
                    box.sealed[self._key(sent)] = None

    # -- messages

    @staticmethod
    def _key(sent: Sent) -> bytes:
        return repr((sent.line, sent.number)).encode()

    def send(self, box: Box, to: str) -> None:
        """One message, of any kind, from one box to another."""
        rng, node, agent = self.world.rng, box.node, box.agent
        assert agent is not None
        durable, once = rng.random() < 0.7, rng.random() < 0.3
        line = (node.name, 0 if durable else box.life, to, rng.choice((1, 1, 2)))
        of_line = self.lines.setdefault(line, [])
        number = len(of_line) + 1
        payload = repr((line, number)).encode()
        node.engine.now_ns = node.clock.now_ns
        body = payload + bytes(rng.choice((0, 0, 0, 300, 70_000 if rng.random() < 0.1 else 0)))
        until = rng.choice(("kept", "mailboxed", "processed") if durable else ("mailboxed", "processed"))
        options: dict[str, Any] = {"until": until, "timeout": rng.choice((1, 30))}
        if until == "kept" or (not durable and options == {"until": "processed", "timeout": 30}):
            options = {}  # it says the same, and takes the short way
        token: Any = agent.send(
            f"box-{to}",
            body,
            priority=line[3],
            delivery=Delivery.DURABLE if durable else Delivery.ACKNOWLEDGED,
            **options,
        )
        sent = Sent(line, number, durable, token, once=once)
        token.then = lambda: self._told(sent)
        if token.done:
            self._told(sent)
        of_line.append(sent)
        self.sent[payload] = sent
        node.turn()

    def ask(self, box: Box, to: str) -> None:
        """A request under an id, old or new."""
        rng, agent = self.world.rng, box.agent
        assert agent is not None
        mine = [op for op in self.ops.values() if op.box == box.node.name]
        if mine and rng.random() < 0.6:
            op = rng.choice(mine)
        else:
            op = Op(box.node.name, to, len(mine) + 1, rng.random() < 0.6)
            self.ops[op.payload] = op
        box.node.engine.now_ns = box.node.clock.now_ns
        token = agent.request(
            f"box-{op.to}", op.payload, operation_id=f"{op.number}", timeout=rng.choice((0.05, 1, 5))
        )
        token.then = lambda: self._answered(op, token)
        if token.done:
            self._answered(op, token)
        box.node.turn()

    def _answered(self, op: Op, token: Token) -> None:
        if isinstance(token.outcome, AgentMessage):
            answer = token.answer
            assert op.begun, f"{op.key} was answered, and never done"
            assert op.answer in (None, answer), f"{op.key}: answered {op.answer!r}, and then {answer!r}"
            assert not op.once or op.committed in (None, answer)
            op.answer = answer

    def _do(self, box: Box, op: Op, message: AgentMessage) -> Token | bytes:
        """The handler of an operation."""
        assert op.answer is None, f"{op.key} is done again, though its result was told"
        assert op.committed is None, f"{op.key} is done again, though it is committed"
        op.begun += 1
        self.results += 1
        result = b"%d" % self.results
        if not op.once:
            return result
        assert op.key not in message.store, f"{op.key} is done again, and its effect is there"

        def committed() -> None:
            op.committed = result

        return self._commit(box, message, {op.key: result}, result, committed, lambda: None)

    def _commit(
        self,
        box: Box,
        message: AgentMessage,
        changes: dict[str, bytes | None],
        result: bytes,
        done: Callable[[], None],
        refused: Callable[[], None],
    ) -> Token:
        """Commit, and let the book know what came of it."""
        life, over = box.life, Token()
        token: Any = message.once(changes, result)

        def settled() -> None:
            if box.life == life:
                refused() if token.error is not None else done()
                over.settle(token.outcome, None)

        token.then = settled
        return over

    def _told(self, sent: Sent) -> None:
        outcome = sent.token.outcome
        if not isinstance(outcome, Receipt):
            assert isinstance(outcome, NetworkError), outcome
            return
        if sent.durable:
            assert outcome.reached is not Reached.KEPT or outcome.on_disk
            sent.kept = True
        if outcome.reached is Reached.PROCESSED:
            assert sent.handled, f"{sent} was told for processed, and never handled"
            if outcome.on_disk:
                sent.told = True
                box = self.boxes[sent.line[2]]
                # What a former life wrote may be on the disk, though it did not live to know that.
                known = box.unsure or self._key(sent) in box.sealed or sent.life < box.life
                assert known, f"{sent} was told to be on the disk"

    def _handle(self, box: Box) -> Callable[[AgentMessage], Any]:
        life = box.life

        def handle(message: AgentMessage) -> Any:
            try:
                op = self.ops.get(message.payload)
                return judge(message) if op is None else self._do(box, op, message)
            except AssertionError as error:
                self.wrong.append(error)  # which a handler alone would only fail of
                raise

        def judge(message: AgentMessage) -> Any:
            sent = self.sent[message.payload.rstrip(b"\0")]
            line, key = sent.line, self._key(sent)
            assert box.life == life
            assert box.last.get(line, 0) < sent.number or sent.shy, f"{sent} after number {box.last[line]}"
            assert key not in box.sealed, f"{sent} again, though its node's disk has it"
            assert not sent.told, f"{sent} again, though its sender was told"
            for other in self.lines[line][: sent.number - 1] if sent.durable else ():
                assert other.handled or not other.kept or other.shy, f"{sent} before {other}"
            box.last[line] = max(sent.number, box.last.get(line, 0))
            if not sent.once:
                return done(sent)
            name = key.decode()
            assert name not in message.store, f"{sent} again, though its effect is there"
            count = int(message.store.get("count", b"0")) + 1
            changes: dict[str, bytes | None] = {name: b"1", "count": b"%d" % count}
            return self._commit(
                box, message, changes, b"", partial(done, sent), partial(setattr, sent, "shy", True)
            )

        def done(sent: Sent) -> None:
            sent.handled, sent.life = True, life
            if sent.once:
                box.sealed[self._key(sent)] = None
            box.handled.append(sent)

        return handle

    # -- the end

    def missing(self) -> list[Sent]:
        """What was kept and is not handled yet."""
        return [sent for sent in self.sent.values() if sent.kept and not sent.handled]

    def reckon(self) -> None:
        """Of what was handled with `once` each effect is there, once."""
        for box in self.boxes.values():
            assert box.agent is not None
            store = box.agent.store
            mine = [sent for sent in self.sent.values() if sent.once and sent.line[2] == box.node.name]
            there = [sent for sent in mine if self._key(sent).decode() in store]
            assert int(store.get("count", b"0")) == len(there), f"{len(there)} effects on {box.node.name}"
            for sent in mine:
                assert sent in there or not sent.handled, f"the effect of {sent} is gone"

    def letters(self) -> int:
        return sum(box.node.stats["letters"] for box in self.boxes.values())


def letters(world: World, nodes: int = 3) -> None:
    """Agents with disks send each other messages in a storm; what was promised is kept, to the letter."""
    names = [f"n{number}" for number in range(nodes)]
    mail(world, [world.node(name, config=CONFIG, disk=True) for name in names], rounds=60)


def mail(world: World, all_nodes: list[Node], rounds: int) -> Book:
    """The storm on those nodes, and the calm after it."""
    rng, first = world.rng, all_nodes[0]
    first.control.found(UUID)
    for node in all_nodes[1:]:
        world.finish(node.join(first.name))
    book = Book(world, all_nodes)
    boxes = list(book.boxes.values())
    for _ in range(rounds):
        for _ in range(rng.randrange(12)):
            box = rng.choice(boxes)
            if not (box.node.dead or box.node.paused):
                (book.ask if rng.random() < 0.2 else book.send)(box, rng.choice(boxes).node.name)
            world.run(rng.random() * 2)
        if rng.random() < 0.5:
            trouble(world, book, boxes)
        world.run(rng.choice((0.5, 5, 50, 400)))
    world.heal()
    for box in boxes:
        if box.node.disk is not None:
            box.node.disk.files.capacity = None
        box.node.unpause()
        if box.node.dead:
            book.restart(box, *(node.name for node in all_nodes if node is not box.node))
    world.until(lambda: not book.missing(), ms=120_000)
    world.until(lambda: not book.letters(), ms=120_000)
    book.reckon()
    return book


def trouble(world: World, book: Book, boxes: list[Box]) -> None:
    """One thing happens to a node or to a link, or what had happened ends."""
    rng = world.rng
    box = rng.choice(boxes)
    node = box.node
    others = [other.node.name for other in boxes if other is not box]
    match rng.randrange(8):
        case 0 | 1 if node.dead:
            book.restart(box, *others)
        case 0 | 1 | 2 if not node.dead:
            node.kill(silently=rng.random() < 0.6)
        case 2:
            book.restart(box, *others)
        case 3:
            world.partition([node.name], others)
        case 4:
            world.heal()
        case 5 if node.engine.sessions and not node.dead:
            node.link(rng.choice(sorted(node.engine.sessions))).cut()
        case 6 if not node.dead:
            node.unpause() if node.paused else node.pause()
        case 7 if node.disk is not None:
            files = node.disk.files
            used = sum(files.size(name) for name in files.names()) if not node.dead else 0
            files.capacity = used + rng.randrange(2_000) if files.capacity is None else None
