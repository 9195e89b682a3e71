"""Mailboxes that hold nobody up: what is dropped when one is full, and who is told.

An agent with the policy BLOCK stops its senders before its mailbox is full.  With another one nobody is
stopped: DROP_OLDEST gives up the oldest message of the lowest priority that is there, DROP_NEWEST the one
that came, and DEAD_LETTER makes that a dead letter: of its sender, who is told, if it was sent with a
promise, else of this node.  A request among them is refused at once, with MailboxFull; all are counted, and
an event tells how many, at most once a tick.
"""

from agentnet_core.mailbox cimport Mailbox
from agentnet_core.message cimport TYPE_QUERY

from agentnet_core.errors import DeadLettered, MailboxFull
from agentnet_core.records import Event, WhenFull

cdef int DROP_OLDEST = WhenFull.DROP_OLDEST.number
cdef int DEAD_LETTER = WhenFull.DEAD_LETTER.number


cdef class Overflow(Freight):
    """What an engine does about full mailboxes of agents that do not stop their senders."""

    def __cinit__(self, *args, **kwargs):
        self.overflown = {}

    cdef int overflow(self, Port port, AgentMessage newest) except -1:
        """`newest` is in the mailbox, and one too many, or too large."""
        cdef Mailbox box = port.box
        while box.count > box.messages_max or box.bytes > box.bytes_max:
            if port.when_full == DROP_OLDEST:
                self.drop(port, box.take_oldest())
            else:
                self.drop(port, box.take_newest(newest.level))
        return 0

    cdef int drop(self, Port port, AgentMessage message) except -1:
        cdef bint asked = message.type == TYPE_QUERY and message.correlation
        error = MailboxFull(f"the mailbox of agent {port.record.label} is full (mailbox_messages_max, "
                            f"mailbox_bytes_max), and it drops what is too much; it was not executed")
        self.mailbox_dropped += 1
        if port not in self.overflown:
            self.overflown[port] = 0
            self.wake_by(self.now_ns)
        self.overflown[port] += 1
        if port.when_full == DEAD_LETTER and message.slip is not None:
            error = DeadLettered(str(error))
        elif port.when_full == DEAD_LETTER and not asked:
            if message.to_all:
                message.to_id = port.agent_id
            self.keep_dead(message, error)
        if message.slip is not None or asked:
            self.refuse(message, port.record, error)
        return 0

    cdef int tell_overflows(self) except -1:
        cdef Port port
        for port, count in self.overflown.items():
            self.event(Event(Event.MAILBOX_FULL, self.node_id, port.agent_id, port.record.name, count=count,
                             detail=f"{count} messages were dropped: the mailbox is full"))
        self.overflown.clear()
        return 0
