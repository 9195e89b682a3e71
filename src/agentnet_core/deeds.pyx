"""What was done once: the results of operations, and what they changed in the stores of agents, on the disk.

One owner in the node's log, OPERATIONS.  All that one commit puts here is in one batch, which the log keeps
whole or not at all: so nothing is changed that is not known to be done, nor the other way round.  It counts
at once for who reads, is told when its batch is persisted, and undone when the disk refuses it; but a result
whose handler has returned stays, and is written again.  What nobody needs is released; what holds an old
segment is written again.
"""

from collections import deque

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

import msgpack

from agentnet_core.durable cimport EFFECT_WITHOUT_MARK, MARK_WITHOUT_EFFECT, RESULTS_FORGOTTEN

from agentnet_core.errors import StorageDamaged

OPERATIONS = 3

cdef uint64_t OWNER = OPERATIONS

cdef enum:
    RESULT = 16
    VALUE = 17
    REMOVED = 18


def by_index(Kept kept not None):
    return kept.index


def by_time(Kept kept not None):
    return kept.when_ns


cdef int64_t size_of(tuple key, Py_ssize_t payload) except -1:
    """What a result counts for."""
    return payload + RESULT_OVERHEAD_BYTES + (len(key[2].encode()) if len(key) == 3 else 0)


cdef int64_t value_size(str key, Py_ssize_t value) except -1:
    return value + len(key.encode()) + VALUE_OVERHEAD_BYTES


cdef class Kept:
    pass


cdef class Deeds:
    def __cinit__(self, Durable durable not None):
        self.durable = durable
        self.results, self.stores = {}, {}
        self.order, self.undo, self.moved, self.writing = deque(), deque(), deque(), deque()
        self.refused_results, self.spent, self.unspent = [], deque(), []

    def open(self, found, int64_t before_ns):
        """Take what the log had; results from before that time are forgotten. StorageDamaged."""
        cdef Kept kept
        if found is None:
            return
        self.index = found.last
        for index, kind, body in found.entries:
            try:
                said = msgpack.unpackb(body)
                if kind == RESULT:
                    when_ns, content, whole, payload, *key = said
                    kept = make(RESULT, tuple(key), payload, content, whole, when_ns)
                    self.place(kept, self.results.get(kept.key))
                    kept.gone = when_ns < before_ns or self.durable.defect == RESULTS_FORGOTTEN
                elif kind == VALUE:
                    agent_id, name, payload = said
                    kept = make(VALUE, (agent_id, name), payload, 0, True, 0)
                    self.place(kept, self.stores.get(agent_id, {}).get(name))
                else:
                    agent_id, name = said
                    kept = self.stores.get(agent_id, {}).get(name)
                    if kept is not None:            # else it is released, and this is not yet
                        self.place(None, kept)
                    continue
            except (ValueError, TypeError, KeyError, OverflowError) as error:
                raise StorageDamaged(f"entry {index} of operations: {error!r}") from None
            kept.index = index
            self.order.append(kept)
        for kept in [each for each in self.results.values() if (<Kept>each).gone]:
            self.drop(kept)
        self.results = {kept.key: kept for kept in sorted(self.results.values(), key=by_time)}

    # -- in memory

    cdef int place(self, Kept kept, Kept before) except -1:
        """It stands where that one was; either may be None."""
        cdef Kept one = kept if kept is not None else before
        if one.kind == RESULT:
            if before is not None:
                self.results_bytes -= size_of(before.key, PyBytes_GET_SIZE(before.payload))
                del self.results[before.key]
            if kept is not None:
                self.results_bytes += size_of(kept.key, PyBytes_GET_SIZE(kept.payload))
                self.results[kept.key] = kept
        else:
            agent_id, name = one.key
            store = self.stores.setdefault(agent_id, {})
            if before is not None:
                self.store_bytes -= value_size(name, PyBytes_GET_SIZE(before.payload))
                self.store_keys -= 1
                del store[name]
            if kept is not None:
                self.store_bytes += value_size(name, PyBytes_GET_SIZE(kept.payload))
                self.store_keys += 1
                store[name] = kept
            elif not store:
                del self.stores[agent_id]
        if before is not None:
            before.gone = True
        if kept is not None:
            kept.gone = False
        return 0

    cdef int change(self, uint64_t agent_id, str key, bytes value) except -1:
        """Let that key of the agent have that value, or none; part of the commit that `add` ends."""
        cdef Kept before = self.stores.get(agent_id, {}).get(key), kept = None
        if value is None and before is None:
            return 0
        if value is not None:
            kept = make(VALUE, (agent_id, key), value, 0, True, 0)
        self.place(kept, before)
        self.undo.append((self.durable.batch, kept, before))
        if kept is not None:
            return self.write(kept)
        if self.durable.on and self.durable.defect != MARK_WITHOUT_EFFECT:
            self.put_body(REMOVED, msgpack.packb((agent_id, key)))
        return 0

    cdef Kept add(self, tuple key, bytes payload, uint8_t content, bint whole, int64_t when_ns, bint firm):
        """That operation is done, and this is its result. Not `firm`: only if the disk takes it."""
        cdef Kept kept = make(RESULT, key, payload, content, whole, when_ns)
        kept.firm, kept.told = firm, []
        self.place(kept, None)
        if not firm:
            self.undo.append((self.durable.batch, kept, None))
        self.write(kept)
        self.sweep()
        if self.durable.on:
            kept.batch = self.durable.batch
            self.writing.append(kept)
            self.writing_bytes += PyBytes_GET_SIZE(payload)
        return kept

    cdef int drop(self, Kept kept) except -1:
        """Nobody needs that result any more."""
        if self.results.get(kept.key) is kept:
            self.place(None, kept)
        return 0

    cdef int spend(self, Kept kept) except -1:
        """Nobody needs it any more, once this batch is on the disk: that says the same."""
        if not self.durable.on:
            return self.drop(kept)
        if self.durable.resting:
            self.unspent.append(kept)
        else:
            self.spent.append((self.durable.batch, kept))
        return 0

    cdef int forget_payload(self, Kept kept) except -1:
        """It was too large to be kept."""
        if self.results.get(kept.key) is kept:
            self.results_bytes -= PyBytes_GET_SIZE(kept.payload)
        kept.payload = b""
        return 0

    # -- the log

    cdef int put_body(self, uint8_t kind, bytes body) except -1:
        self.index += 1
        return self.durable.entries.put_record(
            OWNER, kind, self.index, <const uint8_t*>PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))

    cdef int write(self, Kept kept) except -1:
        cdef int defect = self.durable.defect
        if not self.durable.on:
            return 0
        if kept.kind == RESULT:
            body = msgpack.packb((kept.when_ns, kept.content, kept.whole, kept.payload if kept.whole else b"",
                                  *kept.key))
        else:
            body = msgpack.packb((*kept.key, kept.payload))
        if defect != (EFFECT_WITHOUT_MARK if kept.kind == RESULT else MARK_WITHOUT_EFFECT):
            self.put_body(kept.kind, body)
        kept.index = self.index
        self.order.append(kept)
        return 0

    cdef int sweep(self) except -1:
        """Let go of what nobody needs, at the log's end."""
        cdef Kept kept
        if not self.durable.on or not self.order or not (<Kept>self.order[0]).gone:
            return 0
        while self.order and (<Kept>self.order[0]).gone:
            kept = self.order.popleft()
            self.moved.append((self.durable.batch, kept.index, kept))
        return self.release()

    cdef int release(self) except -1:
        index = (<Kept>self.order[0]).index if self.order else self.index + 1
        self.durable.entries.release(OWNER, index)
        return 0

    cdef int relieve(self, uint64_t index) except -1:
        """Let the entries up to that one go: what lives of them is written again, behind."""
        cdef Kept kept
        while self.order and (<Kept>self.order[0]).index <= index:
            kept = self.order.popleft()
            self.moved.append((self.durable.batch, kept.index, kept))
            if not kept.gone:
                self.write(kept)
        return self.release()

    cdef list persisted(self, uint64_t batch):
        """The results that have come to the disk with the batches up to that one."""
        cdef Kept kept
        cdef list there = []
        while self.undo and self.undo[0][0] <= batch:
            self.undo.popleft()
        while self.moved and self.moved[0][0] <= batch:
            self.moved.popleft()
        while self.writing and (<Kept>self.writing[0]).batch <= batch:
            kept = self.writing.popleft()
            self.writing_bytes -= PyBytes_GET_SIZE(kept.payload)
            kept.batch = 0
            there.append(kept)
        while self.spent and self.spent[0][0] <= batch:
            self.drop(self.spent.popleft()[1])
        return there

    cdef list refused(self):
        """No batch that is not persisted will be: all is as it was, but for what is firm. Their results."""
        cdef Kept kept, before
        cdef list lost = list(self.writing)
        while self.undo:
            _, kept, before = self.undo.pop()
            self.place(before, kept)
        for _, index, kept in reversed(self.moved):
            kept.index = index
            self.order.append(kept)
        if self.moved:
            self.moved.clear()
            self.order = deque(sorted(dict.fromkeys(self.order), key=by_index))
        self.writing.clear()
        self.writing_bytes = 0
        while self.spent:
            self.unspent.append(self.spent.popleft()[1])
        for kept in lost:
            if kept.firm and not kept.gone:
                self.refused_results.append(kept)
            else:
                kept.batch = 0
        return lost

    cdef int write_again(self) except -1:
        """The disk may take now what it refused."""
        cdef Kept kept
        lost, self.refused_results = self.refused_results, []
        for kept in self.unspent:
            self.spent.append((self.durable.batch, kept))
        self.unspent.clear()
        for kept in lost:
            if kept in self.order:
                self.order.remove(kept)
            self.write(kept)
            kept.batch = self.durable.batch
            self.writing.append(kept)
            self.writing_bytes += PyBytes_GET_SIZE(kept.payload)
        return 0


cdef Kept make(uint8_t kind, tuple key, bytes payload, uint8_t content, bint whole, int64_t when_ns):
    cdef Kept kept = Kept.__new__(Kept)
    kept.kind, kept.key, kept.payload = kind, key, payload
    kept.content, kept.whole, kept.when_ns = content, whole, when_ns
    return kept


cdef class Store:
    """What an agent has committed with `once`, to read: keys to bytes."""

    def __cinit__(self, Deeds deeds not None, uint64_t agent_id):
        self.deeds, self.agent_id = deeds, agent_id

    def get(self, key, default=None):
        kept = self.deeds.stores.get(self.agent_id, {}).get(key)
        return default if kept is None else (<Kept>kept).payload

    def __getitem__(self, key):
        return (<Kept?>self.deeds.stores.get(self.agent_id, {})[key]).payload

    def __contains__(self, key):
        return key in self.deeds.stores.get(self.agent_id, {})

    def __len__(self):
        return len(self.deeds.stores.get(self.agent_id, {}))

    def __iter__(self):
        return iter(list(self.deeds.stores.get(self.agent_id, {})))

    def keys(self):
        return list(self)

    def items(self):
        return [(key, self[key]) for key in self]

    def values(self):
        return [self[key] for key in self]
