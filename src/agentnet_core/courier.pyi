from typing import Any, Final

from typing_extensions import disjoint_base

from agentnet_core.posting import Posting

PASSING: Final[tuple[int, ...]]
AGAIN: Final[tuple[int, ...]]

@disjoint_base
class Courier(Posting):
    rng: Any
