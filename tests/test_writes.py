"""How bytes leave a node: one write for each peer and turn of the loop, and what is urgent first."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from harness import AGENTS, CLOSE, MESSAGE, PING, Node, World
from networks import Cluster, Inbox, soon

from agentnet import Agent, AgentNetworkManager
from agentnet_core.session import Session

both_loops = pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])


class Turns:
    """Counts the turns of the running loop."""

    def __init__(self) -> None:
        self.number = 0
        self._loop = asyncio.get_running_loop()
        self._handle = self._loop.call_soon(self._next)

    def _next(self) -> None:
        self.number += 1
        self._handle = self._loop.call_soon(self._next)

    def end(self) -> None:
        self._handle.cancel()


class Recorder:
    """A transport that notes in which turn what is written, and passes it on."""

    def __init__(self, transport: Any, turns: Turns) -> None:
        self._transport = transport
        self._turns = turns
        self.writes: list[tuple[int, bytes]] = []

    def write(self, data: bytes | memoryview) -> None:
        self.writes.append((self._turns.number, bytes(data)))
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def messages(self) -> list[tuple[int, int]]:
        """Turn and number of messages of each write that holds some."""
        found = [(turn, kinds(data).count(MESSAGE)) for turn, data in self.writes]
        return [(turn, count) for turn, count in found if count]


def kinds(data: bytes) -> list[int]:
    """Of the frames in what was written."""
    found = []
    while data:
        found.append(data[4])
        data = data[4 + int.from_bytes(data[:4], "big") :]
    return found


def record(net: AgentNetworkManager, peer: str, turns: Turns) -> Recorder:
    link = net.engine.sessions[peer].link
    link._transport = Recorder(link._transport, turns)
    recorder: Recorder = link._transport
    return recorder


@both_loops
@pytest.mark.parametrize("how", ["send", "send_nowait", "request", "reply"])
async def test_a_burst_is_one_write_for_each_peer(cluster: Cluster, how: str) -> None:
    one, two, three = await cluster.start("n1", "n2", "n3")
    boxes = {net.node_id: Inbox() for net in (two, three)}
    for net in (two, three):
        await net.register_agent(f"box-{net.node_id}", handler=boxes[net.node_id])
    sender = await one.register_agent("sender")
    turns = Turns()
    answering = how == "reply"
    pairs = [(two, "n1"), (three, "n1")] if answering else [(one, "n2"), (one, "n3")]
    recorders = [record(net, peer, turns) for net, peer in pairs]
    waiting = []
    for number in range(200):
        for name in ("box-n2", "box-n3"):
            if how in ("request", "reply"):
                waiting.append(sender.request(name, b"%d" % number))
            elif how == "send":
                await sender.send(name, b"%d" % number)
            else:
                sender.send_nowait(name, b"%d" % number)
        if how != "send":
            assert not recorders[0].messages(), "written before the turn is over"
    for box in boxes.values():
        await box.wait(200)
    await soon(asyncio.gather(*waiting))
    turns.end()
    for recorder in recorders:
        assert sum(count for _, count in recorder.messages()) == 200
        assert max(Counter(turn for turn, _ in recorder.messages()).values()) == 1
        if how in ("request", "send_nowait"):
            assert len(recorder.messages()) == 1
        assert len(recorder.messages()) <= 20


async def recorded(cluster: Cluster) -> tuple[AgentNetworkManager, Agent, Inbox, Turns, Recorder]:
    """A node, an agent of it that sends to "box" on another, what came there, and what was written when."""
    one, two = await cluster.start("n1", "n2")
    box = Inbox()
    await two.register_agent("box", handler=box)
    sender = await one.register_agent("sender")
    turns = Turns()
    return one, sender, box, turns, record(one, "n2", turns)


async def test_what_is_sent_turn_by_turn_is_a_write_a_turn(cluster: Cluster) -> None:
    _, sender, box, turns, recorder = await recorded(cluster)
    for _ in range(50):
        for _ in range(10):
            sender.send_nowait("box", b"x")
        await asyncio.sleep(0)
    await box.wait(500)
    turns.end()
    assert max(Counter(turn for turn, _ in recorder.messages()).values()) == 1
    assert sum(count for _, count in recorder.messages()) == 500


# -- the two lanes


def pieces(session: Session) -> Iterator[list[int]]:
    while (piece := session.take()) is not None:
        yield kinds(bytes(piece))


def both_lanes(world: World) -> tuple[Node, Session]:
    """A node that has a message for its peer, and after that news."""
    a, b = world.join("a", "b")
    b.agent("sink")
    source = a.agent("source")
    world.run(500)
    source.send("sink", b"data")
    source.send("sink", bytes(200_000))
    a.control.catalogue.register([a.make("late")], None, 10**9)
    return a, a.link("b").session


def test_control_goes_before_data_that_was_there_first() -> None:
    a, session = both_lanes(World())
    a.engine.ready()  # the first fragment goes out with the rest
    assert list(pieces(session)) == [[AGENTS], [MESSAGE, MESSAGE]]


def test_a_farewell_goes_last() -> None:
    """What it says ends the link, so all that was sent before must be out."""
    a, session = both_lanes(World())
    a.control.leave()
    assert list(pieces(session)) == [[MESSAGE], [AGENTS, CLOSE]]


async def test_control_goes_first_on_a_socket_too(cluster: Cluster) -> None:
    one, sender, box, turns, recorder = await recorded(cluster)
    for _ in range(100):
        sender.send_nowait("box", b"x")
    one.engine.ping(one.engine.sessions["n2"])
    await box.wait(100)
    turns.end()
    (turn, first), (same_turn, second) = recorder.writes[:2]
    assert (kinds(first), kinds(second)) == ([PING], [MESSAGE] * 100)
    assert turn == same_turn
