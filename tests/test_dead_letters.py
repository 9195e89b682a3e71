"""Deliveries over real links and disks: receipts, restarts, and dead letters by net and by shell."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from networks import Inbox, soon

from agentnet import (
    AgentNetworkManager,
    ConfigError,
    DeadLettered,
    Delivery,
    DeliveryTimeout,
    Event,
    Nack,
    NetworkConfig,
    Reached,
    StorageLocked,
)
from agentnet.dead import ClosedMail

DURABLE, ACKNOWLEDGED = Delivery.DURABLE, Delivery.ACKNOWLEDGED


def make(name: str, folder: Path | None) -> AgentNetworkManager:
    data_dir = None if folder is None else str(folder / name)
    config = NetworkConfig(
        listen=["tcp://127.0.0.1:0"], data_dir=data_dir, delivery_attempts_max=1, redial_ms_max=100
    )
    return AgentNetworkManager(name, config)


def shell(*arguments: str) -> Any:
    command = [sys.executable, "-m", "agentnet", "dead-letters", "--json", *arguments]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    return json.loads(ran.stdout) if ran.returncode == 0 else ran.stderr


def test_the_example_says_what_was_reached(tmp_path: Path) -> None:
    example = Path(__file__).parents[1] / "examples" / "receipts.py"
    command = [sys.executable, str(example), str(tmp_path)]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()
    assert [line for line in said if line.startswith("clerk")] == [
        "clerk: a form",
        "clerk: another",
        "clerk: a remark",
    ]
    receipts = [line for line in said if line.startswith("Receipt")]
    assert "KEPT" in receipts[0]
    assert "'desk'" in receipts[0]
    assert all("PROCESSED" in line and "'office'" in line for line in receipts[1:])
    assert [line.endswith("on_disk=True)") for line in receipts] == [True, True, False]


async def test_receipts_over_a_real_link() -> None:
    box = Inbox()
    async with make("a", None) as a, make("b", None) as b:
        await a.join_network([])
        await b.join_network(a.addresses)
        await b.register_agent("sink", handler=box)
        source = await a.register_agent("source")
        for delivery, until, reached, where in (
            (ACKNOWLEDGED, None, Reached.PROCESSED, "b"),
            (ACKNOWLEDGED, "mailboxed", Reached.MAILBOXED, "b"),
            (DURABLE, None, Reached.KEPT, "a"),
            (DURABLE, "processed", Reached.PROCESSED, "b"),
        ):
            receipt: Any = await soon(source.send("sink", b"x", delivery=delivery, until=until))  # type: ignore[call-overload]
            assert (receipt.reached, receipt.node_id, receipt.on_disk) == (reached, where, False)
        reader = await b.register_agent("reader")
        token = source.send("reader", b"to be read", delivery=ACKNOWLEDGED, timeout=10)
        async for message in reader.messages():
            assert message.payload == b"to be read"
            break
        with pytest.raises(DeliveryTimeout):  # whoever stops to read has not said that it is done
            await soon(source.send("reader", b"x", delivery=ACKNOWLEDGED, timeout=0.2))
        del token


async def test_a_reader_gives_back_what_it_leaves_or_wants_later() -> None:
    async with make("a", None) as a, make("b", None) as b:
        await a.join_network([])
        await b.join_network(a.addresses)
        reader = await b.register_agent("reader")
        source = await a.register_agent("source")
        config = a.config
        assert config.delivery_attempts_max == 1
        token = source.send("reader", b"left", delivery=ACKNOWLEDGED, timeout=10)
        messages = reader.messages()
        assert (await soon(anext(messages))).payload == b"left"
        await messages.aclose()  # type: ignore[attr-defined]
        with pytest.raises(Nack, match="has left"):
            await soon(token)
        token = source.send("reader", b"later", delivery=ACKNOWLEDGED, timeout=10)
        messages = reader.messages()
        await reader.nack(await soon(anext(messages)), delay=0.1)
        with pytest.raises(Nack, match="wants it again"):
            await soon(token)
        token = source.send("reader", b"done", delivery=ACKNOWLEDGED, timeout=10)
        assert (await soon(anext(messages))).payload == b"done"
        reading = asyncio.ensure_future(anext(messages))
        assert (await soon(token)).reached is Reached.PROCESSED
        reading.cancel()


async def test_a_handler_that_wants_it_again_gets_it() -> None:
    seen: list[int] = []

    async def shy(message: Any) -> None:
        seen.append(message.slip.attempt)
        if len(seen) < 3:
            raise Nack("not yet", delay=0.01)

    config = NetworkConfig(listen=["tcp://127.0.0.1:0"])
    async with AgentNetworkManager("a", config) as a, AgentNetworkManager("b", config) as b:
        await a.join_network([])
        await b.join_network(a.addresses)
        await b.register_agent("shy", handler=shy)
        source = await a.register_agent("source")
        receipt = await soon(source.send("shy", b"x", delivery=ACKNOWLEDGED))
        assert (receipt.attempts, seen) == (3, [1, 2, 3])
        assert b.stats()["handlers_failed"] == 0
        with pytest.raises(ConfigError):
            Nack(delay=-1)


async def test_what_was_promised_nothing_and_is_not_wanted_now_is_counted_and_told() -> None:
    async def shy(_: Any) -> None:
        raise Nack("not yet")

    config = NetworkConfig(listen=["tcp://127.0.0.1:0"])
    async with AgentNetworkManager("a", config) as net:
        await net.join_network([])
        events = net.events()
        await net.register_agent("shy", handler=shy)
        reader = await net.register_agent("reader")
        source = await net.register_agent("source")
        messages = reader.messages()
        for number, name in enumerate(("shy", "reader"), 1):
            await source.send(name, b"x")
            if name == "reader":
                await reader.nack(await soon(anext(messages)))
            while (event := await soon(anext(events))).kind != Event.UNDELIVERABLE:
                pass
            assert event.name == name
            assert isinstance(event.error, Nack)
            assert "does not come again" in event.detail
            assert net.stats()["nacks_lost"] == number
        await messages.aclose()  # type: ignore[attr-defined]


async def test_durable_messages_outlive_a_leave_of_either_side(tmp_path: Path) -> None:
    box = Inbox()
    async with make("a", tmp_path) as a, make("b", tmp_path) as b:
        await a.join_network([])
        await b.join_network(a.addresses)
        source = await a.register_agent("source")
        for number in range(50):
            receipt = await source.send("sink", b"%d" % number, delivery=DURABLE)
            assert receipt == (Reached.KEPT, "a", 0, True)
        with pytest.raises(StorageLocked):
            async with ClosedMail(str(tmp_path / "a")):
                pass
        await a.leave_network()
        async with make("a", tmp_path) as again:
            await again.join_network(b.addresses)
            source = await again.register_agent("source")
            await b.register_agent("sink", handler=box)
            receipt = await soon(source.send("sink", b"50", delivery=DURABLE, until="processed"))
            assert (receipt.reached, receipt.on_disk) == (Reached.PROCESSED, True)
            assert [message.payload for message in box.messages] == [b"%d" % number for number in range(51)]


async def test_dead_letters_from_python_and_from_the_shell(tmp_path: Path) -> None:
    box = Inbox()

    async def fail(message: Any) -> None:
        raise ValueError("no")

    async with make("b", tmp_path) as b:
        await b.join_network([])
        await b.register_agent("sink", handler=fail)
        async with make("a", tmp_path) as a:
            await a.join_network(b.addresses)
            source = await a.register_agent("source")
            for payload in (b"one", b"two", b"three"):
                with pytest.raises(DeadLettered):
                    await soon(source.send("sink", payload, delivery=DURABLE, until="processed"))
            one, _, three = (letter.number for letter in a.dead_letters())
            with pytest.raises(ConfigError, match="99"):
                a.purge_dead_letters([one, 99])
            assert a.purge_dead_letters([one]) == 1
        folder = str(tmp_path / "a")
        listed = shell(folder)
        assert [bytes.fromhex(letter["payload"]) for letter in listed] == [b"two", b"three"]
        assert all("ValueError: no" in letter["reason"] for letter in listed)
        assert len(shell(folder, str(three), "--replay")) == 1
        assert "none of that number" in shell(folder, str(three), "--purge")
        assert len(shell(folder, "--purge")) == 1
        assert shell(folder) == []
        assert "no node has been here" in shell(str(tmp_path))
        await b.register_agent("sink", handler=box)
        async with make("a", tmp_path) as a:
            await a.join_network(b.addresses)
            await box.wait(1)
        assert [message.payload for message in box.messages] == [b"three"]
