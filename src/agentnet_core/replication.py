"""States that converge: what changes here goes to the others, what they change comes in.

In: changes of states made here, frames of linked nodes and of the broadcast tree, links that come and
go, ticks.  Out: frames, tokens of writes and reads that wait for replicas, and which states changed.

What is changed in one turn of the driver leaves with it, one frame for each link; where not all nodes are
linked, on the broadcast tree.  A change is exact, so it may come in any order, twice or without those
before it: it is taken at once, and what is missing before it is asked for.  What got lost otherwise is found
by comparing: with each new link, and with one linked node each `state_sync_ms` in turn.

Every node holds every state.  An actor is a node in one incarnation, or in several if its disk says that
nothing was lost between them (see `archive`); it speaks for itself alone in the changes it sends.
What is malformed, forged, from the future, contradictory or too large is not taken: the sender learns it if
it waits, `refused` counts it, an event tells.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from agentnet_core.archive import Archive
from agentnet_core.broadcasts import Broadcasts
from agentnet_core.clock import HybridClock
from agentnet_core.comparing import Comparing
from agentnet_core.config import BODY_BYTES, EngineConfig
from agentnet_core.crdt import Crdt, Site
from agentnet_core.crdt.base import BY_CODE
from agentnet_core.doubts import Doubts
from agentnet_core.errors import Contradiction, Forged, NetworkError, ProtocolError
from agentnet_core.gossip import STATES, Gossip
from agentnet_core.handshake import FEATURE_STATES
from agentnet_core.membership import Membership
from agentnet_core.moves import Moves
from agentnet_core.naming import Naming
from agentnet_core.parts import (
    ACK,
    ANSWER,
    ASK,
    CONTEXT,
    DELTA,
    FETCH,
    KEEP,
    KEPT,
    LIVE,
    MORE,
    PART,
    PRINTS,
    RANGES,
    READ,
    STATE,
    STATE_CHUNK,
    SUMS,
    VIEWS,
    Refusals,
    Transfers,
    read,
    read_chunk,
    refusals_of,
    write,
)
from agentnet_core.pruning import Pruning
from agentnet_core.quorums import Quorums, Wait, check_alive
from agentnet_core.reach import Say
from agentnet_core.reading import Reading
from agentnet_core.records import Event
from agentnet_core.states import Held, Key, States, check_name, code_of

if TYPE_CHECKING:
    from agentnet_core.engine import Engine
    from agentnet_core.session import Session

MS = 1_000_000
NEVER = 2**63 - 1
GAP_NS = 50 * MS
"""How long what lies before a change is waited for, before it is asked for."""
TURN_NS = MS
"""What answers of some length leave to others, between two parts of them."""
LATER_NS = 100 * MS
"""When a node is compared with again that could not be told all."""
CHANGE_BYTES = 300
"""What a change takes in a frame beside its bytes."""
HASH_KEY_BYTES = 16

Changes = list[tuple[Key, bytes]]


class Replication:
    """The states of one engine. ``refused``: changes that were not taken. ``on_change``: called with each
    state that changes, and whether another node made it so."""

    def __init__(
        self,
        engine: Engine,
        config: EngineConfig,
        membership: Membership,
        broadcasts: Broadcasts,
        say: Say,
        rng: Any,
        *,
        signed: bool = False,
    ) -> None:
        self._engine, self._membership, self._broadcasts = engine, membership, broadcasts
        self._say, self._rng = say, rng
        self._config = config
        self._sync_ns = config.state_sync_ms * MS
        self._write_ns = config.state_write_ms_max * MS
        self.clock = HybridClock(config.state_skew_ms_max)
        self.states = States(config, self._make_site)
        self.states.on_change = self._changed
        self.archive = Archive(engine, self.states, config, self.observe, self._say_kept)
        self.naming = Naming(engine, self.archive, self.states, self.settle)
        self.pruning = Pruning(engine, config, membership, self.states, self.archive, self.naming, self)
        self.quorums = Quorums(engine.node_id, config, engine.settle)
        self.comparing = Comparing(self.states, self, config)
        self.reading = Reading(self, self.states, self.quorums, self.comparing)
        self.transfers = Transfers(self, config)
        doubts = Doubts(engine, self, self.states, self.pruning, self.transfers.comes, config)
        self.doubts = doubts if signed else None
        self.moves = Moves(engine, membership, self.states, config, say, self._ask_again, self._ask_new)
        self.quorums.wrap, self.quorums.ready = self.moves.wrap, lambda: self.moves.ready
        self.on_change: Callable[[Held, bool], None] = lambda _held, _others: None
        self.refused = self.contradicted = self.merged = 0
        self._open: dict[Key, list[Wait]] = {}
        self._unsent: deque[bytes] = deque()
        self._gaps: dict[tuple[str, Key], int] = {}
        self._again: dict[str, int] = {}
        self._compare_ns = engine.now_ns + self._sync_ns
        self._turn = 0
        broadcasts.take(STATES, self._hear)
        self._verbs: dict[int, Callable[..., None]] = {
            DELTA: self._on_delta,
            KEEP: self._on_keep,
            KEPT: self.quorums.kept,
            ACK: self.reading.on_ack,
            SUMS: self._on_sums,
            PRINTS: self.comparing.on_prints,
            CONTEXT: self.comparing.on_context,
            PART: self.comparing.on_part,
            RANGES: self.comparing.on_ranges,
            FETCH: self.comparing.on_fetch,
            LIVE: self.comparing.on_live,
            READ: self.reading.on_read,
            ANSWER: self.reading.on_answer,
            MORE: self.transfers.on_more,
            ASK: self._on_ask,
            VIEWS: self.moves.on_views,
        }

    # -- for the driver

    @property
    def node_id(self) -> str:
        return self._engine.node_id

    @property
    def actor(self) -> str:
        """In whose name this node changes states."""
        return self.naming.actor

    def hold(self, kind: type[Crdt], name: str) -> Held:
        """The state of that type and name, made if there is none; LimitReached, UsageError."""
        return self.states.hold(Key(code_of(kind), check_name(name)))

    def get(self, kind: type[Crdt], name: str) -> Held | None:
        """The state of that type and name, if it is held."""
        return self.states.get(Key(code_of(kind), name))

    def latest_stamp(self) -> int:
        """The last one that is not from the future."""
        return self.clock.latest(self._engine.now_ns + self._engine.wall_offset_ns)

    def observe(self, stamp: int) -> None:
        """What is stamped from now on is later than that; one from the future is not heeded."""
        if 0 < stamp <= self.latest_stamp():
            self.clock.observe(stamp, self._engine.now_ns + self._engine.wall_offset_ns)

    def stamp(self) -> int:
        """The time of a write, later than that of any before it."""
        return self.clock.stamp(self._engine.now_ns + self._engine.wall_offset_ns)

    def changed(self, held: Held) -> None:
        """The state was changed here: it goes out with this turn."""
        is_new = held.key not in self._open
        if held.state.sum != held.total or (is_new and held.state.delta):
            self.states.touched(held)
            if is_new:
                self._open[held.key] = []
                if len(self._open) == 1:
                    self._engine.before_ready(self.flush)

    def replicas(self, key: Key, named: Sequence[str] = ()) -> tuple[str, ...]:
        """Whose answers count for the state: those named, else those that are chosen for it now."""
        return tuple(dict.fromkeys(named)) if named else self.moves.replicas(key)

    def check_reach(self, key: Key, need: int, replicas: tuple[str, ...], *, chosen: bool = False) -> None:
        """TooFewReplicas, definite, if so many surely cannot answer. ``chosen``: nobody named them."""
        if chosen:
            self.moves.check(key)
        moving = chosen and self.moves.placement.moving
        parts = self.moves.place(key, need, replicas)() if moving else ((need, replicas),)
        check_alive(key, parts, self._membership.alive())

    def wait(
        self,
        held: Held,
        need: int,
        replicas: tuple[str, ...],
        token: Any,
        timeout_ns: int | None = None,
        *,
        on_disk: bool = False,
        chosen: bool = False,
    ) -> Wait:
        """Settle the token when so many of the replicas have what has been changed just now, ``on_disk`` if
        that is wanted. ``chosen``: nobody named them, so that they may move.

        `admit` of the quorums was asked before, and `changed` is called before as well.
        """
        deadline_ns = self._deadline(timeout_ns)
        place = self.moves.place(held.key, need, replicas) if chosen else None
        wait = Wait(held.key, need, replicas, deadline_ns, token, on_disk=on_disk, place=place)
        waits = self._open.get(held.key)
        if waits is None:  # it changed nothing
            wait.have = tuple(each for each in replicas if each == self._engine.node_id)
            self.quorums.waiting -= 1
            self._engine.settle(token, None)
        else:
            waits.append(wait)
            self._engine.wake_by(wait.deadline_ns)
        return wait

    def read(
        self,
        held: Held,
        need: int,
        replicas: tuple[str, ...],
        token: Any,
        timeout_ns: int | None = None,
        *,
        chosen: bool = False,
    ) -> Wait:
        """Settle the token when what so many of the replicas have has been merged here; who lacks some
        of it gets that. `admit` of the quorums was asked before. ``chosen``: as of `wait`."""
        place = self.moves.place(held.key, need, replicas) if chosen else None
        wait = Wait(held.key, need, replicas, self._deadline(timeout_ns), token, place=place)
        wanted, body = self.reading.start(held, wait)
        for node_id in wanted:
            self._say(node_id, STATE, self.moves.wrap(body) if chosen else body)
        self._engine.wake_by(wait.deadline_ns)
        return wait

    def _deadline(self, timeout_ns: int | None) -> int:
        return self._engine.now_ns + (self._write_ns if timeout_ns is None else timeout_ns)

    def flush(self) -> None:
        """Let go what was changed since the last time."""
        if self._unsent and not self._publish():
            return
        opened, self._open = self._open, {}
        items: Changes = []
        waits: list[Wait] = []
        size = 0
        for key, waiting in opened.items():
            held = self.states.get(key)
            if held is None:
                continue
            data = self._take_delta(held)
            more = len(data) + CHANGE_BYTES
            if items and size + more > BODY_BYTES - CHANGE_BYTES:
                self._put_changes(items, waits)
                items, waits, size = [], [], 0
            items.append((key, data))
            waits += waiting
            size += more
        if items:
            self._put_changes(items, waits)

    def _take_delta(self, held: Held) -> bytes:
        """What was changed here since the last time; it goes to the disk."""
        data = held.state.delta.encode()
        self.archive.note(held, data, self.clock.last)
        self.pruning.absence.changed(held.key)
        return data

    def _put_changes(self, items: Changes, waits: list[Wait]) -> None:
        keys = [key for key, _ in items]
        for wait in waits:
            wait.move()
        serial = self.quorums.open(keys, waits) if waits else 0
        keeps = any(wait.on_disk for wait in waits)
        body = write(KEEP if keeps else DELTA, serial, items)
        wanted = self.quorums.sent(serial, body) if serial else []
        if any(wait.place is not None for wait in waits):
            body = self.moves.wrap(body)
        if keeps:
            self.archive.promise(self._engine.node_id, serial, keys)
        if self._engine.control.linked_to_all:
            for node_id in list(self._engine.sessions):
                if not self.send(node_id, body):
                    self.later(node_id)
            return
        for node_id in wanted:
            self.ask(node_id, body)
        # On the tree the serial says at which round it was let go.
        self._unsent.append(write(DELTA, self.pruning.chain.number, items))
        self._publish()

    def _publish(self) -> bool:
        """Put on the broadcast tree what waits for it; False if there is no room now."""
        while self._unsent:
            if len(self._unsent[0]) >= self._config.broadcast_bytes_max:
                self.compare_all()
            else:
                due_ns = self._broadcasts.offer(STATES, self._unsent[0])
                if due_ns:
                    self._engine.wake_by(due_ns)
                    return False
            self._unsent.popleft()
        return True

    def compare_all(self) -> None:
        """Compare with all linked nodes, soon: something came or went that nothing else tells on."""
        for node_id in self._engine.sessions:
            self.later(node_id)

    # -- links, frames, time

    def link_up(self, node_id: str) -> None:
        """A link is welcomed."""
        if not self.pruning.tells(node_id):
            self.meet(node_id)

    def meet(self, node_id: str) -> None:
        """The linked node stands at the same round, or knows of none."""
        if not self._understands(node_id):
            return
        self.pruning.absence.met()
        if len(self.states):
            self.comparing.start(node_id, fresh=True)
        self.moves.link_up(node_id)
        self._ask_new(node_id)

    def link_down(self, node_id: str) -> None:
        """A link is gone."""
        self.transfers.link_down(node_id)
        self.pruning.link_down(node_id)
        self.comparing.link_down(node_id)
        if self.doubts is not None:
            self.doubts.link_down(node_id)
        self._again.pop(node_id, None)
        for which in [which for which in self._gaps if which[0] == node_id]:
            del self._gaps[which]

    def end(self) -> None:
        """This node leaves."""
        self.flush()
        for key in self._open:  # what found no room
            held = self.states.get(key)
            if held is not None:
                self._take_delta(held)
        self.archive.give_back()
        self.quorums.end(f"node {self._engine.node_id} has left the network")

    def receive(self, session: Session, kind: int, body: bytes) -> None:
        """A frame of a linked node."""
        try:
            if kind == STATE_CHUNK:
                whole = self.transfers.on_chunk(session.node_id, *read_chunk(body))
                if whole is None:
                    return
                body = whole
            verb, parts = read(body)
            if self.pruning.hears(session.node_id, verb):
                self._verbs[verb](session.node_id, *parts)
        except ProtocolError as error:
            self.refuse(session.node_id, "", error)
            raise

    def tick(self, now_ns: int) -> int:
        """What is due; the time of the next thing."""
        if self._unsent and self._publish() and self._open:
            self._engine.before_ready(self.flush)
        self.comparing.tick()
        self.quorums.tick(now_ns)
        self.reading.tick()
        for which in [which for which, due_ns in self._gaps.items() if due_ns <= now_ns]:
            del self._gaps[which]
            held = self.states.get(which[1])
            if held is not None and held.state.gaps and which[0] in self._engine.sessions:
                self.comparing.ask(which[0], held, asks=False)
        for node_id in [node_id for node_id, due_ns in self._again.items() if due_ns <= now_ns]:
            del self._again[node_id]
            if node_id in self._engine.sessions:
                self.comparing.start(node_id)
        if now_ns >= self._compare_ns:
            self._compare_ns = now_ns + self._sync_ns
            linked = sorted(filter(self._understands, self._engine.sessions))
            if linked and len(self.states):
                self._turn += 1
                self.comparing.start(linked[self._turn % len(linked)])
        due = [self._compare_ns, self.quorums.next_deadline_ns(), self.archive.tick(now_ns)]
        due += (self.moves.tick(now_ns), self.pruning.tick(now_ns), *self._gaps.values())
        if self.doubts is not None:
            due.append(self.doubts.tick(now_ns))
        return min(*due, *self._again.values())

    def stats(self) -> dict[str, int]:
        """Every counter, by name."""
        going, coming = self.transfers.waiting
        return {
            "states": len(self.states),
            "states_bytes": self.states.bytes,
            "states_merged": self.merged,
            "states_refused": self.refused,
            "states_contradicted": self.contradicted,
            "states_unsaved": self.archive.unsaved,
            **self.pruning.stats(),
            **(self.doubts.stats() if self.doubts is not None else {}),
            "state_waits": self.quorums.waiting,
            "state_waits_failed": self.quorums.failed,
            "state_views_open": self.moves.placement.moving,
            "state_views_dropped": self.moves.placement.dropped,
            "state_questions": self.comparing.works,
            "state_transfers": going + coming,
            "state_transfers_dropped": self.transfers.dropped,
        }

    # -- for the rooms that it composes

    def put(self, node_id: str, body: bytes) -> None:
        """A frame in the control lane."""
        session = self._engine.sessions.get(node_id)
        if session is not None:
            self._engine.put_control(session, STATE, body)

    def put_chunk(self, node_id: str, body: bytes) -> None:
        """A frame in the data lane."""
        session = self._engine.sessions.get(node_id)
        if session is not None:
            session.data.put(STATE_CHUNK, body)
            self._engine.rouse_session(session)

    def send(self, node_id: str, body: bytes) -> bool:
        return not self._understands(node_id) or self.transfers.send(node_id, body)

    def _understands(self, node_id: str) -> bool:
        """Whether a linked node is of a release that knows of states; of one that is not linked, yes."""
        session = self._engine.sessions.get(node_id)
        return session is None or (
            bool(session.hello.features & FEATURE_STATES) and self.pruning.understands(node_id)
        )

    def backlog(self, node_id: str) -> int:
        session = self._engine.sessions.get(node_id)
        return session.control.waiting if session is not None else 0

    def later(self, node_id: str) -> None:
        due_ns = self._again.setdefault(node_id, self._engine.now_ns + LATER_NS)
        self._engine.wake_by(due_ns)

    def next_turn(self) -> None:
        self._engine.wake_by(self._engine.now_ns + TURN_NS)

    def withholds(self, node_id: str, key: Key) -> bool:
        return self.doubts is not None and self.doubts.withholds(node_id, key)

    def refuse(self, node_id: str, name: str, error: NetworkError) -> None:
        """Count it and tell of it."""
        self.refused += 1
        alarm = isinstance(error, Contradiction)
        self.contradicted += alarm
        kind = Event.FORGED if isinstance(error, Forged) else Event.STATE_REFUSED
        kind = Event.STATE_CONTRADICTION if alarm else kind
        self._engine.event(Event(kind, node_id, name=name, detail=str(error), error=error))

    def take(self, node_id: str, key: Key, data: bytes, author: str | None) -> NetworkError | bool:
        """Merge it: whether anything changed, or why it was not taken. ``author``: whose change it is; with
        None it may be anybody's, and what is doubted of it waits."""
        return self._merge(node_id, key, data, author, self.doubts if author is None else None)

    def believe(self, node_id: str, key: Key, data: bytes) -> NetworkError | bool:
        """Likewise, of what is not doubted any more."""
        return self._merge(node_id, key, data, None, None)

    def _merge(
        self, node_id: str, key: Key, data: bytes, author: str | None, doubts: Doubts | None
    ) -> NetworkError | bool:
        try:
            if key.code not in BY_CODE:
                raise ProtocolError(f"{key.label}: a type that this version does not know")
            data, author = self.pruning.translate(key, data, author)
            if doubts is not None:
                data = doubts.sift(node_id, key, data)
                if not data:
                    return False
            changed = self.states.merge(key, data, author=author, stamp_max=self.latest_stamp())
        except NetworkError as error:
            if isinstance(error, Contradiction) and self.naming.disown(node_id, key.name, error):
                return self._merge(node_id, key, data, author, doubts)
            self.refuse(node_id, key.name, error)
            return error
        self.merged += changed
        held = self.states.get(key)
        if changed and held is not None:
            self.archive.note(held, data)
            self.pruning.absence.changed(key)
            if self.doubts is not None:
                self.doubts.settle(key)
        if changed and author is None and not self._engine.control.linked_to_all:
            self.compare_all()  # who is linked with this node alone learns it from nobody else
        return changed

    def settle(self) -> bool:
        """Let go what was changed under the names of now; False if some of it waits for room."""
        self.flush()
        return not (self._open or self._unsent)

    # -- as it comes

    def _hear(self, source: str, gossip: Gossip, body: bytes) -> None:
        """Changes came on the broadcast tree."""
        try:
            verb, parts = read(body)
            if verb != DELTA:
                raise ProtocolError(f"STATE of verb {verb} on the broadcast tree: expected changes")
        except ProtocolError as error:
            self.refuse(source, "", error)
            raise
        if self.pruning.hears_of(parts[0]):
            self._take_changes(source, gossip.origin, parts[1])

    def _ask_new(self, node_id: str) -> None:
        """The node may answer now what it has not."""
        for body in self.quorums.link_up(node_id):
            self.ask(node_id, body)

    def _ask_again(self, forget: bool) -> None:
        """The replicas that are chosen are others now."""
        for node_id, body in self.quorums.move(forget=forget):
            self.ask(node_id, body)

    def ask(self, node_id: str, body: bytes) -> None:
        """A replica, linked or not."""
        if node_id in self._engine.sessions:
            self.send(node_id, body)
        elif len(body) <= BODY_BYTES:
            self._say(node_id, STATE, body)

    def _on_ask(self, node_id: str, view: int, body: bytes) -> None:
        verb, parts = read(body)
        if verb not in (DELTA, KEEP, READ):
            raise ProtocolError(f"STATE of verb {verb} asks: expected changes, or to read")
        if self.moves.answers(node_id, view):
            self._verbs[verb](node_id, *parts)
        elif verb != READ:
            self._take_changes(node_id, node_id, parts[1])

    def _on_delta(self, node_id: str, serial: int, changes: Changes) -> None:
        refusals = self._take_changes(node_id, node_id, changes)
        if serial:
            self.put(node_id, write(ACK, serial, refusals))

    def _on_keep(self, node_id: str, serial: int, changes: Changes) -> None:
        self._on_delta(node_id, serial, changes)
        self.archive.promise(node_id, serial, [key for key, _ in changes])

    def _take_changes(self, node_id: str, author: str, changes: Changes) -> Refusals:
        refusals = []
        for number, (key, data) in enumerate(changes):
            taken = self.take(node_id, key, data, author)
            if isinstance(taken, NetworkError):
                refusals += refusals_of((number,), taken)
                continue
            held = self.states.get(key)
            if taken and held is not None and held.state.gaps and (node_id, key) not in self._gaps:
                self._gaps[node_id, key] = due_ns = self._engine.now_ns + GAP_NS
                self._engine.wake_by(due_ns)
        return refusals

    def _say_kept(self, node_id: str, serial: int, refusals: Refusals) -> None:
        """What that node has changed is on the disk of this one, but for those."""
        if node_id == self._engine.node_id:
            self.quorums.kept(node_id, serial, refusals)
        else:
            self.put(node_id, write(KEPT, serial, refusals))

    def _on_sums(self, node_id: str, sums: list[int], fresh: bool) -> None:
        if sums == self.states.sums() and self.pruning.same(node_id):
            self.compare_all()
        if not (fresh and len(self.states) and self._engine.node_id < node_id):
            self.comparing.on_sums(node_id, sums)  # else it answers what this node has said

    def _changed(self, held: Held, others: bool) -> None:
        self.on_change(held, others)

    def _make_site(self) -> Site:
        hash_key = self._rng.getrandbits(8 * HASH_KEY_BYTES).to_bytes(HASH_KEY_BYTES, "big")
        return Site(self.actor, hash_key, self._config)
