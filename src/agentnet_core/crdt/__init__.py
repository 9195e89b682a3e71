"""Mergeable state, type by type. A new type is one file and one word in TYPES."""

from agentnet_core.crdt.base import Crdt, Delta, table_of
from agentnet_core.crdt.ewflag import EWFlag
from agentnet_core.crdt.gcounter import GCounter
from agentnet_core.crdt.lwwmap import LWWMap
from agentnet_core.crdt.lwwregister import LWWRegister
from agentnet_core.crdt.mvregister import MVRegister
from agentnet_core.crdt.ormap import ORMap
from agentnet_core.crdt.orset import ORSet
from agentnet_core.crdt.pncounter import PNCounter
from agentnet_core.crdt.table import Site
from agentnet_core.crdt.text import Text

TYPES = table_of(GCounter, PNCounter, LWWRegister, MVRegister, EWFlag, ORSet, LWWMap, ORMap, Text)

__all__ = [
    "TYPES",
    "Crdt",
    "Delta",
    "EWFlag",
    "GCounter",
    "LWWMap",
    "LWWRegister",
    "MVRegister",
    "ORMap",
    "ORSet",
    "PNCounter",
    "Site",
    "Text",
]
