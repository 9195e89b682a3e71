"""How nodes agree on whose answers count, when the network changes: see `placement` for the law.

In: who is in the network, what other nodes say of it (VIEWS), questions that name a view (ASK).  Out: VIEWS
to those whose word is missing, and whether a question is to be answered.  A node that has another view takes
what is in the question and does not answer it, but tells its own view, and again when that has moved: who
asks asks again once both have the same.  Who has just come knows nothing of nodes that were lost before that:
for `state_move_ms` it believes what others tell of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from agentnet_core.config import EngineConfig
from agentnet_core.errors import TooFewReplicas
from agentnet_core.membership import Membership
from agentnet_core.parts import ASK, LOST_MAX, STATE, VIEWS, pack_sums, write
from agentnet_core.placement import Change, Lost, Part, Placement
from agentnet_core.quorums import majority_of
from agentnet_core.reach import Say
from agentnet_core.states import Key, States, share_of

if TYPE_CHECKING:
    from agentnet_core.engine import Engine

MS = 1_000_000
NEVER = 2**63 - 1
LOOK_NS = 10 * MS
"""How old what is known of the network may be when it is asked."""
ASK_NS = 100 * MS
"""How often those are asked whose word closes an old view."""
ASKED_MAX = 64
"""How many of them at a time."""
WATCH_NS = 2_000 * MS
"""How long the network is watched after two nodes had different views of it."""
WANTED_NS = 10_000 * MS
"""How long after a question, asked here or answered, old views are being closed: who asks for no quorum says
nothing to anybody."""


class Moves:
    """Whose answers count, for one engine. ``on_move``: called with True when the view has moved, with False
    when what it needs is known; ``on_agreed``: with a node that has told that it has the same."""

    def __init__(
        self,
        engine: Engine,
        membership: Membership,
        states: States,
        config: EngineConfig,
        say: Say,
        on_move: Callable[[bool], None],
        on_agreed: Callable[[str], None],
    ) -> None:
        self._engine, self._membership, self._states, self._say = engine, membership, states, say
        self._on_move, self._on_agreed = on_move, on_agreed
        self._unanswered: dict[str, None] = {}
        self._watch_ns = 0
        self._was_ready = True
        self._wanted_ns = 0
        self._look_ns = engine.now_ns
        self._ask_ns = engine.now_ns
        self._least = config.state_quorum_min
        self._move_ns, self._lost_ns = config.state_move_ms * MS, config.state_lost_ms * MS
        self._came_ns = engine.now_ns
        self._idle_ns = engine.now_ns + self._move_ns // 4
        self._told: dict[str, Lost] = {}
        self._seen = 0
        self.placement = Placement(engine.node_id, engine.incarnation, config)

    @property
    def ready(self) -> bool:
        """Whether it is known of which old views replicas count."""
        return self.placement.ready(self._engine.now_ns)

    def look(self) -> None:
        """See who is in the network now."""
        now_ns = self._engine.now_ns
        if now_ns >= self._look_ns:
            self._look_ns = now_ns + LOOK_NS
            stood = self.placement.standing
            known = self._membership.lives()
            moved = self.placement.observe(known, now_ns, self._believed(known) if self._told else ())
            if moved:
                self._ask_ns = now_ns
                self._engine.wake_by(now_ns)
                self._was_ready = self.ready
                self._on_move(True)
            if moved or (self.placement.standing and not stood):
                unanswered, self._unanswered = self._unanswered, {}
                for node_id in unanswered:
                    self._tell(node_id, asks=False)

    def _believed(self, known: Sequence[tuple[str, int, bool]]) -> list[Lost]:
        """The lost nodes of which others have told, but those that are known by now, or gone."""
        names = dict.fromkeys(node_id for node_id, _, _ in known)
        self._told = {
            node_id: (node_id, life, since)
            for node_id, life, since in self._told.values()
            if node_id not in names
            and not self._membership.is_gone(node_id, life)
            and self._engine.now_ns - since < self._lost_ns
        }
        return list(self._told.values())

    def _believe(self, lost: list[Lost]) -> None:
        """Lost nodes, and for how many milliseconds."""
        now_ns = self._engine.now_ns
        if now_ns >= self._came_ns + self._move_ns:
            return
        for node_id, life, ms in lost:
            if node_id not in self._told and len(self._told) < LOST_MAX:
                self._told[node_id] = node_id, life, now_ns - ms * MS

    def replicas(self, key: Key) -> tuple[str, ...]:
        """Those of a state that names none, now."""
        self._want()
        self.look()
        return self.placement.of(share_of(key))

    def _want(self) -> None:
        if self._engine.now_ns >= self._wanted_ns:
            self._engine.wake_by(self._engine.now_ns)
        self._wanted_ns = self._engine.now_ns + WANTED_NS

    def place(self, key: Key, need: int, replicas: tuple[str, ...]) -> Callable[[], tuple[Part, ...]]:
        """Gives whose answers are wanted at any time, if so many of these are now."""
        return partial(self._parts, share_of(key), need, len(replicas))

    def _parts(self, share: int, need: int, count: int) -> tuple[Part, ...]:
        now = len(self.placement.of(share))
        if need == count > 2:
            need = now
        elif 2 * need > count:
            # Who wanted fewer than a QUORUM did not want its minimum.
            least = self._least if need >= majority_of(count, self._least) else 1
            need = max(min(need, now), majority_of(now, least))
        return self.placement.parts(share, min(need, now))

    def check(self, key: Key) -> None:
        """TooFewReplicas, definite, where half of all nodes are lost."""
        if not self.placement.standing:
            raise TooFewReplicas(
                f"{key.label}: half of all nodes are lost, or this one is cut off: replicas that are chosen "
                "do not count here; nothing was done",
                definite=True,
            )

    def wrap(self, body: bytes) -> bytes:
        """A question, to be answered by who has this view."""
        self.placement.used = True
        return write(ASK, self.placement.view, body)

    def answers(self, node_id: str, view: int) -> bool:
        """Whether a question that names that view is to be answered; if not, it is told why."""
        self._look_ns = min(self._look_ns, self._engine.now_ns)
        self._want()
        self.look()
        if view == self.placement.view and self.placement.standing:
            self.placement.used = True
            return True
        self._unanswered[node_id] = None
        self._watch()
        if view != self.placement.view:  # else there is nothing to say before this node stands again
            self._tell(node_id, asks=False)
        return False

    def _watch(self) -> None:
        self._watch_ns = self._engine.now_ns + WATCH_NS
        self._engine.wake_by(self._engine.now_ns + LOOK_NS)

    def link_up(self, node_id: str) -> None:
        """A link is welcomed: who has just come learns of old views."""
        if self.placement.moving and self._engine.now_ns < self._wanted_ns:
            self._tell(node_id, asks=False)

    def _look_ready(self) -> None:
        was_ready, self._was_ready = self._was_ready, self.ready
        if self._was_ready and not was_ready:
            self._on_move(False)

    def _tell(self, node_id: str, *, asks: bool) -> None:
        placement = self.placement
        sums = pack_sums(self._states.sums())
        changes = [[list(map(list, each)) for each in change] for change in placement.changes()]
        now_ns = self._engine.now_ns
        lost = [
            [each, life, max(0, now_ns - since) // MS] for each, life, since in placement.lost()[:LOST_MAX]
        ]
        self._say(node_id, STATE, write(VIEWS, placement.view, sums, asks, changes, lost))

    def on_views(
        self,
        node_id: str,
        view: int,
        sums: list[int],
        asks: bool,
        changes: list[Change],
        lost: list[Lost],
    ) -> None:
        """What a node has told."""
        self._believe(lost)
        self._look_ns = min(self._look_ns, self._engine.now_ns)
        self._want()
        self.look()
        if view == self.placement.view:
            self._on_agreed(node_id)
        else:
            self._watch()
        self.placement.learn(node_id, view, changes)
        self._look_ready()
        own = self._states.sums()
        self.placement.heard(node_id, view, [i for i, total in enumerate(sums) if total == own[i]])
        if asks:
            self._tell(node_id, asks=False)

    def tick(self, now_ns: int) -> int:
        """Ask those whose word is missing; when to do so again."""
        if now_ns >= self._wanted_ns:
            # Now and then all the same: who goes one by one must not look like a half that is cut off.
            if now_ns >= self._idle_ns:
                self._idle_ns = now_ns + int(self._move_ns // 4 * self._membership.pace)
                # Where nobody is lost, time alone moves nothing.
                seen, self._seen = self._seen, self._membership.changes
                if seen != self._seen or self._told or self.placement.lost_nodes:
                    self.look()
            return self._idle_ns
        self.look()
        due_ns = now_ns + LOOK_NS if now_ns < self._watch_ns else NEVER
        self._look_ready()
        if self.ready and not self.placement.moving:
            return due_ns
        if now_ns >= self._ask_ns:
            self._ask_ns = now_ns + ASK_NS
            for node_id in self.placement.to_ask(ASKED_MAX):
                self._tell(node_id, asks=True)
        return min(due_ns, self._ask_ns)
