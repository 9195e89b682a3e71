"""A signed network on real links: under mutual TLS all works, on rings too, and a lie is refused; and what
the Signer that TLS's own keys make believes, and what it does not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from certificates import DAY, _usage, uris
from certificates import Authority as Issuer
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from networks import MEMBERS, Cluster, FakePeer, client_context, echo, soon, until

from agentnet import AgentNetworkManager, ConfigError, Event, NetworkConfig
from agentnet.authority import Authority, open_authority
from agentnet.certs import init_authority, issue_certificate
from agentnet_core.member_record import NodeRecord
from agentnet_core.roster import encode_members
from agentnet_core.signing import Verdict

NOW = datetime.now(UTC)


def signer(files: dict[str, str], now: datetime = NOW, **limits: int) -> Authority:
    return Authority(NetworkConfig(listen="tls://127.0.0.1:0", **files, **limits), lambda: now)


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return Issuer(tmp_path_factory.mktemp("signers"))


@pytest.mark.parametrize("bits", [0, 2048])
def test_what_one_signs_another_believes(issuer: Issuer, bits: int) -> None:
    """Whatever kind of key it has."""
    one, two = signer(issuer.issue(f"a{bits}", rsa_bits=bits)), signer(issuer.issue(f"b{bits}"))
    signature = one.sign(b"said")
    assert two.check(f"a{bits}", one.certificate, b"said", signature) is Verdict.GENUINE
    for lie in (
        (f"b{bits}", one.certificate, b"said", signature),
        (f"a{bits}", two.certificate, b"said", signature),
        (f"a{bits}", one.certificate, b"other", signature),
        (f"a{bits}", one.certificate, b"said", two.sign(b"said")),
        (f"a{bits}", one.certificate, b"said", b"no signature"),
        (f"a{bits}", one.certificate[:-1], b"said", signature),
        (f"a{bits}", b"no certificate", b"said", signature),
        (f"a{bits}", b"", b"said", signature),
    ):
        assert two.check(*lie) is Verdict.FORGED


def test_whom_the_authority_does_not_know_nobody_believes(issuer: Issuer, tmp_path: Path) -> None:
    stranger = signer(Issuer(tmp_path).issue("a"))
    one = signer(issuer.issue("x"))
    signed = b"said", stranger.sign(b"said")
    assert one.check("a", stranger.certificate, *signed) is Verdict.UNPROVEN, "it may be a newer one"
    assert stranger.certificate not in one._kept
    elsewhere = signer(issuer.issue("e", uris("agentnet://other/e")))
    assert one.check("e", elsewhere.certificate, b"said", elsewhere.sign(b"said")) is Verdict.FORGED


def test_a_node_is_no_authority(issuer: Issuer) -> None:
    """What a node signs as if it could issue certificates."""
    node = Issuer(issuer.directory, "n")
    node.subject = issuer.subject  # it says that it is the authority
    forged = signer({**node.issue("f"), "ca": str(issuer.ca)})
    verdict = signer(issuer.issue("y")).check("f", forged.certificate, b"", forged.sign(b""))
    assert verdict is Verdict.UNPROVEN, "by its key it is another authority"


@pytest.mark.parametrize("when", [-2 * DAY, 2 * DAY])
def test_at_the_wrong_time_nobody_is_a_liar(issuer: Issuer, when: timedelta) -> None:
    one, later = signer(issuer.issue("t")), signer(issuer.issue("u"), NOW + when)
    assert later.check("t", one.certificate, b"", one.sign(b"")) is Verdict.UNPROVEN
    assert later.check("u", one.certificate, b"", one.sign(b"")) is Verdict.FORGED


@pytest.mark.parametrize("more", [0, 1])
def test_so_many_certificates_are_kept(issuer: Issuer, more: int) -> None:
    one = signer(issuer.issue("k"), nodes_max=3)
    others = {name: signer(issuer.issue(name)) for name in (f"k{i}" for i in range(3 + more))}
    for name, other in others.items():
        assert one.check(name, other.certificate, b"", other.sign(b"")) is Verdict.GENUINE
    assert len(one._kept) == 3
    first = others["k0"].certificate
    assert (first in one._kept) is (more == 0)


@pytest.mark.parametrize("room", [0, 1])
def test_an_authority_between(tmp_path: Path, room: int) -> None:
    """Its certificate lies in the node's file and goes with it; how many may be between, the upper says."""
    upper, lower = Issuer(tmp_path, "upper"), Issuer(tmp_path, "lower")
    root = _authority(upper, by=upper, room=room)
    (tmp_path / "root.pem").write_bytes(root)
    files = {**lower.issue("a"), "ca": str(tmp_path / "root.pem")}
    certificate = Path(files["certificate"])
    certificate.write_bytes(certificate.read_bytes() + _authority(lower, by=upper, room=0))
    one = signer(files)
    verdict = one.check("a", one.certificate, b"", one.sign(b""))
    assert verdict is (Verdict.GENUINE if room else Verdict.FORGED)


def _authority(issuer: Issuer, *, by: Issuer, room: int) -> bytes:
    builder = (
        x509.CertificateBuilder()
        .subject_name(issuer.subject)
        .issuer_name(by.subject)
        .public_key(issuer.key.public_key())
        .serial_number(7)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=room), critical=True)
        .add_extension(_usage(signs=True), critical=True)
    )
    return builder.sign(by.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def test_a_key_of_another_certificate(issuer: Issuer) -> None:
    files = {**issuer.issue("p"), "private_key": issuer.issue("q")["private_key"]}
    with pytest.raises(ConfigError, match="is not that of certificate"):
        signer(files)


def test_who_takes_plaintext_too_does_not_sign(issuer: Issuer) -> None:
    files = issuer.issue("z")
    assert open_authority(NetworkConfig(listen="tls://127.0.0.1:0", **files), lambda: NOW) is not None
    assert open_authority(NetworkConfig(listen=(), **files), lambda: NOW) is not None
    both = NetworkConfig(listen="tls://127.0.0.1:0,tcp://127.0.0.1:0", **files)
    assert open_authority(both, lambda: NOW) is None
    assert open_authority(NetworkConfig(), lambda: NOW) is None


def test_what_agentnet_issues_signs(tmp_path: Path) -> None:
    init_authority(tmp_path, "default")
    files = issue_certificate(tmp_path, "default", "n1")
    config = NetworkConfig(
        listen=(), certificate=str(files.certificate), private_key=str(files.private_key), ca=str(files.ca)
    )
    one = Authority(config, lambda: datetime.now(UTC))
    assert one.check("n1", one.certificate, b"said", one.sign(b"said")) is Verdict.GENUINE


# -- on links


def refusals(nets: list[AgentNetworkManager]) -> int:
    return sum(net.stats()["records_refused"] + net.stats()["records_unproven"] for net in nets)


@pytest.mark.parametrize("scheme", ["tls"])
@pytest.mark.parametrize("rings", [False, True])
async def test_nodes_that_sign(cluster: Cluster, rings: bool) -> None:
    """They meet, find agents, hear broadcasts, know who leaves; on rings most have no link to each other."""
    limits = {"mesh_nodes_max": 2, "overlay_rings": 1} if rings else {}
    nets = [cluster.make(f"n{i}", **limits) for i in range(6)]
    await nets[0].join_network([])
    for net in nets[1:]:
        await soon(net.join_network(nets[0].addresses))
    heard: list[str] = []
    for net in nets:

        async def hear(message: Any, name: str = net.node_id) -> None:
            heard.append(name)

        await net.register_agent(f"echo-{net.node_id}", ["echo"], handler=echo)
        await net.register_agent(f"ear-{net.node_id}", handler=hear)
    await until(lambda: all(len(net.agents()) == 12 and len(net.members()) == 6 for net in nets))
    for net in nets:
        for other in nets:
            assert await soon(net.request(f"echo-{other.node_id}", b"x")) == b"x"
    await soon(nets[2].broadcast_message(b"all"))
    await until(lambda: sorted(heard) == [f"n{i}" for i in range(6)])
    watches = [cluster.watch(net) for net in nets]
    await nets[5].leave_network()
    await until(lambda: all(watch.of(Event.LEFT) for watch in watches[:5]))
    assert not any(watch.of(Event.LOST) or watch.of(Event.FORGED) for watch in watches[:5])
    assert all(len(net.agents()) == 10 for net in nets[:5])
    assert refusals(nets[:5]) == 0


@pytest.mark.parametrize("scheme", ["tls"])
async def test_a_lie_on_a_real_link(cluster: Cluster) -> None:
    """Of a node with a certificate of this network, which says that another has left."""
    one, two = await cluster.start("n1", "n2")
    watch = cluster.watch(one)
    liar = await FakePeer.dial(one.addresses[0], client_context(cluster.certificates.of("a")))
    await liar.join("a", network_uuid=one.control.network_uuid)
    incarnation = two.engine.incarnation
    for record in (
        NodeRecord("n2", incarnation, ("tls://127.0.0.1:1",), version=3),
        NodeRecord("n2", incarnation + 1, ("tls://127.0.0.1:1",)),
    ):
        liar.send(MEMBERS, encode_members([record])[0])
    told = await until(lambda: watch.of(Event.FORGED) if len(watch.of(Event.FORGED)) == 2 else None)
    assert all(event.node_id == "a" and "node n2" in event.detail for event in told)
    assert one.stats()["records_refused"] == 2
    (member,) = [member for member in one.members() if member.node_id == "n2"]
    assert (member.incarnation, list(member.addresses)) == (incarnation, two.addresses)
    await two.register_agent("echo", handler=echo)
    assert await soon(one.request("echo", b"x")) == b"x"
    await liar.close()
