from typing_extensions import disjoint_base

from agentnet_core.reception import Reception

@disjoint_base
class Leases(Reception): ...
