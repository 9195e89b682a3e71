"""Hosts of their own for tests: network namespaces, each behind its own link of a router.

In: how many.  Out: where each is, commands that put a process there, and faults that no process can make:
a cable that is pulled, packets that vanish one way, a host that is gone with all its connections.  All
of it is gone at the end, and nothing outside of these namespaces is touched.  It needs root and ``ip``.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

NUMBERS = itertools.count()


def lacking() -> str:
    """Why there can be no hosts here; empty if there can."""
    if not hasattr(os, "geteuid") or shutil.which("ip") is None:
        return "there is no command ip"
    if os.geteuid() != 0:
        return "not root"
    name = f"agentnet-{os.getpid()}-try"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"ip netns add: {tried.stderr.strip()}"
    _ip("netns", "del", name)
    return ""


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Hosts:
    """``count`` hosts, from 1; `close` ends them."""

    def __init__(self, count: int) -> None:
        self._name = f"agentnet-{os.getpid()}-{next(NUMBERS)}"
        self._router = f"{self._name}-r"
        self._count = count
        _ip("netns", "add", self._router)
        _ip("-n", self._router, "link", "set", "lo", "up")
        self._enable_forwarding()
        for host in range(1, count + 1):
            self._add(host)

    def _enable_forwarding(self) -> None:
        setting = "echo 1 > /proc/sys/net/ipv4/ip_forward"
        subprocess.run(["ip", "netns", "exec", self._router, "sh", "-c", setting], check=True)

    def _add(self, host: int) -> None:
        name, port, card = self._of(host), f"r{host}", "eth0"
        _ip("netns", "add", name)
        _ip("-n", self._router, "link", "add", port, "type", "veth", "peer", "name", card, "netns", name)
        _ip("-n", self._router, "address", "add", f"10.77.{host}.1/24", "dev", port)
        _ip("-n", self._router, "link", "set", port, "up")
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", name, "address", "add", f"{self.ip(host)}/24", "dev", card)
        _ip("-n", name, "link", "set", card, "up")
        _ip("-n", name, "route", "add", "default", "via", f"10.77.{host}.1")

    def _of(self, host: int) -> str:
        return f"{self._name}-{host}"

    def ip(self, host: int) -> str:
        return f"10.77.{host}.2"

    def on(self, host: int) -> list[str]:
        """What goes before a command that is to run there."""
        return ["ip", "netns", "exec", self._of(host)]

    def unplug(self, host: int) -> None:
        """Its packets vanish, both ways, and nobody is told."""
        # At the router's end, which loses its routes with the link: a blackhole says nothing either.
        _ip("-n", self._router, "rule", "add", "to", self.ip(host), "blackhole")
        _ip("-n", self._router, "rule", "add", "from", self.ip(host), "blackhole")

    def plug(self, host: int) -> None:
        """As before."""
        _ip("-n", self._router, "rule", "del", "to", self.ip(host), "blackhole")
        _ip("-n", self._router, "rule", "del", "from", self.ip(host), "blackhole")

    def deafen(self, source: int, target: int) -> None:
        """What goes from the one to the other vanishes; the way back is open."""
        _ip("-n", self._router, "rule", "add", "from", self.ip(source), "to", self.ip(target), "blackhole")

    def part(self, one: int, other: int) -> None:
        """Neither of the two gets anything from the other any more."""
        self.deafen(one, other)
        self.deafen(other, one)

    def join(self, one: int, other: int) -> None:
        """They reach each other again."""
        for source, target in ((one, other), (other, one)):
            ends = ("from", self.ip(source), "to", self.ip(target))
            _ip("-n", self._router, "rule", "del", *ends, "blackhole")

    def link_down(self, host: int) -> None:
        """Its cable is pulled, and the host sees it."""
        _ip("-n", self._of(host), "link", "set", "eth0", "down")

    def close(self) -> None:
        for host in range(1, self._count + 1):
            _ip("netns", "del", self._of(host))
        _ip("netns", "del", self._router)


@contextmanager
def some_hosts(count: int) -> Iterator[Hosts]:
    hosts = Hosts(count)
    try:
        yield hosts
    finally:
        hosts.close()
