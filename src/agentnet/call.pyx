"""What `request` returns: a future of the answer, which can be given up and then tells what became of it.

It does what an asyncio.Future does, and `gather`, `wait_for` and `shield` take it for one.  But whoever
awaits it hands the loop a future of the loop's own, made only then, so that asyncio goes its short way; and
to cancel it, or who awaits it, reaches the engine at once, which stops the remote handler.

Three facts are told apart: I gave up, the remote stopped, the effect was committed.  See `Fate`.
"""

from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_INCREF, Py_XDECREF

cimport cython

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


@cython.freelist(256)
cdef class Call(Pending):
    """The answer to a request, to come; it has the methods of an `asyncio.Future`."""

    __class_getitem__ = classmethod(GenericAlias)

    # -- as the driver of the engine sees it

    cdef int finish(self, State state, outcome) except -1:
        if self.state == CANCELLED:
            self.learn(outcome)     # it was on its way to who gave up
        if self.state != WAITS:
            return 0
        self.state, self.outcome = state, outcome
        if self.waiter is not None:
            try:
                self.waiter.set_result(None)
            except InvalidStateError:       # its task was cancelled in this very turn
                pass
        return self.call_back() if self.callbacks is not None else 0

    cdef int lapse(self) except -1:
        """Nobody waits for it any more."""
        self.state = CANCELLED
        Pending.give_up(self)
        return self.call_back() if self.callbacks is not None else 0

    cdef int call_back(self) except -1:
        callbacks, self.callbacks = self.callbacks, None
        loop = self.get_loop()
        for function, context in callbacks:
            loop.call_soon(function, self, context=context)
        return 0

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

    # -- as who asked sees it

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

    def cancel(self, msg=None):
        """Give it up: who awaits it is cancelled, and so is the remote handler. False if it was over."""
        if self.state != WAITS:
            return False
        self.lapse()
        if self.waiter is not None:
            self.waiter.cancel(msg)
        return True

    def cancelled(self):
        return self.state == CANCELLED

    def done(self):
        return self.state != WAITS

    def result(self):
        if self.state == WAITS:
            raise InvalidStateError("the request has no answer yet")
        return self.take()

    def exception(self):
        if self.state == WAITS:
            raise InvalidStateError("the request has no answer yet")
        if self.state == CANCELLED:
            raise CancelledError
        return self.outcome if self.state == FAILED else None

    def get_loop(self):
        return self.wait().get_loop()

    def add_done_callback(self, function, *, context=None):
        """Call `function` with this when it is over: as of an `asyncio.Future`."""
        if context is None:
            context = copy_context()
        if self.state != WAITS:
            self.get_loop().call_soon(function, self, context=context)
        elif self.callbacks is None:
            self.callbacks = [(function, context)]
        else:
            self.callbacks.append((function, context))

    def remove_done_callback(self, function):
        """Do not call it; how often it would have been called."""
        if self.callbacks is None:
            return 0
        kept = [pair for pair in self.callbacks if pair[0] != function]
        removed = len(self.callbacks) - len(kept)
        self.callbacks = kept
        return removed

    @property
    def _asyncio_future_blocking(self):
        return False                # that there is such a name tells asyncio that this is a future

    @property
    def _cancel_message(self):
        return None                 # which `gather` reads of what was cancelled

    def _make_cancelled_error(self):
        return CancelledError()

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
        if (self.state == WAITS and isinstance(error, CancelledError) and self.waiter is not None
                and self.waiter.cancelled()):
            self.lapse()            # by its task, which was cancelled
        raise error

    cdef object wait(self):
        """The loop's own future of its end."""
        if self.waiter is None:
            self.waiter = self.engine.make_token()
        return self.waiter

    cdef object take(self):
        if self.state == ANSWERED:
            return self.outcome
        if self.state == CANCELLED:
            raise CancelledError
        raise self.outcome

    def __repr__(self):
        return f"<Call {('pending', 'answered', 'failed', 'cancelled')[self.state]}>"


cdef PySendResult resume(object self, object value, PyObject** result) except PYGEN_ERROR:
    cdef Call call = <Call>self
    result[0] = NULL
    if call.state == WAITS:
        outcome = call.wait()
        outcome._asyncio_future_blocking = True
        Py_INCREF(outcome)
        result[0] = <PyObject*>outcome
        return PYGEN_NEXT
    outcome = call.take()
    Py_INCREF(outcome)
    result[0] = <PyObject*>outcome
    return PYGEN_RETURN


agentnet_set_send(<PyTypeObject*>Call, resume)
