"""Agents that search text, to be run as nodes.

Start as many as you like, and then ask them:

    agentnet run workers:setup --listen tcp://127.0.0.1:7400
    agentnet run workers:setup --join tcp://127.0.0.1:7400
    python ask.py tcp://127.0.0.1:7400 'class \\w+' *.py
"""

import re
from dataclasses import dataclass

from agentnet import AgentNetworkManager


@dataclass
class Search:
    pattern: str
    text: str


@dataclass
class Hit:
    line: int
    text: str


def setup(net: AgentNetworkManager) -> None:
    # A name belongs to one agent of the network; askers find it by what it can.
    @net.agent(f"searcher-{net.node_id}", capabilities=["search"])
    def search(task: Search) -> list[Hit]:  # no async: it runs in a thread, and the node stays responsive
        lines = enumerate(task.text.splitlines(), 1)
        return [Hit(number, line) for number, line in lines if re.search(task.pattern, line)]
