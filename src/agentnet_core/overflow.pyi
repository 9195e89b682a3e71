from typing_extensions import disjoint_base

from agentnet_core.freight import Freight

@disjoint_base
class Overflow(Freight): ...
