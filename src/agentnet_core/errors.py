"""The one error tree of both packages.

Two questions are answered by every error: whose fault it is (the caller's, the peer's, the
environment's, ours: the four branches) and whether the thing surely did not happen
(``definite``).  A refusal is knowledge, so it is definite; a timeout or a lost link is an
unknown outcome, so it is not, and a blind retry may do the work twice.  The class says which, but
where the same thing is found out later, of an answer that is wrong, the error itself says so.

``code`` is stable across releases and is the number that crosses the wire and the C ABI.
"""

from __future__ import annotations

from typing import ClassVar

DELAY_S_MAX = 86_400
"""How long a handler may put a message off."""


class NetworkError(Exception):
    """Base of all errors that agentnet raises.

    ``code``: stable number of the class. ``definite``: True when the thing that was asked for
    surely did not happen, False when it may have happened; the class's own, unless it is given.
    """

    code: ClassVar[int] = 1
    definite: bool = True

    def __init__(self, *args: object, definite: bool | None = None) -> None:
        super().__init__(*args)
        if definite is not None:
            self.definite = definite


class UsageError(NetworkError):
    """The caller asked for something that cannot be had; asking again will not help."""

    code = 100


class ConfigError(UsageError):
    """A setting is missing, unknown, of the wrong type or out of range."""

    code = 101


class NoSuchAgent(UsageError):
    """Nobody is registered under that id or name, or is in that group, as far as this node's directory
    knows."""

    code = 102


class AgentExists(UsageError):
    """The id or the name belongs to another agent; not definite if others of the registration stay."""

    code = 103


class MessageTooLarge(UsageError):
    """The message is over ``message_bytes_max``; not definite if it is an answer: its handler has run."""

    code = 104


class NotRunning(UsageError):
    """The manager has not joined a network, or has left it."""

    code = 105


class PayloadMismatch(UsageError):
    """A payload cannot be encoded, or is not of the type that the handler or caller declared.

    Not definite if it is an answer: its handler has run.
    """

    code = 106


class LimitReached(UsageError):
    """A count or a size would pass a limit of the config; the message names which."""

    code = 107


class StorageLocked(ConfigError):
    """Another process uses the directory; the message names its pid."""

    code = 108


class StateConflict(UsageError):
    """The state is used in two ways that do not go together: another type, or another rule for conflicts."""

    code = 120


class CallCycle(UsageError):
    """An agent asked, through others, itself, and would wait for ever; the message tells the path. It was not
    executed. An agent that is registered as reentrant takes such calls."""

    code = 109


class PeerError(NetworkError):
    """The other side did or said something wrong."""

    code = 200


class ProtocolError(PeerError):
    """The peer's bytes break the wire's law; the message says what and where."""

    code = 201


class HandshakeRefused(PeerError):
    """One side would not link: version, network, identity, certificate or plaintext."""

    code = 202


class HandlerFailed(PeerError):
    """The agent's handler raised; it may have done part of its work."""

    code = 203
    definite = False


class NotOwner(PeerError):
    """What came speaks for an agent or an actor of another node, so it was not executed, or not taken."""

    code = 204


class Forged(PeerError):
    """A node told in another's name what that did not sign; it was not taken."""

    code = 205


class Contradiction(PeerError):
    """One event of one actor came with two contents, or is one that this node never made: two processes use
    one actor's name, or somebody lies. Nothing of it was taken. ``actor``: whose event it is said to be."""

    code = 206

    def __init__(self, *args: object, actor: str = "", definite: bool | None = None) -> None:
        super().__init__(*args, definite=definite)
        self.actor = actor


class FromFuture(PeerError):
    """A stamp lies further ahead of this node's clock than ``state_skew_ms_max``; nothing of it was taken."""

    code = 207


class OutageError(NetworkError):
    """The environment failed: a link, a node, a clock that ran out."""

    code = 300


class LinkLost(OutageError):
    """The link to the agent's node went down after the message had been handed to it."""

    code = 301
    definite = False


class RequestTimeout(OutageError, TimeoutError):
    """No answer in time; the request may have been carried out."""

    code = 302
    definite = False


class Expired(OutageError):
    """The message's ttl ran out before a handler saw it; it was not executed."""

    code = 303


class Congested(OutageError):
    """The receiving agent or the link to it took nothing for too long; it was not sent."""

    code = 304


class AgentUnreachable(OutageError):
    """The agent is registered, but its node could not be reached, or is in maintenance; it was not sent, or
    not executed."""

    code = 305


class JoinFailed(OutageError):
    """No node of the network let this one in before the deadline."""

    code = 306


class Unconfirmed(OutageError):
    """The agents are registered, but some nodes did not confirm in time, or have no room for them.

    The message names the nodes.
    """

    code = 307
    definite = False


class AgentStopped(OutageError):
    """The agent was unregistered, or its node left, before a handler saw the message."""

    code = 308


class DuplicateLink(OutageError):
    """Another link between the two nodes stays; nothing is wrong."""

    code = 309


class HandlerStuck(OutageError):
    """The agent was unregistered, or the request given up, but the handler did not end when it was cancelled:
    it may be at work."""

    code = 310
    definite = False


class StorageFull(OutageError):
    """The disk, or the log's share of it, is full; nothing of it was kept. It can be tried again."""

    code = 311


class StorageBusy(OutageError):
    """As much as may waits to be written to the disk already; it was not taken."""

    code = 312


class StorageFailed(OutageError):
    """The disk failed; what was waiting may be kept or not. Nothing is written until the next start."""

    code = 313
    definite = False


class StorageDamaged(OutageError):
    """What is on the disk is not what was written there; nothing is read of it, and nothing is changed."""

    code = 314


class StatesDiverged(ProtocolError):
    """Two networks pruned actors that are gone each for itself: their nodes exchange no states. Start the
    nodes of one of them without their data directories."""

    code = 315


class StatesPruned(OutageError):
    """This node was taken for gone, and its actor's name was pruned: it goes on under another."""

    code = 316


class DeliveryTimeout(OutageError, TimeoutError):
    """What was asked for was not reached in time: it may have been since, or not. Definite if it was never
    sent, or was refused each time. A DURABLE message is kept all the same, and is tried on."""

    code = 340
    definite = False


class DeadLettered(OutageError):
    """It was tried as often as it may be, or refused for good, and lies among the dead letters of its sender;
    not definite if its handler began it."""

    code = 341


class DeliveryUnsupported(OutageError):
    """The other node is of a release that makes no such promise; it was not sent."""

    code = 342


class DeliveryForgotten(OutageError):
    """The receiver had it and refused it, but does not know any more why."""

    code = 343
    definite = False


class ResultForgotten(OutageError):
    """The operation was processed before, and is not executed again, but its result was too large to be kept
    (``operation_result_bytes_max``, ``operations_bytes_max``)."""

    code = 344
    definite = False


class LeaseExpired(OutageError):
    """The handler's time for a message has run out, or it left it without a word: it was given back, and what
    that handler says of it counts no more. It may be at work."""

    code = 345
    definite = False


class Nack(PeerError):
    """The handler raised this: it did nothing of the message, which is to come again.

    ``delay``: seconds until then, None for the schedule of retries. What was sent with a promise comes again,
    ``delivery_attempts_max`` times in all; who asked with a request is told, and may ask again.
    """

    code = 346

    def __init__(self, *args: object, delay: float | None = None, definite: bool | None = None) -> None:
        super().__init__(*args, definite=definite)
        if delay is not None and not 0 <= delay <= DELAY_S_MAX:
            raise ConfigError(f"delay={delay!r}: expected None, or 0 to {DELAY_S_MAX} seconds")
        self.delay = delay


class TooFewReplicas(OutageError):
    """Fewer replicas than were wanted answered in time; the message names those that did and did not.

    A write is kept here and goes on to the others all the same; definite if it was not even made.
    """

    code = 330
    definite = False


class CausalGap(OutageError):
    """What a state depends on has not come in time; the message names what is missing."""

    code = 331


class RelayRefused(OutageError):
    """A node would not carry a tunnel, or not be its end: it does not relay, has as many as it may, or is not
    linked with the other end."""

    code = 350


class MailboxFull(OutageError):
    """The agent's mailbox was full, and it is one that drops what is too much; it was not executed."""

    code = 323


class StreamLost(OutageError):
    """A stream cannot go on: no link came in time, or the other side has forgotten it; the message names the
    part that is next."""

    code = 324
    definite = False


class Recalled(OutageError):
    """Who asked gave the request up; its handler was stopped in its midst, or, where it is definite, had not
    begun."""

    code = 325
    definite = False


class ChainSpent(OutageError):
    """Calls of handlers followed one another too often, or too many of them were open at a time: a loop or a
    storm. The message tells the path; the call was not made."""

    code = 326


class InternalError(NetworkError):
    """A defect of agentnet itself; please report it."""

    code = 400
    definite = False


def _by_code(root: type[NetworkError]) -> dict[int, type[NetworkError]]:
    found: dict[int, type[NetworkError]] = {root.code: root}
    for child in root.__subclasses__():
        for code, cls in _by_code(child).items():
            if code in found:
                raise InternalError(f"{cls.__name__} and {found[code].__name__} share code {code}")
            found[code] = cls
    return found


BY_CODE = _by_code(NetworkError)


def failure_of(error: BaseException, text: str) -> tuple[int, str, int]:
    """What is told of a handler that raised: code, text, milliseconds after which it wants the message again.

    That a disk takes nothing, or that a lease is over, is none of the handler's faults.
    """
    if isinstance(error, Nack):
        return Nack.code, text, 0 if error.delay is None else max(1, int(error.delay * 1000))
    if isinstance(error, (StorageFull, StorageBusy, StorageFailed, LeaseExpired)):
        return error.code, text, 0
    return HandlerFailed.code, text, 0


def from_code(code: int, text: str) -> NetworkError:
    """The error that a peer tells: of class ``code``, with ``text``; a PeerError if that is a newer code."""
    cls = BY_CODE.get(code)
    if cls is None:
        return PeerError(f"{text} (error code {code}, unknown to this version)", definite=False)
    if cls is MessageTooLarge:
        # What is sent is measured before it goes: a peer finds only its own answer too large.
        return cls(text, definite=False)
    return cls(text)
