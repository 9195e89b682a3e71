from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from agentnet_core.message cimport PLAIN_HEAD_BYTES, AgentMessage, Origin
from agentnet_core.recalls cimport Pending
from agentnet_core.route cimport Waiting
from agentnet_core.slip cimport SLIP_BYTES

cdef enum:
    LETTER_HEAD_BYTES = PLAIN_HEAD_BYTES + 3 + SLIP_BYTES   # of what `write` writes, beside the payload
    LETTER_OVERHEAD_BYTES = 500     # what keeping one costs beside its payload


cdef class Letter:
    """One message that was sent with a promise, until it is settled."""
    cdef AgentMessage made          # once somebody needs it: see `whole`
    cdef bytes payload
    cdef readonly uint64_t number
    cdef uint64_t seq
    cdef int64_t timestamp
    cdef uint64_t index             # of its entry in the log
    cdef Pending token              # of who awaits it still
    cdef OutLine line
    cdef Letter before, after
    cdef Waiting waiting            # if it found no room yet
    cdef Watch watch                # while it is awaited, if it has a timeout
    cdef Letter due_before, due_after
    cdef int64_t timeout_ns, due_ns
    cdef uint64_t batch             # with which it gets to the disk
    cdef uint8_t wanted             # what its token waits for, as Reached
    cdef readonly uint32_t sent, failures
    cdef uint32_t due_sent          # the attempt after which it is to be sent again alone
    cdef readonly object death      # (code, text) of what it died of, else None
    cdef bint durable
    cdef bint held                  # it is not on the disk yet
    cdef bint uncertain             # it may have been executed
    cdef bint settled
    cdef PyObject* chain            # the next one in its place of a Book
    cdef inline int64_t deadline_ns(self) noexcept:
        """When it is not worth handling any more; 0 never."""
        return 0 if self.made is None else self.made.deadline_ns

    cdef AgentMessage whole(self)
    cdef uint8_t* write(self, uint8_t* p) noexcept


cdef class Book:
    cdef PyObject** places
    cdef Py_ssize_t capacity, count
    cdef int put(self, Letter letter) except -1
    cdef Letter find(self, uint64_t number)
    cdef int take_out(self, Letter letter) except -1
    cdef int resize(self, Py_ssize_t capacity) except -1


cdef class Watch:
    cdef int64_t timeout_ns
    cdef Letter head, tail
    cdef int append(self, Letter letter) except -1
    cdef int remove(self, Letter letter) except -1


cdef class OutLine:
    """What one agent has sent to another at one priority and level, in order."""
    cdef readonly uint64_t from_id, to_id
    cdef readonly object to         # as the sender named it
    cdef readonly uint8_t level
    cdef bint durable
    cdef Origin origin              # of what is sent
    cdef uint64_t epoch             # of its numbers
    cdef uint8_t care               # what most slips in it say
    cdef Letter head, tail
    cdef Letter cursor              # the first one that is to be sent
    cdef object place               # the Session that the last ones went by, or this node's Origin
    cdef str node_id                # where it was found last
    cdef int64_t due_ns             # when it is tried again, 0 at any time
    cdef uint32_t fails
    cdef object receipt             # the last one, and what it says
    cdef int told_reached
    cdef uint32_t told_sent
    cdef bint told_on_disk
    cdef str told_node
    cdef object receipt_of(self, Letter letter, int reached, str node_id, bint on_disk)
    cdef int append(self, Letter letter) except -1
    cdef int unlink(self, Letter letter) except -1
    cdef int go_back(self, Letter letter) except -1
    cdef int address(self, Letter letter) except -1


cdef Letter new_letter(AgentMessage message, OutLine line)
