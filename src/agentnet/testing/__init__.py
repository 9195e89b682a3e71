"""For tests of what you build on agentnet: a pytest plugin, and networks with faults for it.

    async def test_work_survives(network):
        a, b, c = await network.nodes("a", "b", "c")
        await b.register_agent("worker", handler=work)
        network.partition(["a"], ["b", "c"])
        await asyncio.sleep(30)
        network.heal()
        ...

The fixture gives an `agentnet.testing.Network`.  By default everything runs on virtual time from one
seed: real managers and your own handlers on an event loop where sleeps cost nothing, over simulated links.
With ``@pytest.mark.agentnet(real=True)`` or ``--agentnet-real`` it is nodes on loopback sockets.

    pip install agentnet-py[testing]
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from agentnet.testing.plugin import (
    agentnet_seed,
    network,
    pytest_addoption,
    pytest_configure,
    pytest_fixture_setup,
    pytest_generate_tests,
    pytest_pycollect_makeitem,
    pytest_runtest_makereport,
)

if TYPE_CHECKING:
    from agentnet.sim.network import Weather
    from agentnet.testing.base import Clock, Network, NodeProcess
    from agentnet.testing.loop import Stalled
    from agentnet.testing.real import RealNetwork
    from agentnet.testing.virtual import VirtualNetwork

# Importing them is what importing this, as pytest does in every run, must not cost.
_LAZY = {
    "Clock": "agentnet.testing.base",
    "Network": "agentnet.testing.base",
    "NodeProcess": "agentnet.testing.base",
    "RealNetwork": "agentnet.testing.real",
    "Stalled": "agentnet.testing.loop",
    "VirtualNetwork": "agentnet.testing.virtual",
    "Weather": "agentnet.sim.network",
}

__all__ = [
    "Clock",
    "Network",
    "NodeProcess",
    "RealNetwork",
    "Stalled",
    "VirtualNetwork",
    "Weather",
    "agentnet_seed",
    "network",
    "pytest_addoption",
    "pytest_configure",
    "pytest_fixture_setup",
    "pytest_generate_tests",
    "pytest_pycollect_makeitem",
    "pytest_runtest_makereport",
]

if not TYPE_CHECKING:  # which would take every name for one of this package

    def __getattr__(name: str) -> Any:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_LAZY[name]), name)
