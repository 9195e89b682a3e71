"""agentnet.certs: what is written, what is never overwritten, whom a certificate names."""

from __future__ import annotations

import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from certificates import Authority, uris
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from agentnet import certs
from agentnet_core.errors import ConfigError, HandshakeRefused

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="file modes are POSIX's")


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def der(issued: dict[str, str]) -> bytes:
    return load(Path(issued["certificate"])).public_bytes(Encoding.DER)


class TestIssue:
    def test_a_node_has_one_uri_and_its_hosts(self, tmp_path: Path) -> None:
        certs.init_authority(tmp_path, "prod")
        files = certs.issue_certificate(tmp_path, "prod", "node-1", hosts=["127.0.0.1", "::1", "Db.local"])
        names = load(files.certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["agentnet://prod/node-1"]
        assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
        assert names.get_values_for_type(x509.DNSName) == ["db.local"]
        assert certs.read_identity(files.certificate) == ("prod", "node-1")

    def test_a_node_serves_and_dials_and_signs_nothing(self, tmp_path: Path) -> None:
        certs.init_authority(tmp_path, "prod")
        extensions = load(certs.issue_certificate(tmp_path, "prod", "a").certificate).extensions
        uses = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(uses) == [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        assert not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign

    def test_valid_from_a_little_ago_and_never_longer_than_the_authority(self, tmp_path: Path) -> None:
        certs.init_authority(tmp_path, "prod", days=10)
        node = load(certs.issue_certificate(tmp_path, "prod", "a", days=365).certificate)
        age = datetime.now(UTC) - node.not_valid_before_utc
        assert timedelta(minutes=5) <= age < timedelta(minutes=6)
        assert node.not_valid_after_utc == load(tmp_path / "ca.pem").not_valid_after_utc

    def test_signed_by_the_authority(self, tmp_path: Path) -> None:
        certs.init_authority(tmp_path, "prod")
        node = load(certs.issue_certificate(tmp_path, "prod", "a").certificate)
        node.verify_directly_issued_by(load(tmp_path / "ca.pem"))

    @POSIX
    def test_keys_are_for_their_owner_only(self, tmp_path: Path) -> None:
        authority = certs.init_authority(tmp_path / "made" / "here", "prod")
        node = certs.issue_certificate(tmp_path / "made" / "here", "prod", "a")
        for key in (authority.private_key, node.private_key):
            assert stat.S_IMODE(key.stat().st_mode) == 0o600

    def test_nothing_is_overwritten(self, tmp_path: Path) -> None:
        certs.init_authority(tmp_path, "prod")
        certs.issue_certificate(tmp_path, "prod", "a")
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(ConfigError, match=r"ca-key\.pem exists and is never overwritten: move it away"):
            certs.init_authority(tmp_path, "prod")
        with pytest.raises(ConfigError, match=r"a-key\.pem exists and is never overwritten"):
            certs.issue_certificate(tmp_path, "prod", "a")
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    def test_a_lone_certificate_is_not_overwritten_and_no_key_is_left(self, tmp_path: Path) -> None:
        certs.init_authority(tmp_path, "prod")
        (tmp_path / "a.pem").write_text("precious")
        with pytest.raises(ConfigError, match=r"a\.pem exists"):
            certs.issue_certificate(tmp_path, "prod", "a")
        assert not (tmp_path / "a-key.pem").exists()
        assert (tmp_path / "a.pem").read_text() == "precious"

    def test_another_networks_authority_is_refused(self, tmp_path: Path) -> None:
        certs.init_authority(tmp_path, "prod")
        with pytest.raises(ConfigError, match="is the authority of network 'prod', not of 'test'"):
            certs.issue_certificate(tmp_path, "test", "a")

    def test_no_authority_says_how_to_make_one(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="does not exist; make one with `agentnet certs init`"):
            certs.issue_certificate(tmp_path, "prod", "a")

    def test_a_key_of_another_authority_is_refused(self, tmp_path: Path) -> None:
        certs.init_authority(tmp_path / "one", "prod")
        certs.init_authority(tmp_path / "two", "prod")
        (tmp_path / "one" / "ca-key.pem").write_bytes((tmp_path / "two" / "ca-key.pem").read_bytes())
        with pytest.raises(ConfigError, match="is not the key of"):
            certs.issue_certificate(tmp_path / "one", "prod", "a")

    @pytest.mark.parametrize("node_id", ["", "a/b", "a b", "ä", "a" * 65, "../up", "ca", "ca-key"])
    def test_bad_node_ids(self, tmp_path: Path, node_id: str) -> None:
        certs.init_authority(tmp_path, "prod")
        with pytest.raises(ConfigError, match="node "):
            certs.issue_certificate(tmp_path, "prod", node_id)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["ca-key.pem", "ca.pem"]

    @pytest.mark.parametrize(("hosts", "days"), [(["a b"], 1), (["1::2::3"], 1), ([], 0), ([], 10**6)])
    def test_bad_hosts_and_days(self, tmp_path: Path, hosts: list[str], days: int) -> None:
        certs.init_authority(tmp_path, "prod")
        with pytest.raises(ConfigError, match="expected|neither"):
            certs.issue_certificate(tmp_path, "prod", "a", hosts=hosts, days=days)

    def test_a_directory_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigError, match="cannot be made"):
            certs.init_authority(tmp_path / "file" / "below", "prod")


class TestPeerIdentity:
    def test_the_one_uri_counts_and_other_names_do_not(self, tmp_path: Path) -> None:
        issued = Authority(tmp_path).issue("n1")  # with an IP address beside
        assert certs.peer_identity(der(issued)) == ("default", "n1")

    @pytest.mark.parametrize(
        "names",
        [
            (),
            ("agentnet://default/a", "agentnet://default/b"),
            ("agentnet://default/a", "agentnet://default/a"),
            ("agentnet://default/a", "https://example.org/"),
            ("spiffe://default/a",),
            ("AGENTNET://default/a",),
            ("agentnet:default/a",),
            ("agentnet://default",),
            ("agentnet://default/",),
            ("agentnet:///a",),
            ("agentnet://default/a/b",),
            ("agentnet://default/a?b",),
            ("agentnet://user@default/a",),
            ("agentnet://default:1/a",),
            ("agentnet://default/a\n",),
            ("agentnet://default/a\0b",),
            ("agentnet://default/%61",),
            (f"agentnet://default/{'a' * 65}",),
        ],
    )
    def test_anything_else_is_refused_and_shown(self, tmp_path: Path, names: tuple[str, ...]) -> None:
        issued = Authority(tmp_path).issue("n1", uris(*names))
        with pytest.raises(
            HandshakeRefused, match="exactly one URI.*agentnet://NETWORK/NODE; found"
        ) as caught:
            certs.peer_identity(der(issued))
        assert caught.value.definite
        assert str(caught.value).isprintable()

    @settings(deadline=None)
    @given(st.binary(max_size=64))
    def test_garbage_is_refused(self, data: bytes) -> None:
        with pytest.raises(HandshakeRefused, match="cannot be read"):
            certs.peer_identity(data)

    def test_own_certificate_without_identity(self, tmp_path: Path) -> None:
        issued = Authority(tmp_path).issue("n1", uris())
        with pytest.raises(ConfigError, match=r"certificate .*n1\.pem: .*found none"):
            certs.read_identity(issued["certificate"])
        with pytest.raises(ConfigError, match="does not exist"):
            certs.read_identity(tmp_path / "nothing.pem")


def test_cryptography_is_imported_late() -> None:
    program = "import sys, agentnet.certs, agentnet.config; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
