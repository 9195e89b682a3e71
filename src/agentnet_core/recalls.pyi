from typing import Any, Final

from typing_extensions import disjoint_base

from agentnet_core.outflow import Outflow

DEFECTS: Final[dict[str, int]]

@disjoint_base
class Pending:
    def cancelled(self) -> bool:
        """Whether nobody waits for it any more."""

    def take_told(self) -> tuple[Any, Any]:
        """(outcome, hint) that it is settled with, for drivers in Python."""

    def give_up(self) -> object:
        """Nobody waits for the answer: stop who works on it. Too late is fine: it has ended."""

@disjoint_base
class Recalls(Outflow):
    @property
    def pending(self) -> dict[int, Pending]: ...
    @property
    def recalled(self) -> dict[int, Pending]: ...
    recall_defect: int  # planted by a test, 0 none
