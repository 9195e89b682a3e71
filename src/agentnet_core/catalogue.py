"""Which agents there are, told to every linked node and learned from them.

In: registrations of this node's agents, AGENTS and CONFIRM frames, links that come and go.  Out: the
same frames, routes and events that follow what changed, and tokens that settle once others have
confirmed.  It composes the directory and the registrations, and holds what belongs to neither: what
each link was sent, and who has sent its whole list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agentnet_core.config import EngineConfig
from agentnet_core.directory import Applied, Directory
from agentnet_core.errors import AgentExists
from agentnet_core.listing import Confirm
from agentnet_core.records import AgentRecord, Event
from agentnet_core.registrations import Registrations, Told

if TYPE_CHECKING:
    from agentnet_core.engine import Engine
    from agentnet_core.port import Port
    from agentnet_core.session import Session

AGENTS, CONFIRM = 9, 10


class Catalogue:
    """The agents of one engine's network."""

    def __init__(self, engine: Engine, config: EngineConfig) -> None:
        self.engine = engine
        self.directory = Directory(engine.node_id, config)
        self.registrations = Registrations(config, self.directory.label)
        self.watched = False
        """Whether anybody reads events of single agents: a network may have very many."""
        self._synced: dict[str, bool] = {}
        self._sent_version: dict[str, int] = {}

    @property
    def complete(self) -> bool:
        """Whether every linked node has sent its whole list."""
        return all(self._synced.values())

    # -- commands of the driver

    def register(self, ports: Sequence[Port], token: Any, timeout_ns: int) -> None:
        """Take agents of this node; the token settles when every linked node has confirmed them.

        AgentExists or LimitReached, definite, are raised before anything has changed.
        """
        version = self.directory.register([port.record for port in ports])
        for port in ports:
            self.engine.add_port(port)
            self._agent_event(Event.AGENT_REGISTERED, port.record)
        self._publish()
        ids = [port.record.agent_id for port in ports]
        deadline_ns = self.engine.now_ns + timeout_ns
        self._settle(self.registrations.begin(version, self.engine.sessions, ids, token, deadline_ns))
        self.engine.wake_by(deadline_ns)

    def unregister(self, ports: Sequence[Port]) -> None:
        """Drop agents of this node; what is in their mailboxes is refused."""
        applied = self.directory.unregister([port.agent_id for port in ports])
        for port in ports:
            self.engine.remove_port(port)
        self._report(applied)
        self._publish()

    def withdraw(self) -> None:
        """Let no node send work here any more; what is here already can still be done."""
        self._report(self.directory.unregister(list(self.engine.ports)))
        self._publish()

    # -- links, as control tells

    def link_up(self, session: Session) -> None:
        """A link is welcomed: its peer gets the own list whole."""
        self._synced[session.node_id] = False
        for body in self.directory.snapshot_frames():
            self.engine.put_control(session, AGENTS, body)
        self._sent_version[session.node_id] = self.directory.version

    def link_down(self, node_id: str) -> None:
        """The link to that node is gone, and no other took its place."""
        self._synced.pop(node_id, None)
        self._sent_version.pop(node_id, None)
        self._settle(self.registrations.lost(node_id))

    def forget(self, node_id: str) -> None:
        """The node is lost or has left: its agents go."""
        self._report(self.directory.forget(node_id))

    def on_agents(self, session: Session, body: bytes) -> None:
        """An AGENTS frame of a welcomed link."""
        applied = self.directory.apply(session.node_id, body)
        for confirm in applied.confirms:
            self.engine.put_control(session, CONFIRM, confirm)
        self._report(applied)
        if applied.last:
            self._synced[session.node_id] = True

    def on_confirm(self, session: Session, body: bytes) -> None:
        """A CONFIRM frame of a welcomed link."""
        confirm = Confirm.decode(body)
        self._report(self.directory.concede(session.node_id, confirm))
        self._settle(self.registrations.confirm(session.node_id, confirm))

    def tick(self, now_ns: int) -> int:
        """Tell those whose time is over; the time of the next thing."""
        self._settle(self.registrations.late(now_ns))
        return self.registrations.next_deadline_ns()

    # -- what follows

    def _report(self, applied: Applied) -> None:
        """Let routes and events follow what changed in the directory."""
        for record in applied.changed:
            self.engine.renew_route(record)
        for record in applied.removed:
            self.engine.drop_routes(record)
            self._agent_event(Event.AGENT_GONE, record)
        for record in applied.added:
            self._agent_event(Event.AGENT_REGISTERED, record)
        for record, owner in applied.lost_mine:
            self.registrations.outdone(record.agent_id, owner)
            port = self.engine.ports.get(record.agent_id)
            if port is not None:
                self.engine.lose_port(port)
            text = f"agent {record.label} belongs to node {owner}, which keeps it; here it is unregistered"
            error = AgentExists(text)
            self.engine.event(
                Event(Event.AGENT_CONFLICT, owner, record.agent_id, record.name, text, error=error)
            )
        if applied.lost_mine:
            self._publish()
        for record, limit in applied.refused:
            self.engine.event(
                Event(
                    Event.AGENT_CONFLICT, record.node_id, record.agent_id, record.name, f"not taken: {limit}"
                )
            )

    def _agent_event(self, kind: str, record: AgentRecord) -> None:
        if self.watched:
            self.engine.event(Event(kind, record.node_id, record.agent_id, record.name))

    def _publish(self) -> None:
        """Send every linked node what changed in the own list since it was last sent."""
        bodies: dict[int, list[bytes]] = {}
        for node_id, session in list(self.engine.sessions.items()):
            since = self._sent_version[node_id]
            if since not in bodies:
                bodies[since] = self.directory.updates_since(since)
            for body in bodies[since]:
                self.engine.put_control(session, AGENTS, body)
            self._sent_version[node_id] = self.directory.version

    def _settle(self, told: Told) -> None:
        for token, error in told:
            self.engine.settle(token, error)
