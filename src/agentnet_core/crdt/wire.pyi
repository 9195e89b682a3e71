from typing_extensions import Buffer, disjoint_base

from agentnet_core.dots import CausalContext

def seen_in(data: Buffer, *, actors_max: int, runs_max: int) -> CausalContext | None: ...

@disjoint_base
class Incoming: ...
