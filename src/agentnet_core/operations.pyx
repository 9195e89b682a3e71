"""Operations: what is done once, however often it is asked for, across restarts of either side.

An operation is what one agent asks of another under an id of its choice.  The first message that brings the
id is handled; while it is, others that do wait for what comes of it; then its result is kept, and they are
told that.  A handler that failed has done nothing: the next one is handled.  A handler may say itself, with
`once`, that it is done, and what that changes in its agent's store: either all of it is on the disk, or
nothing.  So may the handler of any message that was sent with a promise: it is known by its line and number.

Held here: `operations_max` of them, at work or kept, and `operations_bytes_max`; the next one is refused.
Results are kept for `operation_ms`; of one that is too large only that it was there.  Nothing is told before
it is on the disk, if there is one.
"""

from collections import deque

from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint64_t

from agentnet_core.durable cimport ANSWERED_BEFORE_THE_WRITE
from agentnet_core.envelope cimport STREAM_ASKED, STREAM_INPUT
from agentnet_core.message cimport TYPE_QUERY
from agentnet_core.deeds cimport RESULT_OVERHEAD_BYTES, Store, size_of, value_size
from agentnet_core.lines cimport InLine
from agentnet_core.slip cimport CARE_DURABLE, CARE_LEVEL

from agentnet_core.config import STORE_KEY_BYTES_MAX
from agentnet_core.errors import (
    ConfigError, Congested, LeaseExpired, LimitReached, NetworkError, ResultForgotten, StorageBusy,
    StorageFailed, UsageError,
)
from agentnet_core.records import describe
from agentnet_core.deeds import OPERATIONS

cdef int64_t MS = 1_000_000


cdef int check_key(name) except -1:
    """ConfigError unless it can be a key of a store."""
    try:
        if isinstance(name, str) and 0 < len(name.encode()) <= STORE_KEY_BYTES_MAX:
            return 0
    except UnicodeEncodeError:
        pass
    raise ConfigError(f"once: key {describe(name)}: expected a text of 1 to {STORE_KEY_BYTES_MAX} bytes as "
                      f"UTF-8")


cdef class Begun:
    pass


cdef class Operations(Leases):
    """The part of an engine that knows what was done."""

    def __cinit__(self, *args, **kwargs):
        self.deeds = Deeds(self.durable)
        self.begun, self.committing = {}, deque()

    def limit_letters(self):
        """Take the limits of the config."""
        Leases.limit_letters(self)
        self.operation_ns, self.operations_max = self.config.operation_ms * MS, self.config.operations_max
        self.operations_bytes_max = self.config.operations_bytes_max
        self.result_bytes_max = self.config.operation_result_bytes_max

    cdef tuple key_of(self, AgentMessage message):
        """What it is known by; None if nobody would send it again."""
        cdef bint asked = message.type == TYPE_QUERY and message.correlation
        if message.to_all or (message.slip is None and not asked):
            return None
        if message.envelope is not None and message.envelope.operation is not None:
            if message.envelope.part & (STREAM_ASKED | STREAM_INPUT):
                return None
            return message.from_agent, message.to_id, message.envelope.operation
        if message.slip is None:
            return None
        return (message.origin.node_id, message.slip.epoch, message.from_agent, message.to_id, message.level,
                message.correlation)

    # -- what comes

    cdef bint admit_once(self, record, AgentMessage message) except -1:
        """Whether its handler is to see it; else it was done, or is being done, or there is no room."""
        cdef tuple key
        cdef Kept kept
        cdef Begun begun
        if not self.deeds.results and (message.envelope is None or message.envelope.operation is None):
            return True
        key = self.key_of(message)
        if key is None:
            return True
        self.forget_results()
        kept = self.deeds.results.get(key)
        if kept is not None:
            self.operations_replayed += 1
            self.tell_of(message, kept)
            return False
        if len(key) != 3:
            return True
        begun = self.begun.get(key)
        if begun is not None:
            if len(begun.waiters) >= self.config.operation_waiters_max:
                self.refuse(message, record, Congested(
                    f"agent {record.label}: {len(begun.waiters)} messages wait for operation {key[2]!r} "
                    f"already (operation_waiters_max)"))
                return False
            self.operations_joined += 1
            begun.waiters.append(message)
            return False
        if self.durable.failure is not None:
            self.refuse(message, record, StorageFailed(
                f"node {self.node_id} can keep no result: {self.durable.failure}; it was not executed",
                definite=True))
            return False
        if (len(self.begun) + len(self.deeds.results) >= self.operations_max
                or self.deeds.results_bytes + size_of(key, 0) > self.operations_bytes_max):
            self.operations_refused += 1
            self.refuse(message, record, LimitReached(
                f"node {self.node_id} keeps {len(self.deeds.results)} results of operations and is at "
                f"{len(self.begun)} (operations_max, operations_bytes_max, operation_ms); it was not "
                f"executed"))
            return False
        begun = Begun.__new__(Begun)
        begun.owner, begun.waiters = message, []
        self.begun[key] = begun
        return True

    cdef int forget_results(self) except -1:
        """Those that were kept for long enough."""
        cdef Kept kept
        cdef int64_t before_ns = self.now_ns + self.wall_offset_ns - self.operation_ns
        while self.deeds.results:
            kept = next(iter(self.deeds.results.values()))
            if kept.when_ns >= before_ns or kept.batch:
                break
            self.deeds.drop(kept)
        return 0

    cdef Begun take_begun(self, tuple key, AgentMessage message):
        """The operation that this message has begun, which is not at work any more; None if it has not."""
        return self.begun.pop(key) if self.is_own(key, message) else None

    cdef bint is_own(self, tuple key, AgentMessage message) except -1:
        begun = self.begun.get(key) if key is not None else None
        return begun is not None and (<Begun>begun).owner is message

    # -- what becomes of it

    cdef object reply_once(self, AgentMessage request, bytes payload, int content, failure):
        cdef tuple key = self.key_of(request)
        cdef Begun begun = self.take_begun(key, request)
        request.taker = None
        if begun is not None:
            return self.conclude(request, key, begun, payload, content, failure)
        kept = self.deeds.results.get(key)
        if kept is None:
            return self.respond(request, payload, content, failure)
        self.tell_of(request, kept)
        return None

    cdef int handled(self, AgentMessage message, failure) except -1:
        cdef tuple key
        cdef Begun begun
        cdef Kept kept
        if message.envelope is None and not self.deeds.results:
            return Leases.handled(self, message, failure)
        key = self.key_of(message)
        begun = self.take_begun(key, message)
        if begun is not None and not message.slip.lapsed:
            self.conclude(message, key, begun, b"", 0, failure)
            return 0
        kept = self.deeds.results.get(key)
        if kept is None or message.slip.lapsed:
            return Leases.handled(self, message, failure)
        self.tell_of(message, kept)
        return 0

    cdef Kept keep(self, tuple key, bytes payload, int content, bint firm):
        cdef int64_t size = PyBytes_GET_SIZE(payload)
        cdef bint whole = (size <= self.result_bytes_max
                           and self.deeds.results_bytes + size_of(key, size) <= self.operations_bytes_max)
        self.rouse()
        return self.deeds.add(key, payload, <uint8_t>content, whole, self.now_ns + self.wall_offset_ns, firm)

    cdef object conclude(self, AgentMessage message, tuple key, Begun begun, bytes payload, int content,
                         failure):
        """Its handler has ended: a token to await, as of `reply`."""
        cdef AgentMessage other
        cdef Kept kept
        if failure is None and self.durable.failure is not None:
            failure = (StorageFailed.code, str(self.durable.failure))
        if failure is not None:
            for other in begun.waiters:
                self.say_of(other, b"", 0, failure)
            return self.say_of(message, payload, content, failure)
        kept = self.keep(key, payload, content, True)
        if message.slip is not None and message.slip.care & CARE_LEVEL == CARE_DURABLE:
            Leases.handled(self, message, None)     # its mark is in the same batch
        else:
            kept.told.append(message)
        kept.told += begun.waiters
        if not kept.batch or self.durable.defect == ANSWERED_BEFORE_THE_WRITE:
            self.say_all(kept)
        return None

    cdef object say_of(self, AgentMessage message, bytes payload, int content, failure):
        if message.slip is not None:
            Leases.handled(self, message, failure)
            return None
        return self.respond(message, payload, content, failure)

    cdef int tell_of(self, AgentMessage message, Kept kept) except -1:
        """It was done before: say so, once that is on the disk."""
        if kept.batch and self.durable.defect != ANSWERED_BEFORE_THE_WRITE:
            if self.durable.failure is None:
                kept.told.append(message)
            elif message.slip is None:
                self.respond(message, b"", 0, (StorageFailed.code, str(self.durable.failure)))
            return 0
        return self.say_kept(message, kept)

    cdef int say_kept(self, AgentMessage message, Kept kept) except -1:
        if message.slip is not None:
            Leases.handled(self, message, None)
            if len(kept.key) != 3 and message.slip.care & CARE_LEVEL == CARE_DURABLE:
                self.marks_due_ns = 0       # its line, or its letter, says with this batch that it was done
                self.deeds.spend(kept)
        elif kept.whole or kept.told is not None:
            self.respond(message, kept.payload, kept.content, None)
        else:
            self.respond(message, b"", 0, (ResultForgotten.code, (
                f"operation {kept.key[2]!r} was processed; its result was too large to be kept "
                f"(operation_result_bytes_max, operations_bytes_max)")))
        return 0

    def say_all(self, Kept kept not None):
        """It is done for good: tell all who wait."""
        cdef AgentMessage message
        for message in kept.told:
            self.say_kept(message, kept)
        kept.told = kept.owner = None
        if not kept.whole:
            self.deeds.forget_payload(kept)

    cdef int refuse(self, AgentMessage message, record, error) except -1:
        cdef AgentMessage other
        cdef Begun begun
        if message.envelope is not None and message.envelope.operation is not None:
            begun = self.take_begun(self.key_of(message), message)
            if begun is not None:
                for other in begun.waiters:
                    Leases.refuse(self, other, record, error)
        return Leases.refuse(self, message, record, error)

    cdef int lapse(self, AgentMessage message) except -1:
        cdef AgentMessage other
        cdef Begun begun
        if message.envelope is not None and message.envelope.operation is not None:
            begun = self.take_begun(self.key_of(message), message)
            if begun is not None:
                for other in begun.waiters:
                    self.say_of(other, b"", 0, (LeaseExpired.code, "the handler that was waited for is gone"))
        return Leases.lapse(self, message)

    # -- done by the handler's own word

    def once(self, AgentMessage message not None, changes, result):
        """Commit that it is done: a token, settled when that is on the disk; see `AgentMessage.once`."""
        token = self.make_token()
        try:
            given = dict(changes or {})
            self.check_commit(message, self.key_of(message), given)
            payload, content = self.to_bytes(result)
            self.commit(message, given, payload, content, token)
        except NetworkError as error:
            error.definite = True
            self.settle(token, error)
        return token

    cdef int check_commit(self, AgentMessage message, tuple key, dict changes) except -1:
        cdef int64_t size = 0, keys = 0, limit = self.config.store_value_bytes_max
        cdef dict store = self.deeds.stores.get(message.to_id, {})
        if key is None:
            raise UsageError("once: nobody would send this message again: it was sent without a promise, and "
                             "has no operation id")
        if message.slip is not None and message.slip.lapsed:
            raise LeaseExpired("once: the lease has expired, and the message was given back; nothing was "
                               "committed")
        if key in self.deeds.results or (len(key) == 3 and not self.is_own(key, message)):
            raise UsageError("once: that it is done was committed before")
        for name, value in changes.items():
            check_key(name)
            if value is not None and type(value) is not bytes:
                raise ConfigError(f"once: value of {name!r}: expected bytes or None, got {describe(value)}")
            if value is not None:
                size += value_size(name, len(value))
                keys += 1
                if len(value) > limit:
                    raise LimitReached(f"once: {len(value)} bytes for {name!r}: at most {limit} "
                                       f"(store_value_bytes_max)")
            if name in store:
                size -= value_size(name, len((<Kept>store[name]).payload))
                keys -= 1
        if (0 < keys and self.deeds.store_keys + keys > self.config.store_keys_max
                or 0 < size and self.deeds.store_bytes + size > self.config.store_bytes_max):
            raise LimitReached(f"once: {self.deeds.store_keys} keys of {self.deeds.store_bytes} bytes are "
                               f"kept (store_keys_max, store_bytes_max); nothing was committed")
        if len(key) != 3 and (
                len(self.begun) + len(self.deeds.results) >= self.operations_max
                or self.deeds.results_bytes + RESULT_OVERHEAD_BYTES > self.operations_bytes_max):
            raise LimitReached(f"once: {len(self.deeds.results)} results are kept (operations_max, "
                               f"operations_bytes_max); nothing was committed")
        if self.durable.failure is not None:
            raise StorageFailed(*self.durable.failure.args, definite=True)
        if self.deeds.writing_bytes and 2 * (self.deeds.writing_bytes + size) > self.log_waiting_max:
            raise StorageBusy("once: as much as may waits for the disk already; nothing was committed")
        return 0

    cdef int commit(self, AgentMessage message, dict changes, bytes payload, int content, token) except -1:
        cdef tuple key = self.key_of(message)
        cdef Begun begun = self.take_begun(key, message)
        cdef Kept kept
        for name, value in changes.items():
            self.deeds.change(message.to_id, name, value)
        kept = self.keep(key, payload, content, False)
        kept.owner = message
        if begun is not None:
            kept.told += begun.waiters
        if kept.batch and self.durable.defect != ANSWERED_BEFORE_THE_WRITE:
            self.committing.append((kept.batch, token))
            return 0
        self.settle(token, None)
        self.say_all(kept)
        return 0

    def store_of(self, uint64_t agent_id):
        """What that agent has committed, to read."""
        return Store(self.deeds, agent_id)

    # -- the disk

    def recover(self, dict found not None):
        Leases.recover(self, found)
        self.deeds.open(found.get(OPERATIONS), self.now_ns + self.wall_offset_ns - self.operation_ns)
        for kept in list(self.deeds.results.values()):
            if self.is_spent((<Kept>kept).key):
                self.deeds.drop(kept)

    cdef bint is_spent(self, tuple key) except -1:
        """Whether the log says without that result that it was done: its line does, or its letter is gone."""
        cdef InLine line
        if len(key) == 3:
            return False
        if key[0] == self.node_id:
            return key[1] != self.durable.epoch or key[5] not in self.kept
        line = self.in_lines.get(key[:5])
        return line is not None and (key[5] <= line.last or key[5] in line.early)

    def relieve(self, uint64_t owner, uint64_t index):
        if owner != <uint64_t>OPERATIONS:
            Leases.relieve(self, owner, index)
            return
        self.deeds.relieve(index)
        self.rouse()

    def persisted(self, uint64_t batch):
        cdef Kept kept
        for kept in self.deeds.persisted(batch):
            if kept.told is not None:
                self.say_all(kept)
        while self.committing and self.committing[0][0] <= batch:
            self.settle(self.committing.popleft()[1], None)
        Leases.persisted(self, batch)

    def unpersisted(self, error):
        cdef Kept kept
        final = isinstance(error, StorageFailed)
        Leases.unpersisted(self, error)
        for kept in self.deeds.refused():
            if final or not kept.firm:
                self.undo_commit(kept, (error.code, str(error)), final)
        while self.committing:
            self.settle(self.committing.popleft()[1], error)

    def undo_commit(self, Kept kept not None, failure, final):
        """It is not done, as far as is known: who waits is told, and its handler may say it again."""
        cdef AgentMessage other
        cdef Begun begun
        told, kept.told = kept.told or [], None
        for other in told:
            if other.slip is None or not final:
                self.say_of(other, b"", 0, failure)
        if kept.owner is not None and len(kept.key) == 3:
            begun = self.begun[kept.key] = Begun.__new__(Begun)
            begun.owner, begun.waiters = kept.owner, []
        kept.owner = None

    def mark_again(self):
        Leases.mark_again(self)
        self.deeds.write_again()

    def letter_stats(self):
        return {
            **Leases.letter_stats(self),
            "operations": len(self.begun), "operations_kept": len(self.deeds.results),
            "operations_bytes": self.deeds.results_bytes, "operations_replayed": self.operations_replayed,
            "operations_joined": self.operations_joined, "operations_refused": self.operations_refused,
            "store_keys": self.deeds.store_keys, "store_bytes": self.deeds.store_bytes,
        }
