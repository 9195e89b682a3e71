"""Objects of the compiled classes that nobody initialised: they may be of no use, but they harm nobody.

A subclass that forgets `super().__init__`, or `cls.__new__(cls)`, gives one.  C code reads through their
fields, so an interpreter that ends with a signal is what would be seen.
"""

from __future__ import annotations

import subprocess
import sys

from commands import environment

from agentnet import AgentMessage

TOUCH = """
import importlib, inspect, itertools, sys, time

from agentnet import Agent, AgentMessage
from agentnet.runner import Runner
from agentnet_core.engine import Engine
from agentnet_core.framing import Arena
from agentnet_core.message import Origin
from agentnet_core.port import Port
from agentnet_core.session import Session

MODULES = ("framing", "message", "mailbox", "session", "outflow", "calls", "port", "engine")
PASSED_OVER = ("__class__", "__init_subclass__", "__subclasshook__", "__sizeof__", "__reduce_ex__")

session, port = Session(Arena(65536), False, False, "", None, 0), Port.__new__(Port, Engine.__new__(Engine))
values = (None, 0, b"", "x", AgentMessage.__new__(AgentMessage), Origin.__new__(Origin), session)

def swallow(call, *arguments):
    try:
        return call(*arguments)
    except Exception:
        return None

def objects():
    yield from (session, port, Runner.__new__(Runner, port, None, None, None, time.monotonic_ns))
    modules = [importlib.import_module(f"agentnet_core.{name}") for name in MODULES]
    classes = {value for module in modules for value in vars(module).values() if inspect.isclass(value)}
    for cls in [*classes, Agent, Runner]:
        if cls.__module__.startswith("agentnet") and not issubclass(cls, BaseException):
            for kind in (cls, swallow(type, "Sub", (cls,), {"__init__": lambda self, *_: None})):
                if kind is not None:
                    yield swallow(kind.__new__, kind)

for half in objects():
    for name in dir(half) if half is not None else ():
        found = swallow(getattr, half, name) if name not in PASSED_OVER else None
        print(type(half), name, file=sys.stderr)
        for count in range(4) if callable(found) else ():
            for arguments in itertools.product(values, repeat=count):
                swallow(found, *arguments)
"""


def test_a_half_made_object_harms_nobody() -> None:
    done = subprocess.run(
        (sys.executable, "-c", TOUCH), env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-500:]


def test_a_message_that_nobody_initialised_is_an_empty_one() -> None:
    class Mine(AgentMessage):
        def __init__(self, text: str) -> None: ...

    for message in (AgentMessage.__new__(AgentMessage), Mine("x")):
        assert (message.payload, message.from_node, message.message_id) == (b"", "", ":0:0")
        assert AgentMessage.decode(message.encode()).payload == b""
