"""TLS between nodes: who may link with whom, told on both sides; and a second node of one id, old or new."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, ClassVar

import msgpack
import pytest
from certificates import DAY, Authority, uris
from networks import (
    CONTINUE_SIGNAL,
    HELLO,
    STOP_SIGNAL,
    Cluster,
    FakePeer,
    Watch,
    active,
    answered,
    client_context,
    echo,
    hello,
    node_process,
    relay,
    soon,
    until,
)

from agentnet import AgentNetworkManager, ConfigError, Event, HandshakeRefused, JoinFailed, NetworkError

every_scheme = pytest.mark.parametrize("scheme", ["tcp", "tls"])
tls = pytest.mark.parametrize("scheme", ["tls"])
both_loops = pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])


@pytest.fixture(scope="module")
def good(authority: Authority) -> dict[str, dict[str, str]]:
    return {name: authority.issue(name) for name in ("n1", "n2")}


async def refused(watch: Watch, text: str) -> Event:
    """The event at the listener that says ``text``."""

    def found() -> list[Event]:
        return [event for event in watch.of(Event.LINK_REFUSED) if text in event.detail]

    event: Event = (await until(found))[0]
    return event


def refusals(net: AgentNetworkManager) -> int:
    stats = net.stats()
    return stats["links_refused"] + stats["connections_refused"]


@tls
class TestCertificates:
    async def _listening(self, cluster: Cluster, good: dict[str, dict[str, str]]) -> Any:
        (one,) = await cluster.start("n1", **good["n1"])
        return one, cluster.watch(one)

    async def test_good_ones(self, cluster: Cluster, good: dict[str, dict[str, str]]) -> None:
        one, watch = await self._listening(cluster, good)
        two = cluster.make("n2", **good["n2"])
        await soon(two.join_network(one.addresses))
        await one.register_agent("x", handler=echo)
        assert await soon(two.request("x", b"secret")) == b"secret"
        (session,) = one.engine.links
        assert (session.certified, session.node_id, session.secure) == ("n2", "n2", True)
        assert not any(member.plaintext for member in one.members())
        assert refusals(one) == 0
        assert not watch.of(Event.LINK_REFUSED)

    @pytest.mark.parametrize(
        ("what", "told", "reported"),
        [
            (
                "expired",
                "refuses our certificate: expired",
                "certificate is refused: certificate has expired",
            ),
            ("not yet", "refuses our certificate: bad, or not valid yet", "certificate is not yet valid"),
            (
                "foreign",
                "signed by an authority that it does not know",
                "certificate is refused: unable to get local issuer certificate",
            ),
        ],
    )
    async def test_a_manager_with_a_bad_one(
        self,
        cluster: Cluster,
        good: dict[str, dict[str, str]],
        authority: Authority,
        stranger: Authority,
        what: str,
        told: str,
        reported: str,
    ) -> None:
        one, watch = await self._listening(cluster, good)
        issue = {
            "expired": lambda: authority.issue("late", uris("agentnet://default/n2"), ends=-DAY / 2),
            "not yet": lambda: authority.issue("early", uris("agentnet://default/n2"), begins=DAY / 2),
            "foreign": lambda: stranger.issue("n2") | {"ca": str(authority.ca)},
        }[what]
        two = cluster.make("n2", join_ms_max=2000, **issue())
        with pytest.raises((HandshakeRefused, JoinFailed), match=told) as caught:
            await soon(two.join_network(one.addresses))
        assert caught.value.definite
        assert one.addresses[0] in str(caught.value)
        event = await refused(watch, reported)
        assert event.node_id.startswith("127.0.0.1:")
        assert refusals(one) >= 1
        assert active(one) == ["n1"]

    async def test_a_listener_with_a_bad_one(
        self, cluster: Cluster, good: dict[str, dict[str, str]], stranger: Authority
    ) -> None:
        (one,) = await cluster.start("n1", **stranger.issue("n1"))
        watch = cluster.watch(one)
        two = cluster.make("n2", join_ms_max=2000, **good["n2"])
        with pytest.raises((HandshakeRefused, JoinFailed), match="its certificate is refused: self-signed"):
            await soon(two.join_network(one.addresses))
        await refused(watch, "refuses our certificate: signed by an authority that it does not know")

    async def test_one_for_another_node_is_found_before_the_join(
        self, cluster: Cluster, good: dict[str, dict[str, str]]
    ) -> None:
        net = cluster.make("n3", **good["n2"])
        with pytest.raises(ConfigError, match="n2"):
            await soon(net.join_network([]))

    async def test_one_for_another_node_id(
        self, cluster: Cluster, good: dict[str, dict[str, str]], authority: Authority
    ) -> None:
        one, watch = await self._listening(cluster, good)
        peer = await cluster.peer(one, client_context(authority.issue("honest")))
        peer.greet("0-thief", network_uuid=one.control.network_uuid)
        said = await peer.closing()
        assert said is not None
        assert "the certificate is for node 'honest', its Hello says node '0-thief'" in said.text
        assert isinstance(said.error(), HandshakeRefused)
        await refused(watch, "the certificate is for node 'honest'")
        assert refusals(one) == 1

    @pytest.mark.parametrize(
        ("names", "text"),
        [
            (uris("agentnet://staging/0-bad"), "agentnet://staging/0-bad, expected network 'default'"),
            (uris("https://example.org"), "must hold exactly one URI"),
            (uris("agentnet://default/a", "agentnet://default/b"), "must hold exactly one URI"),
            ([], "must hold exactly one URI"),
        ],
    )
    async def test_one_that_names_nobody_here(
        self,
        cluster: Cluster,
        good: dict[str, dict[str, str]],
        authority: Authority,
        names: list[Any],
        text: str,
    ) -> None:
        one, watch = await self._listening(cluster, good)
        peer = await cluster.peer(one, client_context(authority.issue(f"odd-{len(names)}-{text[:9]}", names)))
        peer.greet("0-bad", network_uuid=one.control.network_uuid)
        said = await peer.closing()
        assert said is not None, "closed without a word"
        assert text in said.text
        await refused(watch, text)
        assert refusals(one) == 1

    async def test_none_at_all(
        self, cluster: Cluster, good: dict[str, dict[str, str]], authority: Authority
    ) -> None:
        one, watch = await self._listening(cluster, good)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(authority.ca)
        peer = await cluster.peer(one, context)
        with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
            await soon(peer.reader.read())
        await refused(watch, "it shows no certificate")
        assert refusals(one) == 1

    async def test_a_refused_one_does_not_stop_the_good(
        self, cluster: Cluster, good: dict[str, dict[str, str]], stranger: Authority
    ) -> None:
        one, _ = await self._listening(cluster, good)
        bad = cluster.make("n3", join_ms_max=3000, **stranger.issue("n3"))
        joining = asyncio.ensure_future(bad.join_network(one.addresses))
        two = cluster.make("n2", **good["n2"])
        await soon(two.join_network(one.addresses))
        assert set(active(two)) == {"n1", "n2"}
        with pytest.raises(NetworkError):
            await soon(joining)


@every_scheme
async def test_a_refused_hello_is_told(cluster: Cluster) -> None:
    """A newer node sends what we must understand and do not: it reads the reason by the law of the link."""
    (one,) = await cluster.start("n1")
    secure = cluster.scheme == "tls"
    peer = await cluster.peer(one, cluster.certificates.client("0-new") if secure else None)
    values = msgpack.unpackb(hello("0-new", checksum=int(not secure)).encode(), strict_map_key=False)
    peer.send(HELLO, msgpack.packb(values | {40: "new"}))
    said = await peer.closing()
    assert said is not None
    assert "fields below 64 must be understood" in said.text


class TestSameId:
    """A second node with an id that is in use: the living keeps it, the dead gives way."""

    QUICK: ClassVar[dict[str, Any]] = {
        "ping_interval_ms": 200,
        "handshake_ms_max": 5000,
        "redial_ms_max": 200,
    }

    @every_scheme
    @pytest.mark.parametrize("other", ["a", "z"])
    async def test_the_living_keeps_it(self, cluster: Cluster, other: str) -> None:
        one, old = await cluster.start(other, "twin", **self.QUICK)
        await old.register_agent("x", handler=echo)
        watch = cluster.watch(one)
        new = cluster.make("twin", join_ms_max=3000, **self.QUICK)
        with pytest.raises((HandshakeRefused, JoinFailed), match="'twin'") as caught:
            await soon(new.join_network(one.addresses))
        assert "taken by a living node" in str(caught.value)
        assert caught.value.definite
        await refused(watch, "taken by a living node")
        assert refusals(one) >= 1
        assert await soon(one.request("x", b"still here")) == b"still here"
        assert not watch.of(Event.LINK_LOST)

    @pytest.mark.parametrize(("other", "scheme"), [("a", "tcp"), ("z", "tls")])
    async def test_the_silent_is_dead(self, cluster: Cluster, other: str) -> None:
        (one,) = await cluster.start(other, **self.QUICK)
        watch = cluster.watch(one)
        settings = {"listen": f"{cluster.scheme}://127.0.0.1:0", **self.QUICK}
        if cluster.scheme == "tls":
            settings |= cluster.certificates.of("twin")
        async with node_process("twin", one.addresses, **settings) as old:
            assert await answered(one, "echo-twin", b"old") == b"old"
            old.signal(STOP_SIGNAL)
            new = cluster.make("twin", **self.QUICK)
            await soon(new.join_network(one.addresses))
            await new.register_agent("x", handler=echo)
            assert await soon(one.request("x", b"new")) == b"new"
            await until(lambda: not one.agents("echo"))
            (member,) = [member for member in one.members() if member.node_id == "twin"]
            incarnation = member.incarnation
            # The old one wakes up, and finds that its time is over.
            old.signal(CONTINUE_SIGNAL)
            await refused(watch, "is dead, it runs as")
            (member,) = [member for member in one.members() if member.node_id == "twin"]
            assert member.incarnation == incarnation
            assert await answered(one, "x", b"still new") == b"still new"

    async def test_two_that_dial_each_other(self, cluster: Cluster) -> None:
        (one,) = await cluster.start("twin")
        two = cluster.make("twin", join_ms_max=2000)
        with pytest.raises((HandshakeRefused, JoinFailed), match="is used by two nodes"):
            await soon(two.join_network(one.addresses))
        assert refusals(one) >= 1

    async def test_killed_and_started_again_at_once(self, cluster: Cluster) -> None:
        (one,) = await cluster.start("n1", **self.QUICK)
        watch = cluster.watch(one)
        for round_ in range(2):
            async with node_process("twin", one.addresses, listen="tcp://127.0.0.1:0") as process:
                assert await answered(one, "echo-twin", b"%d" % round_) == b"%d" % round_
                process.process.kill()
        assert len({event.detail for event in watch.of(Event.JOINED, node_id="twin")}) == 2


@tls
@both_loops
async def test_a_link_under_tls_is_made_again_and_leaves_nothing(cluster: Cluster) -> None:
    async with relay() as wire:
        address = f"tls://127.0.0.1:{wire.port}"
        quick: dict[str, Any] = {"redial_ms_min": 10, "redial_ms_max": 50}
        (one,) = await cluster.start("n1", advertise=[address], **quick)
        wire.aim(str(one._doors.bound[0]))
        two = cluster.make("n2", listen=(), **quick)
        await soon(two.join_network([address]))
        await one.register_agent("echo", handler=echo)
        for round_ in range(5):
            wire.cut()
            await until(lambda seen=round_: two.stats()["links_lost"] > seen)
            assert await answered(two, "echo", b"x" * 100_000) == b"x" * 100_000
        assert len(one.engine.links) == len(two.engine.links) == 1


@every_scheme
async def test_many_connections_leave_nothing(cluster: Cluster) -> None:
    """`cluster` counts sockets at the end; here the nodes themselves hold nothing any more."""
    (one,) = await cluster.start("n1")
    secure = cluster.scheme == "tls"
    context = cluster.certificates.client("0-visitor") if secure else None
    for number in range(50):
        peer = await FakePeer.dial(one.addresses[0], context)
        if number % 3 == 0:
            peer.greet("0-visitor", network="elsewhere")
        elif number % 3 == 1:
            peer.write(b"\xff" * 10)
        await peer.close()
    await until(lambda: not one.engine.links)
    assert active(one) == ["n1"]
