"""Which nodes there are, which of them to dial now, and which are lost.

A node links to its neighbours (`overlay`): all others in a small network, a few in a large one.  It
watches those, and passes on what it learns (MEMBERS: what differs to each new link, `news` to those
next to it on the rings), so each knows what any knows; `roster` says how two records of a node become one,
`detector` who is doubted and lost.

Why not SWIM alone: who asks a random node each second needs datagrams, or a new connection for each,
and where a firewall lets only TLS pass there is neither; links that are kept tell of a death at once, by
being reset.  From SWIM and Lifeguard are the questions to others, the suspicion that can be refuted, and
the health of the observer; from Rapid, that who observes whom is the same for everybody.

What is believed of a node, and until when:

    linked    between `link_up` and `link_down`; JOINED is told when the node has taken the link, too
    far       no neighbour, and without a link: JOINED is told when it is learned of
    down      a neighbour, and its link is not there yet, or gone: dialled, with backoff; after three
              failures the next on that ring is dialled as well
    lost      not heard, and several say so: an event tells; dialled on, a few of the lost each
              `redial_ms_max`, in a large network less often (`pace_of`), so that a partition heals; the
              oldest is forgotten at `nodes_max`
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

from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter

from agentnet_core.census import PASSED_BY_FAILURES, Census, Node
from agentnet_core.config import EngineConfig
from agentnet_core.detector import NEVER, Detector, Silent
from agentnet_core.dials import Dial, Dials, Random, Redial
from agentnet_core.errors import HandshakeRefused, ProtocolError
from agentnet_core.news import News
from agentnet_core.proofs import Proofs
from agentnet_core.records import Event
from agentnet_core.roster import NodeRecord, Standing, Vouch, merge, read_record, split_members
from agentnet_core.signing import Head, Seal

NS_PER_MS = 1_000_000
NODES_A_LOOK_MS = 8
"""For so many nodes, it lets a millisecond pass before it looks at those again of whom something was said."""
NEXT_DIAL_NS = attrgetter("redial.next_ns")
LOST_DIALS_MAX = 8
"""Lost nodes that are dialled each `redial_ms_max`, at most."""


class Membership(Census):
    """All nodes that this node knows, and the decisions to dial them."""

    def __init__(
        self,
        node_id: str,
        incarnation: int,
        addresses: Iterable[str],
        config: EngineConfig,
        rng: Random,
        proofs: Proofs | None = None,
    ) -> None:
        self._dials = Dials(node_id, config, rng, lambda known: known in self._nodes or known in self._left)
        super().__init__(node_id, incarnation, addresses, config, self._dials.courtesy_ns, proofs)
        self._rng = rng
        self._detector = Detector(node_id, config, rng)
        self._sync_interval_ns = config.sync_interval_ms * NS_PER_MS
        self._dial_ns_max = config.handshake_ms_max * NS_PER_MS
        self._lost_due_ns = NEVER
        self._asked_for: dict[str, None] = {}
        self._news = News()
        self._lists: dict[str, str] = {}
        self._probes: list[tuple[str, str]] = []
        self._syncs: list[str] = []
        self._sync_ns = NEVER
        self._look_ns = NEVER
        self._looked_ns = 0
        self._look_interval_ns = config.node_silence_ms_max * NS_PER_MS // 4
        self._watched: Mapping[str, Node] = {}

    # -- reading

    def vouch(self, node_id: str, heard_ns: int, now_ns: int) -> Vouch:
        """The answer to who asks whether this node hears that one, which it heard last then."""
        node = self._nodes.get(node_id)
        heard = node is not None and node.linked and self._detector.hears(heard_ns, now_ns)
        return Vouch(node_id, max(0, now_ns - heard_ns) // NS_PER_MS if heard else None)

    def joined(self, now_ns: int) -> bool:
        """Whether all neighbours are linked, or were dialled in vain or for as long as a handshake may
        take, and one is linked if there are bootstrap addresses. What linked nodes know must have been
        learned before.
        """
        if self._dials.seeds and not self.linked():
            return False
        return all(
            node.linked or node.redial.failures > 0 or now_ns - node.heard_ns >= self._dial_ns_max
            for node in self.neighbours().values()
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
        """When `tick` will have something to do next; `NEVER` if only what is learned can change that."""
        deadlines = [self._look_ns, self._sync_ns, self._lost_due_ns]
        deadlines += [node.redial.next_ns for node in self._to_dial() if self._addresses(node)]
        deadlines += [seed.redial.next_ns for seed in self._dials.unresolved()]
        return min(deadlines, default=NEVER)

    def news_due_ns(self, *, along: bool = False) -> int:
        """When to pass on what was learned; ``along``: with what else is done."""
        return self._news.due_ns(len(self._rings), along=along)

    def drain_news(self, peers: Iterable[str], now_ns: int) -> list[tuple[str, list[bytes]]]:
        """What was learned since the last call, as bodies of MEMBERS frames for each of the peers."""
        return self._news.drain(peers, now_ns, lambda node_id: self._pack((node_id,), news=True))

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
        if not self._lists:
            return []
        lists, self._lists = self._lists, {}
        return list(lists.items())

    # -- news

    def note_list(self, node_id: str, incarnation: int, version: int, head: Head | None) -> None:
        """The node has a list of agents of that version: told on with all else, but no news by itself."""
        node = self._nodes.get(node_id)
        if node is not None and node.record.incarnation == incarnation and node.record.listed < version:
            self._hold(node, node.record.with_list(version, head))

    def bootstrap(self, addresses: Iterable[str], now_ns: int) -> None:
        """Dial these addresses, whoever is there."""
        self._dials.name(addresses, now_ns)

    def set_addresses(self, addresses: Iterable[str]) -> None:
        """Where others reach this node from now on."""
        first, self.addresses = not self.addresses, tuple(addresses)
        if not first:
            self._clear_self()

    def learn(self, body: bytes | memoryview, now_ns: int, source: str | None = None) -> bool:
        """Take the body of a MEMBERS frame of ``source``, which is linked; False if all is held already."""
        # Most are held already, for all tell all: those need not be read.
        told, said = [], self._said
        for item in split_members(body):
            node_id = said.get(item)
            if node_id is None:
                record = read_record(item)
                if not self._holds(record, item):
                    told.append((record, item))
                    continue
                node_id = record.node_id
            self._news.echoed(node_id, source)
        untaken = []
        for record, item in told:
            if not self._learn(record, source, now_ns):
                untaken.append(record.node_id)
            self._note_said(record, item)
        if untaken:
            detail = (
                f"nodes_max={self._nodes_max}: no room for {len(untaken)} nodes, {untaken[0]!r} and so on"
            )
            self._tell(Event(Event.LINK_REFUSED, untaken[0], detail=detail, count=len(untaken)))
        return bool(told)

    def vouched(self, helper: str, vouch: Vouch, now_ns: int) -> None:
        """A helper that was asked has answered."""
        heard_ns = None if vouch.silent_ms is None else now_ns - vouch.silent_ms * NS_PER_MS
        self._detector.vouched(vouch.node_id, helper, heard_ns)
        self._look_ns = now_ns

    def stood_still(self, now_ns: int, gap_ns: int) -> None:
        """This node did nothing for so long: that others were not heard meanwhile says nothing."""
        self._detector.stood_still(now_ns, gap_ns)
        self._look_ns = now_ns
        for node in self.neighbours().values():  # only those are watched
            if not node.linked:
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
        found = tuple(addresses)
        record = NodeRecord(node_id, incarnation, found)
        node = self._nodes.get(node_id)
        if node is None:
            node = self._admit(record, now_ns)
        elif node.lost:
            self._put_back(node, now_ns)
        if node.record.incarnation != incarnation:
            self._replace(node, record, now_ns)
        else:
            # What is held against it stays until it has heard of that, and cleared itself.
            record = node.record._replace(addresses=found) if node.record.seal is None else node.record
            self._lists[node_id] = node_id
        if node.record != record and node.told:
            self._news.note(node_id, node_id)
        self._hold(node, record)
        if not node.linked:
            node.since_ns = now_ns
        node.linked, node.plaintext, node.hung_up = True, plaintext, False
        self._look_ns = min(self._look_ns, now_ns if node.record.accusers else self._detector.due_ns(now_ns))
        self._link(node)
        self._was_reached(node, now_ns)
        node.redial.reason = ""
        self._exhume(node_id)
        self._dials.found(node_id, found)
        if dial is not None:
            redial = self._end_dial(dial, node_id)
            if redial is not None and dial.node_id is None:
                redial.failures, redial.reason = 0, ""
            elif redial is not None and dial.node_id != node_id:
                self._failed(dial, redial, f"node {node_id!r} is there", now_ns)
        if confirmed:
            self.confirm(node_id)

    def confirm(self, node_id: str) -> bool:
        """The node has taken the link, too; False if that was known."""
        node = self._nodes.get(node_id)
        if node is None or node.told:
            return False
        self._news.note(node_id, node_id)
        self._tell_joined(node)
        return True

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
        node.linked, self._look_ns = False, now_ns
        self._unlink(node_id)
        self._was_reached(node, now_ns)
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

    def left(self, node_id: str, now_ns: int, signature: bytes = b"") -> None:
        """The node said, over its link, that it leaves for good. ``signature``: for those that it is not
        linked to."""
        node = self._nodes.get(node_id)
        if node is not None:
            seal = self._proofs.farewell(node.record, signature) if self._proofs is not None else None
            self._let_go(node, node.record.incarnation, seal, node_id, now_ns)

    def tick(self, now_ns: int, heard: Callable[[str], int]) -> list[Dial]:
        """Judge those that are not heard, and decide whom to dial now. ``heard``: when a linked node
        was heard last."""
        self._detector.keep_pace(self.pace)
        # That a node answers at its liveness port may make what it said on its link worth less.
        due_ns = min(self._look_ns, self._looked_ns + int(self._look_interval_ns * self.pace))
        if now_ns >= due_ns or self.neighbours() is not self._watched:
            self._watched, self._looked_ns = self.neighbours(), now_ns
            self._look(now_ns, heard)
        self._sync(now_ns)
        self._tell_far()
        dials = self._dial_lost(now_ns)
        for node in self._to_dial():
            if now_ns >= node.redial.next_ns:
                dials += self._dial_node(node, now_ns)
        for seed in self._dials.unresolved():
            if now_ns >= seed.redial.next_ns:
                dials += self._dials.start(seed.redial, Dial(seed.address), now_ns)
        return dials

    # -- links for messages

    def reach(self, node_id: str, now_ns: int) -> int:
        """Dial the node, whoever it is, until `release`, with backoff; at how many addresses it may be."""
        node = self._nodes.get(node_id)
        if node is None or node.lost:
            return 0
        self._asked_for[node_id] = None
        if node.redial.failures == 0:
            node.redial.next_ns = min(node.redial.next_ns, now_ns)
        return len(self._addresses(node))

    def release(self, node_id: str) -> None:
        """Nobody asks for a link to the node any more."""
        self._asked_for.pop(node_id, None)

    def link_retired(self, node_id: str, now_ns: int) -> None:
        """The node's link is gone by agreement: the node lives, for all that this one can tell."""
        self.link_down(node_id, now_ns)
        node = self._nodes.get(node_id)
        if node is not None:
            node.redial.failures = 0

    def _to_dial(self) -> list[Node]:
        """Those to dial, now or later, but the lost."""
        near = self.neighbours()
        asked = [self._nodes[i] for i in self._asked_for if i in self._nodes and i not in near]
        return [node for node in (*near.values(), *asked) if not node.linked and node.redial.dial is None]

    # -- the silent

    def _look_soon(self, now_ns: int) -> None:
        """Something was said against a node: look again, but once for what is said of many."""
        pause_ns = len(self._rings) // NODES_A_LOOK_MS * NS_PER_MS
        self._look_ns = min(self._look_ns, max(now_ns, self._looked_ns + pause_ns))

    def _look(self, now_ns: int, heard: Callable[[str], int]) -> None:
        detector, neighbours, silent, helpers = self._detector, self.neighbours(), [], []
        self._look_ns = NEVER
        for node_id, node in {**neighbours, **self._linked, **self._accused}.items():
            watched = node.linked or node_id in neighbours
            heard_ns = max(heard(node_id), node.heard_ns) if node.linked else node.heard_ns
            hears = watched and detector.hears(heard_ns, now_ns)
            if node.lost and not hears:
                continue  # its link may be there yet
            if hears and node.linked:
                helpers.append(node_id)
            if hears and (node.linked or not node.record.witnesses):
                self._look_ns = min(self._look_ns, detector.due_ns(heard_ns))
            else:
                record = node.record
                silent.append(Silent(node_id, heard_ns, record.accusers, record.witnesses, watched))
        findings = detector.look(silent, helpers, now_ns)
        self._look_ns = min(self._look_ns, findings.next_ns)
        self._probes += findings.ask
        for node_id in findings.accuse:
            self._accuse(self._nodes[node_id], now_ns)
        convicted = dict.fromkeys(findings.lost)
        for it in silent:
            if it.node_id in convicted or self._nodes[it.node_id].record.standing is Standing.LOST:
                self._lose(self._nodes[it.node_id], it, now_ns)

    def _accuse(self, node: Node, now_ns: int, *, witness: bool = False) -> None:
        self._hold(node, node.record.accused(self.node_id, witness=witness))
        self._detector.accused(node.record.node_id, now_ns)
        self._news.note(node.record.node_id)

    def _lose(self, node: Node, silent: Silent, now_ns: int) -> None:
        record = node.record
        self._detector.clear(record.node_id)
        self._take_off(node, now_ns)
        if record.node_id not in self._found:  # else all would dial the same one first
            node.redial.next_ns = now_ns + int(self._rng.random() * self._lost_wait_ns)
        self._lost_due_ns = min(self._lost_due_ns, node.redial.next_ns)
        if record.standing is Standing.ALIVE:
            self._hold(node, record.standing_as(Standing.LOST))
            self._news.note(record.node_id)
        reason = f": {node.redial.reason}" if node.redial.reason and not node.linked else ""
        if record.witnesses:
            self._tell_lost(node, f"its process ended, as {', '.join(record.witnesses)} saw{reason}")
        elif not silent.watched:
            self._tell_lost(node, f"silent, as {', '.join(record.accusers)} say")
        else:
            silent_ms = (now_ns - silent.heard_ns) // NS_PER_MS
            self._tell_lost(node, f"silent for {silent_ms} ms, also to {', '.join(record.accusers)}{reason}")

    def _sync(self, now_ns: int) -> None:
        """Once in a while, compare with one that is linked: what gossip has missed is found so."""
        if now_ns >= self._sync_ns and self._linked:
            linked = self.linked()
            self._syncs = [linked[int(self._rng.random() * len(linked))]]
        if now_ns >= self._sync_ns or self._sync_ns == NEVER:
            interval_ns = self._sync_interval_ns
            self._sync_ns = now_ns + interval_ns // 2 + int(self._rng.random() * interval_ns)

    def _clear_self(self) -> None:
        self.version += 1
        self._news.note(self.node_id)

    # -- nodes

    def _learn(self, record: NodeRecord, source: str | None, now_ns: int) -> bool:
        """Take what ``source`` says of a node; False if there is no room for it."""
        node_id = record.node_id
        if self._left.get(node_id, -1) >= record.incarnation:
            return True
        node = self._nodes.get(node_id)
        if node is not None and node.record.ends(record):
            return True
        proven = self._proven(record, source)
        if proven is None:
            return True
        record = proven
        if node_id == self.node_id:
            self._learn_of_self(record, now_ns)
            return True
        if record.standing is Standing.LEFT:
            if node is None:
                self._bury(node_id, record.incarnation, record.seal)
                self._news.note(node_id, source)
            # Of a node that is linked, or came back, only its own word counts.
            elif not node.linked and node.record.incarnation <= record.incarnation:
                self._let_go(node, record.incarnation, record.seal, source, now_ns)
        elif node is not None:
            self._learn_more(node, record, source, now_ns)
        elif record.standing is Standing.ALIVE:  # the dead of others' past are not passed on
            if not self._has_room():
                return False
            self._admit(record, now_ns)
            self._dials.found(node_id, record.addresses)
            self._news.note(node_id, source)
            self._lists[node_id] = source or ""
            if record.accusers:
                self._detector.accused(node_id, now_ns)
                self._look_soon(now_ns)
        if source is not None and record.listed:
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

    def _let_go(
        self, node: Node, incarnation: int, seal: Seal | None, source: str | None, now_ns: int
    ) -> None:
        """The node has left, as that incarnation."""
        self._forget(node, now_ns)
        self._detector.clear(node.record.node_id)
        self._bury(node.record.node_id, incarnation, seal)
        self._news.note(node.record.node_id, source)
        self._lists[node.record.node_id] = ""
        if node.told:
            self._tell(Event(Event.LEFT, node.record.node_id))

    def _learn_more(self, node: Node, record: NodeRecord, source: str | None, now_ns: int) -> None:
        old = node.record
        if record.incarnation > old.incarnation:
            if not node.linked:
                self._replace(node, record, now_ns)
                self._dials.found(record.node_id, record.addresses)
                self._news.note(record.node_id, source)
            return
        merged = merge(old, record)
        if merged == old.with_list(merged.listed, merged.head):
            self._hold(node, merged)
            return
        self._news.note(record.node_id, source)
        if merged.version > old.version:
            self._detector.clear(record.node_id)
            # It lives, whoever hears it: else it would be accused again as fast as it clears itself.
            node.heard_ns = now_ns
            if node.lost:
                self._put_back(node, now_ns)
                self._lists[record.node_id] = source or record.node_id
        self._hold(node, merged)
        if node.record.accusers:
            self._detector.accused(record.node_id, now_ns)
        if record.node_id in self._accused or old.accusers:
            self._look_soon(now_ns)

    def _replace(self, node: Node, record: NodeRecord, now_ns: int) -> None:
        """A higher incarnation of the node is here, so the known one is dead."""
        node.fresh = True
        self._detector.clear(record.node_id)
        self._tell_lost(node, f"replaced by incarnation {record.incarnation}")
        node.linked = node.lost = node.hung_up = False
        self._unlink(record.node_id)
        self._lost.pop(record.node_id, None)
        self._hold(node, record)
        self._place(node, now_ns)

    # -- events

    def _tell_lost(self, node: Node, detail: str) -> None:
        self._lists[node.record.node_id] = ""
        if node.told:
            node.told = False
            self._tell(Event(Event.LOST, node.record.node_id, detail=detail))

    # -- dials

    def _dial_node(self, node: Node, now_ns: int) -> list[Dial]:
        addresses = self._addresses(node)
        if not addresses:
            return []
        address = addresses[node.turn % len(addresses)]
        node.turn += 1
        return self._dials.start(node.redial, Dial(address, node.record.node_id), now_ns)

    def _addresses(self, node: Node) -> list[str]:
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
            redial.fail(reason, now_ns + self._dials.jitter_ns(self._lost_wait_ns))
            self._lost_due_ns = min(self._lost_due_ns, redial.next_ns)
            return
        redial.fail(reason, now_ns + self._dials.backoff_ns(redial.failures + 1))
        if node is not None and redial.failures == PASSED_BY_FAILURES:
            self._move(now_ns)

    # -- the lost

    @property
    def _lost_wait_ns(self) -> int:
        return int(self._dials.redial_ns_max * self.pace)

    def _dial_lost(self, now_ns: int) -> list[Dial]:
        """Dial those that are due, the longest due first; of many only some at a time."""
        dials: list[Dial] = []
        while now_ns >= self._lost_due_ns:
            idle = [node for node in self._lost.values() if node.redial.dial is None]
            node = min(idle, key=NEXT_DIAL_NS, default=None)
            if node is None or node.redial.next_ns > now_ns:
                self._lost_due_ns = NEVER if node is None else node.redial.next_ns
            elif not self._addresses(node):
                node.redial.next_ns = now_ns + self._lost_wait_ns
            else:
                dials += self._dial_node(node, now_ns)
                if len(self._lost) > LOST_DIALS_MAX:
                    self._lost_due_ns = now_ns + self._lost_wait_ns // LOST_DIALS_MAX
        return dials
