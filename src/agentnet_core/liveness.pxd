from libc.stdint cimport int64_t

from agentnet_core.session cimport Session


cdef class Watch:
    cdef readonly bint has_port
    cdef int64_t pinged_ns, probed_ns, answered_ns, excused_ns, inactive_ns, lag_ns, due_ns
    cdef int unanswered
    cdef bint told


cdef class Liveness:
    cdef object _engine, _config
    cdef double _pace
    cdef int64_t _silence_ns, _probe_ns, _unreachable_ns, _inactive_ns, _stands_ns
    cdef int64_t _ping_ns, _refresh_ns, _late_ns, _along_ns, _check_ns
    cdef int64_t _again_ns, _patience_ns, _rest_ns, _grace_ns
    cdef int64_t _due_ns        # when a link is to be looked at next
    cdef dict _watches, _known
    cpdef ask(self, Session session, int64_t now_ns)
    cpdef int64_t heard_ns(self, Session session) except? -1
    cdef int look_by(self, int64_t when_ns) except -1
    cdef int64_t along_ns(self, Session session) noexcept
    cdef int64_t check_handshake(self, Session session, int64_t now_ns) except? -1
    cdef int64_t check(self, Session session, Watch watch, int64_t now_ns) except? -1
    cdef str lost(self, Session session, Watch watch, int64_t now_ns)
    cdef int64_t next_ping_ns(self, Session session) noexcept
    cdef int64_t next_probe_ns(self, Session session, Watch watch) noexcept
    cdef int is_back(self, Session session, Watch watch) except -1
