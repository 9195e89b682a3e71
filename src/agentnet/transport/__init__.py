"""Transports: one file each, one contract (base.py), and the one table of them."""

from __future__ import annotations

from agentnet.config import NetworkConfig
from agentnet.transport.base import Listener, OnRefused, Transport
from agentnet.transport.tcp import TcpTransport, foreign_protocol
from agentnet.transport.tls import TlsTransport
from agentnet.transport.tunnel import TunnelTransport, is_tls
from agentnet_core.errors import ConfigError

TRANSPORTS: dict[str, type[Transport]] = {"tcp": TcpTransport, "tls": TlsTransport}
"""Scheme -> transport; ``agentnet.config.SCHEMES`` holds the same schemes."""


def open_transport(scheme: str, config: NetworkConfig) -> Transport:
    """The transport of ``scheme`` for one node: make it once and keep it.

    ConfigError if the scheme is unknown, or the config lacks what it needs.
    """
    if scheme not in TRANSPORTS:
        raise ConfigError(f"unknown scheme {scheme!r}, expected one of {', '.join(TRANSPORTS)}")
    return TRANSPORTS[scheme](config)


__all__ = [
    "TRANSPORTS",
    "Listener",
    "OnRefused",
    "TlsTransport",
    "Transport",
    "TunnelTransport",
    "foreign_protocol",
    "is_tls",
    "open_transport",
]
