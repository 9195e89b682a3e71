"""Tables for a terminal, of text that others chose: names, paths and words are shown, never obeyed.

In: columns, rows of text. Out: on stdout, as wide as the terminal. rich is imported when one is made.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def printable(text: str) -> str:
    """``text`` with nothing in it that a terminal would obey or a codec refuse.

    >>> printable("a\\x1b[2J\\udcff")
    'a\\ufffd[2J\\ufffd'
    """
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def make_table(title: str, *columns: str) -> Table:
    """A table whose columns stand to the right, as numbers do, but for those that begin with a dash."""
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", title_style="bold", min_width=len(title))
    for column in columns:
        table.add_column(column.removeprefix("-"), justify="left" if column.startswith("-") else "right")
    return table


def print_all(parts: Iterable[Table | str]) -> None:
    """Print tables and lines."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, str))
