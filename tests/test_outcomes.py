"""What becomes of a message, told honestly: every failure has its error, and `definite` is right in each."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgpack
import pytest
from networks import (
    MESSAGE,
    REFUSED,
    STOP_SIGNAL,
    Cluster,
    Inbox,
    echo,
    node_process,
    relay,
    soon,
    until,
)

from agentnet import (
    AgentMessage,
    AgentNetworkManager,
    AgentStopped,
    AgentUnreachable,
    ConfigError,
    Event,
    Expired,
    HandlerFailed,
    LimitReached,
    LinkLost,
    MessageTooLarge,
    MessageType,
    NetworkError,
    NoSuchAgent,
    PayloadMismatch,
    RequestTimeout,
)
from agentnet_core.errors import PeerError
from agentnet_core.handshake import Hello

both_loops = pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])


async def outcome(awaitable: Any) -> NetworkError:
    """The error that it ends with."""
    with pytest.raises(NetworkError) as caught:
        await soon(awaitable)
    return caught.value


async def hangs(message: AgentMessage) -> None:
    await asyncio.Event().wait()


class TestDefinite:
    @pytest.mark.parametrize("to", ["nobody", 12345])
    async def test_nobody(self, cluster: Cluster, to: Any) -> None:
        one, _ = await cluster.start("n1", "n2")
        agent = await one.register_agent("me")
        for error in (await outcome(agent.request(to, b"")), await outcome(one.request(to, b""))):
            assert isinstance(error, NoSuchAgent)
            assert error.definite
            assert repr(to) in str(error)
        with pytest.raises(NoSuchAgent):
            await agent.send(to, b"")
        with pytest.raises(NoSuchAgent):
            agent.send_nowait(to, b"")
        with pytest.raises(NoSuchAgent):
            await one.send_message(AgentMessage(b"", to_agent=to))

    @pytest.mark.parametrize("to", [None, 1.5, b"x", -1, 2**64, True, object()])
    async def test_no_address(self, cluster: Cluster, to: Any) -> None:
        (one,) = await cluster.start("n1")
        agent = await one.register_agent("me", handler=echo)
        error = await outcome(agent.request(to, b""))
        assert isinstance(error, (ConfigError, NoSuchAgent))
        with pytest.raises((ConfigError, NoSuchAgent)):
            await agent.send(to, b"")
        assert one.stats()["requests_pending"] == 0

    async def test_a_target_whose_node_has_no_link(self, cluster: Cluster) -> None:
        async with relay() as wire:
            address = f"tcp://127.0.0.1:{wire.port}"
            (one,) = await cluster.start("n1", advertise=[address], node_silence_ms_max=60_000)
            wire.aim(str(one._doors.bound[0]))
            two = cluster.make("n2", listen=(), node_silence_ms_max=60_000, redial_ms_max=100)
            await soon(two.join_network([address]))
            await one.register_agent("far", handler=echo)
            watch = cluster.watch(two)
            wire.refusing = True
            wire.cut()
            await watch.wait(Event.LINK_LOST)
            error = await outcome(two.request("far", b""))
            assert isinstance(error, AgentUnreachable)
            assert error.definite
            assert str(error).startswith("no link to node n1 could be made: ")
            wire.refusing = False

    async def test_an_unregistered_target_on_a_peer_that_told_us_too_late(self, cluster: Cluster) -> None:
        """What crosses with the news that an agent is gone comes back refused."""
        one, two = await cluster.start("n1", "n2")
        sender = await one.register_agent("sender")
        await two.register_agent("gone", handler=echo)
        watch = cluster.watch(one)
        port = two.engine.ports[(await _id_of(one, "gone"))]
        two.engine.remove_port(port)  # and no word of it to n1
        error = await outcome(sender.request("gone", b""))
        assert isinstance(error, NoSuchAgent)
        assert error.definite
        assert "node n2" in str(error)
        await sender.send("gone", b"one way")
        event = await watch.wait(Event.UNDELIVERABLE)
        assert isinstance(event.error, NoSuchAgent)
        assert event.agent_id == port.agent_id
        assert one.stats()["messages_undeliverable"] == 1
        assert two.stats()["messages_undeliverable"] == 2

    async def test_unregistered_before_it_saw_the_message(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2")
        agent = await two.register_agent("x", handler=hangs)
        first = one.request("x", b"in the handler")
        await until(lambda: two.busy)
        second = one.request("x", b"in the mailbox")
        local = two.request("x", b"in the mailbox, same node")
        await until(lambda: agent.pending_messages == 2)
        await two.unregister_agent("x")
        for waiting in (second, local):
            error = await outcome(waiting)
            assert isinstance(error, AgentStopped)
            assert error.definite
            assert "agent x on node n2" in str(error)
        error = await outcome(first)
        assert isinstance(error, HandlerFailed)
        assert not error.definite
        assert "stopped while it handled this" in str(error)

    @pytest.mark.parametrize("same_node", [False, True])
    async def test_expired_work_is_dropped_and_counted(self, cluster: Cluster, same_node: bool) -> None:
        one, two = await cluster.start("n1", "n2")
        sender = await (two if same_node else one).register_agent("sender")
        seen = Inbox()
        gate = asyncio.Event()

        async def first_waits(message: AgentMessage) -> None:
            await gate.wait()
            await seen(message)

        agent = await two.register_agent("x", handler=first_waits)
        watch = cluster.watch(two if same_node else one)
        await sender.send("x", b"first")
        await sender.send("x", b"expires", ttl=0.03)
        await sender.send("x", b"stays", ttl=60)
        await until(lambda: agent.pending_messages == 2)
        await asyncio.sleep(0.05)
        gate.set()
        assert await seen.wait(2) == [b"first", b"stays"]
        event = await watch.wait(Event.UNDELIVERABLE)
        assert isinstance(event.error, Expired)
        assert event.error.definite
        assert two.stats()["messages_expired"] == 1

    async def test_a_payload_that_cannot_be_sent(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2")
        await two.register_agent("x", handler=echo)
        sender = await one.register_agent("sender")
        for call in (sender.send, sender.send_nowait):
            with pytest.raises(PayloadMismatch, match="type object cannot be sent") as caught:
                call("x", object())
            assert caught.value.definite
        error = await outcome(sender.request("x", {"deep": {1, 2}}))
        assert isinstance(error, PayloadMismatch)
        with pytest.raises(PayloadMismatch):
            await one.broadcast_message(object())

    @pytest.mark.parametrize("to", ["far", "near"])
    async def test_too_large(self, cluster: Cluster, to: str) -> None:
        one, two = await cluster.start("n1", "n2", message_bytes_max=100_000)
        await two.register_agent("far", handler=echo)
        await one.register_agent("near", handler=echo)
        sender = await one.register_agent("sender")
        error = await outcome(sender.request(to, b"x" * 100_001))
        assert isinstance(error, MessageTooLarge)
        assert error.definite
        assert "100001 bytes: expected at most 100000 (message_bytes_max)" in str(error)
        with pytest.raises(MessageTooLarge):
            await sender.send(to, b"x" * 100_001)
        assert await soon(sender.request(to, b"x" * 100_000)) == b"x" * 100_000
        with pytest.raises(MessageTooLarge):
            await one.broadcast_message(b"x" * 100_001)

    async def test_too_many_requests(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2", requests_pending_max=3)
        await two.register_agent("x", handler=hangs)
        waiting = [one.request("x", b"") for _ in range(3)]
        error = await outcome(one.request("x", b""))
        assert isinstance(error, LimitReached)
        assert error.definite
        for request in waiting:
            request.cancel()
        await until(lambda: one.stats()["requests_pending"] == 0)


async def _id_of(net: AgentNetworkManager, name: str) -> int:
    return next(agent.agent_id for agent in net.agents() if agent.name == name)


class TestUnknown:
    @both_loops
    async def test_a_timeout(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2", request_timeout_ms=50)
        await two.register_agent("slow", handler=hangs)
        await one.register_agent("here", handler=hangs)
        for request in (
            one.request("slow", b""),
            one.request("here", b""),
            one.request("slow", b"", timeout=0.02),
        ):
            error = await outcome(request)
            assert isinstance(error, RequestTimeout)
            assert isinstance(error, TimeoutError)
            assert not error.definite
        assert one.stats()["requests_pending"] == 0

    async def test_a_late_answer_is_counted_and_dropped(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2")
        gate = asyncio.Event()

        async def late(message: AgentMessage) -> bytes:
            await gate.wait()
            return b"late"

        await two.register_agent("late", handler=late)
        assert isinstance(await outcome(one.request("late", b"", timeout=0.02)), RequestTimeout)
        gate.set()
        await until(lambda: one.stats()["replies_late"] == 1)
        assert await soon(one.request("late", b"")) == b"late"

    async def test_a_cancelled_request_is_forgotten(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2")
        await two.register_agent("x", handler=hangs)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await one.request("x", b"")
        await until(lambda: one.stats()["requests_pending"] == 0)

    @both_loops
    async def test_a_lost_link_fails_what_was_in_flight(self, cluster: Cluster) -> None:
        async with relay() as wire:
            address = f"tcp://127.0.0.1:{wire.port}"
            (one,) = await cluster.start("n1", advertise=[address])
            wire.aim(str(one._doors.bound[0]))
            two = cluster.make("n2", listen=())
            await soon(two.join_network([address]))
            await one.register_agent("x", handler=hangs, concurrency=10)
            watch = cluster.watch(two)
            waiting = [two.request("x", b"") for _ in range(5)]
            await until(lambda: one.stats()["messages_received"] == 5)
            wire.cut()
            for request in waiting:
                error = await outcome(request)
                assert isinstance(error, LinkLost)
                assert not error.definite
                assert "node n1" in str(error)
            await watch.wait(Event.LINK_LOST, node_id="n1")

    async def test_one_way_messages_on_a_lost_link_are_told(self, cluster: Cluster) -> None:
        async with relay() as wire:
            address = f"tcp://127.0.0.1:{wire.port}"
            (one,) = await cluster.start("n1", advertise=[address])
            wire.aim(str(one._doors.bound[0]))
            two = cluster.make("n2", listen=())
            await soon(two.join_network([address]))
            await one.register_agent("x", handler=echo)
            sender = await two.register_agent("sender")
            watch = cluster.watch(two)
            wire.freeze()
            for _ in range(7):
                await sender.send("x", b"into the dark")
            wire.cut()
            event = await watch.wait(Event.UNDELIVERABLE, node_id="n1")
            assert event.count == 7
            assert event.error is not None
            assert not event.error.definite
            assert two.stats()["messages_unconfirmed"] == 7

    async def test_a_stopped_process_is_a_timeout_a_killed_one_a_lost_link(self, cluster: Cluster) -> None:
        (one,) = await cluster.start("n1")
        async with node_process("n2", one.addresses, listen="tcp://127.0.0.1:0") as process:
            await until(lambda: one.agents("echo"))
            process.signal(STOP_SIGNAL)
            assert isinstance(await outcome(one.request("echo-n2", b"", timeout=0.1)), RequestTimeout)
            waiting = one.request("echo-n2", b"", timeout=60)
            process.process.kill()
            error = await outcome(waiting)
            assert isinstance(error, LinkLost)
            assert not error.definite

    async def test_a_graceful_leave_makes_nothing_undeliverable(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2")
        box = Inbox()
        await two.register_agent("box", handler=box)
        sender = await one.register_agent("sender")
        watch = cluster.watch(one)
        for number in range(100):
            await sender.send("box", b"%d" % number)
        await box.wait(100)
        await two.leave_network()
        await watch.wait(Event.LEFT, node_id="n2")
        assert not watch.of(Event.UNDELIVERABLE)
        assert one.stats()["messages_unconfirmed"] == 0


class TestHandlerFails:
    @pytest.mark.parametrize("same_node", [False, True])
    async def test_the_requester_learns_what_but_not_where(
        self, cluster: Cluster, same_node: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        one, two = await cluster.start("n1", "n2")
        requester = two if same_node else one

        async def broken(message: AgentMessage) -> None:
            secret_of_this_machine = "hidden"
            raise KeyError("missing", len(secret_of_this_machine))

        await two.register_agent("broken", handler=broken)
        watch = cluster.watch(two)
        error = await outcome(requester.request("broken", b""))
        assert isinstance(error, HandlerFailed)
        assert not error.definite
        assert str(error) == "agent broken on node n2: KeyError: ('missing', 6)"
        for text in ("Traceback", "File", "secret", ".py"):
            assert text not in str(error)
        assert error.__cause__ is None
        event = await watch.wait(Event.HANDLER_FAILED, name="broken")
        assert isinstance(event.error, KeyError)
        assert two.stats()["handlers_failed"] == 1
        assert "secret_of_this_machine" in caplog.text  # its own node sees the whole traceback

    @pytest.mark.parametrize("same_node", [False, True])
    async def test_exceptions_that_are_bad_themselves(self, cluster: Cluster, same_node: bool) -> None:
        one, two = await cluster.start("n1", "n2")
        requester = two if same_node else one

        class Mute(Exception):
            def __str__(self) -> str:
                raise RuntimeError("not even this")

        errors = {
            b"mute": (Mute(), "Mute"),
            b"long": (ValueError("ü" * 1_000_000), "ValueError: üüü"),
            b"surrogate": (ValueError("\udcff"), "ValueError: "),
            b"empty": (ValueError(), "ValueError"),
            b"group": (
                ExceptionGroup("several", [ValueError("a"), KeyError("b")]),
                "ExceptionGroup: several",
            ),
        }

        async def raises(message: AgentMessage) -> None:
            raise errors[message.payload][0]

        await two.register_agent("x", handler=raises)
        for payload, (_, text) in errors.items():
            error = await outcome(requester.request("x", payload))
            assert isinstance(error, HandlerFailed)
            assert text in str(error)
            assert len(str(error)) < 2000
        assert two.stats()["handlers_failed"] == len(errors)

    async def test_one_way_failures_are_logged_once_a_second_and_all_counted(
        self, cluster: Cluster, caplog: pytest.LogCaptureFixture
    ) -> None:
        one, two = await cluster.start("n1", "n2")

        async def broken(message: AgentMessage) -> None:
            raise ValueError("again")

        await two.register_agent("broken", handler=broken)
        sender = await one.register_agent("sender")
        watch = cluster.watch(two)
        for _ in range(50):
            await sender.send("broken", b"")
        await until(lambda: two.stats()["handlers_failed"] == 50)
        assert 1 <= caplog.text.count("ValueError: again\n") <= 20
        await until(lambda: len(watch.of(Event.HANDLER_FAILED)) == 50)

    @both_loops
    @pytest.mark.parametrize("how", ["raises", "cancels itself", "in a timeout", "base"])
    async def test_cancelled_errors_end_one_message_only(self, cluster: Cluster, how: str) -> None:
        one, two = await cluster.start("n1", "n2")

        async def handle(message: AgentMessage) -> bytes:
            if message.payload == b"fine":
                return b"fine"
            if how == "raises":
                raise asyncio.CancelledError
            if how == "base":
                raise GeneratorExit
            task = asyncio.current_task()
            assert task is not None
            if how == "in a timeout":
                async with asyncio.timeout(0.001):
                    await asyncio.Event().wait()
            task.cancel()
            await asyncio.sleep(0)
            return b"not reached"

        await two.register_agent("x", handler=handle)
        for _ in range(2):
            error = await outcome(one.request("x", b"bad"))
            assert isinstance(error, HandlerFailed)
            assert not error.definite
            assert await soon(one.request("x", b"fine"), 5) == b"fine"

    async def test_an_answer_that_cannot_be_sent(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2", message_bytes_max=1000)

        async def unsendable(message: AgentMessage) -> Any:
            return object() if message.payload == b"object" else b"x" * 1001

        await two.register_agent("x", handler=unsendable)
        for net in (one, two):
            error = await outcome(net.request("x", b"object"))
            assert isinstance(error, (HandlerFailed, PayloadMismatch))
            assert "type object cannot be sent" in str(error)
        error = await outcome(one.request("x", b"large"))
        assert isinstance(error, MessageTooLarge)
        assert "1001 bytes" in str(error)

    async def test_a_thread_that_fails(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2")

        def broken(message: AgentMessage) -> None:
            raise OSError(5, "disk")

        await two.register_agent("x", handler=broken)
        error = await outcome(one.request("x", b""))
        assert isinstance(error, HandlerFailed)
        assert "OSError: [Errno 5] disk" in str(error)

    async def test_an_error_of_ours_in_a_handler_keeps_its_text(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2")

        async def asks_nobody(message: AgentMessage) -> Any:
            return await two.request("nobody", b"")

        await two.register_agent("x", handler=asks_nobody)
        error = await outcome(one.request("x", b""))
        assert isinstance(error, HandlerFailed)
        assert not error.definite
        assert "agent x on node n2: NoSuchAgent: no agent 'nobody'" in str(error)

    async def test_unregistering_from_inside_lets_it_finish(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2")

        async def last(message: AgentMessage) -> bytes:
            await two.unregister_agent("x")
            await asyncio.sleep(0.01)
            return b"goodbye"

        await two.register_agent("x", handler=last)
        assert await soon(one.request("x", b"")) == b"goodbye"
        assert isinstance(await outcome(one.request("x", b"")), NoSuchAgent)


class TestOtherNodes:
    """What a peer of another release, or a rude one, may answer."""

    async def _query(self, peer: Any) -> list[Any]:
        query: list[Any] = msgpack.unpackb(await peer.expect(MESSAGE))
        assert query[4] == MessageType.QUERY
        return query

    def _answer(self, query: list[Any], payload: bytes, fields: dict[int, Any] | None = None) -> bytes:
        sender, to, seq, correlation = query[:4]
        body: bytes = msgpack.packb([to, sender, seq, correlation, 3, 1, 0, 0, payload])
        return body + (msgpack.packb(fields) if fields else b"")

    async def test_an_error_code_of_the_future(self, cluster: Cluster) -> None:
        one, peer = await cluster.linked_to(77)
        waiting = one.request(77, b"")
        peer.send(MESSAGE, self._answer(await self._query(peer), b"", {15: [999, b"new trouble"]}), flags=1)
        error = await outcome(waiting)
        assert type(error) is PeerError
        assert "new trouble (error code 999, unknown to this version)" in str(error)

    async def test_an_answer_that_is_no_value(self, cluster: Cluster) -> None:
        one, peer = await cluster.linked_to(77)
        for payload in (b"\xc1", b"\xdd\xff\xff\xff\xff", b"\x91" * 2000, b""):
            waiting = one.request(77, b"")
            peer.send(MESSAGE, self._answer(await self._query(peer), payload, {14: 1}), flags=1)
            await outcome(waiting)
        waiting = one.request(77, b"", reply=int)
        peer.send(MESSAGE, self._answer(await self._query(peer), b"\xc1", {14: 1}), flags=1)
        assert isinstance(await outcome(waiting), PayloadMismatch)
        waiting = one.request(77, b"")
        peer.send(MESSAGE, self._answer(await self._query(peer), b"good"))
        assert await soon(waiting) == b"good"

    async def test_answers_that_nobody_asked_for(self, cluster: Cluster) -> None:
        one, peer = await cluster.linked_to(77)
        waiting = one.request(77, b"")
        query = await self._query(peer)
        wrong = [*query[:3], query[3] + 1000]
        peer.send(MESSAGE, self._answer(wrong, b"wrong"))
        peer.send(REFUSED, msgpack.packb([1, query[3] + 1000, 77, 102, b"no"]))
        peer.send(MESSAGE, self._answer(query, b"right"))
        peer.send(MESSAGE, self._answer(query, b"twice"))
        assert await soon(waiting) == b"right"
        await until(lambda: one.stats()["replies_late"] == 2)

    async def test_a_refusal_settles_the_request_at_once(self, cluster: Cluster) -> None:
        one, peer = await cluster.linked_to(77)
        waiting = one.request(77, b"")
        query = await self._query(peer)
        peer.send(REFUSED, msgpack.packb([query[2], query[3], 77, AgentStopped.code, "gone: ü".encode()]))
        error = await outcome(waiting)
        assert isinstance(error, AgentStopped)
        assert "gone: ü" in str(error)

    async def test_another_peer_cannot_answer(self, cluster: Cluster) -> None:
        one, peer = await cluster.linked_to(77)
        other = await cluster.peer(one)
        await other.join("0-other", network_uuid=one.control.network_uuid)
        waiting = one.request(77, b"")
        query = await self._query(peer)
        other.send(MESSAGE, self._answer(query, b"forged"))
        other.send(REFUSED, msgpack.packb([query[2], query[3], 77, AgentStopped.code, b"forged"]))
        await until(lambda: one.stats()["replies_late"] == 1)
        peer.send(MESSAGE, self._answer(query, b"true"))
        assert await soon(waiting) == b"true"
        assert isinstance(peer.hello, Hello)


async def test_a_failing_type_harms_no_other_request(cluster: Cluster) -> None:
    """A type's own code runs when an answer is decoded; whatever it raises is that request's alone."""
    from dataclasses import dataclass
    from typing import TypedDict

    @dataclass
    class Picky:
        number: int

        def __post_init__(self) -> None:
            raise RuntimeError("never satisfied")

    class Shape(TypedDict):
        number: int

    one, two = await cluster.start("n1", "n2")

    async def answer(message: AgentMessage) -> dict[str, int]:
        return {"number": 1}

    await two.register_agent("x", handler=answer)
    hints = [None, Picky, dict, Shape, list[Shape], dict[str, int]]
    waiting = [one.request("x", b"", reply=hint) for hint in hints * 5]
    for hint, request in zip(hints * 5, waiting, strict=True):
        if hint in (None, dict, dict[str, int]):
            assert await soon(request) == {"number": 1}
        elif hint is Picky:
            error = await outcome(request)
            assert isinstance(error, PayloadMismatch)
            assert "expected Picky: RuntimeError: never satisfied" in str(error)
        else:
            await asyncio.wait([request])
            assert request.done()
            request.exception()


async def test_loggers_are_silent_by_default(cluster: Cluster) -> None:
    handlers = logging.getLogger("agentnet").handlers
    assert all(isinstance(handler, logging.NullHandler) for handler in handlers)
