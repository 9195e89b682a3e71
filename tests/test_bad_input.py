"""Bad input at a real listener: a definite error on both sides, a counter, and nobody else notices.

What a dialler makes of a bad node, and what both count where both are ours, is in test_refusals.
Every test runs beside two nodes that keep exchanging requests; one lost or refused request fails it.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgpack
import pytest
from networks import (
    AGENTS,
    CLOSE,
    CONFIRM,
    CREDIT,
    GO,
    HELLO,
    MEMBERS,
    MESSAGE,
    PING,
    PULL,
    REFUSED,
    STOP,
    WELCOME,
    Cluster,
    FakePeer,
    Watch,
    echo,
    hello,
    resident_bytes,
    soon,
    until,
)

from agentnet import AgentNetworkManager, Event, HandshakeRefused, ProtocolError

every_scheme = pytest.mark.parametrize("scheme", ["tcp", "tls"])

quick_handshakes = pytest.mark.parametrize("handshake_ms", [1000])
"""For tests that wait for the deadline; elsewhere it must not come into play on a busy machine."""


class Bystanders:
    """Two nodes that ask each other all the time; the first of them is the one that is attacked."""

    def __init__(self, cluster: Cluster, one: AgentNetworkManager, two: AgentNetworkManager) -> None:
        self.cluster = cluster
        self.one = one
        self.two = two
        self.answered = 0
        self.watches = [cluster.watch(one), cluster.watch(two)]
        self.refused = one.stats()["links_refused"] + one.stats()["connections_refused"]
        self._task = asyncio.get_running_loop().create_task(self._ask())

    @property
    def watch(self) -> Watch:
        """Events of the attacked node."""
        return self.watches[0]

    async def _ask(self) -> None:
        number = 0
        while True:
            number += 1
            payload = b"%d" % number
            assert await soon(self.one.request("echo-n2", payload)) == payload
            assert await soon(self.two.request("echo-n1", payload)) == payload
            self.answered += 1

    async def peer(self) -> FakePeer:
        context = self.cluster.certificates.client("0-bad") if self.cluster.scheme == "tls" else None
        return await self.cluster.peer(self.one, context)

    async def joined(self, **fields: Any) -> FakePeer:
        peer = await self.peer()
        await peer.join("0-bad", network_uuid=self.one.control.network_uuid, **fields)
        return peer

    async def told(self, text: str, *kinds: str) -> Event:
        """The event of the attacked node that says ``text``."""

        def found() -> list[Event]:
            return [event for event in self.watch.seen if event.kind in kinds and text in event.detail]

        try:
            event: Event = (await until(found, 5))[0]
        except TimeoutError:
            details = [(event.kind, event.detail) for event in self.watch.seen]
            raise AssertionError(f"no event of {kinds} with {text!r}; seen: {details}") from None
        return event

    async def check(self, refusals: int = 1) -> None:
        """They went on, undisturbed, and what was refused was counted."""
        before = self.answered
        await until(lambda: self.answered > before + 3 or self._task.done())
        if self._task.done():
            self._task.result()
        for watch in self.watches:
            for node_id in ("n1", "n2"):
                assert not watch.of(Event.LINK_LOST, node_id=node_id)
            watch.seen.clear()
        stats = self.one.stats()
        before, self.refused = self.refused, stats["links_refused"] + stats["connections_refused"]
        assert self.refused - before == refusals

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@pytest.fixture
def handshake_ms() -> int:
    return 20_000


@pytest.fixture
async def bystanders(cluster: Cluster, handshake_ms: int) -> AsyncIterator[Bystanders]:
    one, two = await cluster.start("n1", "n2", handshake_ms_max=handshake_ms)
    for net in (one, two):
        await net.register_agent(f"echo-{net.node_id}", handler=echo)
    made = Bystanders(cluster, one, two)
    yield made
    await made.close()


def changed_hello(**fields: Any) -> bytes:
    """A Hello with whatever values; field numbers as in the handshake's law."""
    numbers = {"protocol_min": 0, "protocol_max": 1, "network": 2, "node_id": 4, "incarnation": 5}
    values = msgpack.unpackb(hello("0-bad").encode(), strict_map_key=False)
    for name, value in fields.items():
        number = numbers.get(name, name)
        if value is None:
            del values[number]
        else:
            values[int(number)] = value
    body: bytes = msgpack.packb(values)
    return body


def sends(kind: int, body: bytes, flags: int = 0) -> Callable[[FakePeer], None]:
    return lambda peer: peer.send(kind, body, flags)


def agents(*records: Any) -> bytes:
    """The list of the node ``0-bad``."""
    return msgpack.packb(["0-bad", 1, 0, 1, True, True, records, []])


def writes(data: bytes) -> Callable[[FakePeer], None]:
    return lambda peer: peer.write(data)


def greets(**fields: Any) -> Callable[[FakePeer], None]:
    return lambda peer: peer.greet("0-bad", **fields)


def then(*steps: Callable[[FakePeer], None]) -> Callable[[FakePeer], None]:
    def all_of(peer: FakePeer) -> None:
        for step in steps:
            step(peer)

    return all_of


BEFORE_WELCOME: dict[str, tuple[Callable[[FakePeer], None], str]] = {
    "garbage": (writes(b"\xde\xad\xbe\xef" * 64), "frame of 3735928559 bytes at byte 0: expected"),
    "text": (writes(b"hello, is anybody there?\r\n\r\n"), "bytes at byte 0: expected"),
    "4 GiB": (writes(b"\xff\xff\xff\xff"), "frame of 4294967295 bytes at byte 0: expected"),
    "over the limit": (writes(struct.pack(">I", 128 * 1024 + 1) + b"\0\0"), "frame of 131073 bytes"),
    "too short": (writes(b"\0\0\0\1\0"), "frame of 1 bytes at byte 0: expected"),
    "no length": (writes(b"\0\0\0\0"), "frame of 0 bytes at byte 0: expected"),
    "damaged": (writes(b"\0\0\0\x08\0\0\x80\0wxyz"), "checksum does not match"),
    "no map": (sends(HELLO, msgpack.packb([1, 2, 3])), "Hello: expected a map"),
    "empty": (sends(HELLO, b""), "expected a value, got no bytes"),
    "cut short": (sends(HELLO, hello("0-bad").encode()[:-1]), "malformed, cut short or nested"),
    "a tail": (sends(HELLO, hello("0-bad").encode() + b"\0"), "1 bytes too many"),
    "deep nesting": (sends(HELLO, b"\x91" * 30_000 + b"\0"), "nested deeper than"),
    "deep map": (sends(HELLO, b"\x81\0" * 15_000 + b"\0"), "nested deeper than"),
    "array bomb": (sends(HELLO, b"\xdd\xff\xff\xff\xff"), "malformed, cut short"),
    "map bomb": (sends(HELLO, b"\xdf\x7f\xff\xff\xff" + b"\0" * 100), "malformed, cut short"),
    "nested bombs": (sends(HELLO, b"\xdc\xff\xff" * 10_000), "nested deeper than"),
    "long text": (sends(HELLO, b"\x81\x02\xdb\xff\xff\xff\xffx"), "malformed, cut short"),
    "a key that is no number": (sends(HELLO, msgpack.packb({"network": 1})), "Hello key: expected"),
    "no node id": (sends(HELLO, changed_hello(node_id=None)), "Hello: expected field node_id"),
    "bad node id": (sends(HELLO, changed_hello(node_id="a b\n")), "Hello node_id: expected 1 to 64 of"),
    "huge incarnation": (sends(HELLO, changed_hello(incarnation=-1)), "Hello incarnation: expected"),
    "wrong version": (
        sends(HELLO, changed_hello(protocol_min=2, protocol_max=9)),
        "no common protocol version: the other side speaks 2 to 9, this one 1 to 1",
    ),
    "a field of the future": (sends(HELLO, changed_hello(**{"40": 1})), "must be understood"),
    "features of the future": (greets(features_required=1 << 60), "requires features [60]"),
    "another network": (greets(network="staging"), "is in network 'staging', node 'n1' in network 'default'"),
    "another uuid": (greets(network_uuid=b"x" * 16), "two networks are named 'default'"),
    "tiny window": (greets(credit_bytes=10), "takes frames of 131072 bytes and a window of 10"),
    "a message first": (sends(MESSAGE, b"\x99" + b"\0" * 8 + b"\xc4\0"), "MESSAGE frame before"),
    "agents first": (sends(AGENTS, agents()), "kind 9 before WELCOME"),
    "unknown kind": (sends(200, b""), "kind 200 before WELCOME"),
    "hello twice": (then(greets(), greets()), "a frame of kind 0"),
    "welcome by the wrong side": (
        then(greets(), sends(WELCOME, msgpack.packb([b"x" * 16]))),
        "a frame of kind 1",
    ),
    "64 KiB of one frame": (
        writes(struct.pack(">IBB", 100_000, 0, 0) + bytes(65_600)),
        "bytes before the link was welcomed: expected at most 65536 (handshake_bytes_max)",
    ),
}


def in_any_order(cases: dict[str, Any]) -> list[tuple[str, Any]]:
    """One after the other on the same node, which harder shows what one leaves behind for the next."""
    return random.sample(list(cases.items()), len(cases))


@every_scheme
async def test_before_it_is_welcomed(bystanders: Bystanders, subtests: pytest.Subtests) -> None:
    for what, (attack, text) in in_any_order(BEFORE_WELCOME):
        with subtests.test(msg=what):
            peer = await bystanders.peer()
            attack(peer)
            said = await peer.closing()
            assert said is not None, "closed without a word"
            # It may have been welcomed in between.
            expected = "kind" if what in ("hello twice", "welcome by the wrong side") else text
            assert expected in said.text
            error = said.error()
            assert isinstance(error, (ProtocolError, HandshakeRefused))
            assert error.definite
            event = await bystanders.told(expected, Event.LINK_REFUSED, Event.LINK_LOST)
            assert event.error is not None
            assert event.error.definite
            port = peer.writer.get_extra_info("sockname")[1]
            assert event.node_id == "0-bad" or event.node_id.endswith(f":{port}")
            await bystanders.check()


def message(
    payload: Any = b"", *, to: Any = 1, kind: Any = 1, priority: Any = 1, sender: Any = 0, seq: Any = 1
) -> bytes:
    body: bytes = msgpack.packb([sender, to, seq, 0, kind, priority, 0, 0, payload])
    return body


def fragment(index: int, count: int, size: int, seq: int = 1) -> Callable[[FakePeer], None]:
    return sends(MESSAGE, message(bytes(size), seq=seq) + msgpack.packb({12: [index, count]}), flags=1)


AFTER_WELCOME: dict[str, tuple[Callable[[FakePeer], None], str]] = {
    "garbage": (writes(b"\xde\xad\xbe\xef" * 64), "frame of 3735928559 bytes at byte"),
    "a message that is none": (sends(MESSAGE, b"\xc1garbage"), "message: array of 9"),
    "an empty message": (sends(MESSAGE, b""), "message: array of 9"),
    "a text as payload": (sends(MESSAGE, message("text")), "message: payload"),
    "priority 9": (sends(MESSAGE, message(priority=9)), "message: priority"),
    "a negative receiver": (sends(MESSAGE, message(to=-1)), "message: to is missing"),
    "a payload longer than the frame": (
        sends(MESSAGE, message(b"abc")[:-4] + b"\xc6\xff\xff\xff\xff"),
        "message: payload",
    ),
    "a tail": (sends(MESSAGE, message() + b"\0"), "bytes too many after its array"),
    "a field that must be understood": (
        sends(MESSAGE, message() + msgpack.packb({50: 1}), flags=1),
        "optional field 50 is unknown",
    ),
    "deep fields": (
        sends(MESSAGE, message() + b"\x81\x40" + b"\x91" * 10_000 + b"\0", flags=1),
        "optional fields malformed",
    ),
    "an id that is no text": (
        sends(MESSAGE, message() + b"\x81\x01\xa2\xff\xfe", flags=1),
        "its id is not UTF-8",
    ),
    "a fragment from nowhere": (fragment(3, 5, 10), "expected fragment 0"),
    "fragments that jump": (
        then(fragment(0, 5, 10), fragment(2, 5, 10)),
        "fragment 2 of 5 of message 1: expected 1",
    ),
    "fragments of two lengths": (then(fragment(0, 5, 10), fragment(1, 6, 10)), "fragment 1 of 6"),
    "fragments of nothing": (fragment(0, 0, 10), "optional fields malformed"),
    "too many open": (
        then(*(fragment(0, 2, 10, seq) for seq in range(1, 66))),
        "64 others are",
    ),
    "credit for what was not sent": (
        sends(CREDIT, msgpack.packb([10**12, 0])),
        "CREDIT for 1000000000000 bytes",
    ),
    "credit that is none": (sends(CREDIT, msgpack.packb(["x", 0])), "CREDIT frame: expected"),
    "stop nobody": (sends(STOP, msgpack.packb(-1)), "expected one unsigned integer"),
    "go nowhere": (sends(GO, b""), "expected one unsigned integer"),
    "ping of a text": (sends(PING, msgpack.packb("ping")), "expected one unsigned integer"),
    "refused by nobody": (sends(REFUSED, msgpack.packb([1, 2])), "REFUSED frame: expected"),
    "hello again": (sends(HELLO, hello("0-bad").encode()), "kind 0 after WELCOME"),
    "welcome again": (sends(WELCOME, msgpack.packb([b"x" * 16])), "kind 1 after WELCOME"),
    "unknown kind": (sends(77, b""), "kind 77 after WELCOME"),
    "close that is none": (sends(CLOSE, msgpack.packb([1])), "Close: expected a list of 2"),
    "members that are none": (sends(MEMBERS, msgpack.packb([["n9"]])), "MEMBERS record"),
    "members in depth": (sends(MEMBERS, b"\x91" * 10_000 + b"\0"), "nested deeper than"),
    "an address that is none": (
        sends(MEMBERS, msgpack.packb([["n9", 1, 0, ["javascript:alert()"]]])),
        "MEMBERS addresses: expected addresses",
    ),
    "agents that are none": (sends(AGENTS, msgpack.packb({})), "AGENTS: expected"),
    "agents bomb": (
        sends(AGENTS, b"\x98\xa1a\x01\x00\x01\xc3\xc3\xdd\xff\xff\xff\xff"),
        "malformed, cut short",
    ),
    "lists that are none": (sends(PULL, msgpack.packb([["n1"]])), "PULL list: expected a list of 3"),
    "a name with another id": (
        sends(AGENTS, agents([5, "name", [], None, 1])),
        "expected the id",
    ),
    "agent 0": (sends(AGENTS, agents([0, None, [], None, 1])), "AGENTS id"),
    "confirm of another": (sends(CONFIRM, msgpack.packb(["n2", 1, 1, True, []])), "CONFIRM owner"),
}


@every_scheme
async def test_after_it_was_welcomed(bystanders: Bystanders, subtests: pytest.Subtests) -> None:
    for what, (attack, text) in in_any_order(AFTER_WELCOME):
        with subtests.test(msg=what):
            peer = await bystanders.joined()
            attack(peer)
            said = await peer.closing()
            assert said is not None, "closed without a word"
            assert text in said.text
            assert isinstance(said.error(), ProtocolError)
            event = await bystanders.told(text, Event.LINK_LOST)
            assert event.node_id == "0-bad"
            await bystanders.check()


async def test_what_stays_below_the_law_is_taken(bystanders: Bystanders) -> None:
    """Strange but legal: nobody is refused for it."""
    peer = await bystanders.joined()
    peer.send(MESSAGE, message(b"to nobody", to=424242))
    peer.send(MESSAGE, message(b"\xc1", to=424242) + msgpack.packb({14: 1, 64: b"trace", 9000: [1]}), flags=1)
    peer.send(STOP, msgpack.packb(424242))
    peer.send(GO, msgpack.packb(424242))
    peer.send(MEMBERS, msgpack.packb([["n9", 1, 0, ["quic://203.0.113.9:65535"]]]))
    peer.send(AGENTS, agents([5, None, ["x"], None, 1, {64: "later"}]))
    peer.send(PING, msgpack.packb(7))
    await until(lambda: [agent.node_id for agent in bystanders.one.agents("x")] == ["0-bad"])
    await bystanders.check(refusals=0)


async def test_addresses_of_another_release_harm_no_view(bystanders: Bystanders) -> None:
    peer = await bystanders.peer()
    addresses = ("ws://example.org:99999", "quic://[::1]:1")
    await peer.join("0-bad", network_uuid=bystanders.one.control.network_uuid, addresses=addresses)
    peer.send(AGENTS, agents([5, None, ["x"], None, 1]))
    (agent,) = await until(lambda: bystanders.one.agents("x"))
    assert (agent.address, agent.port) == ("example.org", 99999)
    await bystanders.check(refusals=0)


@quick_handshakes
class TestSilence:
    @every_scheme
    async def test_who_says_nothing_is_closed_in_time(
        self, bystanders: Bystanders, handshake_ms: int
    ) -> None:
        loop = asyncio.get_running_loop()
        peers = [await bystanders.peer() for _ in range(20)]
        start = loop.time()
        said = await soon(asyncio.gather(*(peer.closing() for peer in peers)))
        assert loop.time() - start < handshake_ms / 1000 + 3
        for close in said:
            assert close is not None
            assert f"said nothing for {handshake_ms} ms (handshake_ms_max)" in close.text
        await bystanders.check(refusals=20)

    async def test_who_speaks_a_byte_at_a_time(self, bystanders: Bystanders, handshake_ms: int) -> None:
        peer = await bystanders.peer()
        closing = asyncio.ensure_future(peer.closing())
        for byte in hello("0-bad").encode():
            peer.write(bytes([byte & 1]))  # the length of the first frame alone says no
            await asyncio.sleep(handshake_ms / 10_000)
            if closing.done():
                break
        said = await soon(closing)
        assert said is not None
        await bystanders.check()

    async def test_who_never_says_welcome(self, bystanders: Bystanders, handshake_ms: int) -> None:
        peer = await bystanders.peer()
        peer.greet("zzz", network_uuid=bystanders.one.control.network_uuid)
        said = await peer.closing()
        assert said is not None
        assert f"sent no WELCOME for {handshake_ms} ms" in said.text
        await bystanders.check()

    async def test_too_many_at_once_drop_the_oldest(self, cluster: Cluster, handshake_ms: int) -> None:
        one, two = await cluster.start("n1", "n2", nodes_max=4)
        watch = cluster.watch(one)
        peers = [await cluster.peer(one) for _ in range(20)]
        await until(lambda: len(watch.of(Event.LINK_REFUSED)) >= 12)
        assert len(one.engine.links) <= 1 + 8
        said = await peers[0].closing()
        assert said is not None
        assert "the oldest of over 8 connections" in said.text
        three = cluster.make("n3")
        await soon(three.join_network(one.addresses), 5)
        await until(lambda: len(two.members()) == 3)


class TestForeignProtocols:
    async def test_http_on_a_plain_port(self, bystanders: Bystanders) -> None:
        peer = await bystanders.peer()
        peer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        said = await peer.closing()
        assert said is not None
        assert "speaks HTTP here" in said.text
        await bystanders.told("speaks HTTP here", Event.LINK_REFUSED)
        await bystanders.check()

    async def test_tls_on_a_plain_port(self, bystanders: Bystanders) -> None:
        context = bystanders.cluster.certificates.client("0-bad")
        with pytest.raises(OSError, match=r"(?i)ssl|connection"):
            await FakePeer.dial(bystanders.one.addresses[0], context)
        await bystanders.told(
            "speaks TLS here, expected agentnet in plaintext; tcp:// on one side", Event.LINK_REFUSED
        )
        await bystanders.check()

    @pytest.mark.parametrize("scheme", ["tls"])
    async def test_plaintext_on_a_tls_port(self, bystanders: Bystanders) -> None:
        peer = await bystanders.cluster.peer(bystanders.one)
        peer.greet("0-bad")
        assert await soon(peer.reader.read()) == bytes.fromhex("15030300020246")  # TLS: protocol version
        await bystanders.told("does not speak TLS here", Event.LINK_REFUSED)
        await bystanders.check()


@every_scheme
async def test_the_reason_arrives_though_much_is_unread(bystanders: Bystanders) -> None:
    """A socket that is closed with unread bytes is reset, and what was just written is lost."""
    for _ in range(5):
        peer = await bystanders.joined()
        for _ in range(100):
            peer.send(77, bytes(3000))
        said = await peer.closing()
        assert said is not None, "closed without a word"
        assert "kind 77 after WELCOME" in said.text
        await peer.close()
    await bystanders.check(refusals=5)


@every_scheme
async def test_bombs_take_no_memory(bystanders: Bystanders) -> None:
    bombs = [b"\xdc\xff\xff" * 20_000, b"\xdd\x7f\xff\xff\xff" * 12_000, b"\x91" * 60_000]

    async def throw(bomb: bytes) -> None:
        peer = await bystanders.peer()
        peer.send(HELLO, bomb)
        assert await peer.closing() is not None
        await peer.close()

    for bomb in bombs:
        await throw(bomb)
    before = resident_bytes()
    for _ in range(10):
        for bomb in bombs:
            await throw(bomb)
    assert resident_bytes() - before < 8 * 1024 * 1024 + 2 * bystanders.one.config.frame_bytes_max
    await bystanders.check(refusals=33)
