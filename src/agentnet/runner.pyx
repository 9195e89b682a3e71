"""Steps one agent's handler over its mailbox, inside one long-lived asyncio task.

The task awaits a Runner, which is the awaitable itself: it calls the handler for a message, steps
the coroutine in place, and hands the loop only what the handler really awaits.  So there is no
task and no callback per message, and `current_task`, timeouts and cancellation mean what they
always mean.  It lets the loop turn after a millisecond of work.

In: a Port, an `async` handler of one AgentMessage, the host's clock.  Out: replies, through the
engine; failures, through `report(message, error)`, which answers too and returns a token to await, or
None.  It ends when it is retired while idle, or its task is cancelled.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.stdint cimport int64_t

from asyncio import CancelledError, InvalidStateError

from agentnet_core.errors import HandlerFailed, NetworkError
from agentnet_core.records import Receipt

cdef extern from "Python.h":
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT
    PySendResult PyIter_Send(object, object, PyObject**) except PYGEN_ERROR

cdef enum:
    STRIDE_MAX = 64

cdef int64_t TURN_NS = 1_000_000


cdef class Runner:
    """Coroutine-like: give it to `loop.create_task`."""

    def __cinit__(self, Port port not None, handler, loop, report, monotonic_ns):
        self.port = port
        self.engine = port.engine
        self.handler = handler
        self.loop = loop
        self.report = report
        self.monotonic_ns = monotonic_ns

    @property
    def idle(self):
        return self.mail is not None

    def unpark(self):
        """There is mail."""
        mail, self.mail = self.mail, None
        if mail is not None and not mail.done():
            mail.set_result(None)

    def retire(self):
        """End when idle."""
        self.retired = True
        self.unpark()

    # -- the coroutine protocol

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.step(None)

    def send(self, value):
        return self.step(None)

    def throw(self, error, value=None, traceback=None):
        return self.step(error if isinstance(error, BaseException) else error())

    def close(self):
        inner, self.inner = self.inner, None
        if inner is not None:
            inner.close()

    cdef object step(self, object thrown):
        """Run until there is something for the loop to wait for, and return that."""
        cdef int64_t before, now = self.monotonic_ns(), turn_ends = now + TURN_NS
        cdef int stride = 1, left = 1       # messages between looks at the clock, and to the next one
        cdef bint ended = False
        cdef PySendResult outcome
        cdef PyObject* got = NULL
        self.engine.now_ns = now
        if thrown is not None and self.inner is None:
            raise thrown
        while True:
            try:
                if thrown is not None:
                    error, thrown = thrown, None
                    return self.inner.throw(error)
                while True:
                    if self.inner is None:
                        if left == 0:
                            before, now = now, self.monotonic_ns()
                            self.engine.now_ns = now
                            if now >= turn_ends:
                                return None
                            stride = min(2 * stride, STRIDE_MAX) if now - before < TURN_NS // 16 else 1
                            left = stride
                        left -= 1
                        if not self.next_message():
                            ended = True
                            break
                    outcome = PyIter_Send(self.inner, None, &got)
                    result = <object>got
                    Py_XDECREF(got)
                    if outcome == PYGEN_NEXT:
                        return result
                    self.inner = None
                    if self.message is None or self.message.correlation:
                        break
                    self.message = None
            except StopIteration as stop:       # out of `throw`: it caught the error and returned
                result = stop.value
            except BaseException as error:
                if self.inner is None and self.message is None:
                    raise
                self.inner = None
                self.failed(error)
                continue
            if ended:
                raise StopIteration
            self.inner = None
            self.finish(result)

    cdef bint next_message(self) except -1:
        """Set `inner` to what to await next; False when there is nothing left to do."""
        cdef AgentMessage message = self.port.next_message()
        if message is None:
            if self.retired:
                return False
            self.mail = self.loop.create_future()
            self.inner = self.mail.__await__()
        else:
            self.message = message
            self.inner = self.handler(message)
        return True

    cdef int finish(self, object result) except -1:
        cdef AgentMessage message = self.message
        if message is None:
            return 0                # it was idle, or waited for room
        self.message = None
        if message.correlation:
            if type(result) is bytes or message.slip is not None:
                token = self.engine.reply(message, result if type(result) is bytes else b"")
            else:
                try:
                    payload, content = self.engine.to_bytes(result)
                except NetworkError as error:
                    return self.wait_for(self.report(message, error))
                token = self.engine.reply(message, payload, content)
            self.wait_for(token)
        return 0

    cdef int wait_for(self, object token) except -1:
        """Too many answers wait already: this one first, if it is not None."""
        if token is not None:
            self.inner = token.__await__()
        return 0

    cdef int failed(self, object error) except -1:
        cdef AgentMessage message = self.message
        cdef bint cancelled = (isinstance(error, CancelledError) and self.task is not None
                               and self.task.cancelling())
        self.message = None
        self.mail = None
        if cancelled or not isinstance(error, (Exception, CancelledError)):
            if message is not None:
                self.engine.reply(message, b"", 0, (HandlerFailed.code, (
                    f"agent {self.port.record.label} on node {self.engine.node_id} was stopped while it "
                    f"handled this")))
            raise error
        if message is not None:
            self.wait_for(self.report(message, error))
        return 0


def settle(list items, decode):
    """Give each waiting future its outcome; `decode(message, hint)` reads an answer that is a value."""
    cdef AgentMessage message
    for token, outcome, hint in items:
        try:
            if type(outcome) is AgentMessage:
                message = <AgentMessage>outcome
                if message.content == 0 and hint is None:
                    token.set_result(message.payload)
                else:
                    token.set_result(decode(message, hint))
            elif outcome is None or type(outcome) is Receipt:
                token.set_result(outcome)
            else:
                token.set_exception(outcome)
        except InvalidStateError:
            continue                # given up meanwhile
        except NetworkError as error:   # out of `decode`
            error.definite = False      # the handler has run
            if not token.done():
                token.set_exception(error)
