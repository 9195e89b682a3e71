"""Which nodes there are, which of them to dial now, and which are lost: a full mesh.

Every node links to every node that it learns of, so it suits some 50 nodes.  What a node learns it
passes on (MEMBERS: all to each new link, what is new to the others), so each knows what any knows;
`roster` says how two records of a node become one, `detector` who is doubted and lost.

What is believed of a node, and until when:

    linked    between `link_up` and `link_down`; JOINED is told when the node has taken the link, too
    down      learned of, or its link is gone: dialled, with backoff
    lost      not heard, and several say so: an event tells; dialled on at `redial_ms_max`, so that a
              partition heals; the oldest is forgotten when `nodes_max` is reached
    left      it said so: not dialled, and its incarnation never comes back (the last `nodes_max`)

Whoever hears a node does not take it for lost, whatever others say; the node will clear itself.  A
node's incarnation only grows: a lower one is ignored, a higher one takes its place, but while a
link to the known one is up, hearsay does not shake it: the newcomer will be probed at the door.

To keep dials from crossing, the greater node id dials at once, the lesser a tenth of
`redial_ms_max` later; but a link that the other end has closed without a word is dialled again at
once by both: if that is refused its process is gone.  A bootstrap address is dialled at once, until
the node behind it is known, and again once that is forgotten.  Each `Dial` is answered exactly once,
by `link_up` or `dial_failed`.  At most one is in progress for a node, and for an address.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from hashlib import blake2b

from agentnet_core.config import BODY_BYTES, EngineConfig
from agentnet_core.detector import NEVER, Detector, Silent
from agentnet_core.dials import Dial, Dials, Random, Redial
from agentnet_core.errors import HandshakeRefused, ProtocolError
from agentnet_core.records import Event, Member, NodeStatus
from agentnet_core.roster import NodeRecord, Standing, Vouch, decode_members, encode_members, merge

NS_PER_MS = 1_000_000


class _Node:
    """``since_ns``: of its link. ``heard_ns``: when it was heard of last; of a linked one the caller may
    know better. ``told``: JOINED was told and LOST was not.
    ``hung_up``: its end of the last link closed without a word; ``refused``: where its dials are since."""

    __slots__ = (
        *("heard_ns", "hung_up", "linked", "lost", "plaintext", "record", "redial"),
        *("refused", "since_ns", "told", "turn"),
    )

    def __init__(self, record: NodeRecord, now_ns: int, next_ns: int) -> None:
        self.record = record
        self.redial = Redial(next_ns)
        self.since_ns = self.heard_ns = now_ns
        self.linked = self.lost = self.told = self.plaintext = self.hung_up = False
        self.refused: dict[str, None] = {}
        self.turn = 0


class Membership:
    """All nodes that this node knows, and the decisions to dial them."""

    def __init__(
        self, node_id: str, incarnation: int, addresses: Iterable[str], config: EngineConfig, rng: Random
    ) -> None:
        self.node_id = node_id
        self.incarnation = incarnation
        self.version = 0
        self.listed = 0
        self.addresses = tuple(addresses)
        self._rng = rng
        self._detector = Detector(node_id, config, rng)
        self._sync_interval_ns = config.sync_interval_ms * NS_PER_MS
        self._nodes_max = config.nodes_max
        self._dial_ns_max = config.handshake_ms_max * NS_PER_MS
        self._nodes: dict[str, _Node] = {}
        self._left: dict[str, int] = {}
        self._dials = Dials(node_id, config, rng, lambda known: known in self._nodes or known in self._left)
        self._events: deque[Event] = deque()
        self._events_missed = 0
        self._news: dict[str, str | None] = {}
        self._lists: dict[str, str] = {}
        self._probes: list[tuple[str, str]] = []
        self._syncs: list[str] = []
        self._sync_ns = NEVER
        self._look_ns = NEVER

    # -- reading

    def members(self) -> list[Member]:
        """This node and all that it knows, by node id; those without a link are DISCONNECTED.

        ``last_heartbeat`` is for the caller to fill in: there is no wall clock here.
        """
        known = [Member(self.node_id, self.incarnation, self.addresses)]
        for node in self._nodes.values():
            status = NodeStatus.ACTIVE if node.linked else NodeStatus.DISCONNECTED
            record = node.record
            known.append(
                Member(record.node_id, record.incarnation, record.addresses, status, plaintext=node.plaintext)
            )
        return sorted(known, key=lambda member: member.node_id)

    def incarnation_of(self, node_id: str) -> int | None:
        """The incarnation of a node that is known, lost ones too."""
        node = self._nodes.get(node_id)
        return None if node is None else node.record.incarnation

    def living(self, node_id: str) -> NodeRecord | None:
        """What is held of another node, unless it is not known, lost or gone."""
        node = self._nodes.get(node_id)
        return None if node is None or node.lost else node.record

    def alive(self) -> list[str]:
        """This node and all that are not lost."""
        return [self.node_id, *(node_id for node_id, node in self._nodes.items() if not node.lost)]

    def linked(self) -> list[str]:
        """The nodes with a link, in the order in which they came to be known."""
        return [node_id for node_id, node in self._nodes.items() if node.linked]

    def records(self) -> list[NodeRecord]:
        """What this node tells others: itself and all that it knows."""
        return [self._me(), *(node.record for node in self._nodes.values())]

    def frames(self, max_bytes: int = BODY_BYTES) -> list[bytes]:
        """`records` as bodies of MEMBERS frames, for a new link."""
        return encode_members(self.records(), max_bytes)

    def digest(self) -> bytes:
        """8 bytes, equal for nodes that hold the same of the same living nodes."""
        known = [self._me(), *(node.record for node in self._nodes.values())]
        lines = sorted(
            f"{r.node_id} {r.incarnation} {r.version} {r.listed}"
            for r in known
            if r.standing is Standing.ALIVE
        )
        return blake2b("\n".join(lines).encode(), digest_size=8).digest()

    def vouch(self, node_id: str, heard_ns: int, now_ns: int) -> Vouch:
        """The answer to who asks whether this node hears that one, which it heard last then."""
        node = self._nodes.get(node_id)
        heard = node is not None and node.linked and self._detector.hears(heard_ns, now_ns)
        return Vouch(node_id, max(0, now_ns - heard_ns) // NS_PER_MS if heard else None)

    def refusal(self, node_id: str, incarnation: int) -> str | None:
        """Why a link to that node cannot be, whatever other links there are; None if it can."""
        if self._left.get(node_id, -1) >= incarnation:
            return (
                f"node {node_id!r} has left the network as incarnation {self._left[node_id]}, this is "
                f"{incarnation}: join again, which takes a higher one"
            )
        node = self._nodes.get(node_id)
        if node is not None and node.record.incarnation > incarnation:
            return (
                f"incarnation {incarnation} of node {node_id!r} is dead, it runs as "
                f"{node.record.incarnation} now: restart the node, or give it an id of its own"
            )
        if node is None and not self._has_room():
            return f"node {node_id!r} is one too many for nodes_max={self._nodes_max} of {self.node_id!r}"
        return None

    def joined(self, now_ns: int) -> bool:
        """Whether all nodes that are known are linked, lost, or were dialled in vain or for as long as a
        handshake may take, and one is linked if there are bootstrap addresses. What linked nodes know
        must have been learned before.
        """
        if self._dials.seeds and not self.linked():
            return False
        return all(
            node.linked
            or node.lost
            or node.redial.failures > 0
            or now_ns - node.heard_ns >= self._dial_ns_max
            for node in self._nodes.values()
        )

    def dial_reasons(self) -> dict[str, str]:
        """Why the last dial of each bootstrap address and each unlinked node failed, if it did."""
        seeds = {seed.address: seed.redial.reason for seed in self._dials.seeds.values()}
        nodes = {i: node.redial.reason for i, node in self._nodes.items() if not node.linked}
        return {what: reason for what, reason in (seeds | nodes).items() if reason}

    def bootstrap_left(self) -> list[str]:
        """The bootstrap addresses, but those that turned out to be this node's own."""
        return list(self._dials.seeds)

    def next_deadline_ns(self) -> int:
        """When `tick` will have something to do next; `NEVER` if only news can change that."""
        deadlines = [self._look_ns, self._sync_ns]
        for node in self._nodes.values():
            if not node.linked and node.redial.dial is None and self._addresses(node):
                deadlines.append(node.redial.next_ns)
        deadlines += [seed.redial.next_ns for seed in self._dials.unresolved()]
        return min(deadlines, default=NEVER)

    def drain_events(self) -> list[Event]:
        """What happened since the last call."""
        events = list(self._events)
        self._events.clear()
        if self._events_missed:
            events.append(Event(Event.EVENTS_MISSED, count=self._events_missed))
            self._events_missed = 0
        return events

    def drain_news(self, max_bytes: int = BODY_BYTES) -> list[tuple[str | None, list[bytes]]]:
        """What was learned since the last call, as bodies of MEMBERS frames: for all but who told it."""
        told: dict[str | None, list[NodeRecord]] = {}
        for node_id, source in self._news.items():
            told.setdefault(source, []).append(self._record(node_id))
        self._news.clear()
        return [(source, encode_members(records, max_bytes)) for source, records in told.items()]

    def drain_probes(self) -> list[tuple[str, str]]:
        """Whom to ask with PROBE, and after whom."""
        probes, self._probes = self._probes, []
        return probes

    def drain_syncs(self) -> list[str]:
        """With whom to compare what is known, by DIGEST."""
        syncs, self._syncs = self._syncs, []
        return syncs

    def drain_lists(self) -> list[tuple[str, str]]:
        """Of whose life or list of agents something was heard since the last call, and who told it."""
        lists, self._lists = self._lists, {}
        return list(lists.items())

    # -- news

    def note_list(self, node_id: str, incarnation: int, version: int) -> None:
        """The node has a list of agents of that version: told on with all else, but no news by itself."""
        node = self._nodes.get(node_id)
        if node is not None and node.record.incarnation == incarnation and node.record.listed < version:
            node.record = replace(node.record, listed=version)

    def bootstrap(self, addresses: Iterable[str], now_ns: int) -> None:
        """Dial these addresses, whoever is there."""
        self._dials.name(addresses, now_ns)

    def set_addresses(self, addresses: Iterable[str]) -> None:
        """Where others reach this node from now on."""
        first, self.addresses = not self.addresses, tuple(addresses)
        if not first:
            self._clear_self()

    def learn(self, body: bytes | memoryview, now_ns: int, source: str | None = None) -> None:
        """Take the body of a MEMBERS frame of ``source``, which is linked."""
        untaken = [r.node_id for r in decode_members(body) if not self._learn(r, source, now_ns)]
        if untaken:
            detail = (
                f"nodes_max={self._nodes_max}: no room for {len(untaken)} nodes, {untaken[0]!r} and so on"
            )
            self._tell(Event(Event.LINK_REFUSED, untaken[0], detail=detail, count=len(untaken)))

    def vouched(self, helper: str, vouch: Vouch, now_ns: int) -> None:
        """A helper that was asked has answered."""
        heard_ns = None if vouch.silent_ms is None else now_ns - vouch.silent_ms * NS_PER_MS
        self._detector.vouched(vouch.node_id, helper, heard_ns)

    def stood_still(self, now_ns: int, gap_ns: int) -> None:
        """This node did nothing for so long: that others were not heard meanwhile says nothing."""
        self._detector.stood_still(now_ns, gap_ns)
        for node in self._nodes.values():
            if not (node.linked or node.lost):
                node.heard_ns = min(now_ns, node.heard_ns + gap_ns)

    def link_up(
        self,
        node_id: str,
        incarnation: int,
        addresses: Iterable[str],
        now_ns: int,
        plaintext: bool = False,
        dial: Dial | None = None,
        confirmed: bool = True,
    ) -> None:
        """A link to the node is welcomed. ``dial``: the dial that it answers, if it was dialled.

        ``confirmed`` False: the node may refuse it yet, so JOINED is not told before `confirm`.
        HandshakeRefused if `refusal` has a reason; ask that before the link is welcomed.
        """
        reason = self.refusal(node_id, incarnation)
        if reason is not None:
            raise HandshakeRefused(reason)
        record = NodeRecord(node_id, incarnation, tuple(addresses))
        node = self._nodes.get(node_id)
        if node is None:
            node = self._admit(record, now_ns)
        elif node.record.incarnation != incarnation:
            self._replace(node, record, now_ns)
        else:
            # What is held against it stays until it has heard of that, and cleared itself.
            record = replace(node.record, addresses=record.addresses)
            self._lists[node_id] = node_id
        if node.record != record and node.told:
            self._news[node_id] = node_id
        node.record = record
        if not node.linked:
            node.since_ns = now_ns
        node.linked, node.lost, node.plaintext, node.hung_up = True, False, plaintext, False
        node.redial.reason = ""
        self._left.pop(node_id, None)
        self._dials.found(node_id, record.addresses)
        if dial is not None:
            redial = self._end_dial(dial, node_id)
            if redial is not None and dial.node_id is None:
                redial.failures, redial.reason = 0, ""
            elif redial is not None and dial.node_id != node_id:
                self._failed(dial, redial, f"node {node_id!r} is there", now_ns)
        if confirmed:
            self.confirm(node_id)

    def confirm(self, node_id: str) -> None:
        """The node has taken the link, too."""
        node = self._nodes.get(node_id)
        if node is not None and not node.told:
            node.told = True
            self._news[node_id] = node_id
            self._tell(Event(Event.JOINED, node_id, detail=f"incarnation {node.record.incarnation}"))

    def link_down(
        self, node_id: str, now_ns: int, heard_ns: int | None = None, *, hung_up: bool = False
    ) -> None:
        """The node's link is gone, and no other took its place. ``heard_ns``: when the node was heard last,
        if not now. ``hung_up``: the other end closed it, without a word."""
        node = self._nodes.get(node_id)
        if node is None or not node.linked:
            return
        node.hung_up, node.refused = hung_up, {}
        at_once = hung_up and node.redial.failures == 0
        # A link that ends soon counts as a failed dial, else two nodes that disagree dial for ever.
        lasted = now_ns - node.since_ns >= self._dials.redial_ns_max
        node.redial.failures = 0 if lasted else node.redial.failures + 1
        node.linked = False
        node.heard_ns = now_ns if heard_ns is None else heard_ns
        wait_ns = self._dials.backoff_ns(node.redial.failures) + self._dials.courtesy_ns(node_id)
        node.redial.next_ns = now_ns + (0 if at_once else wait_ns)

    def dial_failed(
        self, dial: Dial, reason: str, now_ns: int, *, node_id: str | None = None, refused: bool = False
    ) -> None:
        """The dial gave no link, or one that was refused. ``node_id``: who answered, if anybody did.
        ``refused``: the host says that nobody listens there."""
        redial = self._end_dial(dial, node_id)
        if redial is None:
            return
        self._failed(dial, redial, reason, now_ns)
        node = self._nodes.get(dial.node_id) if dial.node_id is not None else None
        if refused and node is not None and node.hung_up and not (node.linked or node.lost):
            node.refused[dial.address] = None
            if all(address in node.refused for address in self._addresses(node)):
                self._accuse(node, now_ns, witness=True)
                self._look_ns = now_ns
            else:
                redial.next_ns = now_ns

    def is_self(self, address: str) -> None:
        """The node itself is at ``address``: that is none to dial. `dial_failed` follows."""
        self._dials.seeds.pop(address, None)

    def left(self, node_id: str) -> None:
        """The node said that it leaves for good."""
        node = self._nodes.pop(node_id, None)
        if node is None:
            return
        self._bury(node_id, node.record.incarnation)
        self._news[node_id] = self._lists[node_id] = node_id
        if node.told:
            self._tell(Event(Event.LEFT, node_id))

    def tick(self, now_ns: int, heard: Callable[[str], int]) -> list[Dial]:
        """Judge those that are not heard, and decide whom to dial now. ``heard``: when a linked node
        was heard last."""
        self._look(now_ns, heard)
        self._sync(now_ns)
        dials = []
        for node in self._nodes.values():
            if not node.linked and node.redial.dial is None and now_ns >= node.redial.next_ns:
                dials += self._dial_node(node, now_ns)
        for seed in self._dials.unresolved():
            if now_ns >= seed.redial.next_ns:
                dials += self._dials.start(seed.redial, Dial(seed.address), now_ns)
        return dials

    # -- the silent

    def _look(self, now_ns: int, heard: Callable[[str], int]) -> None:
        detector, silent, helpers = self._detector, [], []
        self._look_ns = NEVER
        for node_id, node in self._nodes.items():
            if node.lost:
                continue
            heard_ns = max(heard(node_id), node.heard_ns) if node.linked else node.heard_ns
            hears = detector.hears(heard_ns, now_ns)
            if hears and node.linked:
                helpers.append(node_id)
            if hears and (node.linked or not node.record.witnesses):
                self._look_ns = min(self._look_ns, detector.due_ns(heard_ns))
            else:
                silent.append(Silent(node_id, heard_ns, node.record.accusers, node.record.witnesses))
        findings = detector.look(silent, helpers, now_ns)
        self._look_ns = min(self._look_ns, findings.next_ns)
        self._probes += findings.ask
        for node_id in findings.accuse:
            self._accuse(self._nodes[node_id], now_ns)
        convicted = dict.fromkeys(findings.lost)
        for it in silent:
            if it.node_id in convicted or self._nodes[it.node_id].record.standing is Standing.LOST:
                self._lose(self._nodes[it.node_id], (now_ns - it.heard_ns) // NS_PER_MS)

    def _accuse(self, node: _Node, now_ns: int, *, witness: bool = False) -> None:
        node.record = node.record.accused(self.node_id, witness=witness)
        self._detector.accused(node.record.node_id, now_ns)
        self._news[node.record.node_id] = None

    def _lose(self, node: _Node, silent_ms: int) -> None:
        record, node.lost = node.record, True
        self._detector.clear(record.node_id)
        if record.standing is Standing.ALIVE:
            node.record = record.standing_as(Standing.LOST)
            self._news[record.node_id] = None
        reason = f": {node.redial.reason}" if node.redial.reason and not node.linked else ""
        if record.witnesses:
            self._tell_lost(node, f"its process ended, as {', '.join(record.witnesses)} saw{reason}")
        else:
            self._tell_lost(node, f"silent for {silent_ms} ms, also to {', '.join(record.accusers)}{reason}")

    def _sync(self, now_ns: int) -> None:
        """Once in a while, compare with one that is linked: what gossip has missed is found so."""
        linked = self.linked()
        if linked and now_ns >= self._sync_ns:
            self._syncs = [linked[int(self._rng.random() * len(linked))]]
        if now_ns >= self._sync_ns or self._sync_ns == NEVER:
            interval_ns = self._sync_interval_ns
            self._sync_ns = now_ns + interval_ns // 2 + int(self._rng.random() * interval_ns)

    def _clear_self(self) -> None:
        self.version += 1
        self._news[self.node_id] = None

    # -- nodes

    def _me(self) -> NodeRecord:
        return NodeRecord(self.node_id, self.incarnation, self.addresses, self.version, listed=self.listed)

    def _record(self, node_id: str) -> NodeRecord:
        """What is held of a node now, for those who learn of it."""
        if node_id == self.node_id:
            return self._me()
        node = self._nodes.get(node_id)
        if node is not None:
            return node.record
        return NodeRecord(node_id, self._left.get(node_id, 0), (), standing=Standing.LEFT)

    def _learn(self, record: NodeRecord, source: str | None, now_ns: int) -> bool:
        """Take what ``source`` says of a node; False if there is no room for it."""
        node_id = record.node_id
        if node_id == self.node_id:
            self._learn_of_self(record, now_ns)
            return True
        if self._left.get(node_id, -1) >= record.incarnation:
            return True
        node = self._nodes.get(node_id)
        if record.standing is Standing.LEFT:
            self._learn_left(record, node, source)
        elif node is not None:
            self._learn_more(node, record, source, now_ns)
        elif record.standing is Standing.ALIVE:  # the dead of others' past are not passed on
            if not self._has_room():
                return False
            self._admit(record, now_ns)
            self._dials.found(node_id, record.addresses)
            self._news[node_id] = source
            if record.accusers:
                self._detector.accused(node_id, now_ns)
        if source is not None and (record.listed or record.standing is Standing.LEFT):
            self._lists[node_id] = source
        return True

    def _learn_of_self(self, record: NodeRecord, now_ns: int) -> None:
        """Whoever takes this node for lost, or does not hear it, is told that it lives."""
        if record.incarnation != self.incarnation or record.standing is Standing.LEFT:
            return
        if record.version > self.version:
            raise ProtocolError(
                f"MEMBERS: node {self.node_id!r} is told of version {record.version} of itself: expected "
                f"at most {self.version}, which nobody else raises"
            )
        if record.version == self.version and (record.accusers or record.standing is Standing.LOST):
            self._detector.strain(now_ns)
            self._clear_self()

    def _learn_left(self, record: NodeRecord, node: _Node | None, source: str | None) -> None:
        # Of a node that is linked, or came back, only its own word counts.
        if node is not None and (node.linked or node.record.incarnation > record.incarnation):
            return
        self._nodes.pop(record.node_id, None)
        self._detector.clear(record.node_id)
        self._bury(record.node_id, record.incarnation)
        self._news[record.node_id] = source
        if node is not None and node.told:
            self._tell(Event(Event.LEFT, record.node_id))

    def _learn_more(self, node: _Node, record: NodeRecord, source: str | None, now_ns: int) -> None:
        old = node.record
        if record.incarnation > old.incarnation:
            if not node.linked:
                self._replace(node, record, now_ns)
                self._dials.found(record.node_id, record.addresses)
                self._news[record.node_id] = source
            return
        node.record = merge(old, record)
        if node.record == replace(old, listed=node.record.listed):
            return
        self._news[record.node_id] = source
        if node.record.version > old.version:
            self._detector.clear(record.node_id)
            # It lives, whoever hears it: else it would be accused again as fast as it clears itself.
            node.heard_ns = now_ns
            if node.lost:
                node.lost = False
                self._lists[record.node_id] = source or record.node_id
                node.redial.failures = 0
                node.redial.next_ns = now_ns + self._dials.courtesy_ns(record.node_id)
        if node.record.accusers:
            self._detector.accused(record.node_id, now_ns)

    def _bury(self, node_id: str, incarnation: int) -> None:
        self._left.pop(node_id, None)
        if len(self._left) >= self._nodes_max:
            del self._left[next(iter(self._left))]
        self._left[node_id] = incarnation

    def _has_room(self) -> bool:
        # One place is this node's own.
        return len(self._nodes) + 1 < self._nodes_max or any(node.lost for node in self._nodes.values())

    def _admit(self, record: NodeRecord, now_ns: int) -> _Node:
        if len(self._nodes) + 1 >= self._nodes_max:
            oldest = min((node for node in self._nodes.values() if node.lost), key=lambda node: node.heard_ns)
            del self._nodes[oldest.record.node_id]
        node = _Node(record, now_ns, now_ns + self._dials.courtesy_ns(record.node_id))
        self._nodes[record.node_id] = node
        return node

    def _replace(self, node: _Node, record: NodeRecord, now_ns: int) -> None:
        """A higher incarnation of the node is here, so the known one is dead."""
        self._detector.clear(record.node_id)
        self._tell_lost(node, f"replaced by incarnation {record.incarnation}")
        node.record = record
        node.linked = node.lost = node.hung_up = False
        node.heard_ns = now_ns
        node.redial.failures = 0
        node.redial.next_ns = now_ns + self._dials.courtesy_ns(record.node_id)

    def _tell_lost(self, node: _Node, detail: str) -> None:
        self._lists[node.record.node_id] = ""
        if node.told:
            node.told = False
            self._tell(Event(Event.LOST, node.record.node_id, detail=detail))

    def _tell(self, event: Event) -> None:
        # Each node can be lost, replaced and joined between two drains; beyond that it is a storm.
        if len(self._events) >= 4 * self._nodes_max:
            self._events_missed += 1
        else:
            self._events.append(event)

    # -- dials

    def _dial_node(self, node: _Node, now_ns: int) -> list[Dial]:
        addresses = self._addresses(node)
        if not addresses:
            return []
        address = addresses[node.turn % len(addresses)]
        node.turn += 1
        return self._dials.start(node.redial, Dial(address, node.record.node_id), now_ns)

    def _addresses(self, node: _Node) -> list[str]:
        """Where the node may be: as it says, and where it was found, which may be all that works."""
        return list(dict.fromkeys([*node.record.addresses, *self._dials.found_of(node.record.node_id)]))

    def _end_dial(self, dial: Dial, node_id: str | None) -> Redial | None:
        """Whose dial it was; None if that node or address is not known any more."""
        node = self._nodes.get(dial.node_id) if dial.node_id is not None else None
        return self._dials.end(dial, node.redial if node is not None else None, node_id)

    def _failed(self, dial: Dial, redial: Redial, reason: str, now_ns: int) -> None:
        node = self._nodes.get(dial.node_id) if dial.node_id is not None else None
        if node is not None and node.linked:
            return  # the other side's dial was faster
        if node is not None and node.lost:
            wait_ns = self._dials.jitter_ns(self._dials.redial_ns_max)
        else:
            wait_ns = self._dials.backoff_ns(redial.failures + 1)
        redial.fail(reason, now_ns + wait_ns)
