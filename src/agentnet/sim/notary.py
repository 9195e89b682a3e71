"""The authority of a simulated network: a stand-in for certificates and keys, from the seed's world alone.

A Key signs with a secret that it alone holds, as far as nodes and tests are concerned; the Notary knows all
secrets, so it can tell what is forged.  Whoever is to forge needs another's Key, and gets none.
"""

from __future__ import annotations

from hashlib import blake2b

from agentnet_core.signing import Verdict

SIGNATURE_BYTES = 64


class Notary:
    """The authority of one World. ``expired``: nodes whose certificates are not valid any more. ``checked``:
    how often anybody had a signature checked."""

    def __init__(self) -> None:
        self.expired: set[str] = set()
        self.checked = 0

    def issue(self, name: str) -> Key:
        """The key of that node, and its certificate."""
        return Key(self, name)

    def certificate(self, name: str) -> bytes:
        """The certificate of that node."""
        return f"agentnet://{name} ".encode() + _digest(b"the authority", name.encode())

    def check(self, node_id: str, certificate: bytes, data: bytes, signature: bytes) -> Verdict:
        """Whether that node, which has that certificate, has signed that."""
        self.checked += 1
        if certificate != self.certificate(node_id):
            return Verdict.FORGED
        if node_id in self.expired:
            return Verdict.UNPROVEN
        return Verdict.GENUINE if signature == _sign(node_id, data) else Verdict.FORGED


class Key:
    """The key of one node."""

    def __init__(self, notary: Notary, name: str) -> None:
        self.certificate = notary.certificate(name)
        self.check = notary.check
        self._name = name

    def sign(self, data: bytes) -> bytes:
        return _sign(self._name, data)


def _sign(name: str, data: bytes) -> bytes:
    return _digest(b"the key of " + name.encode(), data)


def _digest(key: bytes, data: bytes) -> bytes:
    return blake2b(data, key=blake2b(key, digest_size=32).digest(), digest_size=SIGNATURE_BYTES).digest()
