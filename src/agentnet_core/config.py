"""Every limit and interval of the engine, frozen, validated once at the door.

The unit is the last word of the name: ``_bytes``, ``_ms``, or a bare count; ``_max`` and
``_min`` after it.  What happens at each limit is told beside it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from agentnet_core.errors import ConfigError

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
FRAME_BYTES_MIN = 64 * 1024
"""What every node takes in one frame, so that control frames need no agreement."""
FRAME_BYTES_LIMIT = 2**32 - 1
"""A frame's length is 32 bits wide."""
BODY_BYTES = 48 * 1024
"""What one control frame's body is filled to, when a list has to be cut into several."""
BROADCAST_BYTES = 60 * 1024
"""What every node takes as one broadcast's payload: it crosses each link as one frame."""
VERSION_MAX = 2**53
"""What raises its version a million times a second reaches it after three centuries."""
RINGS_MAX = 8
PATH_AGENTS_MAX = 64
"""Agents on the path that a request in a chain of calls carries."""
LAG_MS_MIN = 300
"""An event loop is looked at four times a second: what is less is no lag."""
GROUP_BYTES_MAX = 128
"""The name of a group of agents, as UTF-8."""
OPTIONAL_BYTES_MAX = 4096
"""What a message may be on the wire beside its payload."""
OPERATION_BYTES_MAX = 128
"""The id of an operation, as UTF-8."""
STORE_KEY_BYTES_MAX = 256
"""A key of an agent's store, as UTF-8."""
ACTOR_BYTES_MAX = 128
"""The name of an actor, a node id and its incarnation, as UTF-8."""
STATE_NAME_BYTES_MAX = 256
"""The name of a state, as UTF-8."""
MS_MAX = 10**12
"""Some thirty years: for ever. In nanoseconds, and added to a clock, it fits 63 bits."""
COUNT_MAX = 10**15
"""Of bytes or anything else: more than any machine has, and what is reckoned with it fits 63 bits."""


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Limits and intervals; every field has a default that suits a LAN."""

    network: str = "default"
    """Name of the network; no link crosses from one network to another."""

    # -- wire
    frame_bytes_max: int = 128 * 1024
    """A larger frame closes its link with ProtocolError, before anything is allocated for it."""
    message_bytes_max: int = 64 * 1024 * 1024
    """A larger payload is refused at the sender with MessageTooLarge."""
    fragment_bytes: int = 64 * 1024
    """A larger payload travels as interleaved fragments of this size."""
    fragments_open_max: int = 64
    """Messages in reassembly on one link; one more closes the link with ProtocolError."""
    reassembly_bytes_max: int = 256 * 1024 * 1024
    """Bytes in reassembly on one link; more close the link with ProtocolError."""

    # -- flow
    link_window_bytes: int = 512 * 1024
    """Data that may be on its way to one peer; beyond it, senders wait."""
    bulk_window_bytes: int = 256 * 1024
    """Fragments on their way to one peer, at most; fewer where more would delay what is behind them."""
    control_bytes_max: int = 64 * 1024 * 1024
    """Control frames that wait for one peer; beyond it, the link is closed."""
    mailbox_messages_max: int = 16 * 1024
    """Messages in one mailbox; at three quarters senders are told to stop."""
    mailbox_bytes_max: int = 4 * 1024 * 1024
    """Bytes in one mailbox, 200 more counted for each message; likewise."""
    sends_waiting_max: int = 1024
    """Sends that wait for one agent; one more raises Congested."""
    sends_waiting_bytes_max: int = 64 * 1024 * 1024
    """Bytes of payload of the sends that wait for one agent; likewise."""
    send_wait_ms_max: int = 30_000
    """A send that has waited this long raises Congested; so two agents that flood each other end."""
    answer_wait_ms_max: int = 2_000
    """Answers wait for room like sends, but nobody waits for them; only when as many as may wait for one
    node do already, their agents wait too, this long.  Then the answer is dropped and counted, and so
    are those after it until the node takes data again: it cannot hold up an agent that others ask."""
    requests_pending_max: int = 65_536
    """Requests of one node without an answer; one more raises LimitReached."""
    request_timeout_ms: int = 30_000
    """When ``request`` is given no timeout."""
    chain_hops_max: int = 16
    """Requests that may follow one another, each made by the handler of the one before; one more raises
    ChainSpent, which tells the path."""
    chain_sends: bool = False
    """Whether what a handler sends counts as what it asks does, so that agents whose handlers send each other
    messages for ever are stopped by ChainSpent. A send outside of handlers is the first of its chain."""
    chain_calls_max: int = 1024 * 1024
    """Requests that may be open at a time below one of them. The k-th that a handler has open gets 1/k(k+1)
    of what its own may have; where nothing is left, one more raises ChainSpent."""
    reentrant_calls_max: int = 256
    """Calls of an agent's own chains that have come back to it and are open; one more is refused: Congested.
    """
    streams_max: int = 1_024
    """Streams that this node reads, and as many that it answers; one more raises LimitReached."""
    stream_parts_max: int = 256
    """Parts of one stream that who reads it has not taken; then its handler waits."""
    stream_bytes_max: int = 1024 * 1024
    """Bytes of them, and one part more; likewise."""
    stream_idle_ms_max: int = 60_000
    """A stream of which no part came for this long while one is waited for raises RequestTimeout, if it is
    given no other time; one of which none was taken for this long is ended at its handler's side."""
    stream_resume_ms_max: int = 10_000
    """A stream whose link is lost waits this long for another; then StreamLost, its handler is cancelled."""
    recall_ms_max: int = 5_000
    """How long after a request was given up word is waited for of what became of it; then that is unknown.
    As many may be waited for as `requests_pending_max`; the oldest are forgotten first."""

    # -- deliveries: messages sent with a promise
    deliveries_max: int = 1_100_000
    """Messages that one node sent with a promise and that are not settled; one more raises LimitReached."""
    deliveries_bytes_max: int = 1024 * 1024 * 1024
    """Bytes of them, 500 more counted for each; likewise."""
    delivery_timeout_ms: int = 30_000
    """When ``send`` is given no timeout."""
    delivery_retry_ms_min: int = 50
    delivery_retry_ms_max: int = 2_000
    """Backoff between attempts to reach one agent: doubles from min to max, half of it jitter."""
    delivery_attempts_max: int = 5
    """A DURABLE message that its handler failed so often becomes a dead letter."""
    delivery_mark_ms: int = 5
    """That DURABLE messages were processed is written down at most this often, for many at once, and their
    senders are told then; at once where one waits for it."""
    delivery_lines_max: int = 65_536
    """Lines (sender, receiver, priority) whose numbers a node remembers, so that nothing is handled twice;
    when all were used within `delivery_window_ms`, the messages of more are refused and tried again later."""
    delivery_window_ms: int = 24 * 3600 * 1000
    """How long such numbers are remembered at least, after the last message."""
    lease_ms: int = 30_000
    """A handler that has a message for this long is looked for: while it lives it goes on, else the message
    is given back, and comes again. Time in the mailbox does not count."""
    lease_ms_max: int = 3_600_000
    """One that has it for this long is taken for hung: likewise, with an event, LEASE_EXPIRED."""
    delivery_refusals_max: int = 1_024
    """Refusals that one line remembers, to say them again; the oldest go."""
    dead_letters_max: int = 10_000
    dead_letters_bytes_max: int = 64 * 1024 * 1024
    """Dead letters of one node, and their bytes, 500 more counted for each. The oldest go."""

    # -- operations: what is done once, however often it is asked for
    operations_max: int = 100_000
    """Operations that a node is at, or whose results it keeps; of more it refuses the next: LimitReached."""
    operations_bytes_max: int = 64 * 1024 * 1024
    """Bytes of their ids and results, 500 more counted for each; likewise. A result for which there is no
    room is not kept: that it was processed is."""
    operation_ms: int = 3_600_000
    """How long a result is kept; then the same id is a new operation. Longer than anybody tries again."""
    operation_result_bytes_max: int = 1024 * 1024
    """A larger result is given, and not kept: who asks again gets ResultForgotten."""
    operation_waiters_max: int = 64
    """Retries that wait for an operation that is at work; one more is refused: Congested."""
    store_keys_max: int = 1_000_000
    """Keys in the stores of all agents of a node; what `once` would add beyond raises LimitReached."""
    store_bytes_max: int = 256 * 1024 * 1024
    """Bytes of their keys and values, 200 more counted for each; likewise."""
    store_value_bytes_max: int = 1024 * 1024
    """Bytes of one value; likewise."""

    # -- links and nodes
    handshake_ms_max: int = 5_000
    """A link that is not welcomed by then is closed."""
    handshake_bytes_max: int = 64 * 1024
    """What a peer may send before it is welcomed; more closes the link."""
    ping_interval_ms: int = 1_000
    """A link that brought no whole frame for this long is pinged; in a network of more than 250 nodes in
    proportion later, up to four times as late, and so `refresh_interval_ms` and `node_silence_ms_max`."""
    refresh_interval_ms: int = 5_000
    """One that does is pinged this often, so that its round trip and the load of its node are fresh."""
    link_silence_ms_max: int = 15_000
    """A link that brought no whole frame for this long is closed as lost."""
    probe_interval_ms: int = 500
    """A node whose link is silent is asked at its liveness port this often."""
    port_check_ms: int = 20_000
    """So is one that speaks, this often, to know whether its port is within reach at all."""
    unreachable_ms_max: int = 3_000
    """A node that was pinged, and for this long answered neither that nor at its liveness port, is let go."""
    inactive_lag_ms: int = 2_000
    """An event loop that has not turned for this long counts as blocked."""
    link_wait_ms_max: int = 5_000
    """What is for a node without a link waits this long for one; then AgentUnreachable: it was not sent."""
    control_kept_max: int = 4_096
    control_kept_bytes_max: int = 4 * 1024 * 1024
    """Control frames that wait for links to come, to all nodes together; one more is not kept: Congested."""
    data_idle_ms: int = 60_000
    """A link that is not of the overlay and that no message has used for this long is closed."""
    data_links_max: int = 256
    """Links that are not of the overlay; for one more the idle one goes that was used least recently. If
    none is idle, the new one waits. Those that others make are taken; then idle ones go."""
    relay: bool = True
    """Whether this node carries bytes between two that are linked with it and cannot dial each other."""
    relay_after_ms: int = 1_000
    """A node that a message waits for is looked for through others (a tunnel) when all its addresses were
    dialled in vain, or this long after; it is dialled on all the same."""
    relay_tries_max: int = 8
    """Nodes that are asked for a tunnel, one after another; then AgentUnreachable says why they refused."""
    relayed_max: int = 64
    """Tunnels that this node carries for others; one more is refused, and another node is asked."""
    tunnels_max: int = 64
    """Tunnels that end at this node; one more is refused, or not asked for."""
    tunnel_window_bytes: int = 256 * 1024
    """What may be on its way through one tunnel, each way: so much of it a relay may have to hold."""
    redial_ms_min: int = 50
    redial_ms_max: int = 5_000
    """Backoff between dials of one node: doubles from min to max, half of it jitter."""
    node_silence_ms_max: int = 2_000
    """A node that was not heard for this long is in doubt: others are asked whether they hear it."""
    probe_helpers: int = 3
    """How many are asked."""
    probe_ms_max: int = 500
    """Those that have not answered by then do not hear it either."""
    suspicion_ms_min: int = 1_500
    suspicion_ms_max: int = 9_000
    """A node that nobody asked hears has this long to clear itself: min where three or more nodes do not
    hear it, max where only one does not. Then it is lost: its agents go, an event tells."""
    local_health: bool = True
    """Whether a node that does not keep up, or stood still, gives others more time before it doubts them.
    Off, it takes for lost whom it had no time to hear: that is to be seen in the simulator only."""
    sync_interval_ms: int = 30_000
    """How often a node compares what it knows of nodes with one other, picked by chance."""
    nodes_max: int = 1_024
    """Nodes known; more are not linked, and an event tells."""
    agents_max: int = 1_000_000
    """Agents known; a registration beyond raises LimitReached, a peer's is not taken and an event tells."""
    metadata_bytes_max: int = 4_096
    """Capabilities, groups and metadata of one agent, encoded; more raises LimitReached."""
    changes_early_max: int = 256
    """Changes of lists that are kept until what lies before them comes; the oldest go, and are pulled."""
    pull_delay_ms: int = 200
    """How long what lies before a change is waited for, before the list is asked for whole."""
    pull_ms_max: int = 1_000
    """A node that was asked for a list, and for this long brought no part of it: another is asked."""
    pull_lists_max: int = 64
    """Lists that are asked of one node at a time."""
    keepers: int = 3
    """Nodes that keep an agent id in a network of more than `mesh_nodes_max`: a registration waits for them.
    In a smaller one every node does."""
    lookup_ms_max: int = 1_000
    """How long they are asked whose an id is: before it is registered, and when it is unknown where a message
    is sent."""
    lookups_max: int = 4_096
    """Agents that are looked for at the same time; for one more, Congested."""
    forgeries_max: int = 8
    """What one link may bring in the name of nodes that did not sign it, where the network is signed; one
    more closes it. None of it is taken."""
    join_ms_max: int = 10_000
    register_ms_max: int = 10_000
    leave_ms_max: int = 10_000
    """Deadlines of ``join_network``, ``register_agent``, ``leave_network``."""

    # -- overlay
    overlay_rings: int = 4
    """Rings of the overlay: a node dials its successor on each, so it has about twice as many links."""
    mesh_nodes_max: int = 50
    """In a network of more nodes than this, a node keeps links to its neighbours on the rings only, and makes
    others for messages that go there. It knows all nodes and agents all the same."""

    # -- broadcast tree: what goes to all nodes where not all are linked
    broadcast_bytes_max: int = 48 * 1024
    """A larger broadcast, with what the message has beside its payload, is refused at its origin with
    MessageTooLarge; in a network of at most `mesh_nodes_max` it goes to each node by a link of its own."""
    broadcast_backlog_bytes_max: int = 1024 * 1024
    """Control frames that wait for one peer; beyond it, or half of `control_bytes_max`, broadcasts are
    announced to it when it has read, not sent at once."""
    broadcast_window_max: int = 4_096
    """Broadcasts of one origin, up to the newest, of which each is known to be there or not; what is
    not there when it leaves the window is counted as missed."""
    broadcast_origins_max: int = 16_384
    """Origins whose windows are kept; when none of them is silent, those of more are refused and counted."""
    broadcasts_kept_max: int = 4_096
    """Broadcasts kept for links that missed them; the oldest go."""
    broadcasts_kept_bytes_max: int = 16 * 1024 * 1024
    """Bytes of payload of the broadcasts that are kept; likewise."""
    broadcasts_young_ms: int = 2_000
    """The age to which no user's broadcast pushes another out: its sender waits, as for any room, and also
    while the young ones of its node take more than a quarter of those two."""
    broadcasts_kept_ms: int = 60_000
    """The age to which a broadcast is kept; an origin of which nothing came for twice as long is silent."""
    broadcasts_announced_max: int = 8_192
    """Broadcasts that one link announced and that have not come; more are not noted, but counted."""
    announce_interval_ms: int = 100
    """How long announcements are gathered for one frame."""
    graft_delay_ms: int = 250
    """How long an announced broadcast is waited for, first of the tree and then of each that is asked."""
    prune_delay_ms: int = 250
    """How long after a broadcast that shapes the tree the links are pruned that brought it once too often;
    better longer than it takes to reach all. Four times as long, none after it shapes the tree."""

    # -- the log on disk
    log_segment_bytes: int = 64 * 1024 * 1024
    """A segment of the log is followed by the next one at this size; a batch is never cut in two."""
    log_waiting_bytes_max: int = 128 * 1024 * 1024
    """Bytes that wait to be written; a batch beyond raises StorageBusy, one that is larger LimitReached."""
    log_held_bytes: int = 1024 * 1024 * 1024
    """A larger log asks whoever holds its oldest segment to let it go: to write again, or to put into a
    snapshot, what is still needed of it."""
    log_bytes_max: int = 16 * 1024 * 1024 * 1024
    """A log of this size takes nothing that frees nothing: StorageFull."""
    log_owners_max: int = 65_536
    """Owners of entries, cells or snapshots in one log; one more raises LimitReached."""
    log_cells_bytes_max: int = 8 * 1024 * 1024
    """Bytes in cells, 64 more counted for each; they begin every segment. More raise LimitReached."""

    # -- states: a change that would pass one of these limits is refused whole, with LimitReached
    state_elements_max: int = 1_000_000
    """Elements, keys and siblings of one state."""
    state_bytes_max: int = 256 * 1024 * 1024
    """Bytes of the keys and values of one state."""
    state_key_bytes_max: int = 1_024
    """Bytes of one key; in a map of maps, of all the keys on the way to a value."""
    state_value_bytes_max: int = 1024 * 1024
    """Bytes of one value."""
    state_actors_max: int = 16_384
    """Actors that ever changed one state: nodes, and each of their lives that did not go on under the actor
    of the one before (see `data_dir`). None is forgotten, but with `state_pruning`."""
    state_runs_max: int = 65_536
    """Runs of dots that one state has seen: one for each actor, and one more for each gap."""
    state_skew_ms_max: int = 60_000
    """How far a peer's stamp may lie ahead of this node's clock; one beyond is refused with FromFuture."""
    states_max: int = 16_384
    """States that a node holds. One more raises LimitReached; a peer's is not taken and an event tells."""
    states_bytes_max: int = 1024 * 1024 * 1024
    """Bytes of the keys and values of all states, 256 more counted for each; likewise."""
    state_sync_ms: int = 10_000
    """How often a node compares its states with one linked node, in turn; with each new link at once."""
    state_write_ms_max: int = 5_000
    """How long a write or a read waits for the replicas that its caller wants; then TooFewReplicas."""
    state_writes_max: int = 65_536
    """Writes and reads of states that wait for replicas; one more raises LimitReached."""
    state_snapshot_bytes: int = 256 * 1024
    """A larger state is put into a snapshot when it is written again, whole: as soon as its changes take so
    much in the log, and four times what it is."""
    state_name_ms_max: int = 600_000
    """A node that left in order, and starts again within this time, changes states under the actor of before;
    later it takes another, for its disk may be an old copy that was put back."""
    state_transfers_max: int = 8
    """Large states that come at the same time; others wait their turn."""
    state_transfers_waiting_max: int = 16
    """Large states that wait for their turn to one node; one more is left to the next comparison."""
    state_compare_blocks_max: int = 262_144
    """Blocks of 32 events that are looked at in one turn to answer peers who compare; the rest waits."""
    state_doubts_max: int = 16_384
    """In a network under TLS, states of which one linked node tells what others did and is not known here;
    it is held until it is confirmed. One more is refused and comes again with the next comparison."""
    state_doubts_bytes_max: int = 64 * 1024 * 1024
    """Bytes of these, for each linked node, or of one alone that is larger; likewise."""
    state_doubt_ms: int = 1_000
    """How soon, about, that is taken or refused if nobody else has anything to say; within ten times that if
    somebody does not answer."""
    state_replicas: int = 3
    """Nodes whose answers count for QUORUM, ALL or a number where a state names none: chosen by rendezvous
    hashing of its name; in a smaller network all nodes."""
    state_quorum_min: int = 1
    """QUORUM is a majority of a state's replicas, and no fewer than this, all of them if they are fewer: in a
    small network one that outlives more of them. The same on all nodes, or a read may miss a write."""
    state_prune_after_ms: int = 3_600_000
    """When no node that lives has changed states under a name for so long, its node left, is lost or started
    again, the states forget the name, not what was done: their clocks do not grow with each node that ever
    was. For that all nodes that live must be linked with each other and hold the same of it, and more than
    half of those that are known live."""
    state_pruning: bool = False
    """Whether this node proposes such pruning, if it is the least of those that live; it takes part in any
    case. Two networks that pruned each for itself exchange no states any more (StatesDiverged)."""
    state_rounds_max: int = 256
    """Rounds of such pruning that are kept for nodes that are away: one that missed more takes what the
    others hold, in place of merging."""
    state_rounds_bytes_max: int = 512 * 1024
    """Bytes of these; likewise."""
    state_move_ms: int = 60_000
    """After this long a lost node is a replica no more, and another takes its place; it must be longer than
    it takes all nodes to see that one is lost. Not where half of all nodes are lost."""
    state_lost_ms: int = 600_000
    """Where a majority of a state's replicas is lost at once, QUORUM fails for so long, for what they had
    acknowledged; then it goes on without that, until they are back. Not at all up to `state_move_ms`."""
    state_views_max: int = 8
    """Sets of nodes that were all at some time, whose replicas count on until what they had acknowledged is
    with those of now; one more, and the oldest counts no more (`state_views_dropped`)."""

    # -- agents
    agent_idle_ms: int = 10_000
    """An agent that got nothing for this long gives back its task and its ring."""

    def __post_init__(self) -> None:
        if not NAME.match(self.network):
            raise ConfigError(
                f"network={self.network!r}: expected 1 to 64 of A-Z a-z 0-9 . _ - , for example 'prod'"
            )
        for field in fields(EngineConfig):
            value = getattr(self, field.name)
            if field.type == "int":
                check_count(field.name, value)
        for name in ("relay", "local_health", "chain_sends", "state_pruning"):
            if type(getattr(self, name)) is not bool:
                raise ConfigError(f"{name}={getattr(self, name)!r}: expected True or False")
        if self.frame_bytes_max < FRAME_BYTES_MIN:
            raise ConfigError(f"frame_bytes_max={self.frame_bytes_max}: expected at least {FRAME_BYTES_MIN}")
        if self.frame_bytes_max > FRAME_BYTES_LIMIT:
            raise ConfigError(f"frame_bytes_max={self.frame_bytes_max}: expected at most {FRAME_BYTES_LIMIT}")
        if self.metadata_bytes_max > BODY_BYTES:
            raise ConfigError(f"metadata_bytes_max={self.metadata_bytes_max}: expected at most {BODY_BYTES}")
        if self.inactive_lag_ms < LAG_MS_MIN:
            raise ConfigError(f"inactive_lag_ms={self.inactive_lag_ms}: expected at least {LAG_MS_MIN}")
        self._check_order("probe_interval_ms", "unreachable_ms_max")
        self._check_order("fragment_bytes", "frame_bytes_max", slack=OPTIONAL_BYTES_MAX)
        self._check_order("bulk_window_bytes", "link_window_bytes")
        parts = self.message_bytes_max // self.fragment_bytes + 1
        self._check_order("message_bytes_max", "reassembly_bytes_max", slack=parts * 64)
        self._check_order("message_bytes_max", "sends_waiting_bytes_max")
        self._check_order("fragment_bytes", "bulk_window_bytes")
        self._check_order("fragment_bytes", "link_window_bytes", slack=OPTIONAL_BYTES_MAX)
        self._check_order("redial_ms_min", "redial_ms_max")
        self._check_order("delivery_retry_ms_min", "delivery_retry_ms_max")
        self._check_order("delivery_timeout_ms", "delivery_window_ms")
        self._check_order("ping_interval_ms", "node_silence_ms_max")
        self._check_order("ping_interval_ms", "link_silence_ms_max")
        self._check_order("suspicion_ms_min", "suspicion_ms_max")
        for name, most in (
            ("overlay_rings", RINGS_MAX),
            ("chain_hops_max", PATH_AGENTS_MAX),
            ("broadcast_bytes_max", BROADCAST_BYTES),
        ):
            if getattr(self, name) > most:
                raise ConfigError(f"{name}={getattr(self, name)}: expected at most {most}")
        self._check_order("broadcast_bytes_max", "broadcasts_kept_bytes_max")
        self._check_order("log_segment_bytes", "log_held_bytes")
        self._check_order("log_held_bytes", "log_bytes_max")
        if self.state_rounds_bytes_max < BODY_BYTES:
            raise ConfigError(
                f"state_rounds_bytes_max={self.state_rounds_bytes_max}: expected at least {BODY_BYTES}"
            )
        # A node that was cut off is told of all that is kept: it must be able to note and to place it.
        self._check_order("broadcasts_kept_max", "broadcasts_announced_max")
        self._check_order("broadcasts_kept_max", "broadcast_window_max")

    def _check_order(self, small: str, large: str, slack: int = 0) -> None:
        low, high = getattr(self, small), getattr(self, large)
        if low + slack > high:
            room = f" and {slack} more for headers" if slack else ""
            raise ConfigError(f"{large}={high}: expected at least {small}={low}{room}")


def check_count(name: str, value: object) -> None:
    """ConfigError if ``value`` cannot be the setting ``name``, a count, a size or a time."""
    limit = MS_MAX if "ms" in name.split("_") else COUNT_MAX
    if type(value) is not int or value <= 0:
        raise ConfigError(f"{name}={value!r}: expected an integer above 0")
    if value > limit:
        raise ConfigError(f"{name}={value}: expected at most {limit}")


def check_name(kind: str, name: str) -> str:
    """``name``, if it can name a node or a network; ConfigError otherwise."""
    if not isinstance(name, str) or not NAME.match(name):
        raise ConfigError(f"{kind} {name!r}: expected 1 to 64 of A-Z a-z 0-9 . _ - , for example 'node-1'")
    return name
