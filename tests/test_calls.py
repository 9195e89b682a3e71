"""Calls over real links: given up at any time and by anybody, and chains of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import pytest
from networks import Cluster, Inbox, echo, soon, until

from agentnet import (
    Agent,
    AgentMessage,
    Call,
    ConfigError,
    Event,
    Fate,
    HandlerFailed,
    LinkLost,
    MailboxFull,
    NetworkError,
    NoSuchAgent,
    RequestTimeout,
)

pytestmark = pytest.mark.asyncio

STOPPED = Fate(gave_up=True, stopped=True, committed=False)


class Sleeper:
    """A handler that sleeps until it is cancelled, and keeps what happened to it."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self.cancelled: list[bytes] = []
        self.gate = asyncio.Event()

    async def __call__(self, message: AgentMessage) -> bytes:
        self.begun.append(message.payload)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(message.payload)
            raise
        return b"woke"


async def started(cluster: Cluster, **options: Any) -> tuple[Any, Any, Agent, Sleeper]:
    one, two = await cluster.start("n1", "n2")
    sleeper = Sleeper()
    await two.register_agent("sleeper", handler=sleeper, **options)
    await two.register_agent("echo", handler=echo)
    return one, two, await one.register_agent("asker"), sleeper


async def cancel_task(call: Call[Any]) -> None:
    async def ask() -> None:
        await call

    task = asyncio.create_task(ask())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def time_out(call: Call[Any]) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await call


async def wait_for(call: Call[Any]) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(call, 0.01)


async def gather(call: Call[Any]) -> None:
    both = asyncio.gather(call, asyncio.sleep(9))
    await asyncio.sleep(0.01)
    both.cancel()
    with pytest.raises(asyncio.CancelledError):
        await both


async def cancel_it(call: Call[Any]) -> None:
    assert call.cancel()
    assert not call.cancel()


@pytest.mark.parametrize("way", [cancel_task, time_out, wait_for, gather, cancel_it])
async def test_however_it_is_given_up_the_handler_stops(
    cluster: Cluster, way: Callable[[Call[Any]], Awaitable[None]]
) -> None:
    one, two, asker, sleeper = await started(cluster)
    call = asker.request("sleeper", b"x")
    await until(lambda: sleeper.begun)
    await way(call)
    await until(lambda: sleeper.cancelled)
    assert call.cancelled()
    assert await soon(call.give_up()) == STOPPED
    assert await soon(asker.request("echo", b"goes on")) == b"goes on"
    sleeper.gate.set()
    assert await soon(asker.request("sleeper", b"again")) == b"woke"
    assert one.stats()["requests_recalled"] == 1
    assert two.stats()["handlers_failed"] == 0


async def test_who_waits_in_the_mailbox_is_never_begun(cluster: Cluster) -> None:
    _, two, asker, sleeper = await started(cluster)
    calls = [asker.request("sleeper", b"%d" % number) for number in range(3)]
    await until(lambda: two.engine.ports[two.control.directory.get("sleeper").agent_id].pending_messages == 2)
    assert await soon(calls[1].give_up()) == STOPPED
    sleeper.gate.set()
    assert await soon(asyncio.gather(calls[0], calls[2])) == [b"woke", b"woke"]
    assert sleeper.begun == [b"0", b"2"]
    assert two.stats()["requests_withdrawn"] == 1


async def test_three_facts_are_told_apart(cluster: Cluster) -> None:
    one, two, asker, _ = await started(cluster)

    async def shielded(message: AgentMessage) -> bytes:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            return b"finished all the same"
        return b""

    async def fails(message: AgentMessage) -> None:
        raise ValueError("no")

    await two.register_agent("shielded", handler=shielded)
    await two.register_agent("fails", handler=fails)
    answered = asker.request("echo", b"x")
    await answered
    assert await soon(answered.give_up()) == Fate(False, True, True)
    nobody = asker.request("nobody", b"x")
    with pytest.raises(NoSuchAgent):
        await nobody
    assert await soon(nobody.give_up()) == Fate(False, True, False)
    failing = asker.request("fails", b"x")
    with pytest.raises(HandlerFailed):
        await failing
    assert await soon(failing.give_up()) == Fate(False, True, False)
    late = asker.request("shielded", b"x")
    await asyncio.sleep(0.05)
    assert await soon(late.give_up()) == Fate(True, True, True)
    timed = asker.request("sleeper", b"x", timeout=0.05)
    with pytest.raises(RequestTimeout):
        await timed
    assert await soon(timed.give_up()) == STOPPED
    lost = asker.request("sleeper", b"y")
    one.engine.fail(one.engine.sessions["n2"], LinkLost("cut"))
    with pytest.raises(LinkLost):
        await soon(lost)
    assert await soon(lost.give_up()) == Fate(False, None, None)


async def test_a_function_in_a_thread_runs_on_and_the_fate_says_so(cluster: Cluster) -> None:
    _, two, asker, _ = await started(cluster)
    entered, go = threading.Event(), threading.Event()

    def blocks(message: AgentMessage) -> bytes:
        entered.set()
        go.wait(20)
        return b""

    await two.register_agent("blocks", handler=blocks)
    call = asker.request("blocks", b"x")
    await until(entered.is_set)
    assert await soon(call.give_up()) == Fate(True, False, None)
    go.set()


async def test_a_lost_link_stops_the_handlers_of_who_asked(cluster: Cluster) -> None:
    one, two, asker, sleeper = await started(cluster)
    inbox = Inbox()
    await two.register_agent("inbox", handler=inbox)
    call = asker.request("sleeper", b"x")
    await until(lambda: sleeper.begun)
    one.engine.fail(one.engine.sessions["n2"], LinkLost("cut"))
    with pytest.raises(LinkLost):
        await soon(call)
    await until(lambda: sleeper.cancelled)


async def test_a_handler_that_is_stopped_stops_what_it_asked(cluster: Cluster) -> None:
    one, two, three = await cluster.start("n1", "n2", "n3")
    sleeper = Sleeper()
    await three.register_agent("sleeper", handler=sleeper)

    async def middle(message: AgentMessage) -> Any:
        return await between.request("sleeper", b"deeper")

    between = await two.register_agent("middle", handler=middle)
    asker = await one.register_agent("asker")
    for how in ("give up", "time out", "unregister"):
        call = asker.request("middle", how.encode(), timeout=0.1 if how == "time out" else 30)
        await until(lambda: sleeper.begun)
        if how == "give up":
            assert await soon(call.give_up()) == STOPPED
        elif how == "unregister":
            await two.unregister_agent(between)
            with pytest.raises(NetworkError):
                await soon(call)
        await until(lambda: sleeper.cancelled)
        if how == "time out":
            with pytest.raises((RequestTimeout, HandlerFailed)):
                await call  # whose clock strikes first, its own or the middle's
        sleeper.begun.clear()
        sleeper.cancelled.clear()
    assert not any(net.engine.pending for net in (one, two, three))


async def test_many_are_given_up_and_nothing_stays(cluster: Cluster) -> None:
    one, two, asker, sleeper = await started(cluster, concurrency=10)
    calls = [asker.request("sleeper", b"%d" % number) for number in range(500)]
    await until(lambda: len(sleeper.begun) == 10)
    fates = await soon(asyncio.gather(*(call.give_up() for call in calls)))
    assert set(fates) == {STOPPED}
    assert sorted(sleeper.begun) == sorted(sleeper.cancelled)
    assert two.stats()["requests_withdrawn"] == 500 - len(sleeper.begun)
    assert not (one.engine.pending or one.engine.recalled)  # noqa: PT018
    sleeper.gate.set()
    assert await soon(asker.request("sleeper", b"again")) == b"woke"


async def test_a_call_is_a_future_to_asyncio(cluster: Cluster) -> None:
    _, _, asker, _ = await started(cluster)
    called: list[Any] = []
    first, second = asker.request("echo", b"1"), asker.request("echo", b"2")
    assert asyncio.isfuture(first)
    first.add_done_callback(called.append)
    second.add_done_callback(called.append)
    assert second.remove_done_callback(called.append) == 1
    with pytest.raises(asyncio.InvalidStateError):
        first.result()
    done, waiting = await asyncio.wait([first, second])  # type: ignore[type-var]
    assert (len(done), len(waiting)) == (2, 0)
    assert (first.result(), first.exception(), first.done(), first.cancelled()) == (b"1", None, True, False)
    assert called == [first]
    assert [await item for item in asyncio.as_completed([asker.request("echo", b"3")])] == [b"3"]
    assert await asyncio.shield(asker.request("echo", b"4")) == b"4"
    assert await asyncio.gather(first, first) == [b"1", b"1"]
    nobody = asker.request("nobody", b"")
    await asyncio.wait([nobody])  # type: ignore[type-var]
    assert isinstance(nobody.exception(), NoSuchAgent)
    late: list[Any] = []
    first.add_done_callback(late.append)
    await until(lambda: late == [first])


async def test_a_chain_has_no_more_time_than_its_first_call(cluster: Cluster) -> None:
    one, two = await cluster.start("n1", "n2")
    inbox = Inbox()
    await one.register_agent("last", handler=inbox)

    async def middle(message: AgentMessage) -> Any:
        await asyncio.sleep(0.1)
        return await between.request("last", b"", timeout=60)

    between = await two.register_agent("middle", handler=middle)
    assert await soon((await one.register_agent("asker")).request("middle", b"", timeout=5)) == 1
    assert 4 < inbox.messages[0].ttl <= 4.91
    assert inbox.messages[0].envelope.path == [between.agent_id]


async def test_a_cycle_is_refused_and_who_is_reentrant_answers(cluster: Cluster) -> None:
    one, two = await cluster.start("n1", "n2")
    agents: dict[str, Agent] = {}

    async def first(message: AgentMessage) -> Any:
        if message.payload == b"back":
            return b"out of turn"
        return await agents["first"].request("second", b"", timeout=20)

    async def second(message: AgentMessage) -> Any:
        return await agents["second"].request("first", b"back")

    agents["first"] = await one.register_agent("first", handler=first)
    agents["second"] = await two.register_agent("second", handler=second)
    asker = await two.register_agent("asker")
    with pytest.raises(HandlerFailed, match="CallCycle: first -> second -> first"):
        await soon(asker.request("first", b""), 5)
    agents["first"] = await one.register_agent("first", handler=first, reentrant=True)
    assert await soon(asker.request("first", b"")) == b"out of turn"
    assert not agents["first"].tasks() or agents["first"].parked


async def test_mailboxes_that_drop_what_is_too_much(cluster: Cluster) -> None:
    one, two, asker, sleeper = await started(cluster, when_full="drop-oldest", mailbox_messages_max=2)
    first = asker.request("sleeper", b"first")
    await until(lambda: sleeper.begun)
    events = two.events()
    calls = [asker.request("sleeper", b"%d" % number) for number in range(5)]
    for call in calls[:3]:
        with pytest.raises(MailboxFull):
            await soon(call)
    async for event in events:
        if event.kind == Event.MAILBOX_FULL:
            break
    assert event.name == "sleeper"
    assert two.stats()["mailbox_dropped"] == 3
    sleeper.gate.set()
    assert await soon(asyncio.gather(first, *calls[3:])) == [b"woke"] * 3
    assert sleeper.begun == [b"first", b"3", b"4"]
    for options in ({"when_full": "drop"}, {"mailbox_messages_max": 0}, {"mailbox_bytes_max": "1"}):
        with pytest.raises(ConfigError, match="agent x"):
            await one.register_agent("x", handler=echo, **options)


async def test_tasks_whose_answers_come_together_are_all_woken(cluster: Cluster) -> None:
    """Some await one call, one is cancelled meanwhile, one raises; each goes on in its own context."""
    _, _, asker, _ = await started(cluster)
    name: ContextVar[int] = ContextVar("name")
    shared = asker.request("echo", b"shared")

    async def ask(number: int) -> tuple[int, bytes, bytes]:
        name.set(number)
        answer = await asker.request("echo", b"%d" % number)
        if number == 5:
            raise KeyError(number)
        return name.get(), answer, await shared

    tasks = [asyncio.create_task(ask(number)) for number in range(20)]
    await asyncio.sleep(0)
    tasks[7].cancel("enough")
    answers = await soon(asyncio.gather(*tasks, return_exceptions=True))
    assert isinstance(answers[5], KeyError)
    assert isinstance(answers[7], asyncio.CancelledError)
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await tasks[7]
    for number in {*range(20)} - {5, 7}:
        assert answers[number] == (number, b"%d" % number, b"shared")
