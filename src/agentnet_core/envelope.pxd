from libc.stdint cimport uint8_t, uint32_t, uint64_t

from agentnet_core.framing cimport Cursor

cdef enum EnvelopeField:
    FIELD_HOPS = 3
    FIELD_CHAIN = 4
    FIELD_OPERATION = 9
    FIELD_STREAM = 13

cdef enum:
    PATH_AGENTS_MAX = 64
    AGENT_BYTES = 9         # of a path: each id as a MessagePack u64

cdef enum StreamPart:
    STREAM_ASKED = 1        # of a request: it is answered in parts
    STREAM_INPUT = 2        # of a request: its input follows in parts
    STREAM_ANSWER = 4       # a part of an answer
    STREAM_GIVEN = 8        # a part of an input
    STREAM_LAST = 16        # no part comes after it
    STREAM_KNOWN = 31


cdef class Envelope:
    cdef uint32_t held              # bit n: field n is there
    # 3: messages that this one may still cause, one after another
    cdef uint32_t hops
    # 4: who asked whom, and how many calls may be open below this one at a time
    cdef uint64_t budget
    cdef bytes passed_by            # the ids, AGENT_BYTES each
    cdef bint answered              # a stream that was asked for is, or was
    cdef bint taken                 # its input is read, or was
    cdef object inputs              # of the engine that has its input a weak reference, if it has one
    cdef bint started               # a chain begins with this message, which itself carries none
    cdef uint64_t open_calls        # of its handler, at this time
    # 9: its sender's name for it, under which it is done once
    cdef readonly str operation
    # 13: what it is to a stream, and how many parts went before
    cdef uint8_t part
    cdef uint64_t position

    cdef uint32_t count(self) noexcept
    cdef Py_ssize_t size(self) noexcept
    cdef uint8_t* write(self, uint8_t* p) noexcept
    cdef bint read(self, uint64_t key, Cursor* c) except -1
    cdef int put_chain(self, uint32_t hops, uint64_t budget, bytes path) except -1
    cdef int put_operation(self, str operation) except -1
    cdef int put_stream(self, uint8_t part, uint64_t position) except -1
    cdef bint passed(self, uint64_t agent_id) noexcept
    cdef list agents(self)


cdef inline bint is_enveloped(uint64_t key) noexcept:
    return key == FIELD_HOPS or key == FIELD_CHAIN or key == FIELD_OPERATION or key == FIELD_STREAM

cdef str check_operation(operation)

cdef bytes extend_path(bytes path, uint64_t agent_id)
cdef object parts_of(message, Envelope envelope)
cdef object taker_of(port)
