"""The table of measured systems: where their roles are, what they need, and how fast they roughly are."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class System:
    """``module``: where its roles are.  ``pace``: operations a second on a small machine by kind of work,
    ``oneway``, ``fanout``, ``request`` (one at a time), ``flight`` (many at a time) and ``parts`` (of one
    answer); it sizes a run, nothing else.  A system sits out the kinds that it lacks."""

    name: str
    module: str
    pace: Mapping[str, int]
    packages: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    broker: bool = False

    def missing(self) -> str | None:
        """What has to be installed before this system can run; None if it can."""
        absent = [package for package in self.packages if find_spec(package) is None]
        absent += [program for program in self.programs if find_program(program) is None]
        return ", ".join(absent) or None


def find_program(name: str) -> str | None:
    """The program of the environment that runs this, or else of PATH."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


AGENTNET = System(
    "agentnet",
    "bench.agentnet_messages",
    {"oneway": 4_000_000, "fanout": 2_000_000, "request": 20_000, "flight": 300_000, "parts": 400_000},
)
PEERS = {
    peer.name: peer
    for peer in (
        System(
            "zmq",
            "bench.peers.zmq_blocking",
            {"oneway": 1_000_000, "request": 8_000},
            packages=("zmq",),
        ),
        System(
            "zmq-aio",
            "bench.peers.zmq_asyncio",
            {"oneway": 60_000, "request": 4_000, "flight": 10_000},
            packages=("zmq",),
        ),
        System(
            "nats",
            "bench.peers.nats_core",
            {"oneway": 200_000, "fanout": 200_000, "request": 3_000, "flight": 30_000},
            packages=("nats",),
            programs=("nats-server",),
            broker=True,
        ),
        System(
            "zenoh",
            "bench.peers.zenoh_peer",
            {"oneway": 700_000, "request": 4_000},
            packages=("zenoh",),
        ),
        System(
            "grpc",
            "bench.peers.grpc_aio",
            {"oneway": 10_000, "request": 1_500, "flight": 4_000, "parts": 10_000},
            packages=("grpc",),
        ),
        System(
            "asyncio",
            "bench.peers.streams",
            {"oneway": 250_000, "request": 20_000, "flight": 60_000},
            packages=("msgpack",),
        ),
        System(
            "erlang",
            "bench.peers.erlang_node",
            {"oneway": 500_000, "request": 10_000, "flight": 100_000},
            programs=("erl",),
        ),
    )
}
