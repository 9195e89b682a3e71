from libc.stdint cimport int64_t, uint8_t, uint64_t

from agentnet.liveness.sealing cimport STACK_BYTES


cdef struct Slot:
    uint64_t number             # 0: free
    int udp, tcp                # descriptors, which their Pulse's maker keeps open
    uint8_t secret[32]
    uint64_t incarnation
    int64_t beat_ns             # when the loop last turned; written by the loop without the lock
    int64_t lag_ns_max          # a loop that stands for longer is blocked
    int64_t look_lag_ns         # the lag at which the next stack is wanted
    int64_t asked_ns            # when a stack was asked for that is not here yet, or 0
    bint wanted                 # and nobody has begun to look
    bint looked                 # since the loop stands
    int stack_size
    char stack[STACK_BYTES]
    uint64_t answered, dropped


cdef class Pulse:
    cdef Slot* slot
    cdef readonly uint64_t number
    cdef uint64_t epoch
    cdef int end(self) except -1
