from libc.stdint cimport int64_t, uint8_t, uint64_t

from agentnet_core.envelope cimport Envelope
from agentnet_core.framing cimport Frame
from agentnet_core.message cimport AgentMessage, Origin
from agentnet_core.overflow cimport Overflow
from agentnet_core.port cimport Port
from agentnet_core.route cimport Route, Waiting
from agentnet_core.session cimport Session


cdef struct Limit:
    uint64_t correlation
    uint64_t wanted                 # the part that comes next
    uint64_t limit                  # parts granted so far


cdef class Reader:
    """The asker's end of a stream: the parts that have come, in order, until they are taken."""
    cdef Streams engine
    cdef readonly uint64_t correlation
    cdef readonly object to
    cdef uint64_t agent_id
    cdef Route route
    cdef Port asker
    cdef object parts               # deque of AgentMessage
    cdef readonly uint64_t position     # of the next part to come
    cdef uint64_t taken, granted    # by who reads it, and what the sender was told of that
    cdef int64_t freed              # bytes taken since then
    cdef readonly bint over         # its last part has come, or it was given up
    cdef object error               # what it ends with
    cdef object waiter
    cdef Waiting waiting            # until it is sent
    cdef int64_t idle_ns, deadline_ns
    cdef readonly bint adrift       # its link is lost: it goes on by the next one
    cdef int64_t resume_ns          # until when that is waited for
    cdef str node_id                # that answers, once a part has come
    cdef uint64_t incarnation
    cdef Envelope cause             # of the message whose handler asks; None outside of handlers
    cdef uint64_t share             # of the calls that may be open below that one
    cdef readonly Writer giver      # of the input that it was asked with, until that is over
    cdef int stop(self, error) except -1
    cdef int end_call(self) except -1
    cdef int wake(self) except -1
    cdef int accept(self, Session session, AgentMessage message) except -1
    cdef int grant(self, uint64_t wanted=*) except -1
    cdef int forget(self) except -1
    cdef int breach(self, error) except -1


cdef class Writer:
    """The handler's end: the parts that who asked may not have yet."""
    cdef Streams engine
    cdef readonly AgentMessage request
    cdef Session session
    cdef tuple key
    cdef uint64_t from_id, to_id
    cdef uint8_t what               # its parts are, as StreamPart
    cdef bint whole                 # what the handler returns is the only part
    cdef object kept                # deque of AgentMessage, the first one at `base`
    cdef int64_t bytes
    cdef uint64_t base, sent, limit     # of positions: kept from, sent up to, and to be sent up to
    cdef readonly bint over         # its last part is among them
    cdef readonly bint adrift
    cdef readonly object error      # why nothing more is to be said
    cdef object waiter
    cdef int64_t deadline_ns
    cdef int flush(self) except -1
    cdef int wake(self) except -1
    cdef bint full(self) noexcept
    cdef int advance(self, Session session, uint64_t wanted, uint64_t limit) except -1
    cdef int go_on(self) except -1
    cdef int end(self, error) except -1


cdef class Streams(Overflow):
    cdef readonly dict readers       # correlation -> Reader
    cdef readonly dict writers       # (node id, incarnation, correlation) -> Writer
    cdef int64_t streams_max, stream_parts_max, stream_bytes_max, stream_idle_ns, stream_resume_ns
    cdef int64_t streams_lost
    cdef int limit_streams(self) except -1
    cdef Writer give(self, AgentMessage request)
    cdef int put_grant(self, Reader reader, uint64_t wanted) except -1
    cdef int put_limit(self, uint8_t kind, Reader reader, uint64_t wanted, uint64_t limit) except -1
    cdef int put_part(self, Session session, AgentMessage part) except -1
    cdef int end_stream(self, Writer writer, failure) except -1
    cdef int on_grant(self, Session session, Frame* frame) except -1
    cdef int granted(self, Session session, Origin origin, uint64_t correlation, uint64_t wanted,
                     uint64_t limit) except -1
    cdef int end_writer(self, Writer writer, error) except -1
    cdef int set_adrift(self, Session session) except -1
    cdef int take_up(self, Session session) except -1
    cdef int tick_streams(self) except -1


cdef int read_limit(Frame* frame, str kind, Limit* it) except -1
