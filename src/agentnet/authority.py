"""What a node signs with, and what it believes others by: the keys and certificates that its TLS uses.

In: the paths of NetworkConfig.  Out: a Signer for the core.  A certificate is believed if the authority in
``ca`` issued it, or those that came with it lead there, and its one URI names that very node of this
network; it is verified once and kept, `nodes_max` of them, the oldest go.  One that is not valid now is
nobody's lie: clocks differ, and certificates expire while their nodes run.

A certificate crosses as DER, those between it and the authority behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from agentnet import certs, keys
from agentnet.config import NetworkConfig, missing_certificates
from agentnet_core.errors import ConfigError, HandshakeRefused
from agentnet_core.signing import CERTIFICATE_BYTES_MAX, Verdict

CHAIN_MAX = 4
"""Certificates from a node's to that which the authority signed."""


class _Known(NamedTuple):
    """A certificate that leads to the authority: whose it is, what its key signs, when all of them hold."""

    node_id: str
    check: keys.Check
    begins: datetime
    ends: datetime


class Authority:
    """The Signer of one node."""

    def __init__(self, config: NetworkConfig, now: Callable[[], datetime]) -> None:
        if config.certificate is None or config.private_key is None or config.ca is None:
            raise missing_certificates("tls://")
        chain, self._sign = keys.load_pair(config.certificate, config.private_key)
        self._roots = keys.load_certificates(config.ca, "ca")
        self.certificate = b"".join(map(keys.to_der, chain))
        if len(chain) > CHAIN_MAX or len(self.certificate) > CERTIFICATE_BYTES_MAX:
            raise ConfigError(
                f"certificate {config.certificate}: {len(chain)} of them, {len(self.certificate)} bytes: "
                f"expected at most {CHAIN_MAX} of {CERTIFICATE_BYTES_MAX}: leave out the authority's own"
            )
        self._network = config.network
        self._now = now
        self._kept: dict[bytes, _Known] = {}
        self._kept_max = config.nodes_max

    def sign(self, data: bytes) -> bytes:
        """This node's signature of ``data``."""
        return self._sign(data)

    def check(self, node_id: str, certificate: bytes, data: bytes, signature: bytes) -> Verdict:
        """Whether the node of that id, to which the authority gave that certificate, signed ``data``."""
        from cryptography.exceptions import InvalidSignature

        known = self._know(certificate)
        if isinstance(known, Verdict):
            return known
        if known.node_id != node_id:
            return Verdict.FORGED
        if not known.begins <= self._now() <= known.ends:
            return Verdict.UNPROVEN
        try:
            known.check(signature, data)
        except InvalidSignature:
            return Verdict.FORGED
        return Verdict.GENUINE

    def _know(self, certificate: bytes) -> _Known | Verdict:
        known = self._kept.get(certificate) or self._verify(certificate)
        if isinstance(known, _Known) and certificate not in self._kept:
            if len(self._kept) >= self._kept_max:
                del self._kept[next(iter(self._kept))]
            self._kept[certificate] = known
        return known

    def _verify(self, certificate: bytes) -> _Known | Verdict:
        """Whose certificate it is, or why the authority does not answer for it."""
        try:
            chain = keys.split_chain(certificate, CHAIN_MAX)
            network, node_id = certs.peer_identity(keys.to_der(chain[0]))
        except (ValueError, HandshakeRefused):
            return Verdict.FORGED
        if not keys.is_issuer_known(chain[-1], self._roots):
            return Verdict.UNPROVEN
        root = keys.find_root(chain, self._roots)
        check = keys.checking(chain[0].public_key()) if root is not None else None
        if root is None or check is None or network != self._network:
            return Verdict.FORGED
        all_of_it = (*chain, root)
        begins = max(each.not_valid_before_utc for each in all_of_it)
        return _Known(node_id, check, begins, min(each.not_valid_after_utc for each in all_of_it))


def open_authority(config: NetworkConfig, now: Callable[[], datetime]) -> Authority | None:
    """The Signer of a node that speaks TLS alone; None for all others, whose network is not signed.

    Who takes plaintext links has no proof of who speaks there, so nothing that it passes on is one.
    """
    if config.certificate is None or not all(address.secure for address in config.listen_addresses):
        return None
    return Authority(config, now)
