from typing import final

from agentnet_core.member_record import NodeRecord
from agentnet_core.roster import SHARES as SHARES

DIAL_REASON_CHARS: int

def share_of(node_id: str) -> int: ...

@final
class Redial:
    dial: object
    failures: int
    next_ns: int
    reason: str
    def __init__(self, next_ns: int) -> None: ...
    def fail(self, reason: str, next_ns: int) -> None: ...

@final
class Node:
    record: NodeRecord
    since_ns: int
    heard_ns: int
    fresh: bool
    hung_up: bool
    linked: bool
    lost: bool
    plaintext: bool
    told: bool
    @property
    def redial(self) -> Redial: ...
    def __init__(self, record: NodeRecord, now_ns: int, next_ns: int) -> None: ...
