"""Whether what is told of a node is that node's own word: records of MEMBERS in a signed network.

In: a record, what is held of its node, and who told it.  Out: the record as it may be learned, or None.
What is held already is not checked again: all tell all, and a signature takes as long to check as a
thousand records to compare.  Nothing of a record is taken if any of its signatures is wrong.

A record that is older than what is held passes, for it changes nothing: who repeats it may be late, and
honest.  One whose certificate was not brought along, and is not held, is let go until somebody brings it.
"""

from __future__ import annotations

from agentnet_core.member_record import NodeRecord, Standing
from agentnet_core.signing import LEAVE, LIST, NODE, Seal, Seals


class Proofs:
    """The records of one node's network."""

    def __init__(self, seals: Seals) -> None:
        self._seals = seals
        self._own: tuple[bytes, NodeRecord, NodeRecord] | None = None

    def own(self, record: NodeRecord) -> NodeRecord:
        """This node's own record, signed; once for each that there is."""
        network = self._seals.network()
        if self._own is None or self._own[:2] != (network, record):
            said = record.node_id, record.incarnation, record.version, list(record.addresses)
            seal = Seal(self._seals.sign(NODE, *said), self._seals.certificate)
            self._own = network, record, record.replace(seal=seal)
        return self._own[2]

    def farewell(self, record: NodeRecord, signature: bytes) -> Seal | None:
        """What a node that leaves says to those that it is not linked to, if it has signed that."""
        leave = record.replace(standing=Standing.LEFT, seal=Seal(signature) if signature else None)
        proven = self.learned(leave, record, record.node_id)
        return proven.seal if proven is not None else None

    def learned(self, record: NodeRecord, held: NodeRecord | None, source: str) -> NodeRecord | None:
        """The record as it may be learned from ``source``; None if it may not. Forged ends the link."""
        if held is not None and record.incarnation < held.incarnation:
            return record
        if held is not None and record.incarnation > held.incarnation:
            held = None
        if record.seal is None:
            self._seals.refuse(source, record.node_id, "it bears no signature")
            return None
        known = held.seal if held is not None else None
        seal = record.seal if known is None else record.seal._replace(certificate=known.certificate)
        if record.standing is Standing.LEFT:
            return record.replace(seal=seal) if self._holds(source, record, seal, LEAVE) else None
        if held is None or known is None or _says_more(record, held):
            if not self._holds(source, record, seal, NODE, record.version, list(record.addresses)):
                return None
            if held is not None and known is not None and record.version == held.version:
                # It has said two things: the first counts.
                record, seal = record.replace(addresses=held.addresses), known
        else:
            seal = known
        return self._with_list(record.replace(seal=seal), held, source)

    def _with_list(self, record: NodeRecord, held: NodeRecord | None, source: str) -> NodeRecord | None:
        """The record with the newest version of its node's list that this has signed."""
        listed, head = (held.listed, held.head) if held is not None else (0, None)
        if record.listed <= listed:
            return record.with_list(listed, head)
        head, seal = record.head, record.seal
        if head is None or seal is None:
            self._seals.refuse(source, record.node_id, "the version of its list bears no signature")
            return None
        said = record.listed, head.agents, head.digest
        of_list = seal._replace(signature=head.signature)
        return record if self._holds(source, record, of_list, LIST, *said) else None

    def _holds(self, source: str, record: NodeRecord, seal: Seal, word: str, *said: object) -> bool:
        whose = record.node_id, record.incarnation
        return self._seals.holds(
            source, record.node_id, seal.certificate, seal.signature, word, *whose, *said
        )


def _says_more(record: NodeRecord, held: NodeRecord) -> bool:
    """Whether its node's part is news, or contradicts what is held."""
    if record.version == held.version:
        return record.addresses != held.addresses
    return record.version > held.version
