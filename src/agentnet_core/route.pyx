"""Where a message goes, and what its sender awaits until it is on its way.

A Route is an agent behind a link, or of this node; it counts what waits for it, so that this is
bounded.  A Waiting is one message that found no room.  Awaiting Done costs nothing, awaiting a Pause
lets the loop turn once.
"""

from cpython.bytes cimport PyBytes_GET_SIZE

cimport cython


cdef class Done:
    """What an accepted send returns: awaiting it costs nothing."""
    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        raise StopIteration


cdef Done _SENT = Done()
SENT = _SENT


@cython.freelist(8)
cdef class Pause:
    """Awaiting it lets the loop turn once."""
    cdef bint over

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if self.over:
            raise StopIteration
        self.over = True


cdef class Route:
    """Where an agent is reached. `stopped`: it said that its mailbox is filling up."""

    def __init__(self, record, Session session):
        self.agent_id = record.agent_id
        self.record = record
        self.session = session


cdef class Waiting:
    def __cinit__(self, AgentMessage message not None, Route route not None, token, int64_t wait_ns):
        self.message, self.route, self.token, self.wait_ns = message, route, token, wait_ns
        route.waiting_count += 1
        route.waiting_bytes += PyBytes_GET_SIZE(message.payload)

    cdef int drop(self) except -1:
        """It is sent, or given up."""
        self.dropped = True
        self.route.waiting_count -= 1
        self.route.waiting_bytes -= PyBytes_GET_SIZE(self.message.payload)
        return 0

    cdef int move(self, Route route) except -1:
        """It waits for that one from now on."""
        self.drop()
        self.dropped = False
        self.route = route
        route.waiting_count += 1
        route.waiting_bytes += PyBytes_GET_SIZE(self.message.payload)
        return 0
