"""What a simulated engine's commands and requests give back: the outcome, once, where a test can look."""

from __future__ import annotations

from typing import Any

from agentnet.sim.clock import Action
from agentnet_core.message import AgentMessage
from agentnet_core.recalls import Pending
from agentnet_core.records import Receipt


class Token(Pending):
    """What the engine hands back, once, with an outcome: None, a message or an error."""

    __slots__ = ("_cancelled", "done", "fate", "hint", "outcome", "then")

    def __init__(self) -> None:
        self.done = self._cancelled = False
        self.outcome: AgentMessage | Receipt | BaseException | None = None
        self.hint: Any = None
        self.then: Action | None = None
        """Called when it is settled."""
        self.fate: list[AgentMessage | BaseException | None] = []
        """What was learned, once, of a request that was given up."""

    def cancel(self) -> None:
        if not self.done:
            self._cancelled = True
            self.give_up()

    def learn(self, outcome: AgentMessage | BaseException | None) -> None:
        """What became of it since it was given up."""
        assert not self.fate, f"learned twice: {self.fate[0]!r}, then {outcome!r}"
        self.fate.append(outcome)

    def cancelled(self) -> bool:
        return self._cancelled

    def settle(self, outcome: AgentMessage | Receipt | BaseException | None, hint: Any) -> None:
        assert not self.done, f"settled twice: {self.outcome!r}, then {outcome!r}"
        self.done, self.outcome, self.hint = True, outcome, hint
        if self.then is not None:
            self.then()

    @property
    def error(self) -> BaseException | None:
        return self.outcome if isinstance(self.outcome, BaseException) else None

    @property
    def answer(self) -> bytes:
        """The payload of the answer; raises what the request failed with."""
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        assert isinstance(self.outcome, AgentMessage), f"no answer: {self.outcome!r}, done={self.done}"
        return self.outcome.payload
