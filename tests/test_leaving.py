"""How things end: a leave or a join that is itself cancelled, and agents that end without being asked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from networks import (
    AGENTS,
    SECONDS,
    Cluster,
    active,
    echo,
    open_files,
    relay,
    soon,
    until,
    until_nothing_left,
)

from agentnet import (
    AgentMessage,
    AgentNetworkManager,
    AgentStopped,
    Event,
    HandlerFailed,
    HandlerStuck,
    NetworkError,
    NodeStatus,
    NoSuchAgent,
    NotRunning,
)
from agentnet_core.agent_record import AgentRecord
from agentnet_core.listing import write_whole
from agentnet_core.records import agent_id_of

both_loops = pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])


class Hanging:
    """A handler that never ends by itself."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()

    async def __call__(self, message: AgentMessage) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()


class Stubborn:
    """A handler that ends when it has had enough, and not when it is cancelled."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.enough = asyncio.Event()

    async def __call__(self, message: AgentMessage) -> bytes:
        self.begun.set()
        while not self.enough.is_set():
            with suppress(asyncio.CancelledError):
                await self.enough.wait()
        return b"at last"


async def cancel(task: asyncio.Future[Any]) -> None:
    """It must not keep that to itself."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)


@contextmanager
def no_complaints() -> Iterator[None]:
    """Nothing that the loop calls raises."""
    found: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: found.append(context))
    yield
    loop.set_exception_handler(None)
    assert found == []


class TestALeaveThatIsCancelled:
    @both_loops
    @pytest.mark.parametrize("scheme", ["tcp", "tls"])
    async def test_closes_everything_at_once(self, cluster: Cluster) -> None:
        tasks, files = asyncio.all_tasks(), open_files()
        with no_complaints():
            one, two = await cluster.start("n1", "n2", leave_ms_max=60_000)
            watch, hanging = cluster.watch(one), Hanging()
            await two.register_agent("hangs", handler=hanging)
            requests = [one.request("hangs", b""), one.request("hangs", b"")]
            await soon(hanging.begun.wait())
            stream = two.events()
            leaving = asyncio.ensure_future(two.leave_network())
            await until(lambda: {agent.status for agent in one.agents()} == {NodeStatus.MAINTENANCE})
            await cancel(leaving)
            assert two.stats()["links"] == 0
            async with asyncio.timeout(SECONDS):
                assert [event.kind async for event in stream][-1] == Event.AGENT_GONE
            await watch.wait(Event.LEFT, node_id="n2")
            assert active(one) == ["n1"]
            await soon(hanging.ended.wait())
            for request in requests:
                with pytest.raises(NetworkError):
                    await soon(request)
            await watch.close()
            await one.leave_network()
            await until_nothing_left(tasks, files)

    async def test_a_second_one_returns_when_all_is_closed(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2", leave_ms_max=60_000)
        tasks, files = asyncio.all_tasks(), open_files()
        three, hanging = cluster.make("n3", leave_ms_max=60_000), Hanging()
        await three.join_network(one.addresses)
        await three.register_agent("hangs", handler=hanging)
        await two.send_message(AgentMessage(b"", to_agent="hangs"))
        await soon(hanging.begun.wait())
        leaving, second = (asyncio.ensure_future(three.leave_network()) for _ in range(2))
        await until(lambda: {agent.status for agent in one.agents()} == {NodeStatus.MAINTENANCE})
        await cancel(leaving)
        await soon(second)
        assert hanging.ended.is_set()
        assert asyncio.all_tasks() == tasks
        assert three.stats()["links"] == 0
        await until(lambda: len(active(one)) == len(active(two)) == 2)
        await until_nothing_left(tasks, files)
        await three.leave_network()
        with pytest.raises(NotRunning, match="left"):
            await three.register_agent("x")

    async def test_before_it_had_begun_to_wait(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2")
        leaving = asyncio.ensure_future(two.leave_network())
        await asyncio.sleep(0)
        await cancel(leaving)
        await two.leave_network()
        await until(lambda: active(one) == ["n1"])

    async def test_a_cancelled_join_that_is_cancelled_again(self, cluster: Cluster) -> None:
        tasks, files = asyncio.all_tasks(), open_files()
        one = cluster.make("n1")
        await one.join_network()
        async with relay() as wire:
            wire.aim(str(one._doors.bound[0]))
            wire.freeze()
            two = cluster.make("n2", leave_ms_max=60_000)
            joining = asyncio.ensure_future(two.join_network([f"tcp://127.0.0.1:{wire.port}"]))
            await until(lambda: wire.connections)
            joining.cancel()
            await asyncio.sleep(0)
            await cancel(joining)
            await soon(two.leave_network())
            assert two.stats()["links"] == 0
        await one.leave_network()
        await until_nothing_left(tasks, files)


class TestAnAgentThatIsTakenAway:
    @both_loops
    async def test_whose_handler_keeps_its_cancellation_to_itself(self, cluster: Cluster) -> None:
        (net,) = await cluster.start("n1", leave_ms_max=60_000)
        stubborn = Stubborn()
        await net.register_agent("stubborn", handler=stubborn)
        asking, waiting = net.request("stubborn", b""), net.request("stubborn", b"")
        await soon(stubborn.begun.wait())
        with pytest.raises(HandlerStuck, match="agent stubborn is unregistered, but its handler") as caught:
            await soon(net.unregister_agent("stubborn"), 5)
        assert not caught.value.definite
        assert not net.agents()
        with pytest.raises(AgentStopped):
            await soon(waiting)
        assert net.unfinished() == ["stubborn"]
        with pytest.raises(NoSuchAgent):
            await net.unregister_agent("stubborn")
        stubborn.enough.set()
        assert await soon(asking) == b"at last"
        await until(lambda: not net.busy)
        await soon(net.leave_network(), 0.9)

    async def test_whose_handler_cleans_up(self, cluster: Cluster) -> None:
        (net,) = await cluster.start("n1")
        hanging = Hanging()
        await net.register_agent("hangs", handler=hanging)
        asking = net.request("hangs", b"")
        await soon(hanging.begun.wait())
        await net.unregister_agent("hangs")
        assert hanging.ended.is_set()
        with pytest.raises(HandlerFailed, match="was stopped while it handled this"):
            await soon(asking)


async def take_over(cluster: Cluster, net: AgentNetworkManager, *names: str) -> None:
    """A node of a lower id comes with agents of these names, as after a partition, and wins them."""
    peer = await cluster.peer(net)
    await peer.join("0-low", network_uuid=net.control.network_uuid)
    records = [AgentRecord(agent_id_of(name), "0-low", name) for name in names]
    (body,) = write_whole("0-low", 1, 1, records, 4096)
    peer.send(AGENTS, body)
    await until(lambda: [agent.node_id for agent in net.agents()] == ["0-low"] * len(names))


class TestAnAgentThatLostItsId:
    async def test_ends_like_one_that_was_unregistered(self, cluster: Cluster) -> None:
        (net,) = await cluster.start("n1", leave_ms_max=60_000)
        tasks, watch, hanging = asyncio.all_tasks(), cluster.watch(net), Hanging()
        await net.register_agent("hangs", handler=hanging)
        box = await net.register_agent("box")

        async def read() -> list[bytes]:
            return [message.payload async for message in box.messages()]

        readers = [asyncio.ensure_future(read()) for _ in range(2)]
        begun, waiting = net.request("hangs", b""), net.request("hangs", b"")
        await soon(hanging.begun.wait())
        await take_over(cluster, net, "hangs", "box")
        assert await soon(asyncio.gather(*readers)) == [[], []]
        with pytest.raises(HandlerFailed, match="was stopped while it handled this"):
            await soon(begun)
        with pytest.raises(AgentStopped):
            await soon(waiting)
        await soon(hanging.ended.wait())
        await until(lambda: not net.busy)
        for name in ("hangs", "box"):
            await watch.wait(Event.AGENT_CONFLICT, name=name, node_id="0-low")
        await watch.close()
        assert not [task for task in asyncio.all_tasks() - tasks if task.get_name().startswith("agent")]

    async def test_while_it_waits_for_mail(self, cluster: Cluster) -> None:
        (net,) = await cluster.start("n1", agent_idle_ms=3_600_000)
        await net.register_agent("idle", handler=echo)
        assert await net.request("idle", b"x") == b"x"
        assert net.busy
        await take_over(cluster, net, "idle")
        await until(lambda: not net.busy)
