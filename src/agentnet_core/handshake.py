"""Who may link with whom: the first frame each way, and what is decided from both.

Each side sends HELLO at once.  With both in hand, `judge` holds them against each other, on both
sides alike.  Then the node with the greater node id is the arbiter of that pair: it alone decides
which link of the two nodes lives, and says so with WELCOME or CLOSE; the lesser waits for it.

`arbitrate` is this table; `old` is the welcomed link to the same node id, `new` the one to be
decided, `me` and `peer` are who dialled it:

    old                               new             arbiter    lesser, at WELCOME
    --------------------------------  --------------  ---------  ------------------
    none, or not welcomed             any             WELCOME    WELCOME
    of a lower incarnation            any             PROBE      PROBE
    of a higher incarnation           any             REFUSE     REFUSE
    same incarnation, dialled by me   by peer         DUPLICATE  REPLACE
    same incarnation, dialled by me   by me           DUPLICATE  REPLACE
    same incarnation, by peer         by me           DUPLICATE  REPLACE
    same incarnation, by peer         by peer         REPLACE    REPLACE
    same incarnation, through a relay not relayed     SUPERSEDE  SUPERSEDE
    same incarnation, not relayed     through a relay DUPLICATE  REPLACE, or if the old one was
                                                                 opened later SUPERSEDE

WELCOME   take the new link.
REPLACE   close the old link, then take the new: a peer dials again only when its old link died,
          and the lesser follows its arbiter.
DUPLICATE close the new link; nobody did anything wrong.
SUPERSEDE take the new link; the relayed one of the two ends when all that was sent on it is answered.
REFUSE    close the new link: a dead incarnation never returns.
PROBE     ping the old link.  It answers: close the new link with the verdict's text.  It is
          silent: close the old one and ask `arbitrate` again.  Decisions look at welcomed links
          only, so any number of newcomers may wait for one probe.

A field that is not what the law says is a ProtocolError; two sound Hellos that do not fit are a
HandshakeRefused, whose text names both nodes, since it is shown on both.  Field numbers 0 to 63
that this version does not know refuse the Hello, from 64 they are carried and otherwise ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar

from agentnet_core.body import (
    KEY_MUST_KNOW_MAX,
    U64_MAX,
    expect_addresses,
    expect_bool,
    expect_bytes,
    expect_int,
    expect_list,
    expect_map,
    expect_name,
    pack,
    unpack,
    wrong,
)
from agentnet_core.config import FRAME_BYTES_MIN
from agentnet_core.errors import DuplicateLink, HandshakeRefused, LinkLost, NetworkError, from_code
from agentnet_core.records import describe
from agentnet_core.signing import expect_signature

PROTOCOL_MIN = 1
PROTOCOL_MAX = 1
"""The protocol versions that this code speaks."""

CHECKSUM_NONE = 0
CHECKSUM_CRC32C = 1

UUID_BYTES = 16
CLOSE_TEXT_MAX = 512
TWICE_HINT = (
    "end the first one with `await net.leave_network()` (a notebook's cell that runs twice makes two), "
    "or give the new one an id of its own"
)
"""What to do about two nodes of one id."""

# Field numbers of the Hello, stable across releases.
(
    PROTOCOL_MIN_KEY,
    PROTOCOL_MAX_KEY,
    NETWORK_KEY,
    UUID_KEY,
    NODE_KEY,
    INCARNATION_KEY,
    REQUIRED_KEY,
    OPTIONAL_KEY,
    LIMITS_KEY,
    CREDIT_KEY,
    CHECKSUM_KEY,
    LIVENESS_KEY,
    ADDRESSES_KEY,
    PLAINTEXT_KEY,
) = range(14)
MUST_HAVE = range(NETWORK_KEY, INCARNATION_KEY + 1)

LIMIT_FRAME_KEY, LIMIT_MESSAGE_KEY = range(2)

FEATURE_SIGNED = 1
"""The network is signed (see `signing`): who knows it signs, and takes only what is signed."""
FEATURE_DELIVERY = 2
"""Messages with a slip are understood, and answered with DONE or RETURN."""
FEATURE_STATES = 4
"""STATE and STATE_CHUNK frames are understood."""
FEATURE_PRUNING = 8
"""ROUND frames are understood, and what follows from them."""


@dataclass(frozen=True, kw_only=True)
class Hello:
    """What a node says of itself when a link opens.

    ``network_uuid``: 16 bytes, or none while joining. ``features_*``: bit masks.
    ``credit_bytes``: data that the receiver may send before the first CREDIT.
    ``liveness``: (UDP port, TCP port, key of this link) at which the node's liveness is asked, or None;
    a port that is not open is 0.
    ``addresses``: URLs at which the node can be dialled.
    """

    network: str
    node_id: str
    incarnation: int
    network_uuid: bytes = b""
    protocol_min: int = PROTOCOL_MIN
    protocol_max: int = PROTOCOL_MAX
    features_required: int = 0
    features_optional: int = 0
    frame_bytes_max: int = 128 * 1024
    message_bytes_max: int = 64 * 1024 * 1024
    credit_bytes: int = 0
    checksum: int = CHECKSUM_NONE
    liveness: tuple[int, int, bytes] | None = field(default=None, repr=False)
    addresses: tuple[str, ...] = ()
    plaintext: bool = False
    extra: dict[int, Any] = field(default_factory=dict, hash=False)

    @property
    def features(self) -> int:
        """All features that the node knows, required or not."""
        return self.features_required | self.features_optional

    def encode(self) -> bytes:
        """The body of a HELLO frame."""
        limits = {LIMIT_FRAME_KEY: self.frame_bytes_max, LIMIT_MESSAGE_KEY: self.message_bytes_max}
        fields = {
            PROTOCOL_MIN_KEY: self.protocol_min,
            PROTOCOL_MAX_KEY: self.protocol_max,
            NETWORK_KEY: self.network,
            UUID_KEY: self.network_uuid,
            NODE_KEY: self.node_id,
            INCARNATION_KEY: self.incarnation,
            REQUIRED_KEY: self.features_required,
            OPTIONAL_KEY: self.features_optional,
            LIMITS_KEY: limits,
            CREDIT_KEY: self.credit_bytes,
            CHECKSUM_KEY: self.checksum,
            LIVENESS_KEY: self.liveness,
            ADDRESSES_KEY: self.addresses,
            PLAINTEXT_KEY: self.plaintext,
        }
        return pack(fields | self.extra)

    @classmethod
    def decode(cls, body: bytes | memoryview) -> Hello:
        """The Hello in the body of a HELLO frame; ProtocolError or HandshakeRefused if there is none."""
        values = expect_map("Hello", unpack("Hello", body))
        # The versions come first: what another version means by the other fields is unknown.
        protocols = _read_protocols(values)
        if _common_protocol(protocols, (PROTOCOL_MIN, PROTOCOL_MAX)) is None:
            raise _no_common_protocol("the other side", protocols, "this one", (PROTOCOL_MIN, PROTOCOL_MAX))
        for key in values:
            if len(READ) <= key <= KEY_MUST_KNOW_MAX:
                raise HandshakeRefused(
                    f"Hello: expected field numbers 0 to {len(READ) - 1} or from {KEY_MUST_KNOW_MAX + 1}, "
                    f"got {key}; fields below {KEY_MUST_KNOW_MAX + 1} must be understood: "
                    "run the same release of agentnet on both nodes"
                )
        for key in MUST_HAVE:
            if key not in values:
                raise wrong("Hello", f"field {READ[key][0]} (number {key})", sorted(values)[:16])
        known: dict[str, Any] = {}
        for key, value in values.items():
            if key < len(READ):
                name, read = READ[key]
                known |= read(f"Hello {name}", value)
        return cls(**known, extra={key: values[key] for key in values if key > KEY_MUST_KNOW_MAX})


def _read_protocols(values: dict[int, Any]) -> tuple[int, int]:
    high = expect_int("Hello protocol_max", values.get(PROTOCOL_MAX_KEY), 1, 0xFFFF)
    return expect_int("Hello protocol_min", values.get(PROTOCOL_MIN_KEY), 1, high), high


def _read_limits(name: str, value: object) -> dict[str, int]:
    limits = expect_map(name, value)
    for key in limits:
        if LIMIT_MESSAGE_KEY < key <= KEY_MUST_KNOW_MAX:
            raise HandshakeRefused(f"{name}: expected limits 0 and 1 or from 64, got {key}")
    frame = expect_int(f"{name} frame_bytes_max", limits.get(LIMIT_FRAME_KEY), FRAME_BYTES_MIN, 2**32 - 1)
    message = expect_int(f"{name} message_bytes_max", limits.get(LIMIT_MESSAGE_KEY), 1, 2**63 - 1)
    return {"frame_bytes_max": frame, "message_bytes_max": message}


def _read_uuid(name: str, value: object) -> dict[str, bytes]:
    uuid = expect_bytes(name, value, range(UUID_BYTES + 1))
    if len(uuid) not in (0, UUID_BYTES):
        raise wrong(name, f"{UUID_BYTES} bytes, or none while joining", f"{len(uuid)} bytes")
    return {"network_uuid": uuid}


def _read_liveness(name: str, value: object) -> dict[str, tuple[int, int, bytes] | None]:
    if value is None:
        return {"liveness": None}
    udp, tcp, key = expect_list(name, value, range(3, 4))
    return {
        "liveness": (
            expect_int(f"{name} UDP port", udp, 0, 0xFFFF),
            expect_int(f"{name} TCP port", tcp, 0, 0xFFFF),
            expect_bytes(f"{name} key", key, range(65)),
        )
    }


def _int(key: str, low: int, high: int) -> Any:
    return key, lambda name, value: {key: expect_int(name, value, low, high)}


# How each field is read, in the order of the field numbers.
READ: tuple[tuple[str, Any], ...] = (
    _int("protocol_min", 1, 0xFFFF),
    _int("protocol_max", 1, 0xFFFF),
    ("network", lambda name, value: {"network": expect_name(name, value)}),
    ("network_uuid", _read_uuid),
    ("node_id", lambda name, value: {"node_id": expect_name(name, value)}),
    _int("incarnation", 0, U64_MAX),
    _int("features_required", 0, U64_MAX),
    _int("features_optional", 0, U64_MAX),
    ("limits", _read_limits),
    _int("credit_bytes", 0, 2**63 - 1),
    _int("checksum", CHECKSUM_NONE, CHECKSUM_CRC32C),
    ("liveness", _read_liveness),
    ("addresses", lambda name, value: {"addresses": expect_addresses(name, value)}),
    ("plaintext", lambda name, value: {"plaintext": expect_bool(name, value)}),
)


# -- welcome and close


@dataclass(frozen=True, slots=True)
class Welcome:
    """The arbiter takes the link. ``network_uuid``: the network that both are in from now on."""

    network_uuid: bytes

    def encode(self) -> bytes:
        """The body of a WELCOME frame."""
        return pack([self.network_uuid])

    @classmethod
    def decode(cls, body: bytes | memoryview) -> Welcome:
        """The Welcome in the body of a WELCOME frame."""
        (uuid,) = expect_list("Welcome", unpack("Welcome", body), range(1, 2))
        return cls(expect_bytes("Welcome network_uuid", uuid, range(UUID_BYTES, UUID_BYTES + 1)))


@dataclass(frozen=True, slots=True)
class Close:
    """The last frame of a link: why it ends.

    ``code``: the code of an error class, DUPLICATE among them (another link between the two nodes
    stays), LEAVE: the node leaves the network for good, or IDLE: neither side needs the link.
    ``signature``: of a LEAVE, where the network is signed; it goes as a third value, if there is one.
    """

    code: int
    text: str = ""
    signature: bytes = b""

    LEAVE: ClassVar[int] = 0
    IDLE: ClassVar[int] = 2
    DUPLICATE: ClassVar[int] = DuplicateLink.code

    @classmethod
    def of(cls, error: NetworkError) -> Close:
        """The Close that tells ``error``."""
        return cls(error.code, str(error))

    @property
    def benign(self) -> bool:
        """Whether the link ends without anybody being wrong."""
        return self.code in (Close.LEAVE, Close.IDLE, Close.DUPLICATE)

    def error(self) -> NetworkError:
        """The error that the close tells, the same class as on the other side."""
        ends = self.code in (Close.LEAVE, Close.IDLE)
        return LinkLost(self.text) if ends else from_code(self.code, self.text)

    def encode(self) -> bytes:
        """The body of a CLOSE frame; a text over 512 characters is cut."""
        text = self.text
        if len(text) > CLOSE_TEXT_MAX:
            text = text[: CLOSE_TEXT_MAX - 3] + "..."
        said = [self.code, text.encode("utf-8", "replace").decode()]
        return pack([*said, self.signature] if self.signature else said)

    @classmethod
    def decode(cls, body: bytes | memoryview) -> Close:
        """The Close in the body of a CLOSE frame; control characters in its text come escaped."""
        code, text, *signed = expect_list("Close", unpack("Close", body), range(2, 4))
        expect_int("Close code", code, 0, 0xFFFF)
        if type(text) is not str or len(text) > CLOSE_TEXT_MAX:
            raise wrong("Close text", f"at most {CLOSE_TEXT_MAX} characters", text)
        signature = expect_signature("Close signature", signed[0]) if signed else b""
        return cls(code, text if text.isprintable() else describe(text, CLOSE_TEXT_MAX), signature)


# -- two Hellos


@dataclass(frozen=True, slots=True)
class Agreed:
    """What holds on a link, from both Hellos.

    ``credit_bytes``: what this side may send before the first CREDIT. ``arbiter``: whether this
    side is the one that sends WELCOME or CLOSE.
    """

    node_id: str
    incarnation: int
    arbiter: bool
    protocol: int
    features: int
    network_uuid: bytes
    checksum: int
    frame_bytes_max: int
    message_bytes_max: int
    credit_bytes: int

    def check(self, welcome: Welcome) -> None:
        """HandshakeRefused if the arbiter welcomes into another network than the Hellos agreed on."""
        if welcome.network_uuid != self.network_uuid:
            raise HandshakeRefused(
                f"node {self.node_id!r} welcomes into network uuid {welcome.network_uuid.hex()}, "
                f"expected {self.network_uuid.hex()}"
            )


def is_self(local: Hello, remote: Hello) -> bool:
    """Whether the node has dialled one of its own addresses; the driver asks this before `judge`."""
    return (local.node_id, local.incarnation) == (remote.node_id, remote.incarnation)


def judge(local: Hello, remote: Hello, certified_node: str | None = None) -> Agreed:
    """What two Hellos agree on, or HandshakeRefused.

    ``local.network_uuid`` is the one that the node has now, which a Hello sent while joining did
    not hold yet. ``certified_node``: the node id in the peer's certificate, None without TLS.
    """
    ours, theirs = f"node {local.node_id!r}", f"node {remote.node_id!r}"
    local_range = (local.protocol_min, local.protocol_max)
    remote_range = (remote.protocol_min, remote.protocol_max)
    protocol = _common_protocol(local_range, remote_range)
    if protocol is None:
        raise _no_common_protocol(theirs, remote_range, ours, local_range)
    if certified_node is not None and certified_node != remote.node_id:
        raise HandshakeRefused(
            f"the certificate is for node {certified_node!r}, its Hello says {theirs}: "
            "give the node the certificate that was issued for its id"
        )
    network_uuid = _common_network(local, remote)
    if remote.node_id == local.node_id:
        raise HandshakeRefused(
            f"node id {local.node_id!r} is used by two nodes, incarnations {local.incarnation} and "
            f"{remote.incarnation}: {TWICE_HINT}"
        )
    _check_features(theirs, remote, ours, local)
    _check_features(ours, local, theirs, remote)
    return Agreed(
        node_id=remote.node_id,
        incarnation=remote.incarnation,
        arbiter=local.node_id > remote.node_id,
        protocol=protocol,
        features=local.features & remote.features,
        network_uuid=network_uuid,
        # Either side may ask for it: nobody has a reason to refuse a checksum.
        checksum=max(local.checksum, remote.checksum),
        frame_bytes_max=min(local.frame_bytes_max, remote.frame_bytes_max),
        message_bytes_max=min(local.message_bytes_max, remote.message_bytes_max),
        credit_bytes=remote.credit_bytes,
    )


def _common_protocol(one: tuple[int, int], other: tuple[int, int]) -> int | None:
    highest = min(one[1], other[1])
    return highest if highest >= max(one[0], other[0]) else None


def _no_common_protocol(
    one: str, one_range: tuple[int, int], other: str, other_range: tuple[int, int]
) -> HandshakeRefused:
    return HandshakeRefused(
        f"no common protocol version: {one} speaks {one_range[0]} to {one_range[1]}, {other} "
        f"{other_range[0]} to {other_range[1]}: bring the older one to a newer release of agentnet"
    )


def _common_network(local: Hello, remote: Hello) -> bytes:
    if local.network != remote.network:
        raise HandshakeRefused(
            f"node {remote.node_id!r} is in network {remote.network!r}, node {local.node_id!r} in "
            f"network {local.network!r}: no link crosses networks; check the network setting and the address"
        )
    if local.network_uuid and remote.network_uuid and local.network_uuid != remote.network_uuid:
        raise HandshakeRefused(
            f"two networks are named {local.network!r}: node {remote.node_id!r} is in uuid "
            f"{remote.network_uuid.hex()}, node {local.node_id!r} in {local.network_uuid.hex()}: "
            "found the network on one node only, let all others join it"
        )
    if not local.network_uuid and not remote.network_uuid:
        raise HandshakeRefused(
            f"nodes {remote.node_id!r} and {local.node_id!r} are both still joining network "
            f"{local.network!r}: one node must found it by joining with no bootstrap nodes"
        )
    return local.network_uuid or remote.network_uuid


def _check_features(asker: str, asking: Hello, asked: str, asked_hello: Hello) -> None:
    missing = asking.features_required & ~asked_hello.features
    if missing & FEATURE_SIGNED:
        raise HandshakeRefused(
            f"{asker} signs what it says and takes only what is signed, {asked} does not sign: give that one "
            "certificate, private_key and ca, and tls:// addresses alone to listen on"
        )
    if missing:
        bits = [bit for bit in range(64) if missing >> bit & 1]
        raise HandshakeRefused(
            f"{asker} requires features {bits} that {asked} does not know: "
            "run the same release of agentnet on both nodes"
        )


# -- two links


class Ruling(Enum):
    """What becomes of a new link; the table at the head of this file."""

    WELCOME = "welcome"
    REPLACE = "replace"
    DUPLICATE = "duplicate"
    REFUSE = "refuse"
    PROBE = "probe"
    SUPERSEDE = "supersede"


@dataclass(frozen=True, slots=True)
class LinkView:
    """What `arbitrate` needs to know of a link to some node."""

    dialled_by_me: bool
    incarnation: int
    welcomed: bool = False
    relayed: bool = False
    opened_ns: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """``close``: what to send on the link that is to be closed; for REPLACE that is the old link,
    for PROBE the new one if the old one answers, for WELCOME and SUPERSEDE there is none."""

    ruling: Ruling
    close: Close | None = None


def arbitrate(node_id: str, old: LinkView | None, new: LinkView, *, arbiter: bool) -> Verdict:
    """What becomes of ``new``, a link to ``node_id``, beside ``old``, the welcomed one if any."""
    if old is None or not old.welcomed:
        return Verdict(Ruling.WELCOME)
    if new.incarnation > old.incarnation:
        taken = HandshakeRefused(
            f"node id {node_id!r} is taken by a living node (incarnation {old.incarnation}, the newcomer "
            f"has {new.incarnation}): {TWICE_HINT}"
        )
        return Verdict(Ruling.PROBE, Close.of(taken))
    if new.incarnation < old.incarnation:
        dead = HandshakeRefused(
            f"incarnation {new.incarnation} of node {node_id!r} is dead, it runs as {old.incarnation} now: "
            "restart the node, or give it an id of its own"
        )
        return Verdict(Ruling.REFUSE, Close.of(dead))
    late = not (arbiter or old.relayed) and new.relayed and old.opened_ns > new.opened_ns
    if late or (old.relayed and not new.relayed):
        return Verdict(Ruling.SUPERSEDE)
    dialled_by_peer = old.relayed == new.relayed and not old.dialled_by_me and not new.dialled_by_me
    if not arbiter or dialled_by_peer:
        return Verdict(Ruling.REPLACE, Close(Close.DUPLICATE, "duplicate link: a newer one replaces it"))
    return Verdict(Ruling.DUPLICATE, Close(Close.DUPLICATE, "duplicate link: the nodes are linked already"))
