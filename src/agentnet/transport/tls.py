"""tls://HOST:PORT: TLS 1.3 both ways, and the peer's node id is the one in its certificate.

Both sides show a certificate that the network's authority signed.  Host names are not compared:
a node is who its certificate's URI says (``agentnet://NETWORK/NODE``), wherever it runs.
Connections are TLS from their first byte, never upgraded: an upgrade loses what arrives
together with the last plaintext byte, on asyncio and on uvloop.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from contextvars import ContextVar
from typing import ClassVar, TypeVar

from agentnet import certs
from agentnet.config import Address, NetworkConfig, missing_certificates
from agentnet.transport.base import Listener, OnRefused, P
from agentnet.transport.sockets import Opening, SocketListener, bind, connect, finish, show_peer, why
from agentnet_core.errors import ConfigError, HandshakeRefused, NetworkError, OutageError

ALPN = "agentnet/1"
SHUTDOWN_S = 1.0
"""How long ``close()`` waits for the peer to take what is left and to close in turn."""

NOT_TLS = bytes.fromhex("15030300020246")
"""The alert "protocol version", which OpenSSL does not send to a peer that does not speak TLS."""

# What OpenSSL calls it -> what it means, said of the peer.
REASONS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it shows no certificate",
    "UNSUPPORTED_PROTOCOL": "it does not offer TLS 1.3",
    "NO_PROTOCOLS_AVAILABLE": "it does not offer TLS 1.3",
    "WRONG_VERSION_NUMBER": "it does not speak TLS here; tcp:// on one side and tls:// on the other?",
    "HTTP_REQUEST": "it speaks HTTP",
    "HTTPS_PROXY_REQUEST": "it speaks HTTP",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it does not accept TLS 1.3",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it demands a certificate and got none",
    "TLSV1_ALERT_UNKNOWN_CA": "it refuses our certificate: signed by an authority that it does not know",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it refuses our certificate: expired",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "it refuses our certificate: revoked",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it refuses our certificate: bad, or not valid yet",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "it refuses our certificate: not made for this use",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it refuses our certificate",
    "TLSV1_ALERT_ACCESS_DENIED": "it refuses our certificate",
}

_beginning: ContextVar[list[tuple[Opening, int]]] = ContextVar("beginning")
"""Whose handshake begins in this context, and how many bytes it may bring; taken once, because
whatever task is started later from the connection inherits its context."""


class _Handshake(ssl.SSLObject):
    """Adds to the handshake what event loops leave out: a limit, and the alert that says why it failed.

    asyncio and uvloop drop the alert that OpenSSL has written for the peer when a handshake
    fails, so the peer would only see the connection close.
    """

    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    opening: Opening
    bytes_left: int

    def do_handshake(self) -> None:
        waiting = self.incoming.pending
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            self._count(waiting - self.incoming.pending)
            raise
        except ssl.SSLError as error:
            self._send_alert(error)
            raise
        self._count(waiting - self.incoming.pending)
        self.opening.made = True

    def _count(self, taken: int) -> None:
        self.bytes_left -= taken
        if self.bytes_left < 0:
            raise ssl.SSLError("the handshake is over handshake_bytes_max")

    def _send_alert(self, error: ssl.SSLError) -> None:
        alert = self.outgoing.read()
        if not alert and error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
            alert = NOT_TLS
        # Past the transport, for its buffer is empty: the peer has answered all that was sent. And
        # a courtesy: what this side knows does not depend on it.
        if alert:
            with contextlib.suppress(OSError):
                self.opening.sock.send(alert)


class _Context(ssl.SSLContext):
    sslobject_class = _Handshake

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> _Handshake:
        # The loop takes both sides for servers, for both enter by connect_accepted_socket; the
        # context knows better. There is no host name to compare, and no session to resume.
        made = super().wrap_bio(incoming, outgoing, self.protocol is ssl.PROTOCOL_TLS_SERVER)
        assert isinstance(made, _Handshake)
        made.incoming, made.outgoing = incoming, outgoing
        made.opening, made.bytes_left = _beginning.get().pop()
        return made


C = TypeVar("C", bound=ssl.SSLContext)


class TlsTransport:
    """TLS 1.3 over TCP, certificates required on both sides."""

    scheme: ClassVar[str] = "tls"
    secure: ClassVar[bool] = True

    def __init__(self, config: NetworkConfig) -> None:
        if config.certificate is None or config.private_key is None or config.ca is None:
            raise missing_certificates("tls://")
        self._config = config
        self._own = certs.read_identity(config.certificate)
        self._handshake_s = config.handshake_ms_max / 1000
        self._files = files = config.certificate, config.private_key, config.ca
        self._inside: dict[bool, ssl.SSLContext] = {}
        self._server = _make_context(_Context(ssl.PROTOCOL_TLS_SERVER), *files)
        # A resumed session would skip the look at the certificate; and tickets are bytes that a
        # dialler finds unread when it closes at once, which resets the connection.
        self._server.num_tickets = 0
        self._client = _make_context(_Context(ssl.PROTOCOL_TLS_CLIENT), *files)

    def check_own(self, node_id: str) -> None:
        expected = certs.identity_uri(self._config.network, node_id)
        found = certs.identity_uri(*self._own)
        if found != expected:
            raise ConfigError(
                f"certificate {self._config.certificate} is that of {found}, this node is {expected}: "
                f"issue one with `agentnet certs issue`"
            )

    async def listen(
        self,
        address: Address,
        protocol_factory: Callable[[], asyncio.BufferedProtocol],
        on_refused: OnRefused,
    ) -> Listener:
        sock = await bind(address, self._config)
        return SocketListener(sock, address, self._config, protocol_factory, self._accept, on_refused)

    async def dial(self, address: Address, protocol_factory: Callable[[], P]) -> tuple[asyncio.Transport, P]:
        protocol = protocol_factory()
        opening = await connect(address, self._config)
        try:
            return await finish(self._make(opening, protocol, self._client), opening), protocol
        except OSError as error:
            raise _explain(error, f"dial {address}: ") from error

    def inside_tunnel(self, *, server: bool) -> ssl.SSLContext:
        """The same TLS for a connection that has no socket."""
        if server not in self._inside:
            role = ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT
            self._inside[server] = _make_context(ssl.SSLContext(role), *self._files)
            if server:
                self._inside[server].num_tickets = 0
        return self._inside[server]

    async def _accept(self, opening: Opening, protocol: asyncio.BufferedProtocol) -> None:
        try:
            await self._make(opening, protocol, self._server)
        except OSError as error:
            raise _explain(error) from error

    async def _make(
        self, opening: Opening, protocol: asyncio.BufferedProtocol, context: _Context
    ) -> asyncio.Transport:
        _beginning.set([(opening, self._config.handshake_bytes_max)])  # in this task's own context
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
            lambda: protocol,
            opening.sock,
            ssl=context,
            ssl_handshake_timeout=self._handshake_s,
            ssl_shutdown_timeout=SHUTDOWN_S,
        )
        # A peer that vanishes in the middle can end the wait without an error.
        if transport.get_extra_info("ssl_object") is None:
            raise ConnectionResetError
        return transport

    def peer_identity(self, transport: asyncio.Transport) -> str | None:
        peer = show_peer(transport.get_extra_info("peername"))
        peer = peer or transport.get_extra_info("tunnel").address
        tls: ssl.SSLObject = transport.get_extra_info("ssl_object")
        spoken = tls.selected_alpn_protocol()
        if spoken != ALPN:
            raise HandshakeRefused(
                f"{peer} speaks {spoken or 'no named protocol'} in TLS, expected ALPN {ALPN}"
            )
        der = tls.getpeercert(binary_form=True)
        if der is None:
            raise HandshakeRefused(f"{peer} shows no certificate")
        try:
            network, node_id = certs.peer_identity(der)
        except HandshakeRefused as error:
            raise HandshakeRefused(f"{peer}: {error}") from error
        if network != self._config.network:
            found = certs.identity_uri(network, node_id)
            raise HandshakeRefused(f"{peer} is {found}, expected network {self._config.network!r}")
        return node_id

    def refusal(self, error: BaseException | None, peer: str) -> NetworkError:
        if isinstance(error, ssl.SSLError):
            return _explain(error, f"{peer}: ")
        reason = why(error) if error is not None else "closed by the peer"
        return OutageError(f"{peer}: the connection was lost before it was welcomed: {reason}")


def _make_context(context: C, certificate: str, private_key: str, ca: str) -> C:
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    # As in Python's own default context since 3.13: no malformed certificates; and an
    # intermediate authority in `ca` is enough, its root need not be known.
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT | ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    context.set_ciphers("DEFAULT:@SECLEVEL=2")  # refuses certificates with RSA below 2048 bits or SHA-1
    context.set_alpn_protocols([ALPN])
    try:
        context.load_cert_chain(certificate, private_key, password=_refuse_password)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"certificate {certificate} with private_key {private_key} cannot be used: {_why_not(error)}"
        ) from error
    try:
        context.load_verify_locations(ca)
    except (OSError, ValueError) as error:
        raise ConfigError(f"ca {ca} cannot be used: {_why_not(error)}") from error
    return context


def _refuse_password() -> str:
    # Without this, OpenSSL would ask at the terminal.
    raise ConfigError(
        "private_key is encrypted: give one that is not, readable by its owner only (mode 0600)"
    )


def _why_not(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "it is no PEM file").replace("_", " ").lower()
    return why(error)


def _explain(error: OSError, prefix: str = "") -> NetworkError:
    """The error of our tree for a handshake that failed with ``error``."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return HandshakeRefused(f"{prefix}its certificate is refused: {error.verify_message}")
    if isinstance(error, ssl.SSLError):
        reason = getattr(error, "reason", None) or ""  # only OpenSSL's own have one
        return HandshakeRefused(prefix + REASONS.get(reason, f"TLS failed: {reason or why(error)}"))
    if isinstance(error, ConnectionAbortedError) and error.errno is None:  # the loop's own
        return OutageError(f"{prefix}the TLS handshake was not done in time")
    return OutageError(f"{prefix}closed during the TLS handshake; is the other side tls:// too?")
