"""Log records: a batch into bytes, a segment's bytes into what they say.

A record is `u32 length, u32 crc32c, u64 owner, u64 index, u8 kind, body`, big-endian; `length` counts the
body, the checksum covers all but itself.  Records travel in groups: one write, one sync, all or nothing.
A group is `u32 mark, u32 crc32c, u64 number, u64 position, u32 length, u32 crc32c of the records`, the
records, zeros to a multiple of eight.  The checksum of its head begins with its segment's salt, so that
neither what stood in a reused file before nor what belongs elsewhere is taken for it.

Groups are numbered without a gap, and each is synced before the next is written.  So a group that is not
whole is the torn tail of the log where no later one can be found, and damage where one can: the search
goes on past it, for any head that is valid where it stands.

In: entries and orders of any owner, put one by one into a growing buffer; no Python object is made of an
entry.  An owner's indices begin at 1 and only rise, but where it truncates: UsageError otherwise.
Out: runs, the few facts that the log keeps of a batch; and at recovery trails, the live entries by owner.
"""

from cpython.buffer cimport PyBuffer_FillInfo, PyBUF_SIMPLE, PyObject_GetBuffer, PyBuffer_Release
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from agentnet_core.errors import InternalError, LimitReached, UsageError
from agentnet_core.framing cimport crc32c_extend, get_u32, get_u64, put_u32, put_u64

ORDERS = {
    CELL: "CELL", RELEASE: "RELEASE", TRUNCATE: "TRUNCATE",
    RETIRE: "RETIRE", FORGET: "FORGET", SNAPSHOT: "SNAPSHOT",
}
ENTRY = KIND_MIN
FLEETING = 1 << 63      # cells of such keys are void, durably, before whoever opens the log next goes on
HEAD_BYTES = GROUP_HEAD_BYTES
RECORD_BYTES = RECORD_HEAD_BYTES
Told = tuple[int, int, int, int, bytes]

cdef enum:
    MARK = 0x61674c67       # "agLg"
    BUFFER_BYTES = 4096
    BUFFER_BYTES_KEPT = 1048576
    BATCH_BYTES_LIMIT = 0x7fffff00      # a group's length is 32 bits wide

cdef enum Found:
    GROUP
    NOTHING         # zeros, or the end: nothing was written here
    BROKEN          # something, but no whole group


cdef class Runs:
    def __cinit__(self):
        self.bodies = []

    def __dealloc__(self):
        free(self.runs)

    cdef int add(self, uint64_t owner, uint8_t kind, uint64_t index, bytes body) except -1:
        cdef Run* run
        cdef void* grown
        if self.count == self.capacity:
            grown = realloc(self.runs, (2 * self.capacity + 4) * sizeof(Run))
            if grown == NULL:
                raise MemoryError
            self.runs = <Run*>grown
            self.capacity = 2 * self.capacity + 4
        run = &self.runs[self.count]
        run.owner, run.kind, run.first, run.last, run.body = owner, kind, index, index, -1
        if body is not None:
            run.body = len(self.bodies)
            self.bodies.append(body)
        self.count += 1
        return 0

    cdef int extend(self, Runs other) except -1:
        cdef Py_ssize_t i
        cdef Run* run
        for i in range(other.count):
            run = &other.runs[i]
            if not (run.kind >= KIND_MIN and self.joins(run.owner, run.first)):
                self.add(run.owner, run.kind, run.first,
                         other.bodies[run.body] if run.body >= 0 else None)
            self.runs[self.count - 1].last = run.last
        return 0

    cdef inline bint joins(self, uint64_t owner, uint64_t index) noexcept:
        """Whether an entry only lengthens the last run."""
        cdef Run* run
        if self.count == 0:
            return False
        run = &self.runs[self.count - 1]
        return run.kind >= KIND_MIN and run.owner == owner and run.last < index

    cdef list as_list(self):
        cdef Py_ssize_t i
        cdef Run* run
        told = []
        for i in range(self.count):
            run = &self.runs[i]
            told.append((run.kind, run.owner, run.first, run.last,
                         self.bodies[run.body] if run.body >= 0 else b""))
        return told


# -- out

cdef int rises(const Run* run, uint64_t known) except -1:
    if run.first <= known:
        raise UsageError(f"owner {run.owner}: entry {run.first} after {known}; "
                         f"indices only rise, but where the owner truncates")
    return 0


cdef tuple after(const Run* run, known, floor):
    """An owner's last and highest released index after a run; (0, -1) if it is forgotten."""
    below = run.first - 1 if run.first else 0
    if floor < 0:
        floor = 0
    if run.kind >= KIND_MIN:
        rises(run, known)
        return run.last, floor
    if run.kind == RELEASE:
        return max(known, below), max(floor, below)
    if run.kind == TRUNCATE:
        return max(floor, min(known, below)), floor
    if run.kind == FORGET:
        return 0, -1
    return known, floor


cdef class Entries:
    """One batch: what is put here is on disk together, or not at all. Exported only once sealed."""

    def __cinit__(self):
        self.runs = Runs()
        self.used = GROUP_HEAD_BYTES
        self.reserve(0)

    def __dealloc__(self):
        free(self.data)

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.size, 1, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer* view):
        self.exports -= 1

    def __len__(self):
        return self.count

    @property
    def size(self):
        """Bytes that it takes on disk."""
        return (self.used + 7) & ~7

    cdef uint8_t* reserve(self, Py_ssize_t n) except NULL:
        cdef Py_ssize_t capacity = max(self.capacity, <Py_ssize_t>BUFFER_BYTES)
        cdef void* grown
        if self.exports:
            raise InternalError("entries were put into a batch that is being written")
        if n > BATCH_BYTES_LIMIT - self.used:
            raise LimitReached(f"{n} bytes more than {self.used}: a batch is 2 GiB at most")
        while capacity < self.used + n + 8:
            capacity *= 2
        if capacity != self.capacity:
            grown = realloc(self.data, capacity)
            if grown == NULL:
                raise MemoryError
            self.data = <uint8_t*>grown
            self.capacity = capacity
        return self.data + self.used

    cdef int _record(self, uint64_t owner, uint8_t kind, uint64_t index,
                     const uint8_t* body, Py_ssize_t size) except -1:
        cdef uint8_t* p = self.begin_record(size)
        if size:
            memcpy(p, body, size)
        return self._close_record(owner, kind, index, size)

    cdef uint8_t* begin_record(self, Py_ssize_t size) except NULL:
        """Where to write the body of the next entry, of at most that size; then `finish_record`."""
        return self.reserve(RECORD_HEAD_BYTES + size) + RECORD_HEAD_BYTES

    cdef int _close_record(self, uint64_t owner, uint8_t kind, uint64_t index, Py_ssize_t size) except -1:
        cdef uint8_t* p = self.data + self.used
        cdef uint32_t crc
        put_u32(p, <uint32_t>size)
        put_u64(put_u64(p + 8, owner), index)
        p[24] = kind
        crc = crc32c_extend(<uint32_t>size, p + 8, RECORD_HEAD_BYTES - 8 + size)
        put_u32(p + 4, crc)
        self.used += RECORD_HEAD_BYTES + size
        self.count += 1
        return 0

    cdef int put_record(self, uint64_t owner, uint8_t kind, uint64_t index,
                        const uint8_t* body, Py_ssize_t size) except -1:
        """One entry; C code calls this, as often as it likes."""
        cdef uint8_t* p = self.begin_record(size)
        if size:
            memcpy(p, body, size)
        return self.finish_record(owner, kind, index, size)

    cdef int finish_record(self, uint64_t owner, uint8_t kind, uint64_t index, Py_ssize_t size) except -1:
        """The entry whose body was written where `begin_record` said."""
        if kind < KIND_MIN:
            raise UsageError(f"kind {kind}: an entry's kind is at least {KIND_MIN}")
        if index == 0:
            raise UsageError(f"owner {owner}: indices begin at 1")
        self._close_record(owner, kind, index, size)
        if self.runs.joins(owner, index):
            self.runs.runs[self.runs.count - 1].last = index
        else:
            self.runs.add(owner, KIND_MIN, index, None)
        return 0

    def put(self, uint64_t owner, int kind, uint64_t index, const uint8_t[::1] body):
        """One entry of `owner`: `kind` is the owner's own, KIND_MIN to 255; `index` above its last."""
        if not <int>KIND_MIN <= kind <= 255:
            raise UsageError(f"kind {kind}: expected {KIND_MIN} to 255")
        self.put_record(owner, kind, index, &body[0] if body.shape[0] else NULL, body.shape[0])

    def order(self, int kind, uint64_t owner, uint64_t index, bytes body=b""):
        """One order, of a `kind` in ORDERS; an owner uses the four below."""
        if kind not in ORDERS:
            raise UsageError(f"order {kind}: expected one of {', '.join(map(str, ORDERS))}")
        self.orders += 1
        self._record(owner, kind, index, <const uint8_t*><const char*>body, len(body))
        self.runs.add(owner, kind, index, body)

    def cell(self, uint64_t owner, uint64_t key, bytes value):
        """`owner`'s cell `key` holds `value` from now on: a small thing of which only the newest counts."""
        self.order(CELL, owner, key, value)

    def release(self, uint64_t owner, uint64_t index):
        """`owner` needs no entry below `index` any more."""
        self.order(RELEASE, owner, index)
        self.frees = True

    def truncate(self, uint64_t owner, uint64_t index):
        """`owner`'s entries from `index` on are void; its next may have that index again."""
        self.order(TRUNCATE, owner, index)

    def forget(self, uint64_t owner):
        """`owner` is no more: its entries, cells and snapshot go."""
        self.order(FORGET, owner, 0)
        self.frees = True

    def clear(self):
        """Empty it, for the next batch."""
        if self.exports:
            raise InternalError("a batch was cleared while it is being written")
        if self.capacity > BUFFER_BYTES_KEPT:
            free(self.data)
            self.data = NULL
            self.capacity = 0
        self.used = GROUP_HEAD_BYTES
        self.count = self.orders = 0
        self.frees = False
        if self.runs.count or self.runs.bodies:
            self.runs = Runs() if self.runs.bodies else self.runs
            self.runs.count = 0
        self.reserve(0)

    def absorb(self, Entries other not None):
        """Take all of `other` behind what is here; `other` is empty then."""
        cdef Py_ssize_t size = other.used - GROUP_HEAD_BYTES
        if other.exports:
            raise InternalError("a batch was taken while it is being written")
        if self.count == 0 and not self.exports:
            self.data, other.data = other.data, self.data
            self.used, other.used = other.used, self.used
            self.capacity, other.capacity = other.capacity, self.capacity
            self.runs, other.runs = other.runs, self.runs
        else:
            memcpy(self.reserve(size), other.data + GROUP_HEAD_BYTES, size)
            self.used += size
            self.runs.extend(other.runs)
        self.count += other.count
        self.orders += other.orders
        self.frees = self.frees or other.frees
        other.clear()

    def check(self, dict last not None, dict gone not None, Py_ssize_t owners_max):
        """Note in `last` the last index of each owner after this batch, in `gone` the highest released one.

        UsageError if an index would not rise, LimitReached if there would be too many owners; nothing is
        noted then.
        """
        cdef Py_ssize_t i
        cdef Run* run
        if self.runs.count == 1 and self.runs.runs[0].kind >= KIND_MIN:
            run = &self.runs.runs[0]
            known = last.get(run.owner)
            if known is not None:
                rises(run, known)
                last[run.owner] = run.last
                return
        now = {}
        for i in range(self.runs.count):
            run = &self.runs.runs[i]
            if run.kind != RETIRE:
                known, floor = now.get(run.owner) or (last.get(run.owner, 0), gone.get(run.owner, 0))
                now[run.owner] = after(run, known, floor)
        fresh = sum([1 for owner in now if owner not in last])
        if fresh and len(last) + fresh > owners_max:
            raise LimitReached(f"{len(last) + fresh} owners in one log: at most log_owners_max={owners_max}")
        for owner, (known, floor) in now.items():
            if floor < 0:
                last.pop(owner, None)
                gone.pop(owner, None)
            else:
                last[owner], gone[owner] = known, floor

    def told(self):
        """The runs of this batch: (kind, owner, first index, last index, body); ENTRY for all entries."""
        return self.runs.as_list()

    def seal(self, uint32_t salt, uint64_t number, uint64_t position):
        """Make it group `number` at byte `position` of the segment of that salt, ready to be written."""
        cdef uint8_t* p = self.data
        cdef Py_ssize_t size = self.used - GROUP_HEAD_BYTES
        memset(p + self.used, 0, self.size - self.used)
        put_u32(p, MARK)
        put_u64(put_u64(p + 8, number), position)
        put_u32(p + 24, <uint32_t>size)
        put_u32(p + 28, crc32c_extend(0, p + GROUP_HEAD_BYTES, size))
        put_u32(p + 4, crc32c_extend(salt, p + 8, GROUP_HEAD_BYTES - 8))


# -- in

cdef bint head_is_valid(const uint8_t* p, Py_ssize_t position, uint32_t salt) noexcept nogil:
    return (get_u32(p) == MARK and get_u64(p + 16) == <uint64_t>position
            and crc32c_extend(salt, p + 8, GROUP_HEAD_BYTES - 8) == get_u32(p + 4))


cdef Found look(const uint8_t* data, Py_ssize_t at, Py_ssize_t end, uint32_t salt,
                uint64_t number, Py_ssize_t* size) noexcept nogil:
    """What is at byte `at`: group `number`, of that size with its head, nothing, or what is broken."""
    cdef const uint8_t* p = data + at
    cdef Py_ssize_t i, left = end - at
    if left < GROUP_HEAD_BYTES or not head_is_valid(p, at, salt) or get_u64(p + 8) != number:
        for i in range(min(left, <Py_ssize_t>GROUP_HEAD_BYTES)):
            if p[i]:
                return BROKEN
        return NOTHING
    size[0] = GROUP_HEAD_BYTES + <Py_ssize_t>get_u32(p + 24)
    if size[0] > left:
        return BROKEN
    if crc32c_extend(0, p + GROUP_HEAD_BYTES, size[0] - GROUP_HEAD_BYTES) != get_u32(p + 28):
        return BROKEN
    return GROUP


def find_later(const uint8_t[::1] data, Py_ssize_t at, uint32_t salt, uint64_t number):
    """Where the first group above `number` begins at or after byte `at`; -1 if there is none."""
    cdef const uint8_t* p
    cdef Py_ssize_t end = data.shape[0], i = (at + 7) & ~7, found = -1
    if end == 0:
        return -1
    p = &data[0]
    with nogil:
        while i + GROUP_HEAD_BYTES <= end:
            if get_u32(p + i) == MARK and head_is_valid(p + i, i, salt) and get_u64(p + i + 8) > number:
                found = i
                break
            i += 8
    return found


def first_broken(const uint8_t[::1] data, Py_ssize_t at):
    """Where in the broken group at byte `at` the first broken record begins."""
    cdef const uint8_t* p
    cdef Py_ssize_t end = data.shape[0], left, size
    if end - at < GROUP_HEAD_BYTES or get_u32(&data[at]) != MARK:
        return at
    left = min(<Py_ssize_t>get_u32(&data[at + 24]), end - at - GROUP_HEAD_BYTES)
    at += GROUP_HEAD_BYTES
    while left >= RECORD_HEAD_BYTES:
        p = &data[at]
        size = RECORD_HEAD_BYTES + <Py_ssize_t>get_u32(p)
        if size > left or crc32c_extend(get_u32(p), p + 8, size - 8) != get_u32(p + 4):
            break
        at += size
        left -= size
    return at


cdef class Trail:
    def __cinit__(self, keep):
        self.keep = keep

    def __dealloc__(self):
        free(self.heads)

    def __len__(self):
        return self.end - self.begin

    def __iter__(self):
        """(index, kind, body) of each, in the order of the index; ProtocolError never: all were checked."""
        cdef Py_ssize_t i
        cdef const uint8_t* p
        for i in range(self.begin, self.end):
            p = self.heads[i]
            yield (get_u64(p + 16), p[24],
                   PyBytes_FromStringAndSize(<const char*>p + RECORD_HEAD_BYTES, get_u32(p)))

    cdef int add(self, const uint8_t* head) except -1:
        cdef void* grown
        if self.end == self.capacity:
            grown = realloc(self.heads, (2 * self.capacity + 64) * sizeof(uint8_t*))
            if grown == NULL:
                raise MemoryError
            self.heads = <const uint8_t**>grown
            self.capacity = 2 * self.capacity + 64
        self.heads[self.end] = head
        self.end += 1
        return 0

    cdef void release(self, uint64_t index) noexcept:
        while self.begin < self.end and get_u64(self.heads[self.begin] + 16) < index:
            self.begin += 1

    cdef void truncate(self, uint64_t index) noexcept:
        while self.begin < self.end and get_u64(self.heads[self.end - 1] + 16) >= index:
            self.end -= 1


cdef class Segment:
    """The bytes of one segment, held for the trails that point into it."""
    cdef Py_buffer view
    cdef bint held, live

    def __cinit__(self, data):
        PyObject_GetBuffer(data, &self.view, PyBUF_SIMPLE)
        self.held = True

    cdef inline bint holds(self, const uint8_t* p) noexcept:
        return 0 <= p - <const uint8_t*>self.view.buf < self.view.len

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.view)


cdef class Replay:
    """Segments in, in their order; `trails`: the live entries of each owner that has any."""

    def __cinit__(self):
        self.trails = {}
        self.keep = []

    def feed(self, data, Py_ssize_t at, uint32_t salt, uint64_t number):
        """All whole groups of a segment's bytes from byte `at` on, the first of them `number`.

        Returns where they end, the number after theirs, whether something broken stands there, and runs
        as of `Entries.told`.
        """
        cdef Segment segment = Segment(data)
        cdef const uint8_t* p = <const uint8_t*>segment.view.buf
        cdef Py_ssize_t size = 0, end = segment.view.len
        cdef Runs runs = Runs()
        cdef Found found
        self.keep.append(segment)
        while True:
            found = look(p, at, end, salt, number, &size) if at < end else NOTHING
            if found != GROUP:
                break
            if self.take(p + at + GROUP_HEAD_BYTES, p + at + size, runs) < 0:
                found = BROKEN
                break
            at += (size + 7) & ~7
            number += 1
        return at, number, found == BROKEN, runs.as_list()

    def shrink(self):
        """Let the segments go that hold no live entry."""
        cdef Trail trail
        cdef Segment segment, last = None
        cdef Py_ssize_t i
        for segment in self.keep:
            segment.live = False
        for trail in self.trails.values():
            for i in range(trail.begin, trail.end):
                if last is None or not last.holds(trail.heads[i]):
                    for last in self.keep:
                        if last.holds(trail.heads[i]):
                            break
                    last.live = True
        self.keep[:] = [segment for segment in self.keep if segment.live]

    cdef int take(self, const uint8_t* at, const uint8_t* end, Runs runs) except -1:
        """All records of a group whose checksum is right."""
        cdef uint64_t owner, index
        cdef Py_ssize_t size
        cdef Trail trail = None
        cdef uint64_t trail_owner = 0
        while at < end:
            if end - at < RECORD_HEAD_BYTES or <Py_ssize_t>get_u32(at) > end - at - RECORD_HEAD_BYTES:
                raise InternalError("a group with a right checksum holds half a record")
            size, owner, index = get_u32(at), get_u64(at + 8), get_u64(at + 16)
            if trail is None or trail_owner != owner:
                trail_owner = owner
                trail = self.trails.get(owner)
                if trail is None:
                    self.trails[owner] = trail = Trail(self.keep)
            if at[24] >= KIND_MIN:
                trail.add(at)
                if runs.joins(owner, index):
                    runs.runs[runs.count - 1].last = index
                else:
                    runs.add(owner, KIND_MIN, index, None)
            else:
                if at[24] == RELEASE:
                    trail.release(index)
                elif at[24] == TRUNCATE:
                    trail.truncate(index)
                elif at[24] == FORGET:
                    trail.begin = trail.end
                runs.add(owner, at[24], index,
                         PyBytes_FromStringAndSize(<const char*>at + RECORD_HEAD_BYTES, size))
            at += RECORD_HEAD_BYTES + size
        return 0
