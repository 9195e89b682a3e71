from typing import Self, final

@final
class Window:
    def __new__(cls, sequence: int) -> Self: ...
