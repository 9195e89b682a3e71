"""Steps one agent's handler over its mailbox, inside one long-lived asyncio task.

The task awaits a Runner, which is the awaitable itself: it calls the handler for a message, steps
the coroutine in place, and hands the loop only what the handler really awaits.  So there is no
task and no callback per message, and `current_task`, timeouts and cancellation mean what they
always mean.  It lets the loop turn after a millisecond of work.

In: a Port, an `async` handler of one AgentMessage, the host's clock.  Out: replies, through the
engine; failures, through `report(message, error)`, which answers too and returns a token to await, or
None.  A request that was given up cancels its handler, and nothing else of the task.  It ends when it is
retired while idle, or its task is cancelled.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.stdint cimport int64_t, uint64_t

from asyncio import CancelledError, InvalidStateError, current_task

from agentnet.call cimport ANSWERED, FAILED, Awaited

from agentnet_core.errors import HandlerFailed, HandlerStuck, NetworkError, Recalled
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


cdef class Runner(Work):
    """Coroutine-like: give it to `loop.create_task`."""

    def __cinit__(self, Port port not None, handler, loop, report, monotonic_ns):
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

    def begin(self, AgentMessage message not None):
        """Be there for that message only."""
        self.single = True
        self.message = message
        self.inner = self.handler(message)

    def retire(self):
        """End when idle."""
        self.retired = True
        self.unpark()

    def recall(self, Origin origin, uint64_t correlation):
        """Cancel the handler if it is at that request of that node, or at any of it if that is 0."""
        cdef AgentMessage message = self.message
        if (message is None or message.correlation == 0 or message.slip is not None or self.recalled
                or (message.envelope is not None and message.envelope.operation is not None)
                or message.origin is not origin
                or (correlation == 0 and message.envelope is not None and message.envelope.answered)
                or (correlation and message.correlation != correlation)):
            return
        self.recalled = True
        if current_task() is self.task:     # it gave up what it is at itself
            self.loop.call_soon(self.strike, message)
        else:
            self.task.cancel()

    def strike(self, AgentMessage message):
        if self.message is message:
            self.task.cancel()

    cdef bint pardon(self) except -1:
        """The handler that was to be cancelled has ended; whether its task goes on."""
        self.recalled = False
        self.recalls += 1
        return self.task.uncancel() == 0

    # -- the coroutine protocol

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.enter(None)

    def send(self, value):
        return self.enter(None)

    def throw(self, error, value=None, traceback=None):
        return self.enter(error if isinstance(error, BaseException) else error())

    def close(self):
        inner, self.inner = self.inner, None
        if inner is not None:
            inner.close()

    cdef object enter(self, object thrown):
        """Step, and let the engine know who calls it meanwhile."""
        before, self.engine.work = self.engine.work, self
        try:
            return self.step(thrown)
        finally:
            self.engine.work = before

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
        cdef AgentMessage message
        if self.single:
            return False
        message = self.port.next_message()
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
        if self.recalled:
            self.pardon()
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
        cdef bint cancelled
        self.message = None
        self.mail = None
        if self.recalled and self.pardon() and isinstance(error, CancelledError):
            return self.stopped(message, error)
        cancelled = (isinstance(error, CancelledError) and self.task is not None and self.task.cancelling())
        if cancelled or not isinstance(error, (Exception, CancelledError)):
            if message is not None:
                self.engine.reply(message, b"", 0, (HandlerFailed.code, (
                    f"agent {self.port.record.label} on node {self.engine.node_id} was stopped while it "
                    f"handled this")))
            raise error
        if message is not None:
            self.wait_for(self.report(message, error))
        return 0

    cdef int stopped(self, AgentMessage message, object error) except -1:
        """The request was given up, and its handler is cancelled."""
        label = f"agent {self.port.record.label} on node {self.engine.node_id}"
        if getattr(error, "runs_on", False):
            failure = HandlerStuck.code, (f"{label}: the request was given up, but its function runs on in "
                                          f"its thread")
        else:
            failure = Recalled.code, f"{label} was stopped while it handled this: the request was given up"
        return self.wait_for(self.engine.reply(message, b"", 0, failure))


def settle(list items, decode):
    """Give all that waits its outcome, as of `Ready.settle`; `decode(message, hint)` reads one that is a
    value."""
    cdef Awaited awaited
    for item in items:
        if isinstance(item, Awaited):
            awaited = <Awaited>item
            outcome, awaited.told = awaited.told, None
            settle_awaited(awaited, outcome, awaited.hint, decode)
            continue
        token, outcome, hint = item
        if isinstance(token, Awaited):
            settle_awaited(<Awaited>token, outcome, hint, decode)
            continue
        try:
            if outcome is None:
                token.set_result(outcome)
            else:
                token.set_exception(outcome)
        except InvalidStateError:
            continue                # given up meanwhile


cdef int settle_awaited(Awaited call, outcome, hint, decode) except -1:
    cdef AgentMessage message
    if type(outcome) is not AgentMessage:
        return call.finish(ANSWERED if type(outcome) is Receipt else FAILED, outcome)
    message = <AgentMessage>outcome
    if message.content == 0 and hint is None:
        return call.finish(ANSWERED, message.payload)
    try:
        answer = decode(message, hint)
    except NetworkError as error:
        error.definite = False      # the handler has run
        return call.finish(FAILED, error)
    return call.finish(ANSWERED, answer)
