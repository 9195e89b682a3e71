from libc.stdint cimport int64_t

from agentnet_core.calls cimport Calls
from agentnet_core.framing cimport Arena
from agentnet_core.route cimport Waiting
from agentnet_core.session cimport Session


cdef class Links(Calls):
    cdef readonly Arena arena
    cdef readonly list links         # every open Session
    cdef readonly bint cordoned      # in maintenance: no new work
    cdef int64_t control_bytes_max
    cdef int64_t links_lost, links_retired, messages_unconfirmed

    cdef int check_fit(self, Waiting waiting, Session session) except -1
    cdef Session stand_in(self, str node_id)
    cdef int expire_stuck(self) except -1
    cdef int supersede(self, Session old, Session new) except -1
    cdef int follow(self, Waiting waiting, Session new) except -1
    cdef int move(self, Session old, Session new) except -1
    cdef int part(self, Session session, error) except -1
    cdef int set_aside(self, Session session, lost) except -1
    cdef int strand(self, Session session, lost, unsent) except -1
