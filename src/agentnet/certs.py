"""Certificates of a network: make its authority, issue its nodes, read who a certificate names.

In: a directory and names, or a peer's certificate as DER.  Out: PEM files, or (network, node id).
A node's identity is the one URI in its certificate's subject alternative name,
``agentnet://NETWORK/NODE``: exactly one, exactly in that form.  Nothing that exists is ever
overwritten.  Keys are ECDSA P-256: as quick as Ed25519 in a handshake, and accepted everywhere.
``cryptography`` is imported when a function needs it, not before.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from agentnet.config import check_host
from agentnet_core.config import NAME, check_name
from agentnet_core.errors import ConfigError, HandshakeRefused
from agentnet_core.records import describe

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

AUTHORITY_DAYS = 3650
NODE_DAYS = 365
CLOCK_SKEW = timedelta(minutes=5)
"""A certificate is valid this long before it was made: the clocks of two machines differ."""


class CertificateFiles(NamedTuple):
    """Paths of what was written; what NetworkConfig takes as ca, certificate and private_key."""

    ca: Path
    certificate: Path
    private_key: Path


def identity_uri(network: str, node_id: str) -> str:
    """The URI that names a node: ``agentnet://NETWORK/NODE``."""
    return f"agentnet://{network}/{node_id}"


def init_authority(
    directory: str | os.PathLike[str], network: str, days: int = AUTHORITY_DAYS
) -> CertificateFiles:
    """Make the authority of ``network``: ``ca.pem`` and ``ca-key.pem`` (mode 0600) in ``directory``.

    Keep the key away from the nodes: whoever holds it can be any node.  ConfigError if either
    file is there already, or cannot be written.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    check_name("network", network)
    folder = Path(directory)
    files = CertificateFiles(folder / "ca.pem", folder / "ca.pem", folder / "ca-key.pem")
    _refuse_existing(files)
    key = ec.generate_private_key(ec.SECP256R1())
    name = _subject(network, "agentnet authority")
    builder = (
        _builder(name, name, key, _period(days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
    )
    _write(files, key, builder, key)
    return files


def issue_certificate(
    directory: str | os.PathLike[str],
    network: str,
    node_id: str,
    hosts: Sequence[str] = (),
    days: int = NODE_DAYS,
) -> CertificateFiles:
    """Make ``NODE.pem`` and ``NODE-key.pem`` (mode 0600), signed by the authority in ``directory``.

    ``hosts``: IP addresses and host names that other TLS tools may check; agentnet itself goes
    by the node id.  The certificate does not outlive its authority.  ConfigError if there is no
    authority of this network, if a file is there already, or if it cannot be written.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    check_name("network", network)
    check_name("node", node_id)
    folder = Path(directory)
    files = CertificateFiles(folder / "ca.pem", folder / f"{node_id}.pem", folder / f"{node_id}-key.pem")
    if node_id in ("ca", "ca-key"):
        raise ConfigError(f"node {node_id!r}: its files would be those of the authority; choose another name")
    authority, authority_key = _load_authority(folder, network)
    _refuse_existing(files)
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity_uri(network, node_id))]
    names += [_general_name(host) for host in hosts]
    key = ec.generate_private_key(ec.SECP256R1())
    start, end = _period(days)
    period = start, min(end, authority.not_valid_after_utc)
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    builder = (
        _builder(_subject(network, node_id), authority.subject, key, period)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(_authority_id(authority_key), critical=False)
    )
    _write(files, key, builder, authority_key)
    return files


def peer_identity(der_bytes: bytes) -> tuple[str, str]:
    """(network, node id) that a certificate names; it must have been verified against the CA before.

    HandshakeRefused, which says what was found, unless exactly one URI stands in the subject
    alternative name, in exactly the form ``agentnet://NETWORK/NODE``.
    """
    from cryptography import x509

    try:
        certificate = x509.load_der_x509_certificate(der_bytes)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        found: list[str] = []
    except (ValueError, TypeError, x509.DuplicateExtension, x509.InvalidVersion) as error:
        raise HandshakeRefused(f"the certificate cannot be read: {describe(str(error))}") from error
    else:
        found = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(found) == 1:
        scheme, _, rest = found[0].partition("://")
        network, _, node_id = rest.partition("/")
        if scheme == "agentnet" and NAME.match(network) and NAME.match(node_id):
            return network, node_id
    shown = describe(found) if found else "none"
    raise HandshakeRefused(
        f"the certificate must hold exactly one URI as subject alternative name, "
        f"agentnet://NETWORK/NODE; found {shown}"
    )


def read_identity(path: str | os.PathLike[str]) -> tuple[str, str]:
    """(network, node id) of this node's own certificate, a PEM file; ConfigError if it has none."""
    from cryptography.hazmat.primitives.serialization import Encoding

    certificate = _load_certificate(Path(path), "certificate")
    try:
        return peer_identity(certificate.public_bytes(Encoding.DER))
    except HandshakeRefused as error:
        raise ConfigError(f"certificate {path}: {error}") from error


def _subject(network: str, common_name: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, network),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _period(days: int) -> tuple[datetime, datetime]:
    if type(days) is not int or not 0 < days <= 36_500:
        raise ConfigError(f"days={describe(days)}: expected 1 to 36500")
    now = datetime.now(UTC).replace(microsecond=0)
    return now - CLOCK_SKEW, now + timedelta(days=days)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, period: tuple[datetime, datetime]
) -> x509.CertificateBuilder:
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(period[0])
        .not_valid_after(period[1])
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _authority_id(key: EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    from cryptography import x509

    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    from cryptography import x509

    plain = check_host(host, "host")
    try:
        return x509.IPAddress(ip_address(plain))
    except ValueError:
        return x509.DNSName(plain)


def _load_authority(folder: Path, network: str) -> tuple[x509.Certificate, EllipticCurvePrivateKey]:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from cryptography.x509.oid import NameOID

    certificate = _load_certificate(folder / "ca.pem", "authority")
    path = folder / "ca-key.pem"
    try:
        key = load_pem_private_key(_read(path, "key of the authority"), password=None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"key of the authority {path} cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ConfigError(f"{path} is not the key of {folder / 'ca.pem'}")
    owners = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    if [owner.value for owner in owners] != [network]:
        found = ", ".join(describe(owner.value) for owner in owners) or "unknown"
        raise ConfigError(f"{folder / 'ca.pem'} is the authority of network {found}, not of {network!r}")
    end = certificate.not_valid_after_utc
    if end <= datetime.now(UTC):
        raise ConfigError(f"{folder / 'ca.pem'} expired on {end:%Y-%m-%d}: make a new authority elsewhere")
    return certificate, key


def _load_certificate(path: Path, what: str) -> x509.Certificate:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(_read(path, what))
    except ValueError as error:
        raise ConfigError(f"{what} {path} cannot be read: {error}") from error


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        hint = "; make one with `agentnet certs init`" if what.endswith("authority") else ""
        raise ConfigError(f"{what} {path} does not exist{hint}") from error
    except OSError as error:
        raise ConfigError(f"{what} {path} cannot be read: {error.strerror}") from error


def _refuse_existing(files: CertificateFiles) -> None:
    for path in (files.private_key, files.certificate):
        if path.exists():
            raise _exists(path)


def _exists(path: Path) -> ConfigError:
    return ConfigError(
        f"{path} exists and is never overwritten: move it away if it is no longer in use, "
        f"or name another directory"
    )


def _write(
    files: CertificateFiles,
    key: EllipticCurvePrivateKey,
    builder: x509.CertificateBuilder,
    signer: EllipticCurvePrivateKey,
) -> None:
    """Both files or neither; the key first, and for its owner's eyes from its first byte."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM)
    folder = files.private_key.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"directory {folder} cannot be made: {error.strerror}") from error
    try:
        _create(files.private_key, secret, 0o600)
        try:
            _create(files.certificate, public, 0o644)
        except OSError:
            files.private_key.unlink()
            raise
    except FileExistsError as error:
        raise _exists(Path(error.filename)) from error
    except OSError as error:
        raise ConfigError(f"{error.filename or folder} cannot be written: {error.strerror}") from error


def _create(path: Path, data: bytes, mode: int) -> None:
    # O_EXCL: two that issue at once must not end with one's key under the other's certificate.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink()
        raise
