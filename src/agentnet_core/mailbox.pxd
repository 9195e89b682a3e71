from libc.stdint cimport uint64_t

from cpython.object cimport PyObject

from agentnet_core.message cimport AgentMessage, Origin

cdef enum:
    LEVELS = 4


cdef struct Ring:
    PyObject** slots
    Py_ssize_t capacity     # a power of two, or 0
    Py_ssize_t head, count


cdef class Mailbox:
    cdef Ring rings[LEVELS]
    cdef readonly Py_ssize_t count, bytes, messages_max, bytes_max
    cdef uint64_t arrivals
    cdef int streak
    cdef int push(self, AgentMessage message) except -1
    cpdef AgentMessage pop(self)
    cdef AgentMessage take_out(self, Origin origin, uint64_t correlation)
    cdef list take_requests(self, Origin origin)
    cdef AgentMessage take_oldest(self)
    cdef AgentMessage take_newest(self, int level)
    cdef int took(self, Ring* ring, AgentMessage message) except -1
    cdef int _fairest(self, int top) noexcept


cdef inline bint is_full(Mailbox box) noexcept:
    return box.count >= box.messages_max or box.bytes >= box.bytes_max

cdef inline bint is_high(Mailbox box) noexcept:
    """At three quarters: senders are told to stop."""
    return 4 * box.count >= 3 * box.messages_max or 4 * box.bytes >= 3 * box.bytes_max

cdef inline bint is_low(Mailbox box) noexcept:
    """At half: they may go on."""
    return 2 * box.count <= box.messages_max and 2 * box.bytes <= box.bytes_max
