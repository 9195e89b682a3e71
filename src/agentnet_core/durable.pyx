"""What of deliveries is on the disk, and in which order it gets there.

Two owners in the node's log.  MAIL: the letters of this node's agents, those that are settled, and a cell
with the highest number given.  WINDOWS: the lines that came here, and marks that tell how far each is done.
A letter is sent, and its sender told that it is kept, when its batch is persisted; that a message was
processed is said when its mark is.  That one is settled may be lost: it is then sent again, and known.

In: letters, lines, and what the log had at the start.  Out: one batch of entries at each turn, numbered.
What nobody needs is released; what holds an old segment is written again.

Tenants are rooms that write to the same log, under owners of their own: into `entries`, by and by.
"""

from collections import deque

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from agentnet_core.framing cimport get_u64, put_u64
from agentnet_core.letters cimport LETTER_HEAD_BYTES

from agentnet_core.errors import StorageDamaged
from agentnet_core.message import AgentMessage as _Message

MAIL, WINDOWS = 1, 2
cdef uint64_t MAIL_OWNER = MAIL
DEFECTS = {
    "done before the write": DONE_BEFORE_THE_WRITE, "kept before the write": KEPT_BEFORE_THE_WRITE,
    "windows forgotten": WINDOWS_FORGOTTEN, "letters forgotten": LETTERS_FORGOTTEN,
    "done at the mailbox": DONE_AT_THE_MAILBOX, "tail dropped": TAIL_DROPPED, "no window": NO_WINDOW,
    "no order": NO_ORDER, "released early": RELEASED_EARLY, "numbers again": NUMBERS_AGAIN,
    "not sent again": NOT_SENT_AGAIN, "marked at the mailbox": MARKED_AT_THE_MAILBOX,
    "late word": LATE_WORD, "results forgotten": RESULTS_FORGOTTEN,
    "mark without effect": MARK_WITHOUT_EFFECT, "effect without mark": EFFECT_WITHOUT_MARK,
    "answered before the write": ANSWERED_BEFORE_THE_WRITE,
}

cdef enum:
    LETTER = 16
    SETTLED = 17
    DEAD = 18
    LINE = 16
    MARK = 17
    UNMARK = 18
    NUMBER_CELL = 1
    EPOCH_CELL = 2
    WINDOWS_ENTRIES_MAX = 65_536    # more, and four times as many as lines: they are written again

cdef uint64_t DISK_EPOCH = <uint64_t>1 << 63   # so that no life's own epoch is the same


cdef bytes u64(uint64_t value):
    cdef uint8_t[8] data
    put_u64(data, value)
    return PyBytes_FromStringAndSize(<const char*>data, 8)


cdef uint64_t read(bytes body, Py_ssize_t at) except? 0:
    if at + 8 > PyBytes_GET_SIZE(body):
        raise StorageDamaged(f"entry of {len(body)} bytes: it ends in the middle of a number")
    return get_u64(<const uint8_t*>PyBytes_AS_STRING(body) + at)


def by_index(Letter letter not None):
    return letter.index


cdef class Durable:
    def __cinit__(self):
        self.entries, self.spare = Entries(), Entries()
        self.batch = 1
        self.moved_out = []
        self.order, self.settled, self.settled_out, self.marked = deque(), [], [], {}
        self.tenants = []

    cdef int start(self, uint64_t incarnation) except -1:
        self.epoch = incarnation | DISK_EPOCH
        return 0

    # -- what was found

    def open(self, dict found not None, origin):
        """The log had this: messages, {number: what it died of}, lines; StorageDamaged.

        Until it is a letter, a message has its expiry for its deadline, and its entry for its sequence.
        """
        self.on = True
        messages, deaths = self._open_mail(found.get(MAIL), origin)
        lines = self._open_windows(found.get(WINDOWS))
        for tenant in self.tenants:
            tenant.open(found)
        return messages, deaths, lines

    def _open_mail(self, mail, origin):
        cdef AgentMessage message
        letters, deaths = {}, {}
        if mail is not None and self.defect != LETTERS_FORGOTTEN:
            for index, kind, body in mail.entries:
                if kind == LETTER:
                    message = _Message.decode(body[8:], origin)
                    message.deadline_ns, message.seq = <int64_t>read(body, 0), index
                    letters[message.correlation] = message
                    if self.defect != NUMBERS_AGAIN:
                        self.number = max(self.number, message.correlation)
                elif kind == DEAD:
                    deaths[read(body, 0)] = read(body, 8), body[16:].decode()
                else:
                    for at in range(0, len(body), 8):
                        letters.pop(read(body, at), None)
        if mail is not None:
            self.mail_index = mail.last
            if self.defect != NUMBERS_AGAIN:
                self.number = max(self.number, int.from_bytes(mail.cells.get(NUMBER_CELL, b"")))
            if EPOCH_CELL in mail.cells:
                self.epoch = int.from_bytes(mail.cells[EPOCH_CELL])
                self.epoch_written = self.epoch_kept = True
                return [letters[number] for number in sorted(letters)], deaths
        return [], deaths

    def _open_windows(self, windows):
        cdef InLine line
        if windows is None:
            return []
        self.windows_index, self.windows_base = windows.last, windows.gone
        for _, kind, body in windows.entries if self.defect != WINDOWS_FORGOTTEN else ():
            place = read(body, 0)
            if kind == LINE:
                line = InLine(body[33:].decode(), read(body, 8), read(body, 16), read(body, 24), body[32])
                line.place = place
                self.marked[place] = line
                self.places = max(self.places, place)
            elif kind == UNMARK:
                self.marked.pop(place, None)
            else:
                line = self.marked[place]
                line.early.clear()
                early = [read(body, at) for at in range(24, len(body), 8)]
                line.restore(read(body, 8), read(body, 16), early)
        return list(self.marked.values())

    # -- letters

    cdef int put(self, uint64_t owner, uint8_t kind, bytes body) except -1:
        cdef uint64_t index
        if owner == MAIL:
            self.mail_index += 1
            index = self.mail_index
        else:
            self.windows_index += 1
            index = self.windows_index
        return self.entries.put_record(owner, kind, index, <const uint8_t*>PyBytes_AS_STRING(body),
                                       PyBytes_GET_SIZE(body))

    cdef int keep(self, Letter letter, int64_t expiry_ns) except -1:
        """Write it; `expiry_ns`: by the clock on the wall, 0 never."""
        cdef AgentMessage message = letter.made
        cdef Py_ssize_t size = PyBytes_GET_SIZE(letter.payload)
        cdef uint8_t* start
        cdef uint8_t* end
        if not self.epoch_written:
            self.epoch_written = True
            self.epoch_batch = self.batch
            self.entries.cell(MAIL, EPOCH_CELL, u64(self.epoch))
        self.mail_index += 1
        start = self.entries.begin_record(8 + (LETTER_HEAD_BYTES + size if message is None
                                               else message.encoded_size(size)))
        end = put_u64(start, <uint64_t>expiry_ns)
        end = letter.write(end) if message is None else message.write(
            end, <const uint8_t*>PyBytes_AS_STRING(message.payload), size, 0, 0)
        self.entries.finish_record(MAIL_OWNER, LETTER, self.mail_index, end - start)
        letter.index = self.mail_index
        self.order.append(letter)
        if letter.death is not None:
            self.bury(letter)
        return 0

    cdef int bury(self, Letter letter) except -1:
        """It is dead, and stays."""
        code, text = letter.death
        return self.put(MAIL, DEAD, u64(letter.number) + u64(code) + text.encode())

    def resume(self, Letter letter not None, uint64_t index):
        """It was found in that entry; those that were written again are not in the order of their numbers."""
        letter.index = index
        self.order.append(letter)

    def resumed(self):
        """All that were found are told."""
        self.order = deque(sorted(self.order, key=by_index))

    def relieve(self, uint64_t owner, uint64_t index, int64_t wall_offset_ns):
        """Let the owner's entries up to that one go."""
        if owner == MAIL:
            self.rewrite_letters(index, wall_offset_ns)
        elif owner == WINDOWS:
            self.rewrite_windows()
        for tenant in self.tenants:
            tenant.relieve(owner, index)

    cdef int settle(self, Letter letter) except -1:
        """Nobody needs it any more; `letter.settled` is set."""
        if self.failure is None:
            self.settled.append(letter)
        return 0

    cdef int write_settled(self) except -1:
        """Release those in front; of those behind one that is not settled the numbers are written."""
        cdef list letters = self.settled
        cdef Letter letter
        cdef uint8_t* start
        cdef uint8_t* p
        cdef uint64_t index
        self.settled = []
        while self.order and (<Letter>self.order[0]).settled:
            self.order.popleft()
        index = (<Letter>self.order[0]).index if self.order else self.mail_index + 1
        start = p = self.entries.begin_record(8 * len(letters))
        for letter in letters:
            if letter.index > index:
                p = put_u64(p, letter.number)
        if p != start:
            self.mail_index += 1
            self.entries.finish_record(MAIL_OWNER, SETTLED, self.mail_index, p - start)
        self.settled_out.append((self.batch, letters))
        self.entries.cell(MAIL, NUMBER_CELL, u64(self.number))
        if self.defect == RELEASED_EARLY:
            index = self.mail_index + 1
        self.entries.release(MAIL, index)
        return 0

    cdef int rewrite_letters(self, uint64_t index, int64_t wall_offset_ns) except -1:
        """Let the entries up to that one go: what lives of them is written again, behind."""
        cdef Letter letter
        cdef list moved = []
        while self.order and (<Letter>self.order[0]).index <= index:
            letter = self.order.popleft()
            if not letter.settled:
                moved.append(letter)
        if self.defect == TAIL_DROPPED and moved:
            moved.pop()
        self.moved_out.append((self.batch, [(letter.index, letter) for letter in moved]))
        for letter in moved:
            expiry_ns = letter.deadline_ns()
            self.keep(letter, expiry_ns + wall_offset_ns if expiry_ns else 0)
        self.entries.cell(MAIL, NUMBER_CELL, u64(self.number))
        self.entries.release(MAIL, (<Letter>self.order[0]).index if self.order else self.mail_index + 1)
        return 0

    # -- windows

    cdef int mark(self, InLine line) except -1:
        """Write how far it is done."""
        cdef list early = []
        if self.torn:
            self.torn = False
            self.rewrite_windows()
        if not line.place:
            self.places += 1
            line.place = self.places
            self.marked[line.place] = line
            self.put_line(line)
        for number in line.early:
            early.append(u64(number))
        self.put(WINDOWS, MARK, u64(line.place) + u64(line.floor()) + u64(line.forgotten) + b"".join(early))
        if (self.windows_index - self.windows_base > WINDOWS_ENTRIES_MAX
                and self.windows_index - self.windows_base > 8 * <uint64_t>len(self.marked)):
            self.rewrite_windows()
        return 0

    def put_line(self, InLine line not None):
        self.put(WINDOWS, LINE, u64(line.place) + u64(line.epoch) + u64(line.from_id) + u64(line.to_id)
                 + bytes((line.level,)) + line.node_id.encode())

    cdef int unmark(self, InLine line) except -1:
        """Nothing more will come of that line."""
        if line.place and self.marked.pop(line.place, None) is not None:
            self.put(WINDOWS, UNMARK, u64(line.place))
        return 0

    cdef int rewrite_windows(self) except -1:
        """Write all lines again, and let what was written before go."""
        cdef InLine line
        cdef uint64_t last = self.windows_index
        self.windows_base = last
        for line in list(self.marked.values()):
            self.put_line(line)
            self.mark(line)
        self.entries.release(WINDOWS, last + 1)
        return 0

    # -- batches

    cdef Entries drain(self, bint settle):
        """What is to be written now; None if nothing is. What is settled goes along, or, if `settle`,
        by itself."""
        cdef Entries entries = self.entries
        if not self.on or self.failure is not None:
            return None
        if self.settled and not self.resting and (settle or entries.count):
            self.write_settled()
        if not entries.count:
            return None
        self.entries, self.spare = self.spare, entries
        self.entries.clear()
        self.batch += 1
        return entries

    def persisted(self, uint64_t batch):
        self.resting = False
        self.epoch_kept = self.epoch_kept or (self.epoch_written and batch >= self.epoch_batch)
        self.settled_out = [each for each in self.settled_out if each[0] > batch]
        self.moved_out = [each for each in self.moved_out if each[0] > batch]
        for tenant in self.tenants:
            tenant.persisted(batch)

    def refused(self, error):
        """No batch that is not persisted will be, nor what is gathered: all is as it was before them."""
        cdef Letter letter
        self.entries.clear()
        for _, letters in self.settled_out:
            self.settled += letters
        for _, moved in reversed(self.moved_out):
            for index, letter in moved:
                letter.index = index
                self.order.append(letter)
        if self.moved_out:
            self.order = deque(sorted(dict.fromkeys(self.order), key=by_index))
        self.settled_out, self.moved_out = [], []
        self.epoch_written = self.epoch_kept
        self.torn = self.resting = True
        for tenant in self.tenants:
            tenant.refused(error)

    def try_again(self):
        """The disk may take now what it refused."""
        self.resting = False

    def fail(self, error):
        """Nothing is written any more."""
        self.failure = error
