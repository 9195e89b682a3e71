"""What a node takes from the machine that it runs on: its clocks, its chance, its transports.

A manager gets one Host and asks nothing else for them, so that whoever hands it another one decides
when it is, what is drawn, and where bytes go; timers are those of the event loop that it runs on.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from agentnet.config import NetworkConfig
from agentnet.transport import Transport, open_transport


@dataclass(frozen=True, kw_only=True)
class Host:
    """The defaults are this machine's own."""

    monotonic_ns: Callable[[], int] = time.monotonic_ns
    """Never goes back, and goes on as the event loop's timers do."""
    time_ns: Callable[[], int] = time.time_ns
    """Nanoseconds since the epoch."""
    make_rng: Callable[[], random.Random] = random.Random
    """A source of chance of its own for each node that starts."""
    open_transport: Callable[[str, NetworkConfig], Transport] = open_transport
    """As `agentnet.transport.open_transport`: by scheme, once for each node."""


HOST = Host()
"""This machine."""
