"""The receiver's side of deliveries: each is let in once and in order, and its sender told what became of it.

In: messages with a slip, what their handlers made of them, what the disk has.  Out: DONE frames, a few runs
for each line at each turn, and RETURN frames for what is not handled, or was not: with the error, or with
code 0 and the last number that is here, where one before it is missing.  Both name the attempt, if it is not
the first, so that what is said of one is not taken for another.  What was durable and is processed
is said once that is on this node's disk, if it has one.

Held here: `delivery_lines_max` windows, each for `delivery_window_ms` after its last message.  Those of a
sender's former life are dropped when the next one comes.
"""

from collections import deque

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from agentnet_core.durable cimport (
    DONE_AT_THE_MAILBOX, DONE_BEFORE_THE_WRITE, MARKED_AT_THE_MAILBOX, NO_ORDER, NO_WINDOW,
)
from agentnet_core.letters cimport Letter
from agentnet_core.framing cimport DONE, RETURN, pack_bin_head, pack_u64, put_u32
from agentnet_core.slip cimport CARE_DURABLE, CARE_LEVEL, CARE_MAILBOXED, CARE_PROCESSED, Slip

from agentnet_core.courier import AGAIN as _AGAIN, PASSING as _PASSING
from agentnet_core.errors import DeadLettered, DeliveryForgotten, Expired, LimitReached

cdef int64_t MS = 1_000_000
cdef tuple PASSING = _PASSING
cdef tuple AGAIN = _AGAIN
cdef tuple FINAL = (Expired.code, DeadLettered.code)

cdef enum:
    TEXT_BYTES_MAX = 512
    RUN_BYTES = 54
    RUNS_MAX = 900          # in one frame


cdef inline bint is_operation(AgentMessage message) noexcept:
    return message.envelope is not None and message.envelope.operation is not None


cdef int64_t delay_of(failure) except -1:
    return failure[2] if len(failure) > 2 else 0


cdef class Reception(Courier):
    """The part of an engine that keeps what others were promised."""

    def __cinit__(self, *args, **kwargs):
        self.in_lines = {}
        self.touched, self.unmarked, self.later = [], [], []
        self.unsaid = deque()

    def limit_letters(self):
        Courier.limit_letters(self)
        self.mark_ns = self.config.delivery_mark_ms * MS

    # -- what comes

    cdef bint let_in(self, Session session, AgentMessage message) except -1:
        """Whether a message with a slip is to go into its mailbox now."""
        cdef Slip slip = message.slip
        cdef uint64_t number = message.correlation
        cdef InLine line = self.line_of(session, message)
        if line is None:
            self.turn_down(message, LimitReached(
                f"node {self.node_id} remembers {len(self.in_lines)} lines of messages, none of them idle "
                f"(delivery_lines_max, delivery_window_ms); it was not executed"))
            return False
        line.used_ns = self.now_ns
        slip.line = line
        if self.durable.defect == NO_WINDOW:
            line.last = max(line.last, number)
        elif line.failed and number in line.failed:
            del line.failed[number]
        elif number <= line.last or (line.early and number in line.early):
            line.last = max(line.last, number)
            self.letters_again += 1
            self.say_again(line, number, slip)
            return False
        elif slip.prior > line.last and self.durable.defect != NO_ORDER:
            self.letters_early += 1
            if not line.gap:
                line.gap = True
                self.put_return(session, message, line.last, 0, b"")
            return False
        else:
            line.gap = False
            if slip.prior == 0 and (line.refused or line.early or line.failed):
                line.settled_below(number)
            line.last = number
            line.open.append(number)
        self.letters_received += 1
        if slip.care & CARE_MAILBOXED:
            self.marks_due_ns = 0
            line.note(MAILBOXED, number, slip.attempt)
            self.touch(line)
        if self.durable.defect == DONE_AT_THE_MAILBOX:
            line.note(PROCESSED, number, slip.attempt)
            self.touch(line)
        if self.durable.defect == MARKED_AT_THE_MAILBOX:
            line.drop(number)
            self.durable.mark(line)
            self.touch(line)
        return True

    cdef InLine line_of(self, Session session, AgentMessage message):
        """The window of its line; None if there may be no more."""
        cdef InLine line = self.last_line
        cdef Slip slip = message.slip
        if (line is not None and line.from_id == message.from_agent and line.to_id == message.to_id
                and line.epoch == slip.epoch and line.level == message.level
                and line.node_id == session.node_id):
            return line
        key = (session.node_id, slip.epoch, message.from_agent, message.to_id, message.level)
        line = self.in_lines.get(key)
        if line is None:
            if len(self.in_lines) >= self.config.delivery_lines_max and not self.make_room():
                return None
            line = self.in_lines[key] = InLine(session.node_id, slip.epoch, message.from_agent, message.to_id,
                                               message.level)
            line.durable = slip.care & CARE_LEVEL == CARE_DURABLE
        self.last_line = line
        return line

    cdef bint make_room(self) except -1:
        """Drop the windows that were not used for long."""
        cdef InLine line
        cdef int64_t before_ns = self.now_ns - self.config.delivery_window_ms * MS
        self.drop_lines([key for key, line in self.in_lines.items() if line.used_ns < before_ns])
        return len(self.in_lines) < self.config.delivery_lines_max

    def drop_lines(self, list keys not None):
        cdef InLine line
        for key in keys:
            line = self.in_lines[key]
            if not line.open.count:
                del self.in_lines[key]
                self.durable.unmark(line)
                self.lines_dropped += 1
        self.last_line = None

    def welcome(self, Session session not None):
        cdef InLine line
        Courier.welcome(self, session)
        # Of a life that is over nothing comes any more; numbers of a log outlive it.
        self.drop_lines([key for key, line in self.in_lines.items()
                         if not line.durable and line.node_id == session.node_id
                         and line.epoch < session.incarnation])

    cdef int say_again(self, InLine line, uint64_t number, Slip slip) except -1:
        """What became of one that was let in before."""
        if number in line.refused:
            code, text = line.refused[number]
            self.put_return_of(line, number, code, text, slip.attempt)
            return 0
        if not line.is_finished(number):
            line.attempts[number] = slip.attempt
            if slip.care & CARE_MAILBOXED:
                line.say(MAILBOXED, number, number, slip.attempt)
                return self.touch(line)
            return 0
        if number <= line.forgotten:
            error = DeliveryForgotten("it is not known any more whether it was refused")
            self.put_return_of(line, number, error.code, str(error).encode(), slip.attempt)
            return 0
        line.joins = False
        line.say(PROCESSED, number, number, slip.attempt)
        return self.touch(line)

    cdef int touch(self, InLine line) except -1:
        if not line.touched:
            line.touched = True
            self.touched.append(line)
            self.rouse()
        return 0

    # -- what becomes of it

    cdef int handled(self, AgentMessage message, failure) except -1:
        """Its handler has returned, or failed with `failure`: (code, text), and after how many milliseconds
        it is to come again, if that says so. Once for each message."""
        cdef Slip slip = message.slip
        cdef InLine line = slip.line
        if message.origin is self.origin:
            return self.finish_here(message, failure)
        if line is not None:
            slip.line = None
            if failure is not None:
                self.refuse_in(line, message, failure[0], failure[1].encode("utf-8", "replace"),
                               delay_of(failure))
            elif self.durable.defect != MARKED_AT_THE_MAILBOX:
                line.finish(message.correlation, slip.attempt,
                            not line.durable and self.durable.on and is_operation(message))
                if slip.care & CARE_PROCESSED:
                    if slip.care & CARE_MAILBOXED:
                        self.marks_due_ns = 0       # somebody waits for it
                    self.touch(line)
        return 0

    cdef int finish_here(self, AgentMessage message, failure) except -1:
        """A letter of this node, too, was handled here."""
        cdef Slip slip = message.slip
        cdef Letter letter = self.letter_of(message)
        if letter is None:
            return 0
        if slip.handed and slip.handed != slip.attempt:
            self.acks_late += 1     # it went elsewhere since, with its agent
            return 0
        if failure is None:
            self.finish_letter(letter, PROCESSED, self.node_id, self.durable.on and is_operation(message))
            if self.closing:
                self.settle_due_ns = 1      # somebody waits for it
            return 0
        return self.take_back(letter, failure[0], failure[1].encode("utf-8", "replace"), self.node_id,
                              slip.attempt, delay_of(failure))

    def refuse_in(self, InLine line not None, AgentMessage message not None, int code, bytes text,
                  int64_t delay_ms=0):
        """One that was let in was not processed."""
        cdef uint64_t number = message.correlation
        text = text[:TEXT_BYTES_MAX]
        if message.origin.session is not None:
            self.put_refusal(message.origin.session, line.epoch, line.from_id, line.to_id, line.level, number,
                             code, text, line.newest(number, message.slip.attempt), delay_ms)
        line.attempts.pop(number, None)
        if code in PASSING or code in AGAIN or (line.durable and code not in FINAL):
            line.failed[number] = None          # it is sent again
        else:
            line.refuse(number, code, text, self.config.delivery_refusals_max)

    cdef int take_here(self, Route route, AgentMessage message) except -1:
        """A letter of this node is in a mailbox of this node."""
        cdef Letter letter = self.letter_of(message)
        if letter is not None and not letter.line.due_ns:     # it was not dropped there
            self.finish_letter(letter, MAILBOXED, self.node_id, False)
        return 0

    cdef int turn_down(self, AgentMessage message, error) except -1:
        """It is not executed."""
        cdef Slip slip = message.slip
        cdef InLine line = slip.line
        cdef Letter letter
        text = str(error).encode("utf-8", "replace")[:TEXT_BYTES_MAX]
        if message.origin is self.origin:
            letter = self.letter_of(message)
            if letter is not None:
                self.take_back(letter, error.code, text, self.node_id, slip.attempt, 0)
        elif line is not None:
            slip.line = None
            self.refuse_in(line, message, error.code, text)
        elif message.origin.session is not None:
            self.put_return(message.origin.session, message, message.correlation, error.code, text)
        return 0

    def put_return_of(self, InLine line not None, uint64_t number, int code, bytes text, uint32_t attempt):
        session = self.sessions.get(line.node_id)
        if session is not None:
            self.put_refusal(session, line.epoch, line.from_id, line.to_id, line.level, number, code, text,
                             attempt, 0)

    cdef int put_return(self, Session session, AgentMessage message, uint64_t number, int code,
                        bytes text) except -1:
        self.put_refusal(session, message.slip.epoch, message.from_agent, message.to_id, message.level,
                         number, code, text, message.slip.attempt if code else 1, 0)
        return 0

    def put_refusal(self, Session session not None, uint64_t epoch, uint64_t from_id, uint64_t to_id,
                    uint8_t level, uint64_t number, int code, bytes text not None, uint32_t attempt,
                    int64_t delay_ms):
        cdef bint plain = attempt == 1 and not delay_ms
        cdef uint8_t* start = session.control.begin(RETURN, 0, 1 + 6 * 9 + 5 + len(text) + 2 * 9)
        cdef uint8_t* p
        start[0] = 0x97 if plain else 0x99
        p = pack_u64(pack_u64(pack_u64(start + 1, epoch), from_id), to_id)
        p = pack_u64(pack_u64(pack_u64(p, level), number), <uint64_t>code)
        p = pack_bin_head(p, <uint32_t>len(text))
        memcpy(p, PyBytes_AS_STRING(text), len(text))
        p += len(text)
        if not plain:
            p = pack_u64(pack_u64(p, attempt), <uint64_t>delay_ms)
        session.control.finish(start, p - start)
        self.mark(session)

    # -- saying it

    def ready(self):
        """As `Outflow.ready`, with what is to be written to the disk first."""
        if self.touched or self.later:
            self.speak()
        if self.durable.settled and not self.settle_due_ns:
            self.settle_due_ns = self.now_ns + self.mark_ns
            self.rest(self.settle_due_ns)
        ready = Courier.ready(self)
        ready.batch = self.durable.batch
        ready.persist = self.durable.drain(self.cordoned or self.now_ns >= self.settle_due_ns)
        if not self.durable.settled:
            self.settle_due_ns = 0
        return ready

    cdef int rest(self, int64_t until_ns) except -1:
        """Be drained again then, at the latest."""
        if not self.rest_ns or until_ns < self.rest_ns:
            self.rest_ns = until_ns
            self.plan(until_ns, self.durable)
        return 0

    def puts_off(self):
        """(node, priority) of lines of which something was processed that is in no batch yet."""
        own = [(self.node_id, (<Letter>letter).line.level) for letter in self.durable.settled]
        return own + [((<InLine>line).node_id, (<InLine>line).level) for line in self.later]

    def rested(self):
        """What was put off is due."""
        self.rest_ns = 0
        self.rouse()

    cdef int speak(self) except -1:
        """Say what came of each line since the last turn, or once it is on the disk."""
        cdef InLine line
        cdef list runs, touched = self.touched
        cdef dict frames = {}
        cdef bint keeps = self.durable.on and self.durable.failure is None
        # With whatever is written now: all that was handled before a batch is marked in it.
        cdef bint late = (keeps and not self.cordoned and self.now_ns < self.marks_due_ns
                          and not self.durable.entries.count
                          and not (self.durable.settled and self.now_ns >= self.settle_due_ns > 0))
        self.touched = []
        if not late and self.later:
            touched = self.later + touched
            self.later = []
        for line in touched:
            if late and line.durable:
                self.later.append(line)
                continue
            line.touched = False
            runs = line.take_runs()
            if line.durable and self.durable.on:
                if not keeps:
                    continue        # nothing that should be on the disk can be said any more
                self.say(line, [run for run in runs if run[0] == MAILBOXED], False, frames)
                runs = [run for run in runs if run[0] == PROCESSED]
                if runs:
                    self.marks_due_ns = self.now_ns + self.mark_ns
                    self.durable.mark(line)
                    if self.durable.defect == DONE_BEFORE_THE_WRITE:
                        self.say(line, runs, True, frames)
                    else:
                        self.unsaid.append((self.durable.batch, line, runs))
            else:
                self.say(line, runs, False, frames)
        if self.later:
            self.rest(self.marks_due_ns)
        return self.put_done(frames)

    cdef int say(self, InLine line, list runs, bint on_disk, dict frames) except -1:
        session = self.sessions.get(line.node_id)
        if session is not None and runs:
            frames.setdefault(session, []).append((line, runs, on_disk))
        return 0

    cdef int put_done(self, dict frames) except -1:
        cdef Session session
        cdef InLine line
        cdef uint8_t* start
        cdef uint8_t* p
        cdef Py_ssize_t at
        cdef uint32_t attempt
        for session, said in frames.items():
            flat = [(line, run, on_disk) for line, runs, on_disk in said for run in runs]
            for at in range(0, len(flat), RUNS_MAX):
                some = flat[at:at + RUNS_MAX]
                start = session.control.begin(DONE, 0, 5 + len(some) * RUN_BYTES)
                start[0] = 0xdd
                p = put_u32(start + 1, <uint32_t>len(some))
                for line, run, on_disk in some:
                    attempt = <uint32_t>run[3]
                    p[0] = 0x97 if attempt == 1 else 0x98
                    p = pack_u64(pack_u64(pack_u64(p + 1, line.epoch), line.from_id), line.to_id)
                    p[0] = line.level
                    p[1] = <uint8_t>run[0] | (ON_DISK if on_disk else 0)
                    p = pack_u64(pack_u64(p + 2, run[1]), run[2])
                    if attempt != 1:
                        p[0] = 0xce
                        p = put_u32(p + 1, attempt)
                session.control.finish(start, p - start)
                self.mark(session)
        return 0

    def persisted(self, uint64_t batch):
        cdef dict frames = {}
        while self.unsaid and self.unsaid[0][0] <= batch:
            _, line, runs = self.unsaid.popleft()
            self.say(line, runs, True, frames)
        self.put_done(frames)
        Courier.persisted(self, batch)

    def unpersisted(self, error):
        Courier.unpersisted(self, error)
        while self.unsaid:
            _, line, runs = self.unsaid.popleft()
            self.unmarked.append((line, runs))
        if self.durable.failure is not None:
            self.unmarked.clear()
        else:
            self.plan(self.now_ns + self.retry_max_ns, None)

    def recover_lines(self, list lines not None):
        cdef InLine line
        for line in lines:
            line.used_ns = self.now_ns
            self.in_lines[line.node_id, line.epoch, line.from_id, line.to_id, line.level] = line

    def letter_stats(self):
        """Every counter of deliveries, by name."""
        return {
            "letters": self.letters_count, "letters_bytes": self.letters_bytes,
            "letters_sent_again": self.letters_sent_again, "letters_lost": self.letters_lost,
            "letters_dead": self.letters_dead, "dead_letters": len(self.dead),
            "dead_letters_dropped": self.dead_dropped, "letters_received": self.letters_received,
            "letters_again": self.letters_again, "letters_early": self.letters_early,
            "lines": len(self.in_lines), "lines_dropped": self.lines_dropped, "acks_late": self.acks_late,
            "nacks_lost": self.nacks_lost,
        }

    def mark_again(self):
        """The disk may take now what it refused."""
        cdef InLine line
        unmarked, self.unmarked = self.unmarked, []
        self.durable.try_again()
        self.rouse()
        for line, runs in unmarked:
            runs += line.take_runs()
            for what, first, last, attempt in runs:
                line.say(what, first, last, attempt)
            self.touch(line)
