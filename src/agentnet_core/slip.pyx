"""The slip on a message that is delivered with a promise: field 5, `[care, attempt, epoch, prior]`.

`care`: the level in two bits (1 acknowledged, 2 durable), then whether the sender is to be told when it is
in the mailbox (4), and when it was processed (8).  The number of the delivery is the `correlation` of the
message, which is neither a request nor an answer.  Numbers of one epoch rise; those of one line, which is
an epoch, a sender, a receiver and a priority, are not without gaps, so each names the one `prior` to it.
"""

cimport cython

from agentnet_core.framing cimport get_u32, get_u64, pack_u64, put_u32, read_array, read_uint


@cython.freelist(2048)
@cython.no_gc       # what could hold it in a circle is an AgentMessage, which has none either
cdef class Slip:
    cdef Slip another(self):
        """One that says the same."""
        cdef Slip other = Slip.__new__(Slip)
        other.care, other.attempt, other.epoch, other.prior = self.care, self.attempt, self.epoch, self.prior
        return other


cdef uint8_t* put_slip(uint8_t* p, uint8_t field, uint8_t care, uint32_t attempt, uint64_t epoch,
                       uint64_t prior) noexcept:
    p[0], p[1], p[2], p[3] = field, 0x94, care, 0xce
    p = pack_u64(put_u32(p + 4, attempt), epoch)
    return pack_u64(p, prior)


cdef uint8_t* write_slip(uint8_t* p, uint8_t field, Slip slip) noexcept:
    return put_slip(p, field, slip.care, slip.attempt, slip.epoch, slip.prior)


cdef Slip read_slip(Cursor* c):
    """The slip that the cursor stands before; None if that is none."""
    cdef Slip slip = Slip.__new__(Slip)
    cdef const uint8_t* p = c.at
    cdef uint32_t n = 0
    cdef uint64_t care = 0, attempt = 0
    if (c.end - p >= SLIP_BYTES - 1 and p[0] == 0x94 and p[1] <= CARE_MAX and p[2] == 0xce and p[7] == 0xcf
            and p[16] == 0xcf):     # as `put_slip` writes it
        care, attempt, slip.epoch, slip.prior = p[1], get_u32(p + 3), get_u64(p + 8), get_u64(p + 17)
        c.at += SLIP_BYTES - 1
    elif not (read_array(c, &n) and n == 4 and read_uint(c, &care) and read_uint(c, &attempt)
              and read_uint(c, &slip.epoch) and read_uint(c, &slip.prior)):
        return None
    if (care > CARE_MAX or care <= CARE_LEVEL or care & CARE_LEVEL not in (CARE_ACKNOWLEDGED, CARE_DURABLE)
            or not 0 < attempt <= 0xffffffff):
        return None
    slip.care, slip.attempt = <uint8_t>care, <uint32_t>attempt
    return slip
