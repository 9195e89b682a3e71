"""To all agents, or to those of a group: one frame for each node, or one for all on the broadcast tree.

In: a message without a receiver.  Out: frames in the lanes of the nodes, copies for the agents of this
node, and tokens of what has no room yet.  Where every node is linked, the links are the tree, and each
has its own credit.  Else a message of the size that the tree takes goes on it: it waits here, bounded
as all sends are, while the tree has no room for it.

Fails as sends do, for each node that a frame is for; on the tree, for all or for none.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from agentnet_core.message cimport AgentMessage, Origin, copy_message
from agentnet_core.route cimport Route, Waiting
from agentnet_core.session cimport Session

from agentnet_core.agent_record import AgentRecord
from agentnet_core.errors import AgentUnreachable, Congested, InternalError, NoSuchAgent, ProtocolError
from agentnet_core.gossip import MESSAGES

cdef int64_t MS = 1_000_000


cdef class Casting(Links):
    """The part of an engine that sends to many. `Engine` has the agents of this node."""

    def __cinit__(self, *args, **kwargs):
        self.groups = {}

    cdef Session gather(self):
        if self.crowd is None:
            self.crowd = self.stand_in("")
            self.crowd.everyone = Route(AgentRecord(0, self.node_id, "* on the broadcast tree"), self.crowd)
        return self.crowd

    cdef int spread(self, AgentMessage message) except -1:
        """A copy to each agent of this node that it is for."""
        raise InternalError("a Casting alone has no agents")

    def broadcast(self, AgentMessage message not None, uint64_t from_agent, int content=0):
        """Send to all agents of all nodes, or to those of the message's group.

        Tokens of what has no room yet, and whether any agents have it already, who may be this node's.
        To a group goes one frame for each node that has agents in it, which is linked for that;
        NoSuchAgent, definite, if there are none.  To all goes one for each link; where not every node
        is linked, it goes on the broadcast tree, in any order, and what is too large for that, in a
        network that is small enough to link to all, to each node.  MessageTooLarge is definite.
        """
        cdef AgentMessage copy = copy_message(message)
        cdef str group = None if message.extras is None else message.group
        cdef Session session
        cdef list tokens = []
        self.check_size(message, None)
        copy.from_agent, copy.to_all, copy.content = from_agent, True, message.content or content
        if group is not None:
            nodes = self.control.directory.nodes_of(group)
            if not nodes and group not in self.groups:
                raise NoSuchAgent(f"no agent is in group {group!r} of network {self.config.network!r}, as "
                                  f"far as node {self.node_id} knows: join_group, or look at "
                                  f"net.agents(group=...)")
            return self.send_to_nodes(nodes, copy, group in self.groups)
        if not self.mesh_known:
            self.linked_to_all, self.mesh_known = self.control.linked_to_all, True
        if self.linked_to_all:
            for session in self.sessions.values():
                self.check_size(message, session)
            self.stamp(copy)
            for session in list(self.sessions.values()):
                token = self.send_there(session, copy)
                if token is not None:
                    tokens.append(token)
            self.spread(copy)
            return tokens, True
        nodes = self.control.nodes_for(copy)
        return self.send_on_tree(copy) if nodes is None else self.send_to_nodes(nodes, copy, True)

    cdef tuple send_to_nodes(self, list nodes, AgentMessage message, bint reached):
        """One frame for each of the nodes, and its own copies for this one."""
        cdef list tokens = []
        for node_id in nodes:
            self.check_size(message, self.sessions.get(node_id))
        self.stamp(message)
        for node_id in nodes:
            if node_id == self.node_id:
                continue
            token = self.send_to_node(node_id, message)
            if token is None:
                reached = True
            else:
                tokens.append(token)
        self.spread(message)
        return tokens, reached

    cdef object send_to_node(self, str node_id, AgentMessage message):
        """As `send_there`, by a link that is made for it if there is none."""
        cdef Session session = self.sessions.get(node_id)
        if session is None:
            try:
                session = self.await_link(AgentRecord(0, node_id))
            except AgentUnreachable as error:
                token = self.make_token()
                self.settle(token, error)
                return token
        return self.send_there(session, message)

    cdef object send_there(self, Session session, AgentMessage message):
        """Send one frame for many agents of a node; a token if there is no room yet."""
        cdef Route route = self.everyone(session)
        if self.offer(route, message):
            return None
        token = self.make_token()
        try:
            self.wait(route, message, token)
        except Congested as error:
            self.settle(token, error)
        return token

    cdef tuple send_on_tree(self, AgentMessage message):
        """Publish it, or let it wait until there is room among the broadcasts that are kept."""
        cdef Session crowd = self.gather()
        self.stamp(message)
        if not crowd.blocked and self.publish(message) == 0:
            return [], True
        token = self.make_token()
        try:
            self.wait(crowd.everyone, message, token)
        except Congested as error:
            self.settle(token, error)
        return [token], False

    cdef int64_t publish(self, AgentMessage message) except -1:
        """Put it on the broadcast tree; 0, or when there may be room for it."""
        cdef int64_t due_ns
        self.age(message)
        due_ns = self.control.broadcasts.offer(MESSAGES, message.encode())
        if due_ns == 0:
            self.messages_sent += 1
            self.spread(message)
        else:
            self.wake_by(due_ns)
        return due_ns

    cdef int drain_crowd(self) except -1:
        """Publish what waits for room, in order, as far as there is room."""
        cdef Session crowd = self.crowd
        cdef Waiting waiting
        if crowd is None or not crowd.blocked:
            return 0
        self.expire_waiting(crowd.blocked)
        while crowd.blocked:
            waiting = crowd.blocked[0]
            if not self.settled(waiting):
                if self.publish(waiting.message) != 0:
                    return 0
                self.finish_waiting(waiting)
            crowd.blocked.popleft()
        return 0

    def hear(self, Origin origin not None, bytes body not None, int64_t age_ms):
        """A broadcast of another node came on the tree, after so long; ProtocolError if it is none.

        Who began after it was sent is not meant: what a process had handled its next life gets no more.
        """
        cdef AgentMessage message = AgentMessage.decode(body, origin)
        if not message.to_all or message.fragments:
            raise ProtocolError("a message on the broadcast tree: expected a whole one, to all")
        if age_ms * MS > self.now_ns - self.born_ns:
            return
        self.messages_received += 1
        if message.ttl_ms:
            if age_ms >= message.ttl_ms:
                self.messages_expired += 1
                return
            message.ttl_ms -= <uint32_t>age_ms
            message.deadline_ns = self.now_ns + message.ttl_ms * MS
        self.spread(message)

    def end_requests(self):
        Links.end_requests(self)
        if self.crowd is not None:
            error = AgentUnreachable(f"node {self.node_id} has left the network; nothing was sent")
            self.strand(self.crowd, error, error)

    cdef Route everyone(self, Session session):
        """Where broadcasts to the agents of a peer wait, so that they are counted like those to one."""
        if session.everyone is None:
            session.everyone = Route(AgentRecord(0, session.node_id, f"* of node {session.node_id}"), session)
        return session.everyone
