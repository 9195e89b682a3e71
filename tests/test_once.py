"""What is asked under an id, and what a handler commits with `once`, over real links, disks and restarts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from networks import soon, until

from agentnet import (
    AgentMessage,
    AgentNetworkManager,
    ConfigError,
    Delivery,
    HandlerFailed,
    NetworkConfig,
    NotRunning,
    Reached,
    RequestTimeout,
)
from agentnet.handlers import wait_in_thread


def make(name: str, folder: Path | None) -> AgentNetworkManager:
    data_dir = None if folder is None else str(folder / name)
    return AgentNetworkManager(name, NetworkConfig(data_dir=data_dir, redial_ms_max=100))


async def test_a_result_outlives_a_restart(tmp_path: Path) -> None:
    count = [0]

    async def pay(order: dict[str, Any]) -> dict[str, Any]:
        count[0] += 1
        return {"receipt": count[0], "of": order["sum"]}

    async with make("a", tmp_path) as a:
        await a.join_network([])
        till = await a.register_agent("till")
        for _ in range(2):
            async with make("b", tmp_path) as b:
                await b.join_network(a.addresses)
                await b.register_agent("bank", handler=pay)
                for _ in range(2):
                    answer = await soon(till.request("bank", {"sum": 7}, operation_id="order 12"))
                    assert answer == {"receipt": 1, "of": 7}
                assert b.stats()["operations_kept"] == 1
        with pytest.raises(ConfigError, match="needs a delivery"):
            await till.send("bank", b"x", operation_id="x")  # type: ignore[call-overload]
    assert count == [1]


async def test_a_timeout_leaves_it_at_work_and_the_next_one_gets_the_result() -> None:
    begun, go = [0], asyncio.Event()

    async def slow(message: AgentMessage) -> bytes:
        begun[0] += 1
        await go.wait()
        return b"done"

    async with make("a", None) as a, make("b", None) as b:
        await a.join_network([])
        await b.join_network(a.addresses)
        await b.register_agent("slow", handler=slow)
        source = await a.register_agent("source")
        with pytest.raises(RequestTimeout):
            await soon(source.request("slow", b"x", timeout=0.2, operation_id="1"))
        again = source.request("slow", b"x", timeout=10, operation_id="1")
        await until(lambda: b.stats()["operations_joined"] == 1)
        go.set()
        assert await soon(again) == b"done"
        assert begun == [1]


async def test_an_effect_and_its_mark_outlive_a_restart(tmp_path: Path) -> None:
    async def add(message: AgentMessage) -> None:
        total = int(message.store.get("total", b"0")) + int(message.payload)
        await message.once({"total": b"%d" % total}, {"total": total})
        raise ValueError("what comes after it changes nothing")

    async with make("a", tmp_path) as a:
        await a.join_network([])
        source = await a.register_agent("source")
        async with make("b", tmp_path) as b:
            await b.join_network(a.addresses)
            await b.register_agent("bank", handler=add)
            assert await soon(source.request("bank", b"5", operation_id="1")) == {"total": 5}
            receipt = await soon(
                source.send("bank", b"2", delivery=Delivery.DURABLE, until="processed", operation_id="2")
            )
            assert (receipt.reached, receipt.node_id, receipt.on_disk) == (Reached.PROCESSED, "b", True)
        async with make("b", tmp_path) as b:
            await b.join_network(a.addresses)
            bank = await b.register_agent("bank", handler=add)
            assert dict(bank.store) == {"total": b"7"}
            receipt = await soon(source.send("bank", b"2", delivery=Delivery.ACKNOWLEDGED, operation_id="2"))
            assert receipt.on_disk
            assert await soon(source.request("bank", b"5", operation_id="1")) == {"total": 5}
            assert dict(bank.store) == {"total": b"7"}


@pytest.mark.parametrize("on_disk", [True, False])
async def test_a_thread_waits_until_it_is_committed(tmp_path: Path, on_disk: bool) -> None:
    stored: list[dict[str, bytes]] = []

    def plain(message: AgentMessage) -> str:
        message.once({"a": message.payload}, "committed")
        stored.append(dict(message.store))
        return "returned"

    def twice(message: AgentMessage) -> None:
        message.once()
        message.once()

    async with make("a", tmp_path if on_disk else None) as a:
        await a.join_network([])
        agent = await a.register_agent("plain", handler=plain)
        for _ in range(2):
            assert await soon(agent.request("plain", b"x", operation_id="1")) == "committed"
        assert (dict(agent.store), stored) == ({"a": b"x"}, [{"a": b"x"}])
        await a.register_agent("twice", handler=twice)
        receipt = await soon(agent.send("twice", b"x", delivery=Delivery.ACKNOWLEDGED))
        assert receipt.reached == Reached.PROCESSED
        with pytest.raises(HandlerFailed, match="nobody would send this message again|with a promise"):
            await soon(agent.request("plain", b"x"))


async def test_a_thread_that_waits_for_a_loop_which_ended_is_told() -> None:
    loop = asyncio.new_event_loop()
    waits = asyncio.create_task(asyncio.to_thread(wait_in_thread, loop, lambda: asyncio.sleep(0)))
    await asyncio.sleep(0.1)
    loop.close()
    with pytest.raises(NotRunning, match="the event loop of this node has ended") as told:
        await soon(waits)
    assert not told.value.definite
    with pytest.raises(NotRunning) as told:
        wait_in_thread(loop, lambda: asyncio.sleep(0))
    assert told.value.definite


async def test_what_was_done_stays_where_it_was_done(tmp_path: Path) -> None:
    """The rule for an agent that moves: it begins anew elsewhere, and has what it had when it is back."""
    done: list[str] = []

    def bank(where: str) -> Any:
        async def pay(message: AgentMessage) -> None:
            done.append(where)
            paid = int(message.store.get("paid", b"0")) + 1
            await message.once({"paid": b"%d" % paid}, b"%d on " % paid + where.encode())

        return pay

    async with make("a", tmp_path) as a, make("b", tmp_path) as b, make("c", tmp_path) as c:
        await a.join_network([])
        await b.join_network(a.addresses)
        await c.join_network(a.addresses)
        till = await a.register_agent("till")
        for number, net in enumerate((b, c, b)):
            agent = await net.register_agent("bank", handler=bank(net.node_id))
            assert len(agent.store) == (0, 0, 1)[number]
            answer = await soon(till.request("bank", b"x", operation_id="order 1"))
            assert answer == b"1 on " + net.node_id.encode()
            await net.unregister_agent("bank")
    assert done == ["b", "c"]
