"""Nodes on hosts of their own, and the faults that only the network between hosts has."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from hosts import Hosts, lacking, some_hosts
from networks import Certificates, NodeProcess, node_process, until

from agentnet import Event

pytestmark = [
    pytest.mark.skipif(bool(reason := lacking()) and "CI" not in os.environ, reason=f"no hosts: {reason}"),
    pytest.mark.timeout(240),
]

PATIENCE_S = 90.0
"""A machine that is starved itself doubts itself first, and takes up to nine times as long."""
NAMES = "abcde"


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with some_hosts(len(NAMES)) as made:
        yield made


@asynccontextmanager
async def network(
    hosts: Hosts, scheme: str, certificates: Callable[[], Certificates]
) -> AsyncIterator[dict[str, NodeProcess]]:
    """A node on each host, which all know each other."""
    async with AsyncExitStack() as stack:
        nodes: dict[str, NodeProcess] = {}
        for host, name in enumerate(NAMES, 1):
            settings: dict[str, Any] = {"listen": f"{scheme}://{hosts.ip(host)}:7400"}
            settings |= certificates().of(name) if scheme == "tls" else {"plaintext": True}
            seeds = nodes["a"].addresses if nodes else []
            nodes[name] = await stack.enter_async_context(
                node_process(name, seeds, prefix=hosts.on(host), **settings)
            )
        for name in NAMES:
            others = [other for other in NAMES if other != name]
            await until(lambda name=name, others=others: nodes[name].told(Event.JOINED) == others, PATIENCE_S)
        yield nodes


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
async def test_a_host_whose_packets_vanish_is_lost_to_all_and_comes_back(
    hosts: Hosts, scheme: str, certificates: Callable[[], Certificates]
) -> None:
    async with network(hosts, scheme, certificates) as nodes:
        hosts.unplug(5)
        for name in "abcd":
            await until(lambda name=name: nodes[name].told(Event.LOST) == ["e"], PATIENCE_S)
        await until(lambda: nodes["e"].told(Event.LOST) == list("abcd"), PATIENCE_S)
        hosts.plug(5)
        for name in "abcd":
            await until(lambda name=name: nodes[name].told_last("e") == Event.JOINED, PATIENCE_S)
        for name in "abcd":
            await until(lambda name=name: nodes["e"].told_last(name) == Event.JOINED, PATIENCE_S)
        assert all(nodes[name].told(Event.LOST) == ["e"] for name in "abcd")


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
async def test_two_hosts_that_cannot_reach_each_other_talk_through_a_third_until_they_can(
    hosts: Hosts, scheme: str, certificates: Callable[[], Certificates]
) -> None:
    async with network(hosts, scheme, certificates) as nodes:
        a, b = nodes["a"], nodes["b"]
        assert await a.ask("b", 1000) == ("same", "")
        hosts.part(1, 2)
        await until(lambda: "b" in a.told(Event.LINK_LOST), PATIENCE_S)
        await until(lambda: "a" in b.told(Event.LINK_LOST), PATIENCE_S)
        for one, other in ((a, "b"), (b, "a")):
            said, relay = await one.ask(other, 1 << 20, PATIENCE_S)
            assert said == "same"
            assert relay in ("c", "d", "e")
        hosts.join(1, 2)
        async with asyncio.timeout(PATIENCE_S):
            while (answer := await a.ask("b", 1000)) != ("same", ""):
                assert answer[0] == "same"
                await asyncio.sleep(0.1)
        assert await b.ask("a", 1 << 20) == ("same", "")
        assert not any(node.told(Event.LOST) for node in nodes.values())


async def test_who_is_heard_by_others_is_not_lost_to_who_does_not_hear_it(
    hosts: Hosts, certificates: Callable[[], Certificates]
) -> None:
    async with network(hosts, "tcp", certificates) as nodes:
        hosts.deafen(1, 2)
        await until(lambda: "b" in nodes["a"].told(Event.LINK_LOST), PATIENCE_S)
        await until(lambda: "a" in nodes["b"].told(Event.LINK_LOST), PATIENCE_S)
        hosts.link_down(5)  # when this one is lost, there was time enough to lose another
        for name in "abcd":
            await until(lambda name=name: "e" in nodes[name].told(Event.LOST), PATIENCE_S)
        assert all(nodes[name].told(Event.LOST) == ["e"] for name in "abcd")
