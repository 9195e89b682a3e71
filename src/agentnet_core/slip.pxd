from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from agentnet_core.framing cimport Cursor


# What a delivery asks for: its level, and what it wants to be told.
cdef enum Care:
    CARE_ACKNOWLEDGED = 1
    CARE_DURABLE = 2
    CARE_LEVEL = 3
    CARE_MAILBOXED = 4
    CARE_PROCESSED = 8
    CARE_MAX = 15

cdef enum:
    SLIP_BYTES = 26         # with the number of its field


cdef class Slip:
    """What a message carries that is delivered with a promise; its number is the message's correlation."""
    cdef readonly uint8_t care
    cdef readonly uint32_t attempt
    cdef readonly uint64_t epoch    # of which the number is one: a life of the sender, or its log
    cdef readonly uint64_t prior    # the number before it in its line that is not settled, or 0
    cdef object line                # at the receiver, once it is let in
    # While a handler has it: a link of the list of leases.
    cdef object message
    cdef Slip before, after
    cdef int64_t since_ns, due_ns   # 0 while none has
    cdef uint32_t handed            # the attempt that one has, or had
    cdef bint lapsed                # it was given back: what its handler says counts no more
    cdef Slip another(self)


cdef uint8_t* put_slip(uint8_t* p, uint8_t field, uint8_t care, uint32_t attempt, uint64_t epoch,
                       uint64_t prior) noexcept
cdef uint8_t* write_slip(uint8_t* p, uint8_t field, Slip slip) noexcept
cdef Slip read_slip(Cursor* c)
