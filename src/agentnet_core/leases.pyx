"""Leases: how long a handler may have a message that was sent with a promise, and whose word counts of it.

A lease begins when the handler gets the message, not while that waits in a mailbox.  Each time that
`lease_ms` are over, its Port is asked whether the handler lives: then it goes on, for `lease_ms_max` in all.
Else the message is given back, to come again, and what that handler says then is late: refused, counted.

Held here: the messages that handlers have, as a list through their slips, the one that is due first in front.
"""

from agentnet_core.durable cimport LATE_WORD
from agentnet_core.letters cimport Letter
from agentnet_core.message cimport copy_message

from agentnet_core.errors import LeaseExpired
from agentnet_core.records import Event

cdef int64_t MS = 1_000_000


cdef class Leases(Reception):
    """The part of an engine that knows who works on what was sent with a promise."""

    def limit_letters(self):
        """Take the limits of the config."""
        Reception.limit_letters(self)
        self.lease_ns, self.lease_ns_max = self.config.lease_ms * MS, self.config.lease_ms_max * MS

    cdef int hand_over(self, Route port, AgentMessage message) except -1:
        """A handler has it from now on."""
        cdef Slip slip = message.slip
        if slip is None:
            if message.envelope.operation is not None:
                message.taker = port
        else:
            message.taker = port
            if slip.due_ns:         # another one has had it: of this node's own letters, where an agent moved
                self.end_lease(slip)
                self.leases -= 1
            slip.handed = slip.attempt
            slip.message, slip.since_ns = message, self.now_ns
            self.leases += 1
            self.begin_lease(slip)
        return 0

    cdef int begin_lease(self, Slip slip) except -1:
        slip.due_ns = self.now_ns + self.lease_ns
        slip.before = self.last_lease
        if self.last_lease is None:
            self.first_lease = slip
        else:
            self.last_lease.after = slip
        self.last_lease = slip
        return 0

    cdef int end_lease(self, Slip slip) except -1:
        cdef Slip before = slip.before, after = slip.after
        if before is None:
            self.first_lease = after
        else:
            before.after = after
        if after is None:
            self.last_lease = before
        else:
            after.before = before
        slip.before = slip.after = None
        slip.due_ns = 0
        return 0

    cdef int handled(self, AgentMessage message, failure) except -1:
        cdef Slip slip = message.slip
        if slip.due_ns:
            self.end_lease(slip)
            self.leases -= 1
            slip.message = message.taker = None     # which would hold each other
        if slip.lapsed and self.durable.defect != LATE_WORD:
            self.acks_late += 1
            return 0
        return Reception.handled(self, message, failure)

    cdef int tick_leases(self) except -1:
        cdef Slip slip = self.first_lease
        cdef AgentMessage message
        while slip is not None and slip.due_ns <= self.now_ns:
            message = slip.message
            self.end_lease(slip)
            if self.now_ns - slip.since_ns < self.lease_ns_max and message.taker.attends(message):
                self.leases_extended += 1
                self.begin_lease(slip)
            else:
                self.leases -= 1
                self.lapse(message)
            slip = self.first_lease
        return 0

    cdef int lapse(self, AgentMessage message) except -1:
        """Give it back: it comes again, and its handler may say what it likes."""
        cdef Slip slip = message.slip
        cdef AgentMessage copy
        cdef Letter letter
        record, line = message.taker.record, slip.line
        ms = (self.now_ns - slip.since_ns) // MS
        text = (f"agent {record.label}: its handler did not end in {ms} ms (lease_ms, lease_ms_max), or is "
                f"gone")
        slip.lapsed, slip.message, message.taker = True, None, None
        self.leases_expired += 1
        self.event(Event(Event.LEASE_EXPIRED, self.node_id, record.agent_id, record.name, text,
                         error=LeaseExpired(text)))
        if message.origin is self.origin:
            letter = self.letter_of(message)
            if letter is None or letter.made is not message:
                return 0
            copy = copy_message(message)        # its handler has the message, and is not at the next attempt
            copy.correlation, copy.seq, copy.slip = message.correlation, message.seq, slip.another()
            letter.made = copy
            return self.take_back(letter, LeaseExpired.code, text.encode(), self.node_id, slip.attempt, 0)
        Reception.handled(self, message, (LeaseExpired.code, text))
        if self.durable.defect == LATE_WORD:
            slip.line = line
        return 0

    def letter_stats(self):
        return {**Reception.letter_stats(self), "leases": self.leases,
                "leases_extended": self.leases_extended, "leases_expired": self.leases_expired}
