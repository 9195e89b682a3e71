"""States forget actors that are gone: who that is, what the nodes say of it, and who is not listened to.

An actor is gone if for `state_prune_after_ms` no node that lives changed states under its name: its node
left, or is lost, or started again under another.  Of all nodes that live the least proposes to rename it
(`crdt.renaming`), a few states and actors in one round (`rounds`), and all of them say whether they know just
the same of it (`deciding`).  So it goes on only where all that live are linked with each other, and more than
half of those that are known live; and an actor that is not gone is only renamed, it loses nothing.

    STAND    number and id of the last round, the oldest that is kept, whether all is known that it says, and
             the name under which the sender changes states
    ROUNDS   rounds, one after the other
    WANT     of rounds: all that are kept
    PROPOSE, PROMISE, DECIDE, DECIDED      see `deciding`

Linked nodes tell each other where they stand.  Who is behind gets the rounds that it lacks, renames what it
holds, and is listened to: what it says in old names is renamed as it comes.  Who is so far behind that
these are not kept any more is not listened to, nor is who is ahead, until both stand at the same round; the
former bootstraps (`absence`).  Rounds that do not follow each other, of networks that each decided for
itself, never meet: an event tells.  A node whose own name was pruned takes another.

Held here: the rounds that are kept, one proposal, and when `WATCHED_MAX` actors were last seen with a node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from agentnet_core.absence import Absence
from agentnet_core.archive import Archive
from agentnet_core.body import (
    U64_MAX,
    expect_bool,
    expect_bytes,
    expect_int,
    expect_list,
    expect_name,
    pack,
    unpack,
    wrong,
)
from agentnet_core.config import BODY_BYTES, VERSION_MAX, EngineConfig
from agentnet_core.crdt.base import BY_CODE
from agentnet_core.crdt.renaming import (
    STAR,
    Renaming,
    actors_of,
    dots,
    prune,
    renamed,
    renamed_context,
    renaming_of,
)
from agentnet_core.deciding import DECIDE, DECIDED, PROMISE, PROPOSE, Deciding
from agentnet_core.dots import CausalContext
from agentnet_core.errors import NetworkError, ProtocolError, StatesDiverged, StatesPruned
from agentnet_core.handshake import FEATURE_PRUNING
from agentnet_core.membership import Membership
from agentnet_core.naming import Naming
from agentnet_core.parts import ACK, ANSWER, ASK, DELTA, KEEP, KEPT, MORE, PART, READ, SUMS, VIEWS
from agentnet_core.rounds import ITEMS_MAX, ROUND_BYTES_MAX, Chain, Item, Round, expect_actor, read_items
from agentnet_core.states import Held, Key, States, actor_of

if TYPE_CHECKING:
    from agentnet_core.engine import Engine

MS = 1_000_000
NEVER = 2**63 - 1
ROUND = 35
STAND, ROUNDS, WANT = 0, 1, 2
ALWAYS = (ACK, KEPT, MORE, READ, VIEWS, SUMS)
"""Verbs of STATE that mean the same at all rounds."""
MERGED = (DELTA, KEEP, PART, ANSWER, ASK)
"""Verbs of changes, which can be taken in the names of before."""
LOOKED_MAX = 256
"""States that are looked at in one look."""
WATCHED_MAX = 4096
LOOKS = 4
"""How many times the states are looked at while an actor becomes one that is gone."""
LOOK_NS_MAX = 10_000 * MS
AGAIN_NS = 50 * MS
"""When it is looked again after a round."""
ITEM_BYTES = 128
DEFECTS = {"folded twice": 201, "merged in old names": 202, "merged after absence": 203}
"""Bugs, planted by tests that must find them."""


class House(Protocol):
    """What this room asks of the one that composes it."""

    def settle(self) -> bool:
        """Let go what was changed here; False if some of it has to wait."""

    def refuse(self, node_id: str, name: str, error: NetworkError, /) -> None: ...
    def meet(self, node_id: str, /) -> None:
        """Both stand at the same round from now on."""


class _Stand:
    """Where a linked node stands, as it said, and what it was told. ``apart``: its rounds are others."""

    __slots__ = ("actor", "apart", "known", "number", "said", "whole")

    def __init__(self) -> None:
        self.actor = ""
        self.number = 0
        self.known = False
        self.said: int | None = None
        self.whole = True
        self.apart = False


class Pruning:
    """The part of one engine in it. ``rounds``: those that it applied; ``ignored``: what was not listened to;
    ``renamed``: changes that came in names of before."""

    def __init__(
        self,
        engine: Engine,
        config: EngineConfig,
        membership: Membership,
        states: States,
        archive: Archive,
        naming: Naming,
        house: House,
    ) -> None:
        self._engine, self._membership, self._states = engine, membership, states
        self._archive, self._naming, self._house = archive, naming, house
        self._proposes, self._after_ns = config.state_pruning, config.state_prune_after_ms * MS
        self._every_ns = min(max(self._after_ns // LOOKS, MS), LOOK_NS_MAX)
        self._look_ns = engine.now_ns + self._every_ns
        self._mesh_max = config.mesh_nodes_max
        self.chain: Chain = archive.chain
        self.deciding = Deciding(
            engine.node_id, engine.incarnation, self.chain, self._say, self.agrees, self._decided
        )
        self.absence = Absence(states, self.chain, archive, naming, engine)
        archive.on_open = self.absence.opened
        naming.on_renew = self._tell_all
        self._stands: dict[str, _Stand] = {}
        self._gone: dict[str, int] = {}
        """Since when no node that lives has that name."""
        self._place = 0
        self._waiting = False
        """Rounds came, but what was changed here is on its way under old names."""
        self.rounds = self.ignored = self.renamed = 0
        self.defect = 0

    # -- who is listened to

    def understands(self, node_id: str) -> bool:
        """Whether that node is to be told of states: it stands where this one does, or soon will."""
        if not self._has_feature(node_id):
            return not self.chain.number
        stand = self._stands.get(node_id)
        return stand is None or (
            stand.known and not stand.apart and self.chain.oldest - 1 <= stand.number <= self.chain.number
        )

    def hears(self, node_id: str, verb: int) -> bool:
        """Whether that node is listened to when it says that of states."""
        return verb in ALWAYS or self._hears(node_id, exactly=verb not in MERGED)

    def _hears(self, node_id: str, *, exactly: bool) -> bool:
        stand = self._stands.get(node_id)
        if not self._has_feature(node_id):
            heard = not self.chain.number
        elif stand is None or not stand.known or stand.apart:
            heard = False
        else:
            low = self.chain.number if exactly else self.chain.oldest - 1
            heard = low <= stand.number <= self.chain.number
        self.ignored += not heard
        return heard

    def hears_of(self, number: int) -> bool:
        """Whether changes are listened to that were let go at that round."""
        heard = self.chain.oldest - 1 <= number <= self.chain.number
        self.ignored += not heard
        return heard

    def translate(self, key: Key, data: bytes, author: str | None) -> tuple[bytes, str | None]:
        """What somebody says of a state, in the names of now, and whose events may be in it; fails as
        `Crdt.merge` does."""
        names = self.chain.names(key)
        if not names or self.defect == DEFECTS["merged in old names"]:
            return data, author
        actors = actors_of(data)
        if not any(each.actor in actors for each in names):
            return data, author
        self.renamed += 1
        return renamed(BY_CODE[key.code], self._states.site.unbound(), data, names, author), None

    def clock(self, key: Key, clock: Mapping[str, int] | None) -> Mapping[str, int] | CausalContext | None:
        """What a clock of a state, read at some time, means in the names of now."""
        names = self.chain.names(key)
        if not clock or not any(each.actor in clock for each in names):
            return clock
        return renamed_context(key.code, CausalContext(clock), names)

    def has(self, held: Held, actor: str, number: int) -> bool:
        """Whether an event has come, whatever it was called when it was made."""
        if (actor, number) in held.state.context:
            return True
        dot = dots(actor, [(number, number)])
        if held.state.context.covers(renamed_context(held.key.code, dot, self.chain.names(held.key))):
            return True
        # Of rounds that are not kept any more all was known everywhere.
        return self.chain.oldest > 1 and actor not in self._present(self._membership.lives())

    def _has_feature(self, node_id: str) -> bool:
        session = self._engine.sessions.get(node_id)
        return session is None or bool(session.hello.features & FEATURE_PRUNING)

    # -- links

    def link_up(self, node_id: str) -> None:
        """A link is welcomed; nothing has been said on it of states."""
        self._stands[node_id] = _Stand()
        if self.tells(node_id):
            self._tell(node_id)

    def tells(self, node_id: str) -> bool:
        """Whether that node says where it stands, before it says anything of states."""
        session = self._engine.sessions.get(node_id)
        return session is not None and bool(session.hello.features & FEATURE_PRUNING)

    def link_down(self, node_id: str) -> None:
        """It is gone."""
        self._stands.pop(node_id, None)
        if not self._stands:
            self.absence.alone()

    def _say(self, node_id: str, body: bytes) -> None:
        session = self._engine.sessions.get(node_id)
        if session is not None:
            self._engine.put_control(session, ROUND, body)

    def _tell(self, node_id: str) -> None:
        chain = self.chain
        self._stands[node_id].said = chain.number
        stand = [chain.number, chain.id, chain.oldest, self.absence.whole, self._naming.actor]
        self._say(node_id, pack([STAND, *stand]))

    def _tell_all(self) -> None:
        for node_id in filter(self.tells, list(self._stands)):
            self._tell(node_id)

    def same(self, node_id: str) -> bool:
        """That node holds just what this one holds; whether that made this one take something back."""
        stand = self._stands.get(node_id)
        if stand is None or not stand.whole or not self._is_met(stand):
            return False
        self.absence.equal(node_id, len(self._membership.known()))
        return self.absence.complete()

    # -- as it comes

    def receive(self, node_id: str, body: bytes) -> None:
        """A frame of a linked node; ProtocolError."""
        try:
            parts = expect_list("ROUND", unpack("ROUND", body), range(1, 9))
            self._take(node_id, expect_int("ROUND verb", parts[0], STAND, DECIDED), parts[1:])
        except ProtocolError as error:
            self._house.refuse(node_id, "", error)
            raise

    def _take(self, node_id: str, verb: int, parts: list[Any]) -> None:
        numbers = {STAND: 5, ROUNDS: 1, WANT: 0, PROPOSE: 4, PROMISE: 7, DECIDE: 3, DECIDED: 3}
        if len(parts) != numbers[verb]:
            raise wrong(f"ROUND of verb {verb}", f"{numbers[verb]} values", len(parts))
        if verb == ROUNDS:
            forms = expect_list("ROUNDS", parts[0])
            sizes = range(1, ROUND_BYTES_MAX + 1)
            self._on_rounds(node_id, [Round.decode(expect_bytes("ROUND", form, sizes)) for form in forms])
            return
        if verb == WANT:
            self._send(node_id, self.chain.oldest)
            return
        number = expect_int("ROUND number", parts[0], 0, VERSION_MAX)
        if verb == STAND:
            last = expect_int("ROUND id", parts[1], 0, U64_MAX)
            oldest = expect_int("ROUND oldest", parts[2], 0, number + 1)
            actor = expect_actor(parts[4])
            if not actor.startswith(node_id + ":"):
                raise wrong("ROUND actor", f"one of node {node_id}", actor)
            self._stands.setdefault(node_id, _Stand()).actor = actor
            self._on_stand(node_id, number, last, oldest, expect_bool("ROUND whole", parts[3]))
            return
        if not self._hears(node_id, exactly=True):
            return
        if verb == PROPOSE:
            prev, ballot = (expect_int("ROUND ballot", each, 0, U64_MAX) for each in parts[1:3])
            self.deciding.on_propose(node_id, number, prev, ballot, read_items(parts[3]))
        elif verb == PROMISE:
            agreed = expect_bool("ROUND agreed", parts[2])
            ballot, voice, before = (expect_int("ROUND ballot", parts[at], 0, U64_MAX) for at in (1, 3, 4))
            data = expect_bytes("ROUND", parts[6], range(ROUND_BYTES_MAX + 1))
            by = expect_name("ROUND proposer", parts[5]) if data else ""
            self.deciding.on_promise(node_id, number, ballot, agreed, voice, before, by, data)
        elif verb == DECIDE:
            data = expect_bytes("ROUND", parts[2], range(1, ROUND_BYTES_MAX + 1))
            self.deciding.on_decide(node_id, number, expect_int("ROUND ballot", parts[1], 0, U64_MAX), data)
        else:
            ballot, voice = (expect_int("ROUND ballot", each, 0, U64_MAX) for each in parts[1:])
            self.deciding.on_decided(node_id, number, ballot, voice)

    def _on_stand(self, node_id: str, number: int, last: int, oldest: int, whole: bool) -> None:
        stand, chain = self._stands.setdefault(node_id, _Stand()), self.chain
        met = self._is_met(stand)
        stand.number, stand.whole, stand.known = number, whole, True
        known = chain.id_of(number)
        stand.apart = known is not None and known != last
        if stand.apart:
            self._part(node_id, number)
            return
        if number == chain.number:
            if stand.said != number:
                self._tell(node_id)
            if not met:
                self._house.meet(node_id)
            return
        if stand.said != chain.number:
            self._tell(node_id)
        if number < chain.number:
            if number + 1 >= chain.oldest:
                self._send(node_id, number + 1)
            return
        if oldest > chain.number + 1:
            self._catch_up(node_id)

    def _is_met(self, stand: _Stand) -> bool:
        return stand.known and stand.number == self.chain.number and not stand.apart

    def _part(self, node_id: str, number: int) -> None:
        error = StatesDiverged(
            f"node {node_id}: its round {number} is not the one of this node {self._engine.node_id}: both "
            "pruned actors that they did not know of each other; they do not exchange states: start one of "
            "them without its data directory"
        )
        self._house.refuse(node_id, "", error)

    def _catch_up(self, node_id: str) -> None:
        """The rounds that this node lacks are not kept any more."""
        self.absence.merges = self.defect == DEFECTS["merged after absence"]
        if self.absence.seek(node_id):
            self._say(node_id, pack([WANT]))

    def _send(self, node_id: str, number: int) -> None:
        forms: list[bytes] = []
        size = 0
        for one in self.chain.since(number):
            if forms and size + len(one.data) > BODY_BYTES - ROUND_BYTES_MAX:
                self._say(node_id, pack([ROUNDS, forms]))
                forms, size = [], 0
            forms.append(one.data)
            size += len(one.data) + 5
        if forms:
            self._say(node_id, pack([ROUNDS, forms]))

    def _on_rounds(self, node_id: str, rounds: Sequence[Round]) -> None:
        if rounds and self.absence.begins(node_id):
            first = rounds[0]
            if first.number > self.chain.number + 1:
                if not self.absence.begin(first.number - 1, first.prev):
                    self._waiting = True
                    return
                self.deciding.moved()
        fresh: list[Round] = []
        number, last = self.chain.number, self.chain.id
        for one in rounds:
            if one.number <= number:
                continue
            if (one.number, one.prev) != (number + 1, last):
                raise ProtocolError(f"ROUND {one.number} does not follow round {number} of this node")
            fresh.append(one)
            number, last = one.number, one.id
        if fresh:
            self._apply(node_id, fresh)

    # -- rounds

    def _decided(self, one: Round) -> None:
        self._apply(self._engine.node_id, [one])

    def _apply(self, node_id: str, rounds: Sequence[Round]) -> None:
        if not self._house.settle():
            self._waiting = True  # `tick` asks for them again
            return
        by_key: dict[Key, list[Renaming]] = {}
        own: str | None = None
        for one in rounds:
            self.chain.add(one)
            for key, renaming in one.items:
                by_key.setdefault(key, []).append(renaming)
                if renaming.actor == self._naming.actor:
                    own = key.name
        self.deciding.moved()
        self.rounds += len(rounds)
        self._look_ns = min(self._look_ns, self._engine.now_ns + AGAIN_NS)  # there may be more
        self._engine.wake_by(self._look_ns)
        self._archive.put_chain()
        for key, renamings in by_key.items():
            held = self._states.get(key)
            if held is not None:
                self._rename(held, renamings)
        if own is not None:
            error = StatesPruned(
                f"this node was taken for gone, and its name was pruned, of state {own} first"
            )
            self._naming.renew(node_id, own, error)
        for each in list(self._stands):
            known = self._stands[each]
            if self._has_feature(each) and known.said != self.chain.number:
                if (
                    known.known
                    and self.chain.oldest - 1 <= known.number < self.chain.number
                    and not known.apart
                ):
                    self._send(each, known.number + 1)
                self._tell(each)
                if self._is_met(known):
                    self._house.meet(each)

    def _rename(self, held: Held, renamings: Sequence[Renaming]) -> None:
        prune(held.state, self._states.site, renamings)
        if self.defect == DEFECTS["folded twice"]:
            for one in renamings:
                both = tuple(map(sum, zip(one.before, one.after, strict=True)))
                prune(held.state, self._states.site, [one._replace(base=one.top, after=both)])
        self._states.renamed(held)
        self._archive.rewrite(held)

    def agrees(self, items: Sequence[Item]) -> bool:
        """Whether all that is known here of these is the same, and the actors are gone."""
        known = self._membership.lives()
        if not self.absence.whole or 2 * sum(lost for _, _, lost in known) >= len(known):
            return False
        present = self._present(known)
        for key, renaming in items:
            held = self._states.get(key)
            if held is None or renaming.actor in present or held.state.delta:
                return False
            if renaming_of(held.state, renaming.actor) != renaming:
                return False
        return True

    # -- who is gone

    def tick(self, now_ns: int) -> int:
        """Look who is gone; when to do so again."""
        self.deciding.tick(now_ns)
        if self._waiting and self._house.settle():
            self._waiting = False
            self._tell_all()
        if self._proposes and now_ns >= self._look_ns:
            self._look_ns = now_ns + self._every_ns
            self._look(now_ns)
        due_ns = min(self._look_ns if self._proposes else NEVER, self.deciding.deadline_ns or NEVER)
        return min(due_ns, now_ns + MS) if self._waiting else due_ns

    def _look(self, now_ns: int) -> None:
        known = self._membership.lives()
        members = [node_id for node_id, _, lost in known if not lost]
        lacking = len(known) - len(members)
        if len(members) < 2 or self._engine.node_id != min(members) or self.deciding.deadline_ns:
            return
        if 2 * lacking >= len(known) or not self.absence.whole:
            return
        if len(members) > self._mesh_max or not all(map(self._stands_here, members)):
            return
        items = self._find(known, now_ns)
        if items or self._voters_go(known):
            self.deciding.propose(items, members, len(known), now_ns)

    def _stands_here(self, node_id: str) -> bool:
        if node_id == self._engine.node_id:
            return True
        stand = self._stands.get(node_id)
        return stand is not None and self._has_feature(node_id) and self._is_met(stand)

    def _voters_go(self, known: Sequence[tuple[str, int, bool]]) -> bool:
        """A round without items, so that those that live decide while they can."""
        lives = {(node_id, life) for node_id, life, lost in known if not lost}
        return 3 * sum(each in lives for each in self.chain.voters) < 2 * len(self.chain.voters)

    def _find(self, known: Sequence[tuple[str, int, bool]], now_ns: int) -> list[Item]:
        """What may be renamed, of some of the states."""
        present = self._present(known)
        for each in [each for each in self._gone if each in present]:
            del self._gone[each]
        items: list[Item] = []
        size = 0
        every = self._states.names()
        for at in range(min(len(every), LOOKED_MAX)):
            key = every[(self._place + at) % len(every)]
            held = self._states.get(key)
            if held is None:
                continue
            for actor in held.state.context:
                if actor == STAR or actor in present or not self._is_gone(actor, now_ns):
                    continue
                renaming = renaming_of(held.state, actor)
                size += len(key.name.encode()) + len(actor.encode()) + ITEM_BYTES
                if renaming is None or any(each.key == key for each in items):
                    continue  # one actor of each state in a round: the next one builds on it
                if len(items) >= ITEMS_MAX or size > ROUND_BYTES_MAX // 2:
                    return items
                items.append(Item(key, renaming))
        self._place = (self._place + LOOKED_MAX) % max(len(every), 1) if not items else self._place
        return items

    def _present(self, known: Sequence[tuple[str, int, bool]]) -> dict[str, None]:
        """The names under which nodes that live change states."""
        found = {self._naming.actor: None}
        for node_id, life, lost in known:
            if not lost and node_id != self._engine.node_id:
                found[self.name_of(node_id, life)] = None
        return found

    def name_of(self, node_id: str, life: int) -> str:
        """Under which name another node, in that incarnation, changes states, as far as it is known."""
        stand = self._stands.get(node_id)
        return actor_of(node_id, life) if stand is None or not stand.actor else stand.actor

    @property
    def round(self) -> int:
        """At which round this node stands."""
        return self.chain.number

    def neighbours(self) -> dict[str, str]:
        """The linked nodes that can be asked, in order, and under which names they change states."""
        sessions = self._engine.sessions
        return {
            each: self.name_of(each, sessions[each].incarnation)
            for each in sorted(sessions)
            if self.understands(each)
        }

    def lives(self) -> dict[str, str]:
        """Likewise of all others that live, as far as it is known."""
        known = [(node_id, life) for node_id, life, lost in self._membership.lives() if not lost]
        return {
            node_id: self.name_of(node_id, life) for node_id, life in known if node_id != self._engine.node_id
        }

    def _is_gone(self, actor: str, now_ns: int) -> bool:
        since_ns = self._gone.get(actor)
        if since_ns is None:
            if len(self._gone) < WATCHED_MAX:
                self._gone[actor] = now_ns
            return False
        return now_ns - since_ns >= self._after_ns

    def stats(self) -> dict[str, int]:
        """Every counter, by name."""
        return {
            "state_rounds": self.rounds,
            "state_rounds_kept": len(self.chain.kept),
            "states_renamed": self.renamed,
            "states_ignored": self.ignored,
            "states_remade": self.absence.remade,
            "states_unknown": self.absence.unknown,
        }
