"""A node that leaves: it takes no new work, finishes what it has, and tells what it could not."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from networks import Cluster, Inbox, echo, relay, soon, until

from agentnet import (
    AgentMessage,
    AgentNetworkManager,
    AgentStopped,
    HandlerFailed,
    LeaveReport,
    NetworkError,
    NodeStatus,
)

both_loops = pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])


def in_maintenance(net: AgentNetworkManager) -> list[str]:
    return [member.node_id for member in net.members() if member.status is NodeStatus.MAINTENANCE]


class Load:
    """Requests to whoever can do them, many at a time, repeated for as long as it surely was not done."""

    def __init__(self, net: AgentNetworkManager, capability: str) -> None:
        self.net, self.capability = net, capability
        self.answers: list[bytes] = []
        self.failures: list[NetworkError] = []
        self.refusals = 0
        self.asked = 0
        self.over = False

    async def run(self, lanes: int) -> None:
        await asyncio.gather(*(self._lane(lane) for lane in range(lanes)))

    async def _lane(self, lane: int) -> None:
        while not self.over:
            self.asked += 1
            await self._ask(lane, b"%d" % self.asked)

    async def _ask(self, lane: int, payload: bytes) -> None:
        while True:
            found = self.net.agents(self.capability)
            ready = [agent for agent in found if agent.status is NodeStatus.ACTIVE]
            try:
                self.answers.append(await self.net.request(ready[lane % len(ready)].agent_id, payload))
                return
            except NetworkError as error:
                if not error.definite:
                    self.failures.append(error)
                    return
                self.refusals += 1
                await asyncio.sleep(0)


@both_loops
@pytest.mark.parametrize("scheme", ["tcp", "tls"])
async def test_under_load_nothing_fails_and_nothing_is_lost(cluster: Cluster) -> None:
    asker, two, three = await cluster.start("n1", "n2", "n3", leave_ms_max=60_000)
    done: Counter[bytes] = Counter()
    for net in (two, three):

        async def work(message: AgentMessage, net: AgentNetworkManager = net) -> bytes:
            done[message.payload] += 1
            await asyncio.sleep(0.001)
            answer: bytes = await net.request(f"helper of {net.node_id}", message.payload)
            return answer

        await net.register_agent(f"worker of {net.node_id}", ["work"], work, concurrency=8)
        await net.register_agent(f"helper of {net.node_id}", handler=echo)
    load = Load(asker, "work")
    running = asyncio.ensure_future(load.run(32))
    for leaver in (three, two):
        before = len(load.answers)
        await until(lambda before=before: len(load.answers) > before + 300)
        report = await soon(leaver.leave_network())
        assert report.complete, report
        assert sum(report.handled.values()) > 0
        (again,) = [net for net in (two, three) if net is not leaver]
        if leaver is three:
            assert await soon(again.request("worker of n2", b"other")) == b"other"
            (three,) = await cluster.start("n3", leave_ms_max=60_000)
            await three.register_agent("worker of n3", ["work"], echo)
    before = len(load.answers)
    await until(lambda: len(load.answers) > before + 300)
    load.over = True
    await soon(running)
    assert load.failures == []
    assert len(load.answers) == load.asked
    assert set(done.values()) == {1}  # nothing was done twice


async def test_large_answers_that_wait_for_room_still_go_out(cluster: Cluster) -> None:
    asker, two = await cluster.start("n1", "n2", leave_ms_max=60_000)
    go_on = asyncio.Event()

    async def large(message: AgentMessage) -> bytes:
        await go_on.wait()
        return bytes(1_000_000)

    await two.register_agent("large", handler=large, concurrency=20)
    answers = [asker.request("large", b"") for _ in range(20)]
    await until(lambda: two.unfinished() == ["large"])
    leaving = asyncio.ensure_future(two.leave_network())
    await until(lambda: in_maintenance(asker) == ["n2"])
    go_on.set()
    assert [len(answer) for answer in await soon(asyncio.gather(*answers))] == [1_000_000] * 20
    assert (await soon(leaving)).complete


async def test_what_could_not_be_done_is_told(cluster: Cluster) -> None:
    asker, two = await cluster.start("n1", "n2", leave_ms_max=2000)
    begun = asyncio.Event()

    async def hang(message: AgentMessage) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def slow(message: AgentMessage) -> bytes:
        await asyncio.sleep(0.05)
        return b"done"

    await two.register_agent("hangs", handler=hang)
    await two.register_agent("slow", handler=slow, concurrency=4)
    await two.register_agent("box")
    stopped, refused = asker.request("hangs", b""), asker.request("hangs", b"")
    handled = [asker.request("slow", b"") for _ in range(4)]
    for _ in range(3):
        await asker.send_message(AgentMessage(b"x", to_agent="box"))
    await soon(begun.wait())
    await until(lambda: two.engine.ports[two.agents(name="box")[0].agent_id].pending_messages == 3)
    report = await soon(two.leave_network())
    assert report == LeaveReport({"slow": 4}, {"hangs": 1, "box": 3}, {"hangs": 1})
    assert not report.complete
    assert str(report) == "messages handled 4 of slow; refused 1 of hangs, 3 of box; stopped 1 of hangs"
    assert await soon(asyncio.gather(*handled)) == [b"done"] * 4
    with pytest.raises(HandlerFailed, match="was stopped while it handled this"):
        await soon(stopped)
    with pytest.raises(AgentStopped) as caught:
        await soon(refused)
    assert caught.value.definite
    assert await two.leave_network() is report


async def test_a_node_with_nothing_to_do_says_so(cluster: Cluster) -> None:
    one, _ = await cluster.start("n1", "n2")
    report = await soon(one.leave_network())
    assert (report, str(report)) == (LeaveReport(), "no messages")
    assert await cluster.make("n3").leave_network() == LeaveReport()


async def test_one_way_messages_to_it_are_done_or_refused(cluster: Cluster) -> None:
    one, two = await cluster.start("n1", "n2", leave_ms_max=60_000)
    watch, inbox = cluster.watch(one), Inbox()
    await two.register_agent("inbox", handler=inbox)
    sent = 0
    leaving = None
    while True:
        try:
            await one.send_message(AgentMessage(b"%d" % sent, to_agent="inbox"))
        except NetworkError as error:
            assert error.definite
            break
        sent += 1
        if sent == 1000:
            leaving = asyncio.ensure_future(two.leave_network())
        await asyncio.sleep(0)
    assert leaving is not None
    await soon(leaving)
    await until(lambda: len(inbox.messages) + len(watch.of("undeliverable")) >= sent)
    assert inbox.messages
    assert len(inbox.messages) + len(watch.of("undeliverable")) == sent
    assert all(event.error.definite for event in watch.of("undeliverable"))  # type: ignore[union-attr]


async def test_a_silent_node_does_not_hold_it_up(cluster: Cluster) -> None:
    (one,) = await cluster.start("n1")
    async with relay() as wire:
        wire.aim(str(one._doors.bound[0]))
        two = cluster.make("n2", leave_ms_max=60_000, node_silence_ms_max=1_000)
        await two.join_network([f"tcp://127.0.0.1:{wire.port}"])
        await until(lambda: len(two.members()) == 2)
        wire.freeze()
        await soon(two.leave_network(), 15)
