"""What `request` returns, and a `send` with a promise: a future of the answer, or of the receipt.

It is a future of its own, with all that a task, `gather`, `wait_for` and `shield` ask of one.  The tasks
whose answers came together are woken together, which takes the loop one callback and not one for each.
A request can be given up: to cancel it, or who awaits it, reaches the engine at once, which stops the remote
handler; it then tells what became of it.

Three facts are told apart: I gave up, the remote stopped, the effect was committed.  See `Fate`.
"""

from cpython.contextvars cimport PyContext_Enter, PyContext_Exit
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_INCREF, Py_XDECREF

from asyncio import CancelledError, InvalidStateError
from contextvars import copy_context
from types import GenericAlias
from typing import NamedTuple

from agentnet_core.errors import HandlerStuck, LinkLost, NetworkError, RequestTimeout

cdef extern from *:
    """
    /* Cython fills in no am_send, without which each answer would travel as a StopIteration. */
    static void agentnet_set_send(PyTypeObject *type, sendfunc send) {
        type->tp_as_async->am_send = send;
        PyType_Modified(type);
    }
    """
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT
    ctypedef PySendResult (*sendfunc)(object, object, PyObject**) except PYGEN_ERROR
    void agentnet_set_send(PyTypeObject* type, sendfunc send)


class Fate(NamedTuple):
    """What became of a request; None where that is not known.

    ``gave_up``: the asker gave up before it had an answer. ``stopped``: nobody works on it any more, at the
    other side either. ``committed``: its handler had finished; False: the handler was stopped in its midst,
    failed, or never began.
    """

    gave_up: bool
    stopped: object
    committed: object


cdef class Awaited(Pending):
    """What is to come; it has the methods of an `asyncio.Future`. Of a send: its Receipt."""

    __class_getitem__ = classmethod(GenericAlias)

    def __init__(self, Waker waker not None):
        self.waker = waker

    # -- as the driver of the engine sees it

    cdef int finish(self, State state, outcome) except -1:
        if self.state != WAITS:
            return 0
        self.state, self.outcome = state, outcome
        return self.call_back()

    cdef int lapse(self, message) except -1:
        """Nobody waits for it any more."""
        self.state, self.outcome = CANCELLED, message
        return self.call_back()

    cdef int call_back(self) except -1:
        if self.wakeup is not None:
            (<Waker>self.waker).wake(self)
        if self.callbacks is not None:
            callbacks, self.callbacks = self.callbacks, None
            for callback, context in callbacks:
                self.get_loop().call_soon(callback, self, context=context)
        return 0

    # -- as who asked sees it

    def cancel(self, msg=None):
        """Give it up: who awaits it is cancelled, and so is a remote handler. False if it was over."""
        if self.state != WAITS:
            return False
        self.lapse(msg)
        return True

    cpdef bint cancelled(self) except -1:
        return self.state == CANCELLED

    def done(self):
        return self.state != WAITS

    def result(self):
        if self.state == WAITS:
            raise InvalidStateError("it has not come yet")
        return self.take()

    def exception(self):
        if self.state == WAITS:
            raise InvalidStateError("it has not come yet")
        if self.state == CANCELLED:
            raise self._make_cancelled_error()
        return self.outcome if self.state == FAILED else None

    def get_loop(self):
        if self.waker is None:
            raise TypeError("a half-made one: those that work come of a request or a send")
        return (<Waker>self.waker).loop

    def add_done_callback(self, function, *, context=None):
        """Call `function` with this when it is over: as of an `asyncio.Future`."""
        if context is None:
            context = copy_context()
        claimed, self.claimed = self.claimed, False
        if self.state != WAITS or self.waker is None:
            self.get_loop().call_soon(function, self, context=context)
        elif claimed and self.wakeup is None:
            self.wakeup, self.context = function, context
        elif self.callbacks is None:
            self.callbacks = [(function, context)]
        else:
            self.callbacks.append((function, context))

    def remove_done_callback(self, function):
        """Do not call it; how often it would have been called."""
        cdef int removed = 0
        if self.wakeup is not None and self.wakeup == function:
            self.wakeup = self.context = None
            removed = 1
        kept = [pair for pair in self.callbacks or () if pair[0] != function]
        removed += len(self.callbacks or ()) - len(kept)
        self.callbacks = kept or None
        return removed

    @property
    def _asyncio_future_blocking(self):
        return self.awaited         # True tells a task that it is to wait for this; the name, that it can

    @_asyncio_future_blocking.setter
    def _asyncio_future_blocking(self, bint awaited):
        self.awaited, self.claimed = awaited, self.awaited

    @property
    def _cancel_message(self):
        return self.outcome if self.state == CANCELLED else None

    def _make_cancelled_error(self):
        return CancelledError() if self.outcome is None else CancelledError(self.outcome)

    # -- as a coroutine that awaits it sees it: all that is to be kept is here

    def __await__(self):
        return self

    def __iter__(self):
        return self

    # No `send` and no `close`: with them it would pass for a coroutine, which asyncio.wait refuses.

    def __next__(self):
        cdef PyObject* got = NULL
        cdef PySendResult outcome = resume(self, None, &got)
        result = <object>got
        Py_XDECREF(got)
        if outcome == PYGEN_NEXT:
            return result
        raise StopIteration(result)

    def throw(self, error, value=None, traceback=None):
        if not isinstance(error, BaseException):
            error = value if isinstance(value, BaseException) else error() if value is None else error(value)
        raise error

    cdef object take(self):
        if self.state == ANSWERED:
            return self.outcome
        if self.state == CANCELLED:
            raise self._make_cancelled_error()
        raise self.outcome

    def __repr__(self):
        return f"<{type(self).__name__} {('pending', 'answered', 'failed', 'cancelled')[self.state]}>"


cdef class Call(Awaited):
    """The answer to a request, to come."""

    cdef Pending another(self):
        cdef Call call = Call.__new__(Call)
        call.waker = self.waker
        return call

    cdef Pending receipt(self):
        cdef Awaited awaited = Awaited.__new__(Awaited)
        awaited.waker = self.waker
        return awaited

    cdef int finish(self, State state, outcome) except -1:
        if self.state == CANCELLED:
            self.learn(outcome)     # it was on its way to who gave up
        return Awaited.finish(self, state, outcome)

    cdef int lapse(self, message) except -1:
        self.state, self.outcome = CANCELLED, message
        Pending.give_up(self)
        return self.call_back()

    def learn(self, outcome):
        """What became of it since it was given up: a message, the answer, an error, or None if unknown."""
        if outcome is None or isinstance(outcome, (LinkLost, RequestTimeout)):
            self.word = Fate(True, None, None)
        elif isinstance(outcome, HandlerStuck):
            self.word = Fate(True, False, None)
        elif isinstance(outcome, NetworkError):
            self.word = Fate(True, True, False)
        else:
            self.word = Fate(True, True, True)
        if self.fate is not None and not self.fate.done():
            self.fate.set_result(self.word)

    def give_up(self):
        """Wait for the answer no more; await the result to learn what became of the request, as a `Fate`.

        That takes a round trip, or `recall_ms_max` where no word comes. Of a request that was answered
        it is known at once; one that was cancelled or timed out before has been given up already.
        """
        self.cancel()
        if self.fate is None:
            self.fate = self.engine.make_token()
            if self.word is None and self.state != CANCELLED and self.correlation not in self.engine.recalled:
                self.word = self.known()
            if self.word is not None:
                self.fate.set_result(self.word)
        return self.fate

    cdef object known(self):
        """What the outcome itself tells."""
        if self.state == ANSWERED:
            return Fate(False, True, True)
        if isinstance(self.outcome, (LinkLost, RequestTimeout)):
            return Fate(isinstance(self.outcome, RequestTimeout), None, None)
        return Fate(False, True, False)


cdef class Waker:
    """Wakes the tasks whose awaited have come: those of one turn in one callback of the loop."""

    def __cinit__(self, loop not None):
        self.loop = loop
        self.ended = loop.create_future()
        self.ended.set_result(None)
        self.calls = []

    cdef int wake(self, Awaited call) except -1:
        if not self.calls:
            self.loop.call_soon(self.run)
        self.calls.append(call)
        return 0

    def run(self):
        cdef Awaited call
        cdef list calls = self.calls
        cdef Py_ssize_t done = 0
        self.calls = []
        try:
            for call in calls:
                done += 1
                wakeup, call.wakeup = call.wakeup, None
                if wakeup is None:
                    continue
                PyContext_Enter(call.context)
                try:
                    wakeup(self.ended)      # it resumes the call, which has the outcome
                finally:
                    PyContext_Exit(call.context)
        except BaseException:               # it ends the program, or would; the others are still to be woken
            if done < len(calls):
                self.calls[:0] = calls[done:]
                self.loop.call_soon(self.run)
            raise


cdef PySendResult resume(object self, object value, PyObject** result) except PYGEN_ERROR:
    cdef Awaited call = <Awaited>self
    result[0] = NULL
    if call.state == WAITS:
        call.awaited = True
        Py_INCREF(call)
        result[0] = <PyObject*>call
        return PYGEN_NEXT
    outcome = call.take()
    Py_INCREF(outcome)
    result[0] = <PyObject*>outcome
    return PYGEN_RETURN


agentnet_set_send(<PyTypeObject*>Awaited, resume)
agentnet_set_send(<PyTypeObject*>Call, resume)
