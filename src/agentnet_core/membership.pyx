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

from libc.stdint cimport int64_t, uint64_t

from agentnet_core.census cimport Census
from agentnet_core.member_record cimport ALIVE, LEFT, LOST, NodeRecord, merge
from agentnet_core.news cimport News
from agentnet_core.node cimport Node, Redial

from operator import attrgetter

from agentnet_core.census import PASSED_BY_FAILURES
from agentnet_core.detector import Detector, Silent
from agentnet_core.dials import Dial, Dials
from agentnet_core.errors import HandshakeRefused, ProtocolError
from agentnet_core.records import Event
from agentnet_core.roster import Vouch, split_members

NS_PER_MS = 1_000_000
NODES_A_LOOK_MS = 8
"""For so many nodes, it lets a millisecond pass before it looks at those again of whom something was said."""
NEXT_DIAL_NS = attrgetter("redial.next_ns")
LOST_DIALS_MAX = 8
"""Lost nodes that are dialled each `redial_ms_max`, at most."""

cdef int64_t MS = NS_PER_MS, NEVER = 2**63 - 1


cdef class Membership(Census):
    """All nodes that this node knows, and the decisions to dial them."""

    def __init__(self, str node_id, uint64_t incarnation, addresses, config, rng, proofs=None):
        self._dials = Dials(node_id, config, rng, lambda known: known in self._nodes or known in self._left)
        Census.__init__(self, node_id, incarnation, addresses, config, self._dials.courtesy_ns, proofs)
        self._rng, self._detector = rng, Detector(node_id, config, rng)
        self._sync_interval_ns = config.sync_interval_ms * MS
        self._dial_ns_max = config.handshake_ms_max * MS
        self._look_interval_ns = config.node_silence_ms_max * MS // 4
        self._lost_due_ns = self._sync_ns = self._look_ns = NEVER
        self._news, self._asked_for, self._lists = News(), {}, {}
        self._probes, self._syncs, self._watched = [], [], {}

    # -- reading

    def vouch(self, str node_id, int64_t heard_ns, int64_t now_ns):
        """The answer to who asks whether this node hears that one, which it heard last then."""
        cdef Node node = self._nodes.get(node_id)
        heard = node is not None and node.linked and self._detector.hears(heard_ns, now_ns)
        return Vouch(node_id, max(0, now_ns - heard_ns) // NS_PER_MS if heard else None)

    def joined(self, int64_t now_ns):
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

    def dial_reasons(self):
        """Why the last dial of each bootstrap address and each unlinked node failed, if it did."""
        seeds = {seed.address: seed.redial.reason for seed in self._dials.seeds.values()}
        nodes = {i: node.redial.reason for i, node in self._nodes.items() if not node.linked}
        return {what: reason for what, reason in (seeds | nodes).items() if reason}

    def bootstrap_left(self):
        """The bootstrap addresses, but those that turned out to be this node's own."""
        return list(self._dials.seeds)

    cpdef int64_t next_deadline_ns(self) except? -1:
        """When `tick` will have something to do next; `NEVER` if only what is learned can change that."""
        cdef Node node
        cdef int64_t due_ns = min(self._look_ns, self._sync_ns, self._lost_due_ns)
        for node in self.to_dial():
            if node.redial.next_ns < due_ns and self.addresses_of(node):
                due_ns = node.redial.next_ns
        for seed in self._dials.unresolved():
            due_ns = min(due_ns, <int64_t>seed.redial.next_ns)
        return due_ns

    def news_due_ns(self, *, bint along=False):
        """When to pass on what was learned; ``along``: with what else is done."""
        return self._news.due_ns(len(self), along)

    def drain_news(self, peers, int64_t now_ns):
        """What was learned since the last call, as bodies of MEMBERS frames for each of the peers."""
        return self._news.drain(peers, now_ns, lambda node_id: self._pack((node_id,), news=True))

    def drain_probes(self):
        """Whom to ask with PROBE, and after whom."""
        probes, self._probes = self._probes, []
        return probes

    def drain_syncs(self):
        """With whom to compare what is known, by DIGEST."""
        syncs, self._syncs = self._syncs, []
        return syncs

    def drain_lists(self):
        """Of whose life or list of agents something was heard since the last call, and who told it."""
        lists, self._lists = list(self._lists.items()), {}
        return lists

    def note_list(self, str node_id, uint64_t incarnation, uint64_t version, head):
        """The node has a list of agents of that version: told on with all else, but no news by itself."""
        cdef Node node = self._nodes.get(node_id)
        if node is not None and node.record.incarnation == incarnation and node.record.listed < version:
            self.hold(node, node.record.with_list(version, head))

    def bootstrap(self, addresses, int64_t now_ns):
        """Dial these addresses, whoever is there."""
        self._dials.name(addresses, now_ns)

    def set_addresses(self, addresses):
        """Where others reach this node from now on."""
        first, self.addresses = not self.addresses, tuple(addresses)
        if not first:
            self.clear_self()

    def learn(self, body, int64_t now_ns, str source=None):
        """Take the body of a MEMBERS frame of ``source``, which is linked; False if all is held already."""
        # Most are held already, for all tell all: those need not be read.
        cdef list told = [], untaken = []
        cdef NodeRecord record
        for item in split_members(body):
            it = self.known_or_read(item)
            if type(it) is str:
                self._news.echoed(it, source)
            else:
                told.append((it, item))
        for record, item in told:
            if not self.take(record, source, now_ns):
                untaken.append(record.node_id)
            self.note_said(record, item)
        if untaken:
            detail = f"nodes_max={self._nodes_max}: no room for {len(untaken)} nodes, such as {untaken[0]!r}"
            self.tell(Event(Event.LINK_REFUSED, untaken[0], detail=detail, count=len(untaken)))
        return bool(told)

    def vouched(self, str helper, vouch, int64_t now_ns):
        """A helper that was asked has answered."""
        heard_ns = None if vouch.silent_ms is None else now_ns - vouch.silent_ms * NS_PER_MS
        self._detector.vouched(vouch.node_id, helper, heard_ns)
        self._look_ns = now_ns

    def stood_still(self, int64_t now_ns, int64_t gap_ns):
        """This node did nothing for so long: that others were not heard meanwhile says nothing."""
        self._detector.stood_still(now_ns, gap_ns)
        cdef Node node
        self._look_ns = now_ns
        for node in self.neighbours().values():  # only those are watched
            if not node.linked:
                node.heard_ns = min(now_ns, node.heard_ns + gap_ns)

    def link_up(
        self, str node_id, uint64_t incarnation, addresses, int64_t now_ns, bint plaintext=False, dial=None,
        bint confirmed=True,
    ):
        """A link to the node is welcomed. ``dial``: the dial that it answers, if it was dialled.

        ``confirmed`` False: the node may refuse it yet, so JOINED is not told before `confirm`.
        HandshakeRefused if `refusal` has a reason; ask that before the link is welcomed.
        """
        cdef Node node
        cdef NodeRecord record
        reason = self.refusal(node_id, incarnation)
        if reason is not None:
            raise HandshakeRefused(reason)
        found = tuple(addresses)
        record = NodeRecord(node_id, incarnation, found)
        node = self._nodes.get(node_id)
        if node is None:
            node = self.admit(record, now_ns)
        elif node.lost:
            self.put_back(node, now_ns)
        if node.record.incarnation != incarnation:
            self.replace(node, record, now_ns)
        else:
            # What is held against it stays until it has heard of that, and cleared itself.
            record = node.record.replace(addresses=found) if node.record.seal is None else node.record
            self._lists[node_id] = node_id
        if not node.record.is_as(record) and node.told:
            self._news.note(node_id, node_id, False)
        self.hold(node, record)
        if not node.linked:
            node.since_ns = now_ns
        node.linked, node.plaintext, node.hung_up = True, plaintext, False
        due_ns = now_ns if node.record.accusers else self._detector.due_ns(now_ns)
        self._look_ns = min(self._look_ns, <int64_t>due_ns)
        self.link(node)
        self.was_reached(node, now_ns)
        node.redial.reason = ""
        self.exhume(node_id)
        self._dials.found(node_id, found)
        if dial is not None:
            redial = self.end_dial(dial, node_id)
            if redial is not None and dial.node_id is None:
                redial.failures, redial.reason = 0, ""
            elif redial is not None and dial.node_id != node_id:
                self.failed(dial, redial, f"node {node_id!r} is there", now_ns)
        if confirmed:
            self.confirm(node_id)

    def confirm(self, str node_id):
        """The node has taken the link, too; False if that was known."""
        cdef Node node = self._nodes.get(node_id)
        if node is None or node.told:
            return False
        self._news.note(node_id, node_id, False)
        self.tell_joined(node)
        return True

    def link_down(self, str node_id, int64_t now_ns, heard_ns=None, *, bint hung_up=False):
        """The node's link is gone, and no other took its place. ``heard_ns``: when the node was heard last,
        if not now. ``hung_up``: the other end closed it, without a word."""
        cdef Node node = self._nodes.get(node_id)
        if node is None or not node.linked:
            return
        node.hung_up, node.refused = hung_up, ()
        at_once = hung_up and node.redial.failures == 0
        # A link that ends soon counts as a failed dial, else two nodes that disagree dial for ever.
        lasted = now_ns - node.since_ns >= self._dials.redial_ns_max
        node.redial.failures = 0 if lasted else node.redial.failures + 1
        node.linked, self._look_ns = False, now_ns
        self.unlink(node_id)
        self.was_reached(node, now_ns)
        node.heard_ns = now_ns if heard_ns is None else heard_ns
        wait_ns = self._dials.backoff_ns(node.redial.failures) + self._dials.courtesy_ns(node_id)
        node.redial.next_ns = now_ns + (0 if at_once else wait_ns)

    def dial_failed(self, dial, str reason, int64_t now_ns, *, str node_id=None, bint refused=False):
        """The dial gave no link, or one that was refused. ``node_id``: who answered, if anybody did.
        ``refused``: the host says that nobody listens there."""
        cdef Node node
        cdef Redial redial = self.end_dial(dial, node_id)
        if redial is None:
            return
        self.failed(dial, redial, reason, now_ns)
        node = self._nodes.get(dial.node_id)
        if refused and node is not None and node.hung_up and not (node.linked or node.lost):
            node.refused += (dial.address,)
            if all(address in node.refused for address in self.addresses_of(node)):
                self.accuse(node, now_ns, True)
                self._look_ns = now_ns
            else:
                redial.next_ns = now_ns

    def is_self(self, str address):
        """The node itself is at ``address``: that is none to dial. `dial_failed` follows."""
        self._dials.seeds.pop(address, None)

    def left(self, str node_id, int64_t now_ns, bytes signature=b""):
        """The node said, over its link, that it leaves for good. ``signature``: for those that it is not
        linked to."""
        cdef Node node = self._nodes.get(node_id)
        if node is not None:
            seal = self._proofs.farewell(node.record, signature) if self._proofs is not None else None
            self.let_go(node, node.record.incarnation, seal, node_id, now_ns)

    def tick(self, int64_t now_ns, heard):
        """Judge those that are not heard, and decide whom to dial now. ``heard``: when a linked node
        was heard last."""
        cdef Node node
        cdef dict neighbours = self.neighbours()
        cdef double pace = self.pace
        self._detector.keep_pace(pace)
        # That a node answers at its liveness port may make what it said on its link worth less.
        due_ns = min(self._look_ns, self._looked_ns + <int64_t>(self._look_interval_ns * pace))
        if now_ns >= due_ns or neighbours is not self._watched:
            self._watched, self._looked_ns = neighbours, now_ns
            self.look(now_ns, heard)
        self.sync(now_ns)
        self.tell_far()
        dials = self.dial_lost(now_ns) if now_ns >= self._lost_due_ns else []
        for node in self.to_dial():
            if now_ns >= node.redial.next_ns:
                dials += self.dial_node(node, now_ns)
        for seed in self._dials.unresolved():
            if now_ns >= seed.redial.next_ns:
                dials += self._dials.start(seed.redial, Dial(seed.address), now_ns)
        return dials

    # -- links for messages

    def reach(self, str node_id, int64_t now_ns):
        """Dial the node, whoever it is, until `release`, with backoff; at how many addresses it may be."""
        cdef Node node = self._nodes.get(node_id)
        if node is None or node.lost:
            return 0
        self._asked_for[node_id] = None
        if node.redial.failures == 0:
            node.redial.next_ns = min(node.redial.next_ns, now_ns)
        return len(self.addresses_of(node))

    def release(self, str node_id):
        """Nobody asks for a link to the node any more."""
        self._asked_for.pop(node_id, None)

    def link_retired(self, str node_id, int64_t now_ns):
        """The node's link is gone by agreement: the node lives, for all that this one can tell."""
        cdef Node node
        self.link_down(node_id, now_ns)
        node = self._nodes.get(node_id)
        if node is not None:
            node.redial.failures = 0

    cdef list to_dial(self):
        """Those to dial, now or later, but the lost."""
        cdef Node node
        cdef dict near = self.neighbours()
        cdef list found = [node for node in near.values() if not node.linked and node.redial.dial is None]
        for node_id in self._asked_for:
            node = self._nodes.get(node_id)
            if node is not None and node_id not in near and not node.linked and node.redial.dial is None:
                found.append(node)
        return found

    # -- the silent

    cdef int look_soon(self, int64_t now_ns) except -1:
        """Something was said against a node: look again, but once for what is said of many."""
        cdef int64_t pause_ns = len(self) // NODES_A_LOOK_MS * MS
        self._look_ns = min(self._look_ns, max(now_ns, self._looked_ns + pause_ns))
        return 0

    cdef int look(self, int64_t now_ns, heard) except -1:
        cdef Node node
        cdef bint watched, hears
        cdef int64_t heard_ns
        cdef list silent = [], helpers = []
        cdef dict neighbours = self.neighbours()
        cdef int64_t patience_ns = self._detector.due_ns(0)
        self._look_ns = NEVER
        for node_id, node in {**neighbours, **self._linked, **self._accused}.items():
            watched = node.linked or node_id in neighbours
            heard_ns = max(<int64_t>heard(node_id), node.heard_ns) if node.linked else node.heard_ns
            hears = watched and now_ns - heard_ns < patience_ns
            if node.lost and not hears:
                continue  # its link may be there yet
            if hears and node.linked:
                helpers.append(node_id)
            if hears and (node.linked or not node.record.witnesses):
                self._look_ns = min(self._look_ns, heard_ns + patience_ns)
            else:
                accusers, witnesses = node.record.accusers, node.record.witnesses
                silent.append(Silent(node_id, heard_ns, accusers, witnesses, watched))
        findings = self._detector.look(silent, helpers, now_ns)
        self._look_ns = min(self._look_ns, <int64_t>findings.next_ns)
        self._probes += findings.ask
        for node_id in findings.accuse:
            self.accuse(self._nodes[node_id], now_ns)
        convicted = dict.fromkeys(findings.lost)
        for it in silent:
            node = self._nodes[it.node_id]
            if it.node_id in convicted or node.record.rank == LOST:
                self.lose(node, it, now_ns)
        return 0

    cdef int accuse(self, Node node, int64_t now_ns, bint witness=False) except -1:
        self.hold(node, node.record.accused(self.node_id, witness))
        self._detector.accused(node.record.node_id, now_ns)
        self._news.note(node.record.node_id)
        return 0

    cdef int lose(self, Node node, silent, int64_t now_ns) except -1:
        cdef NodeRecord record = node.record
        self._detector.clear(record.node_id)
        self.take_off(node, now_ns)
        if record.node_id not in self._found:  # else all would dial the same one first
            node.redial.next_ns = now_ns + int(self._rng.random() * self.lost_wait_ns())
        self._lost_due_ns = min(self._lost_due_ns, node.redial.next_ns)
        if record.rank == ALIVE:
            self.hold(node, record.standing_as(LOST))
            self._news.note(record.node_id)
        reason = f": {node.redial.reason}" if node.redial.reason and not node.linked else ""
        if record.witnesses:
            self.tell_lost(node, f"its process ended, as {', '.join(record.witnesses)} saw{reason}")
        elif not silent.watched:
            self.tell_lost(node, f"silent, as {', '.join(record.accusers)} say")
        else:
            silent_ms = (now_ns - silent.heard_ns) // NS_PER_MS
            self.tell_lost(node, f"silent for {silent_ms} ms, also to {', '.join(record.accusers)}{reason}")
        return 0

    cdef int sync(self, int64_t now_ns) except -1:
        """Once in a while, compare with one that is linked: what gossip has missed is found so."""
        cdef int64_t interval_ns = self._sync_interval_ns
        if now_ns < self._sync_ns < NEVER:
            return 0
        if self._sync_ns < NEVER and self._linked:
            self._syncs = [self.linked()[<Py_ssize_t>(<double>self._rng.random() * len(self._linked))]]
        self._sync_ns = now_ns + interval_ns // 2 + <int64_t>(<double>self._rng.random() * interval_ns)
        return 0

    cdef int clear_self(self) except -1:
        self.version += 1
        self._news.note(self.node_id)
        return 0

    # -- nodes

    cdef bint take(self, NodeRecord record, str source, int64_t now_ns) except -1:
        """Take what ``source`` says of a node; False if there is no room for it."""
        cdef str node_id = record.node_id
        cdef Node node
        if self.has_left(node_id, record.incarnation):
            return True
        node = self._nodes.get(node_id)
        if node is not None and node.record.ends(record):
            return True
        record = self.proven(record, source)
        if record is None:
            return True
        if node_id == self.node_id:
            self.take_of_self(record, now_ns)
        elif record.rank == LEFT:
            if node is None:
                self.bury(node_id, record.incarnation, record.seal)
                self._news.note(node_id, source)
            # Of a node that is linked, or came back, only its own word counts.
            elif not node.linked and node.record.incarnation <= record.incarnation:
                self.let_go(node, record.incarnation, record.seal, source, now_ns)
        elif node is not None:
            self.take_more(node, record, source, now_ns)
        elif record.rank == ALIVE:  # the dead of others' past are not passed on
            if not self.has_room():
                return False
            self.admit(record, now_ns)
            self._dials.found(node_id, record.addresses)
            self._news.note(node_id, source, bool(record.accusers))
            self._lists[node_id] = source or ""
            if record.accusers:
                self._detector.accused(node_id, now_ns)
                self.look_soon(now_ns)
        if source is not None and record.listed and node_id != self.node_id:
            self._lists[node_id] = source
        return True

    cdef int take_of_self(self, NodeRecord record, int64_t now_ns) except -1:
        """Whoever takes this node for lost, or does not hear it, is told that it lives."""
        if record.incarnation != self.incarnation or record.rank == LEFT:
            return 0
        if record.version > self.version:
            raise ProtocolError(
                f"MEMBERS: node {self.node_id!r} is told of version {record.version} of itself: expected "
                f"at most {self.version}, which nobody else raises"
            )
        if record.version == self.version and (record.accusers or record.rank == LOST):
            self._detector.strain(now_ns)
            self.clear_self()
        return 0

    cdef int let_go(self, Node node, uint64_t incarnation, seal, str source, int64_t now_ns) except -1:
        """The node has left, as that incarnation."""
        cdef str node_id = node.record.node_id
        self.forget(node, now_ns)
        self._detector.clear(node_id)
        self.bury(node_id, incarnation, seal)
        self._news.note(node_id, source)
        self._lists[node_id] = ""
        if node.told:
            self.tell(Event(Event.LEFT, node_id))
        return 0

    cdef int take_more(self, Node node, NodeRecord record, str source, int64_t now_ns) except -1:
        cdef NodeRecord old = node.record, merged
        cdef str node_id = record.node_id
        if record.incarnation > old.incarnation:
            if not node.linked:
                self.replace(node, record, now_ns)
                self._dials.found(node_id, record.addresses)
                self._news.note(node_id, source)
            return 0
        merged = merge(old, record)
        if merged.says_as(old) and merged.seal == old.seal:  # at most the version of its list is another
            self.hold(node, merged)
            return 0
        self._news.note(node_id, source)
        if merged.version > old.version:
            self._detector.clear(node_id)
            # It lives, whoever hears it: else it would be accused again as fast as it clears itself.
            node.heard_ns = now_ns
            if node.lost:
                self.put_back(node, now_ns)
                self._lists[node_id] = source or node_id
        self.hold(node, merged)
        if merged.accusers:
            self._detector.accused(node_id, now_ns)
        if node_id in self._accused or old.accusers:
            self.look_soon(now_ns)
        return 0

    cdef int replace(self, Node node, NodeRecord record, int64_t now_ns) except -1:
        """A higher incarnation of the node is here, so the known one is dead."""
        cdef str node_id = record.node_id
        node.fresh = True
        self._detector.clear(node_id)
        self.tell_lost(node, f"replaced by incarnation {record.incarnation}")
        node.linked = node.lost = node.hung_up = False
        self.unlink(node_id)
        self._lost.pop(node_id, None)
        self.hold(node, record)
        self.place(node, now_ns)
        return 0

    cdef int tell_lost(self, Node node, str detail) except -1:
        self._lists[node.record.node_id] = ""
        if node.told:
            node.told = False
            self.tell(Event(Event.LOST, node.record.node_id, detail=detail))
        return 0

    # -- dials

    cdef list dial_node(self, Node node, int64_t now_ns):
        cdef list addresses = self.addresses_of(node)
        if not addresses:
            return []
        address = addresses[node.turn % len(addresses)]
        node.turn += 1
        return self._dials.start(node.redial, Dial(address, node.record.node_id), now_ns)

    cdef list addresses_of(self, Node node):
        """Where the node may be: as it says, and where it was found, which may be all that works."""
        return list(dict.fromkeys([*node.record.addresses, *self._dials.found_of(node.record.node_id)]))

    cdef Redial end_dial(self, dial, str node_id):
        """Whose dial it was; None if that node or address is not known any more."""
        cdef Node node = self._nodes.get(dial.node_id)
        return self._dials.end(dial, node.redial if node is not None else None, node_id)

    cdef int failed(self, dial, Redial redial, str reason, int64_t now_ns) except -1:
        cdef Node node = self._nodes.get(dial.node_id)
        if node is not None and node.linked:
            return 0  # the other side's dial was faster
        if node is not None and node.lost:
            redial.fail(reason, now_ns + self._dials.jitter_ns(self.lost_wait_ns()))
            self._lost_due_ns = min(self._lost_due_ns, redial.next_ns)
            return 0
        redial.fail(reason, now_ns + self._dials.backoff_ns(redial.failures + 1))
        if node is not None and redial.failures == PASSED_BY_FAILURES:
            self.move(now_ns)
        return 0

    cdef int64_t lost_wait_ns(self) except -1:
        return int(self._dials.redial_ns_max * self.pace)

    cdef list dial_lost(self, int64_t now_ns):
        """Dial those that are due, the longest due first; of many only some at a time."""
        cdef Node node
        cdef list idle, dials = []
        while now_ns >= self._lost_due_ns:
            idle = [node for node in self._lost.values() if node.redial.dial is None]
            node = min(idle, key=NEXT_DIAL_NS, default=None)
            if node is None or node.redial.next_ns > now_ns:
                self._lost_due_ns = NEVER if node is None else node.redial.next_ns
            elif not self.addresses_of(node):
                node.redial.next_ns = now_ns + self.lost_wait_ns()
            else:
                dials += self.dial_node(node, now_ns)
                if len(self._lost) > LOST_DIALS_MAX:
                    self._lost_due_ns = now_ns + self.lost_wait_ns() // LOST_DIALS_MAX
        return dials
