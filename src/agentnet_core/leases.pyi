from typing_extensions import disjoint_base

from agentnet_core.reception import Reception

@disjoint_base
class Leases(Reception):
    def limit_leases(self) -> None: ...
    def lease_stats(self) -> dict[str, int]: ...
