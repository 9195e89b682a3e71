"""Errors and events call an agent by its name wherever this node knows it: an id says nothing to a reader."""

from __future__ import annotations

import asyncio
from typing import Any

import msgpack
import pytest
from networks import AGENTS, MESSAGE, REFUSED, Cluster, FakePeer, echo, soon

from agentnet import (
    AgentMessage,
    Event,
    MessageTooLarge,
    NetworkError,
    NoSuchAgent,
    PayloadMismatch,
    RequestTimeout,
)
from agentnet_core.listing import write_change
from agentnet_core.records import agent_id_of

READER = agent_id_of("reader")

both_nodes = pytest.mark.parametrize("same_node", [False, True])


async def named(awaitable: Any, kind: type[NetworkError]) -> str:
    """What its error says, which is of that kind, and names the agent."""
    with pytest.raises(kind) as caught:
        await soon(awaitable)
    text = str(caught.value)
    assert "reader" in text
    assert str(READER) not in text
    return text


async def hangs(message: AgentMessage) -> None:
    await asyncio.Event().wait()


@both_nodes
class TestRequests:
    @pytest.mark.parametrize("by_id", [False, True])
    async def test_that_time_out(self, cluster: Cluster, same_node: bool, by_id: bool) -> None:
        one, two = await cluster.start("n1", "n2")
        await two.register_agent("reader", handler=hangs)
        asking = (two if same_node else one).request(READER if by_id else "reader", b"", timeout=0.05)
        assert "no answer from agent reader in time" in await named(asking, RequestTimeout)

    async def test_whose_answer_is_of_another_type(self, cluster: Cluster, same_node: bool) -> None:
        one, two = await cluster.start("n1", "n2")
        await two.register_agent("reader", handler=echo)
        for payload in (b"", {"number": "one"}):
            asking = (two if same_node else one).request("reader", payload, reply=int)
            assert "answer of agent reader: payload: " in await named(asking, PayloadMismatch)

    async def test_to_nobody(self, cluster: Cluster, same_node: bool) -> None:
        one, two = await cluster.start("n1", "n2")
        await named((two if same_node else one).request("reader", b"", reply=int), NoSuchAgent)


async def test_an_answer_over_the_limit(cluster: Cluster) -> None:
    one, two = await cluster.start("n1", "n2", message_bytes_max=1000)

    async def large(message: AgentMessage) -> bytes:
        return bytes(1001)

    await two.register_agent("reader", handler=large)
    text = await named(one.request("reader", b""), MessageTooLarge)
    assert "the answer of agent reader: payload of 1001 bytes" in text


class TestRefusals:
    """The refusing node does not know what its agent was called: whoever asked does."""

    def _refuse(self, peer: FakePeer, body: bytes) -> None:
        _, to, seq, correlation = msgpack.unpackb(body)[:4]
        text = f"agent {to} is not registered on node 0-peer"
        peer.send(REFUSED, msgpack.packb([seq, correlation, to, NoSuchAgent.code, text.encode()]))

    @pytest.mark.parametrize("gone", [False, True])
    async def test_of_a_request(self, cluster: Cluster, gone: bool) -> None:
        one, peer = await cluster.linked_to("reader")
        asking = one.request("reader", b"")
        if gone:
            (body,) = write_change("0-peer", 1, 1, [], [READER], 4096)
            peer.send(AGENTS, body)
        self._refuse(peer, await peer.expect(MESSAGE))
        assert await named(asking, NoSuchAgent) == "agent reader is not registered on node 0-peer"

    async def test_of_a_message(self, cluster: Cluster) -> None:
        one, peer = await cluster.linked_to("reader")
        watch = cluster.watch(one)
        await one._sender(None).send("reader", b"")
        self._refuse(peer, await peer.expect(MESSAGE))
        event = await watch.wait(Event.UNDELIVERABLE, agent_id=READER, name="reader")
        assert event.detail == str(event.error) == "agent reader is not registered on node 0-peer"

    async def test_by_the_node_itself(self, cluster: Cluster) -> None:
        """Of an agent that is another node's by now."""
        _, peer = await cluster.linked_to("reader")
        peer.send(MESSAGE, msgpack.packb([0, READER, 1, 1, 2, 1, 0, 0, b""]))
        assert msgpack.unpackb(await peer.expect(REFUSED))[4] == b"agent reader is not registered on node n1"


async def test_what_was_in_the_mailbox_of_an_agent_that_went(cluster: Cluster) -> None:
    (one,) = await cluster.start("n1")
    watch = cluster.watch(one)
    await one.register_agent("reader")
    await one._sender(None).send("reader", b"")
    await one.unregister_agent("reader")
    event = await watch.wait(Event.UNDELIVERABLE, agent_id=READER, name="reader")
    assert "agent reader on node n1 was unregistered" in event.detail


async def test_unregistering_nobody(cluster: Cluster) -> None:
    one, two = await cluster.start("n1", "n2")
    await named(one.unregister_agent("reader"), NoSuchAgent)
    reader = await two.register_agent("reader")
    await named(one.unregister_agent("reader"), NoSuchAgent)
    await two.unregister_agent(reader)
    await named(two.unregister_agent(reader), NoSuchAgent)
