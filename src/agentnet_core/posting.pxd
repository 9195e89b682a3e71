from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from agentnet_core.casting cimport Casting
from agentnet_core.durable cimport Durable
from agentnet_core.letters cimport Book, Letter, OutLine, Watch
from agentnet_core.message cimport AgentMessage

cdef enum:                  # Reached
    KEPT = 1
    MAILBOXED = 2
    PROCESSED = 3
    ON_DISK = 4             # beside one of them, in a DONE frame


cdef class Posting(Casting):
    cdef readonly Durable durable
    cdef readonly dict letters           # epoch -> Book
    cdef Book own, kept                  # of them, those of this life, and those on the disk
    cdef dict out_lines                  # (from, to, priority, durable) -> OutLine
    cdef OutLine last_out                # the one that was written to last
    cdef dict watches                    # timeout -> Watch
    cdef Watch last_watch
    cdef list fresh                      # Letters since the driver set the clock last
    cdef object writing                  # deque of Letters that are not on the disk yet
    cdef object closing                  # deque of (batch, token, Receipt)
    cdef list agenda                     # heap of (when, order, OutLine or Letter)
    cdef readonly Py_ssize_t letters_count
    cdef readonly int64_t letters_bytes
    cdef int64_t writing_bytes           # of those
    cdef readonly dict dead              # number -> Letter, the oldest first
    cdef int64_t dead_bytes, dead_dropped
    cdef int64_t letters_dead, letters_lost
    cdef int64_t retry_min_ns, retry_max_ns, delivery_ns
    cdef int64_t letters_max, letters_bytes_max, log_waiting_max

    cdef Letter compose(self, uint64_t from_id, to, payload, tuple options, delivery, until, timeout)
    cdef AgentMessage write_letter(self, uint64_t from_id, to, payload, tuple options)
    cdef Letter letter_of(self, AgentMessage message)
    cdef int drop_line(self, OutLine line) except -1
    cdef int reach_kept(self, Letter letter) except -1
    cdef int tell(self, Letter letter, outcome) except -1
    cdef int fail_due(self, Letter letter) except -1
    cdef int check_room(self, int64_t size) except -1
    cdef int check_disk(self, int64_t size) except -1
    cdef bint may_write(self, int64_t size) noexcept
    cdef int enter(self, Letter letter) except -1
    cdef OutLine line_to(self, uint64_t from_id, uint64_t to_id, to, uint8_t level, bint durable)
    cdef int watch(self, Letter letter) except -1
    cdef int drive(self, OutLine line) except -1
    cdef int defer(self, OutLine line) except -1
    cdef int plan(self, int64_t when_ns, what) except -1
    cdef int finish_letter(self, Letter letter, int reached, str node_id, bint on_disk) except -1
    cdef int fail_letter(self, Letter letter, error) except -1
    cdef int lay(self, Letter letter) except -1
    cdef int keep_dead(self, AgentMessage message, error) except -1
    cdef int keep_death(self, Letter letter) except -1
    cdef int remove(self, Letter letter) except -1
    cdef int detach(self, Letter letter) except -1
    cdef int expire_letters(self, int64_t now_ns) except -1
