from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from agentnet_core.entries cimport Entries
from agentnet_core.letters cimport Letter
from agentnet_core.lines cimport InLine
from agentnet_core.message cimport AgentMessage


# Bugs, planted by tests that must find them; 0 none.
cdef enum Defect:
    DONE_BEFORE_THE_WRITE = 1
    KEPT_BEFORE_THE_WRITE = 2
    WINDOWS_FORGOTTEN = 3
    LETTERS_FORGOTTEN = 4
    DONE_AT_THE_MAILBOX = 5
    TAIL_DROPPED = 6
    NO_WINDOW = 7
    NO_ORDER = 8
    RELEASED_EARLY = 9
    NUMBERS_AGAIN = 10
    NOT_SENT_AGAIN = 11
    MARKED_AT_THE_MAILBOX = 12
    LATE_WORD = 13
    RESULTS_FORGOTTEN = 14
    MARK_WITHOUT_EFFECT = 15
    EFFECT_WITHOUT_MARK = 16
    ANSWERED_BEFORE_THE_WRITE = 17


cdef class Durable:
    """What one node has, and has heard, of deliveries: in its log, or nowhere if it has none."""
    cdef readonly bint on
    cdef readonly object failure        # the StorageFailed after which nothing is written any more
    cdef readonly uint64_t epoch        # of the numbers of durable letters
    cdef readonly uint64_t number       # the last one given, of any epoch
    cdef readonly uint64_t batch        # the number of the one that is being gathered
    cdef public int defect
    cdef readonly list tenants
    cdef readonly Entries entries       # what is written with the next batch
    cdef Entries spare
    cdef uint64_t mail_index, windows_index, windows_base
    cdef object order                   # deque of Letter, as in the log
    cdef list moved_out
    cdef uint64_t epoch_batch
    cdef bint epoch_written, epoch_kept, resting, torn
    cdef list settled, settled_out      # Letters; (batch, Letters) on their way
    cdef dict marked                    # place -> InLine
    cdef uint32_t places
    cdef int start(self, uint64_t incarnation) except -1
    cdef int put(self, uint64_t owner, uint8_t kind, bytes body) except -1
    cdef int keep(self, Letter letter, int64_t expiry_ns) except -1
    cdef int bury(self, Letter letter) except -1
    cdef int settle(self, Letter letter) except -1
    cdef int write_settled(self) except -1
    cdef int mark(self, InLine line) except -1
    cdef int unmark(self, InLine line) except -1
    cdef Entries drain(self, bint settle)
    cdef int rewrite_windows(self) except -1
    cdef int rewrite_letters(self, uint64_t index, int64_t wall_offset_ns) except -1
