from typing_extensions import Buffer

from agentnet_core.body import ADDRESSES_MAX as ADDRESSES_MAX
from agentnet_core.config import VERSION_MAX as VERSION_MAX

def read_plain(
    item: Buffer, names_max: int
) -> tuple[str, int, tuple[str, ...], int, int, tuple[str, ...], tuple[str, ...], int] | None: ...
