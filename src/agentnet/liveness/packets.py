"""A probe and its answer, as the side that asks writes and reads them.

A probe is PACKET_BYTES long, its end is filled with zeros: an answer is never longer than what it
answers, so that nobody can have a third party flooded with answers, not even by repeating a probe.

    probe    "anp1"  salt 16  nonce 16  seal 16  zeros
    answer   "ana1"  nonce 16  count 8  veiled  seal 16
    veiled   incarnation u64  lag u64 (ns)  state u8  stack (UTF-8)

Each link has a key of its own, which its Hello carried with the salt: BLAKE2s of the salt under a
secret that never leaves the node that answers, so that this node keeps nothing for a link, and no
peer can answer in its place.  All else is keyed BLAKE2s too, told apart by a first byte: the seals,
and the veil, a stream that hides what a node does from who reads the wire; ``count`` makes each
veil another.  BLAKE2s since it is a keyed hash by itself, short enough to be written a second time
for the thread that answers (`agentnet.liveness.sealing`), and Python's own serves here: two
independent forms that must agree.  Whatever is not sealed is passed over in silence.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import blake2s
from hmac import compare_digest

PACKET_BYTES = 1200
"""Passes every IPv6 path whole."""
SALT_BYTES = NONCE_BYTES = SEAL_BYTES = 16
KEY_BYTES = SECRET_BYTES = 32
STACK_BYTES_MAX = 1024

PROBE, ANSWER = b"anp1", b"ana1"
FOR_KEY, FOR_PROBE, FOR_ANSWER, FOR_VEIL = b"\x00", b"\x01", b"\x02", b"\x03"
HEAD = struct.Struct(">QQB")
ANSWER_BYTES_MIN = len(ANSWER) + NONCE_BYTES + 8 + HEAD.size + SEAL_BYTES

FREE, STACK, ASKED, LOCKED, STILL = range(5)
"""Of the loop: it turns; it stands, here is where; nobody has looked yet; the interpreter lock could not be
had to look; the whole process stood."""

LOCKED_TEXT = "no stack could be taken: C code holds the interpreter lock, and does not let it go"


@dataclass(frozen=True, slots=True)
class Answer:
    """``lag_ns``: since the loop was last known to turn. ``stack``: where it stands, or why that is
    not known; empty while it turns, or if nobody has looked yet."""

    incarnation: int
    lag_ns: int
    stack: str


def make_ticket(secret: bytes, salt: bytes) -> bytes:
    """What the Hello of one link carries as its key: the salt, and the key that belongs to it."""
    return salt + blake2s(FOR_KEY + salt, key=secret, digest_size=KEY_BYTES).digest()


def is_ticket(ticket: bytes) -> bool:
    """Whether it can be one; a peer may have sent anything."""
    return len(ticket) == SALT_BYTES + KEY_BYTES


def make_probe(ticket: bytes, nonce: bytes) -> bytes:
    """The probe that asks the node which gave the ticket."""
    salt, key = ticket[:SALT_BYTES], ticket[SALT_BYTES:]
    head = PROBE + salt + nonce
    seal = blake2s(FOR_PROBE + head, key=key, digest_size=SEAL_BYTES).digest()
    return (head + seal).ljust(PACKET_BYTES, b"\0")


def nonce_of(data: bytes) -> bytes:
    """Which probe it claims to answer; empty if it is no answer."""
    if not ANSWER_BYTES_MIN <= len(data) <= PACKET_BYTES or not data.startswith(ANSWER):
        return b""
    return data[len(ANSWER) : len(ANSWER) + NONCE_BYTES]


def read_answer(ticket: bytes, data: bytes) -> Answer | None:
    """What the answer says; None if whoever sealed it does not have the key."""
    key, body, seal = ticket[SALT_BYTES:], data[:-SEAL_BYTES], data[-SEAL_BYTES:]
    if not nonce_of(data) or not compare_digest(
        blake2s(FOR_ANSWER + body, key=key, digest_size=SEAL_BYTES).digest(), seal
    ):
        return None
    at = len(ANSWER) + NONCE_BYTES
    plain = _unveil(key, body[at : at + 8], body[at + 8 :])
    incarnation, lag_ns, state = HEAD.unpack_from(plain)
    stack = plain[HEAD.size :].decode("utf-8", "replace") if state == STACK else ""
    return Answer(incarnation, lag_ns, LOCKED_TEXT if state == LOCKED else stack)


def _unveil(key: bytes, count: bytes, veiled: bytes) -> bytes:
    blocks = [
        blake2s(FOR_VEIL + count + struct.pack(">I", number), key=key).digest()
        for number in range(-(-len(veiled) // 32))
    ]
    stream = b"".join(blocks)[: len(veiled)]
    return (int.from_bytes(veiled) ^ int.from_bytes(stream)).to_bytes(len(veiled))
