"""What `error.definite` says after work has left this node: True only where it surely was not done."""

from __future__ import annotations

import asyncio
import pickle
from dataclasses import dataclass
from typing import Any

import msgpack
import pytest
from networks import AGENTS, MESSAGE, Cluster, FakePeer, Inbox, echo, soon, until

from agentnet import (
    AgentExists,
    AgentMessage,
    AgentNetworkManager,
    Congested,
    Event,
    LinkLost,
    MessageTooLarge,
    NetworkError,
    PayloadMismatch,
    ProtocolError,
    Unconfirmed,
)
from agentnet_core.agent_record import AgentRecord
from agentnet_core.errors import BY_CODE, PeerError, from_code
from agentnet_core.listing import write_whole
from agentnet_core.records import agent_id_of


async def outcome(awaitable: Any) -> NetworkError:
    """The error that it ends with."""
    with pytest.raises(NetworkError) as caught:
        await soon(awaitable)
    return caught.value


@dataclass
class Count:
    number: int


class TestAnswers:
    """The handler has run, so whatever is wrong with its answer is no proof that nothing happened."""

    @pytest.mark.parametrize("same_node", [False, True])
    async def test_one_over_the_limit(self, cluster: Cluster, same_node: bool) -> None:
        one, two = await cluster.start("n1", "n2", message_bytes_max=1000)
        net = two if same_node else one
        box = Inbox()

        async def large(message: AgentMessage) -> bytes:
            await box(message)
            return bytes(1000 + len(message.payload))

        await two.register_agent("x", handler=large)
        assert await soon(net.request("x", b"")) == bytes(1000)
        error = await outcome(net.request("x", b"+"))
        assert isinstance(error, MessageTooLarge)
        assert "the answer of agent x: payload of 1001 bytes: expected at most 1000" in str(error)
        assert len(box.messages) == 2
        assert not error.definite
        error = await outcome(net.request("x", bytes(1001)))
        assert isinstance(error, MessageTooLarge)
        assert error.definite, "a request over the limit was never sent"
        assert len(box.messages) == 2

    @pytest.mark.parametrize("same_node", [False, True])
    @pytest.mark.parametrize("hint", [int, Count, bytes, list[int]])
    async def test_one_of_another_type(self, cluster: Cluster, same_node: bool, hint: Any) -> None:
        one, two = await cluster.start("n1", "n2")
        box = Inbox()

        async def answer(message: AgentMessage) -> dict[str, str]:
            await box(message)
            return {"number": "one"}

        await two.register_agent("x", handler=answer)
        error = await outcome((two if same_node else one).request("x", b"", reply=hint))
        assert isinstance(error, PayloadMismatch)
        assert len(box.messages) == 1
        assert not error.definite

    @pytest.mark.parametrize("same_node", [False, True])
    async def test_a_request_of_another_type_is_refused_before_its_handler(
        self, cluster: Cluster, same_node: bool
    ) -> None:
        one, two = await cluster.start("n1", "n2")
        ran = []

        async def counts(count: Count) -> None:
            ran.append(count)

        await two.register_agent("x", handler=counts)
        error = await outcome((two if same_node else one).request("x", {"number": "one"}))
        assert isinstance(error, PayloadMismatch)
        assert error.definite
        assert not ran

    async def _asked(self, cluster: Cluster) -> tuple[asyncio.Future[Any], Any]:
        """A request that a peer has in hand; and how it answers, once, with a payload and fields."""
        one, peer = await cluster.linked_to(77)
        request = one.request(77, b"")
        sender, to, seq, correlation = msgpack.unpackb(await peer.expect(MESSAGE))[:4]

        def answer(payload: bytes, fields: dict[int, Any]) -> None:
            array = [to, sender, seq, correlation, 3, 1, 0, 0, payload]
            peer.send(MESSAGE, msgpack.packb(array) + msgpack.packb(fields), flags=1)

        return request, answer

    async def test_one_that_is_no_value(self, cluster: Cluster) -> None:
        request, answer = await self._asked(cluster)
        answer(b"\xc1", {14: 1})
        error = await outcome(request)
        assert isinstance(error, ProtocolError)
        assert not error.definite

    async def test_an_error_of_a_later_release(self, cluster: Cluster) -> None:
        """What its code means is unknown, and so is whether the handler ran."""
        request, answer = await self._asked(cluster)
        answer(b"", {15: [999, b"new trouble"]})
        error = await outcome(request)
        assert type(error) is PeerError
        assert not error.definite


async def test_a_broadcast_that_some_nodes_took(cluster: Cluster) -> None:
    one, two = await cluster.start("n1", "n2", send_wait_ms_max=200)
    box = Inbox()
    await two.register_agent("box", handler=box)
    peer = await cluster.peer(one)
    await peer.join("0-miser", network_uuid=one.control.network_uuid, credit_bytes=70_000)
    sent = 0
    with pytest.raises(Congested, match="some nodes did not get the broadcast: .* of node 0-miser") as caught:
        for sent in range(1000):
            await soon(one.broadcast_message(b"%d:" % sent + bytes(1000)))
    await box.wait(sent + 1)
    assert not caught.value.definite


class TestRegistration:
    @pytest.mark.parametrize("limits", [{"agents_max": 1}, {"metadata_bytes_max": 20}])
    async def test_an_agent_that_a_peer_has_no_room_for(
        self, cluster: Cluster, limits: dict[str, int]
    ) -> None:
        one, three = await cluster.start("n1", "n3")
        full = cluster.make("n2", **limits)
        await soon(full.join_network(one.addresses))
        await cluster.meshed()
        await one.register_agent("first", handler=echo)
        watch = cluster.watch(full)
        error = await outcome(one.register_agent("second", ["x" * 30], handler=echo))
        assert isinstance(error, Unconfirmed)
        assert not error.definite
        assert "the agents are registered, but nodes n2 have no room for them: second" in str(error)
        assert await soon(three.request("second", b"here")) == b"here"
        await watch.wait(Event.AGENT_CONFLICT, name="second")
        assert {agent.name for agent in one.agents()} == {"first", "second"}

    async def _conflict(self, cluster: Cluster, *names: str) -> tuple[AgentNetworkManager, NetworkError]:
        """Registers both at once with a lower node that has ``x`` and had not said so yet."""
        (one,) = await cluster.start("n1")
        peer = await cluster.peer(one)
        await peer.join("0-low", network_uuid=one.control.network_uuid)
        registering = asyncio.ensure_future(one.register_agents(list(names)))
        await peer.expect(AGENTS)
        await self._claim(peer, "x")
        error = await outcome(registering)
        assert isinstance(error, AgentExists)
        return one, error

    async def _claim(self, peer: FakePeer, name: str) -> None:
        """Speak as the owner of that agent, and leave without a CONFIRM."""
        record = AgentRecord(agent_id_of(name), "0-low", name)
        (body,) = write_whole("0-low", 1, 1, [record], 4096)
        peer.send(AGENTS, body)
        peer.writer.write_eof()

    async def test_an_agent_that_was_lost_to_its_other_owner(self, cluster: Cluster) -> None:
        """Also where its link went before the owner had confirmed."""
        one, error = await self._conflict(cluster, "x")
        assert error.definite
        assert "x (it is node 0-low's)" in str(error)
        await until(lambda: not one.engine.ports)

    async def test_one_lost_of_several(self, cluster: Cluster) -> None:
        one, error = await self._conflict(cluster, "x", "y")
        assert not error.definite, "y is registered"
        assert [port.record.name for port in one.engine.ports.values()] == ["y"]


async def test_a_request_that_nobody_answers_ends_with_its_node(cluster: Cluster) -> None:
    """On another node the lost link would end it; here there is none."""
    (one,) = await cluster.start("n1")
    agent = await one.register_agent("box")
    request = one.request("box", b"")
    async for message in agent.messages():
        assert message.payload == b""
        break
    await soon(one.leave_network())
    error = await outcome(request)
    assert isinstance(error, LinkLost)
    assert not error.definite


def test_an_error_may_know_better_than_its_class() -> None:
    for code, cls in BY_CODE.items():
        for definite in (True, False, None):
            error = cls("a text", definite=definite)
            for copy in (error, pickle.loads(pickle.dumps(error))):
                assert (type(copy), str(copy), copy.code) == (cls, "a text", code)
                assert copy.definite is (cls.definite if definite is None else definite)


def test_a_code_of_a_peer_is_as_definite_as_its_class_but_where_only_an_answer_has_it() -> None:
    assert not from_code(MessageTooLarge.code, "the answer").definite
    assert not from_code(999, "of a later release").definite
    for code, cls in BY_CODE.items():
        if cls is not MessageTooLarge:
            assert from_code(code, "").definite is cls.definite
