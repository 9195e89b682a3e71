"""What waits for the disk, between a loop that puts it here and a thread that writes it.

All that waits becomes one group, with one write and one sync.  The thread does that by itself, group after
group, as long as there is room where it was told to write, or the disk gives more: it asks for the
interpreter's lock only when it comes back, so a busy loop does not keep the disk idle, nor the disk the loop.

In: batches, by the loop, which are numbered; where to write, by the thread.  Out: the number up to which
all is on the disk, with a word to the descriptor that the loop reads; what was in each batch, for the log.
Bounded by who puts: `log_waiting_bytes_max`.
"""

from collections import deque

from cpython.pythread cimport (
    PyThread_acquire_lock, PyThread_allocate_lock, PyThread_free_lock, PyThread_release_lock,
    PyThread_type_lock, WAIT_LOCK,
)
from libc.errno cimport EDQUOT, ENOSPC
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from agentnet_core.entries cimport GROUP_HEAD_BYTES, KIND_MIN, Entries
from agentnet_core.framing cimport crc32c_extend, put_u32, put_u64

cdef extern from *:
    """
    #if defined(__linux__)
    #include <errno.h>
    #include <time.h>
    #include <unistd.h>
    #define AGENTNET_WRITES 1
    static int agentnet_write_all(int file, const unsigned char *data, size_t size, off_t at) {
        while (size) {
            ssize_t done = pwrite(file, data, size, at);
            if (done < 0 && errno == EINTR) continue;
            if (done < 0) return errno;
            data += done; size -= (size_t)done; at += done;
        }
        return 0;
    }
    /* Zeros, ahead of what is to come, so that a sync need not bring a new size to the disk. */
    static int agentnet_lay(int file, long long at, long long end) {
        static const unsigned char zeros[65536];
        while (at < end) {
            size_t size = end - at < (long long)sizeof zeros ? (size_t)(end - at) : sizeof zeros;
            int error = agentnet_write_all(file, zeros, size, at);
            if (error) return error;
            at += (long long)size;
        }
        return 0;
    }
    static int agentnet_sync(int file) {
        int outcome;
        do outcome = fdatasync(file); while (outcome < 0 && errno == EINTR);
        return outcome < 0 ? errno : 0;
    }
    static void agentnet_tell(int file) {
        unsigned long long one = 1;
        while (write(file, &one, sizeof one) < 0 && errno == EINTR) {}
    }
    static void agentnet_hear(int file) {
        unsigned long long count;
        while (read(file, &count, sizeof count) < 0 && errno == EINTR) {}
    }
    static long long agentnet_now_ns(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return now.tv_sec * 1000000000LL + now.tv_nsec;
    }
    static void agentnet_breathe(void) {
    #if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
    #elif defined(__aarch64__)
        __asm__ __volatile__("yield");
    #endif
    }
    #define agentnet_peek(place) __atomic_load_n(&(place), __ATOMIC_ACQUIRE)
    #else
    #define AGENTNET_WRITES 0
    static int agentnet_write_all(int f, const unsigned char *d, size_t n, long long at) { return 1; }
    static int agentnet_lay(int f, long long at, long long end) { return 1; }
    static int agentnet_sync(int f) { return 1; }
    static void agentnet_tell(int f) {}
    static void agentnet_hear(int f) {}
    static long long agentnet_now_ns(void) { return 0; }
    static void agentnet_breathe(void) {}
    #define agentnet_peek(place) (place)
    #endif
    """
    const bint AGENTNET_WRITES
    int agentnet_write_all(int file, const uint8_t* data, size_t size, int64_t at) noexcept nogil
    int agentnet_lay(int file, int64_t at, int64_t end) noexcept nogil
    int agentnet_sync(int file) noexcept nogil
    void agentnet_tell(int file) noexcept nogil
    void agentnet_hear(int file) noexcept nogil
    int64_t agentnet_now_ns() noexcept nogil
    void agentnet_breathe() noexcept nogil
    Py_ssize_t agentnet_peek(Py_ssize_t place) noexcept nogil

cdef extern from "pythread.h" nogil:
    int PyThread_acquire_lock_timed(PyThread_type_lock lock, long long microseconds, int interruptible)

cdef enum:
    MARK = 0x61674c67           # as of `agentnet_core.entries`
    BUFFER_BYTES_KEPT = 4194304
    LOOKS_BETWEEN_TIMES = 32
    GROUPS_MAX = 512            # so many, and the log is told what was in them

WRITES = bool(AGENTNET_WRITES)
"""Whether `write` is to be had on this system."""


cdef class Gathering:
    def __cinit__(self, int64_t rest_us=1_000_000, int64_t spin_us=0):
        self.rest_us, self.spin_ns = rest_us, spin_us * 1000 if AGENTNET_WRITES else 0
        self.mutex, self.bell = PyThread_allocate_lock(), PyThread_allocate_lock()
        if self.mutex == NULL or self.bell == NULL:
            raise MemoryError
        PyThread_acquire_lock(self.bell, WAIT_LOCK)
        self.batches = deque()
        self.told = -1
        self.open.used = self.flying.used = GROUP_HEAD_BYTES

    def __dealloc__(self):
        free(self.open.data)
        free(self.flying.data)
        if self.bell != NULL:
            PyThread_free_lock(self.bell)
        if self.mutex != NULL:
            PyThread_free_lock(self.mutex)

    # -- on the loop

    def put(self, Entries entries not None):
        """Take a batch, which is empty then; its number."""
        cdef Py_ssize_t size = entries.used - GROUP_HEAD_BYTES
        # Nothing from here on lets the thread have the interpreter between the number and its batch.
        batch = (self.number + 1, entries.count, entries.orders, entries.frees, entries.told())
        PyThread_acquire_lock(self.mutex, WAIT_LOCK)
        try:
            reserve(&self.open, size)
            memcpy(self.open.data + self.open.used, entries.data + GROUP_HEAD_BYTES, size)
            self.open.used += size
            self.number += 1
            self.put_bytes += entries.size
        finally:
            PyThread_release_lock(self.mutex)
        self.batches.append(batch)
        entries.clear()
        return self.number

    def ring(self):
        """There is something, or an end: the thread is to look."""
        cdef bint idle
        PyThread_acquire_lock(self.mutex, WAIT_LOCK)
        idle, self.idle = self.idle, False
        self.rung = 1
        PyThread_release_lock(self.mutex)
        if idle:
            PyThread_release_lock(self.bell)

    def hear(self):
        """Read the descriptor, if there is one; the number up to which all is done."""
        if self.told >= 0:
            agentnet_hear(self.told)
        return self.done

    def end(self):
        """What is here is still written; then the thread ends."""
        PyThread_acquire_lock(self.mutex, WAIT_LOCK)
        self.ending = True
        PyThread_release_lock(self.mutex)
        self.ring()

    def clear(self):
        """Nothing that waits is written any more."""
        PyThread_acquire_lock(self.mutex, WAIT_LOCK)
        self.open.used = GROUP_HEAD_BYTES
        self.done_bytes = self.put_bytes
        PyThread_release_lock(self.mutex)
        self.batches.clear()

    @property
    def waiting_bytes(self):
        """Of batches that were put and are not done."""
        return self.put_bytes - self.done_bytes

    # -- in the thread

    def wait(self):
        """Return when there is something to write: whether there is, or else it ends. None, once after each
        write, if nothing came for `rest_us`."""
        cdef bint there = False
        if not self.rested:
            with nogil:
                there = self.await_some()
        if self.rested:
            self.rested = False
            return None
        return there

    cdef bint await_some(self) noexcept nogil:
        """Whether there is something to write; if not, it ends, or has `rested`."""
        cdef bint there
        if self.spin_ns and self.brisk and not self.spin():
            self.brisk = False
        while True:
            PyThread_acquire_lock(self.mutex, WAIT_LOCK)
            there = self.open.used > GROUP_HEAD_BYTES
            self.idle = not there and not self.ending
            if not self.idle:
                PyThread_release_lock(self.mutex)
                return there
            PyThread_release_lock(self.mutex)
            if self.lie():
                self.rested = True
                return False

    cdef bint spin(self) noexcept nogil:
        """Look for something to write for a while, which spares both sides a sleep; whether it came."""
        cdef int64_t until_ns = agentnet_now_ns() + self.spin_ns
        cdef int _look
        while agentnet_now_ns() < until_ns:
            for _look in range(LOOKS_BETWEEN_TIMES):
                if agentnet_peek(self.rung) and agentnet_peek(self.open.used) > GROUP_HEAD_BYTES:
                    return True
                agentnet_breathe()
        return False

    cdef bint lie(self) noexcept nogil:
        """Wait for the bell; whether it was not rung for so long, after something was written."""
        cdef int64_t since_ns = agentnet_now_ns() if self.spin_ns else 0
        cdef bint rests = self.sleep()
        if self.spin_ns:
            self.brisk = not rests and agentnet_now_ns() - since_ns < self.spin_ns
        return rests

    cdef bint sleep(self) noexcept nogil:
        """As `lie`."""
        cdef bint idle
        if not self.bare:
            PyThread_acquire_lock(self.bell, WAIT_LOCK)
            return False
        if PyThread_acquire_lock_timed(self.bell, self.rest_us, 0):
            return False
        PyThread_acquire_lock(self.mutex, WAIT_LOCK)
        idle, self.idle = self.idle, False
        PyThread_release_lock(self.mutex)
        if not idle:                # it is being rung
            PyThread_acquire_lock(self.bell, WAIT_LOCK)
            return False
        self.bare = False
        return True

    def take(self):
        """All that waits as one batch, and its number."""
        cdef Entries entries = Entries()
        cdef Py_ssize_t size
        cdef uint64_t number
        PyThread_acquire_lock(self.mutex, WAIT_LOCK)
        try:
            number, self.flying_bytes = self.number, self.put_bytes
            size = self.open.used - GROUP_HEAD_BYTES
            memcpy(entries.reserve(size), self.open.data + GROUP_HEAD_BYTES, size)
            self.open.used = GROUP_HEAD_BYTES
        finally:
            PyThread_release_lock(self.mutex)
        entries.used += size
        while self.batches and self.batches[0][0] <= number:
            _, count, orders, frees, told = self.batches.popleft()
            entries.count += count
            entries.orders += orders
            entries.frees = entries.frees or frees
            for kind, owner, first, last, body in told:
                if not (kind >= KIND_MIN and entries.runs.joins(owner, first)):
                    entries.runs.add(owner, kind, first, body if kind < KIND_MIN else None)
                entries.runs.runs[entries.runs.count - 1].last = last
        return entries, number

    def finish(self, uint64_t number):
        """What was taken is on the disk."""
        PyThread_acquire_lock(self.mutex, WAIT_LOCK)
        self.done, self.done_bytes = number, self.flying_bytes
        PyThread_release_lock(self.mutex)
        self.bare = True
        if self.told >= 0:
            agentnet_tell(self.told)

    def take_told(self):
        """What was in the batches that are on the disk, and that `take` did not give out."""
        told = []
        while self.batches and self.batches[0][0] <= self.done:
            told += self.batches.popleft()[4]
        return told

    def write(self, int file, uint32_t salt, uint64_t group, int64_t at, int64_t grown, int64_t limit,
              int64_t spare, int64_t step):
        """Write groups, from that number and place on, up to `limit`, into what is laid down: `grown`, of
        which the last `spare` bytes are not for these; `step` more are laid down where it is not enough.

        Returns the next number and place, what is laid down, an errno, and whether a sync met it.  It comes
        back when there is no room, when the log is to be told what was in them, at the end, or with an errno.
        """
        cdef Room room
        room.file, room.salt, room.group, room.at, room.grown = file, salt, group, at, grown
        room.limit, room.spare, room.step, room.error, room.syncing = limit, spare, step, 0, False
        with nogil:
            self.write_groups(&room)
        return room.group, room.at, room.grown, room.error, bool(room.syncing)

    cdef void write_groups(self, Room* room) noexcept nogil:
        cdef int left = GROUPS_MAX
        cdef Py_ssize_t size
        cdef uint64_t number
        cdef Heap heap
        while left and self.await_some():
            left -= 1
            PyThread_acquire_lock(self.mutex, WAIT_LOCK)
            size = (self.open.used + 7) & ~7
            PyThread_release_lock(self.mutex)
            if not make_room(room, size):
                return
            PyThread_acquire_lock(self.mutex, WAIT_LOCK)
            size = (self.open.used + 7) & ~7
            if room.at + size > room.limit or room.at + size + room.spare > room.grown:
                PyThread_release_lock(self.mutex)       # it became more meanwhile
                continue
            heap, self.open = self.open, self.flying
            self.flying = heap
            number, self.flying_bytes = self.number, self.put_bytes
            self.rung = 0
            PyThread_release_lock(self.mutex)
            seal(&self.flying, size, room.salt, room.group, <uint64_t>room.at)
            room.error = agentnet_write_all(room.file, self.flying.data, size, room.at)
            if not room.error:
                room.syncing = True
                room.error = agentnet_sync(room.file)
            self.flying.used = GROUP_HEAD_BYTES
            if self.flying.capacity > BUFFER_BYTES_KEPT:
                free(self.flying.data)
                self.flying.data, self.flying.capacity = NULL, 0
            if room.error:
                return
            room.syncing = False
            self.bare = True
            room.group += 1
            room.at += size
            PyThread_acquire_lock(self.mutex, WAIT_LOCK)
            self.done, self.done_bytes = number, self.flying_bytes
            PyThread_release_lock(self.mutex)
            agentnet_tell(self.told)


cdef bint make_room(Room* room, Py_ssize_t size) noexcept nogil:
    """Whether there is a place for so much; if not, the log has to see to it, or the disk failed."""
    cdef int64_t wanted = room.at + size + room.spare
    cdef int error
    if room.at + size > room.limit:
        return False
    if wanted <= room.grown:
        return True
    wanted = max(wanted, room.grown + room.step)
    error = agentnet_lay(room.file, room.grown, wanted)
    if not error:
        room.grown = wanted
    elif error != ENOSPC and error != EDQUOT:
        room.error = error
    return not error


cdef int reserve(Heap* heap, Py_ssize_t size) except -1:
    cdef Py_ssize_t capacity = max(heap.capacity, <Py_ssize_t>4096)
    cdef void* grown
    while capacity < heap.used + size + 8:
        capacity *= 2
    if capacity != heap.capacity:
        grown = realloc(heap.data, capacity)
        if grown == NULL:
            raise MemoryError
        heap.data, heap.capacity = <uint8_t*>grown, capacity
    return 0


cdef void seal(Heap* heap, Py_ssize_t whole, uint32_t salt, uint64_t group, uint64_t position) noexcept nogil:
    """As `Entries.seal`."""
    cdef uint8_t* p = heap.data
    cdef Py_ssize_t size = heap.used - GROUP_HEAD_BYTES
    memset(p + heap.used, 0, whole - heap.used)
    put_u32(p, MARK)
    put_u64(put_u64(p + 8, group), position)
    put_u32(p + 24, <uint32_t>size)
    put_u32(p + 28, crc32c_extend(0, p + GROUP_HEAD_BYTES, size))
    put_u32(p + 4, crc32c_extend(salt, p + 8, GROUP_HEAD_BYTES - 8))
