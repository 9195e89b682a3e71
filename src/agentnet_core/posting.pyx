"""What was posted: letters of this node's agents, and what their senders are told of them.

In: sends with a promise, what the disk has, how far letters have come.  Out: letters in their lines, for the
courier to carry; receipts and errors.  A letter ends exactly once: an ACKNOWLEDGED one at its deadline at the
latest, and then it failed, definitely if it was never on its way; a DURABLE one when it is processed,
expires, or becomes a dead letter, whoever has given up waiting.

Held here: `deliveries_max` letters of `deliveries_bytes_max`; LimitReached, definite, beyond.
"""

from collections import deque

from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItemWithError
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint64_t

from agentnet_core.durable cimport KEPT_BEFORE_THE_WRITE
from agentnet_core.envelope cimport Envelope, check_operation
from agentnet_core.letters cimport LETTER_OVERHEAD_BYTES, Book, Watch, new_letter
from agentnet_core.message cimport (
    LEVELS, TYPE_COMMAND, TYPE_QUERY, TYPE_RESPONSE, AgentMessage, copy_message, small,
)
from agentnet_core.recalls cimport Pending
from agentnet_core.route cimport Route
from agentnet_core.slip cimport CARE_ACKNOWLEDGED, CARE_DURABLE, CARE_MAILBOXED, CARE_PROCESSED, Slip

from agentnet_core.errors import (
    ConfigError, DeadLettered, DeliveryTimeout, InternalError, LimitReached, LinkLost, NetworkError,
    StorageBusy, StorageFailed,
)
from agentnet_core.records import Event, agent_id_of, describe

cdef enum:
    DEATH_CHARS_MAX = 500

cdef int64_t MS = 1_000_000

cdef dict UNTIL = {"kept": KEPT, "mailboxed": MAILBOXED, "processed": PROCESSED}


cdef class Posting(Casting):
    """The part of an engine that takes letters and answers for them."""

    def __cinit__(self, *args, **kwargs):
        self.durable = Durable()
        self.own, self.kept = Book(), Book()
        self.letters, self.out_lines, self.watches, self.dead = {}, {}, {}, {}
        self.agenda, self.fresh = [], []
        self.writing, self.closing = deque(), deque()

    def limit_letters(self):
        """Take the limits of the config."""
        self.retry_min_ns = self.config.delivery_retry_ms_min * MS
        self.retry_max_ns = self.config.delivery_retry_ms_max * MS
        self.letters_max = self.config.deliveries_max
        self.letters_bytes_max = self.config.deliveries_bytes_max
        self.log_waiting_max = self.config.log_waiting_bytes_max
        self.delivery_ns = self.config.delivery_timeout_ms * MS
        self.durable.start(self.incarnation)
        self.letters = {self.incarnation: self.own, self.durable.epoch: self.kept}

    @property
    def letters_awaited(self):
        """How many letters somebody waits for now, about, until their receivers have them."""
        return len(self.own)

    @property
    def letters_writing(self):
        """Likewise, until the disk has them."""
        return len(self.writing)

    # -- taking letters

    cdef object send_letter(self, uint64_t from_id, to, payload, tuple options, delivery, until, timeout):
        """Send with a promise; a token that is settled with a Receipt, or with why there is none.

        `options`: type, priority, ttl, message id, operation id, Envelope of what its handler is at or None.
        """
        cdef Letter letter
        cdef Pending token = self.call.receipt()
        try:
            letter = self.compose(from_id, to, payload, options, delivery, until, timeout)
            letter.token = token
            self.enter(letter)
        except NetworkError as error:
            self.hand_back(token, error, None)
        return token

    cdef Letter compose(self, uint64_t from_id, to, payload, tuple options, delivery, until, timeout):
        cdef AgentMessage message
        cdef Letter letter
        cdef Slip slip
        cdef OutLine line
        cdef int level = small(delivery)
        cdef bint durable = level == CARE_DURABLE
        cdef int wanted = UNTIL.get(until, 0) if until is not None else KEPT if durable else PROCESSED
        if level != CARE_ACKNOWLEDGED and not durable:
            raise ConfigError(f"delivery={describe(delivery)}: expected a Delivery, 0 to 2")
        if not wanted or (wanted == KEPT and not durable):
            raise ConfigError(f"until={describe(until)}: expected 'mailboxed' or 'processed', or of a "
                              f"DURABLE message 'kept'")
        if type(to) is not int and type(to) is not str:
            raise ConfigError(f"agent {to!r}: expected its id (int) or its name (str)")
        message = self.write_letter(from_id, to, payload, options)
        self.check_size(message, None)
        self.check_room(PyBytes_GET_SIZE(message.payload) + LETTER_OVERHEAD_BYTES)
        if durable:
            self.check_disk(PyBytes_GET_SIZE(message.payload) + LETTER_OVERHEAD_BYTES)
        slip = message.slip = Slip.__new__(Slip)
        slip.care = <uint8_t>level
        if wanted == MAILBOXED or (durable and wanted == PROCESSED):    # of which the receiver makes haste
            slip.care |= CARE_MAILBOXED
        if durable or wanted == PROCESSED:
            slip.care |= CARE_PROCESSED
        slip.attempt, slip.epoch = 1, self.durable.epoch if durable else self.incarnation
        self.durable.number += 1
        message.correlation = self.durable.number
        self.stamp(message)
        line = self.line_to(from_id, message.to_id, to, message.level, durable)
        letter = new_letter(message, line)
        letter.durable, letter.wanted = durable, <uint8_t>wanted
        if wanted != KEPT:
            letter.timeout_ns = self.delivery_ns if timeout is None else self.nanoseconds(timeout)
            if (timeout is not None and not durable
                    and letter.timeout_ns > self.config.delivery_window_ms * MS):
                raise ConfigError(f"timeout={describe(timeout)}: expected at most delivery_window_ms, for "
                                  f"which its number is remembered: it might be handled again after that")
        return letter

    cdef AgentMessage write_letter(self, uint64_t from_id, to, payload, tuple options):
        cdef AgentMessage message
        # Of whom it writes to often, it need not reckon the id from the name.
        cdef PyObject* found = PyDict_GetItemWithError(self.routes, to)
        cdef int kind = small(options[0]), level = small(options[1])
        if (found != NULL and type(payload) is bytes and options[3] is None and options[2] == 0
                and kind == TYPE_COMMAND and 0 <= level < LEVELS and options[4] is None
                and options[5] is None):
            message = AgentMessage.__new__(AgentMessage)
            message.payload, message.from_agent = <bytes>payload, from_id
            message.to_id = (<Route>found).agent_id
            message.type, message.level = <uint8_t>kind, <uint8_t>level
            return message
        body, content = self.to_bytes(payload)
        to_id = agent_id_of(to) if found == NULL else (<Route>found).agent_id
        message = AgentMessage(body, to_agent=to_id, from_agent=from_id, message_type=options[0],
                               priority=options[1], ttl=options[2], message_id=options[3])
        if message.type == TYPE_QUERY or message.type == TYPE_RESPONSE:
            raise ConfigError(f"message_type={describe(options[0])}: a request and its answer are no "
                              f"deliveries")
        message.content = content
        message.envelope = options[5]
        if options[4] is not None:
            if message.envelope is None:
                message.envelope = Envelope()
            message.envelope.put_operation(check_operation(options[4]))
        return message

    cdef int check_room(self, int64_t size) except -1:
        if self.letters_count >= self.letters_max or self.letters_bytes + size > self.letters_bytes_max:
            raise LimitReached(f"{self.letters_count} deliveries of {self.letters_bytes} bytes are not "
                               f"settled (deliveries_max, deliveries_bytes_max); nothing was sent")
        return 0

    cdef int check_disk(self, int64_t size) except -1:
        if self.durable.failure is not None:
            raise StorageFailed(*self.durable.failure.args, definite=True)
        if not self.may_write(size):
            raise StorageBusy(f"{self.writing_bytes} bytes of messages wait for the disk already (half of "
                              f"log_waiting_bytes_max); nothing was sent")
        return 0

    cdef bint may_write(self, int64_t size) noexcept:
        """Whether so much more may wait for the disk, and does not wait in vain."""
        return self.durable.failure is None and (
            not self.writing_bytes or 2 * (self.writing_bytes + size) <= self.log_waiting_max)

    cdef Letter letter_of(self, AgentMessage message):
        """What this node's message is the form of; None if that is settled."""
        return (<Book>self.letters[message.slip.epoch]).find(message.correlation)

    cdef OutLine line_to(self, uint64_t from_id, uint64_t to_id, to, uint8_t level, bint durable):
        cdef OutLine line = self.last_out
        if (line is not None and line.from_id == from_id and line.to_id == to_id and line.level == level
                and line.durable == durable):
            return line
        key = (from_id, to_id, level, durable)
        line = self.out_lines.get(key)
        if line is None:
            line = self.out_lines[key] = OutLine(from_id, to_id, to, level, durable, self.origin,
                                                 self.durable.epoch if durable else self.incarnation)
        self.last_out = line
        return line

    cdef int drop_line(self, OutLine line) except -1:
        """Nothing is in it any more."""
        if self.last_out is line:
            self.last_out = None
        self.out_lines.pop((line.from_id, line.to_id, line.level, line.durable), None)
        return 0

    cdef int enter(self, Letter letter) except -1:
        cdef int64_t expiry_ns = letter.deadline_ns()
        self.letters_count += 1
        self.letters_bytes += PyBytes_GET_SIZE(letter.payload) + LETTER_OVERHEAD_BYTES
        letter.line.append(letter)
        (self.kept if letter.durable else self.own).put(letter)
        if letter.timeout_ns:
            self.watch(letter)
        if expiry_ns:
            self.plan(expiry_ns, letter)
        if not letter.durable:
            return self.drive(letter.line)
        if self.durable.on:
            self.durable.keep(letter, expiry_ns + self.wall_offset_ns if expiry_ns else 0)
            letter.batch = self.durable.batch
            self.writing.append(letter)
            self.writing_bytes += PyBytes_GET_SIZE(letter.payload) + LETTER_OVERHEAD_BYTES
            if self.durable.defect != KEPT_BEFORE_THE_WRITE:
                letter.held = True
                return self.rouse()
        self.reach_kept(letter)
        return self.drive(letter.line)

    cdef int reach_kept(self, Letter letter) except -1:
        """Its sender may go on, if that is all that it waits for."""
        letter.held = False
        if letter.wanted == KEPT and letter.token is not None:
            self.tell(letter, letter.line.receipt_of(letter, KEPT, self.node_id, self.durable.on))
        return 0

    cdef int tell(self, Letter letter, outcome) except -1:
        """Whoever waits for it waits no longer."""
        if letter.watch is not None:
            letter.watch.remove(letter)
        if letter.token is not None:
            self.hand_back(letter.token, outcome, None)
            letter.token = None
        return 0

    cdef int watch(self, Letter letter) except -1:
        """Be there at its deadline."""
        cdef Watch watch = self.last_watch
        if watch is None or watch.timeout_ns != letter.timeout_ns:
            watch = self.watches.get(letter.timeout_ns)
            if watch is None:
                watch = self.watches[letter.timeout_ns] = Watch()
                watch.timeout_ns = letter.timeout_ns
            self.last_watch = watch
        letter.due_ns = self.now_ns + letter.timeout_ns
        watch.append(letter)
        self.fresh.append(letter)
        if letter.due_ns < self.wake_ns:
            self.wake_ns = letter.due_ns
            self.rouse()
        return 0

    cdef int date(self) except -1:
        cdef Letter letter
        Casting.date(self)
        if self.fresh:
            for letter in self.fresh:
                letter.due_ns = self.now_ns + letter.timeout_ns
            self.fresh.clear()
        return 0

    cdef int drive(self, OutLine line) except -1:
        """Send what is to be sent of it: `Courier` knows the ways."""
        raise InternalError("what is posted needs a courier")

    cdef int defer(self, OutLine line) except -1:
        """Try it later."""
        raise InternalError("what is posted needs a courier")

    cdef int plan(self, int64_t when_ns, what) except -1:
        """Come back to it then."""
        raise InternalError("what is posted needs a courier")

    # -- what becomes of them

    cdef int finish_letter(self, Letter letter, int reached, str node_id, bint on_disk) except -1:
        """It has come so far; that may be all that was wanted."""
        cdef object receipt
        if letter.token is not None and reached >= letter.wanted:
            receipt = letter.line.receipt_of(letter, reached, node_id, on_disk)
            if letter.durable and self.durable.on and node_id == self.node_id and reached == PROCESSED:
                self.closing.append((self.durable.batch, letter.token, receipt))
                letter.token = None
            self.tell(letter, receipt)
        if reached == PROCESSED or (not letter.durable and reached >= letter.wanted):
            self.remove(letter)
        return 0

    cdef int fail_letter(self, Letter letter, error) except -1:
        """It will not be processed, or nobody waits for that any more."""
        self.letters_lost += 1
        if letter.token is not None:
            self.tell(letter, error)
        else:
            self.event(Event(Event.UNDELIVERABLE, self.node_id, letter.line.to_id, detail=str(error),
                             error=error))
        return self.remove(letter)

    def bury(self, Letter letter not None, error):
        """It is a dead letter from now on: its sender is told, and it is kept apart."""
        cdef OutLine line = letter.line
        self.letters_dead += 1
        letter.death = (error.code, str(error)[:DEATH_CHARS_MAX])
        error = DeadLettered(f"the message to agent {line.to!r} is a dead letter: {error}",
                             definite=error.definite)
        self.tell(letter, error)
        self.event(Event(Event.DEAD_LETTER, self.node_id, line.to_id, detail=str(error), error=error))
        self.detach(letter)
        if not letter.durable:
            self.keep_death(letter)
        elif self.durable.on:
            self.durable.bury(letter)
            self.rouse()
        self.lay(letter)

    cdef int keep_dead(self, AgentMessage message, error) except -1:
        """A message that its mailbox here has no room for is a dead letter of this node."""
        cdef AgentMessage copy = copy_message(message)
        cdef Letter letter
        cdef Slip slip = Slip.__new__(Slip)
        self.durable.number += 1
        copy.slip = slip
        slip.care, slip.attempt, slip.epoch = CARE_DURABLE | CARE_PROCESSED, 1, self.durable.epoch
        copy.correlation, copy.id, copy.to_id = self.durable.number, message.message_id, message.to_id
        copy.to_all, copy.extras, copy.extras_count, copy.ttl_ms, copy.deadline_ns = False, None, 0, 0, 0
        letter = new_letter(copy, OutLine(copy.from_agent, copy.to_id, copy.to_id, copy.level, True))
        letter.death = (error.code, str(error)[:DEATH_CHARS_MAX])
        self.keep_death(letter)
        return self.lay(letter)

    cdef int keep_death(self, Letter letter) except -1:
        """Write one that was not on the disk until now, if that has room: who waits for it is nobody."""
        letter.durable = True
        if (self.durable.on and self.durable.failure is None
                and 2 * self.writing_bytes <= self.log_waiting_max):
            self.durable.keep(letter, 0)
            letter.batch = self.durable.batch
            self.writing.append(letter)
            self.writing_bytes += PyBytes_GET_SIZE(letter.payload) + LETTER_OVERHEAD_BYTES
            self.rouse()
        return 0

    cdef int lay(self, Letter letter) except -1:
        """Lay it among the dead; the oldest make room."""
        self.dead[letter.number] = letter
        self.dead_bytes += PyBytes_GET_SIZE(letter.payload) + LETTER_OVERHEAD_BYTES
        while (len(self.dead) > self.config.dead_letters_max
               or self.dead_bytes > self.config.dead_letters_bytes_max):
            self.dead_dropped += 1
            self.purge_dead([next(iter(self.dead))])
        return 0

    def purge_dead(self, list numbers not None):
        """Forget those dead letters."""
        cdef Letter letter
        for number in numbers:
            letter = self.dead.pop(number)
            self.dead_bytes -= PyBytes_GET_SIZE(letter.payload) + LETTER_OVERHEAD_BYTES
            letter.settled = True
            if self.durable.on:
                self.durable.settle(letter)
                self.rouse()
        if self.durable.on and not self.durable.resting:
            self.durable.write_settled()        # somebody waits for it

    def replay_dead(self, list numbers not None):
        """Send those again, as new ones, without ttl; LimitReached, StorageBusy and StorageFailed before one
        that cannot be, and it and those behind it stay."""
        cdef Letter letter, again
        cdef AgentMessage message
        for number in numbers:
            letter = self.dead[number]
            message = letter.whole()
            options = (message.type, message.level, 0.0, message.id, message.operation_id, None)
            again = self.compose(message.from_agent, letter.line.to, message.payload, options, CARE_DURABLE,
                                 None, None)
            again.made.content = message.content
            self.enter(again)
            self.purge_dead([number])

    cdef int remove(self, Letter letter) except -1:
        """It is settled."""
        letter.settled = True
        if letter.watch is not None:
            letter.watch.remove(letter)
        self.detach(letter)
        if letter.durable and self.durable.on:
            self.durable.settle(letter)
            self.rouse()
        return 0

    cdef int detach(self, Letter letter) except -1:
        """Take it out of its line."""
        cdef OutLine line = letter.line
        (self.kept if letter.durable else self.own).take_out(letter)
        self.letters_count -= 1
        self.letters_bytes -= PyBytes_GET_SIZE(letter.payload) + LETTER_OVERHEAD_BYTES
        if letter.waiting is not None:
            if not (letter.waiting.dropped or letter.waiting.started):
                letter.waiting.drop()
            letter.waiting = None
        line.unlink(letter)
        if line.head is None and not line.due_ns:
            self.drop_line(line)
        return 0

    def end_requests(self):
        cdef Letter letter
        Casting.end_requests(self)
        for letters in (self.own, self.kept):
            for letter in letters:
                if letter.token is not None:
                    self.tell(letter, LinkLost(
                        f"node {self.node_id} has left the network; the outcome of the delivery is unknown",
                        definite=not (letter.uncertain or letter.durable)))

    # -- the disk

    def persisted(self, uint64_t batch):
        """All batches up to that one are on the disk."""
        cdef Letter letter
        cdef list lines = []
        self.durable.persisted(batch)
        while self.writing and (<Letter>self.writing[0]).batch <= batch:
            letter = self.writing.popleft()
            self.writing_bytes -= PyBytes_GET_SIZE(letter.payload) + LETTER_OVERHEAD_BYTES
            if not letter.settled and letter.death is None:
                self.reach_kept(letter)
                if letter.line.cursor is letter:
                    lines.append(letter.line)
        while self.closing and self.closing[0][0] <= batch:
            _, token, receipt = self.closing.popleft()
            self.hand_back(token, receipt._replace(on_disk=True), None)
        for line in lines:
            self.drive(line)

    def expect_turn(self):
        """The driver turns soon: it need not be asked to."""
        self.awake = True

    def take_settled(self):
        """As `Ready.settle`, before all else is carried out: what settles it is on the disk."""
        settled, self.now_ready.settle = self.now_ready.settle, []
        return settled

    def unpersisted(self, error):
        """What waits for the disk does not get there; after a StorageFailed nothing is written again."""
        cdef Letter letter
        if isinstance(error, StorageFailed):
            self.durable.fail(error)
        self.durable.refused(error)
        self.writing_bytes = 0
        while self.writing:
            letter = self.writing.popleft()
            if not letter.settled and letter.death is None:
                self.fail_letter(letter, error)
        while self.closing:
            _, token, receipt = self.closing.popleft()
            self.hand_back(token, receipt, None)

    def recover(self, dict found not None):
        """Take what the log had; the letters are sent again. StorageDamaged."""
        cdef AgentMessage message
        cdef Letter letter
        messages, deaths, lines = self.durable.open(found, self.origin)
        self.letters = {self.incarnation: self.own, self.durable.epoch: self.kept}
        for message in messages:
            index, expiry_ns, death = message.seq, message.deadline_ns, deaths.get(message.correlation)
            self.seq += 1
            message.seq = self.seq
            message.deadline_ns = max(1, expiry_ns - self.wall_offset_ns) if expiry_ns else 0
            letter = new_letter(message, self.line_to(message.from_agent, message.to_id, message.to_id,
                                                      message.level, True))
            letter.durable, letter.wanted, letter.uncertain = True, KEPT, True
            if death is not None:
                letter.death = death
                self.durable.resume(letter, index)
                self.lay(letter)
                continue
            self.letters_count += 1
            self.letters_bytes += PyBytes_GET_SIZE(message.payload) + LETTER_OVERHEAD_BYTES
            letter.line.append(letter)
            self.kept.put(letter)
            self.durable.resume(letter, index)
            if message.deadline_ns:
                self.plan(message.deadline_ns, letter)
        self.durable.resumed()
        for line in self.out_lines.values():
            self.defer(line)
        self.recover_lines(lines)

    def recover_lines(self, list lines not None):
        """Take the windows of lines that came here."""
        raise NotImplementedError

    def write_log(self):
        """Tenants have put something into the next batch."""
        self.rouse()

    def relieve(self, uint64_t owner, uint64_t index):
        """The log asks to let the owner's entries up to that one go."""
        self.durable.relieve(owner, index, self.wall_offset_ns)
        self.rouse()

    # -- time

    cdef int expire_letters(self, int64_t now_ns) except -1:
        cdef Watch watch
        self.last_watch = None
        for watch in list(self.watches.values()):
            while watch.head is not None and watch.head.due_ns <= now_ns:
                self.fail_due(watch.head)
            if watch.head is not None:
                self.wake_ns = min(self.wake_ns, watch.head.due_ns)
            else:
                del self.watches[watch.timeout_ns]
        return 0

    cdef int fail_due(self, Letter letter) except -1:
        """Its sender waits no longer; a durable one is tried on."""
        what = "processed" if letter.wanted == PROCESSED else "in its mailbox"
        if letter.durable:
            error = DeliveryTimeout(f"the message to agent {letter.line.to!r} was not {what} in time; it is "
                                    f"kept, and tried on")
            return self.tell(letter, error)
        told_of = "the outcome is unknown" if letter.uncertain else "it was not handled"
        return self.fail_letter(letter, DeliveryTimeout(
            f"the message to agent {letter.line.to!r} was not {what} in time, sent {letter.sent} times; "
            f"{told_of}", definite=not letter.uncertain))
