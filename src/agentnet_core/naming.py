"""Under which name a node changes states: its own and its incarnation, or that of a life before (`archive`).

A name is given up when others know more of it than this node does: a disk was restored from a copy, another
process uses it, or somebody lies; and when it was pruned, for who was away was taken for gone.  The next one
was never used by anybody.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from agentnet_core.archive import Archive
from agentnet_core.errors import Contradiction, NetworkError
from agentnet_core.records import Event
from agentnet_core.states import States, actor_of

if TYPE_CHECKING:
    from agentnet_core.engine import Engine


NAMES_MAX = 16
"""Names that a node gives up in one life because others speak in them."""


class Naming:
    """The name of one node. ``settle``: lets go what was changed under it; False if some of that has to
    wait, for then the name is not given up."""

    def __init__(self, engine: Engine, archive: Archive, states: States, settle: Callable[[], bool]) -> None:
        self._engine, self._archive, self._states, self._settle = engine, archive, states, settle
        self._disowned = 0
        self.on_renew: Callable[[], None] = lambda: None

    @property
    def actor(self) -> str:
        """In whose name this node changes states."""
        return actor_of(self._engine.node_id, self._archive.life)

    def disown(self, node_id: str, name: str, error: Contradiction) -> bool:
        """Somebody knows more of what is done in this node's name than it does: it takes another. Whether
        what came may be its own after all, of an earlier life."""
        if error.actor != self.actor or self._disowned >= NAMES_MAX:
            return False
        is_earlier = self._archive.life < self._engine.incarnation
        if not self.renew(node_id, name, error):
            return False
        self._disowned += 1
        return is_earlier

    def renew(self, node_id: str, name: str, error: NetworkError) -> bool:
        """Take another name, because of that; False if what was changed has to be let go before."""
        if not self._settle():
            return False
        old, life, now_ns = self.actor, self._archive.life, self._engine.now_ns + self._engine.wall_offset_ns
        is_earlier = life < self._engine.incarnation
        self._archive.life = self._engine.incarnation if is_earlier else max(life + 1, now_ns)
        self._states.rename(self.actor)
        self.on_renew()
        detail = f"{old} is {self.actor} from now on: {error}"
        self._engine.event(Event(Event.STATE_CONFLICT, node_id, name=name, detail=detail, error=error))
        return True
