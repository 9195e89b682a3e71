"""Keys and chains of certificates, as they are on disk and on the wire: RSA, elliptic curves, Ed25519, Ed448.

In: PEM files, DER.  Out: what signs and what checks, and whether a chain leads to an authority.  A file
that is of no use is a ConfigError.  ``cryptography`` is imported when a function needs it, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentnet_core.errors import ConfigError

if TYPE_CHECKING:
    from cryptography import x509

Sign = Callable[[bytes], bytes]
Check = Callable[[bytes, bytes], None]
"""Called with signature and data; raises InvalidSignature."""


def load_certificates(path: str, what: str) -> list[x509.Certificate]:
    """All certificates of a PEM file, at least one."""
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{what} {path} cannot be used: {error}") from error


def load_pair(certificate: str, private_key: str) -> tuple[list[x509.Certificate], Sign]:
    """A node's certificate, with those behind it in the file, and what signs with its key."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    chain = load_certificates(certificate, "certificate")
    try:
        key = load_pem_private_key(Path(private_key).read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"private_key {private_key} cannot be used: {error}") from error
    arguments = _arguments(key.public_key())
    if arguments is None or key.public_key() != chain[0].public_key():
        raise ConfigError(
            f"private_key {private_key} is not that of certificate {certificate}, or cannot sign"
        )
    sign: Any = key.sign  # type: ignore[union-attr]  # whose public key checks, signs
    return chain, lambda data: sign(data, *arguments)


def checking(key: Any) -> Check | None:
    """What checks signatures by that public key; None if it is of no kind that signs."""
    arguments = _arguments(key)
    return None if arguments is None else lambda signature, data: key.verify(signature, data, *arguments)


def _arguments(key: Any) -> tuple[Any, ...] | None:
    """How that kind of key signs: always in the same way, so that nothing need be told."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa

    match key:
        case ec.EllipticCurvePublicKey():
            return (ec.ECDSA(hashes.SHA256()),)
        case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
            return ()
        case rsa.RSAPublicKey():
            return padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH), hashes.SHA256()
    return None


def to_der(certificate: x509.Certificate) -> bytes:
    """The certificate as it crosses the wire."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.DER)


def split_chain(data: bytes, most: int) -> list[x509.Certificate]:
    """The certificates that stand one behind the other, at least one; ValueError for anything else."""
    from cryptography import x509

    chain: list[x509.Certificate] = []
    while data:
        size = _der_bytes(data)
        if len(chain) >= most or not 0 < size <= len(data):
            raise ValueError("no chain of certificates")
        chain.append(x509.load_der_x509_certificate(data[:size]))
        data = data[size:]
    if not chain:
        raise ValueError("no certificate")
    return chain


def _der_bytes(data: bytes) -> int:
    """The length of the first value: one byte what it is, then how long it is."""
    if len(data) < 2 or data[1] < 0x80:
        return 0  # shorter than any certificate
    digits = data[1] & 0x7F
    return 2 + digits + int.from_bytes(data[2 : 2 + digits], "big")


def is_issuer_known(certificate: x509.Certificate, roots: Sequence[x509.Certificate]) -> bool:
    """Whether it names one of the authorities as its issuer, by that one's key; or none by a key."""
    named = _key_id(certificate, issuer=True)
    return named is None or any(named == _key_id(root, issuer=False) for root in roots)


def _key_id(certificate: x509.Certificate, *, issuer: bool) -> bytes | None:
    from cryptography import x509

    try:
        extensions = certificate.extensions
        if issuer:
            return extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        return extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.key_identifier
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return None


def find_root(
    chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate]
) -> x509.Certificate | None:
    """Which of the authorities answers for the first of the chain, by way of the others in their order."""
    for place, certificate in enumerate(chain):
        for root in roots:
            if _is_authority(root, place) and _issued(certificate, root):
                return root
        after = chain[place + 1] if place + 1 < len(chain) else None
        if after is None or not (_is_authority(after, place) and _issued(certificate, after)):
            return None
    return None


def _issued(certificate: x509.Certificate, by: x509.Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(by)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _is_authority(certificate: x509.Certificate, below: int) -> bool:
    """Whether it may issue certificates, with so many authorities between it and a node."""
    from cryptography import x509

    try:
        extensions = certificate.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return False
    room = constraints.path_length is None or below <= constraints.path_length
    return constraints.ca and usage.key_cert_sign and room
