"""Whose word it is: what a node signs, and whether what is passed on in its name is what it signed.

A network under TLS is signed: a node's record, its leave, its list of agents and its broadcasts bear its
signature, over the network's uuid and a word that says what is signed, so that nothing can be taken for
anything else, nor from another network.  The keys are those of the nodes' certificates; the driver has
them, as a Signer.  Without one nothing is signed or checked.

What a node is told in another's name and that the other did not sign is refused: not taken, counted, an
event that names who told it.  An honest node has checked what it passes on, so `forgeries_max` of these are
forgiven a link, and one more closes it: checking costs more than forging.  A certificate that is not
valid now, or whose authority is not known here, is nobody's forgery: clocks differ, and nodes are given
new authorities one after the other.  What it signed is not taken, and counted apart.

Not signed, because it is the opinion of others and not the node's word: who accuses a node, and that it is
lost.  The node itself refutes that, and its refutation is signed.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple, Protocol

from agentnet_core.body import expect_bytes, expect_int, expect_list, pack
from agentnet_core.config import COUNT_MAX, EngineConfig
from agentnet_core.errors import Forged
from agentnet_core.records import Event

SIGNATURE_BYTES_MAX = 512
DIGEST_BYTES = 32
CERTIFICATE_BYTES_MAX = 3 * 1024
"""A node's certificate, with those between it and the authority: beside the largest broadcast it fits a
frame that every node takes."""
SIGNATURE_KEY, CERTIFICATE_KEY = 64, 65
"""Numbers of a Seal's fields, wherever one crosses the wire."""

NODE, LEAVE, LIST, BROADCAST = (f"agentnet {what} 1" for what in ("node", "leave", "list", "broadcast"))
"""The first word of what is signed. Of a node: id, incarnation, version, addresses; of its leave: id,
incarnation; of its list: id, incarnation, version, count, digest; of a broadcast: id, incarnation, sequence,
digest of the payload. Behind each word stands the uuid of the network."""


class Verdict(Enum):
    """What came of a look at a signature and the certificate beside it."""

    GENUINE = "genuine"
    UNPROVEN = "unproven"
    """The certificate is not valid now, or of an authority that is not known here; the signature was not
    looked at."""
    FORGED = "forged"


class Signer(Protocol):
    """The key of one node, and the authority of all; the driver makes it."""

    @property
    def certificate(self) -> bytes:
        """This node's own, in a form that `check` of every node reads."""

    def sign(self, data: bytes) -> bytes:
        """This node's signature of ``data``."""

    def check(self, node_id: str, certificate: bytes, data: bytes, signature: bytes) -> Verdict:
        """Whether the node of that id, to which the authority gave that certificate, signed ``data``."""


class Seal(NamedTuple):
    """An owner's signature, and its certificate; none where others know it already."""

    signature: bytes
    certificate: bytes = b""


class Head(NamedTuple):
    """How many agents a version of a list has, what they come to, and its owner's signature of that."""

    agents: int
    digest: bytes
    signature: bytes


def seal_fields(seal: Seal) -> dict[int, object]:
    """The Seal as it crosses the wire, a map of numbered fields."""
    fields: dict[int, object] = {SIGNATURE_KEY: seal.signature}
    return {**fields, CERTIFICATE_KEY: seal.certificate} if seal.certificate else fields


def read_seal(what: str, fields: dict[int, Any]) -> Seal | None:
    """The Seal in a map of numbered fields, if there is one."""
    if SIGNATURE_KEY not in fields:
        return None
    certificate = fields.get(CERTIFICATE_KEY, b"")
    return Seal(
        expect_signature(f"{what} signature", fields[SIGNATURE_KEY]),
        certificate and expect_bytes(f"{what} certificate", certificate, range(1, CERTIFICATE_BYTES_MAX + 1)),
    )


def expect_signature(field: str, value: object) -> bytes:
    """``value``, a signature as it crosses the wire."""
    return expect_bytes(field, value, range(1, SIGNATURE_BYTES_MAX + 1))


def expect_head(field: str, value: object) -> Head:
    """``value``, [count, digest, signature]."""
    count, digest, signature = expect_list(field, value, range(3, 4))
    return Head(
        expect_int(f"{field} count", count, 0, COUNT_MAX),
        expect_bytes(f"{field} digest", digest, range(DIGEST_BYTES, DIGEST_BYTES + 1)),
        expect_signature(f"{field} signature", signature),
    )


class Seals:
    """The signatures of one node's network. ``network``: gives its uuid, once the node is in one.

    ``refused``: what others told in a node's name and it did not sign; ``unproven``: what could not be
    checked, for its certificate is not valid now, or was not brought along.
    """

    def __init__(self, signer: Signer, config: EngineConfig, tell: Callable[[Event], None]) -> None:
        self.network: Callable[[], bytes] = bytes
        self.refused = 0
        self.unproven = 0
        self._signer = signer
        self._max = config.forgeries_max
        self._tell = tell
        self._forgiven: dict[str, int] = {}

    @property
    def certificate(self) -> bytes:
        """This node's own."""
        return self._signer.certificate

    def sign(self, word: str, *said: object) -> bytes:
        """This node's signature of what it says."""
        return self._signer.sign(pack([word, self.network(), *said]))

    def holds(
        self, source: str, owner: str, certificate: bytes, signature: bytes, word: str, *said: object
    ) -> bool:
        """Whether ``owner`` said that, as ``source`` told; if not, it is dealt with. Forged ends the link."""
        if not certificate:
            self.unproven += 1
            return False
        data = pack([word, self.network(), *said])
        verdict = self._signer.check(owner, certificate, data, signature)
        if verdict is Verdict.FORGED:
            self.refuse(source, owner, f"the signature of its {word.split()[1]} is not its own")
        self.unproven += verdict is Verdict.UNPROVEN
        return verdict is Verdict.GENUINE

    def refuse(self, source: str, owner: str, why: str) -> None:
        """``source`` tells what ``owner`` did not sign. Forged once that is too much for a link."""
        self.refused += 1
        count = self._forgiven[source] = self._forgiven.get(source, 0) + 1
        text = (
            f"node {source} tells in the name of node {owner} what that did not sign: {why}; it is not taken"
        )
        error = Forged(text)
        self._tell(Event(Event.FORGED, source, detail=text, error=error))
        if count > self._max:
            raise Forged(f"{text}, and the link is closed after {count} of these (forgeries_max)")

    def forgive(self, node_id: str) -> None:
        """There is a new link to that node, or none."""
        self._forgiven.pop(node_id, None)
