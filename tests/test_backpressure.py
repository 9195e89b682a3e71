"""Back-pressure is per receiving agent: its senders wait, within bounds, and nobody else notices."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import pytest
from networks import (
    AGENTS,
    MESSAGE,
    STOP_SIGNAL,
    Cluster,
    Inbox,
    echo,
    node_process,
    resident_bytes,
    soon,
    until,
)

from agentnet import (
    AgentMessage,
    AgentNetworkManager,
    AgentStopped,
    Congested,
    Event,
    Expired,
    LinkLost,
    NetworkError,
    NoSuchAgent,
    RequestTimeout,
)
from agentnet_core.agent_record import AgentRecord
from agentnet_core.listing import write_whole

both_loops = pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])
every_scheme = pytest.mark.parametrize("scheme", ["tcp", "tls"])
needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads memory use in /proc")

SMALL = {"mailbox_messages_max": 32, "link_window_bytes": 300_000, "mailbox_bytes_max": 1_000_000}


class Gate:
    """A handler that handles nothing until it is opened."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.box = Inbox()

    async def __call__(self, message: AgentMessage) -> int:
        await self.opened.wait()
        return await self.box(message)


async def finish(send: Any) -> None:
    await send


async def flood(sender: Any, to: str, count: int, size: int = 100) -> None:
    for number in range(count):
        await sender.send(to, b"%08d" % number + bytes(size))


class TestStoppedAgent:
    @both_loops
    @every_scheme
    async def test_its_sender_waits_and_then_goes_on(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2", **SMALL)
        gate = Gate()
        agent = await two.register_agent("gate", handler=gate)
        await two.register_agent("echo", handler=echo)
        sender = await one.register_agent("sender")
        sending = asyncio.ensure_future(flood(sender, "gate", 20_000))
        await until(lambda: agent.pending_messages >= 24)
        for _ in range(50):
            assert await soon(one.request("echo", b"others go on")) == b"others go on"
        assert not sending.done()
        gate.opened.set()
        await soon(sending)
        payloads = await gate.box.wait(20_000)
        assert [int(payload[:8]) for payload in payloads] == list(range(20_000))

    @pytest.mark.parametrize("same_node", [False, True])
    async def test_what_is_held_is_bounded(self, cluster: Cluster, same_node: bool) -> None:
        one, two = await cluster.start("n1", "n2", **SMALL)
        gate = Gate()
        agent = await two.register_agent("gate", handler=gate)
        source = two if same_node else one
        sender = await source.register_agent("sender")
        sending = asyncio.ensure_future(flood(sender, "gate", 100_000, 1000))
        await _settled(lambda: (agent.pending_messages, source.stats()["messages_sent"]))
        # One window beyond the mailbox may be on its way when the agent says STOP.
        window = SMALL["link_window_bytes"] // 1000
        assert 23 <= agent.pending_messages <= 32 + window
        sent = source.stats()["messages_sent"] + source.stats()["messages_local"]
        assert sent <= agent.pending_messages + 2 * window
        gate.opened.set()
        await soon(sending, 40)
        await gate.box.wait(100_000)

    @needs_proc
    async def test_large_messages_too(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2", **SMALL, sends_waiting_max=10)
        gate = Gate()
        await two.register_agent("gate", handler=gate)
        await two.register_agent("echo", handler=echo)
        sender = await one.register_agent("sender")
        payload = bytes(1_000_000)
        before = resident_bytes()
        sends = [asyncio.ensure_future(finish(sender.send("gate", payload))) for _ in range(10)]
        await _settled(lambda: (two.stats()["bytes_received"] // 200_000, one.stats()["messages_sent"]))
        # The sender holds one object; the receiver what its mailbox and reassembly took.
        assert resident_bytes() - before < 30_000_000
        assert await soon(one.request("echo", b"x" * 1000)) == b"x" * 1000
        gate.opened.set()
        await soon(asyncio.gather(*sends))
        assert len(await gate.box.wait(10)) == 10

    async def test_neighbours_on_the_same_link_keep_their_pace(self, cluster: Cluster) -> None:
        """The shape of the figure: its number is the benchmark's business."""
        one, two = await cluster.start("n1", "n2", **SMALL)
        gate = Gate()
        await two.register_agent("gate", handler=gate)
        for number in range(20):
            await two.register_agent(f"echo-{number}", handler=echo)
        sender = await one.register_agent("sender")

        async def round_trips() -> float:
            start = time.perf_counter()
            for number in range(400):
                assert await soon(one.request(f"echo-{number % 20}", b"x")) == b"x"
            return time.perf_counter() - start

        await round_trips()
        before = await round_trips()
        sending = asyncio.ensure_future(flood(sender, "gate", 100_000))
        await until(lambda: two.busy)
        best = min([await round_trips() for _ in range(3)])
        assert best < 5 * before  # this test shares its machine
        sending.cancel()
        gate.opened.set()

    async def test_answers_and_control_pass_it(self, cluster: Cluster) -> None:
        """An agent that floods a stopped one is itself served: nothing stands behind the flood."""
        one, two = await cluster.start("n1", "n2", **SMALL)
        gate = Gate()
        await two.register_agent("gate", handler=gate)
        sender = await one.register_agent("sender", handler=echo)
        sending = asyncio.ensure_future(flood(sender, "gate", 100_000))
        await until(lambda: two.busy)
        assert await soon(two.request("sender", b"still here")) == b"still here"
        late = await soon(one.register_agent("late", handler=echo))
        assert await soon(two.request(late.id, b"new")) == b"new"
        broadcasts = Inbox()
        await two.register_agent("all", handler=broadcasts)
        await soon(one.broadcast_message(b"to all"))
        await broadcasts.wait(1)
        sending.cancel()
        gate.opened.set()

    async def test_two_that_flood_each_other_end_in_an_error(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2", **SMALL, send_wait_ms_max=300)

        def flooding(net: AgentNetworkManager, other: str) -> Any:
            async def handle(message: AgentMessage) -> None:
                agent = net.engine.ports[message.to_agent]
                for _ in range(100):
                    await agent.send(other, message.payload)

            return handle

        watches = [cluster.watch(net) for net in (one, two)]
        await one.register_agent("left", handler=flooding(one, "right"))
        await two.register_agent("right", handler=flooding(two, "left"))
        await one.send_message(AgentMessage(bytes(1000), to_agent="right"))
        for watch in watches:
            event = await watch.wait(Event.HANDLER_FAILED)
            assert isinstance(event.error, Congested)
            assert event.error.definite

    async def test_two_agents_of_one_node_that_flood_each_other(self, cluster: Cluster) -> None:
        (one,) = await cluster.start("n1", **SMALL, send_wait_ms_max=200)

        async def handle(message: AgentMessage) -> None:
            agent = one.engine.ports[message.to_agent]
            other = "b" if agent.record.name == "a" else "a"
            for _ in range(100):
                await agent.send(other, message.payload)

        watch = cluster.watch(one)
        await one.register_agent("a", handler=handle)
        await one.register_agent("b", handler=handle)
        await one.send_message(AgentMessage(b"x", to_agent="a"), sender="b")
        assert isinstance((await watch.wait(Event.HANDLER_FAILED)).error, Congested)


async def _settled(values: Any) -> None:
    """Return when ``values`` have not changed for a while."""
    last, since = values(), time.monotonic()
    async with asyncio.timeout(20):
        while time.monotonic() - since < 0.3:
            await asyncio.sleep(0.01)
            if (now := values()) != last:
                last, since = now, time.monotonic()


class TestWaitingSends:
    async def _stopped(self, cluster: Cluster, **settings: Any) -> tuple[Any, Any, Gate]:
        one, two = await cluster.start("n1", "n2", **{**SMALL, **settings})
        gate = Gate()
        await two.register_agent("gate", handler=gate)
        sender = await one.register_agent("sender")
        for number in range(100_000):
            try:
                sender.send_nowait("gate", b"%d" % number)
            except Congested as error:
                assert error.definite
                assert "agent gate" in str(error)
                if two.busy:
                    break
            await asyncio.sleep(0)
        return sender, two, gate

    async def test_nowait_raises_and_later_works_again(self, cluster: Cluster) -> None:
        sender, _, gate = await self._stopped(cluster)
        with pytest.raises(Congested, match="nothing was sent"):
            sender.send_nowait("gate", b"")
        gate.opened.set()

        async def again() -> None:
            while True:
                try:
                    return sender.send_nowait("gate", b"again")
                except Congested:
                    await asyncio.sleep(0.005)

        await soon(again())
        await until(lambda: gate.box.payloads and gate.box.payloads[-1] == b"again")

    async def test_nowait_on_the_same_node(self, cluster: Cluster) -> None:
        (one,) = await cluster.start("n1", **SMALL)
        gate = Gate()
        agent = await one.register_agent("gate", handler=gate)
        with pytest.raises(Congested):
            for _ in range(100):
                agent.send_nowait("gate", b"")
        assert agent.pending_messages == 24
        gate.opened.set()
        await gate.box.wait(24)

    async def test_too_many(self, cluster: Cluster) -> None:
        sender, _, gate = await self._stopped(cluster, sends_waiting_max=5)
        waiting = [asyncio.ensure_future(finish(sender.send("gate", b"waits"))) for _ in range(5)]
        await asyncio.sleep(0)
        with pytest.raises(Congested, match="5 sends of .* bytes to agent gate wait already"):
            await sender.send("gate", b"one too many")
        with pytest.raises(Congested):
            await soon(sender.request("gate", b"one too many"))
        gate.opened.set()
        await soon(asyncio.gather(*waiting))
        await until(lambda: gate.box.payloads[-5:] == [b"waits"] * 5)

    async def test_too_long(self, cluster: Cluster) -> None:
        sender, _, _ = await self._stopped(cluster, send_wait_ms_max=100)
        for payload in (b"small", bytes(500_000)):
            with pytest.raises(Congested, match="had no room for 100 ms .send_wait_ms_max.") as caught:
                await soon(sender.send("gate", payload), 5)
            assert caught.value.definite

    async def test_a_large_one_behind_a_full_window_waits_no_longer(self, cluster: Cluster) -> None:
        """The link itself is full: its peer gives no credit."""
        (one,) = await cluster.start("n1", send_wait_ms_max=200)
        async with node_process("n2", one.addresses, listen="tcp://127.0.0.1:0") as process:
            await until(lambda: one.agents("echo"))
            process.signal(STOP_SIGNAL)
            sends = [
                asyncio.ensure_future(
                    finish(one.send_message(AgentMessage(bytes(1_000_000), to_agent="count-n2")))
                )
                for _ in range(3)
            ]
            small = asyncio.ensure_future(
                finish(one.send_message(AgentMessage(b"small", to_agent="count-n2")))
            )
            outcomes = await soon(asyncio.gather(*sends[1:], small, return_exceptions=True), 10)
            assert [type(outcome) for outcome in outcomes] == [Congested] * 3
            # The first has begun to be sent, so only the end of the link ends it.
            process.process.kill()
            (last,) = await soon(asyncio.gather(sends[0], return_exceptions=True))
            assert isinstance(last, NetworkError)
            assert isinstance(last, LinkLost) is not last.definite

    async def test_a_request_that_could_not_be_sent_in_time_was_not_sent(self, cluster: Cluster) -> None:
        sender, _, gate = await self._stopped(cluster)
        with pytest.raises(Congested) as caught:
            await soon(sender.request("gate", b"request", timeout=0.1))
        assert caught.value.definite
        gate.opened.set()
        assert await soon(sender.request("gate", b"request")) > 0
        assert gate.box.payloads.count(b"request") == 1

    async def test_its_ttl_runs_while_it_waits(self, cluster: Cluster) -> None:
        sender, _, gate = await self._stopped(cluster)
        sending = asyncio.ensure_future(finish(sender.send("gate", b"expires", ttl=0.05)))
        await asyncio.sleep(0.1)
        gate.opened.set()
        with pytest.raises(Expired, match="was not sent") as caught:
            await soon(sending)
        assert caught.value.definite
        await soon(sender.send("gate", b"last"))
        await until(lambda: gate.box.payloads[-1] == b"last")
        assert b"expires" not in gate.box.payloads

    async def test_a_cancelled_one_is_not_sent_and_takes_no_place(self, cluster: Cluster) -> None:
        sender, _, gate = await self._stopped(cluster, sends_waiting_max=5)
        for _ in range(4):
            cancelled = [asyncio.ensure_future(finish(sender.send("gate", b"cancelled"))) for _ in range(5)]
            await asyncio.sleep(0)
            for send in cancelled:
                send.cancel()
            await asyncio.wait(cancelled)

            async def a_place_is_free() -> Any:
                while True:
                    try:
                        return sender.send("gate", b"cancelled").cancel()
                    except Congested:
                        await asyncio.sleep(0.01)

            # Soon, while the receiver is still stopped.
            await soon(a_place_is_free(), 5)
        await asyncio.sleep(0.3)
        sending = asyncio.ensure_future(finish(sender.send("gate", b"sent")))
        await asyncio.sleep(0)
        gate.opened.set()
        await soon(sending)
        await until(lambda: gate.box.payloads[-1] == b"sent")
        assert b"cancelled" not in gate.box.payloads

    async def test_they_fail_when_the_agent_is_unregistered(self, cluster: Cluster) -> None:
        sender, two, _ = await self._stopped(cluster)
        sending = asyncio.ensure_future(finish(sender.send("gate", b"waits")))
        asking = sender.request("gate", b"waits")
        await asyncio.sleep(0)
        (one,) = [net for net in cluster.nets if net is not two]
        watch = cluster.watch(one)
        await two.unregister_agent("gate")
        with pytest.raises((AgentStopped, NoSuchAgent)) as caught:
            await soon(asking)
        assert caught.value.definite
        try:
            await soon(sending)
        except AgentStopped as error:
            assert error.definite
        else:  # it was on its way when the agent went: its node tells
            event = await watch.wait(Event.UNDELIVERABLE)
            assert isinstance(event.error, (AgentStopped, NoSuchAgent))

    async def test_they_go_to_what_replaces_the_agent(self, cluster: Cluster) -> None:
        sender, two, _ = await self._stopped(cluster)
        sending = asyncio.ensure_future(finish(sender.send("gate", b"waits")))
        await asyncio.sleep(0)
        box = Inbox()
        await two.register_agent("gate", handler=box)
        await soon(sending)
        await until(lambda: box.payloads[-1:] == [b"waits"])
        await soon(sender.send("gate", b"more"))
        await until(lambda: box.payloads[-1:] == [b"more"])

    async def test_they_fail_when_the_node_leaves(self, cluster: Cluster) -> None:
        sender, two, _ = await self._stopped(cluster, leave_ms_max=100)
        sending = asyncio.ensure_future(finish(sender.send("gate", b"waits")))
        await asyncio.sleep(0)
        await two.leave_network()
        with pytest.raises(NetworkError) as caught:
            await soon(sending)
        assert caught.value.definite

    async def test_leaving_with_waiting_sends(self, cluster: Cluster) -> None:
        sender, two, _ = await self._stopped(cluster)
        sending = asyncio.ensure_future(finish(sender.send("gate", b"waits")))
        await asyncio.sleep(0)
        (one,) = [net for net in cluster.nets if net is not two]
        await soon(one.leave_network())
        with pytest.raises(NetworkError) as caught:
            await soon(sending)
        assert caught.value.definite


class TestPeers:
    """A peer that breaks the rules of the window, or never gives credit."""

    async def test_a_peer_that_gives_no_credit(self, cluster: Cluster) -> None:
        (one,) = await cluster.start("n1", send_wait_ms_max=200, request_timeout_ms=300)
        peer = await cluster.peer(one)
        await peer.join("0-miser", network_uuid=one.control.network_uuid, credit_bytes=70_000)
        (body,) = write_whole("0-miser", 1, 1, [AgentRecord(77, "0-miser"), AgentRecord(78, "0-miser")], 4096)
        peer.send(AGENTS, body)
        await until(lambda: len(one.agents()) == 2)
        sent = 0
        with pytest.raises(Congested):
            for _ in range(1000):
                await soon(one.send_message(AgentMessage(bytes(1000), to_agent=77)))
                sent += 1
        assert 60 <= sent <= 70
        # The link is what is full here, so other agents behind it wait, too.
        with pytest.raises((Congested, RequestTimeout)):
            await soon(one.request(78, bytes(10_000)))
        got = 0
        while got < sent:
            assert len(await peer.expect(MESSAGE)) > 1000
            got += 1

    async def test_a_node_process_that_stops_reading(self, cluster: Cluster) -> None:
        """The kernel's buffers are not ours to bound; beyond them the window is."""
        (one,) = await cluster.start("n1", send_wait_ms_max=300)
        async with node_process("n2", one.addresses, listen="tcp://127.0.0.1:0") as process:
            await until(lambda: one.agents("echo"))
            agent = await one.register_agent("sender")
            process.signal(STOP_SIGNAL)
            sent = 0
            with pytest.raises(Congested):
                for _ in range(100_000):
                    await soon(agent.send("count-n2", bytes(1000)))
                    sent += 1
            assert sent * 1000 < 2 * one.config.link_window_bytes
