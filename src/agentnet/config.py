"""The settings of one node: every limit of the engine, and where it listens, who it is, what it keeps.

In: keyword arguments, a TOML file, ``AGENTNET_*`` variables.  Out: one frozen, checked value.
Whatever is wrong is a ConfigError, here and at once, that says what to type instead.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

from agentnet_core.config import EngineConfig, check_count
from agentnet_core.errors import ConfigError
from agentnet_core.records import describe

SCHEMES: dict[str, bool] = {"tcp": False, "tls": True}
"""Every known scheme, and whether what it carries is encrypted and its peers are authenticated."""

PREFIX = "AGENTNET_"
OTHER_VARIABLES = ("AGENTNET_CONFIG",)
"""Variables with our prefix that are no setting. AGENTNET_CONFIG: path of the TOML file."""

# A Kubernetes service whose name begins with "agentnet" puts variables of these forms into every pod.
_SERVICE_LINK = re.compile(
    r"(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)\Z"
)
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)\Z", re.DOTALL)
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_]([a-z0-9_-]{0,62}))*\.?\Z")
_PATHS = ("certificate", "private_key", "ca", "data_dir")
_EXAMPLE = "'tcp://127.0.0.1:7400' or 'tls://[::1]:7400'"
_BOOLEANS = dict.fromkeys(("1", "true", "yes", "on"), True) | dict.fromkeys(
    ("0", "false", "no", "off"), False
)


def is_loopback(host: str) -> bool:
    """Whether a literal IP address or ``localhost`` never leaves this machine; other names: False.

    >>> [is_loopback(host) for host in ("127.9.9.9", "::1", "localhost", "0.0.0.0", "db.local")]
    [True, True, True, False, False]
    """
    try:
        address = ip_address(host)
    except ValueError:
        return host.lower().rstrip(".") == "localhost"
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


@dataclass(frozen=True, slots=True)
class Address:
    """Where a node listens or is dialled, ``SCHEME://HOST:PORT``; an IPv6 host is written in brackets."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str, what: str = "address") -> Address:
        """The address that ``text`` says; ConfigError, which begins with ``what``, if it says none.

        >>> Address.parse("tcp://[::1]:7400")
        Address(scheme='tcp', host='::1', port=7400)
        >>> str(Address.parse("TLS://Example.org:1"))
        'tls://example.org:1'
        """
        found = _URL.match(text) if isinstance(text, str) else None
        said = f"{what} {describe(text)}"
        if found is None:
            raise ConfigError(f"{said}: expected SCHEME://HOST:PORT, for example {_EXAMPLE}")
        scheme = found[1].lower()
        if scheme not in SCHEMES:
            raise ConfigError(f"{said}: unknown scheme {scheme!r}, expected one of {', '.join(SCHEMES)}")
        host, port = _split(found[2], said)
        return cls(scheme, check_host(host, said), _check_port(port, said))

    @property
    def secure(self) -> bool:
        """Whether the scheme encrypts and authenticates."""
        return SCHEMES[self.scheme]

    def with_port(self, port: int) -> Address:
        return Address(self.scheme, self.host, port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def _split(rest: str, said: str) -> tuple[str, str]:
    """Host and port of what stands behind the scheme."""
    if any(mark in rest for mark in "/?#@"):
        raise ConfigError(f"{said}: expected only HOST:PORT after the scheme, for example {_EXAMPLE}")
    if rest.startswith("["):
        host, bracket, tail = rest[1:].partition("]")
        if not bracket or ":" not in host:
            raise ConfigError(f"{said}: brackets hold an IPv6 address, for example {_EXAMPLE}")
        if tail and not tail.startswith(":"):
            raise ConfigError(f"{said}: expected :PORT after the bracket, for example {_EXAMPLE}")
        return host, tail[1:]
    host, colon, port = rest.rpartition(":")
    if not colon:
        return rest, ""
    if ":" in host:
        raise ConfigError(f"{said}: an IPv6 address stands in brackets, for example {_EXAMPLE}")
    return host, port


def check_host(host: str, said: str) -> str:
    """``host`` in its plainest form; ConfigError, which begins with ``said``, if it can be no host."""
    try:
        return str(ip_address(host))
    except ValueError:
        pass
    if ":" in host or not _HOST_NAME.match(host.lower()):
        raise ConfigError(f"{said}: {describe(host)} is neither an IP address nor a host name")
    return host.lower()


def _check_port(port: str, said: str) -> int:
    if not port:
        raise ConfigError(f"{said}: the port is missing, for example {_EXAMPLE}")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise ConfigError(f"{said}: port {describe(port)}, expected 0 to 65535")
    return int(port)


def refuse_plaintext(address: Address, what: str = "address") -> ConfigError:
    """The error for a plaintext address beyond loopback; it says what to type."""
    return ConfigError(
        f"{what} '{address}' is plaintext beyond loopback: anyone on the way can read and forge it. "
        f"Use 'tls://{str(address).partition('://')[2]}' with certificate, private_key and ca, "
        f"or allow it by name with plaintext=True"
    )


def missing_certificates(what: str) -> ConfigError:
    """The error for a tls:// address without certificates; it says what to type."""
    return ConfigError(
        f"{what} needs certificate, private_key and ca (paths of PEM files): make them with "
        f"`agentnet certs init` and `agentnet certs issue`"
    )


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(EngineConfig):
    """Settings of one node; the limits of the engine are inherited."""

    # -- addresses
    listen: Sequence[str] = ("tcp://127.0.0.1:0",)
    """Where to listen, as URLs; port 0 picks a free one. A list, a tuple or one string with commas;
    kept as a tuple. Empty: this node only dials."""
    advertise: Sequence[str] = ()
    """Where others reach this node, if not at ``listen`` (behind NAT, or when listening on 0.0.0.0)."""
    plaintext: bool = False
    """True lets tcp:// go beyond loopback, unencrypted and unauthenticated."""

    # -- identity
    certificate: str | None = None
    """Path of this node's certificate (PEM, its chain may follow)."""
    private_key: str | None = None
    """Path of its private key (PEM, not encrypted, readable by its owner only)."""
    ca: str | None = None
    """Path of the certificates (PEM) that sign the nodes of this network; all three, or none."""

    # -- liveness
    liveness_ports: bool = True
    """Whether a UDP and a TCP port beside the first of ``listen`` answer for this node while its event loop
    cannot. Without them others cannot tell whether it is busy or dead."""
    liveness_at: int = 0
    """Number of both; 0 picks free ones."""

    # -- health of agents
    health_interval_ms: int = 5_000
    """How often an agent's health function is asked."""
    health_ms_max: int = 2_000
    """One that has not answered by then: the agent is not well, and that is why."""

    # -- disk, threads, events
    data_dir: str | None = None
    """Where this node keeps what must outlive it (its incarnation); None: nothing is kept."""
    handler_threads: int = 8
    """Threads for handlers that are a plain ``def``; more calls wait."""
    events_max: int = 1_024
    """Events that wait for one reader of ``events()``; beyond it the oldest go, and one tells how many."""

    def __post_init__(self) -> None:
        if not isinstance(self.network, str):
            raise ConfigError(f"network={describe(self.network)}: expected a string")
        super().__post_init__()
        self._check_counts()
        if type(self.plaintext) is not bool:
            raise ConfigError(f"plaintext={describe(self.plaintext)}: expected True or False")
        for name in _PATHS:
            object.__setattr__(self, name, _as_path(name, getattr(self, name)))
        for name in ("listen", "advertise"):
            object.__setattr__(self, name, _as_tuple(name, getattr(self, name)))
        self._check_certificates()
        for name in ("listen", "advertise"):
            self._check_addresses(name)

    @property
    def listen_addresses(self) -> tuple[Address, ...]:
        """``listen``, parsed."""
        return tuple(Address.parse(text, "listen") for text in self.listen)

    @property
    def advertise_addresses(self) -> tuple[Address, ...]:
        """``advertise``, parsed."""
        return tuple(Address.parse(text, "advertise") for text in self.advertise)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str] | None = None, environ: Mapping[str, str] | None = None
    ) -> NetworkConfig:
        """Settings from a TOML file (table ``[agentnet]``, or its top level), then ``AGENTNET_*`` variables.

        ``path`` None: the file that AGENTNET_CONFIG names, or none. A relative path of a certificate,
        key or directory in the file is meant from the file's own directory. ``environ`` None:
        ``os.environ``. Lists are written with commas in a variable. ConfigError for an unknown key,
        a wrong type, an unreadable file.
        """
        environ = os.environ if environ is None else environ
        path = path or environ.get("AGENTNET_CONFIG") or None
        values = {} if path is None else _read_file(cls, Path(path))
        values.update(_read_environ(cls, environ))
        return cls(**values)

    def _check_counts(self) -> None:
        for name in ("handler_threads", "events_max", "health_interval_ms", "health_ms_max"):
            check_count(name, getattr(self, name))
        if type(self.liveness_at) is not int or not 0 <= self.liveness_at <= 65535:
            raise ConfigError(f"liveness_at={describe(self.liveness_at)}: expected 0 to 65535")

    def _check_certificates(self) -> None:
        given = [name for name in ("certificate", "private_key", "ca") if getattr(self, name) is not None]
        if given and len(given) < 3:
            missing = [name for name in ("certificate", "private_key", "ca") if name not in given]
            raise ConfigError(
                f"{' and '.join(given)} given without {' and '.join(missing)}: all three are needed, or none"
            )

    def _check_addresses(self, name: str) -> None:
        for text in getattr(self, name):
            address = Address.parse(text, name)
            if address.secure and self.certificate is None:
                raise missing_certificates(f"{name} '{address}'")
            if name == "advertise" and address.port == 0:
                raise ConfigError(f"advertise '{address}': expected the port at which others reach this node")
            if not address.secure and not self.plaintext and _surely_beyond_loopback(address.host):
                raise refuse_plaintext(address, name)


def _surely_beyond_loopback(host: str) -> bool:
    """A host name is not: it is looked up when it is used, and judged then."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return not is_loopback(host)


def _as_path(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        raise ConfigError(f"{name}={describe(value)}: expected a path")
    return str(os.fspath(value))


def _as_tuple(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"{name}={describe(value)}: expected a list of addresses, such as {_EXAMPLE}")
    return tuple(value)


def _unknown(said: str, key: str, known: Sequence[str]) -> ConfigError:
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
    return ConfigError(f"{said}: unknown setting; the nearest that exists is {nearest}")


def _read_file(cls: type[NetworkConfig], path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {path} cannot be read: {error}") from error
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"config file {path} is not TOML: {error}") from error
    table = document.get("agentnet", document)
    if not isinstance(table, dict):
        raise ConfigError(f"config file {path}: expected [agentnet] to be a table")
    known = [field.name for field in fields(cls)]
    for key in table:
        if key not in known:
            raise _unknown(f"config file {path}: {describe(key)}", key, known)
    for name in _PATHS:
        if isinstance(table.get(name), str) and table[name]:
            table[name] = str(path.parent / Path(table[name]).expanduser())
    return dict(table)


def _read_environ(cls: type[NetworkConfig], environ: Mapping[str, str]) -> dict[str, Any]:
    kinds = {field.name: str(field.type) for field in fields(cls)}
    values: dict[str, Any] = {}
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable in OTHER_VARIABLES:
            continue
        name = variable[len(PREFIX) :].lower()
        if name in kinds:
            values[name] = _from_text(kinds[name], environ[variable], variable)
        elif not _SERVICE_LINK.match(variable[len(PREFIX) :]):
            known = [PREFIX + kind.upper() for kind in kinds]
            raise _unknown(f"environment variable {describe(variable)}", variable, known)
    return values


def _from_text(kind: str, text: str, variable: str) -> Any:
    text = text.strip()
    if kind == "int":
        try:
            return int(text)
        except ValueError:
            raise ConfigError(f"{variable}={describe(text)}: expected an integer") from None
    if kind == "bool":
        if text.lower() not in _BOOLEANS:
            raise ConfigError(f"{variable}={describe(text)}: expected true or false")
        return _BOOLEANS[text.lower()]
    if kind == "str | None":
        return text or None
    return text
