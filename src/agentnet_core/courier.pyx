"""The ways of letters: how each gets to its receiver, in order, as often as it takes.

In: letters in their lines, what peers say of them, links that come and go.  Out: messages, sent again in
order from the first one that is not settled whenever the way to their receiver was another or lost.  An agent
that is away is tried after `delivery_retry_ms_min` to `_max`, with jitter, and at once when a link to the
node comes that it was last on.  A DURABLE letter that its handler failed, and any that it wants again or has
left, is sent again alone, later; after `delivery_attempts_max` times it is a dead letter, or has failed.
What a peer says of another attempt than the last one is late, and counted.
"""

from heapq import heappop, heappush

from cpython.bytes cimport PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from agentnet_core.calls cimport told
from agentnet_core.durable cimport NOT_SENT_AGAIN
from agentnet_core.framing cimport MESSAGE, OPTIONAL_FIELDS, Cursor, read_array, read_bin, read_uint
from agentnet_core.letters cimport LETTER_HEAD_BYTES, LETTER_OVERHEAD_BYTES, Book
from agentnet_core.outflow cimport FRAME_OVERHEAD_BYTES
from agentnet_core.route cimport Waiting
from agentnet_core.slip cimport Slip

from agentnet_core.errors import (
    DELAY_S_MAX, AgentStopped, AgentUnreachable, Congested, DeadLettered, DeliveryUnsupported, Expired,
    HandlerFailed, LeaseExpired, LimitReached, MailboxFull, Nack, NetworkError, NoSuchAgent, PayloadMismatch,
    ProtocolError,
    StorageBusy, StorageFailed, StorageFull, UsageError,
)

cdef int64_t MS = 1_000_000
cdef int64_t NEVER = 0x7fffffffffffffff
cdef uint64_t delay_ms_max = DELAY_S_MAX * 1000

# What may be otherwise at the next attempt.
PASSING = (AgentStopped.code, AgentUnreachable.code, Congested.code, LimitReached.code)
# What may be otherwise for that message alone; the handler could do nothing about the last ones.
AGAIN = (Nack.code, LeaseExpired.code, StorageBusy.code, StorageFailed.code, StorageFull.code)


cdef class Courier(Posting):
    """The part of an engine that carries letters."""

    # -- sending

    cdef object post_letter(self, uint64_t from_id, Route route, to, bytes payload, uint8_t level,
                            bint durable):
        """Send bytes that are to be acknowledged as processed, or `durable` and kept; None if there is more
        to it."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(payload)
        cdef OutLine line
        cdef Letter letter
        if (size > self.message_bytes_max or self.letters_count >= self.letters_max
                or self.letters_bytes + size + LETTER_OVERHEAD_BYTES > self.letters_bytes_max):
            return None
        if durable and not self.may_write(size + LETTER_OVERHEAD_BYTES):
            return None
        line = self.line_to(from_id, route.agent_id, to, level, durable)
        letter = Letter.__new__(Letter)
        letter.payload, letter.line, letter.durable = payload, line, durable
        letter.token = self.call.receipt()
        self.durable.number += 1
        self.seq += 1
        letter.number, letter.seq = self.durable.number, self.seq
        letter.timestamp = self.now_ns + self.wall_offset_ns
        token = letter.token
        if durable:
            letter.wanted = KEPT
            self.enter(letter)
            return token
        letter.wanted, letter.timeout_ns = PROCESSED, self.delivery_ns
        self.letters_count += 1
        self.letters_bytes += size + LETTER_OVERHEAD_BYTES
        line.append(letter)
        self.own.put(letter)
        if letter.timeout_ns:
            self.watch(letter)
        if line.cursor is letter and not line.due_ns and self.leads_on(route, line, letter):
            if self.is_straight(route, size):
                letter.sent, letter.uncertain, line.cursor, line.fails = 1, True, None, 0
                self.put_letter(route.session, letter)
                return token
        self.drive(line)
        return token

    cdef bint is_straight(self, Route route, Py_ssize_t size) noexcept:
        """Whether there is room for it at once."""
        cdef Session session = route.session
        return (session is not None and session.clear and not route.stopped
                and size <= self.fragment_bytes and size <= session.message_bytes_max
                and session.room() >= LETTER_HEAD_BYTES + size + FRAME_OVERHEAD_BYTES)

    cdef int put_letter(self, Session session, Letter letter) except -1:
        """Into the lane of its peer, as `AgentMessage.write` would."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(letter.payload)
        cdef uint8_t* start = session.data.begin(MESSAGE, OPTIONAL_FIELDS, LETTER_HEAD_BYTES + size)
        return self.account(session, session.data.finish(start, letter.write(start) - start))

    cdef int drive(self, OutLine line) except -1:
        """Send what is to be sent, in order, as far as the way to the receiver goes."""
        cdef Letter letter
        cdef Route route = None
        while line.cursor is not None and not line.due_ns:
            letter = line.cursor
            if letter.held:
                return 0
            if letter.made is not None or letter.token is not None:
                if self.is_over(letter):
                    continue
            if not self.leads_on(route, line, letter):
                route = self.find(line, letter)
                if route is None:
                    continue        # it failed, or the line is to be tried later
                if line.cursor is not letter:
                    continue        # all has to go again, another way
            if not self.transmit(line, letter, route):
                continue
            if line.cursor is letter and not line.due_ns:   # else it was turned down on the spot
                line.cursor = letter.after
        return 0

    cdef bint is_over(self, Letter letter) except -1:
        """Whether it is not worth sending any more; it has failed then."""
        if letter.deadline_ns() and self.now_ns >= letter.deadline_ns():
            self.date()
        if letter.deadline_ns() and self.now_ns >= letter.deadline_ns():
            self.messages_expired += 1
            self.fail_letter(letter, Expired(f"the ttl of the message to agent {letter.line.to!r} ran out "
                                             f"before it got there", definite=not letter.uncertain))
            return True
        if (letter.token is not None and letter.token.cancelled()) and not (letter.durable or letter.sent):
            self.remove(letter)
            return True
        return False

    cdef inline bint leads_on(self, Route route, OutLine line, Letter letter) noexcept:
        """Whether that way, which the one before it went, is the one to go: as `find` would say."""
        cdef Session session
        cdef Py_ssize_t size = PyBytes_GET_SIZE(letter.payload)
        if route is None or route.session is None or line.place is not route.session:
            return False
        session = route.session
        return (session.welcomed and session.delivers and not session.held and not session.closed
                and size <= self.message_bytes_max and size <= session.message_bytes_max)

    cdef Route find(self, OutLine line, Letter letter):
        """The way to the receiver; None if there is none now, and then `line` is tried later."""
        cdef Route route
        cdef Session session
        try:
            route = self.resolve(line.to)
            session = route.session
            if session is not None and not session.held:
                if not session.delivers and session.welcomed:
                    raise DeliveryUnsupported(f"agent {route.record.label} is on node {session.node_id}, "
                                              f"whose release makes no such promise; it was not sent")
                self.check_size(letter.whole(), session)
        except NetworkError as error:
            final = isinstance(error, (UsageError, DeliveryUnsupported))
            if final and not (letter.durable or letter.sent):
                self.fail_letter(letter, error)
            else:
                self.defer(line)
            return None
        if session is not None and (session.held or not session.welcomed):
            line.node_id = session.node_id
            self.defer(line)
            return None
        place = self.origin if session is None else session
        if line.place is not place:
            line.place = place
            line.node_id = self.node_id if session is None else session.node_id
            line.go_back(line.head)
        return route

    cdef bint transmit(self, OutLine line, Letter letter, Route route) except -1:
        line.address(letter)
        if letter.sent > 1:
            self.letters_sent_again += 1
        letter.uncertain = True
        if letter.made is None and self.is_straight(route, PyBytes_GET_SIZE(letter.payload)):
            self.put_letter(route.session, letter)
        elif not self.offer(route, letter.whole()):
            try:
                letter.waiting = self.wait(route, letter.whole(), None)
            except Congested:
                letter.sent -= 1
                letter.uncertain = letter.sent > 0
                self.defer(line)
                return False
            if letter.waiting.dropped:
                letter.waiting = None
        if not letter.settled:
            line.fails = 0
        return True

    cdef int defer(self, OutLine line) except -1:
        """Try it again later."""
        if not line.due_ns:
            line.due_ns = self.now_ns + self.backoff(line.fails)
            line.fails += 1
            self.plan(line.due_ns, line)
        return 0

    cdef int64_t backoff(self, uint32_t fails) except -1:
        cdef int64_t whole = min(self.retry_max_ns, self.retry_min_ns << min(fails, 20))
        cdef double part = 1.0 if self.rng is None else self.rng.random()
        return whole // 2 + <int64_t>(part * (whole // 2))

    cdef int plan(self, int64_t when_ns, what) except -1:
        self.agenda_order += 1
        heappush(self.agenda, (when_ns, self.agenda_order, what))
        if when_ns < self.wake_ns:
            self.wake_ns = when_ns
            self.rouse()
        return 0

    cdef int fail_waiting(self, Waiting waiting, error) except -1:
        cdef Letter letter
        cdef Slip slip = waiting.message.slip
        if slip is None:
            return Posting.fail_waiting(self, waiting, error)
        waiting.drop()
        letter = self.letter_of(waiting.message)
        if letter is None or letter.waiting is not waiting:
            return 0
        letter.waiting = None
        if not waiting.started and letter.sent == 1:
            letter.uncertain = False
        if isinstance(error, Expired):
            return self.fail_letter(letter, error)
        letter.line.go_back(letter)
        return self.defer(letter.line)

    # -- links

    def welcome(self, Session session not None):
        cdef OutLine line
        Posting.welcome(self, session)
        for line in list(self.out_lines.values()):
            if line.cursor is not None and line.node_id == session.node_id and line.due_ns:
                line.due_ns = self.now_ns       # at the next tick: the control is about to take the link up
                self.plan(line.due_ns, line)

    cdef int part(self, Session session, error) except -1:
        cdef OutLine line
        Posting.part(self, session, error)
        for line in self.out_lines.values():
            if line.place is session:
                line.place = None
                if line.head is not None and self.durable.defect != NOT_SENT_AGAIN:
                    line.go_back(line.head)
                    self.defer(line)
        return 0

    def idle(self, list sessions not None):
        cdef OutLine line
        cdef list idle = Posting.idle(self, sessions)
        if idle:
            for line in self.out_lines.values():
                if line.head is not None and line.place in idle:
                    idle.remove(line.place)
        return idle

    # -- what peers say

    cdef int on_done(self, Session session, Frame* frame) except -1:
        cdef uint32_t runs = 0, n = 0
        cdef uint64_t epoch = 0, from_id = 0, to_id = 0, level = 0, what = 0, first = 0, last = 0, attempt
        cdef Cursor c
        cdef bint fine
        c.at, c.end = frame.body, frame.body + frame.size
        fine = read_array(&c, &runs)
        while fine and runs:
            runs -= 1
            attempt = 1
            fine = (read_array(&c, &n) and 7 <= n <= 8 and read_uint(&c, &epoch) and read_uint(&c, &from_id)
                    and read_uint(&c, &to_id) and read_uint(&c, &level) and read_uint(&c, &what)
                    and read_uint(&c, &first) and read_uint(&c, &last) and first <= last
                    and MAILBOXED <= what & 3 <= PROCESSED and what < 8
                    and (n == 7 or (read_uint(&c, &attempt) and 0 < attempt <= 0xffffffff)))
            if fine:
                line = self.out_lines.get((from_id, to_id, level, epoch == self.durable.epoch))
                if line is not None and epoch in self.letters:
                    self.reach_run(line, session.node_id, what & 3, what & ON_DISK, first, last,
                                   <uint32_t>attempt)
        if not fine or c.at != c.end:
            raise ProtocolError("DONE frame: expected arrays of [epoch, from, to, priority, reached, first, "
                                "last], and the attempt if it is not the first")
        return 0

    cdef int reach_run(self, OutLine line, str node_id, int what, bint on_disk,
                       uint64_t first, uint64_t last, uint32_t attempt) except -1:
        """All of the line from `first` to `last` have come so far, at that attempt."""
        cdef Letter letter = line.head
        cdef Letter after
        if line.node_id != node_id:
            return 0                # they were not sent to that one; by which link it says so is no matter
        while letter is not None and letter.number <= last:
            after = letter.after
            if letter.number >= first and letter.sent == attempt:
                self.finish_letter(letter, what, node_id, on_disk)
            elif letter.number >= first and letter.sent:
                self.acks_late += 1
            letter = after
        if line.cursor is not None and line.due_ns:
            line.due_ns = 0         # there may be room again
            self.drive(line)
        return 0

    cdef int on_return(self, Session session, Frame* frame) except -1:
        cdef uint64_t epoch = 0, number = 0, from_id = 0, to_id = 0, level = 0, code = 0
        cdef uint64_t attempt = 1, delay_ms = 0
        cdef uint32_t n = 0, size = 0
        cdef const uint8_t* data = NULL
        cdef OutLine line
        cdef Letter letter
        cdef Cursor c
        c.at, c.end = frame.body, frame.body + frame.size
        if not (read_array(&c, &n) and (n == 7 or n == 9) and read_uint(&c, &epoch)
                and read_uint(&c, &from_id) and read_uint(&c, &to_id) and read_uint(&c, &level)
                and read_uint(&c, &number)
                and read_uint(&c, &code) and code < 65536 and read_bin(&c, &data, &size)
                and (n == 7 or (read_uint(&c, &attempt) and 0 < attempt <= 0xffffffff
                                and read_uint(&c, &delay_ms))) and c.at == c.end):
            raise ProtocolError("RETURN frame: expected [epoch, from, to, priority, number, code, text], and "
                                "[.., attempt, delay] if it has those")
        line = self.out_lines.get((from_id, to_id, level, epoch == self.durable.epoch))
        if line is None or line.node_id != session.node_id or epoch not in self.letters:
            return 0
        if code == 0:               # it lacks what is behind that number
            letter = line.head
            while letter is not None and letter.number <= number:
                letter = letter.after
            if letter is not None:
                line.go_back(letter)
                self.drive(line)
            return 0
        letter = (<Book>self.letters[epoch]).find(number)
        if letter is not None and letter.line is line:
            self.take_back(letter, <int>code, PyBytes_FromStringAndSize(<const char*>data, size),
                           session.node_id, <uint32_t>attempt, <int64_t>min(delay_ms, delay_ms_max))
        return 0

    cdef int take_back(self, Letter letter, int code, bytes text, str node_id, uint32_t attempt,
                       int64_t delay_ms) except -1:
        """The receiver's node did not do it, or its handler failed, or wants it again."""
        cdef OutLine line = letter.line
        if line.node_id != node_id:
            return 0
        if letter.sent != attempt:
            self.acks_late += 1
            return 0
        try:
            record = self.resolve(line.to).record
        except NetworkError:
            record = None
        error = told(code, text, record)
        if letter.sent == 1 and error.definite:
            letter.uncertain = False
        if node_id == self.node_id and code in (Congested.code, LimitReached.code):
            self.try_alone(letter, 0)       # those behind it are in the mailbox, and must not come twice
        elif code in (StorageBusy.code, StorageFailed.code, StorageFull.code):
            self.try_alone(letter, 0)
        elif code in PASSING or (letter.durable and code in (NoSuchAgent.code, MailboxFull.code)):
            line.go_back(letter)
            self.defer(line)
        elif code in AGAIN or (letter.durable and code in (HandlerFailed.code, PayloadMismatch.code)):
            letter.failures += 1
            if letter.failures < <uint32_t>self.config.delivery_attempts_max:
                self.try_alone(letter, delay_ms)
            elif letter.durable:
                self.bury(letter, error)
            else:
                self.fail_letter(letter, error)
        elif letter.durable or code == DeadLettered.code:
            self.bury(letter, error)
        else:
            self.fail_letter(letter, error)
        return 0

    cdef int try_alone(self, Letter letter, int64_t delay_ms) except -1:
        """Send it again after that time, or when its turn comes, without those behind it."""
        letter.due_sent = letter.sent
        return self.plan(self.now_ns + (delay_ms * MS if delay_ms else self.backoff(letter.sent)), letter)

    # -- time

    cdef int64_t tick_letters(self, int64_t now_ns) except -1:
        """What is due; the time of the next thing."""
        cdef OutLine line
        cdef Letter letter
        self.expire_letters(now_ns)
        while self.agenda and self.agenda[0][0] <= now_ns:
            when_ns, _, what = heappop(self.agenda)
            if what is None:
                self.mark_again()
                continue
            if what is self.durable:
                self.rested()
                continue
            if type(what) is OutLine:
                line = <OutLine>what
                if line.due_ns == when_ns:
                    line.due_ns = 0
                    if line.head is None:
                        self.drop_line(line)
                    self.drive(line)
                continue
            letter = <Letter>what
            if letter.settled:
                continue
            line = letter.line
            if letter.deadline_ns() and now_ns >= letter.deadline_ns():
                if not letter.uncertain or letter.number >= (line.cursor.number if line.cursor else NEVER):
                    self.is_over(letter)
            elif (letter.due_sent == letter.sent
                    and (line.cursor is None or letter.number < line.cursor.number)):
                route = self.find(line, letter)
                if line.cursor is None or letter.number < line.cursor.number:   # else it goes with all
                    if route is None or not self.transmit(line, letter, route):
                        self.try_alone(letter, 0)
        return self.agenda[0][0] if self.agenda else NEVER
