from typing_extensions import disjoint_base

@disjoint_base
class Envelope:
    @property
    def hops_left(self) -> int | None:
        """How many calls may still follow one another below this message; None if it is not told."""

    @property
    def calls_left(self) -> int | None:
        """How many calls may be open below this message at a time."""

    @property
    def path(self) -> list[int]:
        """Ids of the agents that asked each other, and at last for this."""

    @property
    def operation(self) -> str | None:
        """The id of the operation that it asks for."""

    @property
    def streams(self) -> bool:
        """Whether it is answered in parts, which outlive its link."""

    @property
    def stream(self) -> tuple[int, int] | None:
        """(what it is to a stream, how many of its parts went before), else None."""
