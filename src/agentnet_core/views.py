"""What a node shows of all nodes: what the membership knows, with what each link has proven.

In: the membership's list, the sessions, what is known of their liveness.  Out: Members, by value.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from agentnet_core.liveness import Liveness
from agentnet_core.records import Member, NodeStatus

if TYPE_CHECKING:
    from agentnet_core.engine import Engine
    from agentnet_core.membership import Membership
    from agentnet_core.session import Session


def show_members(
    engine: Engine, membership: Membership, liveness: Liveness, *, plaintext: bool
) -> list[Member]:
    """This node and all that it knows, by node id. ``plaintext``: whether this one speaks it."""

    def show(member: Member) -> Member:
        session = engine.sessions.get(member.node_id)
        if session is not None:
            member = _linked(member, session, engine.wall_offset_ns)
        elif member.node_id == engine.node_id:
            heartbeat = engine.now_ns + engine.wall_offset_ns
            status = NodeStatus.MAINTENANCE if engine.cordoned else member.status
            member = replace(
                member, last_heartbeat=heartbeat, plaintext=plaintext, status=status, load=engine.load
            )
        return liveness.seen(member, session, engine.now_ns)

    return [show(member) for member in membership.members()]


def _linked(member: Member, session: Session, wall_offset_ns: int) -> Member:
    status = NodeStatus.ACTIVE if session.relay else member.status
    status = NodeStatus.MAINTENANCE if session.cordoned else status
    proven = session.proven_ns > 0
    return replace(
        member,
        last_heartbeat=session.heard_ns + wall_offset_ns,
        status=status,
        rtt_ms=session.rtt_ns / 1e6 if proven else None,
        proven=session.proven_ns + wall_offset_ns if proven else 0,
        load=session.load,
        relay=session.relay,
    )
