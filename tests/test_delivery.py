"""What arrives: in order for each pair and priority, whole at any size, at all of a broadcast; and events."""

from __future__ import annotations

import asyncio
import gc
import random
from typing import Any

import pytest
from networks import Cluster, Inbox, echo, relay, soon, until

from agentnet import (
    AgentMessage,
    Event,
    MessagePriority,
    MessageTooLarge,
    MessageType,
    NetworkError,
)

both_loops = pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])
every_scheme = pytest.mark.parametrize("scheme", ["tcp", "tls"])

KIB = 1024


class TestOrder:
    @both_loops
    async def test_per_pair(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2", mailbox_messages_max=256)
        boxes = [Inbox() for _ in range(3)]
        for number, box in enumerate(boxes):
            await two.register_agent(f"box-{number}", handler=box)
        senders = [await one.register_agent(f"sender-{number}") for number in range(3)]
        rng = random.Random(7)

        async def send(sender: Any) -> None:
            for number in range(600):
                # Large ones go in fragments, and small ones must stay behind them.
                size = rng.choice([0, 10, 1000]) if number % 50 else 200_000
                payload = b"%06d" % number + bytes(size)
                await sender.send(f"box-{number % 3}", payload)

        await soon(asyncio.gather(*(send(sender) for sender in senders)), 40)
        for number, box in enumerate(boxes):
            await box.wait(600)
            for sender in senders:
                got = [int(m.payload[:6]) for m in box.messages if m.from_agent == sender.id]
                assert got == list(range(number, 600, 3))

    async def test_order_holds_when_sends_are_not_awaited_one_by_one(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2", mailbox_messages_max=64, link_window_bytes=512 * KIB)
        box = Inbox()
        gate = asyncio.Event()

        async def slow_start(message: AgentMessage) -> None:
            await gate.wait()
            await box(message)

        await two.register_agent("box", handler=slow_start)
        sender = await one.register_agent("sender")
        sizes = [10, 200_000, 10, 10, 90_000, 10] * 40
        sends = [sender.send("box", b"%06d" % n + bytes(size)) for n, size in enumerate(sizes)]
        waits = [asyncio.ensure_future(_finish(send)) for send in sends]
        await asyncio.sleep(0.05)
        gate.set()
        await soon(asyncio.gather(*waits), 40)
        payloads = await box.wait(len(sizes))
        assert [int(payload[:6]) for payload in payloads] == list(range(len(sizes)))
        assert [len(payload) - 6 for payload in payloads] == sizes

    @pytest.mark.parametrize("same_node", [False, True])
    async def test_the_urgent_go_first_and_none_starves(self, cluster: Cluster, same_node: bool) -> None:
        one, two = await cluster.start("n1", "n2")
        box = Inbox()
        gate = asyncio.Event()

        async def handle(message: AgentMessage) -> None:
            await gate.wait()
            await box(message)

        agent = await two.register_agent("box", handler=handle)
        sender = await (two if same_node else one).register_agent("sender")
        await sender.send("box", b"first")
        await until(lambda: two.busy)
        for priority in (MessagePriority.LOW, MessagePriority.NORMAL, MessagePriority.CRITICAL):
            for number in range(20):
                await sender.send("box", b"%d" % number, priority=priority)
        await until(lambda: agent.pending_messages >= 60)
        gate.set()
        await box.wait(61)
        by_priority: dict[MessagePriority, list[int]] = {}
        for message in box.messages[1:]:
            by_priority.setdefault(message.priority, []).append(int(message.payload))
        assert all(numbers == list(range(20)) for numbers in by_priority.values())
        critical = [m.priority for m in box.messages[1:22]]
        assert critical.count(MessagePriority.CRITICAL) == 20
        assert critical.count(MessagePriority.LOW) == 1  # the longest waiting of the others

    async def test_answers_are_not_mixed_up(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2")
        rng = random.Random(3)

        async def handle(message: AgentMessage) -> bytes:
            if rng.random() < 0.5:
                await asyncio.sleep(rng.random() * 0.01)
            return message.payload

        await two.register_agent("x", handler=handle, concurrency=16)
        await one.register_agent("y", handler=handle, concurrency=16)
        callers = [(one, "x"), (two, "y"), (one, "y")] * 100
        answers = [net.request(to, b"%d %s" % (n, to.encode())) for n, (net, to) in enumerate(callers)]
        got = await soon(asyncio.gather(*answers))
        assert got == [b"%d %s" % (n, to.encode()) for n, (_, to) in enumerate(callers)]


async def _finish(send: Any) -> None:
    await send


class TestLarge:
    SIZES = (0, 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 128 * KIB, 1024 * KIB - 1, 1024 * KIB, 3_000_000)

    @both_loops
    @every_scheme
    async def test_every_size_there_and_back(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2", message_bytes_max=3_000_000)
        await two.register_agent("far", handler=echo)
        await one.register_agent("near", handler=echo)
        data = random.Random(1).randbytes(3_000_000)
        for size in self.SIZES:
            for to in ("far", "near"):
                assert await soon(one.request(to, data[:size])) == data[:size]
        many = [one.request("far", data[: size // 2]) for size in self.SIZES * 3]
        assert await soon(asyncio.gather(*many)) == [data[: size // 2] for size in self.SIZES * 3]

    async def test_one_past_the_limit(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2", message_bytes_max=1_000_000)
        box = Inbox()
        await two.register_agent("far", handler=box)
        sender = await one.register_agent("sender")
        await sender.send("far", bytes(1_000_000))
        for call in (sender.send, sender.send_nowait):
            with pytest.raises(MessageTooLarge, match="1000001 bytes: expected at most 1000000"):
                call("far", bytes(1_000_001))
        with pytest.raises(MessageTooLarge):
            await sender.request("far", bytes(1_000_001))
        with pytest.raises(MessageTooLarge):
            await two.broadcast_message(bytes(1_000_001))
        assert [len(payload) for payload in await box.wait(1)] == [1_000_000]

    async def test_alone_a_broadcast_has_the_same_limit(self, cluster: Cluster) -> None:
        (one,) = await cluster.start("n1", message_bytes_max=1000)
        await one.register_agent("x", handler=Inbox())
        with pytest.raises(MessageTooLarge):
            await one.broadcast_message(bytes(1001))

    async def test_a_peer_with_a_smaller_limit(self, cluster: Cluster) -> None:
        (one,) = await cluster.start("n1")
        two = cluster.make("n2", message_bytes_max=100_000)
        await soon(two.join_network(one.addresses))
        box = Inbox()
        await two.register_agent("small", handler=box)
        watch = cluster.watch(one)
        sender = await one.register_agent("sender")
        with pytest.raises(MessageTooLarge, match="100000"):
            await sender.send("small", bytes(1_000_000))
        await sender.send("small", bytes(100_000))
        assert [len(payload) for payload in await box.wait(1)] == [100_000]
        assert not watch.of(Event.LINK_LOST)

    async def test_small_ones_pass_while_a_large_one_is_on_its_way(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2")
        large = asyncio.Event()

        async def handle(message: AgentMessage) -> bytes:
            if len(message.payload) > 100:
                large.set()
            return message.payload

        await two.register_agent("bulk", handler=handle)
        await two.register_agent("echo", handler=echo)
        sender = await one.register_agent("sender")
        sending = asyncio.ensure_future(_finish(sender.send("bulk", bytes(60_000_000))))
        answered = 0
        while not large.is_set():
            assert await soon(one.request("echo", b"small")) == b"small"
            answered += 1
        await soon(sending)
        assert answered >= 5


class TestBroadcast:
    @both_loops
    async def test_to_all_but_those_that_want_none(self, cluster: Cluster) -> None:
        nets = await cluster.start("n1", "n2", "n3")
        boxes: dict[str, Inbox] = {}
        for net in nets:
            for name in ("a", "b", "deaf"):
                box = boxes[f"{name}-{net.node_id}"] = Inbox()
                await net.register_agent(f"{name}-{net.node_id}", handler=box, broadcasts=name != "deaf")
        await nets[0].broadcast_message({"n": 1})
        await nets[1].broadcast_message(b"two", sender="b-n2")
        await nets[2].send_message(AgentMessage(b"three", ttl=60, message_id="given"))
        for name, box in boxes.items():
            if name.startswith("deaf"):
                continue
            await box.wait(3)
            by_node = {message.from_node: message for message in box.messages}
            assert by_node["n1"].value == {"n": 1}
            assert by_node["n2"].payload == b"two"
            assert (by_node["n3"].payload, by_node["n3"].message_id) == (b"three", "given")
            kinds = {message.message_type for message in (by_node["n1"], by_node["n2"])}
            assert kinds == {MessageType.BROADCAST}
            assert {message.to_agent for message in box.messages} == {None}
            senders = {agent.agent_id: agent.name for agent in nets[0].agents()}
            assert senders[by_node["n2"].from_agent] == "b-n2"
        assert all(len(box.messages) == 0 for name, box in boxes.items() if name.startswith("deaf"))
        assert all(net.stats()["broadcasts_dropped"] == 0 for net in nets)

    async def test_large_and_in_order(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2")
        box = Inbox()
        await two.register_agent("box", handler=box)
        for number in range(30):
            await one.broadcast_message(b"%02d" % number + bytes(150_000 if number % 7 == 0 else 5))
        assert [int(payload[:2]) for payload in await box.wait(30)] == list(range(30))

    async def test_a_full_mailbox_drops_it_and_says_so(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2", mailbox_messages_max=8)

        async def hangs(message: AgentMessage) -> None:
            await asyncio.Event().wait()

        await two.register_agent("stuck", handler=hangs)
        box = Inbox()
        await two.register_agent("box", handler=box)
        watch = cluster.watch(two)
        for number in range(20):
            await one.broadcast_message(b"%d" % number)
            await box.wait(number + 1)
        assert box.payloads == [b"%d" % number for number in range(20)]
        event = await watch.wait(Event.UNDELIVERABLE, name="stuck")
        assert "the mailbox is full" in event.detail
        assert two.stats()["broadcasts_dropped"] == 11

    async def test_nobody_there(self, cluster: Cluster) -> None:
        (one,) = await cluster.start("n1")
        await soon(one.broadcast_message(b""))


class TestEvents:
    @both_loops
    async def test_the_life_of_a_network(self, cluster: Cluster) -> None:
        (one,) = await cluster.start("n1", redial_ms_max=100)
        watch = cluster.watch(one)
        two = cluster.make("n2", redial_ms_max=100)
        await soon(two.join_network(one.addresses))
        agent = await two.register_agent("x", handler=echo)
        await one.register_agent("y", handler=echo)
        await two.unregister_agent("x")
        await two.leave_network()
        await watch.wait(Event.LEFT, node_id="n2")
        kinds = [(event.kind, event.node_id, event.name) for event in watch.seen]
        assert kinds == [
            (Event.JOINED, "n2", None),
            (Event.AGENT_REGISTERED, "n2", "x"),
            (Event.AGENT_REGISTERED, "n1", "y"),
            (Event.AGENT_GONE, "n2", "x"),
            (Event.LEFT, "n2", None),
        ]
        assert watch.seen[1].agent_id == agent.id

    async def test_also_of_the_join_itself(self, cluster: Cluster) -> None:
        (one,) = await cluster.start("n1")
        await one.register_agent("x", handler=echo)
        two = cluster.make("n2")
        watch = cluster.watch(two)
        await soon(two.join_network(one.addresses))
        await watch.wait(Event.JOINED, node_id="n1")
        await watch.wait(Event.AGENT_REGISTERED, name="x")

    async def test_every_reader_sees_all(self, cluster: Cluster) -> None:
        (one,) = await cluster.start("n1")
        watches = [cluster.watch(one) for _ in range(3)]
        await cluster.start("n2")
        for watch in watches:
            await watch.wait(Event.JOINED, node_id="n2")

    async def test_a_slow_reader_is_told_what_it_missed(self, cluster: Cluster) -> None:
        (one,) = await cluster.start("n1", events_max=5)
        stream = one.events()
        for number in range(1, 13):
            await one.register_agent(number, handler=echo)
            await asyncio.sleep(0)
        await until(lambda: one.stats()["events_missed"] == 7)
        first = await anext(stream)
        assert (first.kind, first.count) == (Event.EVENTS_MISSED, 7)
        assert [(await anext(stream)).agent_id for _ in range(5)] == [8, 9, 10, 11, 12]

    async def test_a_stream_that_is_dropped_costs_nothing(self, cluster: Cluster) -> None:
        (one,) = await cluster.start("n1")
        for _ in range(10):
            stream = one.events()
            await one.register_agent("x", handler=echo)
            async for _ in stream:
                break
            await one.unregister_agent("x")
        del stream
        gc.collect()
        assert len(one._streams) == 0
        await until(lambda: not one.control.catalogue.watched)

    async def test_a_reader_that_nobody_holds_is_still_woken(self, cluster: Cluster) -> None:
        (one,) = await cluster.start("n1")
        seen: list[str] = []

        async def read() -> None:
            async for event in one.events():
                seen.append(event.kind)

        asyncio.ensure_future(read())  # noqa: RUF006 - that is the point
        await asyncio.sleep(0)
        gc.collect()
        await one.register_agent("x", handler=echo)
        await until(lambda: Event.AGENT_REGISTERED in seen)

    async def test_two_readers_of_one_stream_share_it(self, cluster: Cluster) -> None:
        (one,) = await cluster.start("n1")
        stream, seen = one.events(), []

        async def read() -> None:
            async for event in stream:
                if event.name is not None:  # a starved loop tells that it was blocked
                    seen.append(event.name)

        readers = [asyncio.ensure_future(read()) for _ in range(3)]
        await asyncio.sleep(0)
        for name in "abcdef":
            await one.register_agent(name, handler=echo)
        await until(lambda: seen == list("abcdef"))
        readers[0].cancel()
        await one.unregister_agent("a")
        await until(lambda: seen == list("abcdefa"))
        await one.leave_network()
        await soon(asyncio.gather(*readers[1:]))
        assert one._streams._waiting == set()

    async def test_aclose(self, cluster: Cluster) -> None:
        (one,) = await cluster.start("n1")
        stream = one.events()
        reading = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await soon(reading)


async def test_no_message_is_lost_while_nodes_start_together(cluster: Cluster) -> None:
    """Links cross and one of two goes: what was accepted must not go with it unseen."""
    (first,) = await cluster.start("n0")
    nets = [cluster.make(f"n{number}", redial_ms_min=10, redial_ms_max=50) for number in range(1, 6)]
    received: dict[str, Inbox] = {}
    for net in [first, *nets]:
        received[net.node_id] = Inbox()
    await first.register_agent("box-n0", handler=received["n0"])
    for net in nets:
        net.agent(f"box-{net.node_id}")(received[net.node_id])
    accepted: dict[str, int] = dict.fromkeys(received, 0)
    joins = asyncio.gather(*(net.join_network(first.addresses) for net in nets))
    while not joins.done() or len(first.members()) < 6:
        for net in [first, *nets]:
            for to in received:
                try:
                    if net._engine is not None:
                        await net.send_message(AgentMessage(b"x", to_agent=f"box-{to}"))
                        accepted[to] += 1
                except NetworkError as error:
                    assert error.definite
        await asyncio.sleep(0)
    await soon(joins)
    for to, box in received.items():
        await until(lambda to=to, box=box: len(box.messages) == accepted[to])
    assert sum(net.stats()["messages_unconfirmed"] for net in cluster.joined) == 0


async def test_messages_go_on_after_the_link_was_made_again(cluster: Cluster) -> None:
    """At most once: nothing twice, and what is missing was told."""
    async with relay() as wire:
        address = f"tcp://127.0.0.1:{wire.port}"
        quick: dict[str, Any] = {"redial_ms_min": 5, "redial_ms_max": 50}
        (one,) = await cluster.start("n1", advertise=[address], **quick)
        wire.aim(str(one._doors.bound[0]))
        two = cluster.make("n2", listen=(), **quick)
        await soon(two.join_network([address]))
        box = Inbox()
        await one.register_agent("box", handler=box)
        sender = await two.register_agent("sender")
        accepted = []
        for number in range(3000):
            if number % 500 == 250:
                wire.cut()
            try:
                await sender.send("box", b"%d" % number)
            except NetworkError as error:
                assert error.definite
                await asyncio.sleep(0.005)
            else:
                accepted.append(number)
            if number % 20 == 0:
                await asyncio.sleep(0.001)
        assert len(accepted) > 500
        missing = two.stats
        await until(lambda: len(box.messages) + missing()["messages_unconfirmed"] >= len(accepted))
        got = [int(payload) for payload in box.payloads]
        assert got == sorted(set(got))
        assert set(got) <= set(accepted)


async def test_answers_that_come_at_once_end_each_request_once(cluster: Cluster) -> None:
    """They are handed out over several turns; whoever gives up meanwhile takes none from another."""
    one, two = await cluster.start("n1", "n2")
    gate = asyncio.Event()

    async def waits(message: AgentMessage) -> bytes:
        await gate.wait()
        return message.payload

    await two.register_agent("x", handler=waits, concurrency=1000)
    asked = [one.request("x", b"%d" % number) for number in range(1000)]
    odd = asked[1::2]
    asked[0].add_done_callback(lambda _: [request.cancel() for request in odd])
    gate.set()
    answers = await soon(asyncio.gather(*asked, return_exceptions=True))
    for number, answer in enumerate(answers):
        assert answer == b"%d" % number or (number % 2 and isinstance(answer, asyncio.CancelledError))
    assert any(isinstance(answer, asyncio.CancelledError) for answer in answers)
    assert one.stats()["requests_pending"] == 0
